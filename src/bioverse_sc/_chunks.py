"""How much is in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 4096
"""Cells that are in memory as dense or tokenized rows at a time."""


def row_slices(n_rows: int, size: int = CHUNK) -> Iterator[slice]:
    """Yield slices of at most ``size`` rows that cover all of them in order."""
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))
