"""Settings of a training run, saved beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import ConfigDict, with_config

from bioverse_sc._validation import check_dropout, check_positive

STRICT = ConfigDict(extra="forbid")
"""In a configuration file a key that is misspelled is an error."""


@with_config(STRICT)
@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train. AdamW, linear warm-up, cosine decay to a tenth."""

    steps: int
    batch_size: int = 64
    """Examples of a step, over all processes and micro-batches."""
    micro_batch_size: int | None = None
    """Examples in memory at a time on each process; gradients are accumulated over the rest. All of them by default.

    A step is padded little either way: by default its examples are of about one length; with this, each micro-batch is,
    and the step mixes long and short ones, so that each step trains all that a set of prompts teaches.
    """
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    mixed_precision: Literal["no", "bf16"] = "no"
    gradient_checkpointing: bool = False
    """Compute the language model's activations again instead of keeping them: less memory, about a third slower."""
    max_tokens: int = 512
    """Longest example."""
    too_long: Literal["error", "cut"] = "error"
    """What happens to a longer one; ``"cut"`` takes from the end of its last answer, never from soft tokens."""
    seed: int = 0
    log_every: int = 25
    checkpoint_every: int = 250
    validate_every: int | None = None
    """As often as checkpoints by default."""
    patience: int | None = None
    """Stop after so many validations in a row without a lower loss. Never by default."""
    tensorboard: bool = False
    """Also write TensorBoard's event files (``pip install 'bioverse-sc[train]'``)."""

    def __post_init__(self) -> None:
        check_positive(self, "steps", "batch_size", "learning_rate", "max_grad_norm", "max_tokens")
        check_positive(self, "log_every", "checkpoint_every", "micro_batch_size", "validate_every", "patience")
        for name in ("warmup_steps", "weight_decay"):
            if getattr(self, name) < 0:
                msg = f"{name} is {getattr(self, name)}; expected 0 or more."
                raise ValueError(msg)
        for name, choices in (("mixed_precision", ("no", "bf16")), ("too_long", ("error", "cut"))):
            if getattr(self, name) not in choices:
                msg = f"{name} is {getattr(self, name)!r}; expected {choices[0]!r} or {choices[1]!r}."
                raise ValueError(msg)

    def micro_batches(self, n_processes: int) -> int:
        """How many micro-batches each process sees in a step."""
        size = self.micro_batch_size or -(-self.batch_size // n_processes)
        if self.batch_size % (size * n_processes):
            msg = (
                f"batch_size is {self.batch_size}; expected a multiple of {size * n_processes}, {n_processes} "
                f"{'process' if n_processes == 1 else 'processes'} with {size} examples at a time."
            )
            raise ValueError(msg)
        return self.batch_size // (size * n_processes)


@with_config(STRICT)
@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters of the language model (Hu et al., 2021), by peft."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] | str = "all-linear"
    """``"all-linear"``; ``"attention"``, the linear layers inside of attention; or names of modules."""
    last_layers: int | None = None
    """Only so many of the language model's last layers get adapters, which is faster; all of them by default."""

    def __post_init__(self) -> None:
        check_positive(self, "rank", "alpha", "last_layers")
        check_dropout(self.dropout)
