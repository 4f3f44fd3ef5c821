import logging

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

import bioverse_sc as bsc
from bioverse_sc.models import Answer, Entity, Text
from bioverse_sc.tl import _prompts
from tests.same import differences, same
from tests.tiny import make_model
from tests.tl.asked import SLOTS, make_cells, make_library, make_three, naive

pytest.importorskip("rdkit")

QUESTION = "Which?"
SHORT = {"max_new_tokens": 12, "retrieve": False}


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return make_three(tmp_path_factory.mktemp("three"))


def asked(data, model, question=QUESTION, **kwargs):
    return bsc.tl.ask(data, question, model=model, copy=True, **(SHORT | kwargs))


def entity(name, modality, before=""):
    return [*([Text(before)] if before else []), Text(f"{name}:"), Entity(modality), Text(" ")]


def question(text=QUESTION):
    return [Text(f"Question: {text} Answer:"), Answer()]


# --- what the prompts show --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mods", [["rna", "protein"], ["protein", "rna"]])
def test_several_entities_stand_in_one_prompt_in_the_order_of_mod(mods, three):
    mdata = asked(make_cells(), three, mod=mods)
    names = {"rna": "Cell", "protein": "Protein"}
    prompt = [*entity(names[mods[0]], mods[0]), *entity(names[mods[1]], mods[1]), *question()]
    expected = {c: naive(three, mdata, prompt, [(mod, c) for mod in mods]) for c in ("c1", "c2")}
    assert mdata.obs["bioverse_answer"].loc[["c1", "c2"]].to_dict() == expected
    assert expected["c1"] != expected["c2"]


def test_by_default_all_modalities_are_shown(three):
    mdata = asked(make_cells(), three)
    mods = list(three.config.projectors)
    prompt = [s for mod in mods for s in entity(mod.replace("rna", "cell").capitalize(), mod)] + question()
    assert mdata.obs.loc["c1", "bioverse_answer"] == naive(three, mdata, prompt, [(mod, "c1") for mod in mods])
    assert mdata.uns["bioverse"]["ask"]["modalities"] == mods


def test_entities_beside_stand_in_every_prompt(three):
    mdata = asked(make_library(), three, mod="molecule", beside={"protein": ["P3", "P1"]})
    prompt = [*entity("Molecule", "molecule"), *entity("Protein 1", "protein"), *entity("Protein 2", "protein")]
    for name in ("M1", "M2", "M3"):
        entities = [("molecule", name), ("protein", "P3"), ("protein", "P1")]
        assert mdata.obs.loc[name, "bioverse_answer"] == naive(three, mdata, [*prompt, *question()], entities)
    answers = mdata.obs["bioverse_answer"]
    assert answers.loc[["M1", "M2", "M3"]].nunique() == 3, "another compound, another answer"
    other = asked(make_library(), three, mod="molecule", beside={"protein": ["P1", "P3"]}).obs["bioverse_answer"]
    assert (other.loc[["M1", "M2", "M3"]] != answers.loc[["M1", "M2", "M3"]]).any(), "the order is that of beside"


def test_beside_may_be_of_the_same_modality_and_of_several(three):
    mdata = asked(make_library(), three, mod="protein", beside={"molecule": ["M2"], "protein": ["P4"]})
    prompt = [*entity("Protein 1", "protein"), *entity("Molecule", "molecule"), *entity("Protein 2", "protein")]
    expected = naive(three, mdata, [*prompt, *question()], [("protein", "P2"), ("molecule", "M2"), ("protein", "P4")])
    assert mdata.obs.loc["P2", "bioverse_answer"] == expected
    alone = asked(make_library()["protein"].copy(), three, mod="protein", beside={"protein": ["P4"]})
    prompt = [*entity("Protein 1", "protein"), *entity("Protein 2", "protein"), *question()]
    expected = naive(three, {"protein": alone}, prompt, [("protein", "P1"), ("protein", "P4")])
    assert alone.obs.loc["P1", "bioverse_answer"] == expected


@pytest.mark.parametrize("text", ["What does {smiles} do to {obs}?", "Is [BIO] or [BIO:rna] bound?", "Why {"])
def test_a_question_is_only_text(text, three):
    mdata = asked(make_library(), three, text, mod="molecule")
    prompt = [*entity("Molecule", "molecule"), *question(text)]
    assert mdata["molecule"].obs.loc["M1", "bioverse_answer"] == naive(three, mdata, prompt, [("molecule", "M1")])
    assert mdata["molecule"].uns["bioverse"]["ask"]["question"] == text


def test_the_nearest_known_texts_stand_before_their_entity(three):
    mdata = asked(make_library(), three, mod="molecule", beside={"protein": ["P1"]}, retrieve=True)
    molecule, protein = (
        [" ".join(f"({i}) {known.text.rstrip('.')}." for i, known in enumerate(near, start=1)) for near in nearest]
        for nearest in (
            three.memory["molecule"].nearest(["CCO", "c1ccccc1"], 3),
            three.memory["protein"].nearest(["MKTAYIAK"], 3),
        )
    )
    assert molecule[0] == "(1) Ethanol. (2) Propanol. (3) Toluene."
    assert protein[0].count("(") == 3
    assert "[BIO] {DNA}." in protein[0]
    for name, known in zip(["M1", "M2"], molecule, strict=True):
        prompt = [
            *entity("Molecule", "molecule", f"Nearest known: {known} "),
            *entity("Protein", "protein", f"Nearest known: {protein[0]} "),
            *question(),
        ]
        expected = naive(three, mdata, prompt, [("molecule", name), ("protein", "P1")])
        assert mdata.obs.loc[name, "bioverse_answer"] == expected
    without = asked(make_library(), three, mod="molecule", beside={"protein": ["P1"]})
    assert not mdata.obs["bioverse_answer"].equals(without.obs["bioverse_answer"])


def test_an_entity_that_is_like_no_known_one_gets_no_texts(three):
    mdata = make_library()
    mdata["protein"].obs["sequence"] = ["WWWWWWWW", "GGSGGSWW", "ACDEFGHIKL", "MKTAYIWW"]
    mdata = asked(mdata, three, mod="protein", retrieve=True)
    expected = naive(three, mdata, [*entity("Protein", "protein"), *question()], [("protein", "P1")])
    assert mdata["protein"].obs.loc["P1", "bioverse_answer"] == expected


def test_features_have_no_text_to_retrieve_by(three, log):
    mdata = asked(make_cells(), three, mod=["rna", "protein"], retrieve=True)
    without = asked(make_cells(), three, mod=["rna", "protein"])
    assert mdata.obs["bioverse_answer"].equals(without.obs["bioverse_answer"])
    said = " ".join(record.getMessage() for record in log)
    assert "rna: vectors of scgpt (obsm['X_scgpt']) " in said + " "
    assert "no texts: the observations have none of their own (obs['sequence'])" in said


# --- which observations, and where to ---------------------------------------------------------------------------------


def test_observations_that_the_modalities_share_are_asked(three, log):
    mdata = asked(make_cells(), three, mod=["rna", "protein"])
    answers = mdata.obs["bioverse_answer"]
    assert answers.index.equals(mdata.obs_names)
    # c3 and c9 are in one of them, c4 has no known gene
    assert (answers != "").to_dict() == {"c1": True, "c2": True, "c3": False, "c4": False, "c9": False}
    said = [record.getMessage() for record in log]
    assert "asking 'three' about 3 observations that rna (4) and protein (4) share" in said
    assert "    protein: vectors of esm2 (obsm['X_esm2'])" in said
    left_out = [record for record in log if "left out" in record.getMessage()]
    assert [r.levelno for r in left_out] == [logging.WARNING]
    assert left_out[0].getMessage().startswith("1 of 3 observations")


def test_what_was_used_is_said(three, log):
    asked(make_library(), three, mod="molecule", beside={"protein": ["P3", "P1"]}, retrieve=True)
    said = [record.getMessage() for record in log]
    assert "asking 'three' about 3 observations of molecule" in said
    assert (
        "    molecule: vectors of chemberta (obsm['X_chemberta']); the 3 nearest of 3 known ones by obs['smiles']"
        in said
    )
    assert "    protein: vectors of esm2 (obsm['X_esm2']); the 3 nearest of 5 known ones by obs['sequence']" in said
    assert "    beside each: protein P3, P1" in said
    assert "'bioverse_answer' (mdata.obs)" in said[-1]


def test_answers_about_several_modalities_go_to_the_container(three):
    mdata = make_cells()
    mdata.obs["mine"] = 1.5
    before = mdata.copy()
    assert bsc.tl.ask(mdata, QUESTION, mod=["rna", "protein"], model=three, **SHORT) is None
    assert differences(before["rna"], mdata["rna"]) == {"obsm['X_scgpt']", "uns['bioverse']"}
    assert differences(before["protein"], mdata["protein"]) == {"obsm['X_esm2']", "uns['bioverse']"}
    assert set(mdata["rna"].uns["bioverse"]) == {"embed"}
    assert differences(before["molecule"], mdata["molecule"]) == set()
    assert set(mdata.obs) - set(before.obs) == {"bioverse_answer"}
    assert same(before.obs, mdata.obs[list(before.obs)])
    assert same(before.obsm, mdata.obsm)
    assert same(before.var, mdata.var)
    assert list(mdata.uns) == ["bioverse"]
    assert list(mdata.uns["bioverse"]) == ["ask"]


def test_answers_about_one_modality_go_to_it(three):
    mdata = make_cells()
    before = mdata.copy()
    bsc.tl.ask(mdata, QUESTION, mod=["molecule"], model=three, **SHORT)
    found = {"obs['bioverse_answer']", "obsm['X_chemberta']", "uns['bioverse']"}
    assert differences(before["molecule"], mdata["molecule"]) == found
    assert same(before.obs, mdata.obs)
    assert not mdata.uns
    assert (mdata["molecule"].obs["bioverse_answer"] != "").all()
    alone = asked(before["molecule"].copy(), three, mod="molecule")
    assert alone.obs["bioverse_answer"].equals(mdata["molecule"].obs["bioverse_answer"])


def test_an_anndata_of_cells(cells, mini):
    before = cells.copy()
    bsc.tl.ask(cells, "What is this?", **SHORT, key_added="mine")
    assert differences(before, cells) == {"obs['mine_answer']", "obsm['X_mine_scgpt']", "uns['mine']"}
    stored = cells.uns["mine"]["ask"]
    assert stored["model_fingerprint"] == mini.fingerprint
    assert stored["modalities"] == ["rna"]
    assert stored["encoders"] == {"rna": "scgpt"}


def test_vectors_that_are_there_are_used(three, monkeypatch):
    mdata = make_library()
    bsc.tl.embed(mdata, model=three)
    vectors = mdata["protein"].obsm["X_esm2"]
    for encoder in three.encoders.values():
        monkeypatch.setattr(type(encoder), "encode", lambda *_, **__: pytest.fail("the encoder ran again"))
    bsc.tl.ask(mdata, QUESTION, mod="molecule", beside={"protein": ["P1"]}, model=three, **SHORT)
    assert mdata["protein"].obsm["X_esm2"] is vectors


def test_a_copy_leaves_the_original(three):
    mdata = make_library()
    before = mdata.copy()
    result = asked(mdata, three, mod="molecule", beside={"protein": ["P1"]})
    for mod in mdata.mod:
        assert differences(before[mod], mdata[mod]) == set()
    assert same(before.obs, mdata.obs)
    assert not mdata.uns
    assert "bioverse_answer" in result.obs


def test_it_is_written_and_read_back(three, tmp_path):
    # draws at this temperature are of all bytes, NUL among them
    wild = {"temperature": 50.0, "max_new_tokens": 200}
    mdata = asked(make_library(), three, mod="molecule", beside={"protein": ["P1", "P2"]}, **wild)
    bsc.tl.ask(mdata, QUESTION, mod="protein", model=three, **SHORT)
    mdata.write_h5mu(tmp_path / "x.h5mu")
    back = md.read_h5mu(tmp_path / "x.h5mu")
    assert back.obs["bioverse_answer"].tolist() == mdata.obs["bioverse_answer"].tolist()
    assert back.obs_names.equals(mdata.obs_names)
    assert back["protein"].obs["bioverse_answer"].tolist() == mdata["protein"].obs["bioverse_answer"].tolist()
    stored, kept = mdata.uns["bioverse"]["ask"], back.uns["bioverse"]["ask"]
    assert set(stored) == set(kept)
    assert list(kept["beside"]["protein"]) == ["P1", "P2"]
    assert kept["question"] == QUESTION
    assert list(kept["modalities"]) == ["molecule"]
    assert (kept["temperature"], kept["top_p"], kept["seed"], kept["max_new_tokens"]) == (50.0, 1.0, 0, 200)
    assert not kept["retrieve"]
    for key in ("version", "model", "model_fingerprint", "prompt", "device", "encoders"):
        assert same(stored[key], kept[key]), key
    assert list(back["protein"].uns["bioverse"]["ask"]["beside"]) == []


# --- nothing depends on how the work was cut --------------------------------------------------------------------------


def permuted(mdata, seed=0):
    rng = np.random.default_rng(seed)
    return md.MuData({mod: adata[rng.permutation(adata.n_obs)].copy() for mod, adata in mdata.mod.items()})


@pytest.mark.parametrize("retrieve", [False, True])
def test_draws_depend_on_neither_batches_nor_order(retrieve, three):
    options = {"mod": "molecule", "beside": {"protein": ["P1"]}, "temperature": 1.0, "retrieve": retrieve}
    answers = asked(make_library(), three, **options).obs["bioverse_answer"]
    assert answers.loc[["M1", "M2", "M3"]].nunique() == 3
    for data, batch_size in ((make_library(), 1), (make_library(), 2), (permuted(make_library()), 2)):
        found = asked(data, three, batch_size=batch_size, **options).obs["bioverse_answer"]
        assert found.loc[answers.index].equals(answers)


def test_shared_observations_are_found_in_any_order(three):
    answers = asked(make_cells(), three, mod=["rna", "protein"], temperature=1.0).obs["bioverse_answer"]
    for seed in range(3):
        found = asked(permuted(make_cells(), seed), three, mod=["rna", "protein"], temperature=1.0)
        assert found.obs["bioverse_answer"].loc[answers.index].equals(answers)


def test_the_seed_and_the_options_of_decoding_count(three):
    def answers(**options):
        return asked(make_library(), three, mod="protein", **options)["protein"].obs["bioverse_answer"].tolist()

    assert answers(temperature=1.0, seed=1) == answers(temperature=1.0, seed=1)
    assert answers(temperature=1.0, seed=1) != answers(temperature=1.0, seed=2)
    assert answers(seed=1) == answers(seed=2), "without temperature nothing is drawn"
    assert answers(temperature=1.0, top_p=1e-6) == answers()
    assert answers(max_new_tokens=3) != answers()
    assert answers(no_repeat_ngram_size=1) != answers()
    data = asked(make_library(), three, mod="protein", temperature=1.0, seed=7)
    prompt = [*entity("Protein", "protein"), *question()]
    expected = naive(three, data, prompt, [("protein", "P2")], key="P2", temperature=1.0, seed=7)
    assert data["protein"].obs.loc["P2", "bioverse_answer"] == expected


def test_texts_of_equal_entities_are_looked_up_once(three, monkeypatch):
    asked_for = []
    nearest = type(three.memory["molecule"]).nearest
    monkeypatch.setattr(
        type(three.memory["molecule"]), "nearest", lambda self, e, n: asked_for.append(e) or nearest(self, e, n)
    )
    adata = ad.AnnData(obs=pd.DataFrame({"smiles": ["CCO", "CCCO", "CCO"]}, index=["a", "b", "c"]))
    found = asked(adata, three, mod="molecule", retrieve=True).obs["bioverse_answer"]
    assert asked_for == [["CCO", "CCCO"]]
    assert found["a"] == found["c"] != found["b"]


def test_facts_and_prompts_share_one_lookup_and_without_it_nothing_near_is_a_fact(mini, monkeypatch):
    asked_for = []
    nearest = type(mini.memory["molecule"]).nearest
    monkeypatch.setattr(
        type(mini.memory["molecule"]), "nearest", lambda self, e, n: asked_for.append(e) or nearest(self, e, n)
    )
    adata = ad.AnnData(obs=pd.DataFrame({"smiles": ["CCO", "CCCO"]}, index=["a", "b"]))

    def told(**options):
        facts = asked(adata, mini, mod="molecule", **options).uns["bioverse"]["ask"]["facts"]
        return " ".join(facts["fact"])

    assert "nown" in told(retrieve=True)
    assert asked_for == [["CCO", "CCCO"]]
    assert "nown" not in told(retrieve=False)
    assert len(asked_for) == 1


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_question_is_an_error(text, three):
    with pytest.raises(ValueError, match="question is empty; expected a text, such as"):
        asked(make_library(), three, text)
    with pytest.raises(TypeError, match=r"question is \['Why\?'\]; expected a text"):
        asked(make_library(), three, ["Why?"])


def test_no_shared_observations(three):
    mdata = make_library()
    with pytest.raises(ValueError, match=r"No observation is in all of .*protein has 4.*molecule has 3") as error:
        asked(mdata, three)
    assert "mod='protein', beside={'molecule': ['M1']}" in str(error.value)
    for mod in mdata.mod:
        assert not mdata[mod].obsm, "nothing was embedded before"


def test_a_modality_that_the_model_does_not_read(three, only_cells):
    with pytest.raises(ValueError, match=r"'tiny' has no projector for 'protein'; it reads \['rna'\]"):
        asked(make_cells(), only_cells, mod=["rna", "protein"])
    with pytest.raises(ValueError, match=r"'tiny' has no projector for 'molecule'; it reads \['rna'\]"):
        asked(make_cells(), only_cells, mod="rna", beside={"molecule": ["c1"]})
    with pytest.raises(KeyError, match=r"reads \['rna'\], and the MuData has \['molecule', 'protein'\]: none of them"):
        asked(make_library(), only_cells)
    with pytest.raises(KeyError, match=r"no modality 'rna'; it has \['molecule', 'protein'\]"):
        asked(make_library(), three, mod="rna")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"mod": []}, ValueError, "mod is empty"),
        ({"mod": ["rna", "rna"]}, ValueError, "mod names 'rna' more than once"),
        ({"mod": "rna", "beside": {"protein": "c1"}}, TypeError, r"beside\['protein'\] is the string 'c1'"),
        (
            {"mod": "rna", "beside": ["c1"]},
            TypeError,
            r"beside is \['c1'\]; expected names of observations by modality",
        ),
        ({"mod": "rna", "beside": {"protein": []}}, ValueError, "names no observation"),
        (
            {"mod": "rna", "beside": {"protein": ["c1", "c3"]}},
            KeyError,
            r"names \['c3'\], which are not there; protein",
        ),
        ({"mod": "molecule", "beside": {"rna": ["c1", "c4"]}}, ValueError, r"names \['c4'\], whose vectors are zero"),
        ({"temperature": -1.0}, ValueError, "temperature is -1"),
        ({"top_p": 0.0}, ValueError, "top_p is 0"),
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens is 0"),
        ({"mod": "rna", "batch_size": 0}, ValueError, "batch_size is 0"),
    ],
)
def test_arguments_that_cannot_be(options, kind, message, three):
    with pytest.raises(kind, match=message):
        asked(make_cells(), three, **options)


def test_a_model_without_memory_looks_nothing_up(only_cells):
    cells = make_cells()["rna"]
    both = [asked(cells, only_cells, retrieve=retrieve).obs["bioverse_answer"] for retrieve in (False, True)]
    assert both[0].equals(both[1])


def test_an_anndata_holds_one_modality(three):
    adata = make_library()["protein"].copy()
    with pytest.raises(TypeError, match=r"Expected MuData for the modalities \['molecule', 'protein'\], found AnnData"):
        asked(adata, three, mod=["molecule", "protein"])
    with pytest.raises(ValueError, match="say what it holds, mod='protein'"):
        asked(adata, three, beside={"protein": ["P1"]})
    with pytest.raises(TypeError, match="for example mod='protein'"):
        asked(make_cells()["rna"].copy(), three, beside={"protein": ["P1"]})
    with pytest.raises(TypeError, match="Expected AnnData or MuData, found DataFrame"):
        asked(adata.obs, three, mod="protein")
    with pytest.raises(ValueError, match="view"):
        bsc.tl.ask(adata[:2], QUESTION, mod="protein", model=three)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_names_that_do_not_say_which(three):
    mdata = make_cells()
    protein = mdata["protein"].copy()
    protein.obs_names = ["c2", "c1", "c1", "c4"]
    doubled = md.MuData({"rna": mdata["rna"], "protein": protein})
    with pytest.raises(ValueError, match="protein has 'c1' more than once"):
        bsc.tl.ask(doubled, QUESTION, model=three)
    with pytest.raises(ValueError, match="protein has 'c1' more than once"):
        bsc.tl.ask(protein, QUESTION, mod="protein", beside={"protein": ["c1"]}, model=three)
    answers = asked(protein, three, mod="protein").obs["bioverse_answer"]
    assert (answers != "").all(), "of one modality no name is looked up"


def test_a_container_that_is_not_up_to_date(three):
    mdata = make_cells()
    mdata["rna"].obs_names = ["c1", "new", "c3", "c4"]
    mdata["protein"].obs_names = ["new", "c1", "c9", "c4"]
    with pytest.raises(ValueError, match=r"Type mdata.update\(\)"):
        bsc.tl.ask(mdata, QUESTION, mod=["rna", "protein"], model=three)


def test_a_model_on_vectors_from_elsewhere():
    model = make_model()
    adata = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
    adata.obsm["X_mine"] = np.random.default_rng(0).normal(size=(2, 16)).astype(np.float32)
    with pytest.raises(ValueError, match="has no encoder of its own"):
        asked(adata, model)


def test_the_prompt_is_named(three):
    assert (
        _prompts.prompt_id(three)
        == asked(make_library(), three, mod="protein")["protein"].uns["bioverse"]["ask"]["prompt"]
    )
    assert SLOTS.keys() == three.config.projectors.keys()
