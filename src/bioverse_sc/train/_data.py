"""Training examples as batches. Encoders have run before: everything here starts from their vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from bioverse_sc.models._inject import pad_prompts, tokenize_prompt
from bioverse_sc.models._prompt import Entity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


class PromptSource:
    """Examples for next-token training.

    Parameters
    ----------
    model
        Gives the tokenizer and the number of soft tokens.
    examples
        The examples.
    vectors
        Encoder vectors by modality, shape (entities, width).
    text_of
        By modality, the index of each entity's description, for the contrastive loss beside.
    max_tokens
        A longer example is an error: nothing is cut in silence.
    """

    def __init__(
        self,
        model: BioVerse,
        examples: Sequence[Example],
        vectors: Mapping[str, np.ndarray],
        *,
        text_of: Mapping[str, np.ndarray] | None = None,
        max_tokens: int = 512,
    ) -> None:
        self.model = model
        self.text_of = dict(text_of or {})
        self.examples = examples
        self.vectors = {mod: np.asarray(v, dtype=np.float32) for mod, v in vectors.items()}
        self.prompts = [tokenize_prompt(model.tokenizer, e.segments, model.n_tokens) for e in examples]
        self.lengths: np.ndarray | None = np.array([len(p.ids) for p in self.prompts], dtype=np.int64)
        if (self.lengths > max_tokens).any():
            msg = (
                f"{(self.lengths > max_tokens).sum()} of {len(examples)} examples have more than max_tokens={max_tokens} tokens, the longest "
                f"{self.lengths.max()}; shorten them or raise the limit."
            )
            raise ValueError(msg)
        for mod, array in self.vectors.items():
            check_finite(mod, array)
            check_text_of(array, self.text_of.get(mod))

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        chosen = [self.examples[i] for i in indices]
        prompts = [self.prompts[i] for i in indices]
        padded = pad_prompts(prompts, self.model.pad_id, left=False)
        batch = {"ids": padded.ids, "targets": padded.targets}
        order: dict[str, list[int]] = {}
        for prompt, example in zip(prompts, chosen, strict=True):
            for mod, row in zip(prompt.modalities, example.rows, strict=True):
                order.setdefault(mod, []).append(row)
        if len(order) > 1:
            msg = "Training on prompts that mix modalities is not supported yet."
            raise NotImplementedError(msg)
        for mod, rows in order.items():
            batch[f"vectors:{mod}"] = torch.from_numpy(self.vectors[mod][rows])
            if mod in self.text_of:
                batch[f"text_of:{mod}"] = torch.from_numpy(self.text_of[mod][rows])
        return batch


class PairSource:
    """Entities and their texts for contrastive training.

    Parameters
    ----------
    vectors
        Encoder vectors, shape (entities, width).
    text_of
        Index of each entity's text, shape (entities,).
    """

    def __init__(self, vectors: np.ndarray, text_of: np.ndarray) -> None:
        self.lengths: np.ndarray | None = None
        self.vectors = np.asarray(vectors, dtype=np.float32)
        self.text_of = np.asarray(text_of)
        check_finite("entities", self.vectors)
        check_text_of(self.vectors, self.text_of)

    def __len__(self) -> int:
        return len(self.vectors)

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return {
            "vectors": torch.from_numpy(self.vectors[indices]),
            "text_of": torch.from_numpy(self.text_of[indices]),
        }


def check_finite(name: str, vectors: np.ndarray) -> None:
    """Raise when vectors hold NaN or infinity."""
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        msg = f"The vectors of {name!r} must be a finite array of shape (entities, width); found shape {vectors.shape}."
        raise ValueError(msg)


def check_text_of(vectors: np.ndarray, text_of: np.ndarray | None) -> None:
    """Raise when not every vector has a text."""
    if text_of is not None and len(vectors) != len(text_of):
        msg = f"There are {len(vectors)} vectors but {len(text_of)} text indices."
        raise ValueError(msg)
