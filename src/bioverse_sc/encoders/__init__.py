"""Biological encoders."""

from bioverse_sc.encoders._base import CellEncoder

__all__ = ["CellEncoder"]
