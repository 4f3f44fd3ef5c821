"""Matrices in chunks of rows: all that is computed of many cells goes over these."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from scipy.sparse import csr_matrix, issparse

from bioverse_sc._chunks import CHUNK, row_slices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


def with_numbers(matrix: Any) -> Any:
    """Give an array or sparse matrix (CSR or CSC) of a number type that scipy computes with; the same one if it is so.

    Half precision, which scipy does not know, is read as float32; a masked value as NaN.
    """
    if isinstance(matrix, np.ma.MaskedArray):
        return np.ma.filled(matrix.astype(np.float64), np.nan)
    if issparse(matrix) and matrix.format not in ("csr", "csc"):
        matrix = matrix.tocsr()
    values = matrix.data if issparse(matrix) else matrix
    wanted = _number_type(values.dtype)
    if values.dtype == wanted:
        return matrix
    if not issparse(matrix):
        return matrix.astype(wanted)
    # its own astype would make the type that scipy does not know
    return type(matrix)((values.astype(wanted), matrix.indices, matrix.indptr), shape=matrix.shape)


def _number_type(dtype: np.dtype) -> np.dtype:
    if dtype.kind in "biu":
        return dtype.newbyteorder("=")
    if dtype.kind == "f":
        return np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)
    if dtype.kind == "O":
        return np.dtype(np.float64)
    msg = f"The matrix holds values of type {dtype}; expected numbers, such as counts or log-normalised values."
    raise TypeError(msg)


def row_chunks(matrix: Any, columns: np.ndarray, size: int = CHUNK) -> Iterator[tuple[slice, csr_matrix]]:
    """Yield slices of rows and those rows of the chosen columns as CSR without stored zeros.

    Parameters
    ----------
    matrix
        Dense, sparse or backed matrix, cells by genes.
    columns
        Columns to keep, in this order.
    size
        Rows per chunk.
    """
    if issparse(matrix):
        matrix = with_numbers(matrix)
    for rows in row_slices(matrix.shape[0], size):
        chunk = matrix[rows]
        chunk = csr_matrix(with_numbers(chunk if issparse(chunk) else np.asanyarray(chunk))[:, columns])
        chunk.eliminate_zeros()
        yield rows, chunk


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield the items, each made in a background thread while the caller still works on the one before."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield cast("T", item)
