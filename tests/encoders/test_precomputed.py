from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import bioverse_sc as bsc
from bioverse_sc.encoders import Precomputed
from bioverse_sc.models import BioVerse
from tests.same import differences
from tests.tiny import VECTOR, make_encoder, make_model, make_vectors


@pytest.fixture
def adata():
    return ad.AnnData(np.ones((6, 3), dtype=np.float32), obsm={"X_scVI": make_vectors(6).astype(np.float64)})


def model_for(fingerprint, *, encoders=None):
    """A tiny model whose projector reads precomputed vectors."""
    model = make_model(encoders=encoders)
    shape = replace(model.config.projectors["rna"], encoder="precomputed", encoder_fingerprint=fingerprint)
    config = replace(model.config, projectors={"rna": shape})
    return BioVerse(config, model.language_model, model.tokenizer, encoders).eval().requires_grad_(requires_grad=False)


OWN = Precomputed("X_scVI", VECTOR).fingerprint


@pytest.mark.parametrize("form", [np.asarray, csr_matrix, pd.DataFrame], ids=["array", "sparse", "frame"])
def test_a_slot_becomes_the_vectors(form, adata):
    vectors = adata.obsm["X_scVI"]
    stored = pd.DataFrame(vectors, index=adata.obs_names) if form is pd.DataFrame else form(vectors)
    adata.obsm["X_scVI"] = stored
    before = adata.copy()
    bsc.tl.embed(adata, encoder="precomputed", use_rep="X_scVI")
    np.testing.assert_array_equal(adata.obsm["X_precomputed"], vectors.astype(np.float32))
    assert adata.obsm["X_precomputed"].dtype == np.float32
    assert differences(before, adata) == {"obsm['X_precomputed']", "uns['bioverse']"}
    made_by = adata.uns["bioverse"]["embed"]
    assert (made_by["encoder"], made_by["source"]) == ("precomputed", "obsm['X_scVI']")
    assert (made_by["encoder_fingerprint"], made_by["width"]) == (OWN, VECTOR)


def test_the_fingerprint_is_of_name_and_width():
    assert len({OWN, Precomputed("X_scVI", 10).fingerprint, Precomputed("X_pca", VECTOR).fingerprint}) == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_an_error(bad, adata):
    adata.obsm["X_scVI"][4, 2] = bad
    with pytest.raises(ValueError, match=r"'X_scVI' holds NaN or infinite values in 1 of 6 rows, the first is row 4"):
        bsc.tl.embed(adata, encoder="precomputed", use_rep="X_scVI")
    assert "X_precomputed" not in adata.obsm


def test_a_missing_slot_lists_what_is_there(adata):
    with pytest.raises(KeyError, match=r"no slot 'X_pca'.*X_scVI"):
        bsc.tl.embed(adata, encoder="precomputed", use_rep="X_pca")


@pytest.mark.parametrize("arguments", [{"encoder": "precomputed"}, {"use_rep": "X_scVI"}])
def test_use_rep_and_precomputed_go_together(arguments, adata):
    with pytest.raises(ValueError, match="use_rep goes with"):
        bsc.tl.embed(adata, **arguments)


@pytest.mark.parametrize("fingerprint", [OWN, ""], ids=["its own", "any"])
def test_vectors_that_fit_the_projector_are_aligned_and_annotated(fingerprint, adata):
    model = model_for(fingerprint)
    bsc.tl.embed(adata, encoder="precomputed", use_rep="X_scVI")
    bsc.tl.align(adata, model=model)
    assert adata.obsm["X_bioverse"].any(axis=1).all()
    bsc.tl.annotate(adata, model=model, reasoning=None)
    assert set(adata.obs["bioverse_label"]) <= set(model.config.labels)


def test_vectors_of_another_name_are_an_error(adata):
    adata.obsm["X_pca"] = adata.obsm.pop("X_scVI")
    bsc.tl.embed(adata, encoder="precomputed", use_rep="X_pca")
    for function in (bsc.tl.align, bsc.tl.alignment_umap):
        with pytest.raises(ValueError, match=rf"obsm\['X_pca'\].*trained for 'precomputed', width {VECTOR}.*{OWN}"):
            function(adata, model=model_for(OWN))


def test_a_projector_of_another_encoder_takes_no_chosen_vectors(adata):
    """Even where its width is the same and it was made for no encoder in particular."""
    bsc.tl.embed(adata, encoder="precomputed", use_rep="X_scVI")
    with pytest.raises(ValueError, match="trained for 'scgpt'"):
        bsc.tl.align(adata, model=make_model())


def test_another_layer_than_that_of_the_chosen_vectors_is_an_error(adata):
    bsc.tl.embed(adata, encoder="precomputed", use_rep="X_scVI")
    with pytest.raises(ValueError, match="embed them again with layer='counts'"):
        bsc.tl.align(adata, model=model_for(OWN), layer="counts")


def test_vectors_of_another_width_are_an_error(adata):
    adata.obsm["X_scVI"] = adata.obsm["X_scVI"][:, :5]
    bsc.tl.embed(adata, encoder="precomputed", use_rep="X_scVI")
    with pytest.raises(ValueError, match=f"width 5.*width {VECTOR}"):
        bsc.tl.align(adata, model=model_for(""))


def test_chosen_vectors_are_not_replaced_by_the_models_own(adata):
    bsc.tl.embed(adata, encoder="precomputed", use_rep="X_scVI")
    encoder = make_encoder()
    encoder.fingerprint = "another"
    with pytest.raises(ValueError, match="embedded with 'precomputed'"):
        bsc.tl.align(adata, model=make_model(encoders={"rna": encoder}))


def test_a_model_without_an_encoder_asks_for_vectors(adata):
    for function in (bsc.tl.embed, bsc.tl.align):
        with pytest.raises(ValueError, match=r"no encoder of its own.*encoder='precomputed'"):
            function(adata, model=model_for(OWN))


def test_reasoning_without_known_genes_says_so(adata):
    bsc.tl.embed(adata, encoder="precomputed", use_rep="X_scVI")
    with pytest.raises(ValueError, match="reasoning=None"):
        bsc.tl.annotate(adata, model=model_for(OWN))


def test_they_can_be_trained_on(adata):
    model = model_for(OWN)
    source = Precomputed.of("X_scVI", adata.obsm["X_scVI"])
    vectors = source.vectors(adata.obsm["X_scVI"])
    config = bsc.train.TrainConfig(steps=3, batch_size=4, log_every=1)
    history = bsc.train.align(
        model, vectors, bsc.train.Descriptions(["a B cell", "a T cell"], np.arange(6) % 2), config
    )
    assert len(history) == 3
