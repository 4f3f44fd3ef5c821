"""How the next token is chosen: the likeliest one, or a draw, and no run of tokens twice."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from bioverse_sc._validation import check_positive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.models import BioVerse
    from bioverse_sc.models.decode._constraints import Constraint


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
    no_repeat_ngram_size: int | None = None
    """No run of so many tokens is written twice in an answer; 0 and ``None`` do not look."""

    def __post_init__(self) -> None:
        check_positive(self, "max_new_tokens")
        if not self.temperature >= 0:
            msg = f"temperature is {self.temperature}; expected 0 (always the likeliest token) or more."
            raise ValueError(msg)
        if not 0 < self.top_p <= 1:
            msg = f"top_p is {self.top_p}; expected more than 0 and at most 1."
            raise ValueError(msg)
        size = self.no_repeat_ngram_size
        if size is not None and (not isinstance(size, int) or size < 0):
            msg = f"no_repeat_ngram_size is {size}; expected a number of tokens, or 0 to allow all repeats."
            raise ValueError(msg)

    def of_model(self, model: BioVerse) -> Decoding:
        """What the model's configuration says where nothing was chosen."""
        if self.no_repeat_ngram_size is not None:
            return self
        return replace(self, no_repeat_ngram_size=model.config.no_repeat_ngram_size)

    def constraints(self, keys: Sequence[str]) -> list[Constraint]:
        """What makes a choice of the highest score; ``keys`` name the prompts, and seed their draws."""
        size = self.no_repeat_ngram_size
        repeats: list[Constraint] = [_NoRepeat(size, len(keys))] if size else []
        return [*repeats, _Draw(self, keys)] if self.temperature else repeats


class _NoRepeat:
    """No run of so many tokens is written twice in an answer."""

    def __init__(self, size: int, n_answers: int) -> None:
        from transformers import NoRepeatNGramLogitsProcessor

        self.process = NoRepeatNGramLogitsProcessor(size)
        self.written = torch.zeros((n_answers, 0), dtype=torch.long)  # (answers, tokens so far)

    def close(self, scores: torch.Tensor) -> torch.Tensor:
        """Shut tokens that would end a run which is there already."""
        return self.process(self.written, scores)

    def wrote(self, tokens: torch.Tensor) -> None:
        """Take note of what was written."""
        self.written = torch.cat([self.written.to(tokens), tokens[:, None]], dim=1)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the answers."""
        self.written = self.written[rows]


class _Draw:
    """Noise after which the likeliest token is a draw (the Gumbel trick), so that each prompt has draws of its own.

    What is drawn for a prompt then does not depend on the prompts beside it.
    """

    def __init__(self, decoding: Decoding, keys: Sequence[str]) -> None:
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        nucleus = [TopPLogitsWarper(decoding.top_p)] if decoding.top_p < 1 else []
        self.warpers = [TemperatureLogitsWarper(float(decoding.temperature)), *nucleus]
        digests = (hashlib.sha256(f"{decoding.seed} {key}".encode()).digest() for key in keys)
        self.generators = [torch.Generator().manual_seed(int.from_bytes(d[:7], "big")) for d in digests]

    def close(self, scores: torch.Tensor) -> torch.Tensor:
        """Shut tokens outside of the nucleus, and add the noise of each answer."""
        nothing = torch.zeros((len(scores), 0), dtype=torch.long, device=scores.device)
        for warp in self.warpers:
            scores = warp(nothing, scores)
        uniform = torch.stack([torch.rand(scores.shape[1], generator=g, dtype=torch.float64) for g in self.generators])
        noise = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))  # (answers, tokens)
        return scores + noise.to(scores)

    def wrote(self, tokens: torch.Tensor) -> None:
        """A draw does not depend on what was written."""

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the answers."""
        self.generators = [self.generators[row] for row in rows.tolist()]
