"""What is known of a cell, a type, a gene, a pathway, a protein or a molecule, in sentences that a language model reads.

Answers are written from these facts, returned with them, and checked against them.
"""

from bioverse_sc.facts._fact import TOPICS, Fact
from bioverse_sc.facts._memory import Known, Memory

__all__ = ["TOPICS", "Fact", "Known", "Memory"]
