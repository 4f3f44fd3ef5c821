"""What is known near to proteins and molecules, and what a description may therefore say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bioverse_sc._modality import modality_of
from bioverse_sc.facts import closeness, entity_facts, nothing_near

if TYPE_CHECKING:
    from bioverse_sc.facts import Known, Memory
    from bioverse_sc.tl._subject import Subject

RETRIEVED = 3
"""Known entities that are shown before an entity."""
_SENTENCE_END = re.compile(r"\.(?=\s|$)")
_NUMBERED = re.compile(r"^\(\d\) ")


def memory_of(subject: Subject) -> Memory | None:
    """Known entities, where the model has some and the observations have a text to compare."""
    return subject.model.memory.get(subject.mod) if modality_of(subject.mod).column in subject.adata.obs else None


def nearest_known(subject: Subject, rows: np.ndarray) -> list[list[Known]]:
    """What is nearest to each of some observations; each different text is looked up once."""
    memory = memory_of(subject)
    if memory is None:
        return [[]] * len(rows)
    codes, unique = pd.factorize(np.array(texts_of(subject, rows), dtype=object))
    nearest = memory.nearest(list(unique), RETRIEVED)
    return [nearest[code] for code in codes]


def texts_of(subject: Subject, rows: np.ndarray) -> list[str]:
    """Sequences or SMILES of some observations; ``""`` where there is none."""
    column = modality_of(subject.mod).column
    if column not in subject.adata.obs:
        return [""] * len(rows)
    return [str(text) for text in subject.adata.obs[column].iloc[rows].astype(object).fillna("")]


@dataclass(frozen=True)
class Nearest:
    """What is near to each observation of a modality, and what may be said of it."""

    mod: str
    entities: list[str]
    known: list[list[Known]]

    @classmethod
    def of(cls, subject: Subject) -> Nearest:
        """Look all observations of a modality up."""
        rows = np.arange(subject.adata.n_obs)
        return cls(subject.mod, texts_of(subject, rows), nearest_known(subject, rows))

    @cached_property
    def closeness(self) -> np.ndarray:
        """Of each observation ``"same"``, ``"related"``, ``"distant"`` or ``"unknown"``."""
        return np.array([closeness(self.mod, near) for near in self.known], dtype=object)

    @property
    def to_write(self) -> np.ndarray:
        """Rows about which the language model writes."""
        return np.flatnonzero((self.closeness == "related") | (self.closeness == "distant"))

    @property
    def texts(self) -> list[str]:
        """Text of the nearest of each; ``""`` where nothing has anything in common with it."""
        return [near[0].text if near else "" for near in self.known]

    @property
    def similarity(self) -> np.ndarray:
        """Of the nearest of each."""
        return np.array([near[0].similarity if near else 0.0 for near in self.known])

    @property
    def counted(self) -> dict[str, int]:
        """How many observations are how close."""
        return {name: int((self.closeness == name).sum()) for name in ("same", "related", "distant", "unknown")}

    def description(self, row: int, written: str) -> str:
        """What may be said of an observation.

        Of a known one that is its own text. Of another one the rules of :func:`bioverse_sc.facts.entity_facts` say what
        it probably is; of what the model wrote the sentences are kept that are known of one that was shown.
        """
        near, close = self.known[row], self.closeness[row]
        if close == "same":
            return near[0].text
        if close == "unknown":
            return nothing_near(self.mod, near)
        named, sentences = self._supported(row, written)
        name = f"This {modality_of(self.mod).noun}"
        facts = entity_facts(self.mod, self.entities[row], [named], name=name)
        concluded = next(fact.text for fact in facts if fact.topic == "judgment")
        known = f" Of that one it is known: {' '.join(sentences)}" if sentences else ""
        return f"{concluded} The similarity is {named.similarity:.2f}.{known}"

    def is_written(self, row: int, written: str) -> bool:
        """Whether something of what the model wrote is kept."""
        return self.closeness[row] in ("related", "distant") and bool(self._supported(row, written)[1])

    def _supported(self, row: int, written: str) -> tuple[Known, list[str]]:
        """The known one that a text names, and the sentences beside that are known of it; else the nearest alone."""
        sentences = _sentences(_NUMBERED.sub("", written))
        near = [known for known in self.known[row] if closeness(self.mod, [known]) != "unknown"]
        for known in near:
            told = _sentences(known.text)
            if sentences and sentences[0].lower() == told[0].lower():
                return known, list(dict.fromkeys(each for each in sentences[1:] if each in told))
        return near[0], []


def _sentences(text: str) -> list[str]:
    parts = [" ".join(part.split()) for part in _SENTENCE_END.split(text)]
    return [f"{part}." for part in parts if part]
