"""Steps 1 and 2: an encoder for each modality, trained and saved; that of cells on simulated ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import sequences
import torch
from cells import gene_vectors, simulate
from data import type_targets

import bioverse_sc as bsc
from bioverse_sc.encoders.chemberta import ChembertaEncoder
from bioverse_sc.encoders.esm2 import Esm2Encoder
from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPTConfig, ScGPTEncoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from data import Data

    from bioverse_sc.train import TrainConfig

E = TypeVar("E", Esm2Encoder, ChembertaEncoder)


def cell_encoder(data: Data) -> ScGPTEncoder:
    """An scGPT-format encoder: masked values and types of simulated cells."""
    folder = data.work / "encoder"
    if folder.exists():
        return ScGPTEncoder.from_folder(folder)
    r = data.recipe
    vocabulary = GeneVocabulary(data.profiles.genes)
    shape = ScGPTConfig(
        embsize=r.encoder_width,
        nheads=4,
        d_hid=4 * r.encoder_width,
        nlayers=r.encoder_layers,
        # a linear head, so that types are linearly separable in the embedding
        n_layers_cls=1,
        dropout=0.0,
        max_seq_len=r.genes_per_cell + 1,
    )
    encoder = ScGPTEncoder.untrained(shape, vocabulary, seed=r.seed)
    with torch.no_grad():
        rows = encoder.module.encoder.embedding.weight
        rows *= 0.1
        rows[: len(data.profiles.genes)] = torch.from_numpy(gene_vectors(data.profiles, r.encoder_width))
    targets = type_targets(data.terms, smoothing=0.08)
    stages = [
        ("encoder", r.encoder, r.genes_at_first, 1),
        ("encoder_longer", r.encoder_longer, r.genes_per_cell, 6),
    ]
    for name, config, n_genes, seed in stages:
        cells = simulate(data.profiles, config.steps * config.batch_size, seed=r.seed + seed, balance=0.5)
        bsc.train.pretrain_encoder(
            encoder,
            encoder.tokenize(cells.counts, data.profiles.genes, max_length=n_genes + 1),
            config,
            types=data.type_of_profile[cells.profile],
            type_targets=targets,
            folder=data.work / f"{name}_training",
        )
    encoder.save(data.work / "encoder.new", dtype=torch.float16)
    (data.work / "encoder.new").rename(folder)
    return ScGPTEncoder.from_folder(folder)


def protein_encoder(data: Data) -> Esm2Encoder:
    """An ESM-2-format encoder: masked residues."""
    r = data.recipe

    def train() -> tuple[Esm2Encoder, list[str]]:
        encoder = sequences.protein_encoder(
            width=r.protein_width, layers=1, heads=10, inner_width=4 * r.protein_width, seed=r.seed
        )
        texts = data.memory["protein"].table["entity"].tolist()
        pretrain(encoder, texts, r.protein, data.work / "protein_encoder_training")
        return encoder, texts

    return standardised(data.work / "protein_encoder", Esm2Encoder, train, seed=r.seed)


def molecule_encoder(data: Data) -> ChembertaEncoder:
    """A ChemBERTa-format encoder: masked tokens and fingerprints."""
    r, table = data.recipe, data.molecules.table[data.molecules.training]

    def train() -> tuple[ChembertaEncoder, list[str]]:
        texts = [*table["smiles"], *data.molecules.more["smiles"]]
        encoder = sequences.molecule_encoder(texts, width=r.molecule_width, layers=2, heads=4, seed=r.seed)
        targets = sequences.fingerprint_targets(texts, bits=r.fingerprint_bits)
        pretrain(encoder, texts, r.molecule, data.work / "molecule_encoder_training", targets)
        return encoder, texts

    return standardised(data.work / "molecule_encoder", ChembertaEncoder, train, seed=r.seed)


def pretrain(
    encoder: Esm2Encoder | ChembertaEncoder,
    texts: list[str],
    config: TrainConfig,
    folder: Path,
    targets: np.ndarray | None = None,
) -> None:
    bsc.train.pretrain_sequence_encoder(encoder, texts, config, targets=targets, tokens_weight=8.0, folder=folder)


def standardised(folder: Path, kind: type[E], train: Callable[[], tuple[E, list[str]]], *, seed: int) -> E:
    """An encoder that was trained before, or a new one, with standardised vectors, in half precision, as it ships."""
    if not folder.exists():
        encoder, texts = train()
        sample = np.random.default_rng(seed).permutation(len(texts))[:4096]
        sequences.standardise(encoder, encoder.encode([texts[i] for i in sample]))
        fresh = folder.with_name(folder.name + ".new")
        encoder.save(fresh, dtype=torch.float16)
        fresh.rename(folder)
    return kind.from_folder(folder)
