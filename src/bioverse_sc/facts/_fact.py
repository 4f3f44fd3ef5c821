"""One thing that is known."""

from __future__ import annotations

from dataclasses import dataclass, field

TOPICS = (
    "label",
    "certainty",
    "runner-up",
    "markers",
    "absence",
    "unusual",
    "state",
    "numbers",
    "study",
    "type",
    "gene",
    "pathway",
    "identity",
    "nearest",
    "properties",
    "judgment",
)
"""What a fact may be about."""


@dataclass(frozen=True)
class Fact:
    """One thing that is known, in words."""

    text: str
    """A sentence, or a few that belong together, ended by a full stop."""
    topic: str
    """One of ``TOPICS``."""
    about: str
    """What it is about, as the prompt calls it: ``"Cell"``, ``"Protein 1"``, or a gene, type or pathway."""
    source: str = ""
    """Where it is from, such as ``"Cell Ontology"``; ``""`` for what was measured or computed here."""
    relevance: float = field(default=1.0, compare=False)
    """Probability that the question which it was gathered for asks for it."""
