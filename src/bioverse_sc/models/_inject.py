"""From prompts to input embeddings: soft tokens placed by position, and what is in the loss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import torch

from bioverse_sc.models._prompt import Answer, Entity, Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from bioverse_sc.models._chat_format import ChatFormat
    from bioverse_sc.models._prompt import Segment

SLOT = -1
"""Stands for a soft token among token ids."""
IGNORED = -100
"""Target that is not in the loss."""


@dataclass(frozen=True)
class TokenizedPrompt:
    """Token ids with ``SLOT`` where soft tokens go, the targets, and the modality of each entity in order."""

    ids: list[int] | np.ndarray
    targets: list[int] | np.ndarray
    mods: list[str]


class RememberingTokenizer:
    """Encodes a text once, for many prompts that share texts.

    Parameters
    ----------
    tokenizer
        The language model's.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.encode = lru_cache(maxsize=10_000)(tokenizer.encode)
        self.convert_tokens_to_ids = lru_cache(tokenizer.convert_tokens_to_ids)
        self.eos_token_id = tokenizer.eos_token_id


def tokenize_prompt(
    tokenizer: PreTrainedTokenizerBase | RememberingTokenizer,
    segments: Sequence[Segment],
    n_tokens: dict[str, int],
    chat: ChatFormat | None = None,
) -> TokenizedPrompt:
    """Turn segments into ids, slots and targets.

    Only answers are in the loss, their end token included. An open answer (``Answer(None)``) must be last.

    Parameters
    ----------
    tokenizer
        The language model's.
    segments
        The prompt.
    n_tokens
        Soft tokens per vector of an entity, by modality.
    chat
        What stands around turns; plain text by default, after the start token that the tokenizer puts before a text.
    """
    ids = start_ids(tokenizer) if chat is None else _literal_ids(tokenizer, chat.start)
    targets = [IGNORED] * len(ids)
    mods = []
    for i, segment in enumerate(segments):
        if isinstance(segment, Entity):
            if segment.mod not in n_tokens:
                msg = f"The prompt has a {segment.mod!r} entity, but the model reads only {sorted(n_tokens)}."
                raise ValueError(msg)
            mods.append(segment.mod)
            new = [SLOT] * (n_tokens[segment.mod] * segment.n_vectors)
            in_loss = [IGNORED] * len(new)
        elif isinstance(segment, Text):
            new = text_ids(tokenizer, segment.text if chat is None else _trimmed(segments, i))
            in_loss = [IGNORED] * len(new)
        else:
            is_open = segment.text is None
            if is_open and i != len(segments) - 1:
                msg = "An open answer must be the last segment of a prompt."
                raise ValueError(msg)
            before = [] if chat is None else _literal_ids(tokenizer, chat.ask)
            written = [] if is_open else answer_ids(tokenizer, segment, chat)
            after = [] if chat is None or i == len(segments) - 1 else _literal_ids(tokenizer, chat.between)
            new = [*before, *written, *after]
            in_loss = [*[IGNORED] * len(before), *written, *[IGNORED] * len(after)]
        ids += new
        targets += in_loss
    return TokenizedPrompt(ids, targets, mods)


def start_ids(tokenizer: PreTrainedTokenizerBase | RememberingTokenizer) -> list[int]:
    """Token ids that the tokenizer itself puts before a text; many have a start token and do not use it."""
    with_special = list(tokenizer.encode("a"))
    plain = list(tokenizer.encode("a", add_special_tokens=False))
    for n in range(len(with_special) - len(plain) + 1):
        if with_special[n : n + len(plain)] == plain:
            return with_special[:n]
    return []


def _literal_ids(tokenizer: PreTrainedTokenizerBase | RememberingTokenizer, text: str) -> list[int]:
    """Token ids of a chat format's own words, special tokens included."""
    return list(tokenizer.encode(text, add_special_tokens=False))


def _trimmed(segments: Sequence[Segment], i: int) -> str:
    """Words of a chat turn, without the blanks at the turn's own edges."""
    text = cast("Text", segments[i]).text
    if i == 0 or isinstance(segments[i - 1], Answer):
        text = text.lstrip()
    if i == len(segments) - 1 or isinstance(segments[i + 1], Answer):
        text = text.rstrip()
    return text


def answer_ids(
    tokenizer: PreTrainedTokenizerBase | RememberingTokenizer, answer: Answer, chat: ChatFormat | None = None
) -> list[int]:
    """Token ids of a written answer with its end token; in plain text a space comes first, as after any colon."""
    text = answer.text or ""
    return [*text_ids(tokenizer, text if chat else " " + text), end_id(tokenizer, chat)]


def end_id(tokenizer: PreTrainedTokenizerBase | RememberingTokenizer, chat: ChatFormat | None = None) -> int:
    """Token id that ends an answer."""
    end = tokenizer.eos_token_id if chat is None else tokenizer.convert_tokens_to_ids(chat.end)
    if not isinstance(end, int):
        msg = "The tokenizer has no end-of-sequence token; set tokenizer.eos_token to the one that the model ends with."
        raise ValueError(msg)
    return end


def text_ids(tokenizer: PreTrainedTokenizerBase | RememberingTokenizer, text: str) -> list[int]:
    """Token ids of words; what looks like a special token (``<|end|>``) is spelled out, as it is only text."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


@dataclass(frozen=True)
class PromptBatch:
    """Padded prompts. ``ids`` holds ``SLOT`` at soft tokens; ``mask`` is 0 at padding, ``None`` when not needed.

    All have the shape (prompts, positions).
    """

    ids: torch.Tensor
    mask: torch.Tensor | None
    targets: torch.Tensor

    def to(self, device: str | torch.device) -> PromptBatch:
        """Move to a device."""
        mask = None if self.mask is None else self.mask.to(device)
        return PromptBatch(self.ids.to(device), mask, self.targets.to(device))


def pad_prompts(prompts: Sequence[TokenizedPrompt], pad_id: int, *, left: bool) -> PromptBatch:
    """Pad prompts to one length: on the left to generate, on the right to train.

    Parameters
    ----------
    prompts
        From :func:`tokenize_prompt`.
    pad_id
        Token id that stands in the padding.
    left
        Whether the padding is on the left.
    """
    longest = max(len(p.ids) for p in prompts)
    ids = torch.full((len(prompts), longest), pad_id)  # (prompts, positions), as all three
    targets = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        n = len(prompt.ids)
        span = slice(longest - n, longest) if left else slice(0, n)
        ids[i, span] = torch.tensor(prompt.ids)
        targets[i, span] = torch.tensor(prompt.targets)
        mask[i, span] = 1
    return PromptBatch(ids, mask, targets)


def inject(embeddings: torch.nn.Module, ids: torch.Tensor, soft_tokens: torch.Tensor) -> torch.Tensor:
    """Embed token ids and put the soft tokens at the slots.

    Parameters
    ----------
    embeddings
        The language model's input embedding.
    ids
        Shape (prompts, positions), ``SLOT`` at soft tokens.
    soft_tokens
        Shape (slots, width), in the order of the slots, row by row.

    Returns
    -------
    Input embeddings, shape (prompts, positions, width).
    """
    slots = ids == SLOT  # (prompts, positions)
    n_slots = int(slots.sum())
    if n_slots != len(soft_tokens):
        msg = f"The prompts have {n_slots} slots for soft tokens, but {len(soft_tokens)} soft tokens were given."
        raise ValueError(msg)
    embedded = embeddings(ids.masked_fill(slots, 0))  # (prompts, positions, width)
    return embedded.masked_scatter(slots.unsqueeze(-1), soft_tokens.to(embedded.dtype))
