"""What is known of a cell, type, gene, pathway, protein or molecule, in sentences that a language model is shown.

Answers are written from these facts, returned with them, and checked against them.
"""

from bioverse_sc.facts._fact import TOPICS, Fact

__all__ = ["TOPICS", "Fact"]
