"""Checkpoints that are damaged, ambiguous or not what they say: each an error that names the file or the tensor."""

import json

import pytest
import torch

from bioverse_sc.encoders.scgpt import ScGPTEncoder
from tests.encoders.test_scgpt import GOLDEN, checkpoint, golden_state  # noqa: F401


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"", "damaged or not complete"),
        (b"PK\x03\x04 cut off", "damaged or not complete"),
        (b"<html>not found</html>", "damaged or not complete"),
    ],
    ids=["git-lfs", "empty", "cut", "html"],
)
@pytest.mark.parametrize("name", ["best_model.pt", "model.safetensors"])
def test_a_file_without_weights_says_what_it_is(name, content, message, checkpoint):  # noqa: F811
    folder = checkpoint()
    (folder / "best_model.pt").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        ScGPTEncoder.from_folder(folder)
    assert name in str(error.value)
    assert "weights_only" not in str(error.value)


def test_a_file_that_was_cut_off_is_named(checkpoint):  # noqa: F811
    file = checkpoint() / "best_model.pt"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"best_model\.pt \(5000 bytes\) is damaged"):
        ScGPTEncoder.from_folder(file.parent)


@pytest.mark.parametrize("name", ["args.json", "vocab.json"])
def test_broken_json_is_named(name, checkpoint):  # noqa: F811
    folder = checkpoint()
    (folder / name).write_text("{")
    with pytest.raises(ValueError, match=f"{name} is not JSON"):
        ScGPTEncoder.from_folder(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embsize": "64"}, "embsize is '64'"),
        ({"nheads": 0}, "nheads is 0"),
        ({"max_seq_len": None}, "max_seq_len is None"),
        ({"max_seq_len": 1}, "max_seq_len is 1; expected a whole number, at least 2"),
        ({"n_bins": 2.5}, "n_bins is 2.5"),
    ],
)
def test_settings_that_make_no_sense_are_named(change, message, checkpoint):  # noqa: F811
    args = json.loads((GOLDEN / "args.json").read_text()) | change
    with pytest.raises(ValueError, match=message):
        ScGPTEncoder.from_folder(checkpoint(args=args))


@pytest.mark.parametrize(
    ("file", "content"), [("args.json", ["embsize"]), ("vocab.json", ["A"]), ("vocab.json", {"A": None})]
)
def test_json_of_another_kind_is_named(file, content, checkpoint):  # noqa: F811
    folder = checkpoint()
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{file}.*mapping"):
        ScGPTEncoder.from_folder(folder)


@pytest.mark.parametrize("name", ["dsbn.bns.0.weight", "bn.weight", "pert_encoder.weight", "encoder.surprise"])
def test_a_tensor_that_would_change_the_states_is_an_error(name, checkpoint):  # noqa: F811
    with pytest.raises(ValueError, match=f"unknown: {name}"):
        ScGPTEncoder.from_folder(checkpoint(state=golden_state() | {name: torch.ones(3)}))


def test_two_names_of_one_tensor_are_an_error(checkpoint):  # noqa: F811
    state = golden_state()
    ours = "transformer_encoder.layers.0.self_attn.in_proj_weight"
    theirs = ours.replace("in_proj_", "Wqkv.")
    state |= {ours: state.get(ours, state.get(theirs)), theirs: state.get(ours, state.get(theirs)) + 1}
    with pytest.raises(ValueError, match="twice, under two names"):
        ScGPTEncoder.from_folder(checkpoint(state=state))


def test_weights_that_are_not_finite_are_an_error(checkpoint):  # noqa: F811
    state = golden_state()
    state["encoder.enc_norm.bias"] = torch.full_like(state["encoder.enc_norm.bias"], torch.nan)
    with pytest.raises(ValueError, match=r"not finite: encoder\.enc_norm\.bias"):
        ScGPTEncoder.from_folder(checkpoint(state=state))


def test_a_table_of_too_few_bins_is_an_error(checkpoint):  # noqa: F811
    args = json.loads((GOLDEN / "args.json").read_text()) | {"input_emb_style": "category", "pad_value": 51}
    state = {name: tensor for name, tensor in golden_state().items() if not name.startswith("value_encoder.")}
    state |= {
        "value_encoder.embedding.weight": torch.ones(20, 64),
        "value_encoder.enc_norm.weight": torch.ones(64),
        "value_encoder.enc_norm.bias": torch.zeros(64),
    }
    with pytest.raises(ValueError, match=r"51 bins, but .* has 20 rows"):
        ScGPTEncoder.from_folder(checkpoint(args=args, state=state))
