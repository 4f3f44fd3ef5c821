"""What the small language model learns to write about the label of a cell: what its prompt holds, in sentences.

First the label's markers and what one of them does, then the runner-up and what speaks against it, what is unusual, the
state, and how certain the call is. The number in a part of the prompt says which of several forms its sentence has, so
that a small language model, which is sure of its words, does not write the same sentence about every cell. Nearly all
words are tokens of their own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bioverse_sc.facts import in_plural, listed, with_article
from bioverse_sc.models import reasoning_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from bioverse_sc.models import Segment
    from bioverse_sc.reasoning import Case

WORDINGS = {
    "markers": (
        "It expresses {genes}, {known_markers} of {types}.",
        "In it {genes} {are} expressed, {known_markers} of {types}.",
        "The call rests on {genes}, {markers} of {types}.",
        "As other {types} do, it expresses {genes}.",
        "{genes}, {markers} of {types}, {are} expressed.",
        "Its {genes} {are} {markers} of {types}.",
        "{genes} support{s} the call.",
        "With {genes} it has {known_markers} of {types}.",
    ),
    "no_markers": (
        "None of its genes is a known marker of {types}.",
        "The call rests on the whole profile, as its genes are not known markers of {types}.",
        "It does not express a known marker of {types}.",
    ),
    "wider": (
        "It also expresses {genes}, {markers} of {types}.",
        "{genes} {are} {markers} of the wider type, {types}.",
        "{genes}, {markers} of {types}, {are} expressed too.",
        "As {types} do, it expresses {genes}.",
    ),
    "highest": (
        "{genes} {are} among its highest genes.",
        "What is high in it: {genes}.",
        "Its highest genes include {genes}.",
    ),
    "function": (
        "{gene} has a role in {process}.",
        "{gene} is known for its role in {process}.",
        "The role of {gene} is in {process}.",
    ),
    "next": (
        "The next most likely type is {type}, with a probability of {probability}.",
        "The next candidate is {type}, with a probability of {probability}.",
        "Also possible is {type}, with a probability of {probability}.",
        "After it, {type} is most likely, with a probability of {probability}.",
        "{A_type} is the next candidate, with a probability of {probability}.",
        "It may also be {a_type}, with a probability of {probability}.",
    ),
    "likelier": (
        "{A_type} is more likely, with a probability of {probability}.",
        "The profile is more like {a_type}, with a probability of {probability}.",
        "A more likely type is {type}, with a probability of {probability}.",
    ),
    "alone": (
        "No other type is near.",
        "None of the other types is near.",
        "No other type is likely.",
        "",
    ),
    "missing": (
        "It lacks {gene}, which {a_type} would have with a probability of {probability}.",
        "It has no {gene}, which {a_type} would have with a probability of {probability}.",
        "It is without {gene}, which {a_type} would have with a probability of {probability}.",
        "Also missing is {gene}, which {a_type} would have with a probability of {probability}.",
    ),
    "rival": (
        "It also expresses {genes}, which support{s} {a_type}.",
        "{genes} would support {a_type}.",
        "It expresses {genes} too, as {a_type} would.",
    ),
    "unusual": (
        "It also expresses {genes}, which {are} specific to {types}; this is unusual.",
        "What is unusual: it expresses {genes}, which {are} specific to {types}.",
        "{genes} {are} unusual here, as {they_are} specific to {types}.",
    ),
    "note": (
        "It has {note}, which is unusual.",
        "What is unusual: it has {note}.",
    ),
    "state": (
        "It shows {state}: it expresses {genes}.",
        "With {genes} it shows {state}.",
        "It shows {state}, by {genes}.",
    ),
    "sure": (
        "The call is {certainty}, with a probability of {probability}.",
        "So the call is {certainty}, with a probability of {probability}.",
        "With a probability of {probability} the call is {certainty}.",
        "Together this makes the call {certainty}: its probability is {probability}.",
        "In all, the call is {certainty}, at a probability of {probability}.",
        "This makes the call {certainty}, with a probability of {probability}.",
    ),
    "doubtful": (
        "The call is {certainty}: its probability is only {probability}.",
        "So the call is {certainty}, at a probability of {probability}.",
        "With a probability of only {probability} the call is {certainty}.",
        "The genes leave it open: the call is {certainty}, with a probability of {probability}.",
        "That leaves the call open: it is {certainty}, with a probability of {probability}.",
    ),
    "unsettled": (
        "No known type is like it.",
        "No type is likely enough for a call.",
        "It is unlike the known types.",
    ),
}
"""Of each part of a prompt, by its number. What is said where a part is missing goes by the number of the last one."""
PARTS = "markers wider highest function next likelier missing rival unusual note state".split()
"""But for ``sure``, in their order."""
MANY, ONE = (
    {"are": "are", "s": "", "markers": "markers", "known_markers": "known markers", "they_are": "they are"},
    {"are": "is", "s": "s", "markers": "a marker", "known_markers": "a known marker", "they_are": "it is"},
)


def reason(case: Case) -> str:
    """What is written about a case, all of it from the prompt."""
    parts = case.parts
    said = []
    # the parts stand in the order of their sentences
    for name in PARTS:
        said += [sentence(name, values, case.label) for values in parts.get(name, ())]
        if name == "markers" and "sure" in parts and name not in parts:
            said.append(sentence("no_markers", {"form": case.form(name), "types": in_plural(case.label)}))
        if name == "markers" and "sure" not in parts:
            said.append(sentence("unsettled", {"form": case.form(name)}))
        if name == "likelier" and "sure" in parts and not case.runner_up[0]:
            said.append(sentence("alone", {"form": case.form("sure")}))
    kind = "sure" if case.probability >= 0.8 else "doubtful"
    said += [sentence(kind, values) for values in parts.get("sure", ())]
    return " ".join(part for part in said if part)


def sentence(name: str, values: dict[str, str], label: str = "") -> str:
    """A part of a prompt in words, about a cell with this label."""
    forms = WORDINGS[name]
    filled = dict(values)
    genes = values["genes"].split(", ") if "genes" in values else []
    if genes:
        filled["genes"] = listed(genes)
    filled["a_type"] = with_article(values.get("type", label))
    filled["A_type"] = capital(filled["a_type"])
    text = forms[int(values["form"]) % len(forms)].format(**filled, **(ONE if len(genes) == 1 else MANY))
    return capital(text)


def invented(case: Case, genes: Sequence[str], types: Sequence[str], rng: np.random.Generator) -> Case:
    """The case with other genes, types but for the label, and numbers, all of them drawn.

    What it says cannot be guessed from the cell, so a language model learns to read it in the prompt.
    """
    named = list(dict.fromkeys([*case.genes, *case.missing, case.role[0]]))
    gene = dict(zip(named, rng.choice(genes, size=len(named), replace=False).tolist(), strict=True)) | {"": ""}
    others = {case.wider[0], case.runner_up[0], case.unusual[0], *(absence.label for absence in case.absences)}
    others = sorted(others - {case.label, ""})
    drawn = rng.choice([name for name in types if name != case.label], size=len(others), replace=False).tolist()
    type_ = dict(zip(others, drawn, strict=True)) | {case.label: case.label, "": ""}

    def some(listed: Sequence[str]) -> tuple[str, ...]:
        return tuple(gene[name] for name in listed)

    share = float(rng.uniform(0.05, 0.95))
    return replace(
        case,
        markers=some(case.markers),
        wider=(type_[case.wider[0]], some(case.wider[1])),
        highest=some(case.highest),
        role=(gene[case.role[0]], case.role[1]),
        runner_up=(type_[case.runner_up[0]], float(rng.uniform(0.01, 1 - share)) if case.runner_up[0] else 0.0),
        absences=tuple(
            replace(a, gene=gene[a.gene], label=type_[a.label], probability=float(rng.uniform(0.8, 1)))
            for a in case.absences
        ),
        rival=some(case.rival),
        unusual=(type_[case.unusual[0]], some(case.unusual[1])),
        state=(case.state[0], some(case.state[1])),
        probability=share,
    )


def capital(text: str) -> str:
    """The text with a capital in front."""
    return text[:1].upper() + text[1:]


def reasoned_prompt(case: Case) -> list[Segment]:
    """The prompt of a case with its answer."""
    return reasoning_prompt(case.label, case.genes, reason(case), parts=case.parts)
