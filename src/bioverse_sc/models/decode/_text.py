"""Free text: the one loop that writes answers, of a batch and of a conversation.

``generate`` of transformers, with the constraints as a ``LogitsProcessor``, writes the same texts at 0.6 of the speed:
19 reasonings a second of CPU time, and this loop 31 (256 real cells, ``mini``, batches of 128, one thread, transformers
5.24, November 2026; ``benchmarks/decoding.py``). It keeps answers that have ended in the batch, and computes the logits
of every token.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from bioverse_sc.models._inject import inject, pad_prompts
from bioverse_sc.models.decode._constraints import GenesLeft, NamesLeft
from bioverse_sc.models.decode._reader import Reader, selected

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bioverse_sc.models import BioVerse
    from bioverse_sc.models._prompt import Segment
    from bioverse_sc.models.decode._choice import Decoding
    from bioverse_sc.models.decode._constraints import Constraint, ShownGenes, TypeNames

DROPPED_SHARE = 1 / 8
"""Answers that must have ended, as a share of those in work, before they leave the batch: leaving copies keys and
values."""


def _constraints(
    reader: Reader, decoding: Decoding, keys: Sequence[str], shown: ShownGenes | None, names: TypeNames | None
) -> list[Constraint]:
    """All that has a say in the next token, in the order in which it is asked. The reader may be narrowed to fit."""
    drawn = decoding.constraints(keys)
    if shown is None:
        return drawn
    gene_scores = reader.among(torch.nonzero(shown.is_gene).flatten())
    if not drawn:
        # to find the likeliest token that may be written needs few others; a draw is over the whole vocabulary
        reader.narrow(shown.writable)
    genes = GenesLeft(shown, gene_scores, reader.tokens)
    return [genes, *([] if names is None else [NamesLeft(names, genes, reader.tokens)]), *drawn]


class _Written(NamedTuple):
    """What one step of the loop has written."""

    rows: torch.Tensor
    """Numbers of the answers that were still in work, shape (answers,)."""
    tokens: torch.Tensor
    """The next token of each, shape (answers,)."""
    cache: Any
    """Of what was read for it: the prompts, and their answers but for these tokens."""


@torch.inference_mode()
def _write(
    model: BioVerse,
    reader: Reader,
    embedded: torch.Tensor,
    mask: torch.Tensor | None,
    constraints: Sequence[Constraint],
    max_new_tokens: int,
    cache: Any = None,
) -> Iterator[_Written]:
    """Write answers after embedded prompts, a token of each at a time.

    Whoever takes the steps may stop between two of them; going on writes to the cache of the last one.

    Parameters
    ----------
    model
        The model.
    reader
        Of its language model.
    embedded
        What is to be read first, shape (prompts, positions, width).
    mask
        0 where it is padding, on the left; ``None`` without any.
    constraints
        What has a say in the next token.
    max_new_tokens
        Tokens of an answer at most.
    cache
        Of what comes before.
    """
    limit = model.max_positions or np.inf
    ends = torch.tensor(model.end_ids, device=model.device)
    # of the answers in work: their numbers, and whether they have ended
    rows = torch.arange(len(embedded), device=model.device)  # (answers,)
    ended = torch.zeros_like(rows, dtype=torch.bool)  # (answers,)
    positions = None if mask is None else (mask.cumsum(dim=1) - 1).clamp(min=0)  # (prompts, positions)
    cache = reader.read(cache, positions, embedded, mask)
    for left_to_write in reversed(range(max_new_tokens)):
        # 1. score the tokens that may come
        scores = reader.logits().to(model.device)  # (answers, tokens)
        # 2. close those that may not
        for constraint in constraints:
            scores = constraint.close(scores)
        # 3. choose
        best = scores.argmax(dim=1)
        token = best if reader.tokens is None else reader.tokens[best]  # (answers,)
        yield _Written(rows, token, cache)
        ended |= torch.isin(token, ends)
        if mask is not None:
            ended |= mask.sum(dim=1) >= limit
        if ended.all() or not left_to_write:
            return
        # 4. note what was chosen
        for constraint in constraints:
            constraint.wrote(token)
        # 5. drop answers that have ended
        if ended.float().mean() >= DROPPED_SHARE:
            going_on = torch.nonzero(~ended).flatten()
            rows, token, ended = rows[going_on], token[going_on], ended[going_on]
            mask = None if mask is None else mask[going_on]
            cache = selected(cache, going_on)
            for constraint in constraints:
                constraint.keep(going_on)
        # 6. read on
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            positions = mask.sum(dim=1, keepdim=True) - 1
        cache = reader.read(cache, positions, model.embeddings(token[:, None]), mask)


@dataclass(frozen=True)
class Read:
    """What the language model has read of a conversation."""

    ids: list[int]
    """Token ids, with ``SLOT`` for soft tokens."""
    cache: Any
    """Its keys and values."""


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
    cache = read.cache if read is not None and n_read else None
    with torch.inference_mode():
        new = torch.tensor([ids[n_read:]], device=model.device)  # (1, positions)
        embedded = inject(model.embeddings, new, soft_tokens[:0] if n_read else soft_tokens)
        reader = Reader(model.language_model)
    drawn = decoding.constraints([key])
    so_far = list(ids)
    # one conversation has no padding, and needs no mask
    for step in _write(model, reader, embedded, None, drawn, decoding.max_new_tokens, cache):
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
    tokenized = [model.tokenize(prompt) for prompt in prompts]
    limit = model.max_positions or np.inf
    if (longest := max(len(prompt.ids) for prompt in tokenized)) > limit:
        msg = (
            f"The prompt has {longest} tokens; the language model reads {limit} at most. Ask a shorter question, show "
            "fewer entities, or pass retrieve=False."
        )
        raise ValueError(msg)
    batch = pad_prompts(tokenized, model.pad_id, left=True).to(model.device)  # ids and mask: (prompts, positions)
    embedded = inject(model.embeddings, batch.ids, soft_tokens.flatten(0, -2))  # (prompts, positions, width)
    mask = torch.ones_like(batch.ids) if batch.mask is None else batch.mask
    reader = Reader(model.language_model)
    keys = keys or [str(i) for i in range(len(prompts))]
    constraints = _constraints(reader, decoding, keys, constraint, names)
    answers = torch.full((len(prompts), decoding.max_new_tokens), model.pad_id, device=model.device)
    for n, step in enumerate(_write(model, reader, embedded, mask, constraints, decoding.max_new_tokens)):
        answers[step.rows, n] = step.tokens
    written = (list(takewhile(lambda token: token not in model.end_ids, row)) for row in answers.tolist())
    return [text.strip() for text in model.tokenizer.batch_decode(list(written), skip_special_tokens=True)]
