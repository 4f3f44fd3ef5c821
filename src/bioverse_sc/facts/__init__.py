"""What is known of a cell, type, gene, pathway, protein or molecule, in sentences that a language model is shown.

Answers are written from these facts, returned with them, and checked against them.
"""

from bioverse_sc.facts._about import SUPPORTED, About, facts_about, refusal_about, shown_answer
from bioverse_sc.facts._asks import kinds_asked, wordings
from bioverse_sc.facts._cell_facts import cell_facts
from bioverse_sc.facts._cells import (
    CERTAINTY,
    EXPRESSED_SHARE,
    TELLING,
    Absence,
    Candidate,
    CellFacts,
    Marker,
    certainty,
)
from bioverse_sc.facts._check import REFUSAL, VERDICTS, CheckedSentence, check_answer
from bioverse_sc.facts._clauses import sentences_of
from bioverse_sc.facts._entities import binding_facts, closeness, entity_facts, nothing_near, short_name
from bioverse_sc.facts._fact import TOPICS, Fact
from bioverse_sc.facts._gather import ASKED, gather
from bioverse_sc.facts._genes import gene_facts, gene_processes, pathway_facts, pathway_names
from bioverse_sc.facts._memory import Known, Memory
from bioverse_sc.facts._mentions import Mentions, mentions
from bioverse_sc.facts._reference import Specificity
from bioverse_sc.facts._tables import expression_letters
from bioverse_sc.facts._types import type_facts
from bioverse_sc.facts._words import in_plural, listed, shown_probability, with_article

__all__ = [
    "ASKED",
    "CERTAINTY",
    "EXPRESSED_SHARE",
    "REFUSAL",
    "SUPPORTED",
    "TELLING",
    "TOPICS",
    "VERDICTS",
    "About",
    "Absence",
    "Candidate",
    "CellFacts",
    "CheckedSentence",
    "Fact",
    "Known",
    "Marker",
    "Memory",
    "Mentions",
    "Specificity",
    "binding_facts",
    "cell_facts",
    "certainty",
    "check_answer",
    "closeness",
    "entity_facts",
    "expression_letters",
    "facts_about",
    "gather",
    "gene_facts",
    "gene_processes",
    "in_plural",
    "kinds_asked",
    "listed",
    "mentions",
    "nothing_near",
    "pathway_facts",
    "pathway_names",
    "refusal_about",
    "sentences_of",
    "short_name",
    "shown_answer",
    "shown_probability",
    "type_facts",
    "with_article",
    "wordings",
]
