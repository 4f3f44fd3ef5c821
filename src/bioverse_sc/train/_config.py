"""Settings of a training run, saved beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train. AdamW, linear warm-up, cosine decay to a tenth."""

    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    mixed_precision: Literal["no", "bf16"] = "no"
    seed: int = 0
    log_every: int = 25
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "max_grad_norm", "log_every", "checkpoint_every"):
            if getattr(self, name) <= 0:
                msg = f"{name} is {getattr(self, name)}; expected a positive number."
                raise ValueError(msg)


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters of the language model (Hu et al., 2021), by peft."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] | str = "all-linear"
