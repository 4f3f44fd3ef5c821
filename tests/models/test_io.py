import json
import shutil
import sys
import warnings
from dataclasses import asdict, replace
from importlib.metadata import version

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bioverse_sc import train
from bioverse_sc.models import (
    Answer,
    Contract,
    Decoding,
    ModelConfig,
    _io,
    bundled_models,
    create,
    generate_text,
    label_log_probabilities,
    label_prompt,
    load,
    save,
)
from bioverse_sc.models._folder import write_checksums
from bioverse_sc.models._language_model import load_language_model
from tests.tiny import CONFIGS, make_encoder, make_language_model, make_model, make_vectors


def outputs(model):
    """What a user sees of a model: probabilities and text."""
    with torch.inference_mode():
        soft = model.project("rna", torch.from_numpy(make_vectors(3)))
    return (
        np.exp(label_log_probabilities(model, label_prompt(), soft, model.config.labels)),
        generate_text(model, [label_prompt()] * 3, soft, Decoding(max_new_tokens=8)),
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


def based_on(folder, kind="llama", **config):
    """A model whose language model lies in a folder of its own."""
    model = make_model(kind, language_model=str(folder), **config)
    _io._save_base(model.language_model, model.tokenizer, folder, None)
    # read as everybody reads it: transformers may add tokens to a tokenizer for the sake of the architecture
    model.language_model, model.tokenizer = load_language_model(folder, dtype=model.config.dtype, instead="")
    return model


def adapted(model, seed=0):
    """Give a model an adapter of random weights."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        # GPT-2 stores its matrices the other way round, which peft sees and says
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        model.language_model = get_peft_model(model.language_model, LoraConfig(r=2, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.language_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)
    model.eval().requires_grad_(requires_grad=False)
    return model


def assert_same(model, loaded):
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    np.testing.assert_array_equal(outputs(loaded)[0], outputs(model)[0])
    assert outputs(loaded)[1] == outputs(model)[1]


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
    written = {"contract": loaded.config.contract, "package_version": version("bioverse-sc")}
    assert loaded.config == replace(model.config, **written)
    assert all(asdict(loaded.config.contract).values())
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


def test_truncated_checksums_are_named(saved, tmp_path):
    folder = copy_of(saved[1], tmp_path)
    content = (folder / "checksums.json").read_text()
    (folder / "checksums.json").write_text(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"damaged: checksums\.json is not JSON"):
        load(folder)


@pytest.mark.parametrize("model", ["mini", "folder"])
def test_a_folder_has_no_revision(model, saved):
    with pytest.raises(ValueError, match="is a folder, which has no revision 'v1'"):
        load(saved[1] if model == "folder" else model, revision="v1")


def test_a_folder_without_checksums_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks checksums\.json"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["maxi", "no/such/folder", "~/models", ""])
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
    with pytest.raises(OSError, match=r"nowhere' could not be loaded.*pass its path: .*language_model=FOLDER"):
        load(tmp_path / "model")


def test_a_language_model_that_was_moved_is_named(tmp_path):
    model = based_on(tmp_path / "base")
    save(model, tmp_path / "model")
    (tmp_path / "base").rename(tmp_path / "moved")
    loaded = load(tmp_path / "model", language_model=tmp_path / "moved")
    assert outputs(loaded)[1] == outputs(model)[1]
    assert loaded.config.language_model == str(tmp_path / "base")


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_on_a_base_elsewhere_comes_back(kind, tmp_path):
    model = adapted(based_on(tmp_path / "base", kind))
    save(model, tmp_path / "model")
    assert not (tmp_path / "model" / "language_model").exists()
    loaded = load(tmp_path / "model", merge_adapter=False)
    assert_same(model, loaded)
    save(loaded, tmp_path / "again")
    assert_same(model, load(tmp_path / "again", merge_adapter=False))


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_and_its_base_come_back(kind, tmp_path):
    model = adapted(based_on(tmp_path / "base", kind))
    save(model, tmp_path / "model", include_language_model=True)
    shutil.rmtree(tmp_path / "base")
    assert_same(model, load(tmp_path / "model", merge_adapter=False))
    merged = load(tmp_path / "model")
    np.testing.assert_allclose(outputs(merged)[0], outputs(model)[0], atol=1e-3)
    save(merged, tmp_path / "merged")
    assert_same(merged, load(tmp_path / "merged"))
    assert not (tmp_path / "merged" / "adapter").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_number_formats_come_back(dtype, tmp_path):
    save(based_on(tmp_path / "base", dtype=dtype), tmp_path / "model", include_language_model=True)
    # the model above is of float32; this one computes in the format
    model = load(tmp_path / "model")
    assert {p.dtype for p in model.language_model.parameters()} == {getattr(torch, dtype)}
    save(model, tmp_path / "again")
    stored = load_file(tmp_path / "again" / "language_model" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    assert_same(model, load(tmp_path / "again"))


def test_what_is_stored_in_a_shorter_format_fits_itself(saved, tmp_path):
    save(saved[0], tmp_path / "half", dtype=torch.float16)
    half = load(tmp_path / "half")
    np.testing.assert_allclose(outputs(half)[0], outputs(saved[0])[0], atol=0.05)
    assert half.config.contract.weights != ""


def test_the_first_format_is_still_read(saved, tmp_path):
    folder = copy_of(saved[1], tmp_path)
    stored = json.loads((folder / "bioverse.json").read_text())
    for key in ("dtype", "contract", "prompts", "chat", "package_version"):
        del stored[key]
    for key in ("n_layers", "layer_norm"):
        del stored["projectors"]["rna"][key]
    (folder / "bioverse.json").write_text(json.dumps(stored | {"format_version": 1}))
    write_checksums(folder)
    loaded = load(folder)
    np.testing.assert_array_equal(outputs(loaded)[0], outputs(load(saved[1]))[0])
    assert loaded.config.contract == Contract()
    save(loaded, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "bioverse.json").read_text())["format_version"] == 2


def spoiled(which):
    model = adapted(make_model())
    names = dict(model.named_parameters())
    name = next(name for name in names if which in name)
    with torch.no_grad():
        names[name].view(-1)[3] = torch.nan
    return model


@pytest.mark.parametrize(
    ("which", "named"),
    [("projectors", r"rna\.layers\.0"), ("lora_B", "lora_B"), ("embed_tokens", r"model\.embed_tokens")],
)
def test_nan_is_not_saved(which, named, tmp_path):
    model = spoiled(which)
    with pytest.raises(
        ValueError, match=rf"1 weights hold NaN or infinite values, the first is .*{named}.*nothing was saved"
    ):
        save(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_weights_too_large_for_the_format_are_not_saved(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.embeddings.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"embed_tokens\.weight.*wider range"):
        save(model, tmp_path / "model", dtype=torch.float16)


def test_a_kill_leaves_no_half_model(tmp_path, monkeypatch):
    def stop(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_io, "write_checksums", stop)
        with pytest.raises(KeyboardInterrupt):
            save(make_model(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    # a process that is killed cannot tidy up; the next save does
    (tmp_path / ".model.new").mkdir()
    (tmp_path / ".model.new" / "half.json").touch()
    save(make_model(), tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "half.json").exists()


def test_an_empty_folder_is_filled(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    save(make_model(), "model")
    assert load("model").config.name == "tiny"


def test_a_file_is_not_overwritten(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        save(make_model(), tmp_path / "model")


def test_a_base_without_a_place_of_its_own_is_not_left_out(tmp_path):
    with pytest.raises(ValueError, match="no hub id or folder of its own; save with include_language_model=True"):
        save(make_model(), tmp_path / "model", include_language_model=False)


def test_a_base_that_was_trained_is_not_left_out(tmp_path):
    save(based_on(tmp_path / "base"), tmp_path / "model")
    loaded = load(tmp_path / "model")
    with torch.no_grad():
        loaded.embeddings.weight[0] += 1
    with pytest.raises(ValueError, match=r"no longer those of .*base.*include_language_model=True"):
        save(loaded, tmp_path / "again")
    save(loaded, tmp_path / "again", include_language_model=True)
    assert_same(loaded, load(tmp_path / "again"))


def test_settings_of_generation_do_not_come_from_the_checkpoint(tmp_path):
    model = based_on(tmp_path / "base")
    save(model, tmp_path / "model")
    settings = {"do_sample": True, "temperature": 0.5, "repetition_penalty": 9.0, "no_repeat_ngram_size": 1}
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(settings))
    assert outputs(load(tmp_path / "model"))[1] == outputs(model)[1]


def test_a_checkpoint_that_lacks_weights_is_an_error(tmp_path):
    save(based_on(tmp_path / "base"), tmp_path / "model")
    file = tmp_path / "base" / "model.safetensors"
    weights = load_file(file)
    del weights["model.norm.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, the first is model\.norm\.weight"):
        load(tmp_path / "model")


def test_code_of_a_checkpoint_is_not_run(tmp_path):
    save(based_on(tmp_path / "base"), tmp_path / "model")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "mine.py").write_text("raise SystemExit('run')")
    with pytest.raises(ValueError, match="trust_remote_code"):
        load(tmp_path / "model")


def test_four_bits_name_their_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    save(make_model(), tmp_path / "model")
    with pytest.raises(ImportError, match=r"bioverse-sc\[quantized\]"):
        load(tmp_path / "model", load_in_4bit=True)


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
    assert size < 45e6


def test_the_bundled_model_writes_its_answers_with_its_end(mini):
    from bioverse_sc.models._inject import answer_ids

    sequences = [tuple(answer_ids(mini.tokenizer, Answer(label))) for label in mini.config.labels]
    assert len(set(sequences)) == len(sequences)
    for label, ids in zip(mini.config.labels, sequences, strict=True):
        assert mini.tokenizer.decode(ids, skip_special_tokens=True).strip() == label


def test_a_model_shares_what_a_bundled_one_has(tmp_path):
    mini = load("mini", device="cpu")
    language_model, tokenizer = make_language_model()
    language_model.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    model = create(tmp_path / "lm", dict(mini.encoders), name="sharing", device="cpu")
    model.gene_reference, model.memory = mini.gene_reference, mini.memory
    save(model, tmp_path / "shared", shared_with="mini")
    names = {path.name for path in (tmp_path / "shared").iterdir()}
    assert names == {"bioverse.json", "projectors.safetensors", "checksums.json"}
    again = load(tmp_path / "shared", device="cpu")
    assert {mod: encoder.fingerprint for mod, encoder in again.encoders.items()} == {
        mod: encoder.fingerprint for mod, encoder in mini.encoders.items()
    }
    assert again.gene_reference == mini.gene_reference
    assert len(again.memory["protein"]) == len(mini.memory["protein"])


def test_another_encoder_cannot_be_shared(saved, tmp_path):
    model, _ = saved
    with pytest.raises(ValueError, match=r"is not that of 'mini'.*; save without shared_with"):
        save(model, tmp_path / "shared", shared_with="mini")
