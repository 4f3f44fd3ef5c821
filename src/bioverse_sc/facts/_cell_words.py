"""What is known of a cell, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bioverse_sc.facts._fact import Fact
from bioverse_sc.facts._genes import gene_facts
from bioverse_sc.facts._states import FEW_COUNTS, STATES
from bioverse_sc.facts._types import MARKER_TABLE
from bioverse_sc.facts._words import capital, counted, in_plural, listed, percent, shown_probability, with_article
from bioverse_sc.ontology import UNKNOWN, cell_ontology

if TYPE_CHECKING:
    from bioverse_sc.facts._cells import Absence, CellFacts, Marker

NAMED, TOLD = 6, 3
"""Markers that are listed, and that have a sentence of their own."""


def subject(cell: CellFacts, name: str) -> str:
    """``"The cell"``, ``"The cluster"``, or the name."""
    if name == "Cell":
        return "The cluster" if cell.is_group else "The cell"
    return "The cluster" if name == "Cluster" else name


def is_a(cell: CellFacts, name: str, label: str, how: str = "") -> str:
    """``"The cell is a T cell"``, ``"The cluster consists of T cells"``; ``how`` may be ``"probably not"``."""
    who = subject(cell, name)
    if not cell.is_group:
        return f"{who} is {f'{how} ' if how else ''}{with_article(label)}"
    denies = how.endswith("not")
    adverb = how.removesuffix("not").strip()
    verb = "does not consist" if denies else "consists"
    verb = f"{adverb} {verb}" if adverb else verb
    return f"{who} {verb} of {in_plural(label)}"


def cell_sentences(cell: CellFacts, name: str) -> list[Fact]:
    """Sentences of all that is known of a cell; see :meth:`CellFacts.facts`."""
    said = [
        *_label(cell, name),
        *_markers(cell, name),
        *[(absence_sentence(absence), "absence", "") for absence in cell.absences],
        *_unusual(cell, name),
        *_states(cell, name),
        *_numbers(cell, name),
        *[(f"The sample's {key.replace('_', ' ')} is {value}.", "study", "") for key, value in cell.study.items()],
    ]
    return [Fact(text, topic, name, source) for text, topic, source in said]


def label_sentence(cell: CellFacts, name: str) -> str:
    """The label, and the Cell Ontology name of one in other words."""
    if cell.label == UNKNOWN:
        return f"The type of {subject(cell, name).replace('The', 'the', 1)} is unknown."
    if not cell.term:
        return f"{subject(cell, name)} is labelled {cell.label}."
    ontology_name = cell_ontology().names[cell.term]
    if cell.is_outdone:
        return f"{subject(cell, name)} is labelled {cell.label}, but another type is more likely."
    how = "" if cell.probability >= 0.5 else "most likely"
    if cell.label.casefold() in (ontology_name.casefold(), in_plural(ontology_name).casefold()):
        return f"{is_a(cell, name, ontology_name, how)}."
    return f"{subject(cell, name)} is labelled {cell.label}. {is_a(cell, name, ontology_name, how)}."


def certainty_sentence(cell: CellFacts) -> str:
    """How sure the label is."""
    if cell.label == UNKNOWN:
        best = [c for c in cell.candidates if c.label != UNKNOWN]
        if not best:
            return "No type is likely enough for a label."
        likeliest = f"The likeliest is {best[0].label}, with a probability of {shown_probability(best[0].probability)}."
        return f"No type is likely enough for a label. {likeliest}"
    return f"The label is {cell.certainty}. Its probability is {shown_probability(cell.probability)}."


def runner_up_sentence(cell: CellFacts) -> str:
    """The likeliest other types."""
    others = [c for c in cell.runners_up if c.label != UNKNOWN]
    if not others:
        return "No other type has a probability of 0.01 or more."
    which = "A more likely type" if cell.is_outdone else "The next most likely type"
    first = f"{which} is {others[0].label}, with a probability of {shown_probability(others[0].probability)}."
    if len(others) > 1 and others[1].probability >= 0.05:
        first += f" After it comes {others[1].label}, with {shown_probability(others[1].probability)}."
    return first


def rival_sentence(cell: CellFacts, name: str) -> str:
    """Expressed markers that speak for the likeliest other type; ``""`` for none."""
    if not cell.rival_markers:
        return ""
    verb = "speaks" if len(cell.rival_markers) == 1 else "speak"
    genes = listed(cell.rival_markers)
    return f"{subject(cell, name)} expresses {genes}, which {verb} for {cell.runners_up[0].label}."


def _label(cell: CellFacts, name: str) -> list[tuple[str, str, str]]:
    said = [(label_sentence(cell, name), "label", ""), (certainty_sentence(cell), "certainty", "")]
    if cell.label != UNKNOWN:
        said.append((runner_up_sentence(cell), "runner-up", ""))
        said += [(text, "runner-up", MARKER_TABLE) for text in [rival_sentence(cell, name)] if text]
    if cell.wider:
        kinds = [in_plural(kind) if cell.is_group else kind for kind in cell.wider]
        who = (
            in_plural(cell_ontology().names[cell.term])
            if cell.is_group
            else with_article(cell_ontology().names[cell.term])
        )
        verb = "are kinds of" if cell.is_group else "is a kind of"
        said.append((f"{capital(who)} {verb} {listed(kinds)}.", "type", "Cell Ontology"))
    if cell.term:
        said.append((f"The Cell Ontology id of the label is {cell.term}.", "label", "Cell Ontology"))
    return said


def _markers(cell: CellFacts, name: str) -> list[tuple[str, str, str]]:
    markers, who = cell.markers, subject(cell, name)
    if not markers:
        if cell.term:
            return [
                (f"{who} expresses no known marker of {in_plural(cell_ontology().names[cell.term])}.", "markers", "")
            ]
        return []
    label = cell_ontology().names[cell.term]
    mine = [m.gene for m in markers if m.marks == label][:NAMED]
    said = []
    if mine:
        many = "markers" if len(mine) > 1 else "marker"
        said.append((f"{who} expresses the {many} {listed(mine)} of {in_plural(label)}.", "markers", MARKER_TABLE))
    else:
        said.append((f"{who} expresses no known marker of {in_plural(label)} itself.", "markers", MARKER_TABLE))
    wider = [m for m in markers if m.marks != label and m.specificity.home]
    if wider and len(mine) < NAMED:
        same = [m.gene for m in wider if m.marks == wider[0].marks][:3]
        many = "markers" if len(same) > 1 else "a marker"
        said.append(
            (f"{who} expresses {listed(same)}, {many} of {in_plural(wider[0].marks)}.", "markers", MARKER_TABLE)
        )
    told = sorted(markers, key=lambda m: -m.worth)[:TOLD]
    said += [(marker_sentences(m, cell, name), "markers", "CellProfileLibrary") for m in told]
    if function := function_sentence(told):
        said.append((function, "gene", "RefSeq"))
    return said


def function_sentence(markers: list[Marker]) -> str:
    """What the first of some markers does that is known for something; ``""`` for none."""
    for source in ("RefSeq", "Gene Ontology"):
        for marker in markers:
            if texts := [fact.text for fact in gene_facts(marker.gene) if fact.source == source]:
                return texts[0].split(". ")[0].rstrip(".") + "."
    return ""


def marker_sentences(marker: Marker, cell: CellFacts, name: str) -> str:
    """How much of a marker there is, and whom it is specific to."""
    specific = marker.specificity.sentence(marker.gene)
    return f"{amount_sentence(cell, name, marker.gene)} {specific}".strip()


def amount_sentence(cell: CellFacts, name: str, gene: str) -> str:
    """That a gene is expressed, and how much: only counts and shares are numbers that a reader knows."""
    who, amount = subject(cell, name), cell.amount(gene) or 0
    if cell.is_group:
        return f"{percent(amount).capitalize()} of the cells of {who.replace('The', 'the', 1)} express {gene}."
    if not cell.has_counts:
        return f"{who} expresses {gene}."
    return f"{who} expresses {gene} with {counted(amount, 'count')}."


def absence_sentence(absence: Absence) -> str:
    """That a gene is not detected, how likely it would be, and what this speaks against."""
    chance, named = shown_probability(absence.probability), capital(with_article(absence.label))
    return (
        f"{absence.gene} is not detected, which speaks against {absence.label}. {named} of this depth would show it "
        f"with a probability of {chance}."
    )


def state_sentence(cell: CellFacts, name: str, state: str, genes: tuple[str, ...]) -> str:
    """A state with the genes that show it."""
    return f"{subject(cell, name)} shows {STATES[state].name}: it expresses {listed(genes[:4])}."


def no_state_sentence(cell: CellFacts, name: str, state: str) -> str:
    """That a state does not show."""
    genes = [gene for gene in STATES[state].genes if cell.amount(gene)]
    only = (
        f"of the genes for this it expresses only {listed(genes[:3])}"
        if genes
        else "none of the genes for this is detected"
    )
    seen = f"it expresses {len(genes)} of the genes for this, which is no more than usual" if len(genes) > 3 else only
    if not any(gene in cell.panel.column for gene in STATES[state].genes):
        return f"Whether {subject(cell, name).replace('The', 'the', 1)} shows {STATES[state].name} cannot be told."
    return f"{subject(cell, name)} does not show {STATES[state].name}: {seen}."


def _states(cell: CellFacts, name: str) -> list[tuple[str, str, str]]:
    """The states that show, or that none does."""
    if cell.states:
        return [(state_sentence(cell, name, state, genes), "state", "") for state, genes in cell.states.items()]
    if not any(gene in cell.panel.column for state in STATES.values() for gene in state.genes):
        return []
    names = listed((state.name for state in STATES.values()), "or")
    return [(f"{subject(cell, name)} does not show {names}.", "state", "")]


def _unusual(cell: CellFacts, name: str) -> list[tuple[str, str, str]]:
    said, who = [], subject(cell, name)
    other, genes = cell.strangers
    if genes:
        text = f"{who} also expresses {listed(genes[:3])}, which are specific to {in_plural(other)}."
        why = (
            "Some of its cells may be of another type."
            if cell.is_group
            else "It may be two cells, or hold RNA of others."
        )
        said.append((f"{text} This is unusual in {in_plural(cell.label)}. {why}", "unusual", ""))
    if cell.has_haemoglobin:
        text = f"{who} has haemoglobin although it is no red cell. This is often RNA of burst red cells."
        said.append((text, "unusual", ""))
    if cell.is_damaged:
        share = percent(cell.mitochondrial)
        text = f"The share of mitochondrial counts is high, at {share}. Such cells are often damaged."
        said.append((text, "unusual", ""))
    if cell.has_counts and not cell.is_group and cell.total < FEW_COUNTS:
        said.append((f"{who} has few counts, so a gene that is not detected says little.", "unusual", ""))
    return said


def _numbers(cell: CellFacts, name: str) -> list[tuple[str, str, str]]:
    who, genes = subject(cell, name), counted(cell.n_genes, "gene")
    if cell.is_group:
        said = [f"{who} expresses {genes} in a tenth of its cells or more."]
    elif cell.has_counts:
        said = [f"{who} has {counted(cell.total, 'count')} of {genes}."]
    else:
        said = [f"{who} expresses {genes}. Its counts are not known."]
    if cell.mitochondrial == cell.mitochondrial and not cell.is_damaged:
        said.append(f"The share of mitochondrial counts is {percent(cell.mitochondrial)}.")
    return [(text, "numbers", "") for text in said]
