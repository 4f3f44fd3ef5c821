"""The only templates. A prompt is a list of typed segments; an entity is a segment and never a string to search for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Text:
    """Words that the model reads."""

    text: str


@dataclass(frozen=True)
class Entity:
    """Place of an entity's soft tokens."""

    modality: str


@dataclass(frozen=True)
class Answer:
    """Words that the model writes, ended by its end-of-sequence token. ``None``: here it writes."""

    text: str | None = None


Segment = Text | Entity | Answer

PROMPT_ID = "annotate-1"
"""Changes whenever a template does; stored with every result."""


def label_prompt(label: str | None = None) -> list[Segment]:
    """Ask for the type of a cell, from its soft token alone.

    Parameters
    ----------
    label
        The answer, to train on; open by default.
    """
    return [Text("Cell:"), Entity("rna"), Text(" Type:"), Answer(label)]


def reasoning_prompt(label: str, genes: Sequence[str], reasoning: str | None = None) -> list[Segment]:
    """After the label, show the cell's informative genes and ask why.

    Parameters
    ----------
    label
        The label that was given.
    genes
        Informative genes of the cell.
    reasoning
        The answer, to train on; open by default.
    """
    listed = ", ".join(genes) if genes else "none"
    return [*label_prompt(label), Text(f" Genes: {listed}. Why?"), Answer(reasoning)]
