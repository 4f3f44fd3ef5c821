"""Decoding: probabilities of labels under a trie, and free text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bioverse_sc._validation import check_positive
from bioverse_sc.models._inject import inject, pad_prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.models import BioVerse
    from bioverse_sc.models._prompt import Segment

PRUNED_BELOW = -7.0
"""A prefix this far (in log-probability) below a cell's best one is dropped: less than a thousandth of its mass."""


@dataclass
class TrieNode:
    """A prefix of labels: the next tokens, and the label that ends here."""

    children: dict[int, TrieNode] = field(default_factory=dict)
    label: int | None = None


def build_trie(sequences: Sequence[Sequence[int]]) -> TrieNode:
    """Make a trie of token sequences; the label number is at the node of its last token."""
    root = TrieNode()
    for number, sequence in enumerate(sequences):
        node = root
        for token in sequence:
            node = node.children.setdefault(token, TrieNode())
        if node.label is not None:
            msg = "Two labels are spelled with the same tokens."
            raise ValueError(msg)
        node.label = number
    return root


@torch.inference_mode()
def label_log_probabilities(
    model: BioVerse, prompt: Sequence[Segment], soft_tokens: torch.Tensor, labels: Sequence[str]
) -> np.ndarray:
    """Log-probability of each label as the answer to a prompt, by the language model, over a trie of the labels.

    All labels are scored along their shared prefixes, level by level; a prefix below :data:`PRUNED_BELOW` of the best one of
    that cell is dropped. What is left is scaled to sum to one over the label set.

    Parameters
    ----------
    model
        The model.
    prompt
        Ends with an open answer; has one entity.
    soft_tokens
        Shape (cells, n_tokens, width).
    labels
        The label set.

    Returns
    -------
    Log-probabilities, shape (cells, labels); ``-inf`` for dropped labels.
    """
    trie = build_trie([model.answer_ids(label) for label in labels])
    n_cells = len(soft_tokens)
    tokens = model.tokenize(prompt)
    ids = torch.tensor([tokens.ids] * n_cells, device=model.device)
    embedded = inject(model.embeddings, ids, soft_tokens.flatten(0, 1))
    # all prompts are the same but for the soft token, so there is no padding and no mask
    out = model.language_model(inputs_embeds=embedded, use_cache=True, logits_to_keep=1)
    found = np.full((n_cells, len(labels)), -np.inf)
    cells = np.arange(n_cells)
    nodes = [trie] * n_cells
    scores = np.zeros(n_cells)
    best = np.full(n_cells, -np.inf)
    while len(cells):
        log_p = torch.log_softmax(out.logits[:, -1].float(), dim=-1)
        parents: list[int] = []
        next_tokens: list[int] = []
        for i, node in enumerate(nodes):
            parents += [i] * len(node.children)
            next_tokens += node.children
        chosen = log_p[torch.tensor(parents, device=log_p.device), torch.tensor(next_tokens, device=log_p.device)]
        next_scores = scores[parents] + chosen.double().cpu().numpy()
        best[:] = -np.inf
        np.maximum.at(best, cells[parents], next_scores)
        best = np.maximum(best, found.max(axis=1))
        survivors = []
        for j, (parent, token, score) in enumerate(zip(parents, next_tokens, next_scores, strict=True)):
            cell = cells[parent]
            if score < best[cell] + PRUNED_BELOW:
                continue
            child = nodes[parent].children[token]
            if child.label is not None:
                found[cell, child.label] = score
            if child.children:
                survivors.append((j, parent, token, child))
        if not survivors:
            break
        picked, kept_parents, kept_tokens, kept_nodes = (list(column) for column in zip(*survivors, strict=True))
        scores, cells, nodes = next_scores[picked], cells[kept_parents], kept_nodes
        cache = out.past_key_values
        cache.batch_select_indices(torch.tensor(kept_parents, device=model.device))
        out = model.language_model(
            input_ids=torch.tensor(kept_tokens, device=model.device).unsqueeze(-1),
            past_key_values=cache,
            use_cache=True,
        )
    return found - np.logaddexp.reduce(found, axis=1, keepdims=True)


class ShownGenes:
    """A constraint of decoding: of all gene symbols, only those that the prompt shows may be written, each once.

    It is for tokenizers with a token for each symbol; a symbol of several tokens is not constrained. Which of the shown genes
    are written, in what order and in what words stays with the language model.

    Parameters
    ----------
    model
        Gives the tokenizer.
    symbols
        All gene symbols.
    shown
        Genes that each prompt shows.
    """

    def __init__(self, model: BioVerse, symbols: Sequence[str], shown: Sequence[Sequence[str]]) -> None:
        vocabulary = model.language_model.get_output_embeddings().weight.shape[0]
        spelled = model.tokenizer([" " + symbol for symbol in symbols], add_special_tokens=False)["input_ids"]
        token = {symbol: ids[0] for symbol, ids in zip(symbols, spelled, strict=True) if len(ids) == 1}
        self.is_gene = torch.zeros(vocabulary, dtype=torch.bool, device=model.device)
        self.is_gene[list(token.values())] = True
        self.closed = self.is_gene.repeat(len(shown), 1)
        for row, genes in enumerate(shown):
            self.closed[row, [token[gene] for gene in genes if gene in token]] = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Forbid the symbols that are not shown, and those that have been written."""
        written = torch.zeros_like(self.closed).scatter_(1, input_ids, value=True)
        return scores.masked_fill(self.closed | (written & self.is_gene), -torch.inf)


@dataclass(frozen=True)
class Decoding:
    """How an answer is chosen from the language model's probabilities."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 takes the likeliest token each time; 1 draws by the model's own probabilities."""
    top_p: float = 1.0
    """Draws from the likeliest tokens that together have this probability."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        check_positive(self, "max_new_tokens")
        if not self.temperature >= 0:
            msg = f"temperature is {self.temperature}; expected 0 (always the likeliest token) or more."
            raise ValueError(msg)
        if not 0 < self.top_p <= 1:
            msg = f"top_p is {self.top_p}; expected more than 0 and at most 1."
            raise ValueError(msg)

    def processors(self, keys: Sequence[str]) -> list[Any]:
        """What turns logits into a choice by their maximum; ``keys`` name the prompts, and seed their draws."""
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        if not self.temperature:
            return []
        kept = [TopPLogitsWarper(self.top_p)] if self.top_p < 1 else []
        return [TemperatureLogitsWarper(float(self.temperature)), *kept, _Draw(self.seed, keys)]


class _Draw:
    """Noise after which the likeliest token is a draw (the Gumbel trick), so that each prompt has draws of its own.

    What is drawn for a prompt then does not depend on the prompts beside it.
    """

    def __init__(self, seed: int, keys: Sequence[str]) -> None:
        digests = (hashlib.sha256(f"{seed} {key}".encode()).digest() for key in keys)
        self.generators = [torch.Generator().manual_seed(int.from_bytes(d[:7], "big")) for d in digests]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Add the noise of each row."""
        uniform = torch.stack([torch.rand(scores.shape[1], generator=g, dtype=torch.float64) for g in self.generators])
        noise = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
        return scores + noise.to(scores)


@torch.inference_mode()
def generate_text(
    model: BioVerse,
    prompts: Sequence[Sequence[Segment]],
    soft_tokens: torch.Tensor,
    decoding: Decoding,
    *,
    keys: Sequence[str] = (),
    constraint: ShownGenes | None = None,
) -> list[str]:
    """Write the open answers of prompts, in one batch.

    Parameters
    ----------
    model
        The model.
    prompts
        Each ends with an open answer.
    soft_tokens
        Soft tokens of all entities in the order of the prompts, shape (slots, width) or (entities, n_tokens, width).
    decoding
        How the answers are chosen.
    keys
        A name for each prompt, for its draws; its number by default.
    constraint
        Which gene symbols each answer may name.
    """
    from transformers import LogitsProcessorList

    tokens = [model.tokenize(prompt) for prompt in prompts]
    batch = pad_prompts(tokens, model.pad_id, left=True).to(model.device)
    embedded = inject(model.embeddings, batch.ids, soft_tokens.flatten(0, -2))
    drawn = decoding.processors(keys or [str(i) for i in range(len(prompts))])
    written = model.language_model.generate(
        inputs_embeds=embedded,
        attention_mask=batch.mask,
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,
        eos_token_id=model.end_ids,
        pad_token_id=model.pad_id,
        logits_processor=LogitsProcessorList([*([constraint] if constraint else []), *drawn]),
    )
    return [text.strip() for text in model.tokenizer.batch_decode(written, skip_special_tokens=True)]
