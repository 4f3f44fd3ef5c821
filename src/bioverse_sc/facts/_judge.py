"""Judgments: what may be concluded about a cell on what a question names, each in words. These are rules."""

from __future__ import annotations

from bioverse_sc.facts._cell_words import (
    absence_sentence,
    amount_sentence,
    is_a,
    no_state_sentence,
    rival_sentence,
    state_sentence,
    subject,
)
from bioverse_sc.facts._cells import POSSIBLE, TELLING, CellFacts, Marker, certainty
from bioverse_sc.facts._genes import marker_sentence
from bioverse_sc.facts._reference import reference, relevant
from bioverse_sc.facts._tables import pathways
from bioverse_sc.facts._types import sources_of, types_marked
from bioverse_sc.facts._words import capital, counted, in_plural, listed, shown_probability, with_article
from bioverse_sc.ontology import UNKNOWN, cell_ontology

OPEN = 0.75
"""A type that has this part of the label's probability is as good as the label."""
SPEAKS_FOR = 20
"""Reference types at the home of a marker, at most, that speaks for a label."""
NARROW = 6
"""Reference types that a type has at most, whose kinds are so alike that one which was no label cannot be ruled out."""
RARE, LOW = 0.05, 0.2
"""A type hardly has a gene, or has little, when it has this share of what the type with most has."""


def judge_type(cell: CellFacts, term: str, name: str) -> list[str]:
    """Whether a cell is of a type, in words.

    Parameters
    ----------
    cell
        The cell.
    term
        Cell Ontology id of the type asked about.
    name
        What the cell is called.
    """
    ontology = cell_ontology()
    asked, chance = ontology.names[term], cell.probability_of(term)
    who = subject(cell, name)
    if cell.label == UNKNOWN or not cell.term:
        text = f"It cannot be told whether {is_a_lower(cell, name, asked)}, because its type is unknown."
        return [text, *([_chance(asked, chance)] if chance >= POSSIBLE else [])]
    label = ontology.names[cell.term]
    if term == cell.term:
        if cell.probability >= 0.5:
            return [f"{is_a(cell, name, asked)}. This is {cell.certainty}."]
        return [f"{is_a(cell, name, asked, 'most likely')}, but this is not certain."]
    if term in ontology.ancestors(cell.term):
        kind = f"because {in_plural(label)} are {in_plural(asked)}"
        how = "" if chance >= 0.5 else "most likely"
        return [f"{is_a(cell, name, asked, how)}, {kind}. This is {certainty(chance)}."]
    if cell.term in ontology.ancestors(term):
        text = f"It cannot be told whether {is_a_lower(cell, name, asked)}. {who} is labelled {label}, which is wider."
        return [text, *([_chance(asked, chance)] if chance >= POSSIBLE else [])]
    if narrow := _undistinguished(cell, term):
        return [f"It cannot be told whether {is_a_lower(cell, name, asked)}. {_label_instead(cell, name, narrow)}"]
    if chance >= OPEN * cell.probability and chance >= POSSIBLE:
        told = [f"It is not certain whether {is_a_lower(cell, name, asked)}.", _chance(asked, chance)]
        told.append(f"The label {label} has a probability of {shown_probability(cell.probability)}.")
    elif chance >= POSSIBLE or cell.probability < 0.5:
        told = [f"{is_a(cell, name, asked, 'probably not')}. {_label_instead(cell, name, label)}"]
        if chance >= POSSIBLE:
            told.append(_chance(asked, chance))
    else:
        told = [f"{is_a(cell, name, asked, 'not')}. {_label_instead(cell, name, label)}"]
    return told + [absence_sentence(absence) for absence in cell.absences_of(asked, term)[:1]]


def _undistinguished(cell: CellFacts, term: str) -> str:
    """Name of the narrow type that a type shares with the label, where no label was there for the type; else ``""``."""
    ontology = cell_ontology()
    if any(term in ontology.ancestors(choice) for choice in cell.choices if choice):
        return ""
    shared = relevant(term) & relevant(cell.term)
    nearest = max(shared, key=lambda t: (len(ontology.ancestors(t)), t), default="")
    return ontology.names[nearest] if nearest and len(reference().types(nearest)) <= NARROW else ""


def is_a_lower(cell: CellFacts, name: str, label: str) -> str:
    """As :func:`is_a`, within a sentence."""
    return is_a(cell, name, label).replace("The ", "the ", 1)


def _label_instead(cell: CellFacts, name: str, label: str) -> str:
    return f"{is_a(cell, name, label, '' if cell.probability >= 0.5 else 'most likely')}."


def _chance(asked: str, chance: float) -> str:
    return f"{capital(with_article(asked))} is possible, with a probability of {shown_probability(chance)}."


def judge_gene(cell: CellFacts, gene: str, name: str) -> list[str]:
    """Whether a cell expresses a gene, and what that means for its label, in words.

    Parameters
    ----------
    cell
        The cell.
    gene
        Approved symbol.
    name
        What the cell is called.
    """
    amount, who = cell.amount(gene), subject(cell, name)
    within = who.replace("The ", "the ", 1)
    if amount is None:
        told = [f"{gene} was not measured, so it cannot be told whether {within} expresses it."]
    elif amount > 0:
        told = [amount_sentence(cell, name, gene)]
    elif cell.is_group:
        told = [f"{gene} is expressed by less than a tenth of the cells of {within}."]
    else:
        told = [_not_detected(cell, gene, within)]
    if cell.term and (text := _marks_label(cell, gene)):
        told.append(text)
    return told


def _not_detected(cell: CellFacts, gene: str, within: str) -> str:
    chance = cell.detection(gene, cell.term) if cell.term else float("nan")
    start = f"{gene} is not detected in {within}"
    if chance >= TELLING:
        label = cell_ontology().names[cell.term]
        shown = f"would show it with a probability of {shown_probability(chance)}"
        return f"{start}. {capital(with_article(label))} of this depth {shown}."
    known = reference()
    if cell.term and gene in known.row:
        level, most = known.level(gene, cell.term), float(known.mean[known.row[gene]].max())
        if level < RARE * most and most >= 1:
            return f"{start}, as is usual for {in_plural(cell_ontology().names[cell.term])}."
    return f"{start}, which says little at this depth."


def _marks_label(cell: CellFacts, gene: str) -> str:
    """Whether a gene is a marker of the label, of a wider type, or of others."""
    ontology = cell_ontology()
    label = ontology.names[cell.term]
    if n := sources_of(cell.term).get(gene):
        return f"{gene} is a marker of {in_plural(label)}, named by {counted(n, 'source')}."
    near = [t for t in types_marked().get(gene, {}) if t in ontology.ancestors(cell.term)]
    known = reference()
    if near and gene in known.row and known.level(gene, cell.term) < LOW * known.mean[known.row[gene]].max():
        return f"{gene} is a marker of {in_plural(ontology.names[near[0]])}, but it is low in {in_plural(label)}."
    if near:
        return f"{gene} is a marker of {in_plural(ontology.names[near[0]])}, and {in_plural(label)} are among them."
    other = marker_sentence(gene)
    if other:
        return f"{gene} is no known marker of {in_plural(label)}. {other}"
    return f"{gene} is no known marker of {in_plural(label)}."


def judge_unknown(word: str) -> str:
    """That something is no gene."""
    return f"{word} is not the symbol of a known human gene, so nothing can be told about it."


def judge_pathway(cell: CellFacts, pathway: str, name: str) -> list[str]:
    """Which genes of a pathway a cell expresses, in words.

    Parameters
    ----------
    cell
        The cell.
    pathway
        Its name.
    name
        What the cell is called.
    """
    who = subject(cell, name)
    genes = [gene for gene in pathways()[pathway].genes if cell.amount(gene) is not None]
    if not genes:
        return [f"No gene of {pathway} was measured, so nothing can be told about it."]
    shown = sorted((gene for gene in genes if cell.amount(gene)), key=lambda gene: -(cell.amount(gene) or 0))
    if not shown:
        return [f"{who} expresses none of the {len(genes)} measured genes of {pathway}."]
    among = f", among them {listed(shown[:4])}" if len(shown) > 4 else f": {listed(shown)}"
    told = [f"{who} expresses {len(shown)} of the {len(genes)} measured genes of {pathway}{among}."]
    return [*told, "Expression of its genes does not prove that a pathway is active."]


def judge_state(cell: CellFacts, state: str, name: str) -> str:
    """Whether a cell shows a state, in words; see ``STATES``."""
    genes = cell.states.get(state, ())
    return state_sentence(cell, name, state, genes) if genes else no_state_sentence(cell, name, state)


def judge_call(cell: CellFacts, name: str) -> list[str]:
    """Whether the label can be relied on: what speaks for it and what against it, in words."""
    if cell.label == UNKNOWN or not cell.term:
        return []
    label = cell_ontology().names[cell.term]
    speaking = [m.gene for m in cell.markers if m.specificity.home and _is_near(m, cell)][:3]
    against = [absence.gene for absence in cell.absences if absence.label == cell.label]
    told = [f"The label {label} is {cell.certainty}."]
    if speaking:
        told.append(f"{listed(speaking)} speak{'s' if len(speaking) == 1 else ''} for {label}.")
    else:
        told.append(f"No expressed marker speaks clearly for {label}.")
    other, genes = cell.strangers
    if against:
        told.append(f"The absence of {listed(against)} speaks against {label}.")
    if genes:
        told.append(f"{listed(genes[:3])} speak against {label}, because they are specific to {in_plural(other)}.")
    if rivals := rival_sentence(cell, name):
        told.append(rivals)
    if not against and not genes and not rivals:
        told.append(f"Nothing that was measured speaks clearly against {label}.")
    return told


def _is_near(marker: Marker, cell: CellFacts) -> bool:
    """Whether a marker of few types is as high in the label as where it is at home."""
    known = reference()
    level, most = known.level(marker.gene, cell.term), float(known.mean[known.row[marker.gene]].max())
    return marker.specificity.breadth <= SPEAKS_FOR and level >= LOW * most


def judge_unusual(cell: CellFacts, name: str) -> str:
    """That nothing is unusual."""
    return f"Nothing unusual is seen in {subject(cell, name).replace('The ', 'the ', 1)}."
