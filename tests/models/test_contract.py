import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from bioverse_sc.models import load, save
from bioverse_sc.models._folder import write_checksums
from bioverse_sc.models._language_model import base_fingerprint, load_language_model, vocabulary_hash
from tests.models.test_io import adapted, based_on
from tests.tiny import CONFIGS, make_encoder, make_language_model, make_model, make_tokenizer


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_fingerprint_of_a_base_is_the_same_with_an_adapter_and_in_other_formats(kind, tmp_path):
    model = based_on(tmp_path / "base", kind)
    alone = base_fingerprint(model.language_model)
    assert len(alone) == 16
    assert base_fingerprint(load_language_model(tmp_path / "base", dtype="bfloat16", instead="")[0]) == alone
    assert base_fingerprint(adapted(model).language_model) == alone
    model.language_model = model.language_model.unload()
    assert base_fingerprint(model.language_model) == alone


def test_the_fingerprint_of_a_base_is_the_same_with_its_layers_trained_whole():
    from peft import LoraConfig, get_peft_model

    language_model, _ = make_language_model("mistral")
    alone = base_fingerprint(language_model)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    assert base_fingerprint(get_peft_model(language_model, config)) == alone


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_weight_is_in_the_fingerprint(kind):
    language_model, _ = make_language_model(kind)
    seen = {base_fingerprint(language_model)}
    parameters = list(language_model.parameters())
    with torch.no_grad():
        for parameter in parameters:
            parameter.view(-1)[0] += 1
            seen.add(base_fingerprint(language_model))
    assert len(seen) == len(parameters) + 1


def test_the_fingerprint_goes_through_the_formats_of_the_way():
    language_model, _ = make_language_model()
    with torch.no_grad():
        language_model.model.norm.weight[0] = 1e-9
    half = base_fingerprint(language_model, torch.float16)
    assert half != base_fingerprint(language_model)
    assert half == base_fingerprint(language_model.to(torch.float16))


def test_a_merged_adapter_is_another_base():
    model = adapted(make_model())
    alone = base_fingerprint(model.language_model)
    assert base_fingerprint(model.merge_adapter().language_model) != alone


def test_a_quantised_base_has_no_fingerprint():
    language_model, _ = make_language_model()
    language_model.is_quantized = True
    assert base_fingerprint(language_model) == ""


def test_the_vocabulary_has_its_order_and_added_tokens():
    tokenizer, other = make_tokenizer(), make_tokenizer()
    assert vocabulary_hash(tokenizer) == vocabulary_hash(other)
    other.add_tokens(["new"])
    assert vocabulary_hash(tokenizer) != vocabulary_hash(other)


@pytest.fixture
def based(tmp_path):
    """A model on a base elsewhere, saved."""
    model = based_on(tmp_path / "base")
    save(model, tmp_path / "model")
    return model, tmp_path / "base", tmp_path / "model"


def message(folder, **options):
    with pytest.raises(ValueError, match="does not fit what it stands on") as caught:
        load(folder, **options)
    return str(caught.value)


def test_another_vocabulary_is_an_error(based):
    model, base, folder = based
    model.tokenizer.add_tokens(["new"])
    model.tokenizer.save_pretrained(base)
    expected = json.loads((folder / "bioverse.json").read_text())["contract"]["vocabulary"]
    text = message(folder)
    assert f"the tokenizer's vocabulary: expected {expected}, found {vocabulary_hash(model.tokenizer)}" in text
    assert text.count("\n-") == 1
    assert f"Use the language model and the tokenizer that it was trained with, '{base}'" in text


def test_other_weights_are_an_error(based):
    model, base, folder = based
    expected = base_fingerprint(model.language_model)
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][5] = 3
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    text = message(folder)
    assert f"the language model's weights: expected {expected}, found " in text
    assert text.count("\n-") == 1


def test_all_differences_are_listed_at_once(tmp_path):
    model = based_on(tmp_path / "wide", encoders={"rna": make_encoder()})
    folder = tmp_path / "second"
    save(model, folder)
    stored = json.loads((folder / "bioverse.json").read_text())
    stored["contract"]["vocabulary"] = "another"
    stored["projectors"]["rna"] |= {"in_width": 20, "out_width": 40, "encoder_fingerprint": "other"}
    (folder / "bioverse.json").write_text(json.dumps(stored))
    tensors = load_file(folder / "projectors.safetensors")
    tensors["rna.more"] = tensors.pop("rna.layers.1.bias")
    save_file(tensors, folder / "projectors.safetensors")
    write_checksums(folder)
    text = message(folder)
    for line in (
        "- the tokenizer's vocabulary: expected another, found ",
        "- width of the language model, for the rna projector: expected 40, found 32",
        "- width of the rna encoder: expected 20, found 16",
        "- the rna projector was trained for encoder 'scgpt' other, found ",
        "- rna.layers.0.weight in projectors.safetensors: expected (20,), found (16,)",
        "- rna.layers.1.bias in projectors.safetensors: expected (24,), found none",
        "- rna.more in projectors.safetensors: expected no such tensor, found (24,)",
        "- rna.layers.9.weight in projectors.safetensors: expected (40, 24), found (32, 24)",
        "Register the encoder that it was trained with",
        "Copy the whole folder again.",
    ):
        assert line in text
    assert "weights: expected" not in text


def test_a_pinned_revision_is_named(tmp_path):
    save(based_on(tmp_path / "base", language_model_revision="abc123"), tmp_path / "model")
    stored = json.loads((tmp_path / "model" / "bioverse.json").read_text())
    stored["contract"]["weights"] = "another"
    (tmp_path / "model" / "bioverse.json").write_text(json.dumps(stored))
    write_checksums(tmp_path / "model")
    assert "at revision abc123: download that revision, and pass its folder as language_model." in message(
        tmp_path / "model"
    )


def test_a_language_model_given_in_the_place_of_its_own_is_checked(based, tmp_path):
    _, _, folder = based
    based_on(tmp_path / "other", "qwen3")
    text = message(folder, language_model=tmp_path / "other")
    assert "the language model's weights" in text


def test_an_empty_contract_is_not_checked(based):
    _, base, folder = based
    stored = json.loads((folder / "bioverse.json").read_text())
    (folder / "bioverse.json").write_text(json.dumps(stored | {"contract": {"vocabulary": "", "weights": ""}}))
    write_checksums(folder)
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][5] = 3
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert load(folder).config.name == "tiny"
