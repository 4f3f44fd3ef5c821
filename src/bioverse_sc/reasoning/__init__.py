"""Reasoning about cells: what the language model is shown, what it writes, and whether that holds."""

from bioverse_sc.reasoning._cases import FORMS, GENES_SHOWN, Case, CaseMaker, detected, informative_genes
from bioverse_sc.reasoning._claims import (
    Claim,
    check_reasoning,
    claims_of,
    known_symbols,
    supported_counts,
)
from bioverse_sc.reasoning._held import held
from bioverse_sc.reasoning._write import EXPLANATION_TOKENS, REASONING_TOKENS, explain, why_labelled, write_reasoning

__all__ = [
    "EXPLANATION_TOKENS",
    "FORMS",
    "GENES_SHOWN",
    "REASONING_TOKENS",
    "Case",
    "CaseMaker",
    "Claim",
    "check_reasoning",
    "claims_of",
    "detected",
    "explain",
    "held",
    "informative_genes",
    "known_symbols",
    "supported_counts",
    "why_labelled",
    "write_reasoning",
]
