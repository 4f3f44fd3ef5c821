"""Every number of the recipe of ``mini``."""

from __future__ import annotations

from dataclasses import dataclass, field

from bioverse_sc.train import LoraSettings, TrainConfig


@dataclass(frozen=True)
class Recipe:
    """How large everything is, and how long it trains."""

    seed: int = 0
    genes: int = 7000
    genes_per_cell: int = 256
    genes_at_first: int = 192
    """Read of a cell in most of the encoder's steps, which costs less."""
    encoder_width: int = 128
    encoder_layers: int = 2
    encoder: TrainConfig = TrainConfig(
        steps=1600, batch_size=128, learning_rate=1e-3, warmup_steps=80, mixed_precision="bf16", checkpoint_every=100
    )
    encoder_longer: TrainConfig = TrainConfig(
        steps=500, batch_size=128, learning_rate=5e-4, warmup_steps=40, mixed_precision="bf16", checkpoint_every=100
    )
    held_out: float = 0.1
    """Share of the proteins, and of the described molecules, that nothing is trained on."""
    protein_width: int = 320
    molecule_width: int = 128
    fingerprint_bits: int = 512
    protein: TrainConfig = TrainConfig(
        steps=200,
        batch_size=64,
        learning_rate=2e-4,
        max_tokens=130,
        mixed_precision="bf16",
        checkpoint_every=200,
        log_every=20,
    )
    molecule: TrainConfig = TrainConfig(
        steps=600,
        batch_size=64,
        learning_rate=2e-3,
        max_tokens=194,
        mixed_precision="bf16",
        checkpoint_every=200,
        log_every=20,
    )
    cells: int = 100_000
    balance: float = 0.7
    """How far the language model sees common types more often; see :func:`cells.simulate`."""
    reasoned_cells: int = 24_000
    strangers: int = 9_000
    """Cells of types that do not exist, with the label "unknown"."""
    lm_width: int = 192
    lm_layers: int = 4
    lm_heads: int = 4
    min_word_count: int = 3
    projector_widths: dict[str, int] = field(default_factory=lambda: {"rna": 384, "protein": 2048, "molecule": 1024})
    """Hidden widths; a narrow projector of proteins does not carry over to unseen ones."""
    tokens_per_entity: int = 4
    """Soft tokens of a protein or a molecule; a cell has one."""
    no_repeat_ngram_size: int = 8
    """Without it two fifths of the descriptions of molecules never end. A quarter of the true ones repeat that many
    tokens."""
    text: TrainConfig = TrainConfig(
        steps=1400, batch_size=64, learning_rate=2e-3, mixed_precision="bf16", checkpoint_every=100, max_tokens=700
    )
    copying: TrainConfig = TrainConfig(
        steps=300, batch_size=64, learning_rate=1.5e-3, mixed_precision="bf16", checkpoint_every=50, max_tokens=800
    )
    reading: TrainConfig = TrainConfig(
        steps=400, batch_size=64, learning_rate=1e-3, mixed_precision="bf16", checkpoint_every=50, max_tokens=800
    )
    cards: TrainConfig = TrainConfig(
        steps=400,
        batch_size=64,
        learning_rate=1e-3,
        weight_decay=0.0,
        mixed_precision="bf16",
        checkpoint_every=50,
        max_tokens=800,
    )
    text_shares: dict[str, float] = field(default_factory=lambda: {"cells": 0.4, "proteins": 0.3, "molecules": 0.3})
    contrastive: TrainConfig = TrainConfig(steps=4000, batch_size=512, learning_rate=1e-3, weight_decay=0.05)
    sequence_contrastive: TrainConfig = TrainConfig(steps=3000, batch_size=512, learning_rate=1e-3, weight_decay=0.05)
    label: TrainConfig = TrainConfig(
        steps=1000, batch_size=256, learning_rate=1.5e-3, mixed_precision="bf16", checkpoint_every=100
    )
    describe: TrainConfig = TrainConfig(
        steps=700, batch_size=160, learning_rate=1.5e-3, mixed_precision="bf16", checkpoint_every=100, max_tokens=700
    )
    answers: TrainConfig = TrainConfig(
        steps=500, batch_size=128, learning_rate=1e-3, mixed_precision="bf16", checkpoint_every=50, max_tokens=800
    )
    lora: LoraSettings = LoraSettings(rank=32, alpha=64)
