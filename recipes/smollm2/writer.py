"""Writes questions in one of their wordings, and turns with the facts that are shown before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bioverse_sc.facts import Fact, in_plural, with_article
from bioverse_sc.ontology import cell_ontology

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

OPENERS = ("", "", "", "", "Hi! ", "Please: ", "One question. ", "OK. ", "Hm. ", "Next: ", "Well, ", "So, ")
Turn = tuple[str, str, list[str]]
"""Question, answer, facts that are shown before it."""


@dataclass
class Writer:
    """Writes turns about one entity after another."""

    rng: np.random.Generator
    wordings: dict[str, Any]
    genes: list[str]
    """Symbols that are asked about."""
    types: list[str]
    """Cell Ontology ids that are asked about."""
    pathways: list[str]
    earlier: list[str] = field(default_factory=list)
    shown: set[str] = field(default_factory=set)

    def pick(self, items: Sequence[Any]) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def worded(self, wordings: Sequence[str], **slots: str) -> str:
        """A question in one of its wordings, sometimes typed carelessly."""
        text = str(self.pick(wordings))
        for key, value in slots.items():
            text = text.replace(f"{{{key}}}", value)
        text = text[:1].upper() + text[1:] if self.rng.random() < 0.7 else text
        text = self.pick(OPENERS) + text
        if self.rng.random() < 0.12:
            text = text.rstrip("?.!")
        if self.rng.random() < 0.06 and not slots:
            text = text.lower()
        return text

    def named(self, term: str) -> dict[str, str]:
        """A type's name for the slots of a wording."""
        name = cell_ontology().names[term]
        return {"name": name, "a": with_article(name).split(" ", maxsplit=1)[0], "names": in_plural(name)}

    def turn(
        self, question: str, answers: Sequence[Fact | str], facts: Sequence[Fact], *, needed: Sequence[Fact] = ()
    ) -> Turn:
        """A turn whose answer is taken from facts, which stand among others in any order."""
        answer = " ".join(fact.text if isinstance(fact, Fact) else fact for fact in answers)
        needed_texts = [fact.text for fact in [*needed, *answers] if isinstance(fact, Fact)]
        others = [fact.text for fact in facts if fact.text not in needed_texts]
        # the first turn shows most of what the later ones ask for; at use too a later turn shows only what is new
        most = int(self.rng.integers(0, 3)) if self.earlier else int(self.rng.integers(4, 17))
        # in the order of their worth for the question as at use, or in any
        chosen = [*needed_texts, *others[:most]]
        if self.rng.random() < 0.6:
            chosen = [chosen[i] for i in self.rng.permutation(len(chosen))]
        chosen = [text for text in dict.fromkeys(chosen) if text not in self.shown]
        self.shown.update(chosen)
        self.earlier.append(question)
        return question, answer, chosen

    def begin(self) -> None:
        self.earlier, self.shown = [], set()
