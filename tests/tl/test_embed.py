import logging
import threading
from functools import partial

import anndata as ad
import mudata as md
import numpy as np
import pytest
from scipy.sparse import csc_matrix, csr_matrix

import bioverse_sc as bsc
from bioverse_sc.read import _matrix
from bioverse_sc.read._map import row_chunks
from tests.same import differences
from tests.tiny import make_encoder, make_model


def embedded(adata, **kwargs):
    result = bsc.tl.embed(adata, copy=True, **kwargs)
    return result.obsm["X_scgpt"]


def test_vectors_are_those_of_the_encoder(cells, mini):
    encoder = mini.encoders["rna"]
    known = [gene for gene in cells.var_names if gene in set(encoder.genes)]
    layer = csr_matrix(cells[:, known].X)
    exact = ad.AnnData(layer, obs=cells.obs[[]], var=cells.var.loc[known, []])
    vectors = embedded(exact)
    np.testing.assert_allclose(vectors, encoder.encode(layer, known), atol=1e-6)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_order_of_genes_does_not_matter(cells):
    shuffled = cells[:, np.random.default_rng(0).permutation(cells.n_vars)].copy()
    np.testing.assert_allclose(embedded(shuffled), embedded(cells), atol=1e-6)


def test_the_order_of_cells_batches_and_halves_do_not_matter(cells):
    expected = embedded(cells)
    order = np.random.default_rng(0).permutation(cells.n_obs)
    np.testing.assert_allclose(embedded(cells[order].copy()), expected[order], atol=1e-6)
    np.testing.assert_allclose(embedded(cells, batch_size=3), expected, atol=1e-6)
    halves = [embedded(cells[part].copy()) for part in (slice(0, 5), slice(5, None))]
    np.testing.assert_allclose(np.concatenate(halves), expected, atol=1e-6)


def test_chunks_do_not_matter(cells, monkeypatch):
    expected = embedded(cells)
    monkeypatch.setattr(_matrix, "row_chunks", partial(row_chunks, size=5))
    np.testing.assert_allclose(embedded(cells), expected, atol=1e-6)


def test_without_a_cache_the_next_chunk_is_tokenized_meanwhile(cells, monkeypatch):
    from bioverse_sc.encoders.scgpt import ScGPTEncoder

    threads, tokenize = [], ScGPTEncoder.tokenize

    def watched(*args, **kwargs):
        threads.append(threading.current_thread())
        return tokenize(*args, **kwargs)

    monkeypatch.setattr(ScGPTEncoder, "tokenize", watched)
    monkeypatch.setattr(_matrix, "row_chunks", partial(row_chunks, size=5))
    embedded(cells)
    assert len(threads) == -(-cells.n_obs // 5)
    assert threading.main_thread() not in threads


@pytest.mark.parametrize("form", [csr_matrix, csc_matrix, lambda x: x.toarray()], ids=["csr", "csc", "dense"])
def test_the_format_of_the_matrix_does_not_matter(form, cells):
    expected = embedded(cells)
    matrix = form(csr_matrix(cells.X))
    other = ad.AnnData(matrix, obs=cells.obs, var=cells.var)
    before = other.copy()
    np.testing.assert_allclose(embedded(other), expected, atol=1e-6)
    assert differences(before, other) == set()


def test_only_the_ranks_inside_a_cell_matter(cells):
    counts = csr_matrix(np.random.default_rng(0).poisson(3, size=cells.shape).astype(np.float64))
    logged = counts.copy()
    logged.data = np.log1p(logged.data * 0.7)
    one, two = (ad.AnnData(m, var=cells.var) for m in (counts, logged))
    np.testing.assert_allclose(embedded(one), embedded(two), atol=1e-6)


def test_it_writes_its_slots_and_nothing_else(cells):
    before = cells.copy()
    assert bsc.tl.embed(cells) is None
    assert differences(before, cells) == {"obsm['X_scgpt']", "uns['bioverse']"}
    assert set(cells.uns["bioverse"]) == {"embed"}


def test_provenance_says_what_was_read(cells, mini):
    bsc.tl.embed(cells)
    stored = cells.uns["bioverse"]["embed"]
    assert stored["version"] == bsc.__version__
    assert stored["encoder_fingerprint"] == mini.encoders["rna"].fingerprint
    assert (stored["source"], stored["kind"]) == ("X", "log-normalised")
    assert 400 < stored["genes_found"] <= cells.n_vars
    assert stored["genes_of_encoder"] == len(mini.encoders["rna"].genes)


def test_a_copy_leaves_the_original(cells):
    before = cells.copy()
    result = bsc.tl.embed(cells, copy=True)
    assert differences(before, cells) == set()
    assert differences(before, result) == {"obsm['X_scgpt']", "uns['bioverse']"}


def test_another_stem(cells):
    before = cells.copy()
    bsc.tl.embed(cells, key_added="mine")
    assert differences(before, cells) == {"obsm['X_mine_scgpt']", "uns['mine']"}


def test_the_result_lands_in_the_modality(cells):
    expected = embedded(cells)
    mdata = md.MuData({"rna": cells, "other": ad.AnnData(np.ones((3, 2), dtype=np.float32))})
    before = mdata["other"].copy()
    assert bsc.tl.embed(mdata) is None
    np.testing.assert_array_equal(mdata["rna"].obsm["X_scgpt"], expected)
    assert differences(before, mdata["other"]) == set()
    assert "X_scgpt" not in mdata.obsm


def test_a_copy_of_mudata_leaves_the_original(cells):
    mdata = md.MuData({"rna": cells})
    result = bsc.tl.embed(mdata, copy=True)
    assert isinstance(result, md.MuData)
    assert "X_scgpt" in result["rna"].obsm
    assert "X_scgpt" not in mdata["rna"].obsm


def test_a_file_on_disk_is_read_as_it_lies(cells, tmp_path):
    expected = embedded(cells)
    for form, name in [(csr_matrix, "csr"), (csc_matrix, "csc"), (lambda x: x.toarray(), "dense")]:
        ad.AnnData(form(csr_matrix(cells.X)), obs=cells.obs, var=cells.var).write_h5ad(tmp_path / f"{name}.h5ad")
        backed = ad.read_h5ad(tmp_path / f"{name}.h5ad", backed="r")
        bsc.tl.embed(backed)
        assert backed.isbacked
        np.testing.assert_allclose(backed.obsm["X_scgpt"], expected, atol=1e-6)
        backed.file.close()


def test_another_layer_is_read(cells):
    cells.layers["other"] = cells.X[:, ::-1].copy()
    bsc.tl.embed(cells, layer="other")
    assert cells.uns["bioverse"]["embed"]["source"] == "other"
    assert not np.allclose(cells.obsm["X_scgpt"], embedded(cells, layer="X"), atol=1e-2)


def test_an_empty_cell_has_a_vector_of_zeros_and_one_warning(cells, log):
    expected = embedded(cells)
    matrix = csr_matrix(cells.X).toarray()
    matrix[4] = 0
    cells.X = matrix
    log.clear()
    bsc.tl.embed(cells)
    assert not cells.obsm["X_scgpt"][4].any()
    others = np.arange(cells.n_obs) != 4
    np.testing.assert_allclose(cells.obsm["X_scgpt"][others], expected[others], atol=1e-6)
    assert [r.getMessage()[:7] for r in log if r.levelno >= logging.WARNING] == ["1 of 12"]


def test_a_model_in_memory_works(cells):
    genes = list(cells.var_names[:80])
    from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPTEncoder

    encoder = make_encoder()
    encoder = ScGPTEncoder.untrained(encoder.module.config, GeneVocabulary(genes))
    bsc.tl.embed(cells, model=make_model(encoders={"rna": encoder}))
    assert cells.obsm["X_scgpt"].shape == (12, 16)


def test_an_unknown_model_is_an_error_and_changes_nothing(cells):
    before = cells.copy()
    with pytest.raises(ValueError, match=r"no model 'maxi'.*mini"):
        bsc.tl.embed(cells, model="maxi")
    assert differences(before, cells) == set()


def test_finish_log_names_the_slots(cells, log):
    with bsc.settings.override(verbosity="info"):
        bsc.tl.embed(cells)
    text = "\n".join(record.getMessage() for record in log)
    assert "'X_scgpt'" in text
    assert "finished (" in text
