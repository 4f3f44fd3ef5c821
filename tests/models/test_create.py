import json
import re
import warnings

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bioverse_sc.encoders import Precomputed
from bioverse_sc.models import (
    INSIDE,
    PROMPTS,
    Decoding,
    ProjectorConfig,
    create,
    description_prompt,
    generate_text,
    label_log_probabilities,
    label_prompt,
    load,
    model_folder,
    save,
)
from bioverse_sc.models._language_model import is_quantized
from tests.models.test_io import adapted, assert_same, outputs
from tests.tiny import CONFIGS, LABELS, VECTOR, WIDTH, make_encoder, make_language_model, make_vectors

VECTORS = Precomputed("X_scVI", VECTOR)


def language_model_folder(folder, kind="llama", **special):
    """What a user has: weights and tokenizer of some language model."""
    language_model, tokenizer = make_language_model(kind)
    for name, value in special.items():
        setattr(tokenizer, name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        language_model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return language_model_folder(tmp_path_factory.mktemp("models") / "llama")


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_new_model_runs_and_comes_back(kind, tmp_path):
    folder = language_model_folder(tmp_path / "base", kind)
    model = create(folder, {"rna": make_encoder()}, name="mine", labels=LABELS)
    assert model.config.language_model == str(folder)
    assert model.config.labels == LABELS
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert np.allclose(outputs(model)[0].sum(axis=1), 1)
    save(model, tmp_path / "model")
    assert not (tmp_path / "model" / "language_model").exists()
    loaded = load(tmp_path / "model")
    assert_same(model, loaded)
    assert loaded.config.contract == model.config.contract
    save(model, tmp_path / "whole", include_language_model=True)
    assert_same(model, load(tmp_path / "whole"))


def test_projectors_take_their_ends_from_what_they_join(llama):
    shapes = {"protein": ProjectorConfig(hidden_width=20, n_tokens=3, n_layers=2, layer_norm=False, seed=4)}
    encoders = {"rna": make_encoder(), "protein": Precomputed("X_esm", 7)}
    model = create(llama, encoders, name="mine", projectors=shapes)
    rna, protein = model.config.projectors["rna"], model.config.projectors["protein"]
    assert (rna.in_width, rna.hidden_width, rna.out_width, rna.n_tokens) == (VECTOR, WIDTH, WIDTH, 1)
    assert (protein.in_width, protein.hidden_width, protein.out_width, protein.n_tokens) == (7, 20, WIDTH, 3)
    assert (protein.n_layers, protein.layer_norm, protein.seed) == (2, False, 4)
    assert rna.encoder_fingerprint == encoders["rna"].fingerprint
    assert protein.encoder_fingerprint == encoders["protein"].fingerprint
    assert list(model.encoders) == ["rna"]
    soft = model.project("protein", torch.from_numpy(make_vectors(2, width=7)))
    assert soft.shape == (2, 3, WIDTH)
    assert len(generate_text(model, [description_prompt("protein")] * 2, soft, Decoding(max_new_tokens=3))) == 2


@pytest.mark.parametrize("named", ["name", "folder"])
def test_the_language_model_of_a_model_is_used_without_its_adapter(named, mini, tmp_path):
    source = "mini" if named == "name" else model_folder("mini")
    model = create(source, {"rna": VECTORS}, name="mine")
    bare = load("mini", merge_adapter=False).language_model
    vectors = model.embeddings.weight[:5]
    assert torch.equal(vectors, bare.get_input_embeddings().weight[:5])
    kept = bare.get_base_model().model.layers[0].self_attn.q_proj
    assert torch.equal(model.language_model.model.layers[0].self_attn.q_proj.weight, kept.base_layer.weight)
    save(model, tmp_path / "mine")
    loaded = load(tmp_path / "mine")
    assert torch.equal(loaded.embeddings.weight, model.embeddings.weight)
    assert loaded.config.language_model == str(source)


def test_a_model_that_does_not_hold_its_language_model_names_it(llama, tmp_path):
    save(create(llama, {"rna": VECTORS}, name="mine"), tmp_path / "mine")
    with pytest.raises(ValueError, match=rf"does not hold its language model; pass '{re.escape(str(llama))}' itself"):
        create(tmp_path / "mine", {"rna": VECTORS}, name="second")


def test_a_tokenizer_without_pad_and_start_tokens_will_do(tmp_path):
    model = create(language_model_folder(tmp_path / "base", pad_token=None), {"rna": VECTORS}, name="mine")
    assert model.tokenizer.pad_token_id is None
    soft = model.project("rna", torch.from_numpy(make_vectors(2)))
    both = generate_text(model, [label_prompt(), description_prompt("rna")], soft, Decoding(max_new_tokens=6))
    alone = [
        generate_text(model, [prompt], soft[i : i + 1], Decoding(max_new_tokens=6))[0]
        for i, prompt in enumerate([label_prompt(), description_prompt("rna")])
    ]
    assert both == alone


def test_a_tokenizer_without_an_end_says_where_to_write_it(tmp_path):
    folder = language_model_folder(tmp_path / "base", eos_token=None)
    with pytest.raises(ValueError, match=r"no end-of-sequence token.*'eos_token' into tokenizer_config\.json"):
        create(folder, {"rna": VECTORS}, name="mine")
    stored = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(stored | {"eos_token": "<|end|>"}))
    assert create(folder, {"rna": VECTORS}, name="mine").end_ids == [0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_number_formats(dtype, llama, tmp_path):
    model = create(llama, {"rna": VECTORS}, name="mine", labels=LABELS, dtype=dtype)
    assert {p.dtype for p in model.language_model.parameters()} == {getattr(torch, dtype)}
    assert {p.dtype for p in model.projectors.parameters()} == {torch.float32}
    save(model, tmp_path / "mine")
    assert_same(model, load(tmp_path / "mine"))


def test_prompts_replace_some_defaults(llama, tmp_path):
    model = create(llama, {"rna": VECTORS}, name="mine", prompts={"label": "What is [BIO:rna]?"})
    assert model.config.prompts == PROMPTS | {"label": "What is [BIO:rna]?"}
    save(model, tmp_path / "mine")
    assert load(tmp_path / "mine").config.prompts == model.config.prompts


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"prompts": {"labels": "x"}},
            ValueError,
            r"prompts holds \['labels'\]; the templates are \['ask', 'describe', 'entity', 'facts'",
        ),
        (
            {"prompts": {"label": "[BIO:rna] {genes}"}},
            ValueError,
            r"'label' has the fields \['genes'\]; it may have no fields",
        ),
        ({"prompts": {"reason": "{gene}"}}, ValueError, r"fields \['gene'\]; it may have \{markers\}, .*, \{genes\}"),
        ({"prompts": {"label": "Type:"}}, ValueError, "'label' has 0 places of entities.*expected 1"),
        ({"prompts": {"label": "[BIO]"}}, ValueError, "does not say of which modality"),
        (
            {"projectors": {"protein": ProjectorConfig()}},
            ValueError,
            r"\['protein'\], which have no encoder; .*\['rna'\]",
        ),
        (
            {"projectors": {"rna": ProjectorConfig(in_width=16)}},
            ValueError,
            r"projectors\['rna'\] has in_width; these follow from the encoder",
        ),
        ({"dtype": "int8"}, ValueError, "dtype is 'int8'; expected one of float32, bfloat16, float16"),
        ({"labels": "B cell"}, TypeError, "labels is the text 'B cell'; expected a list"),
        ({"labels": ["a", "b", "a"]}, ValueError, "labels repeats a; give each once"),
        ({"encoders": {}}, ValueError, "encoders is empty; expected at least one"),
        ({"encoders": {"a.b": VECTORS}}, ValueError, "'a.b' cannot be the name of a modality"),
        ({"encoders": {"rna": "scgpt"}}, TypeError, "is a str, which lacks name, fingerprint, width; expected what"),
        ({"encoders": {"protein": make_encoder()}}, ValueError, "given as 'protein', but reads 'rna'"),
        ({"chat": True}, ValueError, "has no chat template; leave chat out"),
    ],
)
def test_arguments_that_do_not_fit_say_what_does(options, error, text, llama):
    with pytest.raises(error, match=text):
        create(llama, **({"encoders": {"rna": VECTORS}, "name": "mine"} | options))


def test_a_shape_that_is_none_is_an_error(llama):
    with pytest.raises(ValueError, match="n_tokens is 0; expected a positive number"):
        create(llama, {"rna": VECTORS}, name="mine", projectors={"rna": ProjectorConfig(n_tokens=0)})


def test_a_language_model_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(OSError, match=r"nowhere' could not be loaded.*bsc\.models\.create\(FOLDER, \.\.\.\)"):
        create(tmp_path / "nowhere", {"rna": VECTORS}, name="mine")


def test_four_bits(tmp_path):
    """With bitsandbytes: near the whole model; the adapter stays apart and is saved, the base is not."""
    pytest.importorskip("bitsandbytes")
    _, tokenizer = make_language_model()
    # blocks of 64 weights share a scale
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, eos_token_id=0, bos_token_id=None))
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    new = create(tmp_path / "base", {"rna": VECTORS}, name="mine", load_in_4bit=True)
    assert is_quantized(new.language_model)
    assert new.config.contract.weights == ""

    model = adapted(create(tmp_path / "base", {"rna": VECTORS}, name="mine", labels=LABELS))
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model", load_in_4bit=True)
    assert not loaded.has_merged_adapter
    layer = loaded.language_model.get_base_model().model.layers[0].mlp.gate_proj
    assert type(layer.base_layer).__name__ == "Linear4bit"
    assert loaded.embeddings.weight.dtype == torch.bfloat16
    soft = torch.from_numpy(make_vectors(3))
    near, exact = (
        np.exp(label_log_probabilities(m, label_prompt(), m.project("rna", soft), LABELS)) for m in (loaded, model)
    )
    np.testing.assert_allclose(near, exact, atol=0.1)
    assert (
        len(generate_text(loaded, [label_prompt()] * 3, loaded.project("rna", soft), Decoding(max_new_tokens=4))) == 3
    )

    with pytest.raises(ValueError, match=r"in 4 bits, which cannot be saved.*include_language_model=False"):
        save(loaded, tmp_path / "whole", include_language_model=True)
    save(loaded, tmp_path / "again")
    again = load(tmp_path / "again", merge_adapter=False)
    assert_same(model, again)
    assert again.config.contract == model.config.contract
    assert again.config.language_model != INSIDE


def test_a_relative_folder_is_found_from_anywhere(tmp_path, monkeypatch):
    language_model, tokenizer = make_language_model()
    language_model.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    monkeypatch.chdir(tmp_path)
    model = create("lm", {"rna": make_encoder()}, name="mine", device="cpu")
    save(model, "mine")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load("../mine").config.name == "mine"
