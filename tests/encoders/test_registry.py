import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import bioverse_sc as bsc
from bioverse_sc.encoders import Encoder, get_encoder, known_encoders, register
from bioverse_sc.encoders import _registry as registry
from bioverse_sc.encoders.scgpt import ScGPTEncoder
from tests.tiny import GENES, make_encoder


class Sums:
    """The smallest encoder: sums over halves of the genes."""

    name = "sums"
    mod = "rna"
    fingerprint = "sums-1"
    width = 2
    genes = GENES

    def to(self, device):
        return self

    def encode(self, matrix, genes, *, batch_size=64):
        half = np.array([GENES.index(gene) < 40 for gene in genes])
        return np.asarray(matrix @ np.stack([half, ~half], axis=1), dtype=np.float32)


@pytest.fixture(autouse=True)
def _own_names(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "_factories", {})
    with bsc.settings.override(cache_dir=tmp_path / "cache"):
        yield


@pytest.fixture
def folder(tmp_path):
    make_encoder().save(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_a_folder_is_loaded(folder):
    encoder = get_encoder(folder)
    assert isinstance(encoder, ScGPTEncoder)
    assert encoder.fingerprint == get_encoder(str(folder)).fingerprint != ""


def test_a_published_name_that_is_not_there_says_what_to_put_where():
    kept = bsc.settings.cache_dir / "encoders" / "whole-human"
    with pytest.raises(FileNotFoundError) as error:
        get_encoder("whole-human")
    message = str(error.value)
    for part in (
        "args.json, vocab.json and best_model.pt",
        str(kept),
        "https://drive.google.com",
        "github.com/bowang-lab",
    ):
        assert part in message


def test_a_published_name_is_read_from_the_cache_folder(folder):
    kept = bsc.settings.cache_dir / "encoders" / "brain"
    kept.parent.mkdir(parents=True)
    folder.rename(kept)
    assert get_encoder("brain").width == 16


def test_the_known_names_are_listed_with_what_they_are():
    register("sums", Sums)
    known = known_encoders()
    assert {"sums", "whole-human", "brain", "blood", "continual-pretrained"} <= known.keys()
    assert "33 million" in known["whole-human"]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no encoder 'hole-human'.*whole-human.*register"):
        get_encoder("hole-human")


def test_a_hub_repository_is_fetched_with_its_revision(folder, monkeypatch):
    import huggingface_hub

    asked = {}

    def fetch(repository, *, revision, allow_patterns):
        asked.update(repository=repository, revision=revision, allow_patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert get_encoder("owner/name", revision="abc").width == 16
    assert (asked["repository"], asked["revision"]) == ("owner/name", "abc")
    assert set(asked["allow_patterns"]) == {"args.json", "vocab.json", "best_model.pt", "model.safetensors"}


def test_a_hub_out_of_reach_says_what_to_put_where_and_that_then_works(folder, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(*_, **__):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    kept = bsc.settings.cache_dir / "encoders" / "owner--name@v1"
    with pytest.raises(FileNotFoundError, match=r"args\.json, vocab\.json and best_model\.pt") as error:
        get_encoder("owner/name", revision="v1")
    assert str(kept) in str(error.value)
    kept.parent.mkdir(parents=True)
    folder.rename(kept)
    assert get_encoder("owner/name", revision="v1").width == 16


def test_a_registered_encoder_is_used_by_name(cells):
    register("sums", Sums)
    assert isinstance(get_encoder("sums"), Encoder)
    cells = cells[:, :80].copy()
    cells.var_names = GENES
    bsc.tl.embed(cells, encoder="sums")
    np.testing.assert_allclose(cells.obsm["X_sums"].sum(axis=1), np.asarray(cells.X.sum(axis=1)).ravel(), rtol=1e-5)
    assert cells.uns["bioverse"]["embed"]["encoder_fingerprint"] == "sums-1"


def test_an_encoder_in_memory_is_used(cells):
    cells = cells[:, :80].copy()
    cells.var_names = GENES
    bsc.tl.embed(cells, encoder=Sums())
    assert cells.obsm["X_sums"].shape == (cells.n_obs, 2)
    with pytest.raises(ValueError, match="no choice of genes"):
        bsc.tl.embed(cells, encoder=Sums(), gene_selection="random")


@pytest.mark.parametrize("name", ["", "a/b", "brain", "precomputed", "twice"])
def test_a_name_that_is_taken_or_a_path_is_refused(name):
    register("twice", Sums)
    with pytest.raises(ValueError, match="encoder"):
        register(name, Sums)


def test_a_name_may_be_replaced_on_request():
    register("mine", Sums)
    register("mine", lambda: Sums(), overwrite=True)
    assert get_encoder("mine").name == "sums"


def test_what_is_no_encoder_is_refused():
    register("mine", lambda: object())
    with pytest.raises(TypeError, match="lacks name, mod, fingerprint, width, genes"):
        get_encoder("mine")
    with pytest.raises(TypeError, match="expected a function or class"):
        register("other", Sums())


def test_a_model_with_a_registered_encoder_is_saved_and_loaded_by_its_name(tmp_path, tiny):
    register("sums", Sums)
    loaded = models_round_trip(tmp_path, tiny, Sums())
    stored = json.loads((tmp_path / "model" / "bioverse.json").read_text())["projectors"]["rna"]
    assert (stored["encoder"], stored["encoder_fingerprint"]) == ("sums", "sums-1")
    assert loaded.encoders["rna"].name == "sums"


def test_it_may_be_registered_under_another_name(tmp_path, tiny):
    register("outer", Sums)
    assert models_round_trip(tmp_path, tiny, Sums()).encoders["rna"].name == "sums"


class Scaled(Sums):
    """An encoder with a weight, which travels with the model."""

    name = "scaled"

    def __init__(self, factor):
        self.factor = factor
        self.fingerprint = f"scaled-{factor}"

    @classmethod
    def from_folder(cls, folder):
        return cls(float((folder / "factor.txt").read_text()))

    def save(self, folder, *, dtype):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "factor.txt").write_text(str(self.factor))


def test_an_encoder_that_can_be_stored_travels_with_the_model(tmp_path, tiny):
    register("scaled", Scaled)
    assert models_round_trip(tmp_path, tiny, Scaled(2.5)).encoders["rna"].factor == 2.5
    registry._factories.clear()
    with pytest.raises(ValueError, match=r"'scaled' is none of this package.*register\('scaled'"):
        bsc.models.load(tmp_path / "model")


def models_round_trip(tmp_path, tiny, encoder):
    from dataclasses import replace

    config = replace(tiny.config, projectors={"rna": replace(tiny.config.projectors["rna"], in_width=2)})
    model = bsc.models.BioVerse(config, tiny.language_model, tiny.tokenizer, {"rna": encoder})
    bsc.models.save(model, tmp_path / "model")
    return bsc.models.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda n: np.zeros(2), r"shape \(2,\); expected"),
        (lambda n: np.zeros((n, 1)), "expected"),
        (lambda n: np.full((n, 2), np.nan), "NaN or infinite"),
    ],
)
def test_what_an_encoder_gives_is_checked(given, message, cells):
    class Broken(Sums):
        def encode(self, matrix, genes, *, batch_size=64):
            return given(matrix.shape[0])

    cells = cells[:, :80].copy()
    cells.var_names = GENES
    with pytest.raises(ValueError, match=message):
        bsc.tl.embed(cells, encoder=Broken())
    assert "X_sums" not in cells.obsm


def test_a_folder_has_no_revision(folder):
    with pytest.raises(ValueError, match="has no revision 'v1'"):
        get_encoder(folder, revision="v1")


def test_a_hub_that_cannot_be_reached_says_what_to_put_where():
    code = (
        "import bioverse_sc as bsc\n"
        "try:\n    bsc.encoders.get_encoder('owner/name', revision='v1')\n"
        "except FileNotFoundError as error:\n    print(error)\n"
    )
    env = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env)
    assert "'owner/name' at v1 could not be fetched" in done.stdout
    assert "args.json, vocab.json and best_model.pt" in done.stdout


def test_the_registry_needs_no_torch():
    code = (
        "import sys, anndata; before = 'torch' in sys.modules; import bioverse_sc.encoders as e; e.register('x', "
        "dict); e.known_encoders(); assert ('torch' in sys.modules) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tokens_of_a_class_that_is_an_encoder_are_its_own():
    encoder = make_encoder()
    matrix = csr_matrix(np.eye(3, len(GENES), dtype=np.float32))
    cells = encoder.tokenize(matrix, GENES)
    np.testing.assert_array_equal(encoder.encode_tokens(cells), encoder.encode(matrix, GENES))
    assert encoder.device == torch.device("cpu")
