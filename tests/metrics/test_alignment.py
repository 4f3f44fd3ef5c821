import math

import numpy as np
import pytest

from bioverse_sc.metrics import alignment_metrics, knn_agreement, modality_gap, retrieval_at_k

ITEMS = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])


def test_retrieval_counts_items_that_are_closer():
    # cosines with the items: (0.8, 0.6, -0.8), (0, 1, 0), (-0.6, 0.8, 0.6)
    queries = np.array([[0.8, 0.6], [0.0, 5.0], [-0.6, 0.8]])
    own = np.array([0, 1, 2])
    assert retrieval_at_k(queries, ITEMS, own, 1) == pytest.approx(2 / 3)
    assert retrieval_at_k(queries, ITEMS, own, 2) == 1
    assert retrieval_at_k(queries, ITEMS, np.array([2, 1, 0]), 1) == pytest.approx(1 / 3)
    assert retrieval_at_k(queries, ITEMS, np.array([2, 1, 0]), 2) == pytest.approx(1 / 3)
    assert retrieval_at_k(queries, ITEMS, np.array([2, 1, 0]), 3) == 1


def test_the_length_of_vectors_does_not_matter():
    rng = np.random.default_rng(0)
    a, b, own = rng.normal(size=(20, 5)), rng.normal(size=(9, 5)), rng.integers(9, size=20)
    scale = rng.uniform(0.1, 10, size=(20, 1))
    assert retrieval_at_k(a * scale, b, own, 3) == retrieval_at_k(a, b, own, 3)
    assert modality_gap(a * scale, b) == pytest.approx(modality_gap(a, b))


def test_the_gap_is_the_distance_of_means():
    assert modality_gap(ITEMS[:1], ITEMS[:1] * 7) == 0
    assert modality_gap(ITEMS[:1], ITEMS[2:]) == 2
    # means (0.5, 0.5) and (-1, 0)
    assert modality_gap(ITEMS[:2], ITEMS[2:]) == pytest.approx(math.sqrt(1.5**2 + 0.5**2))


def test_neighbours_of_a_pure_cluster_agree():
    vectors = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1], [0.1, 1], [0.2, 1]])
    labels = np.array(["a", "a", "a", "b", "b", "b"])
    assert knn_agreement(vectors, labels, k=2) == 1
    # of five others, two have the own label
    assert knn_agreement(vectors, labels, k=5) == pytest.approx(2 / 5)
    assert knn_agreement(vectors, np.array(["a", "b", "a", "b", "a", "b"]), k=1) == 0


def test_neighbours_of_one_vector_are_none():
    assert math.isnan(knn_agreement(np.ones((1, 2)), np.array([0])))


def test_unrelated_texts_are_among_the_items():
    cells = np.array([[1.0, 0.1], [0.1, 1.0]])
    texts, unrelated = ITEMS[:2], np.array([[1.0, 0.1]])
    found = alignment_metrics(cells, texts, np.array([0, 1]), unrelated)
    assert set(found) == {
        "retrieval_at_1",
        "retrieval_at_5",
        "retrieval_at_10",
        "modality_gap",
        "gap_to_unrelated",
        "knn_agreement",
    }
    assert found["retrieval_at_1"] == 0.5
    assert found["retrieval_at_5"] == 1
    assert found["modality_gap"] == pytest.approx(modality_gap(cells, texts))
    both = alignment_metrics(cells, texts, np.array([1, 1]), unrelated)
    assert both["modality_gap"] == pytest.approx(modality_gap(cells, texts[1:]))
    assert found["gap_to_unrelated"] == pytest.approx(modality_gap(cells, unrelated))
    assert found["knn_agreement"] == 0
    assert all(isinstance(value, float) for value in found.values())
