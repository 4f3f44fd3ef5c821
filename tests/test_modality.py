"""A fourth modality, made known by a test: all that goes by modality follows, and no file of the package changes."""

import hashlib
import json

import anndata as ad
import matplotlib as mpl
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch

import bioverse_sc as bsc
from bioverse_sc import _modality
from bioverse_sc.encoders import Encoder, Modality, _registry, known_modalities, register, register_modality
from bioverse_sc.facts import Memory
from bioverse_sc.models import Entity, Text, create, description_prompt, load, question_prompt, save
from tests.pl.three import make_mdata
from tests.tiny import LABELS, make_encoder, make_language_model

mpl.use("Agg")

DNA = Modality(
    "dna", noun="locus", plural="loci", colour="#e7298a", column="sequence_dna", placeholders=frozenset({"promoter"})
)
LOCI = ["ACGTACGTAC", "TTTTGGGG", "ACGTACGTAA", "CCCC", "GATTACA"]


class Composition:
    """The smallest encoder of DNA: shares of the four bases, times a weight that is stored."""

    name = "composition"
    mod = "dna"
    width = 4

    def __init__(self, weight=2.0):
        self.weight = weight
        self.fingerprint = hashlib.sha256(f"composition {weight}".encode()).hexdigest()[:16]

    def to(self, device):
        return self

    def encode(self, texts, *, batch_size=None):
        counts = np.array([[text.count(base) for base in "ACGT"] for text in texts], dtype=np.float32)
        return self.weight * counts / counts.sum(axis=1, keepdims=True)

    @classmethod
    def from_folder(cls, folder):
        return cls(json.loads((folder / "weight.json").read_text()))

    def save(self, folder, *, dtype):
        folder.mkdir(parents=True)
        (folder / "weight.json").write_text(json.dumps(self.weight))


@pytest.fixture(scope="module", autouse=True)
def _dna():
    patch = pytest.MonkeyPatch()
    patch.setattr(_modality, "_MODALITIES", dict(_modality._MODALITIES))
    patch.setattr(_registry, "_factories", {})
    register_modality(DNA)
    register("composition", Composition)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dna")
    language_model, tokenizer = make_language_model()
    language_model.save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")
    encoders = {"rna": make_encoder(), "dna": Composition(3.0)}
    made = create(folder / "lm", encoders, name="four", labels=LABELS, device="cpu")
    made.memory["dna"] = Memory("dna", pd.DataFrame({"entity": LOCI[:3], "text": ["a gene", "a repeat", "an exon"]}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.projectors.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    save(made, folder / "four", include_language_model=True)
    return load(folder / "four", device="cpu")


@pytest.fixture
def loci():
    obs = pd.DataFrame({DNA.column: LOCI, "description": ["a", "b", "c", None, "d"]}, index=[f"l{i}" for i in range(5)])
    return ad.AnnData(obs=obs)


def test_the_encoder_is_one_and_travels_with_the_model(model):
    assert isinstance(Composition(), Encoder)
    assert known_modalities() == ["rna", "protein", "molecule", "dna"]
    assert model.encoders["dna"].weight == 3.0
    assert model.memory["dna"].nearest(["ACGTACGTAC"], 1)[0][0].text == "a gene"


def test_prompts_call_it_by_its_noun():
    assert description_prompt("dna")[:2] == [Text("Locus:"), Entity("dna")]
    assert question_prompt(["dna", "dna"], [("Why?", None)])[0] == Text("Locus 1:")


def test_it_is_embedded_and_projected(model, loci):
    bsc.tl.align(loci, mod="dna", model=model)
    np.testing.assert_allclose(loci.obsm["X_composition"], Composition(3.0).encode(LOCI))
    assert loci.obsm["X_bioverse"].shape == (5, 32)
    # a text that changes is embedded again
    loci.obs.loc["l3", DNA.column] = "AAAA"
    bsc.tl.align(loci, mod="dna", model=model)
    bsc.tl.score(loci, ["a gene", "a repeat"], mod="dna", model=model)
    np.testing.assert_allclose(loci.obsm["X_composition"][3], [3, 0, 0, 0])


def test_an_encoder_that_is_registered_is_asked_for_by_name(loci):
    bsc.tl.embed(loci, mod="dna", encoder="composition")
    np.testing.assert_allclose(loci.obsm["X_composition"], Composition().encode(LOCI))


def test_it_is_described_and_asked_about_with_what_is_near(model, loci):
    bsc.tl.describe(loci, mod="dna", model=model, retrieve=True, max_new_tokens=4)
    bsc.tl.ask(loci, "What is it?", mod="dna", model=model, retrieve=True, max_new_tokens=4)
    assert (loci.obs["bioverse_description"].str.len() > 0).any()
    chat = bsc.Chat(loci, ["l0", "l1"], mod="dna", model=model, max_new_tokens=4)
    assert [entity.name for entity in chat.entities] == ["Locus 1", "Locus 2"]


def test_it_is_drawn_in_its_colour_beside_the_others(model, loci):
    mdata = md.MuData({"rna": make_mdata()["rna"], "dna": loci})
    bsc.tl.alignment_umap(mdata, model=model, texts_key="description")
    axes = bsc.pl.alignment_umap(mdata, show=False)
    (points,) = [c for c in axes[1].collections if c.get_label() == "loci (5)"]
    assert mpl.colors.same_color(points.get_facecolor()[0][:3], DNA.colour)


def test_words_that_only_name_the_column_are_no_entities(model, loci):
    loci.obs.loc["l1", DNA.column] = "promoter"
    with pytest.raises(ValueError, match=r"sequence_dna of 'l1' \(row 1\) is 'promoter', a word"):
        bsc.tl.embed(loci, mod="dna", model=model)


def test_a_column_that_is_there_says_what_the_data_hold(model, loci):
    with pytest.raises(ValueError, match=r"no genes but \.obs\['sequence_dna'\]; say what it holds, mod='dna'"):
        bsc.tl.embed(loci, model=model)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "d-n-a"}, "'d-n-a' cannot be the name of a modality; expected letters"),
        ({"noun": " "}, "lacks a noun, plural or colour"),
        ({"name": "protein"}, "There is a modality 'protein' already; choose another name, or pass overwrite=True"),
    ],
)
def test_an_entry_that_cannot_be(entry, message):
    values = {"name": "other", "noun": "one", "plural": "ones", "colour": "C3"} | entry
    with pytest.raises(ValueError, match=message):
        register_modality(Modality(**values))
