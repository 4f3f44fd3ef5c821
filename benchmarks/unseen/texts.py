"""What stands for a type: texts that soft tokens are aligned with, and compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bioverse_sc.ontology import cell_ontology

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

OF_EVERY_CELL = frozenset({"CL:0000000", "CL:0000003", "CL:0000255", "CL:0000548"})
WIDER, MARKERS = 6, 20
"""Wider types that are named, the nearest first, and markers."""


def name(term: str) -> str:
    return cell_ontology().names[term]


def kinds(term: str) -> str:
    """Name, and what it is a kind of."""
    ontology = cell_ontology()
    above = ontology.ancestors(term) - {term} - OF_EVERY_CELL
    wider = sorted(above, key=lambda t: (-len(ontology.ancestors(t)), t))[:WIDER]
    return f"{ontology.names[term]}. A kind of {', '.join(ontology.names[t] for t in wider)}."


def markers(term: str) -> str:
    """Name, and markers of it and of wider types."""
    known = list(cell_ontology().known_markers(term))[:MARKERS]
    return f"{name(term)}. Markers: {', '.join(known)}."


def described(term: str) -> str:
    """Name, definition and markers: what the bundled models were aligned with."""
    return cell_ontology().describe(term)


FORMS: Mapping[str, Callable[[str], str]] = {
    "name": name,
    "kinds": kinds,
    "markers": markers,
    "described": described,
}
"""Texts of a type by their names on the command line."""
