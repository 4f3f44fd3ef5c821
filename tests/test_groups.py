import itertools
import re
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy.sparse import csr_matrix, random_array

import bioverse_sc as bsc
from bioverse_sc.groups import mean_by_cluster, one_label_each, propagate, representatives, smooth_probabilities
from bioverse_sc.read import clusters_of, neighbors_graph


def some_probabilities(n, labels=5, *, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(labels, 0.5), size=n)


def some_graph(n, *, seed=0, density=0.1):
    graph = random_array((n, n), density=density, rng=np.random.default_rng(seed), format="csr")
    return csr_matrix(graph + graph.T)


def clouds(sizes, *, seed=0, width=4):
    """Points around distant centres, and the number of the centre of each."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(len(sizes)), sizes)
    return rng.normal(size=(len(of), width)) + 100 * np.eye(len(sizes), width)[of] + 50, of


# --- smoothing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0, 0.1, 0.5, 0.95])
def test_smoothing_is_the_closed_form(alpha):
    p, graph = some_probabilities(60), some_graph(60)
    dense = graph.toarray()
    np.fill_diagonal(dense, 0)
    assert dense.sum(axis=1).min() > 0
    s = dense / dense.sum(axis=1, keepdims=True)
    expected = (1 - alpha) * np.linalg.solve(np.eye(60) - alpha * s, p)
    np.testing.assert_allclose(smooth_probabilities(p, graph, alpha=alpha), expected, atol=1e-8)
    np.testing.assert_allclose(smooth_probabilities(p, dense, alpha=alpha), expected, atol=1e-8)


def test_rows_sum_to_one_and_neighbours_agree_more():
    p, graph = some_probabilities(60), some_graph(60)
    found = smooth_probabilities(p, graph)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found >= 0).all()
    i, j = graph.nonzero()
    assert np.abs(found[i] - found[j]).sum() < 0.7 * np.abs(p[i] - p[j]).sum()


def test_a_cell_that_disagrees_with_all_its_neighbours_is_outvoted():
    p = np.tile([0.9, 0.1], (6, 1))
    p[0] = [0.4, 0.6]
    found = smooth_probabilities(p, np.ones((6, 6)))
    assert found[0].argmax() == 0
    assert (smooth_probabilities(p, np.ones((6, 6)), alpha=0.05)[0].argmax()) == 1


def test_the_order_of_cells_does_not_matter():
    p, graph = some_probabilities(60), some_graph(60)
    order = np.random.default_rng(1).permutation(60)
    found = smooth_probabilities(p[order], graph[order][:, order])
    np.testing.assert_allclose(found, smooth_probabilities(p, graph)[order], atol=1e-9)


def test_a_cell_without_neighbours_keeps_its_row():
    p, dense = some_probabilities(20), some_graph(20, density=0.4).toarray()
    dense[3] = dense[:, 3] = 0
    dense[3, 3] = 1
    found = smooth_probabilities(p, csr_matrix(dense))
    np.testing.assert_allclose(found[3], p[3], atol=1e-9)
    assert np.abs(found - p).max(axis=1)[np.arange(20) != 3].min() > 1e-3


def test_an_unknown_cell_neither_spreads_nor_changes():
    p, graph = some_probabilities(20), some_graph(20, density=0.4)
    p[5] = 0
    found = smooth_probabilities(p, graph)
    assert not found[5].any()
    others = np.arange(20) != 5
    np.testing.assert_allclose(found[others], smooth_probabilities(p[others], graph[others][:, others]), atol=1e-9)
    assert not smooth_probabilities(np.zeros((20, 3)), graph).any()


def test_nothing_passes_through_an_unknown_cell():
    chain = np.diag(np.ones(2), 1)
    p = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(smooth_probabilities(p, chain + chain.T), p)


def test_smoothing_leaves_its_input_and_the_type():
    p, graph = some_probabilities(20).astype(np.float32), some_graph(20)
    before = p.copy(), graph.copy()
    assert smooth_probabilities(p, graph).dtype == np.float32
    np.testing.assert_array_equal(p, before[0])
    assert (graph != before[1]).nnz == 0


def test_twenty_thousand_cells_take_seconds():
    rng = np.random.default_rng(0)
    one = np.repeat(np.arange(20_000), 15)
    other = (one + rng.integers(1, 20_000, size=len(one))) % 20_000
    links = csr_matrix((rng.random(len(one)), (one, other)), shape=(20_000, 20_000))
    p = rng.dirichlet(np.ones(10), size=20_000)
    began = time.process_time()
    found = smooth_probabilities(p, links)
    assert time.process_time() - began < 10
    # it solves the system
    both = links + links.T
    from_neighbours = (both @ found) / np.asarray(both.sum(axis=1)).reshape(-1, 1)
    np.testing.assert_allclose(found - 0.5 * from_neighbours, 0.5 * p, atol=1e-8)


@pytest.mark.parametrize(
    ("graph", "alpha", "match"),
    [
        (np.ones((3, 3)), 0.5, r"\(3, 3\), but there are 4 cells.*sc\.pp\.neighbors\(adata, use_rep='X_scgpt'\)"),
        (-np.ones((4, 4)), 0.5, "negative or missing"),
        (np.full((4, 4), np.nan), 0.5, "negative or missing"),
        (np.ones((4, 4)), 1.0, "alpha is 1.0; expected 0"),
        (np.ones((4, 4)), -0.1, "alpha is -0.1"),
    ],
)
def test_what_cannot_be_smoothed_is_an_error(graph, alpha, match):
    for made in (graph, csr_matrix(graph)):
        with pytest.raises(ValueError, match=match):
            smooth_probabilities(some_probabilities(4), made, alpha=alpha)


def test_the_graph_of_scanpy_is_found_and_a_missing_one_named(cells):
    found = smooth_probabilities(some_probabilities(12), neighbors_graph(cells))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    del cells.obsp
    with pytest.raises(KeyError, match=r"it is empty.*sc\.pp\.neighbors\(adata, use_rep='X_scgpt'\)"):
        neighbors_graph(cells)


# --- clusters --------------------------------------------------------------------------------------------------------


def with_clusters(values):
    return ad.AnnData(obs=pd.DataFrame({"leiden": values}, index=[f"c{i}" for i in range(len(values))]))


def test_the_mean_of_a_cluster_is_that_of_its_cells():
    p = some_probabilities(6)
    p[5] = 0
    clusters = clusters_of(with_clusters(["b", "a", "b", "a", "b", "b"]), "leiden")
    found = mean_by_cluster(p, clusters)
    np.testing.assert_allclose(found, [p[[1, 3]].mean(axis=0), p[[0, 2, 4]].mean(axis=0)])
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_one_cell_does_not_rule_a_label_out():
    p = np.tile([1.0, 0.0], (10, 1))
    p[0] = [0.0, 1.0]
    assert mean_by_cluster(p, clusters_of(with_clusters([0] * 10), "leiden"))[0].argmax() == 0


def test_a_cluster_of_which_nothing_is_known_is_zero():
    found = mean_by_cluster(np.array([[0.0, 0.0], [0.3, 0.7]]), clusters_of(with_clusters(["x", "y"]), "leiden"))
    np.testing.assert_allclose(found, [[0, 0], [0.3, 0.7]])


def test_categories_without_cells_and_numbers_are_fine():
    column = pd.Categorical(["a", "b"], categories=["gone", "a", "b"])
    assert clusters_of(with_clusters(column), "leiden").categories.tolist() == ["a", "b"]
    assert clusters_of(with_clusters([3, 1, 3]), "leiden").codes.tolist() == [1, 0, 1]


def test_the_commands_of_the_message_and_of_the_page_make_clusters():
    page = (Path(__file__).parents[1] / "docs" / "annotation.md").read_text(encoding="utf-8")
    of_page = re.search(r"^sc\.pp\.neighbors\(.*\)\nsc\.tl\.leiden\(.*\)$", page, re.MULTILINE)[0]
    for key in ("leiden", "groups"):
        adata = sc.datasets.pbmc68k_reduced()[:200].copy()
        with pytest.raises(KeyError) as error:
            clusters_of(adata, key)
        exec(error.value.args[0].partition("Make clusters: ")[2], {"bsc": bsc, "sc": sc, "adata": adata})
        assert clusters_of(adata, key).categories.size > 1
    del adata.obs["groups"]
    exec(of_page, {"sc": sc, "adata": adata})
    assert clusters_of(adata, "leiden").categories.size > 1


def test_a_missing_column_or_cluster_is_an_error_that_says_which():
    with pytest.raises(KeyError, match=r"no column 'louvain'.*\['leiden'\].*sc\.tl\.leiden"):
        clusters_of(with_clusters(["a"]), "louvain")
    with pytest.raises(ValueError, match=r"2 of 4 cells.*\.obs\['leiden'\].*'c1'.*notna"):
        clusters_of(with_clusters(["a", None, "b", np.nan]), "leiden")
    with pytest.raises(ValueError, match="clusters has 1 values, but there are 2 cells"):
        mean_by_cluster(np.ones((2, 2)), clusters_of(with_clusters(["a"]), "leiden"))


# --- representatives -------------------------------------------------------------------------------------------------


def test_every_label_is_represented_before_any_twice():
    vectors, of = clouds([30, 5, 1])
    labels = np.array(["big", "middle", "small"])[of]
    assert labels[representatives(vectors, labels, 3)].tolist() == ["big", "middle", "small"]
    clusters = pd.Categorical(np.arange(36) % 4)
    assert set(labels[representatives(vectors, labels, 3, clusters=clusters)]) == set(labels)


def test_the_first_is_the_cell_nearest_to_the_mean():
    vectors, of = clouds([30, 10])
    chosen = representatives(vectors, of, 2)
    for label, row in enumerate(chosen):
        rows = np.flatnonzero(of == label)
        apart = np.linalg.norm(vectors[rows] - vectors[rows].mean(axis=0), axis=1)
        assert row == rows[apart.argmin()]


def test_every_cluster_of_a_label_has_its_own_then_the_farthest_follow():
    vectors, of = clouds([20, 12, 8])
    clusters = pd.Categorical(of)
    chosen = representatives(vectors, ["T cell"] * 40, 5, clusters=clusters)
    assert of[chosen[:3]].tolist() == [0, 1, 2]
    for k in (3, 4):
        apart = np.linalg.norm(vectors[:, None] - vectors[chosen[:k]][None], axis=2).min(axis=1)
        assert chosen[k] == apart.argmax()


def test_without_clusters_the_farthest_come_from_the_other_clouds():
    vectors, of = clouds([20, 12, 8])
    assert set(of[representatives(vectors, ["T cell"] * 40, 4)]) == {0, 1, 2}


def test_a_smaller_budget_gives_the_first_of_a_larger_one():
    vectors, of = clouds([20, 12, 8])
    whole = representatives(vectors, of, 40)
    assert sorted(whole) == list(range(40))
    for budget in (1, 2, 3, 10):
        assert representatives(vectors, of, budget).tolist() == whole[:budget].tolist()
    assert len(representatives(vectors, of, 1000)) == 40


def test_the_choice_does_not_depend_on_the_order_of_cells_nor_on_the_last_digits():
    vectors, of = clouds([20, 12, 8])
    labels, clusters = np.array(["a", "b", "a"])[of], pd.Categorical(of)
    chosen = representatives(vectors, labels, 12, clusters=clusters)
    order = np.random.default_rng(1).permutation(40)
    again = representatives(vectors[order], labels[order], 12, clusters=pd.Categorical(of[order]))
    assert order[again].tolist() == chosen.tolist()
    noisy = vectors + np.random.default_rng(2).normal(scale=1e-9, size=vectors.shape)
    assert representatives(noisy, labels, 12, clusters=clusters).tolist() == chosen.tolist()


def test_equal_cells_are_told_apart_by_their_order():
    vectors = np.tile(np.random.default_rng(0).normal(size=(1, 4)), (6, 1)) + np.linspace(0, 1e-9, 6)[::-1, None]
    assert representatives(vectors, ["a"] * 6, 3).tolist() == [0, 1, 2]


def test_a_cell_of_which_nothing_is_known_is_not_chosen():
    vectors, of = clouds([5, 5])
    vectors[[0, 7]] = 0
    assert sorted(representatives(vectors, of, 10)) == [1, 2, 3, 4, 5, 6, 8, 9]
    assert representatives(np.zeros((3, 2)), ["a"] * 3, 2).tolist() == []


@pytest.mark.parametrize(
    ("labels", "budget", "clusters", "match"),
    [
        (["a"] * 4, 0, None, "budget is 0 cells; expected 1"),
        (["a"] * 3, 1, None, "labels has 3 values, but there are 4 cells"),
        (["a"] * 4, 1, pd.Categorical(["x"]), "clusters has 1 values"),
    ],
)
def test_representatives_of_what_does_not_fit_are_an_error(labels, budget, clusters, match):
    with pytest.raises(ValueError, match=match):
        representatives(np.ones((4, 2)), labels, budget, clusters=clusters)


# --- propagation -----------------------------------------------------------------------------------------------------


def test_a_text_comes_from_the_nearest_of_the_same_label():
    vectors, of = clouds([20, 20, 20])
    labels = np.array(["a", "a", "b"])[of]
    rows = representatives(vectors, labels, 9, clusters=pd.Categorical(of))
    source = propagate(rows, vectors, labels)
    for cell in range(60):
        own = rows[labels[rows] == labels[cell]]
        assert source[cell] == own[np.linalg.norm(vectors[own] - vectors[cell], axis=1).argmin()]


def test_a_label_without_a_representative_and_an_unknown_cell_have_no_text():
    vectors, of = clouds([5, 5])
    vectors[1] = 0
    assert propagate(np.array([0]), vectors, of).tolist() == [0, -1, 0, 0, 0, -1, -1, -1, -1, -1]
    assert propagate(np.array([0]), vectors, of, np.ones((10, 10))).tolist() == [0, -1, 0, 0, 0, -1, -1, -1, -1, -1]
    assert (propagate(np.array([], dtype=int), vectors, of) == -1).all()


def test_the_graph_decides_where_there_is_one():
    # a bent chain: by its vector the last cell is next to the first one, by the graph to the third
    vectors = np.array([[1.0, 0.0], [1.0, 3.0], [3.0, 3.0], [1.2, 0.1]])
    graph = np.zeros((4, 4))
    graph[0, 1] = graph[1, 2] = 0.2
    graph[2, 3] = 0.9
    labels = ["a"] * 4
    assert propagate(np.array([0, 2]), vectors, labels)[3] == 0
    assert propagate(np.array([0, 2]), vectors, labels, csr_matrix(graph + graph.T))[3] == 2


def test_the_way_does_not_lead_over_another_label_nor_an_unknown_cell():
    vectors = np.array([[1.0], [2.0], [3.0], [9.0]])
    chain = np.diag(np.ones(3), 1)
    rows = np.array([0, 3])
    # cell 2 is as near to cell 3 as the graph allows, and cell 0 lies behind another label
    assert propagate(rows, vectors, ["a", "b", "a", "a"], chain + chain.T).tolist() == [0, -1, 3, 3]
    # cut off on both sides: the nearest vector
    vectors = np.array([[1.0], [0.0], [2.0], [0.0], [9.0]])
    chain = np.diag(np.ones(4), 1)
    assert propagate(np.array([0, 4]), vectors, ["a"] * 5, chain + chain.T).tolist() == [0, -1, 0, -1, 4]


def test_texts_of_the_whole_follow_clusters_when_these_are_given_as_labels():
    vectors, of = clouds([20, 20])
    rows = representatives(vectors, of, 2)
    source = propagate(rows, vectors, of, some_graph(40))
    assert (of[source] == of).all()
    assert (source[rows] == rows).all()


def test_propagation_does_not_depend_on_the_order_of_cells():
    vectors, of = clouds([20, 20])
    graph = some_graph(40, density=0.2)
    rows = representatives(vectors, of, 6)
    source = propagate(rows, vectors, of, graph)
    order = np.random.default_rng(1).permutation(40)
    place = np.argsort(order)
    again = propagate(place[rows], vectors[order], of[order], graph[order][:, order])
    assert order[again[place]].tolist() == source.tolist()


# --- one label for each cluster --------------------------------------------------------------------------------------


def test_each_cluster_has_a_label_of_its_own_though_another_one_is_likelier():
    clusters = pd.Categorical(["one", "two", "one", "two"])
    p = np.array([[0.6, 0.3, 0.0, 0.1], [0.5, 0.01, 0.0, 0.49]])[clusters.codes]
    assert one_label_each(p, clusters).tolist() == [1, 0, 1, 0]


def test_the_assignment_is_the_best_of_all():
    clusters = pd.Categorical(np.arange(4))
    for seed in range(5):
        p = some_probabilities(4, 6, seed=seed)
        p[0, :3] = 0
        found = one_label_each(p, clusters)
        log = np.log(p[:, :-1] + 1e-30)
        best = max(itertools.permutations(range(5), 4), key=lambda order: log[range(4), order].sum())
        assert found.tolist() == list(best)


def test_a_cluster_of_which_nothing_is_known_takes_no_label():
    clusters = pd.Categorical(["one", "one", "two", "three"])
    p = np.array([[0.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 0.0, 0.0], [0.8, 0.1, 0.1]])
    assert one_label_each(p, clusters).tolist() == [0, 0, 2, 1]
