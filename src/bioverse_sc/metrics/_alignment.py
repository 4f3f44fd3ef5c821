"""Retrieval, modality gap and neighbourhood agreement."""

from __future__ import annotations

import numpy as np


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def retrieval_at_k(queries: np.ndarray, items: np.ndarray, true_item: np.ndarray, k: int) -> float:
    """Share of the queries whose true item is among the ``k`` items of highest cosine.

    Parameters
    ----------
    queries
        Shape (queries, width).
    items
        Shape (items, width).
    true_item
        Index of each query's item, shape (queries,).
    k
        How many items count.
    """
    similarity = _unit(queries) @ _unit(items).T
    own = similarity[np.arange(len(queries)), true_item][:, None]
    return float(((similarity > own).sum(axis=1) < k).mean())


def modality_gap(one: np.ndarray, two: np.ndarray) -> float:
    """Distance between the means of two sets of unit vectors, 0 to 2.

    Source: Liang et al., Mind the gap, NeurIPS 2022.

    Parameters
    ----------
    one
        Shape (vectors, width).
    two
        Shape (vectors, width).
    """
    return float(np.linalg.norm(_unit(one).mean(axis=0) - _unit(two).mean(axis=0)))


def knn_agreement(vectors: np.ndarray, labels: np.ndarray, k: int = 15) -> float:
    """Mean share of a vector's ``k`` nearest others, by cosine, that have its label.

    Parameters
    ----------
    vectors
        Shape (vectors, width).
    labels
        Shape (vectors,).
    k
        Neighbours; fewer where there are fewer vectors.
    """
    from sklearn.neighbors import NearestNeighbors

    k = min(k, len(vectors) - 1)
    if k < 1:
        return float("nan")
    index = NearestNeighbors(n_neighbors=k, metric="euclidean").fit(_unit(vectors))
    neighbours = index.kneighbors(return_distance=False)
    labels = np.asarray(labels)
    return float((labels[neighbours] == labels[:, None]).mean())


def alignment_metrics(
    cells: np.ndarray, texts: np.ndarray, true_text: np.ndarray, unrelated: np.ndarray
) -> dict[str, float]:
    """All of the above for cells beside the texts of their labels.

    The gap is between the cells and their own texts, each as often as it has cells, so that it does not grow with texts
    about types that are not among the cells.

    Parameters
    ----------
    cells
        Soft tokens, shape (cells, width).
    texts
        Vectors of the labels' texts, shape (texts, width).
    true_text
        Index of each cell's text.
    unrelated
        Vectors of unrelated texts, shape (texts, width): they are among the items of retrieval. There may be none.
    """
    items = np.concatenate([texts, unrelated])
    found = {f"retrieval_at_{k}": retrieval_at_k(cells, items, true_text, k) for k in (1, 5, 10)}
    found["modality_gap"] = modality_gap(cells, np.asarray(texts)[true_text])
    if len(unrelated):
        found["gap_to_unrelated"] = modality_gap(cells, unrelated)
    return found | {"knn_agreement": knn_agreement(cells, true_text)}
