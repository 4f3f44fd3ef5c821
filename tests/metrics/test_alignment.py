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


def test_what_is_as_close_comes_first():
    own = np.array([0, 1, 2])
    # between the first two items, on the third one, nowhere
    queries = np.array([[2.0, 2.0], [-1.0, 0.0], [0.0, 0.0]])
    assert retrieval_at_k(queries[:1], ITEMS, own[:1], 1) == 0
    assert retrieval_at_k(queries[:1], ITEMS, own[:1], 2) == 1
    assert retrieval_at_k(queries[1:2], ITEMS, own[2:], 1) == 1
    # the items are the same, and only the own one is not before itself
    twins = np.random.default_rng(0).normal(size=(1, 301)).repeat(7, axis=0)
    for place in range(7):
        assert retrieval_at_k(twins[:1], twins, np.array([place]), 6) == 0
        assert retrieval_at_k(twins[:1], twins, np.array([place]), 7) == 1


def test_a_query_of_length_zero_finds_nothing():
    for k in (1, 2, 3, 10):
        assert retrieval_at_k(np.zeros((3, 2)), ITEMS, np.arange(3), k) == 0
    found = alignment_metrics(np.zeros((3, 2)), ITEMS, np.arange(3), ITEMS[:0])
    assert [found[f"retrieval_at_{k}"] for k in (1, 5, 10)] == [0, 0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_an_error(bad):
    broken = ITEMS.copy()
    broken[1, 0] = bad
    with pytest.raises(ValueError, match="1 of 3 queries hold NaN or infinite"):
        retrieval_at_k(broken, ITEMS, np.arange(3), 1)
    with pytest.raises(ValueError, match="1 of 3 items hold NaN or infinite"):
        retrieval_at_k(ITEMS, broken, np.arange(3), 1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        alignment_metrics(broken, ITEMS, np.arange(3), ITEMS)


def test_many_queries_are_ranked_as_one_by_one():
    rng = np.random.default_rng(1)
    queries, items = rng.normal(size=(2500, 6)).astype(np.float32), rng.normal(size=(40, 6)).astype(np.float32)
    own = rng.integers(30, size=2500)
    found = alignment_metrics(queries, items[:30], own, items[30:])
    unit = items / np.linalg.norm(items, axis=1, keepdims=True)
    for k in (1, 5, 10):
        hits = [place in np.argsort(-(unit @ query))[:k] for query, place in zip(queries, own, strict=True)]
        assert found[f"retrieval_at_{k}"] == retrieval_at_k(queries, items, own, k) == pytest.approx(np.mean(hits))


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
