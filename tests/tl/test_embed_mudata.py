import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

import bioverse_sc as bsc
from bioverse_sc.encoders import get_encoder
from bioverse_sc.models import create, load, save
from tests.encoders.entities import write_chemberta, write_esm
from tests.tiny import GENES, make_encoder, make_language_model

pytest.importorskip("rdkit")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that reads cells, proteins and molecules."""
    folder = tmp_path_factory.mktemp("parts")
    language_model, tokenizer = make_language_model()
    language_model.save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")
    encoders = {
        "rna": make_encoder(),
        "protein": get_encoder(write_esm(folder / "esm"), mod="protein"),
        "molecule": get_encoder(write_chemberta(folder / "chemberta"), mod="molecule"),
    }
    return create(folder / "lm", encoders, name="three", device="cpu")


def make_mdata():
    rng = np.random.default_rng(0)
    rna = ad.AnnData(
        rng.poisson(2.0, size=(4, len(GENES))).astype(np.float32),
        obs=pd.DataFrame(index=["c1", "c2", "c3", "c4"]),
        var=pd.DataFrame(index=GENES),
    )
    var = pd.DataFrame({"sequence": ["MKTAYIAK", "GGSGGS"]}, index=["CD3", "CD4"])
    protein = ad.AnnData(np.array([[1, 3], [0, 2], [5, 0]], dtype=np.float32), var=var)
    protein.obs_names = ["c2", "c1", "c9"]
    molecule = ad.AnnData(obs=pd.DataFrame({"smiles": ["CCO", "c1ccccc1"]}, index=["c1", "c3"]))
    return md.MuData({"rna": rna, "protein": protein, "molecule": molecule})


def test_all_modalities_are_embedded_each_in_its_own_slot(model, tmp_path):
    mdata = make_mdata()
    bsc.tl.embed(mdata, model=model)
    assert mdata["rna"].obsm["X_scgpt"].shape == (4, 16)
    assert mdata["protein"].obsm["X_esm2"].shape == (3, 16)
    assert mdata["molecule"].obsm["X_chemberta"].shape == (2, 16)
    assert mdata["protein"].uns["bioverse"]["embed"]["source"] == "var['sequence'], weighted by .X"
    assert mdata["molecule"].uns["bioverse"]["embed"]["source"] == "obs['smiles']"
    mdata.write_h5mu(tmp_path / "x.h5mu")
    again = md.read_h5mu(tmp_path / "x.h5mu")
    np.testing.assert_array_equal(again["protein"].obsm["X_esm2"], mdata["protein"].obsm["X_esm2"])


def test_the_encoder_of_a_named_modality_is_found_by_its_folder(model, tmp_path):
    mdata, folder = make_mdata(), write_esm(tmp_path / "esm")
    bsc.tl.embed(mdata, mod="protein", encoder=folder)
    expected = mdata["protein"].obsm["X_esm2"].copy()
    bsc.tl.embed(mdata, encoder=get_encoder(folder, mod="protein"))
    np.testing.assert_array_equal(mdata["protein"].obsm["X_esm2"], expected)


def test_one_modality_is_chosen_by_name_or_encoder(model):
    mdata = make_mdata()
    bsc.tl.embed(mdata, mod="molecule", model=model)
    assert "X_chemberta" in mdata["molecule"].obsm
    assert not mdata["rna"].obsm
    bsc.tl.embed(mdata, encoder=model.encoders["protein"])
    assert "X_esm2" in mdata["protein"].obsm
    alone = mdata["molecule"].copy()
    del alone.obsm["X_chemberta"]
    bsc.tl.embed(alone, mod="molecule", model=model)
    np.testing.assert_array_equal(alone.obsm["X_chemberta"], mdata["molecule"].obsm["X_chemberta"])


def test_a_modality_that_the_model_does_not_read_is_an_error(only_cells):
    mdata = make_mdata()
    with pytest.raises(ValueError, match=r"'tiny' has no projector for 'protein'; it reads \['rna'\]"):
        bsc.tl.embed(mdata, mod="protein", model=only_cells)
    with pytest.raises(KeyError, match=r"reads \['rna'\], and the MuData has \['molecule'\]"):
        bsc.tl.embed(md.MuData({"molecule": mdata["molecule"].copy()}), model=only_cells)
    with pytest.raises(ValueError, match="mod is 'molecule', but the encoder 'scgpt' reads"):
        bsc.tl.embed(mdata, mod="molecule", encoder=only_cells.encoders["rna"])


def test_its_encoders_travel_with_a_model(model, tmp_path):
    save(model, tmp_path / "three", include_language_model=True)
    loaded = load(tmp_path / "three")
    for mod in ("protein", "molecule"):
        assert loaded.encoders[mod].fingerprint == model.encoders[mod].fingerprint
    one, two = make_mdata(), make_mdata()
    bsc.tl.embed(one, model=model)
    bsc.tl.embed(two, model=loaded)
    for mod, slot in (("rna", "X_scgpt"), ("protein", "X_esm2"), ("molecule", "X_chemberta")):
        np.testing.assert_array_equal(one[mod].obsm[slot], two[mod].obsm[slot])


def test_all_modalities_are_projected_into_one_space(model):
    import torch

    mdata = make_mdata()
    bsc.tl.align(mdata, model=model)
    for mod, slot in (("rna", "X_scgpt"), ("protein", "X_esm2"), ("molecule", "X_chemberta")):
        vectors = mdata[mod].obsm[slot]
        with torch.inference_mode():
            expected = model.project(mod, torch.from_numpy(vectors)).mean(dim=1).numpy()
        np.testing.assert_allclose(mdata[mod].obsm["X_bioverse"], expected, atol=1e-6)
        assert mdata[mod].obsm["X_bioverse"].shape[1] == model.embeddings.weight.shape[1]
    one = make_mdata()
    bsc.tl.align(one, mod="protein", model=model)
    np.testing.assert_array_equal(one["protein"].obsm["X_bioverse"], mdata["protein"].obsm["X_bioverse"])
    assert "X_bioverse" not in one["rna"].obsm


def test_embeddings_that_are_there_are_used(model, monkeypatch):
    mdata = make_mdata()
    bsc.tl.embed(mdata, model=model)
    for encoder in model.encoders.values():
        monkeypatch.setattr(type(encoder), "encode", lambda *_, **__: pytest.fail("the encoder ran again"))
    bsc.tl.align(mdata, model=model)
