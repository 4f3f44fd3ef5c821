"""Decoding: what the language model makes of prompts. Labels are scored; texts are written, under constraints."""

from bioverse_sc.models.decode._choice import Decoding
from bioverse_sc.models.decode._constraints import (
    Constraint,
    GenesLeft,
    NamesLeft,
    ShownGenes,
    ShownTypes,
    TypeNames,
)
from bioverse_sc.models.decode._labels import PRUNED_BELOW, label_log_probabilities
from bioverse_sc.models.decode._text import Read, generate_text, write_on

__all__ = [
    "PRUNED_BELOW",
    "Constraint",
    "Decoding",
    "GenesLeft",
    "NamesLeft",
    "Read",
    "ShownGenes",
    "ShownTypes",
    "TypeNames",
    "generate_text",
    "label_log_probabilities",
    "write_on",
]
