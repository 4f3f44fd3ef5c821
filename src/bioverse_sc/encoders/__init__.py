"""Biological encoders."""

from bioverse_sc.encoders._base import CellEncoder, EntityEncoder, StoredEncoder, TokenEncoder
from bioverse_sc.encoders._registry import get_encoder, known_encoders, register, restore
from bioverse_sc.encoders.precomputed import Precomputed

__all__ = [
    "CellEncoder",
    "EntityEncoder",
    "Precomputed",
    "StoredEncoder",
    "TokenEncoder",
    "get_encoder",
    "known_encoders",
    "register",
    "restore",
]
