"""Whether an answer holds: each of its sentences is compared with the facts. This is a rule.

A sentence is taken apart into clauses, and a clause into what it names, its numbers, its other words, and whether it
denies. A fact is taken apart in the same way. A clause is supported by a clause of a fact, or by two together, that has
all of it: the names, each number with its unit and its name, the words, and the same denial.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from bioverse_sc.facts._clauses import Clause, Number, clauses_of, sentences_of, stem
from bioverse_sc.ontology import cell_ontology

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.facts._fact import Fact

REFUSAL = "That cannot be told from this cell."
"""What is answered when no fact answers."""
VERDICTS = ("supported", "contradicted", "not in the facts", "refusal")
_REFUSES = re.compile(
    r"\b(can ?not|can't|could not|couldn't) be (told|said|answered|known|determined)\b|"
    r"\b(can ?not|can't|unable to) (tell|say|answer|determine)\b|\bnothing can be told\b|\bdo(es)? not (say|tell)\b"
)
_GOES_ON = re.compile(r"[.!?]\s+\S")
LONG = 8
"""A clause of so many words or more may have one that the facts do not have."""
PROBABILITY = frozenset({stem("probability")})
CERTAINTY_WORDS = frozenset(map(stem, ("sure", "fairly")))
ONE_VALUE = frozenset(map(stem, ("specific", "next", "full", "lineage", "tissue", "id")))
"""Words of what has one value: two facts that name different ones exclude each other."""


@dataclass(frozen=True)
class CheckedSentence:
    """A sentence of an answer, and whether the facts bear it out."""

    text: str
    verdict: str
    """One of ``"supported"``, ``"contradicted"``, ``"not in the facts"`` and ``"refusal"``."""
    fact: int | None = None
    """Index of the fact that decides; ``None`` where none does."""


def check_answer(answer: str, facts: Sequence[Fact]) -> list[CheckedSentence]:
    """Compare each sentence of an answer with the facts.

    Parameters
    ----------
    answer
        One or more sentences.
    facts
        What the answer was written from.

    Returns
    -------
    The sentences in their order. One is supported when each of its clauses is, by one fact or by two together;
    contradicted when a fact says of the same things the opposite: it denies what the sentence asserts or the other way
    round, gives another number for the same quantity, or another type as what the cell is. A sentence of which a part
    is neither is not in the facts. A sentence that says that something cannot be told is a refusal, unless a fact says
    the same.
    """
    known = [clause for i, fact in enumerate(facts) for clause in clauses_of(fact.text, i)]
    return [_checked(sentence, known) for sentence in sentences_of(answer)]


def _checked(sentence: str, known: list[Clause]) -> CheckedSentence:
    clauses = [clause for clause in clauses_of(sentence, -1) if not clause.is_empty]
    if sentence.strip() == REFUSAL:
        return CheckedSentence(sentence, "refusal")
    supporting = [_support(clause, known) for clause in clauses]
    if clauses and all(fact is not None for fact in supporting):
        return CheckedSentence(sentence, "supported", supporting[0])
    # behind a stop without a capital something else may be asserted
    if _REFUSES.search(sentence.lower()) and not _GOES_ON.search(sentence):
        return CheckedSentence(sentence, "refusal")
    for clause, fact in zip(clauses, supporting, strict=True):
        if fact is None and (against := _contradiction(clause, known)) is not None:
            return CheckedSentence(sentence, "contradicted", against)
    return CheckedSentence(sentence, "not in the facts")


def _support(clause: Clause, known: list[Clause]) -> int | None:
    """Index of the fact that supports a clause, ``None`` for none."""
    if clause.says_label:
        labelled = (f for f in known if f.says_label and f.denies == clause.denies and clause.types <= f.types)
        if fact := next(labelled, None):
            return fact.fact
    if clause.says_type:
        return _type_support(clause, known)
    for fact in known:
        if _covers(clause, [fact]):
            return fact.fact
    near = [fact for fact in known if fact.denies == clause.denies and _share_something(clause, fact)]
    for pair in combinations(near, 2):
        if _covers(clause, list(pair)):
            return pair[0].fact
    return None


def _share_something(clause: Clause, fact: Clause) -> bool:
    return bool(clause.names & fact.names or clause.words & fact.words or clause.numbers & fact.numbers)


def _covers(clause: Clause, facts: list[Clause]) -> bool:
    """Whether some clauses of facts have all that a clause has."""
    if any(fact.denies != clause.denies or fact.is_reversed(clause) for fact in facts):
        return False
    if clause.is_directed and len(facts) > 1:
        return False
    # what is known of a relative is not yet so of what is asked about
    if any(fact.is_of_relative for fact in facts) and not clause.is_hedged:
        return False
    words = frozenset().union(*(fact.words for fact in facts))
    names = frozenset().union(*(fact.names for fact in facts))
    # a label that is fairly sure is not sure
    if not clause.names and (graded := clause.words & CERTAINTY_WORDS) and graded != words & CERTAINTY_WORDS:
        return False
    if not clause.names <= names or _misses(clause.words, words):
        return False
    if not all(any(_has_number(fact, number, clause) for fact in facts) for number in clause.numbers):
        return False
    # what is said of one thing must not be said of another: the facts that name it have all words
    for name in clause.names:
        if _misses(clause.words, frozenset().union(*(fact.words for fact in facts if name in fact.names))):
            return False
    return all(any(pair <= fact.names for fact in facts) for pair in clause.pairs)


def _has_number(fact: Clause, number: Number, clause: Clause) -> bool:
    """Whether a fact has a number of a clause, and is about what the clause is about."""
    # "Its probability is 0.08" is about the label, not about the type that is likely next
    is_bare = not clause.names and clause.words == PROBABILITY
    is_about_it = bool(clause.names & fact.names) or (not fact.names if is_bare else not clause.names)
    return fact.has_number(number) and is_about_it and 2 * len(clause.words & fact.words) >= len(clause.words)


def _type_support(clause: Clause, known: list[Clause]) -> int | None:
    """Index of the fact that supports that a cell is of a type, or is not."""
    of_type = [fact for fact in known if fact.says_type and fact.denies == clause.denies]
    # "The cell is a T cell, with a probability of 0.98" has its number from a fact on the label
    of_label = [fact for fact in known if not fact.names and not fact.denies and fact.words]
    # "Cell 2" has its number from the fact that says what it is
    plain_numbers = [number for number in clause.numbers if not number.unit]
    of_type = [fact for fact in of_type if all(fact.has_number(number) for number in plain_numbers)]
    for fact in of_type:
        if clause.types <= fact.types and any(_has_words(clause, [fact, other]) for other in [fact, *of_label]):
            return fact.fact
    if clause.denies:
        return None
    for fact in of_type:
        for kind in known:
            # the cell is of this type, and this type is a kind of what is asserted
            is_kind = kind.is_directed and not kind.denies and not kind.says_type and kind.ordered[0] in fact.types
            if is_kind and clause.types <= kind.types | fact.types and _has_words(clause, [fact, kind]):
                return fact.fact
    return None


def _misses(words: frozenset[str], of_facts: frozenset[str]) -> bool:
    """Whether facts miss more of a clause's words than one of many."""
    return len(words - of_facts) > (1 if len(words) >= LONG else 0)


def _has_words(clause: Clause, facts: list[Clause]) -> bool:
    words = frozenset().union(*(fact.words for fact in facts))
    numbers_hold = all(any(fact.has_number(number) for fact in facts) for number in clause.numbers)
    return numbers_hold and not _misses(clause.words, words)


def _contradiction(clause: Clause, known: list[Clause]) -> int | None:
    """Index of the fact that says the opposite of a clause, ``None`` for none."""
    if clause.says_type:
        return _type_contradiction(clause, known)
    for fact in known:
        same = clause.names <= fact.names and not _misses(clause.words, fact.words)
        if fact.denies != clause.denies and same and (clause.names or clause.words) and not fact.is_reversed(clause):
            return fact.fact
    for fact in known:
        if any(fact.has_other_number(number, clause) for number in clause.numbers):
            return fact.fact
    for fact in known:
        one_value = clause.words & fact.words & ONE_VALUE
        is_about_same = clause.genes == fact.genes and fact.denies == clause.denies
        if one_value and is_about_same and (clause.types != fact.types or clause.words != fact.words):
            return fact.fact
    return None


def _type_contradiction(clause: Clause, known: list[Clause]) -> int | None:
    """Index of the fact that says that a cell is of another type, or is not of this one."""
    ontology = cell_ontology()
    for fact in known:
        if fact.says_type and fact.denies != clause.denies and clause.types & fact.types:
            return fact.fact
    if clause.denies:
        return None
    units = {number.unit for number in clause.numbers} - {""}
    for fact in known:
        # another probability of the label
        same = units & {number.unit for number in fact.numbers}
        if same and not fact.names and not any(fact.has_number(number) for number in clause.numbers):
            return fact.fact
    for fact in known:
        if fact.says_type and not fact.denies:
            near = any(
                a in ontology.ancestors(b) or b in ontology.ancestors(a) for a in clause.types for b in fact.types
            )
            if not near:
                return fact.fact
    return None
