"""From rows of a sparse matrix to scGPT's input: gene ids and binned expression values.

Binning follows scGPT (Cui et al., Nature Methods 2024): the quantiles of a cell's own non-zero values are the bin edges.
Two choices that the official code leaves to chance are fixed here, so that a cell always gives the same result:

- A value that equals several edges at once (ties) gets the middle one of the bins it could fall in; the official code
  draws one of them.
- A cell with more genes than fit keeps the highest ones, ties in the order of the vocabulary; the official code draws
  genes at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class TokenizedCells:
    """Cells as ragged arrays: cell ``i`` has the entries ``offsets[i]:offsets[i + 1]``. No special token is included."""

    gene_ids: np.ndarray
    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of genes of each cell."""
        return np.diff(self.offsets)


def bin_values(values: np.ndarray, n_bins: int) -> np.ndarray:
    """Bin the non-zero values of one cell.

    Parameters
    ----------
    values
        Positive values, shape (genes,), raw or log-normalised: only their ranks inside the cell matter.
    n_bins
        Number of bins with the one for zero, 51 in the published checkpoints.

    Returns
    -------
    Integers from 1 to ``n_bins - 1``.
    """
    edges = np.quantile(values, np.linspace(0, 1, n_bins - 1))
    left = np.searchsorted(edges, values, side="right")
    right = np.searchsorted(edges, values, side="left")
    return right + (left - right + 1) // 2


def tokenize(matrix: csr_matrix, gene_ids: np.ndarray, *, n_bins: int, max_genes: int) -> TokenizedCells:
    """Turn rows into gene ids and binned values.

    Parameters
    ----------
    matrix
        Cells by genes, without stored zeros; the columns are genes of the vocabulary.
    gene_ids
        Vocabulary id of each column, ascending.
    n_bins
        Number of bins.
    max_genes
        Genes kept per cell. Binning happens before the cut, as in the official code.
    """
    ids, binned, lengths = [], [], np.empty(matrix.shape[0], dtype=np.int64)
    for i in range(matrix.shape[0]):
        row = slice(matrix.indptr[i], matrix.indptr[i + 1])
        values, columns = matrix.data[row], matrix.indices[row]
        if len(values):
            bins = bin_values(values, n_bins)
            if len(values) > max_genes:
                kept = np.sort(np.argsort(-values, kind="stable")[:max_genes])
                bins, columns = bins[kept], columns[kept]
            ids.append(gene_ids[columns])
            binned.append(bins)
            lengths[i] = len(bins)
        else:
            lengths[i] = 0
    empty = np.empty(0, dtype=np.int64)
    return TokenizedCells(
        gene_ids=np.concatenate([empty, *ids]),
        values=np.concatenate([empty, *binned]).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
    )
