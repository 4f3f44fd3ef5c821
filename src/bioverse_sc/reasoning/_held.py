"""What a text about a cell may say: sentences that its prompt bears out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bioverse_sc.facts import SUPPORTED, Fact, check_answer, in_plural, listed, shown_probability, with_article
from bioverse_sc.ontology import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bioverse_sc.reasoning._cases import Case

STAMMER = re.compile(r"\b(\S+) \1\b")
"""A word that is written twice in a row: a small model has lost its way there."""


def held(text: str, case: Case) -> tuple[str, int]:
    """The sentences of a text that its prompt bears out, each once, and how many are left out. This is a rule.

    Parameters
    ----------
    text
        As the language model wrote it.
    case
        What it was shown.
    """
    sentences = check_answer(text, [Fact(said, "reasoning", "Cell") for said in _said(case)])
    borne_out = dict.fromkeys(
        sentence.text
        for sentence in sentences
        if sentence.verdict in SUPPORTED and STAMMER.search(sentence.text) is None
    )
    return " ".join(borne_out), len(sentences) - len(borne_out)


def _said(case: Case) -> Iterator[str]:
    """What the parts of a prompt say, in the words of facts."""
    types = in_plural(case.label)
    yield from _marking(case.markers, types)
    yield from _marking(case.wider[1], in_plural(case.wider[0]))
    if not case.markers:
        yield f"The cell expresses no known marker of {types} itself. None of its genes is a known marker of {types}."
    if case.highest:
        yield f"The cell expresses {listed(case.highest)}. Its highest genes are {listed(case.highest)}."
    if case.role[1]:
        yield f"{case.role[0]} takes part in {case.role[1]}."
    other, chance = case.runner_up
    if other:
        kind = "A more likely" if case.has_likelier else "The next most likely"
        yield f"{kind} type is {other}, with a probability of {shown_probability(chance)}."
    else:
        yield "No other type has a probability of 0.01 or more."
    for absence in case.absences:
        a_type, chance = with_article(absence.label), absence.probability
        shown = shown_probability(chance)
        yield f"{absence.gene} is not detected. {a_type} of this depth would show it with a probability of {shown}."
    if case.rival:
        yield f"The cell expresses {listed(case.rival)}, which speak for {other}."
    stranger, genes = case.unusual
    if genes:
        yield f"The cell expresses the unusual {listed(genes)}, which are specific to {in_plural(stranger)}."
    for note in case.notes:
        yield f"It has {note}, which is unusual."
    state, showing = case.state
    if showing:
        yield f"The cell shows {state}. It expresses {listed(showing)}."
    if case.label == UNKNOWN:
        yield "No type is likely enough for a label."
    else:
        yield f"The label is {case.certainty}. Its probability is {shown_probability(case.probability)}."


def _marking(genes: Sequence[str], types: str) -> Iterator[str]:
    if genes:
        named = listed(genes)
        yield f"The cell expresses {named}, known markers of {types}. {named} are known markers of {types}."
