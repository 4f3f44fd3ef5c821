"""What makes it fast must not change what it gives."""

import threading
import tracemalloc
from functools import partial

import anndata as ad
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csc_matrix, csr_matrix, random_array, vstack

import bioverse_sc as bsc
from bioverse_sc.encoders import prepares_tokens
from bioverse_sc.encoders.scgpt import _encoder as module
from bioverse_sc.encoders.scgpt._encoder import length_batches, pack_cells, pad_cells
from bioverse_sc.read import _matrix, ahead
from bioverse_sc.read._map import row_chunks
from tests.tiny import GENES, make_encoder, make_model


def cells(n=9, *, seed=0):
    """Cells of very different lengths, one of them empty."""
    rng = np.random.default_rng(seed)
    shares = np.linspace(0.03, 1, n)
    values = rng.integers(1, 30, size=(n, len(GENES))) * (rng.random((n, len(GENES))) < shares[:, None])
    values[n // 2] = 0
    return csr_matrix(values.astype(np.float32))


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize(("style", "pad"), [("continuous", -2), ("scaling", -2), ("category", 51)])
def test_packed_cells_give_what_padded_ones_give(style, pad, pre_norm):
    encoder = make_encoder(input_emb_style=style, pad_value=pad, pre_norm=pre_norm)
    tokens = encoder.tokenize(cells(), GENES)
    rows = np.flatnonzero(tokens.lengths)[[3, 0, 0, 5, 7]]
    ids, values, padded = pad_cells(tokens, rows, encoder.vocabulary, pad)
    assert padded
    flat_ids, flat_values, runs = pack_cells(tokens, rows, encoder.vocabulary, pad)
    assert len(flat_ids) == sum(n * length for n, length in runs) == (tokens.lengths[rows] + 1).sum()
    assert [n for n, _ in runs] == [1, 2, 1, 1]
    with torch.inference_mode():
        expected = encoder.module(ids, values, cls_only=True)[:, 0]
        torch.testing.assert_close(encoder.module.packed(flat_ids, flat_values, runs), expected, atol=2e-5, rtol=1e-5)


def test_the_padded_way_of_other_devices_gives_the_same(monkeypatch):
    encoder, matrix = make_encoder(), cells()
    expected = encoder.encode(matrix, GENES)
    device = type("Device", (), {"type": "other"})()
    monkeypatch.setattr(type(encoder), "device", property(lambda self: device))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
    np.testing.assert_allclose(encoder.encode(matrix, GENES, batch_size=3), expected, atol=1e-5)


@given(st.lists(st.integers(0, 1200), max_size=60), st.integers(1, 20), st.integers(1, 5000))
@settings(max_examples=60, deadline=None)
def test_batches_hold_every_cell_once_and_keep_their_limits(lengths, batch_size, limit):
    lengths = np.array(lengths, dtype=np.int64)
    batches = list(length_batches(lengths, batch_size, limit))
    held = np.concatenate([np.empty(0, dtype=np.int64), *batches])
    assert sorted(held) == np.flatnonzero(lengths).tolist()
    for rows in batches:
        assert len(rows) <= batch_size
        assert len(rows) == 1 or (lengths[rows].max() + 1) * len(rows) <= limit
    assert (np.diff(lengths[held]) >= 0).all()


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 400))
@settings(max_examples=8, deadline=None)
def test_neither_batch_nor_limit_nor_order_changes_a_cell(seed, batch_size, limit):
    encoder, matrix = make_encoder(), cells(seed=seed)
    expected = encoder.encode(matrix, GENES)
    order = np.random.default_rng(seed).permutation(matrix.shape[0])
    before = module.POSITIONS["cpu"]
    module.POSITIONS["cpu"] = limit
    try:
        found = encoder.encode(csr_matrix(matrix[order]), GENES, batch_size=batch_size)
    finally:
        module.POSITIONS["cpu"] = before
    np.testing.assert_allclose(found, expected[order], atol=2e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_absent_genes_are_genes_that_are_zero(seed):
    encoder, matrix = make_encoder(), cells(seed=seed).tocsc()
    rng = np.random.default_rng(seed)
    present = np.sort(rng.choice(len(GENES), size=rng.integers(1, len(GENES)), replace=False))
    zeroed = matrix.toarray()
    zeroed[:, np.setdiff1d(np.arange(len(GENES)), present)] = 0
    part = encoder.encode(csr_matrix(matrix[:, present]), [GENES[i] for i in present])
    np.testing.assert_array_equal(part, encoder.encode(csr_matrix(zeroed), GENES))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close_and_changes_nothing_else(dtype):
    encoder, matrix = make_encoder(), cells()
    expected = encoder.encode(matrix, GENES)
    half = encoder.encode(matrix, GENES, dtype=dtype)
    assert half.dtype == np.float32
    real = expected.any(axis=1)
    assert ((half * expected).sum(axis=1)[real] > 0.999).all()
    assert not half[~real].any()
    np.testing.assert_array_equal(encoder.encode(matrix, GENES), expected)
    assert {p.dtype for p in encoder.module.parameters()} == {torch.float32}


@pytest.mark.parametrize("length", [255, 256, 300])
def test_attention_of_long_cells_is_attention(length):
    from bioverse_sc.encoders.scgpt._module import _attend

    torch.manual_seed(0)
    q, k, v = (torch.randn(2, length, 3, 16).transpose(1, 2) for _ in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(_attend(q, k, v), expected)
    with torch.inference_mode():
        half = _attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    torch.testing.assert_close(half.float(), expected, atol=0.02, rtol=0.02)
    # one query for each cell, as in the last layer
    torch.testing.assert_close(_attend(q[:, :, :1], k, v), expected[:, :, :1])


def test_many_bins_stay_apart_in_half_precision():
    encoder = make_encoder(n_bins=1001, input_emb_style="category", pad_value=1001, mask_value=1002)
    matrix = csr_matrix(np.random.default_rng(0).gamma(1.0, size=(4, len(GENES))).astype(np.float32))
    half = encoder.encode(matrix, GENES, dtype="bfloat16")
    assert ((half * encoder.encode(matrix, GENES)).sum(axis=1) > 0.999).all()


def test_number_formats_are_chosen_by_name(cells_of_pbmc):
    adata, model = cells_of_pbmc
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        bsc.tl.embed(adata, model=model, dtype="int8")
    bsc.tl.embed(adata, model=model, dtype="bfloat16")
    assert adata.uns["bioverse"]["embed"]["dtype"] == "bfloat16"


@pytest.fixture
def cells_of_pbmc(cells):
    from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPTEncoder

    encoder = ScGPTEncoder.untrained(make_encoder().module.config, GeneVocabulary(list(cells.var_names[:120])))
    return cells, make_model(encoders={"rna": encoder})


def test_the_next_chunk_is_prepared_meanwhile():
    started, release = threading.Event(), threading.Event()

    def items():
        yield 0
        started.set()
        release.wait(10)
        yield 1

    series = ahead(items())
    assert next(series) == 0
    assert started.wait(10), "the second item is not begun while the first one is in use"
    release.set()
    assert list(series) == [1]


def test_an_error_in_the_background_is_raised_and_the_order_kept():
    def items():
        yield from range(3)
        raise ValueError("broken")

    series = ahead(items())
    assert [next(series) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(series)
    assert list(ahead([])) == []


def test_scgpt_is_prepared_apart():
    assert prepares_tokens(make_encoder())


@pytest.mark.parametrize("form", [csr_matrix, csc_matrix])
def test_chunks_of_sparse_rows_are_those_of_the_matrix(form):
    matrix = cells(11)
    columns = np.array([5, 3, 70, 4])
    parts = [chunk for _, chunk in row_chunks(form(matrix), columns, size=4)]
    assert [p.shape[0] for p in parts] == [4, 4, 3]
    np.testing.assert_array_equal(vstack(parts).toarray(), matrix.toarray()[:, columns])


@pytest.mark.parametrize("form", [csr_matrix, csc_matrix])
def test_memory_depends_on_the_chunk_and_not_on_the_cells(form, monkeypatch):
    """Beyond the input, the vectors themselves, and the hashes by which each cell is known again."""
    monkeypatch.setattr(_matrix, "row_chunks", partial(row_chunks, size=500))
    encoder = make_encoder(nlayers=1)
    model = make_model(encoders={"rna": encoder})
    peaks = []
    # a fixed number of rows is looked at for what the matrix is, of both
    for n in (4_000, 32_000):
        counts = random_array((n, len(GENES)), density=0.4, rng=np.random.default_rng(0), dtype=np.float32)
        counts.data[:] = 1 + (counts.data * 20).astype(int)
        adata = ad.AnnData(form(counts))
        adata.var_names = GENES
        tracemalloc.start()
        bsc.tl.embed(adata, model=model)
        hashes = 5 * n * np.dtype(np.uint64).itemsize
        peaks.append(tracemalloc.get_traced_memory()[1] - adata.obsm["X_scgpt"].nbytes - hashes)
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
