"""Groups of cells: smoothing over the graph, one label for a cluster, cells that speak for others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, diags, issparse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy.sparse import spmatrix

__all__ = [
    "label_in_cluster",
    "mean_by_cluster",
    "one_label_each",
    "propagate",
    "representatives",
    "smooth_probabilities",
]

TOLERANCE = 1e-9
"""Error of smoothed probabilities, before rounding."""
DECIMALS = 6
"""Of distances, which batches change in the last digits: equal cells are told apart by their order and not by these."""

LEAST_PROBABILITY = 1e-30
"""Of a label that a cluster rules out, so that its logarithm can be compared."""


def smooth_probabilities(
    probabilities: np.ndarray, connectivities: spmatrix | np.ndarray, *, alpha: float = 0.5
) -> np.ndarray:
    """Spread label probabilities over the neighbours graph: what is left when every cell has heard all others.

    The result is ``(1 - alpha) (I - alpha S)^-1 P``, with ``S`` the connectivities scaled to sum to one by cell:
    personalised PageRank, or label spreading (Zhou et al. 2003). It is solved for all labels at once by Chebyshev's
    semi-iteration, whose error is known beforehand, as the spectrum of ``S`` lies in [-1, 1].

    Parameters
    ----------
    probabilities
        Shape (cells, labels); a row sums to one, or is zero where nothing is known of a cell.
    connectivities
        Weights of neighbours, shape (cells, cells), not negative. The two directions of a link are averaged, and a link
        to oneself is left out.
    alpha
        Share that comes from the neighbours, from 0 to less than 1.

    Returns
    -------
    Shape (cells, labels), rows sum to one. A cell without neighbours keeps its row. A row of zeros stays, and nothing
    passes through its cell.

    Raises
    ------
    ValueError
        When the graph is of other cells, has negative or missing weights, or ``alpha`` is out of its range.
    """
    n_cells = len(probabilities)
    if not 0 <= alpha < 1:
        msg = f"alpha is {alpha}; expected 0 (no smoothing) or more, and less than 1."
        raise ValueError(msg)
    _check_graph(connectivities, n_cells)
    result = np.array(probabilities, dtype=np.float64)
    known = np.flatnonzero(result.any(axis=1))
    start = result[known]
    links = csr_matrix(connectivities, dtype=np.float64)[known][:, known]
    links = (links + links.T) / 2
    links -= diags(links.diagonal())
    degree = np.asarray(links.sum(axis=1)).ravel()
    # who has no neighbours hears itself
    spread = alpha * (diags(1 / np.where(degree > 0, degree, 1)) @ links + diags((degree == 0).astype(np.float64)))
    heard_from_itself = (1 - alpha) * start  # (cells, labels)
    rate = alpha / (1 + np.sqrt(1 - alpha**2))
    n_steps = int(np.ceil(np.log(TOLERANCE / 2) / np.log(rate))) if rate > 0 else 0
    before, now, omega = start, spread @ start + heard_from_itself, 2.0
    for _ in range(n_steps):
        omega = 1 / (1 - alpha**2 * omega / 4)
        before, now = now, omega * (spread @ now + heard_from_itself - before) + before
    now = np.clip(now, 0, None)
    result[known] = now / now.sum(axis=1, keepdims=True)
    return result.astype(np.asarray(probabilities).dtype, copy=False)


def label_in_cluster(labels: pd.Series | np.ndarray, clusters: pd.Series | pd.Categorical) -> pd.Categorical[Any]:
    """Number of each cell's pair of label and cluster, whose cells share a text; missing where the cluster is.

    Parameters
    ----------
    labels
        Of the cells.
    clusters
        Of the cells.
    """
    table = pd.DataFrame(
        {"label": np.asarray(labels, dtype=str), "cluster": pd.Series(clusters).to_numpy(dtype=object)}
    )
    codes = table.groupby(["label", "cluster"]).ngroup().fillna(-1).astype(int)
    return pd.Categorical.from_codes(codes, categories=pd.RangeIndex(codes.max() + 1))


def mean_by_cluster(values: np.ndarray, clusters: pd.Categorical) -> np.ndarray:
    """Mean of the rows of each cluster, shape (clusters, columns), in the order of the categories.

    Of probabilities the mean is the share of each label that is expected in the cluster, and as calibrated as its
    cells. The mean of their logarithms would take the cells for independent views of one label: it is as good as
    certain in any large cluster, a mixed one too, and one cell that rules a label out would rule it out for all.

    Parameters
    ----------
    values
        Vectors or probabilities of cells. A row of zeros, of which nothing is known, does not count.
    clusters
        Cluster of each cell.

    Returns
    -------
    Means; zeros for a cluster of which nothing is known.
    """
    _check_length("clusters", len(clusters), len(values))
    known = np.flatnonzero(values.any(axis=1))
    member = csr_matrix(
        (np.ones(len(known)), (clusters.codes[known], known)), shape=(len(clusters.categories), len(values))
    )
    counts = np.asarray(member.sum(axis=1))
    return (member @ values.astype(np.float64) / np.maximum(counts, 1)).astype(values.dtype)


def one_label_each(probabilities: np.ndarray, clusters: pd.Categorical) -> np.ndarray:
    """Give clusters different labels, such that the product of their probabilities is the largest.

    It is the assignment problem on log-probabilities (:func:`scipy.optimize.linear_sum_assignment`). A cluster in which
    nothing is known takes no label.

    Parameters
    ----------
    probabilities
        Of each label, the same for all cells of a cluster but for cells of which nothing is known; shape (cells,
        labels). The last label, ``"unknown"``, is given to no cluster.
    clusters
        Cluster of each cell; not more than there are labels without the last.

    Returns
    -------
    Number of the label of each cell, shape (cells,).
    """
    from scipy.optimize import linear_sum_assignment

    mean = mean_by_cluster(np.asarray(probabilities, dtype=np.float64), clusters)
    known = np.flatnonzero(mean.any(axis=1))
    label = np.full(len(mean), mean.shape[1] - 1)
    rows, label_of = linear_sum_assignment(np.log(mean[known, :-1] + LEAST_PROBABILITY), maximize=True)
    label[known[rows]] = label_of
    return label[clusters.codes]


def representatives(
    vectors: np.ndarray, labels: Sequence[str] | np.ndarray, budget: int, *, clusters: pd.Categorical | None = None
) -> np.ndarray:
    """Cells that speak for the others, the most important ones first, so that a smaller budget gives the first of them.

    First comes a cell of every label, then one of every other group of cells with one label and cluster, larger groups
    first: the cell nearest to the mean of its group. Then, again and again, the cell farthest from those of its label.

    Parameters
    ----------
    vectors
        Embeddings of cells; a cell with a vector of zeros is not chosen.
    labels
        Of the cells.
    budget
        Number of cells, at most.
    clusters
        Of the cells, when there are any.

    Returns
    -------
    Rows of the chosen cells.

    Raises
    ------
    ValueError
        When the budget is not positive, or ``labels`` or ``clusters`` are of other cells.
    """
    if budget < 1:
        msg = f"The budget is {budget} cells; expected 1 or more."
        raise ValueError(msg)
    _check_length("labels", len(labels), len(vectors))
    if clusters is not None:
        _check_length("clusters", len(clusters), len(vectors))
    vectors = np.asarray(vectors, dtype=np.float64)
    known = np.flatnonzero(vectors.any(axis=1))
    codes = pd.factorize(np.asarray(labels, dtype=str), sort=True)[0]
    table = pd.DataFrame(
        {"row": known, "label": codes[known], "cluster": 0 if clusters is None else clusters.codes[known]}
    )
    groups = [rows.to_numpy() for _, rows in table.groupby(["label", "cluster"], sort=True)["row"]]
    central = [_most_central(vectors, rows) for rows in sorted(groups, key=len, reverse=True)]
    # the largest group of each label stands before all others
    is_first = ~pd.Series(codes[central]).duplicated().to_numpy()
    chosen = [row for row, first in zip(central, is_first, strict=True) if first]
    chosen += [row for row, first in zip(central, is_first, strict=True) if not first]
    chosen = chosen[:budget]
    same = {label: rows.to_numpy() for label, rows in table.groupby("label")["row"]}
    distance = np.full(len(vectors), -1.0)
    distance[known] = np.inf
    for row in chosen:
        _shorten(distance, vectors, row, same[codes[row]])
    while len(chosen) < min(budget, len(known)):
        row = int(np.argmax(distance))
        chosen.append(row)
        _shorten(distance, vectors, row, same[codes[row]])
    return np.array(chosen, dtype=np.int64)


def propagate(
    rows: np.ndarray,
    vectors: np.ndarray,
    labels: Sequence[str] | np.ndarray,
    connectivities: spmatrix | np.ndarray | None = None,
) -> np.ndarray:
    """From which representative each cell takes its text: one of its own label.

    Through the graph it is the one with the shortest way, over cells of the same label, where a link is as long as its
    weight is small. Where no way leads to one, and without a graph, it is the one with the nearest vector.

    Parameters
    ----------
    rows
        Of :func:`representatives`.
    vectors
        Embeddings of all cells.
    labels
        Of all cells; or their clusters, when a text is to stay in its cluster.
    connectivities
        Weights of neighbours, shape (cells, cells).

    Returns
    -------
    For each cell the row of a representative, its own for these; -1 when its label has none, or its vector is zero.
    """
    from scipy.sparse.csgraph import dijkstra
    from sklearn.metrics import pairwise_distances_argmin

    _check_length("labels", len(labels), len(vectors))
    codes = pd.factorize(np.asarray(labels, dtype=str))[0]
    known = np.asarray(vectors.any(axis=1))
    source = np.full(len(vectors), -1)
    if not len(rows):
        return source
    if connectivities is not None:
        _check_graph(connectivities, len(vectors))
        links = csr_matrix(connectivities, dtype=np.float64).tocoo()
        same = (codes[links.row] == codes[links.col]) & known[links.row] & known[links.col] & (links.data > 0)
        lengths = csr_matrix((1 / links.data[same], (links.row[same], links.col[same])), shape=links.shape)
        ways = dijkstra(lengths, directed=False, indices=np.sort(rows), min_only=True, return_predecessors=True)
        source = np.maximum(ways[2], -1)
    for label in np.unique(codes[rows]):
        speakers = rows[codes[rows] == label]
        without_source = np.flatnonzero((codes == label) & (source < 0) & known)
        if len(without_source):
            source[without_source] = speakers[pairwise_distances_argmin(vectors[without_source], vectors[speakers])]
    source[rows] = rows
    return source


def _most_central(vectors: np.ndarray, rows: np.ndarray) -> int:
    """The row nearest to the mean of some rows."""
    apart = np.linalg.norm(vectors[rows] - vectors[rows].mean(axis=0), axis=1)
    return int(rows[apart.round(DECIMALS).argmin()])


def _shorten(distance: np.ndarray, vectors: np.ndarray, row: int, same: np.ndarray) -> None:
    """Update the distances to the nearest chosen cell, after one was chosen; a chosen one is nobody's next."""
    apart = np.linalg.norm(vectors[same] - vectors[row], axis=1).round(DECIMALS)
    distance[same] = np.minimum(distance[same], apart)
    distance[row] = -1


def _check_graph(connectivities: spmatrix | np.ndarray, n_cells: int) -> None:
    """Raise when a graph is not one of these cells."""
    if connectivities.shape != (n_cells, n_cells):
        msg = (
            f"The neighbours graph is of shape {connectivities.shape}, but there are {n_cells} cells. Make it again: "
            "sc.pp.neighbors(adata, use_rep='X_scgpt')"
        )
        raise ValueError(msg)
    weights = np.asarray(connectivities.data if issparse(connectivities) else connectivities)
    if not (weights >= 0).all():
        msg = (
            "The neighbours graph has weights that are negative or missing; expected connectivities, 0 or more. Make "
            "it again: sc.pp.neighbors(adata, use_rep='X_scgpt')"
        )
        raise ValueError(msg)


def _check_length(name: str, n_values: int, expected: int) -> None:
    """Raise when something does not have a value for each cell."""
    if n_values != expected:
        msg = f"{name} has {n_values} values, but there are {expected} cells; give one for each cell."
        raise ValueError(msg)
