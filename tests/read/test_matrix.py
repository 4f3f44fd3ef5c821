import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, vstack

from bioverse_sc.read import _matrix, gene_matrix
from tests.tiny import GENES


@pytest.fixture
def adata():
    counts = np.random.default_rng(0).poisson(1.0, size=(7, len(GENES))).astype(np.float32)
    adata = ad.AnnData(csr_matrix(counts), var=pd.DataFrame(index=GENES))
    adata.layers["counts"] = adata.X.copy()
    return adata


def test_chunks_are_the_rows_in_the_order_of_the_genes(adata):
    shuffled = adata[:, ::-1].copy()
    matrix = gene_matrix(shuffled, GENES)
    rows = vstack([chunk for _, chunk in matrix.chunks()]).toarray()
    assert sorted(matrix.genes) == sorted(GENES)
    np.testing.assert_array_equal(rows, shuffled[:, matrix.genes].X.toarray())
    assert not matrix.is_logged


def test_hashes_are_of_what_is_read_and_not_of_the_order_of_the_columns(adata):
    before = gene_matrix(adata, GENES).hashes
    np.testing.assert_array_equal(gene_matrix(adata[:, ::-1].copy(), GENES).hashes, before)
    adata.layers["counts"] = csr_matrix(
        adata.X.toarray() + np.eye(7, len(GENES), dtype=np.float32) * (np.arange(7) == 3)[:, None]
    )
    assert (gene_matrix(adata, GENES).hashes != before).tolist() == [False] * 3 + [True] + [False] * 3


def test_layers_and_x_have_one_map_of_genes(adata, monkeypatch):
    calls = []
    real = _matrix.map_genes
    monkeypatch.setattr(_matrix, "map_genes", lambda *args: calls.append(args) or real(*args))
    assert gene_matrix(adata, GENES).source == "counts"
    assert len(calls) == 1
    adata.raw = adata
    gene_matrix(adata, GENES)
    assert len(calls) == 3


def test_another_map_of_raw_may_win(adata):
    wide = adata.copy()
    adata = wide[:, :60].copy()
    adata.raw = wide
    matrix = gene_matrix(adata, GENES)
    assert (matrix.source, len(matrix.genes)) == ("raw", 80)
