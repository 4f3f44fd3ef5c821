import mudata as md
import numpy as np
import pandas as pd
import pytest

import bioverse_sc as bsc
from bioverse_sc.facts import Known, Memory
from bioverse_sc.models import Answer, Entity, Text
from bioverse_sc.tl._nearest import Nearest
from tests.same import differences, same
from tests.tl.asked import SLOTS, make_cells, make_library, make_three, naive

pytest.importorskip("rdkit")

SHORT = {"max_new_tokens": 12, "retrieve": False}


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return make_three(tmp_path_factory.mktemp("three"))


def described(data, model, **kwargs):
    return bsc.tl.describe(data, model=model, copy=True, **(SHORT | kwargs))


def prompt(name, modality, before=""):
    start = [Text(before)] if before else []
    return [*start, Text(f"{name}:"), Entity(modality), Text(" Description:"), Answer()]


def test_each_modality_is_described_from_its_soft_tokens(three):
    mdata = described(make_cells(), three)
    for mod, name in (("rna", "Cell"), ("protein", "Protein"), ("molecule", "Molecule")):
        found = mdata[mod].obs["bioverse_description"]
        expected = [
            "" if (mod, obs) == ("rna", "c4") else naive(three, mdata, prompt(name, mod), [(mod, obs)])
            for obs in mdata[mod].obs_names
        ]
        assert found.tolist() == expected
        assert len(set(expected)) > 1
        assert mdata[mod].uns["bioverse"]["describe"]["model"] == "three"
    assert mdata["rna"].obs.loc["c4", "bioverse_description"] == ""
    assert not mdata.uns


def test_one_modality_that_is_asked_for(three):
    mdata = make_cells()
    before = mdata.copy()
    assert bsc.tl.describe(mdata, mod="molecule", model=three, **SHORT) is None
    found = {"obs['bioverse_description']", "obsm['X_chemberta']", "uns['bioverse']"}
    assert differences(before["molecule"], mdata["molecule"]) == found
    for mod in ("rna", "protein"):
        assert differences(before[mod], mdata[mod]) == set()
    assert same(before.obs, mdata.obs)
    alone = before["molecule"].copy()
    assert same(described(alone, three, mod="molecule").obs, mdata["molecule"].obs)
    assert differences(before["molecule"], alone) == set(), "a copy leaves the original"


def test_the_model_says_which_repeats_are_written(three):
    free, strict = (described(make_cells(), three, mod="protein", no_repeat_ngram_size=n)["protein"] for n in (0, 1))
    assert strict.obs["bioverse_description"].tolist() != free.obs["bioverse_description"].tolist()
    assert strict.uns["bioverse"]["describe"]["no_repeat_ngram_size"] == 1
    by_default = described(make_cells(), three, mod="protein")["protein"]
    assert by_default.obs["bioverse_description"].tolist() == free.obs["bioverse_description"].tolist()
    assert by_default.uns["bioverse"]["describe"]["no_repeat_ngram_size"] == 0


def test_other_sequences_are_not_described_by_the_old_vectors(three):
    mdata = described(make_library(), three)
    first = {mod: mdata[mod].obs["bioverse_description"].copy() for mod in mdata.mod}
    for mod, column in (("protein", "sequence"), ("molecule", "smiles")):
        mdata[mod].obs[column] = mdata[mod].obs[column].to_numpy()[::-1].copy()
    again = described(mdata, three)
    for mod in mdata.mod:
        assert again[mod].obs["bioverse_description"].tolist() == first[mod].tolist()[::-1]
    # those of an encoder that was named, too, when the model has the same
    bsc.tl.embed(mdata, encoder=three.encoders["protein"])
    mdata["protein"].obs["sequence"] = mdata["protein"].obs["sequence"].to_numpy()[::-1].copy()
    mdata = described(mdata, three)
    assert mdata["protein"].obs["bioverse_description"].tolist() == first["protein"].tolist()
    # what is no longer there cannot have changed
    del mdata["protein"].obs["sequence"]
    assert described(mdata, three)["protein"].obs["bioverse_description"].tolist() == first["protein"].tolist()


@pytest.mark.parametrize("named", [False, True])
def test_other_abundances_are_not_described_by_the_old_vectors(named, three):
    mdata = make_cells()
    protein = mdata["protein"]
    protein.layers["counts"] = protein.X[::-1].copy()
    options = {"encoder": three.encoders["protein"]} if named else {"mod": "protein", "model": three}
    bsc.tl.embed(mdata, layer="counts", **options)
    before = protein.obsm["X_esm2"].copy()
    # the layer that was read stays the one that is meant
    for layer in (None, "counts"):
        bsc.tl.describe(mdata, mod="protein", model=three, layer=layer, gene_symbols="gone", **SHORT)
        np.testing.assert_array_equal(protein.obsm["X_esm2"], before)
    bsc.tl.describe(mdata, mod="protein", model=three, layer="X", **SHORT)
    np.testing.assert_allclose(protein.obsm["X_esm2"], before[::-1], rtol=1e-6)
    protein.X = protein.layers["counts"].copy()
    bsc.tl.describe(mdata, mod="protein", model=three, **SHORT)
    np.testing.assert_allclose(protein.obsm["X_esm2"], before, rtol=1e-6)
    protein.layers["counts"], protein.X = protein.X, None
    with pytest.raises(ValueError, match=r"no abundances in \.X; name their layer"):
        bsc.tl.embed(mdata, mod="protein", model=three)


def test_an_anndata_that_holds_proteins_has_to_say_so(three):
    with pytest.raises(ValueError, match=r"no genes but \.obs\['sequence'\]; say what it holds, mod='protein'"):
        described(make_library()["protein"], three)


def test_a_prompt_that_is_too_long_is_an_error(three, monkeypatch):
    limit = three.language_model.config.max_position_embeddings
    # of short answers what names no known one is left out
    monkeypatch.setattr(Nearest, "description", lambda self, row, written: written)
    monkeypatch.setattr(Nearest, "to_write", np.arange(4))
    options = {"mod": "protein", "retrieve": True, "max_new_tokens": limit}

    def remembered(n):
        known = pd.DataFrame({"entity": ["MKTAYIAKQR", "GGSGGSGG", "ACDEFGHI"], "text": ["a" * n, "A linker.", "All."]})
        monkeypatch.setitem(three.memory, "protein", Memory("protein", known))
        return described(make_library(), three, **options)["protein"].obs["bioverse_description"]

    with pytest.raises(ValueError, match=rf"tokens; the language model reads {limit} at most"):
        remembered(limit)
    # an answer ends where the language model does
    short, long = remembered(10)["P1"], remembered(limit - 80)["P1"]
    assert len(long) < 80 < len(short)


def test_cells_of_an_anndata(cells, mini):
    before = cells.copy()
    bsc.tl.describe(cells, **SHORT, key_added="mine")
    assert differences(before, cells) == {"obs['mine_description']", "obsm['X_mine_scgpt']", "uns['mine']"}
    assert cells.uns["mine"]["describe"]["model_fingerprint"] == mini.fingerprint
    assert all(cells.obs["mine_description"])


def test_the_nearest_known_texts_stand_before(three, monkeypatch):
    monkeypatch.setattr(Nearest, "description", lambda self, row, written: written)
    mdata = described(make_library(), three, retrieve=True)
    protein = mdata["protein"]
    answer = naive(three, mdata, prompt("Protein", "protein", "Nearest known: (1) All of them. "), [("protein", "P3")])
    assert protein.obs.loc["P3", "bioverse_description"] == answer
    assert answer != naive(three, mdata, prompt("Protein", "protein"), [("protein", "P3")])
    assert protein.uns["bioverse"]["describe"]["retrieve"]


def test_a_known_one_gets_its_text_and_what_is_near_to_nothing_is_refused(three):
    mdata = make_library()
    mdata["protein"].obs["sequence"] = ["WWWWWWWW", "ggsg-gsgg", "ACDEFGHIKL", "MKTAYIWW"]
    mdata = described(mdata, three)
    obs = described(mdata, three, retrieve=True)["protein"].obs
    text, nearest, similarity = (obs[f"bioverse_{name}"] for name in ("description", "nearest", "nearest_similarity"))
    assert (text["P2"], nearest["P2"], similarity["P2"]) == ("A linker.", "A linker.", 1.0)
    refused = "Nothing known is near this protein (nearest similarity 0.00), so it cannot be told what it is."
    assert (text["P1"], nearest["P1"], similarity["P1"]) == (refused, "", 0.0)
    # what the tiny model writes names nothing
    concluded = "This protein itself is not known. It is probably a member of the same family as All of them. "
    assert text["P3"] == f"{concluded}Which member it is cannot be told. The similarity is {similarity['P3']:.2f}."
    assert 0.2 < similarity["P3"] < 1
    molecules = described(make_library(), three, retrieve=True)["molecule"]
    assert molecules.obs.loc["M1", "bioverse_description"] == "Ethanol."
    stored = molecules.uns["bioverse"]["describe"]
    assert sum(stored[name] for name in ("same", "related", "distant", "unknown")) == 3
    assert stored["same"] == 1


def test_sentences_that_the_model_wrote_are_kept_when_they_are_known_of_the_one_that_it_names():
    known = [
        Known("MKTAYI", "Insulin (INS), human. It binds. It is small.", 0.5, is_same=False, name="Insulin"),
        Known("MKTAWW", "Relaxin (RLN1), human. It is long.", 0.3, is_same=False),
        Known("WWWW", "Titin (TTN), human. It is longer.", 0.05, is_same=False),
    ]
    near = Nearest("protein", ["MKTAYW"], [known])
    one = near.description(0, "Insulin (INS), human. It is small. It glows. It is small.")
    assert one.endswith("The similarity is 0.50. Of that one it is known: It is small.")
    two = near.description(0, "(2) Relaxin (RLN1), human. It is long.")
    assert "same family as Relaxin (RLN1), human." in two
    assert two.endswith("The similarity is 0.30. Of that one it is known: It is long.")
    for wrong in ("Titin (TTN), human. It is longer.", "Major capsid protein.", ""):
        assert near.description(0, wrong) == near.description(0, "")
        assert not near.is_written(0, wrong)
    assert "same family as Insulin (INS), human." in near.description(0, "")


def test_without_a_memory_retrieving_changes_nothing(three):
    both = [described(make_cells(), three, mod="rna", retrieve=retrieve) for retrieve in (False, True)]
    texts = [each["rna"].obs["bioverse_description"] for each in both]
    assert texts[0].equals(texts[1])
    assert "bioverse_nearest" not in both[1]["rna"].obs


def test_slots_of_the_nearest_go_when_nothing_is_looked_up(three):
    mdata = described(make_library(), three, retrieve=True)
    assert "bioverse_nearest" in mdata["protein"].obs
    assert "bioverse_nearest" not in described(mdata, three)["protein"].obs
    mdata["protein"].obs["bioverse_nearest"] = "mine"
    with pytest.raises(ValueError, match=r"obs\['bioverse_nearest'\] was changed"):
        described(mdata, three, retrieve=True)


def test_another_name_does_not_double_the_vectors(three, log):
    protein = make_library()["protein"].copy()
    bsc.tl.embed(protein, mod="protein", model=three)
    options = {"mod": "protein", "model": three}
    bsc.tl.describe(protein, **options, **SHORT, key_added="one")
    bsc.tl.ask(protein, "What is it?", **options, **SHORT, key_added="two")
    bsc.tl.score(protein, ["A linker."], **options, key_added="three")
    assert set(protein.obsm) == {"X_esm2", "X_three", "three_scores"}
    expected = described(protein, three, mod="protein").obs["bioverse_description"]
    assert protein.obs["one_description"].tolist() == expected.tolist()
    # these are out of date with the vectors
    protein.obs.loc["P1", "sequence"] = "MKTAYIAKWW"
    bsc.tl.embed(protein, mod="protein", model=three)
    assert all(protein.uns[stem][step]["is_outdated"] for stem, step in (("one", "describe"), ("two", "ask")))
    said = " ".join(record.getMessage() for record in log)
    assert "out of date now: describe (one), ask (two), align (three), score (three)" in said


def test_vectors_of_something_else_are_made_under_the_other_name(three):
    protein = make_library()["protein"].copy()
    bsc.tl.embed(protein, mod="protein", model=three)
    before = protein.obsm["X_esm2"].copy()
    protein.obs["sequence"] = protein.obs["sequence"].to_numpy()[::-1].copy()
    bsc.tl.describe(protein, mod="protein", model=three, **SHORT, key_added="one")
    np.testing.assert_array_equal(protein.obsm["X_esm2"], before)
    np.testing.assert_allclose(protein.obsm["X_one_esm2"], before[::-1], rtol=1e-5)
    # and are found again by a third one
    bsc.tl.ask(protein, "What is it?", mod="protein", model=three, **SHORT, key_added="two")
    assert set(protein.obsm) == {"X_esm2", "X_one_esm2"}


def test_what_was_used_is_said(three, log):
    described(make_cells(), three, retrieve=True)
    said = [record.getMessage() for record in log]
    assert "describing 4 observations of protein with 'three'" in said
    none = "the observations have none of their own (obs['sequence'])"
    assert f"    protein: vectors of esm2 (obsm['X_esm2']); no texts: {none}" in said
    known = "the 3 nearest of 3 known ones by obs['smiles']"
    assert f"    molecule: vectors of chemberta (obsm['X_chemberta']); {known}" in said
    assert "1 of 4 observations are left out" in " ".join(said)


@pytest.mark.parametrize("retrieve", [False, True])
def test_draws_depend_on_neither_batches_nor_order(retrieve, three, monkeypatch):
    options = {"mod": "protein", "temperature": 1.0, "retrieve": retrieve}
    monkeypatch.setattr(Nearest, "description", lambda self, row, written: written)
    first = described(make_library(), three, **options)["protein"].obs["bioverse_description"]
    assert first.nunique() == 4
    turned = make_library()["protein"][[2, 0, 3, 1]].copy()
    for data, batch_size in ((make_library()["protein"].copy(), 1), (turned, 3)):
        found = described(data, three, batch_size=batch_size, **options).obs["bioverse_description"]
        assert found.loc[first.index].equals(first)
    again = described(make_library(), three, seed=1, **options)["protein"].obs["bioverse_description"]
    assert not again.equals(first)


def test_it_is_written_and_read_back(three, tmp_path):
    mdata = described(make_library(), three, temperature=50.0, max_new_tokens=200, seed=3)
    mdata.write_h5mu(tmp_path / "x.h5mu")
    back = md.read_h5mu(tmp_path / "x.h5mu")
    for mod in mdata.mod:
        assert back[mod].obs["bioverse_description"].tolist() == mdata[mod].obs["bioverse_description"].tolist()
        stored = back[mod].uns["bioverse"]["describe"]
        assert (stored["temperature"], stored["seed"], stored["max_new_tokens"]) == (50.0, 3, 200)
        np.testing.assert_array_equal(back[mod].obsm[SLOTS[mod]], mdata[mod].obsm[SLOTS[mod]])


def test_what_cannot_be_described(three, only_cells):
    with pytest.raises(ValueError, match=r"'tiny' has no projector for 'protein'; it reads \['rna'\]"):
        described(make_cells(), only_cells, mod="protein")
    with pytest.raises(KeyError, match=r"no modality 'rna'; it has \['molecule', 'protein'\]"):
        described(make_library(), three, mod="rna")
    with pytest.raises(ValueError, match="temperature is -1"):
        described(make_cells(), three, temperature=-1)
    with pytest.raises(ValueError, match="batch_size is -1; expected 1 or more"):
        described(make_cells(), three, batch_size=-1)
    with pytest.raises(ValueError, match="view"):
        bsc.tl.describe(make_cells()["molecule"][:1], mod="molecule", model=three)
