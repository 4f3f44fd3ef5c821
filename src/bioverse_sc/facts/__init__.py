"""What is known of a cell, type, gene, pathway, protein or molecule, in sentences that a language model is shown.

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
from bioverse_sc.facts._entities import binding_facts, closeness, entity_facts, refusal, short_name
from bioverse_sc.facts._fact import TOPICS, Fact
from bioverse_sc.facts._genes import gene_facts, pathway_facts
from bioverse_sc.facts._memory import Known, Memory
from bioverse_sc.facts._reference import Specificity
from bioverse_sc.facts._tables import expression_letters
from bioverse_sc.facts._types import type_facts

__all__ = [
    "CERTAINTY",
    "EXPRESSED_SHARE",
    "TELLING",
    "TOPICS",
    "Absence",
    "Candidate",
    "CellFacts",
    "Fact",
    "Known",
    "Marker",
    "Memory",
    "Specificity",
    "binding_facts",
    "cell_facts",
    "closeness",
    "entity_facts",
    "expression_letters",
    "gene_facts",
    "pathway_facts",
    "refusal",
    "short_name",
    "type_facts",
]
