"""What is known of a cell, type, gene, pathway, protein or molecule, in sentences that a language model reads.

Answers are written from these facts, returned with them, and checked against them.
"""

from bioverse_sc.facts._entities import binding_facts, closeness, entity_facts, refusal, short_name
from bioverse_sc.facts._fact import TOPICS, Fact
from bioverse_sc.facts._memory import Known, Memory

__all__ = [
    "TOPICS",
    "Fact",
    "Known",
    "Memory",
    "binding_facts",
    "closeness",
    "entity_facts",
    "refusal",
    "short_name",
]
