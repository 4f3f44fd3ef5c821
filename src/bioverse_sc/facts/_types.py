"""What is known of a cell type."""

from __future__ import annotations

from functools import cache

from bioverse_sc.facts._fact import Fact
from bioverse_sc.facts._reference import reference, relevant
from bioverse_sc.facts._words import brief, capital, counted, in_plural, listed, with_article
from bioverse_sc.ontology import LINEAGES, approved_symbol, cell_ontology, known_tissues, terms_of_tissue

ONTOLOGY, MARKER_TABLE = "Cell Ontology", "Cell Marker Accordion"
MARKERS_SHOWN = 5
DEFINITION_LETTERS, MOST_DEFINITION = 220, 320
"""Of a definition; one of a single longer sentence may reach the second, else there is none."""
MOST_TISSUES = 5
"""A type that occurs in more tissues is of no tissue."""
WIDER_SHOWN = 4
"""Wider types that are named, beside the lineage: those with most sources for their markers."""


def type_facts(term: str) -> list[Fact]:
    """What is known of a cell type, in sentences.

    Parameters
    ----------
    term
        Cell Ontology id, or a name or exact synonym.

    Returns
    -------
    Definition, the wider types that it is a kind of, its best markers with the number of sources, whom these are
    specific to, and its tissues where they are few.

    Raises
    ------
    KeyError
        When the Cell Ontology has no such term.
    """
    ontology = cell_ontology()
    if (known := ontology.find(term)) is None:
        msg = f"{term!r} is no Cell Ontology id, name or exact synonym. Try one such as 'B cell' or 'CL:0000236'."
        raise KeyError(msg)
    return list(_facts(known))


@cache
def _facts(term: str) -> tuple[Fact, ...]:
    name = cell_ontology().names[term]
    facts = []
    definition = brief(ascii_only(cell_ontology().definitions[term]), DEFINITION_LETTERS)
    if 1 < len(definition) <= MOST_DEFINITION:
        facts.append(Fact(f"{capital(name)}: {definition}", "type", name, ONTOLOGY))
    if wider := wider_names(term):
        facts.append(Fact(f"{capital(with_article(name))} is a kind of {listed(wider)}.", "type", name, ONTOLOGY))
    if markers := best_markers(term):
        text = f"The best known markers of {in_plural(name)} are {listed(markers[:MARKERS_SHOWN])}."
        facts.append(Fact(text, "markers", name, MARKER_TABLE))
    said = [reference().specificity(gene, term).sentence(gene) for gene in markers[:MARKERS_SHOWN]]
    specific = [text for text in said if text and "not specific" not in text]
    facts += [Fact(text, "markers", name, "CellProfileLibrary") for text in specific[:2]]
    if tissues := tissues_of(term):
        facts.append(Fact(f"{capital(in_plural(name))} occur in the {listed(tissues)}.", "type", name, MARKER_TABLE))
    return tuple(facts)


@cache
def wider_names(term: str) -> tuple[str, ...]:
    """Names of the wider types that matter, the narrowest first and the lineage last."""
    ontology = cell_ontology()
    wider = sorted(relevant(term) - {term}, key=lambda t: (-len(ontology.ancestors(t)), t))
    lineages = [t for t in wider if t in LINEAGES]
    known = sorted((t for t in wider if t not in LINEAGES), key=lambda t: -sum(ontology.markers.get(t, {}).values()))
    near = [t for t in wider if t in known[:WIDER_SHOWN]]
    return tuple(ontology.names[t] for t in [*near, *lineages[-1:]])


@cache
def best_markers(term: str) -> tuple[str, ...]:
    """Approved symbols of a type's markers, those that most sources name first."""
    markers = cell_ontology().markers.get(term, {})
    ordered = sorted(markers, key=lambda gene: -markers[gene])
    return tuple(dict.fromkeys(approved_symbol(gene) or gene for gene in ordered))


@cache
def sources_of(term: str) -> dict[str, int]:
    """Number of sources that name each marker of a type, by approved symbol, the best first."""
    markers = cell_ontology().markers.get(term, {})
    sources = {approved_symbol(gene) or gene: n for gene, n in markers.items()}
    return {gene: sources[gene] for gene in best_markers(term)}


@cache
def types_marked() -> dict[str, dict[str, int]]:
    """By approved symbol: the types that a gene marks, with the number of sources, the best first."""
    types: dict[str, dict[str, int]] = {}
    for term in cell_ontology().markers:
        for gene, n in sources_of(term).items():
            types.setdefault(gene, {})[term] = n
    return {gene: dict(sorted(marked.items(), key=lambda item: (-item[1], item[0]))) for gene, marked in types.items()}


@cache
def tissues_of(term: str) -> tuple[str, ...]:
    """Tissues of a type that occurs in few."""
    tissues = [tissue for tissue in known_tissues() if term in terms_of_tissue(tissue)]
    return tuple(tissues) if len(tissues) <= MOST_TISSUES else ()


def evidence(gene: str, term: str, n_sources: int) -> str:
    """``"MZB1 is a marker of plasma cells, by 11 sources."``"""
    return f"{gene} is a marker of {in_plural(cell_ontology().names[term])}, by {counted(n_sources, 'source')}."


def ascii_only(text: str) -> str:
    """The text without letters beyond ASCII."""
    return text.encode("ascii", "ignore").decode()
