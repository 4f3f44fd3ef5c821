import anndata as ad
import numpy as np
import pytest

import bioverse_sc as bsc
from bioverse_sc.metrics import alignment_metrics
from bioverse_sc.ontology import cell_ontology
from bioverse_sc.tl._label import own_labels
from tests.same import differences

METRICS = {f"{direction}retrieval_at_{k}" for direction in ("", "text_") for k in (1, 5, 10)} | {
    "modality_gap",
    "gap_to_unrelated",
    "knn_agreement",
}
SLOTS = {"obsm['X_bioverse_umap_before']", "obsm['X_bioverse_umap_after']", "uns['bioverse']"}


def test_it_writes_its_slots_and_nothing_else(annotated, compared):
    assert differences(annotated, compared) == SLOTS
    assert set(compared.uns["bioverse"]) == {"embed", "align", "annotate", "alignment_umap"}


def test_coordinates_are_of_cells_and_texts(compared, mini):
    stored = compared.uns["bioverse"]["alignment_umap"]
    n_texts = len(stored["texts"])
    for when in ("before", "after"):
        assert compared.obsm[f"X_bioverse_umap_{when}"].shape == (compared.n_obs, 2)
        assert np.isfinite(compared.obsm[f"X_bioverse_umap_{when}"]).all()
        assert stored[f"texts_{when}"].shape == (n_texts, 2)
        assert set(stored[when]) == METRICS
    related = np.asarray(stored["texts_related"]).astype(bool)
    assert related.sum() == len(own_labels(mini))
    assert (~related).sum() >= 100
    first = cell_ontology().describe(cell_ontology().find(mini.config.labels[0]))
    assert stored["texts"][0] == first
    assert stored["labels_key"] == "bioverse_label"


def test_metrics_are_those_of_the_vectors(compared, mini):
    stored = compared.uns["bioverse"]["alignment_umap"]
    texts = list(stored["texts"])
    n = len(own_labels(mini))
    vectors = np.stack(
        [mini.embeddings.weight[mini.tokenizer.encode(t, add_special_tokens=False)].mean(dim=0).numpy() for t in texts]
    )
    own = np.array([mini.config.labels.index(label) for label in compared.obs["bioverse_label"]])
    expected = alignment_metrics(compared.obsm["X_bioverse"], vectors[:n], own, vectors[n:])
    for name in expected:
        assert stored["after"][name] == pytest.approx(expected[name], abs=1e-4, nan_ok=True)
    assert stored["before"] != stored["after"]


def test_two_runs_draw_the_same(annotated, compared):
    again = bsc.tl.alignment_umap(annotated, copy=True)
    assert differences(compared, again) == set()


def test_it_is_written_and_read_back(compared, tmp_path):
    compared.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    one, two = (a.uns["bioverse"]["alignment_umap"] for a in (compared, back))
    assert list(two["texts"]) == one["texts"]
    np.testing.assert_array_equal(two["texts_after"], one["texts_after"])
    assert {k: float(v) for k, v in two["after"].items()} == one["after"]
    np.testing.assert_array_equal(back.obsm["X_bioverse_umap_before"], compared.obsm["X_bioverse_umap_before"])


def test_it_stands_alone_with_labels_of_the_user(cells):
    some = cells[:9].copy()
    some.obs["mine"] = [
        "B cells",
        "T cell",
        "CL:0000182",
        "hepatocytes",
        "nonsense",
        "",
        "platelet",
        "fibroblast",
        "mast cell",
    ]
    before = some.copy()
    bsc.tl.alignment_umap(some, labels_key="mine", key_added="k")
    assert differences(before, some) == {
        "obsm['X_k_scgpt']",
        "obsm['X_k']",
        "obsm['X_k_umap_before']",
        "obsm['X_k_umap_after']",
        "uns['k']",
    }
    assert some.uns["k"]["alignment_umap"]["labels_key"] == "mine"
    assert set(some.uns["k"]["alignment_umap"]["after"]) == METRICS


def test_without_labels_or_with_other_texts_there_are_no_metrics(cells):
    some = cells[:6].copy()
    bsc.tl.alignment_umap(some, texts=["a cell that fights bacteria", "a cell of the liver"])
    stored = some.uns["bioverse"]["alignment_umap"]
    assert stored["texts"][:2] == ["a cell that fights bacteria", "a cell of the liver"]
    assert sum(stored["texts_related"]) == 2
    assert stored["labels_key"] == ""
    assert "after" not in stored


def test_a_missing_column_is_an_error_and_changes_nothing(cells):
    before = cells.copy()
    with pytest.raises(KeyError, match="no column 'gone'"):
        bsc.tl.alignment_umap(cells, labels_key="gone")
    assert differences(before, cells) == set()


def test_an_empty_text_is_an_error_and_changes_nothing(cells):
    before = cells.copy()
    with pytest.raises(ValueError, match="empty"):
        bsc.tl.alignment_umap(cells, texts=["a", ""])
    assert differences(before, cells) == set()
