"""AnnData or MuData in; a checked AnnData, or chunks of sparse rows, out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from anndata import AnnData
from scipy.sparse import csr_matrix, issparse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mudata import MuData

T = TypeVar("T")

CHUNK = 4096
"""Cells that are in memory as dense or tokenized rows at a time."""


def modality(data: AnnData | MuData, mod: str = "rna") -> AnnData:
    """Take the AnnData of a modality, and check that results can be written to it."""
    from mudata import MuData

    if isinstance(data, MuData):
        if mod not in data.mod:
            msg = f"The MuData has no modality {mod!r}; it has {list(data.mod)}."
            raise KeyError(msg)
        adata = data.mod[mod]
    elif isinstance(data, AnnData):
        adata = data
    else:
        msg = f"Expected AnnData or MuData, found {type(data).__name__}."
        raise TypeError(msg)
    if adata.is_view:
        own = "mdata = mdata.copy()" if isinstance(data, MuData) else "adata = adata.copy()"
        msg = f"This AnnData is a view of another one. Make it a data set of its own first: {own}"
        raise ValueError(msg)
    if adata.n_obs == 0:
        msg = "This AnnData has no cells: n_obs is 0. Check the filter that made it."
        raise ValueError(msg)
    return adata


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers, among which anndata 0.13 lists ``.X`` as ``None``."""
    return [name for name in adata.layers if name is not None]


def readable(matrix: Any) -> Any:
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
        matrix = readable(matrix)
    for start in range(0, matrix.shape[0], size):
        rows = slice(start, min(start + size, matrix.shape[0]))
        chunk = matrix[rows]
        chunk = csr_matrix(readable(chunk if issparse(chunk) else np.asanyarray(chunk))[:, columns])
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
