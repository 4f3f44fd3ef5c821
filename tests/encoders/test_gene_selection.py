import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

import bioverse_sc as bsc
from bioverse_sc.encoders.scgpt._tokenize import bin_edges
from tests.tiny import GENES, make_encoder, make_model


def full_cells(n=5, *, seed=0):
    return csr_matrix(np.random.default_rng(seed).integers(1, 40, size=(n, len(GENES))).astype(np.float32))


def kept(cells):
    return [set(cells.gene_ids[a:b]) for a, b in zip(cells.offsets[:-1], cells.offsets[1:], strict=True)]


def chosen(matrix, genes=GENES, *, seed=0, encoder=None):
    return kept((encoder or make_encoder(max_seq_len=21)).tokenize(matrix, genes, gene_selection="random", seed=seed))


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_a_sample_belongs_to_the_cell(seed):
    matrix, rng = full_cells(seed=seed), np.random.default_rng(seed)
    expected = chosen(matrix, seed=seed)
    rows, genes = rng.permutation(matrix.shape[0]), rng.permutation(len(GENES))
    assert chosen(csr_matrix(matrix[rows]), seed=seed) == [expected[i] for i in rows]
    assert chosen(csr_matrix(matrix[:, genes]), [GENES[i] for i in genes], seed=seed) == expected
    assert [chosen(matrix[i], seed=seed)[0] for i in range(matrix.shape[0])] == expected


def test_it_is_random_over_seeds_and_cells_and_of_the_right_size():
    matrix = full_cells()
    one, two = chosen(matrix, seed=1), chosen(matrix, seed=2)
    assert all(a != b for a, b in zip(one, two, strict=True))
    assert len({frozenset(s) for s in one}) == len(one)
    assert {len(s) for s in one} == {20}
    assert one == chosen(matrix, seed=1)


def test_every_gene_has_the_same_chance():
    matrix = full_cells(n=1)
    times = np.zeros(len(GENES))
    for seed in range(400):
        times[list(chosen(matrix, seed=seed)[0])] += 1
    # 400 draws of 20 in 80: mean 100, standard deviation 8.7
    assert 60 < times.min()
    assert times.max() < 140


def test_it_is_that_of_the_cell_in_counts_and_log_normalised():
    matrix = full_cells()
    logged = matrix.copy()
    logged.data = np.log1p(logged.data / 3).astype(np.float64)
    assert chosen(matrix) == chosen(logged)


def test_short_cells_are_read_whole():
    matrix = full_cells()
    encoder = make_encoder(max_seq_len=200)
    for selection in ("top", "random"):
        assert kept(encoder.tokenize(matrix, GENES, gene_selection=selection)) == [set(range(80))] * 5


def test_values_of_the_sample_are_bins_of_the_whole_cell():
    matrix = full_cells()
    whole = make_encoder(max_seq_len=200).tokenize(matrix, GENES)
    part = make_encoder(max_seq_len=21).tokenize(matrix, GENES, gene_selection="random", seed=3)
    of_gene = dict(zip(whole.gene_ids[:80], whole.values[:80], strict=True))
    assert [of_gene[g] for g in part.gene_ids[:20]] == part.values[:20].tolist()
    assert (np.diff(part.gene_ids[:20]) > 0).all()


def test_another_name_is_an_error():
    with pytest.raises(ValueError, match=r"gene_selection is 'best'.*'top'.*'random'"):
        make_encoder().tokenize(full_cells(), GENES, gene_selection="best")


def test_tl_embed_takes_it_and_records_it(cells):
    from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPTEncoder

    shape = make_encoder(max_seq_len=11).module.config
    encoder = ScGPTEncoder.untrained(shape, GeneVocabulary(list(cells.var_names[:200])))
    model = make_model(encoders={"rna": encoder})
    found = {}
    for selection, seed in [("top", 0), ("random", 1), ("random", 2)]:
        bsc.tl.embed(cells, model=model, gene_selection=selection, seed=seed)
        found[selection, seed] = cells.obsm["X_scgpt"]
        made_by = cells.uns["bioverse"]["embed"]
        assert (made_by["gene_selection"], made_by["seed"]) == (selection, seed)
    bsc.tl.embed(cells, model=model, gene_selection="random", seed=1, batch_size=3)
    np.testing.assert_allclose(cells.obsm["X_scgpt"], found["random", 1], atol=1e-6)
    assert not np.allclose(found["random", 1], found["random", 2], atol=1e-3)
    assert not np.allclose(found["random", 1], found["top", 0], atol=1e-3)


@given(st.lists(st.floats(0.015625, 500, width=32), min_size=1, max_size=120), st.sampled_from([2, 7, 51]))
@settings(max_examples=60, deadline=None)
def test_edges_are_those_of_numpy_to_the_last_bit(values, n_bins):
    for dtype in (np.float32, np.float64):
        array = np.array(values, dtype=dtype)
        np.testing.assert_array_equal(bin_edges(array, n_bins), np.quantile(array, np.linspace(0, 1, n_bins - 1)))
