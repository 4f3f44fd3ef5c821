import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from bioverse_sc import train
from bioverse_sc.models import (
    Answer,
    ModelConfig,
    bundled_models,
    generate_text,
    label_log_probabilities,
    label_prompt,
    load,
    save,
)
from bioverse_sc.models._io import write_checksums
from tests.tiny import CONFIGS, make_encoder, make_model, make_vectors


def outputs(model):
    """What a user sees of a model: probabilities and text."""
    with torch.inference_mode():
        soft = model.project("rna", torch.from_numpy(make_vectors(3)))
    return (
        np.exp(label_log_probabilities(model, label_prompt(), soft, model.config.labels)),
        generate_text(model, [label_prompt()] * 3, soft, max_new_tokens=8),
    )


def tuned(model, steps=3):
    """Give a model an adapter that does something."""
    examples = [train.Example(label_prompt(label), (i,)) for i, label in enumerate(model.config.labels)]
    config = train.TrainConfig(steps=steps, batch_size=4, learning_rate=0.02, warmup_steps=1)
    train.instruct(model, examples, {"rna": make_vectors(len(examples))}, config)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved model with encoder, language model and adapter."""
    model = tuned(_with_encoder())
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save(model, folder)
    return model, folder


def _with_encoder():
    model = make_model(encoders={"rna": make_encoder()}, temperature=1.5)
    model.gene_reference = {"GENE1": (0.5, 1.0), "GENE2": (123.456, 0.25)}
    return model


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_tensor_comes_back(kind, tmp_path):
    model = make_model(kind)
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    assert loaded.config == replace(model.config, format_version=1)
    assert outputs(loaded)[1] == outputs(model)[1]


def test_the_adapter_comes_back_apart(saved):
    model, folder = saved
    loaded = load(folder, merge_adapter=False)
    before, after = model.state_dict(), loaded.state_dict()
    assert any("lora_B" in name and tensor.any() for name, tensor in before.items())
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


def test_the_merged_adapter_computes_the_same(saved):
    model, folder = saved
    loaded = load(folder)
    assert not any("lora" in name for name in loaded.state_dict())
    probabilities, texts = outputs(model)
    np.testing.assert_allclose(outputs(loaded)[0], probabilities, atol=1e-3)
    np.testing.assert_allclose(outputs(load(folder, merge_adapter=False))[0], probabilities, atol=1e-6)
    assert outputs(load(folder, merge_adapter=False))[1] == texts


def test_the_adapter_changed_something(saved):
    untuned = make_model(temperature=1.5)
    assert not np.allclose(outputs(untuned)[0], outputs(saved[0])[0], atol=1e-2)


def test_a_merged_model_can_be_saved_again(saved, tmp_path):
    merged = load(saved[1])
    save(merged, tmp_path / "again")
    np.testing.assert_allclose(outputs(load(tmp_path / "again"))[0], outputs(merged)[0], atol=1e-6)


def test_a_merged_model_on_a_base_elsewhere_keeps_its_adapter(tmp_path):
    base = make_model()
    save(base, tmp_path / "base")
    model = make_model(language_model=str(tmp_path / "base" / "language_model"))
    save(tuned(model), tmp_path / "small", include_language_model=False)
    assert not (tmp_path / "small" / "language_model").exists()
    merged = load(tmp_path / "small")
    np.testing.assert_allclose(outputs(merged)[0], outputs(model)[0], atol=1e-3)
    try:
        save(merged, tmp_path / "again")
    except ValueError:
        return  # refusing is as good as keeping it
    np.testing.assert_allclose(outputs(load(tmp_path / "again"))[0], outputs(merged)[0], atol=1e-3)


def test_encoder_config_and_reference_come_back(saved):
    model, folder = saved
    loaded = load(folder)
    assert loaded.config.labels == model.config.labels
    assert loaded.config.temperature == 1.5
    assert loaded.encoders["rna"].genes == model.encoders["rna"].genes
    assert loaded.config.projectors["rna"].encoder_fingerprint == loaded.encoders["rna"].fingerprint
    assert loaded.gene_reference == {"GENE1": (0.5, 1.0), "GENE2": (123.5, 0.25)}
    for name, tensor in model.encoders["rna"].module.state_dict().items():
        assert torch.equal(loaded.encoders["rna"].module.state_dict()[name], tensor)


def test_a_loaded_model_is_frozen_and_in_evaluation_mode(saved):
    loaded = load(saved[1], merge_adapter=False)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not any(m.training for m in loaded.modules())


def test_the_fingerprint_is_of_the_content(saved, tmp_path):
    _model, folder = saved
    assert load(folder).fingerprint == load(copy_of(folder, tmp_path)).fingerprint
    save(make_model(seed=5), tmp_path / "other")
    assert load(tmp_path / "other").fingerprint != load(folder).fingerprint


def test_no_path_of_this_machine_is_written(saved):
    _, folder = saved
    for file in folder.rglob("*.json"):
        assert str(folder.parent) not in file.read_text(), file.name
    assert (
        json.loads((folder / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "language_model"
    )


def test_no_pickle_is_written(saved):
    endings = {file.suffix for file in saved[1].rglob("*") if file.is_file()}
    assert endings <= {".json", ".safetensors", ".md", ".jinja"}


@pytest.mark.parametrize(
    "file",
    ["bioverse.json", "projectors.safetensors", "encoders/rna/model.safetensors", "adapter/adapter_model.safetensors"],
)
def test_an_altered_file_is_named(file, saved, tmp_path):
    folder = copy_of(saved[1], tmp_path)
    content = bytearray((folder / file).read_bytes())
    content[-2] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"damaged: {file}"):
        load(folder)


@pytest.mark.parametrize("file", ["bioverse.json", "language_model/tokenizer.json", "encoders/rna/vocab.json"])
def test_a_missing_file_is_named(file, saved, tmp_path):
    folder = copy_of(saved[1], tmp_path)
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {file}"):
        load(folder)


def test_a_folder_without_checksums_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks checksums\.json"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["maxi", "no/such/folder", ""])
def test_an_unknown_name_lists_the_known_ones(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=r"mini|checksums"):
        load(name)


def test_another_format_version_is_an_error(saved, tmp_path):
    folder = copy_of(saved[1], tmp_path)
    stored = json.loads((folder / "bioverse.json").read_text())
    (folder / "bioverse.json").write_text(json.dumps(stored | {"format_version": 99}))
    write_checksums(folder)
    with pytest.raises(ValueError, match=r"version 99.*Update bioverse-sc"):
        load(folder)


def test_an_encoder_that_the_projector_does_not_know_is_an_error(saved, tmp_path):
    folder = copy_of(saved[1], tmp_path)
    shutil.rmtree(folder / "encoders" / "rna")
    make_encoder(seed=9).save(folder / "encoders" / "rna")
    write_checksums(folder)
    with pytest.raises(ValueError, match="was trained for encoder"):
        load(folder)


def test_a_missing_language_model_says_what_to_do(tmp_path):
    save(make_model(language_model=str(tmp_path / "nowhere")), tmp_path / "model", include_language_model=False)
    with pytest.raises(OSError, match="set 'language_model' in"):
        load(tmp_path / "model")


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        save(make_model(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_config_is_json_and_back(tmp_path):
    config = make_model().config
    config.write(tmp_path / "c.json")
    assert ModelConfig.read(tmp_path / "c.json") == config


def test_the_bundled_model_is_intact_and_small_enough(mini):
    from importlib.resources import files

    assert "mini" in bundled_models()
    assert mini.encoders["rna"].name == "scgpt"
    assert len(mini.config.labels) > 50
    size = sum(p.stat().st_size for p in (files("bioverse_sc") / "bundled" / "mini").rglob("*") if p.is_file())
    assert size < 40e6


def test_the_bundled_model_writes_its_answers_with_its_end(mini):
    from bioverse_sc.models._inject import answer_ids

    sequences = [tuple(answer_ids(mini.tokenizer, Answer(label))) for label in mini.config.labels]
    assert len(set(sequences)) == len(sequences)
    for label, ids in zip(mini.config.labels, sequences, strict=True):
        assert mini.tokenizer.decode(ids, skip_special_tokens=True).strip() == label
