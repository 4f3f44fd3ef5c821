import json
import shutil

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from bioverse_sc.encoders import Precomputed
from bioverse_sc.models import create, load, push_to_hub, save, write_checksums
from tests.models.test_create import language_model_folder
from tests.models.test_io import adapted, assert_same, based_on
from tests.tiny import LABELS, VECTOR, make_encoder, make_model

VECTORS = Precomputed("X_scVI", VECTOR)
FIRST, SECOND = "a" * 40, "b" * 40


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A machine without access to the hub, with a cache of its own."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def publish(folder, repository, commit=FIRST, name="main"):
        """Lay a folder out as the hub's client does."""
        place = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        shutil.copytree(folder, place / "snapshots" / commit)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / name).write_text(commit)

    return publish


class Recorder:
    """Stands for the hub: what is uploaded is copied."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.calls = []
        for method in ("create_repo", "create_branch", "upload_folder"):
            monkeypatch.setattr(huggingface_hub.HfApi, method, self.method(method))

    def method(self, name):
        def call(api, *args, **options):
            self.calls.append((name, args, options, api.token))
            if name == "upload_folder":
                shutil.copytree(options["folder_path"], self.folder)
            return f"https://huggingface.co/{args[0]}" if args else None

        return call


def test_a_model_goes_to_the_hub_and_comes_back(tmp_path, monkeypatch, hub):
    """No hub is asked: a recorder takes the upload, and its copy is read back from a cache in the client's format."""
    recorder = Recorder(tmp_path / "uploaded", monkeypatch)
    model = make_model(encoders={"rna": make_encoder()})
    assert push_to_hub(model, "me/tiny", token="secret", commit_message="First") == "https://huggingface.co/me/tiny"
    assert [(name, args) for name, args, _, _ in recorder.calls] == [
        ("create_repo", ("me/tiny",)),
        ("upload_folder", ()),
    ]
    (_, _, made, token), (_, _, sent, _) = recorder.calls
    assert made == {"private": True, "exist_ok": True}
    assert token == "secret"
    assert sent["repo_id"] == "me/tiny"
    assert sent["commit_message"] == "First"
    assert sent["revision"] is None
    hub(tmp_path / "uploaded", "me/tiny")
    assert_same(model, load("me/tiny"))
    assert_same(model, load("me/tiny", revision=FIRST))


def test_a_branch_is_made(tmp_path, monkeypatch):
    recorder = Recorder(tmp_path / "uploaded", monkeypatch)
    push_to_hub(make_model(), "me/tiny", revision="better", private=False)
    assert [name for name, *_ in recorder.calls] == ["create_repo", "create_branch", "upload_folder"]
    assert recorder.calls[0][2]["private"] is False
    assert recorder.calls[1][2] == {"branch": "better", "exist_ok": True}
    assert recorder.calls[2][2]["revision"] == "better"


def test_the_model_card_says_what_it_is(tmp_path, monkeypatch, hub):
    Recorder(tmp_path / "uploaded", monkeypatch)
    hub(language_model_folder(tmp_path / "base"), "they/llama")
    push_to_hub(create("they/llama", {"rna": VECTORS}, name="mine", labels=["B cell"]), "me/mine")
    card = (tmp_path / "uploaded" / "README.md").read_text()
    assert "base_model: they/llama\n" in card
    assert "# mine\n" in card
    assert f"- language model: they/llama {FIRST}\n" in card
    assert "- rna: encoder precomputed, width 16 to 1 soft tokens of width 32\n" in card
    assert 'bsc.models.load("me/mine")' in card
    assert "license" not in card
    assert not (tmp_path / "uploaded" / "language_model").exists()


def test_a_folder_of_this_machine_is_no_base_for_others(tmp_path, monkeypatch):
    recorder = Recorder(tmp_path / "uploaded", monkeypatch)
    model = based_on(tmp_path / "base")
    with pytest.raises(ValueError, match=r"of this machine, which others do not have.*include_language_model=True"):
        push_to_hub(model, "me/tiny")
    assert recorder.calls == []
    push_to_hub(model, "me/tiny", include_language_model=True, dtype=torch.bfloat16)
    stored = load_file(tmp_path / "uploaded" / "language_model" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}


@pytest.mark.usefixtures("hub")
def test_without_access_the_push_says_what_to_do():
    with pytest.raises(
        OSError, match=r"could not be pushed to 'me/tiny' \(OfflineModeIsEnabled.*hf upload me/tiny FOLDER"
    ):
        push_to_hub(make_model(), "me/tiny")


def test_an_error_of_the_hubs_http_library_is_explained(monkeypatch):
    http = next(base for base in huggingface_hub.errors.HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")

    def refuse(*args, **options):
        raise http("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(OSError, match=r"could not be pushed.*no route to host.*hf auth login"):
        push_to_hub(make_model(), "me/tiny")


@pytest.mark.usefixtures("hub")
def test_without_access_loading_says_what_to_do():
    with pytest.raises(
        FileNotFoundError, match=r"'me/gone' could not be fetched.*hf download me/gone --local-dir FOLDER"
    ):
        load("me/gone")


def test_a_repository_without_a_model_points_to_create(monkeypatch):
    class Response:
        headers, request, status_code = {}, None, 404

    def missing(*args, **options):
        raise huggingface_hub.errors.RemoteEntryNotFoundError("404", response=Response())

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", missing)
    with pytest.raises(
        FileNotFoundError, match=r"holds no model of bioverse-sc.*bsc\.models\.create\('they/llama', \.\.\.\)"
    ):
        load("they/llama")


def test_revisions_of_a_model_are_told_apart(tmp_path, hub):
    models = [make_model(seed=seed) for seed in (0, 1)]
    for model, commit, name in zip(models, (FIRST, SECOND), ("main", "v2"), strict=True):
        save(model, tmp_path / name)
        hub(tmp_path / name, "me/tiny", commit, name)
    assert_same(models[0], load("me/tiny"))
    assert_same(models[1], load("me/tiny", revision="v2"))
    assert_same(models[1], load("me/tiny", revision=SECOND))
    with pytest.raises(FileNotFoundError, match=r"'me/tiny' at v3 could not be fetched.*--revision v3"):
        load("me/tiny", revision="v3")


def test_a_folder_wins_over_a_repository(tmp_path, hub, monkeypatch):
    save(make_model(seed=0), tmp_path / "published")
    hub(tmp_path / "published", "me/tiny")
    monkeypatch.chdir(tmp_path)
    save(make_model(seed=1), tmp_path / "me" / "tiny")
    assert_same(make_model(seed=1), load("me/tiny"))


def test_the_commit_of_the_language_model_is_recorded_and_used(tmp_path, hub):
    base = language_model_folder(tmp_path / "base")
    hub(base, "they/llama", FIRST, "v1")
    new = language_model_folder(tmp_path / "new", "mistral")
    hub(new, "they/llama", SECOND)
    model = create("they/llama", {"rna": VECTORS}, name="mine", revision="v1", labels=LABELS)
    assert model.config.language_model == "they/llama"
    assert model.config.language_model_revision == FIRST
    assert create("they/llama", {"rna": VECTORS}, name="mine").config.language_model_revision == SECOND
    adapted(model)
    save(model, tmp_path / "mine")
    loaded = load(tmp_path / "mine", merge_adapter=False)
    assert_same(model, loaded)
    adapter = json.loads((tmp_path / "mine" / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == "they/llama"


def test_a_commit_that_was_not_given_is_recorded_on_saving(tmp_path, hub):
    hub(language_model_folder(tmp_path / "base"), "they/llama")
    save(create("they/llama", {"rna": VECTORS}, name="mine"), tmp_path / "mine")
    stored = json.loads((tmp_path / "mine" / "bioverse.json").read_text()) | {"language_model_revision": None}
    (tmp_path / "mine" / "bioverse.json").write_text(json.dumps(stored))
    write_checksums(tmp_path / "mine")
    save(load(tmp_path / "mine"), tmp_path / "again")
    assert load(tmp_path / "again").config.language_model_revision == FIRST


def test_a_base_inside_is_not_taken_for_a_revision_of_the_hub(tmp_path, hub):
    save(make_model(), tmp_path / "mine")
    hub(tmp_path / "mine", "me/tiny")
    save(load("me/tiny"), tmp_path / "again")
    assert load(tmp_path / "again").config.language_model_revision is None


def test_another_revision_of_the_language_model_is_an_error(tmp_path, hub):
    base = language_model_folder(tmp_path / "base")
    hub(base, "they/llama")
    save(create("they/llama", {"rna": VECTORS}, name="mine"), tmp_path / "mine")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][0] = 2
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"(?s)language model's weights: expected .*'they/llama' at revision {FIRST}"):
        load(tmp_path / "mine", language_model=base)


def test_a_revision_that_is_not_there_is_named(tmp_path, hub):
    hub(language_model_folder(tmp_path / "base"), "they/llama")
    with pytest.raises(OSError, match="'they/llama' at v9 could not be loaded"):
        create("they/llama", {"rna": VECTORS}, name="mine", revision="v9")
