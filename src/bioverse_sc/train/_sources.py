"""Training examples as batches. Encoders have run before: everything here starts from their vectors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from bioverse_sc._logging import logger
from bioverse_sc.models import IGNORED, Entity, RememberingTokenizer, TokenizedPrompt, pad_prompts, tokenize_prompt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Literal

    from bioverse_sc.models import BioVerse, Segment


@dataclass(frozen=True)
class Example:
    """A prompt with written answers, and the rows of its entities in the arrays of vectors, in order."""

    segments: Sequence[Segment]
    rows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        n_entities = sum(isinstance(s, Entity) for s in self.segments)
        if n_entities != len(self.rows):
            msg = f"The prompt has {n_entities} entities, but {len(self.rows)} rows of vectors were given."
            raise ValueError(msg)

    @property
    def entities(self) -> list[tuple[str, int]]:
        """Modality and row of each entity, in order."""
        mods = [s.mod for s in self.segments if isinstance(s, Entity)]
        return list(zip(mods, self.rows, strict=True))


@dataclass(frozen=True)
class Descriptions:
    """Texts to align entities with."""

    texts: Sequence[str]
    """Each text once."""
    text_of: np.ndarray
    """Index of each entity's text, shape (entities,). Entities of one text are positives of each other."""

    def __post_init__(self) -> None:
        if repeated := [text for text, n in Counter(self.texts).items() if n > 1]:
            msg = (
                f"{len(repeated)} of the texts are there more than once, the first is {repeated[0]!r}: its entities "
                "would be each other's negatives. Give each text once; bsc.train.descriptions does."
            )
            raise ValueError(msg)
        text_of = np.asarray(self.text_of)
        if text_of.ndim != 1 or (text_of.size and not np.issubdtype(text_of.dtype, np.integer)):
            msg = (
                "text_of must be the index of each entity's text, integers of shape (entities,); found "
                f"{text_of.dtype} of shape {text_of.shape}."
            )
            raise ValueError(msg)
        if n_outside := int(((text_of < 0) | (text_of >= len(self.texts))).sum()):
            msg = (
                f"{n_outside} of {len(text_of)} text indices are not within 0 and {len(self.texts) - 1}: there are "
                f"{len(self.texts)} texts. Leave out entities that have no text."
            )
            raise ValueError(msg)


class EntityVectors:
    """Encoder vectors of entities of one modality: one for each, or a sequence of them.

    Parameters
    ----------
    name
        Modality, for messages.
    vectors
        Shape (entities, width), or for each entity an array of shape (length, width).
    """

    def __init__(self, name: str, vectors: np.ndarray | Sequence[np.ndarray]) -> None:
        self.parts: np.ndarray | list[np.ndarray]
        # nothing is copied: the vectors may be files
        if isinstance(vectors, np.ndarray) and vectors.dtype != object:
            array = np.asarray(vectors)
            self.parts = array[:, None] if array.ndim == 2 else array
            pieces = [array[start : start + 1024] for start in range(0, len(array), 1024)]
            shapes = {self.parts.shape[1:]}
        else:
            self.parts = pieces = [np.asarray(part) for part in vectors]
            shapes = {part.shape for part in pieces}
        if any(len(shape) != 2 or not shape[0] for shape in shapes) or len({shape[1] for shape in shapes}) > 1:
            msg = (
                f"The vectors of {name!r} must be an array of shape (entities, width), or for each entity one of shape "
                f"(length, width) with a length of 1 or more; found {sorted(shapes)[:5]}."
            )
            raise ValueError(msg)
        self.width = max((width for _, width in shapes), default=0)
        self.lengths = np.array([len(part) for part in self.parts], dtype=np.int64)
        if not all(np.isfinite(piece).all() for piece in pieces):
            msg = (
                f"The vectors of {name!r} hold NaN or infinite values; leave those entities out, or compute them again."
            )
            raise ValueError(msg)

    @classmethod
    def of(cls, name: str, vectors: np.ndarray | Sequence[np.ndarray] | EntityVectors) -> EntityVectors:
        """Vectors that may have been looked through before."""
        return vectors if isinstance(vectors, EntityVectors) else cls(name, vectors)

    def __len__(self) -> int:
        return len(self.parts)

    def take(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of entities one after the other, shape (vectors, width), and the place of the entity of each."""
        none = np.zeros((0, self.width), dtype=np.float32)
        values = np.concatenate([none, *(self.parts[row] for row in rows)]).astype(np.float32, copy=False)
        return torch.from_numpy(values), torch.from_numpy(np.repeat(np.arange(len(rows)), self.lengths[rows]))


class PromptSource:
    """Examples for next-token training.

    Parameters
    ----------
    model
        Gives the tokenizer and the number of soft tokens.
    examples
        The examples.
    vectors
        Encoder vectors by modality: shape (entities, width), or a sequence of vectors for each entity.
    text_of
        By modality, the index of each entity's description, for the contrastive loss beside.
    max_tokens
        Longest example; less when the language model reads less.
    too_long
        Whether a longer one is an error, or is cut at the end of its last answer; it then lacks its end token, as the
        text does not end there. ``n_cut`` counts them.
    weights
        How often each example is drawn relative to the others.
    """

    def __init__(
        self,
        model: BioVerse,
        examples: Sequence[Example],
        vectors: Mapping[str, np.ndarray | Sequence[np.ndarray] | EntityVectors],
        *,
        text_of: Mapping[str, np.ndarray] | None = None,
        max_tokens: int = 512,
        too_long: Literal["error", "cut"] = "error",
        weights: np.ndarray | None = None,
    ) -> None:
        self.model = model
        self.examples = examples
        self.vectors = {mod: EntityVectors.of(mod, given) for mod, given in vectors.items()}
        self.weights = checked_weights(weights, len(examples))
        for mod, checked in self.vectors.items():
            if mod not in model.config.projectors:
                msg = f"There are vectors of {mod!r}, but the model reads only {sorted(model.config.projectors)}."
                raise ValueError(msg)
            if checked.width != model.config.projectors[mod].in_width:
                msg = (
                    f"The vectors of {mod!r} have width {checked.width}; its projector reads "
                    f"{model.config.projectors[mod].in_width}."
                )
                raise ValueError(msg)
        if missing := sorted(set(text_of or ()) - set(vectors)):
            msg = f"There are descriptions of {missing}, but vectors of {sorted(vectors)} only."
            raise ValueError(msg)
        self.text_of = {mod: checked_text_of(self.vectors[mod], indices) for mod, indices in (text_of or {}).items()}
        prompts = self._tokenized()
        if unanswered := [i for i, p in enumerate(prompts) if np.all(np.equal(p.targets, IGNORED))]:
            msg = (
                f"{len(unanswered)} of {len(examples)} examples have no written answer, the first is number "
                f"{unanswered[0]}."
            )
            raise ValueError(msg)
        limits = {"max_tokens": max_tokens}
        if read := model.max_positions:
            limits["max_position_embeddings"] = read
        lowest = min(limits, key=lambda name: limits[name])
        self.prompts, self.n_cut = shortened(prompts, limits[lowest], too_long, named=lowest)
        self.lengths: np.ndarray | None = np.array([len(p.ids) for p in self.prompts], dtype=np.int64)

    def _tokenized(self) -> list[TokenizedPrompt]:
        """Prompts of the examples. There may be a great many.

        What is equal is there once, and integers take 4 bytes.
        """
        tokenizer, n_tokens, chat = (
            RememberingTokenizer(self.model.tokenizer),
            self.model.n_tokens,
            self.model.config.chat,
        )

        @lru_cache(maxsize=10_000)
        def tokenized(*segments: Segment) -> TokenizedPrompt:
            prompt = tokenize_prompt(tokenizer, segments, n_tokens, chat)
            ids, targets = np.array(prompt.ids, dtype=np.int32), np.array(prompt.targets, dtype=np.int32)
            return replace(prompt, ids=ids, targets=targets)

        return [tokenized(*self._with_lengths(example)) for example in self.examples]

    def _with_lengths(self, example: Example) -> list[Segment]:
        """Segments with the number of vectors that each entity has."""
        rows = iter(example.rows)
        return [
            replace(s, n_vectors=self._n_vectors(s.mod, next(rows))) if isinstance(s, Entity) else s
            for s in example.segments
        ]

    def _n_vectors(self, mod: str, row: int) -> int:
        if mod not in self.vectors:
            msg = f"A prompt has a {mod!r} entity, but there are vectors of {sorted(self.vectors)} only."
            raise ValueError(msg)
        vectors = self.vectors[mod]
        if not 0 <= row < len(vectors):
            msg = f"A prompt has row {row} of {mod!r}, but there are {len(vectors)} entities."
            raise ValueError(msg)
        return int(vectors.lengths[row])

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Padded ids and targets; by modality the vectors, and where in the prompts their soft tokens go.

        All modalities are there, without rows when no prompt has one: so every process runs every projector.
        """
        prompts = [self.prompts[i] for i in indices]
        padded = pad_prompts(prompts, self.model.pad_id, left=False)
        batch = {"ids": padded.ids, "targets": padded.targets}
        rows: dict[str, list[int]] = {mod: [] for mod in self.vectors}
        slots: dict[str, list[int]] = {mod: [] for mod in self.vectors}
        n_tokens = self.model.n_tokens
        place = 0
        for i, prompt in zip(indices, prompts, strict=True):
            for mod, row in zip(prompt.mods, self.examples[i].rows, strict=True):
                n = int(self.vectors[mod].lengths[row]) * n_tokens[mod]
                rows[mod].append(row)
                slots[mod] += range(place, place + n)
                place += n
        for mod, chosen in rows.items():
            picked = np.array(chosen, dtype=np.int64)
            batch[f"vectors:{mod}"], batch[f"entity:{mod}"] = self.vectors[mod].take(picked)
            batch[f"slots:{mod}"] = torch.tensor(slots[mod], dtype=torch.int64)
            if mod in self.text_of:
                batch[f"text_of:{mod}"] = torch.from_numpy(self.text_of[mod][picked])
        return batch


def shortened(
    prompts: list[TokenizedPrompt], limit: int, too_long: str, *, named: str = "max_tokens"
) -> tuple[list[TokenizedPrompt], int]:
    """Prompts of at most ``limit`` tokens, and how many were cut: at the end of their last answer, and nowhere else."""
    if too_long not in ("error", "cut"):
        msg = f"too_long is {too_long!r}; expected 'error' or 'cut'."
        raise ValueError(msg)
    longer = [i for i, p in enumerate(prompts) if len(p.ids) > limit]
    if not longer:
        return prompts, 0
    longest = max(len(prompts[i].ids) for i in longer)
    count = f"{len(longer)} of {len(prompts)} examples have more than {named}={limit} tokens, the longest {longest}"
    if too_long == "error":
        msg = f"{count}; shorten them, raise the limit, or cut their answers with too_long='cut'."
        raise ValueError(msg)
    # what goes, and the token before it, must be of one answer; soft tokens never are
    if fixed := [i for i in longer if IGNORED in prompts[i].targets[limit - 1 :]]:
        msg = (
            f"{count}. {len(fixed)} of them, the first is number {fixed[0]}, would lose more than the end of their "
            "last answer: their question or their soft tokens. Shorten the questions, or raise the limit."
        )
        raise ValueError(msg)
    logger.warning("%s; they were cut at the end of their last answer", count)
    cut = [TokenizedPrompt(p.ids[:limit], p.targets[:limit], p.mods) for p in prompts]
    return cut, len(longer)


class PairSource:
    """Entities and their texts for contrastive training.

    Parameters
    ----------
    vectors
        Encoder vectors: shape (entities, width), or a sequence of vectors for each entity.
    text_of
        Index of each entity's text, shape (entities,).
    rows
        Entities to draw from; all by default.
    weights
        How often each of them is drawn relative to the others.
    """

    def __init__(
        self,
        vectors: np.ndarray | Sequence[np.ndarray] | EntityVectors,
        text_of: np.ndarray,
        *,
        rows: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> None:
        self.lengths: np.ndarray | None = None
        self.vectors = EntityVectors.of("entities", vectors)
        self.text_of = checked_text_of(self.vectors, text_of)
        self.rows = np.arange(len(self.vectors)) if rows is None else np.asarray(rows)
        self.weights = checked_weights(weights, len(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Vectors, the entity of each, and the text of each entity."""
        rows = self.rows[indices]
        vectors, entity = self.vectors.take(rows)
        return {"vectors": vectors, "entity": entity, "text_of": torch.from_numpy(self.text_of[rows])}


def checked_weights(weights: np.ndarray | None, n: int) -> np.ndarray | None:
    """Raise when weights cannot be drawn by."""
    if weights is None:
        return None
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (n,) or not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum():
        msg = f"weights must be {n} numbers, none of them negative and not all zero; found shape {weights.shape}."
        raise ValueError(msg)
    return weights


def checked_text_of(vectors: EntityVectors, text_of: np.ndarray) -> np.ndarray:
    """Raise when not every entity has a text."""
    text_of = np.asarray(text_of, dtype=np.int64)
    if len(vectors) != len(text_of):
        msg = f"There are {len(vectors)} vectors but {len(text_of)} text indices."
        raise ValueError(msg)
    return text_of
