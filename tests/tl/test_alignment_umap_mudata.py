import mudata as md
import numpy as np
import pytest

import bioverse_sc as bsc
from bioverse_sc.metrics import text_retrieval
from bioverse_sc.ontology import cell_ontology
from bioverse_sc.tl import _alignment_umap
from tests.pl.three import cosine, make_mdata, make_three, text_vectors
from tests.same import differences, same
from tests.tiny import LABELS

pytest.importorskip("rdkit")

MODS = ["rna", "protein", "molecule"]
PROTEINS = ["binds zinc", "cuts RNA/DNA", "moves ions", "folds others"]
MOLECULES = ["a spirit", "a solvent", "an acid", "a gas", "binds zinc"]
OWN = {"rna": [0, 1, 2, 3, 0, 1, 2, -1], "protein": [0, 1, -1, 0, 2, -1, 3], "molecule": [0, 1, 2, 3, 4]}


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return make_three(tmp_path_factory.mktemp("three"))


@pytest.fixture(scope="module")
def compared_three(three):
    """Not to be changed."""
    mdata = make_mdata()
    bsc.tl.alignment_umap(mdata, model=three, labels_key="truth", texts_key="description")
    return mdata


def descriptions():
    return [cell_ontology().describe(cell_ontology().find(label)) for label in LABELS]


def share_of_texts(entities, texts, own, k):
    """Text to entity, one after the other."""
    found = []
    for i, text in enumerate(texts):
        if i in own:
            nearest = sorted(range(len(entities)), key=lambda e: -cosine(entities[e], text))[:k]
            found.append(any(own[e] == i for e in nearest))
    return np.mean(found)


def share_of_entities(entities, texts, own, k):
    """Entity to text, one after the other."""
    nearest = [sorted(range(len(texts)), key=lambda t: -cosine(e, texts[t]))[:k] for e in entities]
    return np.mean([i in found for i, found in zip(own, nearest, strict=True)])


def test_results_of_several_modalities_go_to_the_container(compared_three):
    stored = compared_three.uns["bioverse"]["alignment_umap"]
    n = len(stored["texts"])
    for mod in MODS:
        assert set(compared_three[mod].uns["bioverse"]) == {"embed", "align", "alignment_umap"}
        assert "texts" not in compared_three[mod].uns["bioverse"]["alignment_umap"]
        for when in ("before", "after"):
            assert compared_three[mod].obsm[f"X_bioverse_umap_{when}"].shape == (compared_three[mod].n_obs, 2)
    assert stored["texts_before"].shape == stored["texts_after"].shape == (n, 2)
    assert stored["texts"][:13] == [*descriptions(), *PROTEINS, *MOLECULES]
    assert stored["texts_modality"] == ["rna"] * 4 + ["protein"] * 4 + ["molecule"] * 5 + [""] * (n - 13)
    assert stored["texts_related"].tolist() == [1] * 13 + [0] * (n - 13)
    assert stored["modalities"] == MODS
    assert (stored["labels_key"], stored["texts_key"]) == ("truth", "description")


def test_metrics_of_both_directions_are_those_of_the_vectors(compared_three, three):
    stored = compared_three.uns["bioverse"]["alignment_umap"]
    everyday = [t for t, r in zip(stored["texts"], stored["texts_related"], strict=True) if not r]
    assert set(stored["after"]) == set(MODS)
    for mod, texts in zip(MODS, (descriptions(), PROTEINS, MOLECULES), strict=True):
        vectors, own = text_vectors(three, [*texts, *everyday]), np.array(OWN[mod])
        entities = compared_three[mod].obsm["X_bioverse"][own >= 0]
        found = stored["after"][mod]
        for k in (1, 5, 10):
            here = own[own >= 0]
            assert found[f"retrieval_at_{k}"] == pytest.approx(share_of_entities(entities, vectors, here, k))
            assert found[f"text_retrieval_at_{k}"] == pytest.approx(
                share_of_texts(entities, vectors[: len(texts)], here, k)
            )
        assert stored["before"][mod] != found


def test_cells_have_the_metrics_that_they_have_alone(compared_three, three):
    alone = make_mdata()["rna"].copy()
    bsc.tl.alignment_umap(alone, model=three, labels_key="truth")
    stored = compared_three.uns["bioverse"]["alignment_umap"]
    for when in ("before", "after"):
        for name, value in alone.uns["bioverse"]["alignment_umap"][when].items():
            assert stored[when]["rna"][name] == pytest.approx(value, abs=1e-6), name


def test_there_is_one_layout_before_and_one_after(three, monkeypatch):
    laid_out = []

    def rows(vectors, **_):
        laid_out.append(vectors)
        return np.stack([np.arange(len(vectors)), np.full(len(vectors), len(laid_out))], axis=1)

    monkeypatch.setattr(_alignment_umap, "_umap", rows)
    mdata = make_mdata()
    bsc.tl.alignment_umap(mdata, model=three, texts_key="description")
    stored = mdata.uns["bioverse"]["alignment_umap"]
    assert len(laid_out) == 2
    for number, when in ((1, "before"), (2, "after")):
        vectors = laid_out[number - 1]
        for mod in MODS:
            places = mdata[mod].obsm[f"X_bioverse_umap_{when}"]
            assert (places[:, 1] == number).all()
            same_rows = np.allclose(vectors[places[:, 0]], mdata[mod].obsm["X_bioverse"], atol=1e-6)
            assert same_rows == (when == "after")
        np.testing.assert_allclose(
            vectors[stored[f"texts_{when}"][:, 0]], text_vectors(three, stored["texts"]), atol=1e-6
        )


def test_a_modality_without_texts_of_its_own_has_no_metrics(three):
    mdata = make_mdata()
    del mdata["molecule"].obs["description"]
    mdata["rna"].obs["description"] = ["one", "two", None, "one", "three", "two", np.nan, ""]
    bsc.tl.alignment_umap(mdata, model=three, texts_key="description")
    stored = mdata.uns["bioverse"]["alignment_umap"]
    assert set(stored["after"]) == {"rna", "protein"}
    assert stored["texts"][:7] == ["one", "two", "three", *PROTEINS]
    assert stored["labels_key"] == ""
    del mdata["rna"].obs["description"]
    bsc.tl.alignment_umap(mdata, model=three)
    assert "after" not in mdata.uns["bioverse"]["alignment_umap"]


def test_a_category_of_texts_is_read_as_texts(three):
    one, two = make_mdata()["protein"].copy(), make_mdata()["protein"].copy()
    two.obs["description"] = two.obs["description"].astype("category")
    for adata in (one, two):
        bsc.tl.alignment_umap(adata, mod="protein", model=three, texts_key="description")
    assert same(one.uns["bioverse"]["alignment_umap"], two.uns["bioverse"]["alignment_umap"])


def test_one_modality_keeps_its_results(three):
    mdata = make_mdata()
    bsc.tl.alignment_umap(mdata, mod="protein", model=three, texts_key="description")
    assert "bioverse" not in mdata.uns
    assert "X_bioverse" not in mdata["rna"].obsm
    stored = mdata["protein"].uns["bioverse"]["alignment_umap"]
    assert stored["texts"][:4] == PROTEINS
    alone = make_mdata()["protein"].copy()
    bsc.tl.alignment_umap(alone, mod="protein", model=three, texts_key="description")
    assert same(alone.uns["bioverse"]["alignment_umap"], stored)
    only = md.MuData({"rna": make_mdata()["rna"].copy()})
    bsc.tl.alignment_umap(only, model=three)
    assert "alignment_umap" in only["rna"].uns["bioverse"]
    assert "bioverse" not in only.uns


def test_a_layout_that_is_no_longer_there_is_forgotten(three):
    mdata = make_mdata()
    bsc.tl.alignment_umap(mdata, mod="rna", model=three)
    alone = mdata.copy()
    bsc.tl.alignment_umap(mdata, model=three)
    assert "texts" not in mdata["rna"].uns["bioverse"]["alignment_umap"]
    assert "texts" in alone["rna"].uns["bioverse"]["alignment_umap"], "the copy is not changed"
    bsc.tl.alignment_umap(mdata, mod="rna", model=three)
    assert mdata.uns["bioverse"]["alignment_umap"]["is_outdated"]
    # once more, from what is there
    bsc.tl.alignment_umap(mdata, mod="rna", model=three)
    assert "texts" in mdata["rna"].uns["bioverse"]["alignment_umap"]


def test_it_is_written_and_read_back(compared_three, tmp_path):
    compared_three.write_h5mu(tmp_path / "x.h5mu")
    back = md.read_h5mu(tmp_path / "x.h5mu")
    one, two = (m.uns["bioverse"]["alignment_umap"] for m in (compared_three, back))
    for name in ("texts", "texts_modality", "modalities"):
        assert list(two[name]) == one[name]
    for mod in MODS:
        assert {k: float(v) for k, v in two["after"][mod].items()} == pytest.approx(one["after"][mod], nan_ok=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"texts_key": "gone"}, KeyError, r"no column 'gone' in \.obs of any modality; there are rna: \['truth'\]"),
        ({"labels_key": "gone"}, KeyError, "no column 'gone'"),
        ({"labels_key": "description", "mod": "protein"}, ValueError, "is a column of cells"),
        ({"labels_key": "truth", "texts_key": "truth"}, ValueError, "would not be read"),
        ({"texts": ["a lamp"], "texts_key": "description", "mod": "protein"}, ValueError, "would not be read"),
        ({"texts_key": "number"}, ValueError, "something that is not a text"),
        ({"texts": "a lamp"}, TypeError, "is the string"),
    ],
)
def test_what_does_not_go_together_is_an_error_and_changes_nothing(three, arguments, error, message):
    mdata = make_mdata()
    mdata["protein"].obs["number"] = 3
    before = mdata.copy()
    with pytest.raises(error, match=message):
        bsc.tl.alignment_umap(mdata, model=three, **arguments)
    for mod in MODS:
        assert differences(before[mod], mdata[mod]) == set()


def test_texts_are_found_as_one_by_one():
    rng = np.random.default_rng(1)
    entities, texts = rng.normal(size=(2500, 6)).astype(np.float32), rng.normal(size=(40, 6)).astype(np.float32)
    # some texts have no entity
    own = rng.integers(5, 35, size=2500)
    own[own == 7] = 8
    entities[own == 9] = texts[9] * 3
    found = text_retrieval(entities, texts, own)
    unit = entities / np.linalg.norm(entities, axis=1, keepdims=True)
    for k in (1, 5, 10):
        nearest = np.argsort(-(unit @ texts.T), axis=0)[:k]
        hits = [i in own[nearest[:, i]] for i in set(own.tolist())]
        assert found[f"text_retrieval_at_{k}"] == pytest.approx(np.mean(hits))
    assert 0 < found["text_retrieval_at_1"] < found["text_retrieval_at_10"]


def test_entities_that_are_as_close_come_first_and_those_of_length_zero_never():
    same_place = np.ones((6, 3))
    own = np.array([0, 1, 1, 1, 1, 1])
    # five others are as close as the first text's only entity; one is as close as the nearest of the second's
    assert text_retrieval(same_place, np.eye(3), own) == {
        "text_retrieval_at_1": 0.0,
        "text_retrieval_at_5": 0.5,
        "text_retrieval_at_10": 1.0,
    }
    entities = np.array([[0.0, 0.0], [0.1, -1.0], [0.0, 0.0]])
    # the first text's entities have no place; the second's is far away, but alone
    found = text_retrieval(entities, np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1, 0]))
    assert set(found.values()) == {0.5}
