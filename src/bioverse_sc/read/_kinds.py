"""What the values of a matrix are: counts, normalised, log-normalised or scaled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.sparse import csr_matrix, issparse

from bioverse_sc._chunks import row_slices
from bioverse_sc.read._map import with_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    Kind = Literal["counts", "normalised", "log-normalised", "scaled", "NaN", "empty", "absent"]

USABLE = ("counts", "log-normalised", "normalised")
LOGGED: Literal["log-normalised"] = "log-normalised"
_LARGEST_LOG = 30.0
_VALUES = 1 << 22
_ROWS = 2000
_JUDGED_GENES = 20


def matrix_kind(matrix: Any) -> Kind:
    """Tell counts from normalised, log-normalised and scaled values: by all of them, and by the genes of some rows."""
    if matrix is None:
        return "absent"
    largest, smallest, integers = 0.0, 0.0, True
    for values in _value_chunks(matrix):
        if not values.size:
            continue
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            return "NaN"
        largest, smallest = max(largest, high), min(smallest, low)
        integers = integers and (values.dtype.kind in "biu" or bool((values == np.round(values)).all()))
    if smallest < 0:
        return "scaled"
    if largest == 0:
        return "empty"
    if integers:
        return "counts"
    if scaled_by_gene(some_rows(matrix)):
        return "scaled"
    return LOGGED if largest < _LARGEST_LOG else "normalised"


def _value_chunks(matrix: Any) -> Iterator[np.ndarray]:
    """All values, but for zeros that are not stored, some millions at a time."""
    if issparse(matrix):
        # in memory they lie in one array, and no row has to be cut out
        values = with_numbers(matrix).data
        yield from (values[start : start + _VALUES] for start in range(0, len(values), _VALUES))
        return
    for rows in row_slices(matrix.shape[0]):
        chunk = matrix[rows]
        yield with_numbers(chunk).data if issparse(chunk) else with_numbers(np.asanyarray(chunk)).ravel()


def some_rows(matrix: Any) -> csr_matrix:
    """Take rows at even distances, all of them where there are few."""
    size = matrix.nnz if issparse(matrix) else matrix.shape[0] * matrix.shape[1]
    step = max(1, matrix.shape[0] // _ROWS, size // _VALUES)
    rows = with_numbers(matrix)[::step] if issparse(matrix) else matrix[::step]
    if not issparse(rows):
        rows = np.asanyarray(rows)
    rows = csr_matrix(with_numbers(rows), dtype=np.float64)
    rows.eliminate_zeros()
    return rows


def scaled_by_gene(rows: csr_matrix) -> bool:
    """Whether each gene was multiplied by a number of its own, so that values within a cell cannot be compared.

    ``sc.pp.scale(zero_center=False)``, division by the largest value, TF-IDF, z-scores that were shifted. It shows in
    several ways:

    - What a gene is where it is found falls with the share of cells that have it; in expression it rises, whatever the
      normalisation, also when counts were divided by the lengths of genes.
    - Genes have the same standard deviation, largest value or, where no value is zero, mean.

    The last are only asked when no two genes of a cell have the same value, as most of one count have until genes are
    scaled.

    Parameters
    ----------
    rows
        Cells by genes, values of zero and above, without stored zeros.
    """
    from scipy.stats import rankdata

    n = rows.shape[0]
    n_with = np.bincount(rows.indices, minlength=rows.shape[1])
    judged = n_with >= max(3, 0.005 * n)
    if judged.sum() < _JUDGED_GENES:
        return False
    mean = np.bincount(rows.indices, rows.data, rows.shape[1])[judged] / n
    square = np.bincount(rows.indices, rows.data**2, rows.shape[1])[judged] / n
    share = n_with[judged] / n
    if share.min() < share.max():
        r = float(np.corrcoef(rankdata(share), rankdata(mean / share))[0, 1])
        if r < -0.1 and r * np.sqrt(len(share)) < -4:
            return True
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    varies = deviation > 1e-4 * mean
    if varies.sum() < _JUDGED_GENES or _tied(rows[:, np.flatnonzero(judged)[varies]]) > 0.5:
        return False
    spread = float(np.subtract(*np.percentile(np.log(deviation[varies]), [95, 5])))
    # the deviation of few cells is never the same by chance, nor that of many cells about the same
    if spread < 0.01 or (n >= 50 and spread < 0.25):
        return True
    if np.median(share) == 1 and np.subtract(*np.percentile(mean[varies], [90, 10])) < np.median(deviation[varies]):
        return True
    largest = rows.max(axis=0).toarray().ravel()
    top = largest.max()
    return bool(
        np.mean(largest[judged] > top * (1 - 1e-5)) > 0.05 or (top <= 1 and np.mean(largest[judged] > 0.5) > 0.3)
    )


def _tied(rows: csr_matrix) -> float:
    """Share of the values of a cell that another gene of it has as well, over some cells."""
    rows = rows[:: max(1, rows.nnz // 500_000)]
    values = rows.data
    cell = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    ordered = values[np.lexsort((values, cell))]
    same = (np.diff(cell) == 0) & (np.diff(ordered) <= 1e-5 * ordered[1:])
    return float(same.sum() / max(len(values), 1))
