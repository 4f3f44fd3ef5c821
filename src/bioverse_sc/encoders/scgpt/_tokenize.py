"""From rows of a sparse matrix to scGPT's input: gene ids and binned expression values.

Binning follows scGPT (Cui et al., Nature Methods 2024): the quantiles of a cell's own non-zero values are the bin
edges. Two choices that the official code leaves to chance are fixed here, so that a cell always gives the same result:

- A value that equals several edges at once (ties) gets the middle one of the bins it could fall in; the official code
  draws one of them.
- A cell with more genes than fit keeps the highest ones, ties in the order of the vocabulary. The official code draws
  genes at random; so does ``gene_selection="random"`` here, with numbers that come from the seed and from the cell
  alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

GeneSelection = Literal["top", "random"]


@dataclass(frozen=True)
class TokenizedCells:
    """Cells as ragged arrays.

    Cell ``i`` has the entries ``offsets[i]:offsets[i + 1]``. No special token is included.
    """

    gene_ids: np.ndarray
    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of genes of each cell."""
        return np.diff(self.offsets)


def bin_edges(values: np.ndarray, n_bins: int) -> np.ndarray:
    """Quantiles of the values, as ``np.quantile`` gives them to the last bit, without its overhead for each cell."""
    ordered = np.sort(values)
    position = (len(values) - 1) * np.linspace(0, 1, n_bins - 1)
    below = np.floor(position).astype(np.intp)
    low, high = ordered[below], ordered[np.minimum(below + 1, len(values) - 1)]
    part, step = position - below, high - low
    return np.where(part >= 0.5, high - step * (1 - part), low + step * part)


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
    edges = bin_edges(values, n_bins)
    left = np.searchsorted(edges, values, side="right")
    right = np.searchsorted(edges, values, side="left")
    return right + (left - right + 1) // 2


def kept_genes(values: np.ndarray, bins: np.ndarray, gene_ids: np.ndarray, limit: int, seed: int | None) -> np.ndarray:
    """Places of the genes of a cell that are kept, ascending: the highest, or with a seed a random sample.

    The sample is drawn from the seed and a hash of the genes and their bins, so it is that of the cell, whatever the
    batch, the order or the normalisation it comes in.
    """
    if seed is None:
        chosen = np.argsort(-values, kind="stable")[:limit]
    else:
        content = gene_ids.astype("<i8").tobytes() + bins.astype("<i8").tobytes()
        cell = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
        chosen = np.random.default_rng([seed, cell]).permutation(len(values))[:limit]
    return np.sort(chosen)


def check_gene_selection(gene_selection: str) -> None:
    """Raise for a name that is none."""
    if gene_selection not in get_args(GeneSelection):
        msg = f"gene_selection is {gene_selection!r}; expected 'top' (the highest genes) or 'random' (drawn with seed)."
        raise ValueError(msg)


def tokenize(
    matrix: csr_matrix,
    gene_ids: np.ndarray,
    *,
    n_bins: int,
    max_genes: int,
    gene_selection: GeneSelection = "top",
    seed: int = 0,
) -> TokenizedCells:
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
    gene_selection
        Which genes are kept where there are more: the ``"top"`` ones by value, or ``"random"`` ones.
    seed
        Of the random choice.
    """
    check_gene_selection(gene_selection)
    ids, binned = [], []
    lengths = np.zeros(matrix.shape[0], dtype=np.int64)
    for i, (start, stop) in enumerate(zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)):
        if start == stop:
            continue
        values, cell = matrix.data[start:stop], gene_ids[matrix.indices[start:stop]]
        bins = bin_values(values, n_bins)
        if len(values) > max_genes:
            places = kept_genes(values, bins, cell, max_genes, seed if gene_selection == "random" else None)
            bins, cell = bins[places], cell[places]
        ids.append(cell)
        binned.append(bins)
        lengths[i] = len(bins)
    empty = np.empty(0, dtype=np.int64)
    return TokenizedCells(
        gene_ids=np.concatenate([empty, *ids]),
        values=np.concatenate([empty, *binned]).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
    )
