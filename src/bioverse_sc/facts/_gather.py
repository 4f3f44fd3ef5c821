"""The facts that a question asks for."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from bioverse_sc.facts._asks import answered_by, kinds_asked, needs_name, possible_kinds
from bioverse_sc.facts._cells import CellFacts
from bioverse_sc.facts._fact import Fact
from bioverse_sc.facts._genes import gene_facts, pathway_facts
from bioverse_sc.facts._judge import (
    judge_call,
    judge_gene,
    judge_pathway,
    judge_state,
    judge_type,
    judge_unknown,
    judge_unusual,
)
from bioverse_sc.facts._mentions import Mentions, mentions
from bioverse_sc.facts._types import type_facts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST = 20
"""Facts at most, unless asked for more."""
SHARE_SHOWN = 0.1
"""A fact is shown that is asked for with this part of the probability of the likeliest one."""
ASKED = 0.2
"""Probability that a question asks for a fact, from which it may answer alone."""
STATE_KINDS = {
    "proliferation": ("cell.proliferating", "cell.state"),
    "interferon": ("cell.interferon", "cell.state"),
    "stress": ("cell.stressed", "cell.state", "cell.quality"),
}
OF_CELL, OF_TABLES = ("cell.", "refused"), ("gene.", "type.", "pathway.")
"""What facts of a cell, and facts of what is named, may answer."""
CALL_KINDS = ("cell.certainty", "cell.why")
FOR_KINDS, AGAINST_KINDS = (*CALL_KINDS, "cell.markers"), (*CALL_KINDS, "cell.against")
UNUSUAL_KINDS = ("cell.unusual", "cell.quality")
EXPRESSION_KINDS, MARKER_KINDS = ("cell.expresses",), ("cell.is_marker", "gene.marks")
JUDGED = 0.1
"""Probability that a question asks for a judgment on the call, the quality or a state, from which there is one."""


_BACK = re.compile(
    r"\b(it|that|they|those)\b.*\bdo\b|\bthat (gene|one)\b|\bthe other one\b",
    re.IGNORECASE,
)
"""What points back to something that was named before."""
BACK = 0.15
"""Probability that a question is of a kind that names something, from which one that does not points back."""


def gather(
    question: str,
    cells: Mapping[str, CellFacts] | CellFacts | None = None,
    *,
    earlier: Sequence[str] = (),
    most: int = MOST,
) -> list[Fact]:
    """The facts that answer a question, the most relevant first.

    They are what is known of the cells and of what the question names, and judgments: one for each gene, type and
    pathway that it names, and for states, trust and quality where it asks for these. Each has the probability that the
    question asks for it; facts that are much less asked for than others are left out.

    Parameters
    ----------
    question
        In any words.
    cells
        What is known of each cell or cluster by its name, such as ``{"Cell": cell}``; one alone is called ``"Cell"``.
        Without any, the tables alone answer.
    earlier
        The questions before in the conversation, oldest first. A question that names nothing is of what the last one
        that does names.
    most
        Facts at most.

    Returns
    -------
    Facts, each text once.
    """
    named = cells if not isinstance(cells, CellFacts) else {"Cell": cells}
    kinds = kinds_asked(question, earlier=earlier)
    asked = remembered(question, earlier, kinds)
    kinds = possible_kinds(kinds, asked, has_cell=bool(named))
    judged = [fact for name, cell in (named or {}).items() for fact in _judgments(kinds, asked, cell, name)]
    judged += [_judgment(judge_unknown(word), word, 1.0) for word in asked.unknown]
    told = [fact for name, cell in (named or {}).items() for fact in cell.facts(name)]
    told = [*_weighed(told, kinds, OF_CELL), *_weighed(_tables(asked), kinds, OF_TABLES)]
    facts: dict[str, Fact] = {}
    # nearly the same probability says nothing of the order
    for fact in sorted([*judged, *told], key=lambda fact: -round(fact.relevance, 1)):
        facts.setdefault(fact.text, fact)
    least = SHARE_SHOWN * max((fact.relevance for fact in facts.values()), default=0.0)
    return [fact for fact in facts.values() if fact.relevance >= least][:most]


def remembered(question: str, earlier: Sequence[str], kinds: Mapping[str, float]) -> Mentions:
    """What a question names; where it names nothing and may point back, what the last question that does names."""
    asked = mentions(question)
    if asked or (not _BACK.search(question) and _probability(kinds, tuple(k for k in kinds if needs_name(k))) < BACK):
        return asked
    return next((before for text in reversed(earlier) if (before := mentions(text))), asked)


def _judgments(kinds: Mapping[str, float], asked: Mentions, cell: CellFacts, name: str) -> list[Fact]:
    said: list[tuple[list[str], tuple[str, ...]]] = []
    said += [(judge_type(cell, term, name), ("cell.is_type",)) for term in asked.types]
    for gene in asked.genes:
        amount, *marks = judge_gene(cell, gene, name)
        said += [([amount], EXPRESSION_KINDS), (marks, MARKER_KINDS)]
    said += [(judge_pathway(cell, pathway, name), ("cell.pathway",)) for pathway in asked.pathways]
    for state, of_state in STATE_KINDS.items():
        if _probability(kinds, of_state) >= JUDGED:
            said.append(([judge_state(cell, state, name)], of_state))
    is_of_call = _probability(kinds, (*FOR_KINDS, "cell.against")) >= JUDGED
    for text in judge_call(cell, name) if is_of_call else ():
        speaks = FOR_KINDS if " for " in text else AGAINST_KINDS if " against " in text else CALL_KINDS
        if _probability(kinds, speaks) >= JUDGED:
            said.append(([text], speaks))
    if _probability(kinds, UNUSUAL_KINDS) >= JUDGED:
        unusual = [fact.text for fact in cell.facts(name) if fact.topic == "unusual"]
        said.append((unusual or [judge_unusual(cell, name)], UNUSUAL_KINDS))
    return [_judgment(text, name, _probability(kinds, of_kinds)) for texts, of_kinds in said for text in texts]


def _weighed(facts: Sequence[Fact], kinds: Mapping[str, float], groups: tuple[str, ...]) -> list[Fact]:
    """The facts, each with the probability that a question of some groups asks for it."""
    asked_for = [[kind for kind in answered_by(fact) if kind.startswith(groups)] for fact in facts]
    return [replace(fact, relevance=_probability(kinds, some)) for fact, some in zip(facts, asked_for, strict=True)]


def _judgment(text: str, about: str, relevance: float) -> Fact:
    return Fact(text, "judgment", about, relevance=relevance)


def _probability(kinds: Mapping[str, float], some: Sequence[str]) -> float:
    """That a question is of one of some kinds."""
    return float(sum(kinds.get(kind, 0.0) for kind in some))


def _tables(asked: Mentions) -> list[Fact]:
    """Facts from the tables on what is named."""
    facts = [fact for term in asked.types for fact in type_facts(term)]
    facts += [fact for gene in asked.genes for fact in gene_facts(gene)]
    return facts + [fact for pathway in asked.pathways for fact in pathway_facts(pathway)]
