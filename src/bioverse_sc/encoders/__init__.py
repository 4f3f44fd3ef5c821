"""Biological encoders, and the modalities that they read."""

from bioverse_sc._modality import Modality, known_modalities, register_modality
from bioverse_sc.encoders._base import Dtype, Encoder, StoredEncoder, genes_of, prepares_tokens
from bioverse_sc.encoders._registry import check_encoder, get_encoder, known_encoders, register, restore
from bioverse_sc.encoders._texts import UnreadableError, bare_sequence, check_texts
from bioverse_sc.encoders.precomputed import Precomputed

__all__ = [
    "Dtype",
    "Encoder",
    "Modality",
    "Precomputed",
    "StoredEncoder",
    "UnreadableError",
    "bare_sequence",
    "check_encoder",
    "check_texts",
    "genes_of",
    "get_encoder",
    "known_encoders",
    "known_modalities",
    "prepares_tokens",
    "register",
    "register_modality",
    "restore",
]
