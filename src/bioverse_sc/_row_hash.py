"""A number for each row of an array, which tells whether the row has changed, whatever stands beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, issparse

from bioverse_sc._chunks import row_slices

if TYPE_CHECKING:
    from collections.abc import Sequence

_ODD = np.uint64(0x9E3779B97F4A7C15)


def hash_texts(texts: Sequence[Any] | np.ndarray | pd.Index | pd.Series) -> np.ndarray:
    """Hash of each text; of a number what it is written as. Shape (rows,), uint64."""
    values = np.asarray(texts, dtype=object)
    hashes = np.empty(len(values), dtype=np.uint64)
    for rows in row_slices(len(values)):
        part = np.array([str(text) for text in values[rows]], dtype=object)
        hashes[rows] = pd.util.hash_array(part, categorize=False)
    return hashes


def hash_sparse_rows(rows: csr_matrix, columns: np.ndarray) -> np.ndarray:
    """Hash of each row's values, read as float32, with the names of their columns, in whatever order.

    Parameters
    ----------
    rows
        Shape (rows, columns), without stored zeros.
    columns
        Hash of each column's name, uint64.
    """
    bits = np.ascontiguousarray(rows.data, dtype=np.float32).view(np.uint32).astype(np.uint64)
    mixed = _mixed(columns[rows.indices] + bits * _ODD)
    sums = np.zeros(rows.shape[0], dtype=np.uint64)
    filled = np.flatnonzero(np.diff(rows.indptr))
    if filled.size:
        sums[filled] = np.add.reduceat(mixed, rows.indptr[filled])
    return _mixed(sums)


def hash_rows(values: Any) -> np.ndarray:
    """Hash of each row of a column, a DataFrame, or an array of numbers, dense or sparse."""
    if isinstance(values, pd.DataFrame):
        # by place, as files may write names in another way
        return bound_hashes(*(hash_rows(values.iloc[:, j]) for j in range(values.shape[1])), n_rows=len(values))
    if isinstance(values, pd.Series):
        if not pd.api.types.is_numeric_dtype(values):
            return hash_texts(values.astype(object).where(values.notna(), "").to_numpy())
        values = values.to_numpy(dtype=np.float64, na_value=np.nan)[:, None]
    if issparse(values):
        sparse = csr_matrix(values)
        return hash_sparse_rows(sparse, _mixed(np.arange(sparse.shape[1], dtype=np.uint64)))
    values = np.asarray(values)
    columns = _mixed(np.arange(values.shape[1], dtype=np.uint64))
    sums = np.empty(len(values), dtype=np.uint64)
    for rows in row_slices(len(values)):
        part = np.ascontiguousarray(values[rows], dtype=np.float32).view(np.uint32).astype(np.uint64)  # (rows, columns)
        sums[rows] = _mixed(columns + part * _ODD).sum(axis=1, dtype=np.uint64)
    return _mixed(sums)


def bound_hashes(*hashes: np.ndarray, n_rows: int | None = None) -> np.ndarray:
    """One hash for each row of several: it changes when any of them does, or when they change places."""
    bound = np.zeros(len(hashes[0]) if n_rows is None else n_rows, dtype=np.uint64)
    for part in hashes:
        bound = _mixed(bound * _ODD + part)
    return bound


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Spread every bit over all of a number, as the finalizer of SplitMix64 does (Steele et al., OOPSLA 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
