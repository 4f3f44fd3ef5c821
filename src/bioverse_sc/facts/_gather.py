"""The facts that a question asks for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

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
from bioverse_sc.ontology import cell_ontology

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST = 20
"""Facts at most, unless asked for more."""
TOPIC_WORDS = {
    "label": r"what (cell|type|kind|is)|which (cell|type|kind)|type of|identity|label|annotat|call(ed)?\b|name\b",
    "certainty": r"\bsure\b|certain|confiden|probab|likel|trust|rely|reliab|safe|believe|doubt|correct|right\b|"
    r"wrong|true\b",
    "runner-up": r"else|other|alternativ|instead|second|next|runner|rather|could it|might|confus|mistake|between",
    "markers": r"marker|gene|express|evidence|why|support|reason|explain|basis|argue|tell(s|ing)?\b|show|specific|"
    r"signature",
    "absence": r"miss|absent|absence|lack|against|not express|negative|without|contradict",
    "unusual": r"unusual|strange|odd\b|surpris|doublet|contamin|ambient|quality|damage|dead|dying|problem|two cells|"
    r"weird|suspicious|outlier|abnormal|anything (else|special|notable)|artefact|artifact",
    "state": r"state|prolif|divid|cycl|mitos|dormant|quiescen|interferon|antivir|virus|viral|stress|dissociat|activat|"
    r"inflam",
    "numbers": r"how many|count|umi|depth|number|mitochond|quality|library|damage|dying|dead",
    "study": r"tissue|organ\b|study|sample|donor|patient|condition|disease|where|come from|came from|source|experiment",
    "type": r"what is|what are|kind of|defin|ontology|lineage|belong|ancest|parent|class|function|"
    r"do(es)? (it|they|these|a|an)\b",
    "gene": r"what does|function|role|do(es)?\b|encod|full name|stand for|gene\b",
    "pathway": r"pathway|process|signal|genes of",
}
"""What a question about each topic says."""
STATE_WORDS = {
    "proliferation": r"prolif|divid|cycl|mitos|dormant|quiescen|grow",
    "interferon": r"interferon|antivir|virus|viral|infect|isg",
    "stress": r"stress|dissociat|heat.?shock|damage|dying",
}
CALL_WORDS = f"{TOPIC_WORDS['certainty']}|why|against|evidence|support|reason"
UNUSUAL_WORDS = TOPIC_WORDS["unusual"]


_BACK = re.compile(
    r"\b(it|that|they|those)\b.*\bdo\b|\bthat (gene|one)\b|\bthe other one\b",
    re.IGNORECASE,
)
"""What points back to something that was named before."""


def gather(
    question: str,
    cells: Mapping[str, CellFacts] | CellFacts | None = None,
    *,
    earlier: Sequence[str] = (),
    most: int = MOST,
) -> list[Fact]:
    """The facts that answer a question, the most relevant first.

    Judgments come first, one for each gene, type and pathway that the question names, and for states, trust and quality
    where it asks for these. Then come the facts of the cells and of what is named: those of the topics that the
    question's words are of before the others.

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
    asked = remembered(question, earlier)
    judged = [fact for name, cell in (named or {}).items() for fact in _judgments(question, asked, cell, name)]
    judged += [Fact(judge_unknown(word), "judgment", word) for word in asked.unknown]
    topics = topics_of(question)
    told = [fact for name, cell in (named or {}).items() for fact in cell.facts(name)]
    tables = _tables(asked)
    names = [*asked.genes, *(cell_ontology().names[t] for t in asked.types), *asked.pathways]
    ranked = sorted(
        enumerate([*told, *tables]),
        key=lambda item: (-_relevance(item[1], topics, names, is_table=item[0] >= len(told)), item[0]),
    )
    facts = {fact.text: fact for fact in judged}
    for _, fact in ranked:
        facts.setdefault(fact.text, fact)
    return list(facts.values())[:most]


def remembered(question: str, earlier: Sequence[str]) -> Mentions:
    """What a question names; where it names nothing, what the last question before it names that does."""
    asked = mentions(question)
    is_back = bool(_BACK.search(question))
    if asked or (not is_back and topics_of(question) - {"type", "gene", "markers", "pathway", "label"}):
        return asked
    return next((before for text in reversed(earlier) if (before := mentions(text))), asked)


def topics_of(question: str) -> set[str]:
    """Topics that a question's words are of.

    Parameters
    ----------
    question
        In any words.
    """
    return {topic for topic, words in TOPIC_WORDS.items() if re.search(words, question, re.IGNORECASE)}


def _judgments(question: str, asked: Mentions, cell: CellFacts, name: str) -> list[Fact]:
    said: list[str] = []
    for term in asked.types:
        said += judge_type(cell, term, name)
    for gene in asked.genes:
        said += judge_gene(cell, gene, name)
    for pathway in asked.pathways:
        said += judge_pathway(cell, pathway, name)
    for state, words in STATE_WORDS.items():
        if re.search(words, question, re.IGNORECASE):
            said.append(judge_state(cell, state, name))
    if re.search(CALL_WORDS, question, re.IGNORECASE):
        said += judge_call(cell, name)
    if re.search(UNUSUAL_WORDS, question, re.IGNORECASE):
        unusual = [fact.text for fact in cell.facts(name) if fact.topic == "unusual"]
        said += unusual or [judge_unusual(cell, name)]
    return [Fact(text, "judgment", name) for text in said]


def _tables(asked: Mentions) -> list[Fact]:
    """Facts from the tables on what is named."""
    facts = [fact for term in asked.types for fact in type_facts(term)]
    facts += [fact for gene in asked.genes for fact in gene_facts(gene)]
    return facts + [fact for pathway in asked.pathways for fact in pathway_facts(pathway)]


def _relevance(fact: Fact, topics: set[str], names: list[str], *, is_table: bool) -> float:
    """How much a fact has to do with a question."""
    score = 2.0 * (fact.topic in topics)
    score += 3.0 * is_table + 1.0 * any(name in fact.text for name in names)
    if is_table:
        return score
    if fact.text.startswith("The Cell Ontology id"):
        return score - 1.0
    # whatever is asked, what the cell is stands first
    return score + {"label": 10.0, "certainty": 1.5, "unusual": 1.0}.get(fact.topic, 0.0)
