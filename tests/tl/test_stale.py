"""What was computed from something that has changed since is computed anew.

What is the user's is never written over.
"""

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy.sparse import csr_matrix

import bioverse_sc as bsc
from bioverse_sc.read import layer_names
from tests.same import differences, same

TOOLS = {
    "embed": lambda adata, **kwargs: bsc.tl.embed(adata, **kwargs),
    "align": lambda adata, **kwargs: bsc.tl.align(adata, **kwargs),
    "annotate": lambda adata, **kwargs: bsc.tl.annotate(adata, reasoning=None, **kwargs),
    "score": lambda adata, **kwargs: bsc.tl.score(adata, ["a cell of the blood"], **kwargs),
    "describe": lambda adata, **kwargs: bsc.tl.describe(adata, max_new_tokens=4, **kwargs),
    "ask": lambda adata, **kwargs: bsc.tl.ask(adata, "What is it?", max_new_tokens=4, **kwargs),
    "alignment_umap": lambda adata, **kwargs: bsc.tl.alignment_umap(adata, texts=["one", "two"], **kwargs),
}
RESULT = {
    "embed": ("obsm", "X_scgpt"),
    "align": ("obsm", "X_bioverse"),
    "annotate": ("obs", "bioverse_label"),
    "score": ("obsm", "bioverse_scores"),
    "describe": ("obs", "bioverse_description"),
    "ask": ("obs", "bioverse_answer"),
    "alignment_umap": ("obsm", "X_bioverse_umap_after"),
}


@pytest.fixture
def n_embedded(log):
    """How often cells were embedded since it was asked last."""

    def count():
        n = sum(record.getMessage().startswith("embedding ") for record in log)
        log.clear()
        return n

    with bsc.settings.override(verbosity="info"):
        yield count


def other_cells(adata):
    """The same names with the expression of other cells."""
    return adata.X[::-1].copy()


# --- what was read has changed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["align", "annotate", "score", "describe", "ask", "alignment_umap"])
def test_other_expression_is_embedded_again(tool, cells, n_embedded):
    fresh = cells.copy()
    fresh.X = other_cells(cells)
    TOOLS[tool](fresh)
    TOOLS[tool](cells)
    cells.X = other_cells(cells)
    n_embedded()
    TOOLS[tool](cells)
    assert n_embedded() == 1
    np.testing.assert_allclose(cells.obsm["X_scgpt"], fresh.obsm["X_scgpt"], atol=1e-6)
    if tool == "annotate":
        assert cells.obs["bioverse_label"].tolist() == fresh.obs["bioverse_label"].tolist()
    TOOLS[tool](cells)
    assert n_embedded() == 0


def in_one_value(adata):
    adata.X = adata.X.copy()
    adata.X[3, adata.X[3].nonzero()[1][0]] += 1


def other_names(adata):
    adata.var_names = adata.var_names[::-1]


def fewer_genes(adata):
    adata._inplace_subset_var(np.arange(adata.n_vars) % 2 == 0)


def rows_exchanged(adata):
    adata.X = adata.X[[1, 0, *range(2, adata.n_obs)]]


@pytest.mark.parametrize("change", [in_one_value, other_names, fewer_genes, rows_exchanged])
def test_every_change_of_what_was_read_is_noticed(change, cells, n_embedded):
    cells.X = csr_matrix(cells.X)
    bsc.tl.annotate(cells, reasoning=None)
    change(cells)
    n_embedded()
    bsc.tl.annotate(cells, reasoning=None)
    assert n_embedded() == 1


def subset(adata):
    return adata[[7, 2, 5]].copy()


def reordered(adata):
    return adata[::-1].copy()


def renamed(adata):
    adata.obs_names = [f"sample 1 {name}" for name in adata.obs_names]
    return adata


def genes_reordered(adata):
    return adata[:, ::-1].copy()


def other_format(adata):
    adata.X = csr_matrix(adata.X, dtype=np.float64).tocsc()
    return adata


def through_a_file(adata, folder):
    adata.write_h5ad(folder / "x.h5ad")
    return ad.read_h5ad(folder / "x.h5ad")


@pytest.mark.parametrize("kept", [subset, reordered, renamed, genes_reordered, other_format, through_a_file])
def test_what_was_not_changed_is_free(kept, cells, n_embedded, tmp_path):
    bsc.tl.annotate(cells, reasoning=None)
    same = kept(cells, tmp_path) if kept is through_a_file else kept(cells)
    n_embedded()
    bsc.tl.annotate(same, reasoning=None)
    bsc.tl.score(same, ["a cell of the blood"])
    assert n_embedded() == 0


def test_counts_that_moved_to_a_layer_are_the_same_cells(cells, n_embedded):
    cells.X = csr_matrix(np.random.default_rng(0).poisson(1.0, size=cells.shape).astype(np.float32))
    bsc.tl.embed(cells)
    cells.layers["counts"] = cells.X.copy()
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    n_embedded()
    bsc.tl.annotate(cells, reasoning=None)
    assert n_embedded() == 0


def test_what_can_no_longer_be_read_is_an_error_that_says_so(cells):
    bsc.tl.embed(cells)
    cells.X = cells.X.toarray()
    sc.pp.scale(cells)
    before = cells.copy()
    with pytest.raises(ValueError, match=r"embedded from \(X\) has changed since.*sc\.pp\.scale"):
        bsc.tl.annotate(cells, reasoning=None)
    assert differences(before, cells) == set()


def test_what_is_gone_cannot_have_changed(cells, n_embedded):
    bsc.tl.embed(cells)
    del cells.layers["twice"]
    cells.X = None
    n_embedded()
    bsc.tl.annotate(cells, reasoning=None)
    assert n_embedded() == 0


def test_changed_settings_stay_with_the_cells(cells, n_embedded):
    bsc.tl.embed(cells, gene_selection="random", max_length=60, seed=3)
    cells.X = other_cells(cells)
    n_embedded()
    bsc.tl.align(cells)
    assert n_embedded() == 1
    expected = bsc.tl.embed(cells, gene_selection="random", max_length=60, seed=3, copy=True).obsm["X_scgpt"]
    np.testing.assert_allclose(cells.obsm["X_scgpt"], expected, atol=1e-6)


def test_precomputed_vectors_that_changed_are_taken_again(cells, n_embedded):
    """Through a model that was trained on vectors from elsewhere."""
    from tests.tiny import make_model, make_vectors

    model = make_model()
    shape = next(iter(model.config.projectors.values()))
    model.config.projectors["rna"] = type(shape)(**{**vars(shape), "encoder": "precomputed"})
    cells.obsm["X_scVI"] = make_vectors(cells.n_obs)
    bsc.tl.embed(cells, encoder="precomputed", use_rep="X_scVI")
    bsc.tl.align(cells, model=model)
    first = cells.obsm["X_bioverse"].copy()
    cells.obsm["X_scVI"] = make_vectors(cells.n_obs, seed=1)
    bsc.tl.align(cells, model=model)
    assert not np.allclose(first, cells.obsm["X_bioverse"])


# --- the recorded source is what every later step reads ---------------------------------------------------------------


@pytest.mark.parametrize("order", ["the layer as it was named", "the layer beside counts"])
def test_texts_are_about_the_matrix_that_the_labels_are_of(order, cells):
    cells.layers["soupx"] = other_cells(cells)
    if order == "the layer beside counts":
        cells.layers["counts"] = np.round(np.expm1(cells.X))
    expected = cells.copy()
    expected.X = cells.layers["soupx"]
    for layer in layer_names(expected):
        del expected.layers[layer]
    bsc.tl.annotate(expected, reasoning="cell")
    bsc.tl.embed(cells, layer="soupx")
    bsc.tl.annotate(cells, reasoning="cell")
    for column in ("label", "reasoning", "genes_supported"):
        assert cells.obs[f"bioverse_{column}"].tolist() == expected.obs[f"bioverse_{column}"].tolist()
    bsc.tl.evidence(cells)
    assert cells.uns["bioverse"]["evidence"]["source"] == "soupx"


def test_gene_symbols_are_remembered_too(cells, n_embedded):
    cells.var["symbol"] = cells.var_names
    cells.var_names = [f"g{j}" for j in range(cells.n_vars)]
    bsc.tl.embed(cells, gene_symbols="symbol")
    n_embedded()
    bsc.tl.annotate(cells)
    assert n_embedded() == 0


def test_another_layer_that_is_asked_for_is_read(cells, n_embedded):
    cells.layers["other"] = other_cells(cells)
    bsc.tl.annotate(cells, reasoning=None)
    n_embedded()
    bsc.tl.annotate(cells, reasoning=None, layer="other")
    assert n_embedded() == 1
    assert cells.uns["bioverse"]["embed"]["source"] == "other"


# --- what is the user's ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", TOOLS)
def test_a_slot_of_the_user_is_not_written_over(tool, cells):
    attribute, key = RESULT[tool]
    mine = np.full((cells.n_obs, 512), 0.5, dtype=np.float32) if attribute == "obsm" else "mine"
    getattr(cells, attribute)[key] = mine
    before = cells.copy()
    with pytest.raises(ValueError, match=rf"{key}'\] is there already.*key_added='another'.*overwrite=True"):
        TOOLS[tool](cells)
    assert differences(before, cells) == set()
    TOOLS[tool](cells, key_added="another")
    assert same(getattr(before, attribute)[key], getattr(cells, attribute)[key])
    TOOLS[tool](cells, overwrite=True)
    TOOLS[tool](cells)


def test_foreign_vectors_stop_a_tool_that_would_embed(cells):
    cells.obsm["X_scgpt"] = np.ones((cells.n_obs, 512), dtype=np.float32)
    with pytest.raises(ValueError, match=r"obsm\['X_scgpt'\] is there already.*overwrite=True"):
        bsc.tl.annotate(cells)
    bsc.tl.annotate(cells, key_added="mini", reasoning=None)
    assert cells.obsm["X_scgpt"].shape == (12, 512)
    bsc.tl.annotate(cells, overwrite=True, reasoning=None)


@pytest.mark.parametrize("column", ["label", "label_id", "reasoning"])
def test_corrections_by_hand_are_kept(column, annotated):
    adata = annotated.copy()
    adata.obs[f"bioverse_{column}"] = adata.obs[f"bioverse_{column}"].astype(object)
    adata.obs.iloc[2, adata.obs.columns.get_loc(f"bioverse_{column}")] = "corrected"
    before = adata.copy()
    with pytest.raises(ValueError, match=rf"bioverse_{column}'\] was changed since .* in 1 of 8 rows"):
        bsc.tl.annotate(adata, reasoning=None)
    assert differences(before, adata) == set()
    bsc.tl.annotate(adata, reasoning=None, overwrite=True)


def test_a_removed_column_is_no_change(annotated):
    adata = annotated.copy()
    del adata.obs["bioverse_reasoning"]
    bsc.tl.annotate(adata, reasoning=None)


def test_vectors_of_two_encoders_may_both_be_made_again(cells):
    from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPTEncoder
    from tests.tiny import make_encoder

    encoder = ScGPTEncoder.untrained(make_encoder().module.config, GeneVocabulary(list(cells.var_names[:80])))
    encoder.name = "tiny"
    for _ in range(2):
        bsc.tl.embed(cells)
        bsc.tl.embed(cells, encoder=encoder)
