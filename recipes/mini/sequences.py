"""Proteins and molecules: data, splits, and the shapes of their small encoders."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import EsmConfig, EsmModel, EsmTokenizer

from bioverse_sc.encoders.esm2 import Esm2Encoder

ESM_TOKENS = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>".split()
"""The vocabulary of ESM-2."""
SMILES_TOKEN = r"\[[^\]]+\]|Br|Cl|%\d\d|."
"""An atom with all that its brackets hold, or one sign."""


@dataclass(frozen=True)
class Proteins:
    """Proteins with their product; ``training`` marks those that the recipe trains on, the others measure."""

    table: pd.DataFrame
    """``sequence``, ``product``, ``ec``, ``source``."""
    training: np.ndarray


def read_proteins(shared: Path, *, held_out: float, seed: int) -> Proteins:
    """Read the proteins and keep a random share out."""
    table = pd.read_csv(shared / "data/proteins/protein_product.tsv.gz", sep="\t").drop_duplicates("sequence")
    # a stop inside is no protein
    table = table[~table["sequence"].str.rstrip("*").str.contains("*", regex=False)].reset_index(drop=True)
    training = np.random.default_rng(seed).random(len(table)) >= held_out
    return Proteins(table, training)


def protein_encoder(*, width: int, layers: int, heads: int, inner_width: int, seed: int) -> Esm2Encoder:
    """Make an untrained encoder of ESM-2's architecture.

    Each head of the first layer starts by looking at one neighbour in the chain, so that short motifs need not be found by chance.
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
        look_at_neighbours(module.encoder.layer[0].attention.self, [-1, 1, -2, 2, -3, 3, -4, 4][:heads])
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
