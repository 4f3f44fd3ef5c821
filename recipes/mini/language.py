"""The small language model of ``mini``: its tokenizer, its text, and what it answers."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bioverse_sc.facts import listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bioverse_sc.ontology import CellOntology

# a word or symbol with its inner hyphens (CD8-positive, HLA-DRA), or one other sign, each with the space before it
WORD = r" ?[A-Za-z0-9]+(?:[-.'][A-Za-z0-9]+)*\+?| ?[^\sA-Za-z0-9]|\s"
EOS, PAD = "<|end|>", "<|pad|>"


def build_tokenizer(texts: Iterable[str], genes: Sequence[str], *, min_count: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer with a token for every frequent word and for every gene, and bytes for the rest.

    A unigram model over bytes: a whole word scores better than any way of spelling it, and nothing is unknown.
    """
    words = Counter(w for text in texts for w in re.findall(WORD, text))
    known = {w: n for w, n in words.items() if n >= min_count and len(w) > 1}
    for gene in genes:
        known.setdefault(" " + gene, 1)
    # pieces of words, for words that the text does not have
    pieces: Counter[str] = Counter()
    for word, n in words.items():
        for size in (2, 3, 4):
            pieces.update({word[i : i + size]: n for i in range(len(word) - size + 1)})
    for piece, _ in pieces.most_common(1500):
        known.setdefault(piece, 0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    total = sum(known.values())
    scored = {EOS: 0.0, PAD: 0.0} | dict.fromkeys(alphabet, -30.0)
    for word, n in sorted(known.items(), key=lambda item: (-item[1], item[0])):
        token = to_bytes.pre_tokenize_str(word)[0][0]
        scored[token] = -20.0 if n == 0 else math.log(n / total) / 10 - 1.0
    tokenizer = Tokenizer(models.Unigram(list(scored.items()), byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORD), "isolated"), to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD)


def build_language_model(
    tokenizer: PreTrainedTokenizerFast,
    *,
    width: int,
    layers: int,
    heads: int,
    gene_vectors: dict[str, np.ndarray],
    seed: int,
) -> LlamaForCausalLM:
    """Make a small Llama; the rows of genes start from their vectors, so that genes of one type lie together."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=int(width * 8 / 3) // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        attention_bias=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    rows = model.get_input_embeddings().weight
    with torch.no_grad():
        # words far apart, so that what is read can be written again; see start_to_copy
        rows.normal_(0, 0.1)
        spread = float(rows.std())
        for gene, vector in gene_vectors.items():
            ids = tokenizer.encode(" " + gene, add_special_tokens=False)
            if len(ids) == 1:
                start = torch.from_numpy(np.asarray(vector[:width], dtype=np.float32))
                rows[ids[0], : len(start)] = spread * start / start.std()
    start_to_copy(model, seed=seed)
    return model


@torch.no_grad()
def start_to_copy(model: LlamaForCausalLM, *, seed: int, sharpness: float = 3.0, gain: float = 4.0) -> None:
    """Let two heads of the first two layers start as induction heads, which then train with all else.

    In the first layer one head looks at the word before and one at the word before that, and both write what they read
    into parts of the residual stream of their own. In the second layer one head looks for a place after the current
    word, one for a place after the previous word and a comma, and both write the word that they find there. So the
    model can repeat what its prompt holds from the start; a model of this size does not find that by itself in the
    steps that it gets (Olsson et al., In-context learning and induction heads, 2022).
    """
    config = model.config
    width, size = config.hidden_size, config.hidden_size // config.num_attention_heads
    frequencies = 1.0 / 10000 ** (torch.arange(0, size, 2) / size)
    # pairs of dimensions that rotary positions hardly turn: what matches does so at any distance
    slow = torch.nonzero(frequencies < 0.01).flatten()
    slow = torch.cat([slow, slow + size // 2])
    n = len(slow)
    turned = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)))[0].T
    word, one_before, two_before, written = (
        turned[:n],
        turned[n : 2 * n],
        turned[2 * n : 3 * n],
        turned[3 * n : 3 * n + size],
    )
    scale = float(model.get_input_embeddings().weight.std())
    amplitude = (60 * size**0.5 / (size / 2)) ** 0.5
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    for head, (offset, place) in enumerate([(-1, one_before), (-2, two_before)]):
        rows = slice(head * size, (head + 1) * size)
        first.q_proj.weight[rows] *= 0.1
        first.k_proj.weight[rows] *= 0.1
        first.k_proj.bias[rows] = amplitude * torch.cat([torch.ones(size // 2), torch.zeros(size // 2)])
        first.q_proj.bias[rows] = amplitude * torch.cat([(frequencies * offset).cos(), (frequencies * offset).sin()])
        first.v_proj.weight[rows] = 0
        first.v_proj.weight[head * size : head * size + n] = word
        first.o_proj.weight[:, rows] = 0
        first.o_proj.weight[:, head * size : head * size + n] = scale * place.T
    for head, (query, key) in enumerate([(word, one_before), (one_before, two_before)]):
        rows = slice(head * size, (head + 1) * size)
        for layer, reads in ((second.q_proj, query), (second.k_proj, key)):
            layer.weight[rows] = 0
            layer.weight[slow + head * size] = sharpness * reads
        second.v_proj.weight[rows] = written
        second.o_proj.weight[:, rows] = scale * gain * written.T


def article(name: str) -> str:
    """'a' or 'an'."""
    return "an" if re.match(r"[aeioAEIO]|L\d|NK|MAIT|SST|FC", name) and not re.match(r"eu|one|uni", name, re.I) else "a"


def knowledge_texts(ontology: CellOntology, gene_names: dict[str, str], *, terms: Sequence[str]) -> list[str]:
    """Statements about types and genes: definitions, kinds, synonyms, markers both ways, gene names."""
    wanted = set().union(*(ontology.ancestors(t) for t in terms)) | set(ontology.markers)
    texts = []
    marks: dict[str, list[tuple[int, str]]] = {}
    for term in sorted(wanted & set(ontology.names)):
        name = ontology.names[term]
        if ontology.definitions[term]:
            texts.append(f"{name}: {ontology.definitions[term]}")
        for parent in ontology.parents[term]:
            texts.append(f"{article(name).capitalize()} {name} is a kind of {ontology.names[parent]}.")
        if ontology.synonyms[term]:
            texts.append(f"The {name} is also called {listed(ontology.synonyms[term][:4])}.")
        genes = list(ontology.markers.get(term, ()))
        for start in range(0, min(len(genes), 40), 8):
            texts.append(f"Markers of the {name} are {listed(genes[start : start + 8])}.")
        for gene in genes:
            marks.setdefault(gene, []).append((ontology.markers[term][gene], name))
    for gene, types in sorted(marks.items()):
        best = sorted(types, key=lambda pair: (-pair[0], pair[1]))
        texts.append(f"{gene} is a marker of the {listed([name for _, name in best[:5]])}.")
        sources, name = best[0]
        texts.append(f"{gene} marks the {name} according to {sources} {'source' if sources == 1 else 'sources'}.")
    texts += [f"{gene} encodes {name}." for gene, name in sorted(gene_names.items())]
    return texts
