"""Training examples as batches. Encoders have run before: everything here starts from their vectors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from bioverse_sc._logging import logger
from bioverse_sc.models._inject import IGNORED, SLOT, TokenizedPrompt, pad_prompts
from bioverse_sc.models._prompt import Entity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Literal

    from bioverse_sc.models import BioVerse
    from bioverse_sc.models._prompt import Segment


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


@dataclass(frozen=True)
class Descriptions:
    """Texts to align entities with."""

    texts: Sequence[str]
    """Each text once."""
    text_of: np.ndarray
    """Index of each entity's text, shape (entities,). Entities of one text are positives of each other."""


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
        if isinstance(vectors, np.ndarray) and vectors.ndim == 2:
            self.values, lengths = vectors, np.ones(len(vectors), dtype=np.int64)
        else:
            parts = [np.asarray(part) for part in vectors]
            if len({part.shape[-1] for part in parts}) > 1 or any(part.ndim != 2 or not len(part) for part in parts):
                msg = (
                    f"The vectors of {name!r} must be an array of shape (entities, width), or for each entity one of "
                    f"shape (length, width) with a length of 1 or more; found {sorted({part.shape for part in parts})[:5]}."
                )
                raise ValueError(msg)
            self.values = np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)
            lengths = np.array([len(part) for part in parts], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.lengths = lengths
        for start in range(0, len(self.values), 65536):
            if not np.isfinite(self.values[start : start + 65536]).all():
                msg = f"The vectors of {name!r} hold NaN or infinite values; leave those entities out, or compute them again."
                raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def width(self) -> int:
        """Length of a vector."""
        return self.values.shape[1]

    def take(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of entities one after the other, shape (vectors, width), and for each the place of its entity in ``rows``."""
        lengths = self.lengths[rows]
        entity = np.repeat(np.arange(len(rows)), lengths)
        places = np.arange(len(entity)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        values = self.values[self.starts[rows][entity] + places]
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)), torch.from_numpy(entity)


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
        Longest example.
    too_long
        Whether a longer one is an error, or is cut at the end of its last answer; it then lacks its end token, as the text
        does not end there. :attr:`n_cut` counts them.
    weights
        How often each example is drawn relative to the others.
    """

    def __init__(
        self,
        model: BioVerse,
        examples: Sequence[Example],
        vectors: Mapping[str, np.ndarray | Sequence[np.ndarray]],
        *,
        text_of: Mapping[str, np.ndarray] | None = None,
        max_tokens: int = 512,
        too_long: Literal["error", "cut"] = "error",
        weights: np.ndarray | None = None,
    ) -> None:
        self.model = model
        self.examples = examples
        self.vectors = {mod: EntityVectors(mod, of) for mod, of in vectors.items()}
        self.text_of = dict(text_of or {})
        self.weights = checked_weights(weights, len(examples))
        for mod, of in self.vectors.items():
            if mod in model.config.projectors and of.width != model.config.projectors[mod].in_width:
                msg = f"The vectors of {mod!r} have width {of.width}; its projector reads {model.config.projectors[mod].in_width}."
                raise ValueError(msg)
            check_text_of(of, self.text_of.get(mod))
        self.prompts = [model.tokenize(self._with_lengths(example)) for example in examples]
        limit = min(max_tokens, getattr(model.language_model.config, "max_position_embeddings", None) or max_tokens)
        lengths = np.array([len(p.ids) for p in self.prompts], dtype=np.int64)
        self.n_cut = int((lengths > limit).sum())
        if self.n_cut and too_long == "error":
            msg = (
                f"{self.n_cut} of {len(examples)} examples have more than max_tokens={limit} tokens, the longest "
                f"{lengths.max()}; shorten them, raise the limit, or cut their answers with too_long='cut'."
            )
            raise ValueError(msg)
        if self.n_cut:
            self.prompts = [cut_answer(p, limit) if len(p.ids) > limit else p for p in self.prompts]
            logger.warning(
                "%d of %d examples were cut to %d tokens, at the end of their answers", self.n_cut, len(examples), limit
            )
        self.lengths: np.ndarray | None = np.minimum(lengths, limit)

    def _with_lengths(self, example: Example) -> list[Segment]:
        """Segments with the number of vectors that each entity has."""
        segments = list(example.segments)
        places = [i for i, segment in enumerate(segments) if isinstance(segment, Entity)]
        for i, row in zip(places, example.rows, strict=True):
            entity = segments[i]
            if not isinstance(entity, Entity) or entity.modality not in self.vectors:
                msg = f"A prompt has a {getattr(entity, 'modality', '')!r} entity, but there are vectors of {sorted(self.vectors)} only."
                raise ValueError(msg)
            of = self.vectors[entity.modality]
            if not 0 <= row < len(of):
                msg = f"A prompt has row {row} of {entity.modality!r}, but there are {len(of)} entities."
                raise ValueError(msg)
            segments[i] = replace(entity, n_vectors=int(of.lengths[row]))
        return segments

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
        place = 0
        for i, prompt in zip(indices, prompts, strict=True):
            for mod, row in zip(prompt.modalities, self.examples[i].rows, strict=True):
                n = int(self.vectors[mod].lengths[row]) * self.model.n_tokens[mod]
                rows[mod].append(row)
                slots[mod] += range(place, place + n)
                place += n
        for mod, chosen in rows.items():
            picked = np.array(chosen, dtype=np.int64)
            batch[f"vectors:{mod}"], batch[f"entity:{mod}"] = self.vectors[mod].take(picked)
            batch[f"slots:{mod}"] = torch.tensor(slots[mod], dtype=torch.int64)
            if mod in self.text_of:
                batch[f"text_of:{mod}"] = torch.from_numpy(np.asarray(self.text_of[mod])[picked])
        return batch


def cut_answer(prompt: TokenizedPrompt, limit: int) -> TokenizedPrompt:
    """Cut the end of the last answer, which must be what the prompt ends with, and never a soft token."""
    kept = TokenizedPrompt(prompt.ids[:limit], prompt.targets[:limit], prompt.modalities)
    if SLOT in prompt.ids[limit:] or kept.targets[-1] == IGNORED:
        msg = (
            f"An example has {len(prompt.ids)} tokens, and more than {limit} of them come before its last answer: it cannot "
            "be cut to max_tokens without losing its question or its soft tokens. Shorten the question, or raise max_tokens."
        )
        raise ValueError(msg)
    return kept


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
        self.vectors = vectors if isinstance(vectors, EntityVectors) else EntityVectors("entities", vectors)
        self.text_of = np.asarray(text_of)
        check_text_of(self.vectors, self.text_of)
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


def check_text_of(vectors: EntityVectors, text_of: np.ndarray | None) -> None:
    """Raise when not every entity has a text."""
    if text_of is not None and len(vectors) != len(text_of):
        msg = f"There are {len(vectors)} vectors but {len(text_of)} text indices."
        raise ValueError(msg)
