"""What is known of cells, types, genes, pathways, proteins and molecules, in sentences for a language model.

Answers are written from these facts, returned with them, and checked against them.
"""

from bioverse_sc.facts._cell_facts import cell_facts
from bioverse_sc.facts._cells import (
    CERTAINTY,
    EXPRESSED_SHARE,
    TELLING,
    Absence,
    Candidate,
    CellFacts,
    Marker,
)
from bioverse_sc.facts._check import REFUSAL, VERDICTS, CheckedSentence, check_answer
from bioverse_sc.facts._fact import TOPICS, Fact
from bioverse_sc.facts._gather import gather
from bioverse_sc.facts._genes import gene_facts, pathway_facts
from bioverse_sc.facts._mentions import Mentions, mentions
from bioverse_sc.facts._reference import Specificity
from bioverse_sc.facts._tables import expression_letters
from bioverse_sc.facts._types import type_facts

__all__ = [
    "CERTAINTY",
    "EXPRESSED_SHARE",
    "REFUSAL",
    "TELLING",
    "TOPICS",
    "VERDICTS",
    "Absence",
    "Candidate",
    "CellFacts",
    "CheckedSentence",
    "Fact",
    "Marker",
    "Mentions",
    "Specificity",
    "cell_facts",
    "check_answer",
    "expression_letters",
    "gather",
    "gene_facts",
    "mentions",
    "pathway_facts",
    "type_facts",
]
