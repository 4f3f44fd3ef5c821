"""What a language model learns to write about the label of a cell, from what is known of the cell.

First the label's markers that the cell expresses and what one of them does, then the runner-up and what speaks against
it, what is unusual, the state, and how certain the label is. Each sentence has several forms, drawn at random.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bioverse_sc.facts import in_plural, shown_probability, with_article
from bioverse_sc.ontology import UNKNOWN, cell_ontology

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from bioverse_sc.facts import Absence, CellFacts, Fact

MARKERS = (
    "The cell expresses {genes}, {markers} of {types}.",
    "{genes} {are} expressed and {mark} {types}.",
    "{genes} point{s} to {a_type}.",
    "Its {genes} fit{s} {a_type}.",
    "{genes} speak{s} for {a_type}.",
    "Among the genes of the cell {are} {genes}, known {markers} of {types}.",
    "The label rests on {genes}, {markers} of {types}.",
    "{genes}, {markers} of {types}, {are} there.",
    "With {genes} the cell has known {markers} of {types}.",
)
NO_MARKERS = (
    "The cell expresses no known marker of {types} itself.",
    "No known marker of {types} itself is expressed, so the label rests on the whole profile.",
    "None of the known markers of {types} is detected.",
)
WIDER = (
    "It expresses {genes}, {markers} of {types}.",
    "{genes} {mark} the wider type, {types}.",
    "The wider type shows in {genes}, {markers} of {types}.",
)
RUNNER_UP = (
    "The next most likely type is {other}, with a probability of {p}.",
    "Next comes {other}, with a probability of {p}.",
    "The runner-up is {other}, with {p}.",
    "After it comes {other} ({p}).",
    "{An_other} is the next candidate, with a probability of {p}.",
    "The alternative is {other}, with a probability of {p}.",
)
ALONE = (
    "No other type has a probability of 0.01 or more.",
    "No other type comes near.",
    "There is no other candidate.",
)
AGAINST = (
    "{gene} is not detected, which {a_type} of this depth would show with a probability of {p}.",
    "Against {type} speaks that {gene} is not detected: such a cell would show it with a probability of {p}.",
    "{gene} is missing, though {a_type} of this depth would show it with a probability of {p}.",
    "{A_type} would show {gene} with a probability of {p}, and it is not detected.",
)
UNUSUAL = (
    "It also expresses {genes}, which {are} specific to {others}; this is unusual.",
    "Unusual are {genes}, specific to {others}.",
    "What does not fit are {genes}, specific to {others}: it may be two cells, or hold RNA of others.",
)
STATE = (
    "The cell shows {state}: it expresses {genes}.",
    "{genes} show {state}.",
    "It shows {state}, by {genes}.",
)
SURE = (
    "The label is {certainty}, with a probability of {p}.",
    "So the label is {certainty} ({p}).",
    "In all, the label is {certainty}, at a probability of {p}.",
    "That makes the label {certainty}: its probability is {p}.",
)
DOUBTFUL = (
    "The label is {certainty}: its probability is only {p}.",
    "So the label is {certainty}, at a probability of {p}.",
    "With a probability of {p} the label is {certainty}.",
    "The evidence does not settle it: the label is {certainty} ({p}).",
)
_SHOWS = re.compile(r"The (?:cell|cluster) shows (.+): it expresses (.+)\.")
UNSETTLED = (
    "No type is likely enough for a label.",
    "The cell is like no known type.",
    "No known type fits the cell well enough for a label.",
)


def explained(cell: CellFacts, rng: np.random.Generator) -> tuple[str, list[Fact]]:
    """A reasoning, and the facts that it tells."""

    def form(forms: Sequence[str], **values: str) -> str:
        text = forms[int(rng.integers(len(forms)))].format(**values)
        if cell.is_group:
            text = text.replace("The cell", "The cluster").replace("the cell", "the cluster")
        return text[:1].upper() + text[1:]

    facts = cell.facts("Cell")
    told = [fact for fact in facts if fact.topic in ("label", "certainty", "runner-up", "markers", "gene")]
    if cell.label == UNKNOWN or not cell.term:
        likely = next((c for c in cell.candidates if c.label != UNKNOWN), None)
        near = (
            f" The likeliest is {likely.label}, with a probability of {shown_probability(likely.probability)}."
            if likely
            else ""
        )
        return form(UNSETTLED) + near, told
    label = cell_ontology().names[cell.term]
    sentences = [*_markers(cell, label, form)]
    functions = [fact.text for fact in facts if fact.topic == "gene"]
    if functions and rng.random() < 0.8:
        sentences.append(functions[0])
    others = [c for c in cell.runners_up if c.label != UNKNOWN]
    if others:
        named = with_article(others[0].label)
        values = {"other": others[0].label, "An_other": named[:1].upper() + named[1:]}
        sentences.append(form(RUNNER_UP, p=shown_probability(others[0].probability), **values))
        sentences += [_against(absence, form) for absence in cell.absences_of_runner_up[:1]]
    elif rng.random() < 0.5:
        sentences.append(form(ALONE))
    sentences += [_against(absence, form) for absence in cell.absences if absence.label == cell.label][:1]
    other, genes = cell.strangers
    if genes:
        sentences.append(
            form(UNUSUAL, genes=_listed(genes[:3]), others=in_plural(other), are="is" if len(genes) == 1 else "are")
        )
    sentences += [
        f.text for f in facts if f.topic == "unusual" and "also expresses" not in f.text and "few counts" not in f.text
    ][:1]
    for fact in facts:
        if fact.topic == "state" and (shows := _SHOWS.fullmatch(fact.text)):
            sentences.append(form(STATE, state=shows[1], genes=shows[2]))
    certain = {"certainty": cell.certainty, "p": shown_probability(cell.probability)}
    sentences.append(form(SURE if cell.probability >= 0.8 else DOUBTFUL, **certain))
    return " ".join(sentences), [*told, *(f for f in facts if f.topic in ("absence", "unusual", "state"))]


def _markers(cell: CellFacts, label: str, form: Callable[..., str]) -> list[str]:
    mine = [marker.gene for marker in cell.markers if marker.marks == label][:4]
    values = {"a_type": with_article(label), "types": in_plural(label)}
    said = [form(MARKERS, genes=_listed(mine), **_number(mine), **values)] if mine else [form(NO_MARKERS, **values)]
    specific = [m for m in cell.markers[:3] if m.specificity.is_specific]
    if specific:
        said.append(specific[0].specificity.sentence(specific[0].gene))
    wider = [m for m in cell.markers if m.marks != label and m.specificity.home]
    if wider and len(mine) < 2:
        same = [m.gene for m in wider if m.marks == wider[0].marks][:2]
        said.append(form(WIDER, genes=_listed(same), types=in_plural(wider[0].marks), **_number(same)))
    return said


def _against(absence: Absence, form: Callable[..., str]) -> str:
    named = with_article(absence.label)
    values = {"gene": absence.gene, "type": absence.label, "a_type": named, "A_type": named[:1].upper() + named[1:]}
    return form(AGAINST, p=shown_probability(absence.probability), **values)


def _number(genes: Sequence[str]) -> dict[str, str]:
    """Words that go with one gene or several."""
    if len(genes) == 1:
        return {"are": "is", "s": "s", "mark": "marks", "markers": "a marker"}
    return {"are": "are", "s": "", "mark": "mark", "markers": "markers"}


def _listed(items: Sequence[str]) -> str:
    items = list(items)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
