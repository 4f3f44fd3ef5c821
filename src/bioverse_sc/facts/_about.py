"""What a question is about, as the prompt calls it, and the facts that are shown for the question."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bioverse_sc._modality import CELLS, modality_of
from bioverse_sc.facts._check import REFUSAL, CheckedSentence, check_answer
from bioverse_sc.facts._entities import binding_facts, entity_facts
from bioverse_sc.facts._fact import Fact
from bioverse_sc.facts._gather import MOST, gather

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.facts._cells import CellFacts
    from bioverse_sc.facts._memory import Known

SUPPORTED = ("supported", "refusal")
"""Verdicts of sentences that are shown."""
_POLAR = re.compile(r"^(?:yes|no|probably not|probably)[.,:;]\s*", re.IGNORECASE)
_OTHER_NOUNS = {
    CELLS: ("cluster",),
    "protein": ("peptide", "enzyme", "sequence"),
    "molecule": ("compound", "drug", "chemical", "substance", "ligand"),
}
"""What questions call observations of a modality, beside its noun."""
_ENDS = re.compile(r"[.!?][\"')]?$")


@dataclass(frozen=True)
class About:
    """An observation that a question is about, and what is known of it."""

    name: str
    """What the prompt calls it: ``"Cell"``, or ``"Protein 1"`` where there are several proteins."""
    mod: str = CELLS
    """Its modality."""
    cell: CellFacts | None = None
    """Of a cell or a group of cells."""
    text: str = ""
    """Of a protein its sequence, of a molecule its SMILES."""
    nearest: Sequence[Known] | None = ()
    """The known ones that are nearest to it; see :meth:`Memory.nearest`. ``None`` where it was not looked up."""

    @property
    def noun(self) -> str:
        """What sentences call it: ``"The protein"``, or ``"Protein 1"``."""
        return f"The {modality_of(self.mod).noun}" if self.name == modality_of(self.mod).title else self.name


def facts_about(
    question: str, abouts: Sequence[About] = (), *, earlier: Sequence[str] = (), most: int = MOST
) -> list[Fact]:
    """The facts to show for a question: of what it is about, and of the genes, types and pathways that it names.

    Parameters
    ----------
    question
        In any words.
    abouts
        What the question is about; of nothing, the tables alone answer.
    earlier
        The questions before in the conversation, oldest first.
    most
        Facts of cells and tables at most; those of proteins and molecules are few, and all are shown.
    """
    asked = _named(question, abouts)
    cells = {about.name: about.cell for about in asked if about.cell is not None}
    # of features with abundances there is no text, and nothing is known
    others = [about for about in asked if about.cell is None and about.text]
    facts = gather(question, cells, earlier=earlier, most=most)
    for about in others:
        told = entity_facts(about.mod, about.text, about.nearest, name=about.noun)
        facts += [replace(fact, text=_within(fact.text, about.noun), about=about.name) for fact in told]
    return facts + _together(abouts)


def _named(question: str, abouts: Sequence[About]) -> Sequence[About]:
    """Those that a question names, by what the prompt calls them or by their kind; all of them where it names none."""
    by_name = [about for about in abouts if re.search(rf"\b{re.escape(about.name)}\b", question, re.IGNORECASE)]
    if any(about.name[-1].isdigit() for about in by_name):
        return by_name
    return [about for about in abouts if _calls(question, about.mod)] or abouts


def _calls(question: str, mod: str) -> bool:
    """Whether a question speaks of an observation of a modality."""
    nouns = map(re.escape, (modality_of(mod).noun, *_OTHER_NOUNS.get(mod, ())))
    return bool(re.search(rf"\b({'|'.join(nouns)})s?\b", question, re.IGNORECASE))


def refusal_about(abouts: Sequence[About] = ()) -> str:
    """What is said when no fact answers a question.

    Parameters
    ----------
    abouts
        What the question is about.
    """
    of_one = len(abouts) == 1 and abouts[0].noun.startswith("The ")
    thing = f"this {abouts[0].noun.removeprefix('The ')}" if of_one else "what is known here"
    return f"That cannot be told from {thing}."


def _together(abouts: Sequence[About]) -> list[Fact]:
    """What may be concluded of several of them."""
    told = [about for about in abouts if about.cell is not None or about.text]
    molecules, proteins, cells = ([a for a in told if a.mod == mod] for mod in ("molecule", "protein", CELLS))
    facts = []
    for molecule in molecules:
        for protein in proteins:
            near = molecule.nearest or (), protein.nearest or ()
            both = binding_facts(*near, molecule_name=molecule.noun, protein_name=protein.noun)
            facts += [replace(fact, text=_within(_within(fact.text, molecule.noun), protein.noun)) for fact in both]
        for cell in cells:
            text = f"Nothing known says what {molecule.noun} does to {cell.noun}."
            text = _within(_within(text, molecule.noun), cell.noun)
            facts.append(Fact(text, "judgment", f"{molecule.name} and {cell.name}"))
    return facts


def _within(text: str, noun: str) -> str:
    """The text with a small article where the noun does not begin a sentence."""
    return (
        re.sub(rf"(?<=[a-z,;)] ){re.escape(noun)}\b", noun[:1].lower() + noun[1:], text) if noun[:4] == "The " else text
    )


def shown_answer(answer: str, facts: Sequence[Fact], *, refusal: str = REFUSAL) -> tuple[str, list[CheckedSentence]]:
    """What is shown of an answer: its sentences that the facts support, and that say something new. This is a rule.

    A last sentence that was cut off is left out where others remain.

    Parameters
    ----------
    answer
        As it was written.
    facts
        What it was written from.
    refusal
        What is said where nothing remains.

    Returns
    -------
    The text to show, and all sentences with their verdicts.
    """
    polar = match[0] if (match := _POLAR.match(answer.strip())) else ""
    sentences = check_answer(answer.strip()[len(polar) :], facts)
    supported: list[str] = []
    for sentence in sentences:
        if sentence.verdict not in SUPPORTED:
            continue
        is_more = _ENDS.search(sentence.text) and not any(_is_said(sentence.text, before) for before in supported)
        if is_more or not supported:
            supported.append(sentence.text)
    if not supported:
        return refusal, sentences
    # a yes that nothing bears out, or that stands before a refusal, says more than is known
    is_borne_out = bool(sentences) and sentences[0].verdict == "supported"
    return (polar if is_borne_out else "") + " ".join(supported), sentences


def _is_said(sentence: str, before: str) -> bool:
    """Whether the sentence before says all that a sentence says."""
    if sentence == before:
        return True
    said = check_answer(sentence, [Fact(before, "answer", "")])
    return all(checked.verdict == "supported" for checked in said)
