import numpy as np
import pytest
import torch

import bioverse_sc as bsc
from bioverse_sc import models
from bioverse_sc.tl import _current
from tests.same import differences


def test_soft_tokens_are_those_of_the_projector(cells, mini):
    assert bsc.tl.align(cells) is None
    with torch.inference_mode():
        expected = mini.project("rna", torch.from_numpy(cells.obsm["X_scgpt"])).mean(dim=1).numpy()
    np.testing.assert_allclose(cells.obsm["X_bioverse"], expected, atol=1e-5)
    assert cells.obsm["X_bioverse"].dtype == np.float32
    assert cells.obsm["X_bioverse"].shape == (12, mini.embeddings.weight.shape[1])


def test_it_writes_its_slots_and_nothing_else(cells):
    before = cells.copy()
    bsc.tl.align(cells)
    assert differences(before, cells) == {"obsm['X_scgpt']", "obsm['X_bioverse']", "uns['bioverse']"}
    assert set(cells.uns["bioverse"]) == {"embed", "align"}


def test_another_stem_and_a_copy(cells):
    before = cells.copy()
    result = bsc.tl.align(cells, key_added="mine", copy=True)
    assert differences(before, cells) == set()
    assert differences(before, result) == {"obsm['X_mine_scgpt']", "obsm['X_mine']", "uns['mine']"}


def test_vectors_that_are_there_are_used(cells, monkeypatch):
    bsc.tl.embed(cells)
    monkeypatch.setattr(_current, "embed_cells", lambda *_, **__: pytest.fail("embedded again"))
    bsc.tl.align(cells)
    expected = models.mean_soft_tokens(models.load("mini").projectors["rna"], cells.obsm["X_scgpt"])
    np.testing.assert_allclose(cells.obsm["X_bioverse"], expected, atol=1e-5)


def test_vectors_of_another_encoder_or_layer_are_made_anew(cells):
    expected = bsc.tl.embed(cells, copy=True).obsm["X_scgpt"]
    cells.layers["other"] = cells.X[::-1].copy()
    bsc.tl.embed(cells, layer="other")
    bsc.tl.align(cells, layer="X")
    np.testing.assert_allclose(cells.obsm["X_scgpt"], expected, atol=1e-6)
    cells.uns["bioverse"]["embed"]["encoder_fingerprint"] = "0" * 16
    bsc.tl.align(cells)
    np.testing.assert_allclose(cells.obsm["X_scgpt"], expected, atol=1e-6)


def test_the_same_layer_by_name_is_not_embedded_again(cells, monkeypatch):
    bsc.tl.embed(cells, layer="twice")
    monkeypatch.setattr(_current, "embed_cells", lambda *_, **__: pytest.fail("embedded again"))
    bsc.tl.align(cells, layer="twice")


def test_zeros_stay_zeros(cells):
    cells.X = cells.X.toarray()
    cells.X[2] = 0
    bsc.tl.align(cells)
    assert not cells.obsm["X_bioverse"][2].any()
    assert cells.obsm["X_bioverse"].any(axis=1).sum() == 11


def test_soft_tokens_of_a_retrained_projector_are_made_anew(cells):
    model = models.load("mini")
    bsc.tl.annotate(cells, model=model, reasoning=None, labels=["B cell", "T cell"])
    first = cells.obsm["X_bioverse"].copy()
    config = bsc.train.TrainConfig(steps=2, batch_size=8, warmup_steps=1)
    bsc.train.align(model, cells.obsm["X_scgpt"], bsc.train.Descriptions(["a", "b"], np.arange(12) % 2), config)
    bsc.tl.annotate(cells, model=model, reasoning=None, labels=["B cell", "T cell"])
    assert not np.allclose(cells.obsm["X_bioverse"], first, atol=1e-4)
