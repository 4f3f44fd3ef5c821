"""Proteins and molecules: data, splits, and the shapes of their small encoders."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import EsmConfig, EsmModel, EsmTokenizer, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from bioverse_sc.encoders.chemberta import ChembertaEncoder, canonical_smiles
from bioverse_sc.encoders.esm2 import Esm2Encoder

if TYPE_CHECKING:
    from collections.abc import Sequence

ESM_TOKENS = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>".split()
"""The vocabulary of ESM-2."""
SMILES_TOKEN = r"\[[^\]]+\]|Br|Cl|%\d\d|."
"""An atom with all that its brackets hold, or one sign."""


def protein_encoder(*, width: int, layers: int, heads: int, inner_width: int, seed: int) -> Esm2Encoder:
    """Make an untrained encoder of ESM-2's architecture that tells short motifs apart from the start.

    Each head of the first layer looks at one neighbour in the chain, and each inner unit of it answers to few motifs
    only. So the mean over the residues is a random projection of the motifs of a sequence, which a training of minutes
    does not find.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(ESM_TOKENS))
        tokenizer = EsmTokenizer(str(Path(folder) / "vocab.txt"))
    config = EsmConfig(
        vocab_size=len(ESM_TOKENS),
        mask_token_id=tokenizer.mask_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner_width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=1026,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
    )
    torch.manual_seed(seed)
    module = EsmModel(config, add_pooling_layer=False)
    with torch.no_grad():
        module.get_input_embeddings().weight.normal_(0, 1)
        first = module.encoder.layer[0]
        look_at_neighbours(first.attention.self, [-1, 1, -2, 2, -3, 3, -4, 4][:heads])
        for linear in (first.attention.self.value, first.attention.output.dense):
            linear.weight.normal_(0, width**-0.5)
        first.intermediate.dense.weight.normal_(0, 4 * width**-0.5)
        first.intermediate.dense.bias.fill_(-6)
        first.output.dense.weight.normal_(0, 3 * inner_width**-0.5)
    return Esm2Encoder(module, tokenizer)


def look_at_neighbours(attention: torch.nn.Module, offsets: list[int], sharpness: float = 60.0) -> None:
    """Set the biases of queries and keys so that, under rotary positions, head ``i`` looks at ``offsets[i]``."""
    size = attention.query.out_features // attention.num_attention_heads
    angles = 1.0 / 10000 ** (torch.arange(0, size, 2) / size)
    amplitude = (sharpness * size**0.5 / (size / 2)) ** 0.5
    for layer in (attention.query, attention.key):
        layer.weight *= 0.1
    for head, offset in enumerate(offsets):
        rows = slice(head * size, (head + 1) * size)
        attention.key.bias[rows] = amplitude * torch.cat([torch.ones(size // 2), torch.zeros(size // 2)])
        turned = angles * offset
        attention.query.bias[rows] = amplitude * torch.cat([turned.cos(), turned.sin()])


@dataclass(frozen=True)
class Molecules:
    """Molecules with a description; ``training`` marks those that the recipe trains on, the others measure."""

    table: pd.DataFrame
    """``smiles`` (canonical), ``description``."""
    training: np.ndarray
    more: pd.DataFrame
    """``smiles``, ``name``: molecules with a IUPAC name only."""


def read_molecules(shared: Path, *, held_out: float, seed: int) -> Molecules:
    """Read the molecules, keep a random share of the described ones out, and out of all that the encoder sees."""
    described = pd.read_csv(shared / "data/molecules/chebi20_validation.tsv", sep="\t")
    table = pd.DataFrame({"smiles": canonical_smiles(described["SMILES"]), "description": described["description"]})
    table = table.drop_duplicates("smiles").reset_index(drop=True)
    training = np.random.default_rng(seed).random(len(table)) >= held_out
    named = pd.read_csv(shared / "data/molecules/pubchem_smiles_iupac_12k.tsv", sep="\t")
    more = pd.DataFrame({"smiles": canonical_smiles(named["smiles"]), "name": named["iupac"]}).dropna()
    more = more[~more["smiles"].isin(set(table["smiles"]))].drop_duplicates("smiles").drop_duplicates("name")
    return Molecules(table, training, more.sort_values("smiles", ignore_index=True))


def molecule_encoder(smiles: Sequence[str], *, width: int, layers: int, heads: int, seed: int) -> ChembertaEncoder:
    """Make an untrained encoder of ChemBERTa's architecture, with a token for each atom or sign of the SMILES."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens = special + sorted({token for text in smiles for token in re.findall(SMILES_TOKEN, text)})
    fast = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Split(Regex(SMILES_TOKEN), "isolated")
    fast.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast, cls_token="<s>", sep_token="</s>", **dict(zip(names, special, strict=True))
    )
    config = RobertaConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=2050,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        type_vocab_size=1,
    )
    torch.manual_seed(seed)
    module = RobertaModel(config, add_pooling_layer=False)
    with torch.no_grad():
        # places further along than any stretch of training stay neutral
        module.embeddings.position_embeddings.weight.zero_()
    return ChembertaEncoder(module, tokenizer)


def fingerprint_targets(smiles: Sequence[str], *, bits: int) -> np.ndarray:
    """Morgan fingerprints of radius 2, zeros and ones of shape (molecules, bits)."""
    # an extra, which the benchmarks that read the recipe do without
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=bits)
    with rdBase.BlockLogs():
        rows = [generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(text)) for text in smiles]
    return np.array(rows, dtype=np.uint8)


@torch.no_grad()
def standardise(encoder: Esm2Encoder | ChembertaEncoder, vectors: np.ndarray) -> None:
    """Shift and scale the last layer norm so that each feature of these pooled vectors gets mean 0 and spread 1.

    Pooling is a mean, so it may come before or after. Raw vectors of different entities are nearly parallel.
    """
    last = encoder.module.encoder
    norm = last.emb_layer_norm_after if isinstance(encoder, Esm2Encoder) else last.layer[-1].output.LayerNorm
    mean, spread = (torch.from_numpy(x) for x in (vectors.mean(axis=0), vectors.std(axis=0) + 1e-6))
    norm.weight /= spread
    norm.bias -= mean
    norm.bias /= spread
    encoder.fingerprint = encoder.fingerprint_of_weights()
