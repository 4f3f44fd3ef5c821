"""Free text: the one loop that writes answers, of a batch and of a conversation.

``generate`` of transformers, with the constraints as a ``LogitsProcessor``, writes the same texts at 0.6 of the speed:
19 reasonings a second of CPU time, and this loop 31 (256 real cells, ``mini``, batches of 128, one thread, transformers
5.24, November 2026; ``benchmarks/decoding.py``). It keeps answers that have ended in the batch, and computes the logits
of every token.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from bioverse_sc._validation import check_positive
from bioverse_sc.models._constraints import GenesLeft, NamesLeft, ShownGenes, ShownTypes, TypeNames
from bioverse_sc.models._inject import inject, pad_prompts
from bioverse_sc.models._labels import label_log_probabilities
from bioverse_sc.models._reader import Reader, selected

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bioverse_sc.models import BioVerse
    from bioverse_sc.models._prompt import Segment

__all__ = [
    "Decoding",
    "ShownGenes",
    "ShownTypes",
    "TypeNames",
    "generate_text",
    "label_log_probabilities",
]

DROPPED_SHARE = 1 / 8
"""Answers that must have ended, as a share of those in work, before they leave the batch: leaving copies keys and
values."""


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

    def processors(self, keys: Sequence[str]) -> list[Any]:
        """What turns logits into a choice by their maximum; ``keys`` name the prompts, and seed their draws."""
        from transformers import NoRepeatNGramLogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

        new = [NoRepeatNGramLogitsProcessor(self.no_repeat_ngram_size)] if self.no_repeat_ngram_size else []
        if not self.temperature:
            return new
        kept = [TopPLogitsWarper(self.top_p)] if self.top_p < 1 else []
        return [*new, TemperatureLogitsWarper(float(self.temperature)), *kept, _Draw(self.seed, keys)]


class _Draw:
    """Noise after which the likeliest token is a draw (the Gumbel trick), so that each prompt has draws of its own.

    What is drawn for a prompt then does not depend on the prompts beside it.
    """

    def __init__(self, seed: int, keys: Sequence[str]) -> None:
        digests = (hashlib.sha256(f"{seed} {key}".encode()).digest() for key in keys)
        self.generators = [torch.Generator().manual_seed(int.from_bytes(d[:7], "big")) for d in digests]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the prompts."""
        self.generators = [self.generators[row] for row in rows]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Add the noise of each row."""
        uniform = torch.stack([torch.rand(scores.shape[1], generator=g, dtype=torch.float64) for g in self.generators])
        noise = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
        return scores + noise.to(scores)


class _Written(NamedTuple):
    """What one step of the loop has written."""

    rows: torch.Tensor
    """Numbers of the answers that were still in work."""
    tokens: torch.Tensor
    """The next token of each."""
    cache: Any
    """Of what was read for it: the prompts, and their answers but for these tokens."""


@torch.inference_mode()
def _write(
    model: BioVerse,
    embedded: torch.Tensor,
    mask: torch.Tensor | None,
    decoding: Decoding,
    keys: Sequence[str],
    *,
    constraint: ShownGenes | None = None,
    names: TypeNames | None = None,
    cache: Any = None,
) -> Iterator[_Written]:
    """Write answers after embedded prompts, a token of each at a time.

    Whoever takes the steps may stop between two of them; going on writes to the cache of the last one.

    Parameters
    ----------
    model, decoding, keys, constraint, names
        As for :func:`generate_text`.
    embedded
        What is to be read first, shape (prompts, positions, width).
    mask
        0 where it is padding, on the left; ``None`` without any.
    cache
        Of what comes before.
    """
    n_prompts = len(embedded)
    limit = model.max_positions or np.inf
    reader = Reader(model.language_model)
    drawn = decoding.processors(keys)
    left = names_left = None
    if constraint is not None:
        genes = reader.among(torch.nonzero(constraint.is_gene).flatten())
        if not drawn and reader.weight is not None:
            # to find the likeliest token that may be written needs few others; a draw is over the whole vocabulary
            reader.narrow(constraint.writable)
        left = GenesLeft(constraint, reader.tokens)
        names_left = None if names is None else NamesLeft(names, left, reader.tokens)
    # of the answers in work: their numbers, what they have written, and whether they have ended
    rows = torch.arange(n_prompts, device=model.device)
    written = torch.zeros((n_prompts, 0), dtype=torch.long, device=model.device)
    ended = torch.zeros_like(rows, dtype=torch.bool)
    ends = torch.tensor(model.end_ids, device=model.device)
    positions = None if mask is None else (mask.cumsum(dim=1) - 1).clamp(min=0)
    state, cache = reader.read(cache, positions, embedded, mask)
    for left_to_write in reversed(range(decoding.max_new_tokens)):
        scores = reader.logits(state).to(model.device)
        if left is not None:
            # a tokenizer may have no gene of one token
            wanted = nn.functional.pad(genes(state[left.pausing.to(state.device)]), (0, 1), value=-torch.inf)
            scores = left(scores, wanted.amax(dim=1).to(model.device))
        if names_left is not None:
            scores = names_left(scores)
        for process in drawn:
            scores = process(written, scores)
        best = scores.argmax(dim=1)
        token = best if reader.tokens is None else reader.tokens[best]
        written = torch.cat([written, token[:, None]], dim=1)
        yield _Written(rows, token, cache)
        ended |= torch.isin(token, ends)
        if mask is not None:
            ended |= mask.sum(dim=1) >= limit
        if ended.all() or not left_to_write:
            return
        if left is not None:
            left.wrote(best, written)
        if names_left is not None:
            names_left.wrote(token)
        if ended.float().mean() >= DROPPED_SHARE:
            kept = torch.nonzero(~ended).flatten()
            rows, written, token, ended = rows[kept], written[kept], token[kept], ended[kept]
            mask = None if mask is None else mask[kept]
            cache = selected(cache, kept)
            if left is not None:
                left.keep(kept)
            if names_left is not None:
                names_left.keep(kept.tolist())
            for process in drawn:
                if isinstance(process, _Draw):
                    process.keep(kept.tolist())
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            positions = mask.sum(dim=1, keepdim=True) - 1
        state, cache = reader.read(cache, positions, model.embeddings(token[:, None]), mask)


class Read(NamedTuple):
    """What the language model has read of a conversation."""

    ids: list[int]
    """Token ids, with :data:`~bioverse_sc.models._inject.SLOT` for soft tokens."""
    cache: Any


def write_on(
    model: BioVerse, ids: list[int], soft_tokens: torch.Tensor, decoding: Decoding, key: str, read: Read | None = None
) -> Iterator[tuple[int, Read]]:
    """Write the answer to a conversation: its tokens, with the one that ends it, and what was read for each.

    Parameters
    ----------
    model
        The model.
    ids
        Token ids of the conversation up to where the answer begins.
    soft_tokens
        Of all entities, shape (slots, width).
    decoding
        How the answer is chosen.
    key
        Name of the conversation and its turn, for the draws.
    read
        What was read of the conversation before; writing goes on from there, and its cache is written to. One of
        anything else is not used.
    """
    n_read = 0 if read is None else len(read.ids)
    if read is not None and (read.ids != ids[:n_read] or n_read == len(ids)):
        n_read = 0
    if len(ids) > n_read + 1 and getattr(model.language_model, "_is_stateful", False):
        # state-space layers go on by one token at a time, or begin anew
        n_read = 0
    with torch.inference_mode():
        new = torch.tensor([ids[n_read:]], device=model.device)
        embedded = inject(model.embeddings, new, soft_tokens[:0] if n_read else soft_tokens)
    so_far = list(ids)
    # one conversation has no padding, and needs no mask
    for step in _write(
        model, embedded, None, decoding, [key], cache=read.cache if read is not None and n_read else None
    ):
        token = int(step.tokens)
        yield token, Read(list(so_far), step.cache)
        so_far.append(token)


@torch.inference_mode()
def generate_text(
    model: BioVerse,
    prompts: Sequence[Sequence[Segment]],
    soft_tokens: torch.Tensor,
    decoding: Decoding,
    *,
    keys: Sequence[str] = (),
    constraint: ShownGenes | None = None,
    names: TypeNames | None = None,
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
    names
        Beside it, how the names of cell types may go on.

    Raises
    ------
    ValueError
        When a prompt is longer than what the language model reads. An answer ends there in any case.
    """
    tokens = [model.tokenize(prompt) for prompt in prompts]
    limit = model.max_positions or np.inf
    if (longest := max(len(of.ids) for of in tokens)) > limit:
        msg = (
            f"The prompt has {longest} tokens; the language model reads {limit} at most. Ask a shorter question, show "
            "fewer "
            "entities, or leave retrieve=True out."
        )
        raise ValueError(msg)
    batch = pad_prompts(tokens, model.pad_id, left=True).to(model.device)
    embedded = inject(model.embeddings, batch.ids, soft_tokens.flatten(0, -2))
    mask = torch.ones_like(batch.ids) if batch.mask is None else batch.mask
    keys = keys or [str(i) for i in range(len(prompts))]
    answers = torch.full((len(prompts), decoding.max_new_tokens), model.pad_id, device=model.device)
    for n, step in enumerate(_write(model, embedded, mask, decoding, keys, constraint=constraint, names=names)):
        answers[step.rows, n] = step.tokens
    written = (list(takewhile(lambda token: token not in model.end_ids, row)) for row in answers.tolist())
    return [text.strip() for text in model.tokenizer.batch_decode(list(written), skip_special_tokens=True)]
