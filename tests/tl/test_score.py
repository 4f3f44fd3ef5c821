import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch

import bioverse_sc as bsc
from bioverse_sc._keys import Keys
from bioverse_sc._results import Results, Slot
from bioverse_sc.tl._subject import Subject
from tests.pl.three import cosine, make_mdata, make_three, text_vectors
from tests.same import differences

pytest.importorskip("rdkit")

TEXTS = ["binds zinc", "a CD4/CD8 T cell", "a lamp on the table", "C/C=C/C"]
COLUMNS = ["binds zinc", "a CD4|CD8 T cell", "a lamp on the table", "C|C=C|C"]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return make_three(tmp_path_factory.mktemp("three"))


def test_scores_are_cosines_of_soft_tokens_with_mean_token_embeddings(three):
    mdata = make_mdata()
    bsc.tl.score(mdata, TEXTS, model=three)
    texts = text_vectors(three, TEXTS)
    for mod, slot in (("rna", "X_scgpt"), ("protein", "X_esm2"), ("molecule", "X_chemberta")):
        scores = mdata[mod].obsm["bioverse_scores"]
        with torch.inference_mode():
            soft = three.project(mod, torch.from_numpy(mdata[mod].obsm[slot])).mean(dim=1).numpy()
        expected = [[cosine(token, text) for text in texts] for token in soft]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        assert scores.index.equals(mdata[mod].obs_names)
        assert list(scores.columns) == COLUMNS
        assert (scores.dtypes == np.float32).all()
        assert np.std(expected, axis=0).min() > 1e-3, "the observations differ"


def test_it_writes_its_slots_and_nothing_else(cells):
    before = cells.copy()
    texts = pd.Series(["a B cell", "a T cell"])
    scored = bsc.tl.score(cells, texts, key_added="k", copy=True)
    assert differences(before, cells) == set()
    assert differences(before, scored) == {"obsm['X_k_scgpt']", "obsm['X_k']", "obsm['k_scores']", "uns['k']"}
    assert scored.uns["k"]["score"]["texts"] == list(texts)
    assert scored.uns["k"]["score"]["model"] == "mini"
    assert scored.uns["k"]["score"]["model_fingerprint"] == scored.uns["k"]["align"]["model_fingerprint"]


def test_only_the_modality_that_is_asked_for(three):
    mdata, alone = make_mdata(), make_mdata()["protein"].copy()
    bsc.tl.score(mdata, TEXTS, mod="protein", model=three)
    assert not mdata["rna"].obsm
    bsc.tl.score(alone, TEXTS, mod="protein", model=three)
    pd.testing.assert_frame_equal(alone.obsm["bioverse_scores"], mdata["protein"].obsm["bioverse_scores"])


def test_a_cell_without_known_genes_has_no_score(three):
    mdata = make_mdata()
    mdata["rna"].X[2] = 0
    bsc.tl.score(mdata, TEXTS, mod="rna", model=three)
    scores = mdata["rna"].obsm["bioverse_scores"]
    assert scores.iloc[2].isna().all()
    assert scores.drop(index="c2").notna().all(axis=None)


def test_soft_tokens_that_are_there_are_used(three, monkeypatch):
    mdata = make_mdata()
    bsc.tl.align(mdata, model=three)
    monkeypatch.setattr(Subject, "project", lambda *_: pytest.fail("aligned again"))
    bsc.tl.score(mdata, TEXTS, model=three)


def test_soft_tokens_of_another_model_are_not_used(three, mini, cells):
    soft = bsc.tl.align(cells, copy=True).obsm["X_bioverse"]
    bsc.tl.align(cells)
    other = Results(cells, Keys()).made_by("align") | {"model_fingerprint": three.fingerprint}
    Results(cells, Keys()).write("align", {Slot("obsm", "X_bioverse"): soft * 0 + 1}, other)
    bsc.tl.score(cells, ["a B cell"])
    np.testing.assert_array_equal(cells.obsm["X_bioverse"], soft)


def test_scores_are_written_and_read_back(three, tmp_path):
    mdata = make_mdata()
    bsc.tl.score(mdata, TEXTS, model=three)
    mdata["protein"].write_h5ad(tmp_path / "x.h5ad")
    mdata.write_h5mu(tmp_path / "x.h5mu")
    for back in (ad.read_h5ad(tmp_path / "x.h5ad"), md.read_h5mu(tmp_path / "x.h5mu")["protein"]):
        pd.testing.assert_frame_equal(
            back.obsm["bioverse_scores"], mdata["protein"].obsm["bioverse_scores"], check_names=False
        )
        assert list(back.uns["bioverse"]["score"]["texts"]) == TEXTS


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        ("a B cell", TypeError, r"is the string 'a B cell'; expected a list of strings, such as \['a B cell'"),
        ([], ValueError, "texts is empty"),
        (["a", " "], ValueError, r"texts\[1\] is ' '"),
        (["a", None], ValueError, r"texts\[1\] is None"),
        (["a", "b", "a"], ValueError, "'a' more than once"),
        (["a/b", "c", "a|b"], ValueError, r"'a/b', 'a\|b', which are the same"),
        (["a", "_index"], ValueError, "'_index', which files cannot keep"),
        (["."], ValueError, "'.', which files cannot keep"),
        (["a\0b"], ValueError, "files cannot keep"),
    ],
)
def test_bad_texts_are_errors_and_change_nothing(texts, error, message, cells):
    before = cells.copy()
    with pytest.raises(error, match=message):
        bsc.tl.score(cells, texts)
    assert differences(before, cells) == set()
