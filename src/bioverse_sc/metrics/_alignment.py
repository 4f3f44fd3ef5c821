"""Retrieval, modality gap and neighbourhood agreement."""

from __future__ import annotations

import numpy as np


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def retrieval_at_k(queries: np.ndarray, items: np.ndarray, true_item: np.ndarray, k: int) -> float:
    """Share of the queries whose true item is among the ``k`` items of highest cosine.

    An item that is as close as the true one, up to rounding, comes before it, and a query of length zero, which is
    equally close to all, never finds its item: vectors that have collapsed to one point are not retrieved.

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

    Raises
    ------
    ValueError
        When a vector holds NaN or infinite values.
    """
    return float((_items_before(queries, items, true_item) < k).mean())


def _items_before(queries: np.ndarray, items: np.ndarray, true_item: np.ndarray) -> np.ndarray:
    """How many items come before each query's own; infinitely many for a query of length zero."""
    queries, items, true_item = np.asarray(queries), np.asarray(items), np.asarray(true_item)
    for name, vectors in (("queries", queries), ("items", items)):
        if not np.isfinite(vectors).all():
            msg = f"{(~np.isfinite(vectors).all(axis=1)).sum()} of {len(vectors)} {name} hold NaN or infinite values."
            raise ValueError(msg)
    unit_items = _unit(items).T
    before = np.empty(len(queries))
    # no more than 1,024 queries at a time, as there may be many
    for start in range(0, len(queries), 1024):
        part = slice(start, start + 1024)
        before[part] = rank_of_true(_unit(queries[part]) @ unit_items, true_item[part])
    before[~queries.any(axis=1)] = np.inf
    return before


def rank_of_true(similarity: np.ndarray, true_item: np.ndarray) -> np.ndarray:
    """How many items come before each query's true one, by their cosines.

    An item that is as close as the true one, up to rounding, comes before it.

    Parameters
    ----------
    similarity
        Cosines, shape (queries, items).
    true_item
        Index of each query's item, shape (queries,).

    Returns
    -------
    Shape (queries,): 0 where the true item is the nearest, infinite where its cosine is NaN.
    """
    true_similarity = np.take_along_axis(similarity, true_item[:, None], axis=1)  # (queries, 1)
    before = (similarity >= true_similarity - _rounding(similarity)).sum(axis=1) - 1.0  # (queries,)
    before[np.isnan(true_similarity[:, 0])] = np.inf
    return before


def _rounding(similarity: np.ndarray) -> float:
    """By how much equal cosines may differ.

    A product may differ in its last digits with the place of an item in the matrix.
    """
    return max(1e-12, float(np.finfo(similarity.dtype).eps))


def cosines(vectors: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Cosine of each vector with each item.

    Parameters
    ----------
    vectors
        Shape (vectors, width).
    items
        Shape (items, width).

    Returns
    -------
    Shape (vectors, items), float32; NaN for a vector or an item of length zero.
    """
    vectors, items = np.asarray(vectors), np.asarray(items)
    unit_items = _unit(items).T
    similarity = np.empty((len(vectors), len(items)), dtype=np.float32)
    for start in range(0, len(vectors), 1024):
        similarity[start : start + 1024] = _unit(vectors[start : start + 1024]) @ unit_items
    similarity[~vectors.any(axis=1)] = np.nan
    similarity[:, ~items.any(axis=1)] = np.nan
    return similarity


def text_retrieval(entities: np.ndarray, texts: np.ndarray, true_text: np.ndarray) -> dict[str, float]:
    """Share of the texts that have entities with one of their own among the 1, 5 and 10 of highest cosine.

    As in :func:`retrieval_at_k`, what is as close as the nearest own entity comes before it, and an entity of length
    zero is neither found nor in the way.

    Parameters
    ----------
    entities
        Soft tokens, shape (entities, width).
    texts
        Vectors of the texts, shape (texts, width).
    true_text
        Index of the text that belongs to each, shape (entities,).
    """
    entities = np.asarray(entities)
    used, text_of = np.unique(true_text, return_inverse=True)
    unit_texts = _unit(np.asarray(texts)[used])
    is_real = entities.any(axis=1)
    entities, text_of = entities[is_real], text_of[is_real]
    parts = [slice(start, start + 1024) for start in range(0, len(entities), 1024)]
    nearest_own = np.full(len(used), -np.inf)
    for part in parts:
        np.maximum.at(nearest_own, text_of[part], (_unit(entities[part]) * unit_texts[text_of[part]]).sum(axis=1))
    before = np.where(np.isfinite(nearest_own), 0.0, np.inf)
    for part in parts:
        similarity = _unit(entities[part]) @ unit_texts.T
        np.put_along_axis(similarity, text_of[part, None], -np.inf, axis=1)
        before += (similarity >= nearest_own - _rounding(similarity)).sum(axis=0)
    return {f"text_retrieval_at_{k}": float((before < k).mean()) for k in (1, 5, 10)}


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
        Soft tokens, shape (entities, width).
    texts
        Vectors of the texts, shape (texts, width).
    true_text
        Index of the text that belongs to each, shape (entities,).
    unrelated
        Vectors of unrelated texts, shape (texts, width): they are among the items of retrieval. There may be none.
    """
    before = _items_before(cells, np.concatenate([texts, unrelated]), true_text)
    scores = {f"retrieval_at_{k}": float((before < k).mean()) for k in (1, 5, 10)}
    scores["modality_gap"] = modality_gap(cells, np.asarray(texts)[true_text])
    if len(unrelated):
        scores["gap_to_unrelated"] = modality_gap(cells, unrelated)
    return scores | {"knn_agreement": knn_agreement(cells, true_text)}
