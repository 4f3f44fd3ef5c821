from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma2Config

from bioverse_sc.models import Answer, Decoding, Entity, Text, generate_text, label_log_probabilities, label_prompt
from bioverse_sc.models.decode import _reader
from bioverse_sc.models.decode._labels import PRUNED_BELOW
from tests.models.decode.by_hand import brute_force, greedy, soft_tokens
from tests.tiny import CONFIGS, WIDTH, make_model
from tests.tl.test_chat import MORE


@pytest.mark.parametrize("kind", CONFIGS)
def test_text_of_a_batch_is_that_of_single_rows_and_of_plain_greedy_decoding(kind):
    model = make_model(kind)
    prompts = [
        [Text("a"), Entity("rna"), Answer()],
        [Text("a much longer prompt "), Entity("rna"), Text(" why?"), Answer()],
        [Entity("rna"), Text("and"), Answer()],
    ]
    soft = soft_tokens(model, 3)
    together = generate_text(model, prompts, soft, Decoding(max_new_tokens=24))
    alone = [generate_text(model, [p], soft[i : i + 1], Decoding(max_new_tokens=24))[0] for i, p in enumerate(prompts)]
    assert together == alone
    assert together == [greedy(model, p, soft[i], 24) for i, p in enumerate(prompts)]
    assert len(set(together)) > 1
    assert all(together)


def test_two_runs_write_the_same():
    model = make_model()
    prompts = [[Entity("rna"), Answer()]] * 2
    soft = soft_tokens(model, 2)
    one, two = (generate_text(model, prompts, soft, Decoding(max_new_tokens=12)) for _ in range(2))
    assert one == two


def test_a_missing_soft_token_is_an_error():
    model = make_model()
    with pytest.raises(ValueError, match="2 slots"):
        generate_text(model, [[Entity("rna"), Answer()]] * 2, torch.zeros(1, 1, WIDTH), Decoding(max_new_tokens=2))


def test_draws_of_a_prompt_depend_on_its_key_and_seed_alone():
    model = make_model()
    soft = soft_tokens(model, 4)
    prompts = [label_prompt()] * 4
    keys = ["a", "b", "c", "d"]
    decoding = Decoding(max_new_tokens=12, temperature=1.0)
    together = generate_text(model, prompts, soft, decoding, keys=keys)
    for i, key in enumerate(keys):
        assert generate_text(model, prompts[:1], soft[i : i + 1], decoding, keys=[key]) == [together[i]]
    assert generate_text(model, prompts, soft, Decoding(12, 1.0, seed=1), keys=keys) != together
    # one soft token, two keys
    assert len(set(generate_text(model, prompts, soft[:1].repeat(4, 1, 1), decoding, keys=keys))) > 1


def test_draws_have_the_probabilities_of_the_model():
    scores = torch.tensor([0.0, 1.0, 2.0, -1.0])
    decoding = Decoding(temperature=0.5, top_p=0.97)
    drawn = []
    for i in range(2000):
        found = scores[None]
        for constraint in decoding.constraints([str(i)]):
            found = constraint.close(found)
        drawn.append(int(found.argmax()))
    expected = torch.softmax(scores / 0.5, dim=-1).numpy()
    # the least likely two are outside of top_p
    expected = np.where([False, True, True, False], expected, 0)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 2000, expected / expected.sum(), atol=0.03)


def test_no_run_of_tokens_is_written_twice(monkeypatch):
    model = make_model(seed=1)
    soft = soft_tokens(model, 3)
    prompts = [label_prompt()] * 3
    written = []
    decode = model.tokenizer.batch_decode
    monkeypatch.setattr(model.tokenizer, "batch_decode", lambda ids, **kw: written.append(ids) or decode(ids, **kw))

    def repeats():
        runs = [[tuple(ids[i : i + 2]) for i in range(len(ids) - 1)] for ids in written.pop()]
        return [len(those) - len(set(those)) for those in runs]

    free = generate_text(model, prompts, soft, Decoding(max_new_tokens=40))
    assert all(repeats()), "an untrained model goes round in circles"
    for temperature in (0.0, 1e-3):
        generate_text(model, prompts, soft, Decoding(40, temperature, no_repeat_ngram_size=2))
        assert not any(repeats())
    assert generate_text(model, prompts, soft, Decoding(40, no_repeat_ngram_size=0)) == free
    of_model = Decoding(40).of_model(model)
    assert of_model.no_repeat_ngram_size == model.config.no_repeat_ngram_size == 0
    model.config = replace(model.config, no_repeat_ngram_size=2)
    assert Decoding(40).of_model(model).no_repeat_ngram_size == 2
    assert Decoding(40, no_repeat_ngram_size=0).of_model(model).no_repeat_ngram_size == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
        ({"no_repeat_ngram_size": 2.5}, "no_repeat_ngram_size is 2.5"),
    ],
)
def test_decoding_options_out_of_their_range(options, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**options)


def granite_of_8b(n):
    return CONFIGS["granite"](n).__class__(**CONFIGS["granite"](n).to_dict() | {"logits_scaling": 4.0})


def gemma_2(n):
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    caps = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": None}
    ids = {"eos_token_id": 0, "pad_token_id": 1, "bos_token_id": None}
    return Gemma2Config(vocab_size=n, hidden_size=WIDTH, intermediate_size=64, **shape, **caps, **ids)


@pytest.mark.parametrize(("config", "is_plain"), [(granite_of_8b, True), (gemma_2, False)])
def test_a_head_that_scales_or_bends_the_logits(config, is_plain, monkeypatch):
    monkeypatch.setitem(CONFIGS, "special", config)
    model = make_model("special", seed=2)
    assert (_reader._plain_head(model.language_model) is not None) == is_plain
    labels = ["cab", "cat", "dog"]
    soft = soft_tokens(model, 3)
    found = label_log_probabilities(model, label_prompt(), soft, labels)
    np.testing.assert_allclose(
        np.exp(found), np.exp(brute_force(model, label_prompt(), soft, labels)), atol=6 * np.exp(PRUNED_BELOW)
    )
    written = generate_text(model, [label_prompt()] * 3, soft, Decoding(max_new_tokens=12))
    assert written == [greedy(model, label_prompt(), s, 12) for s in soft]


def test_an_adapter_that_is_not_merged_is_part_of_the_answer():
    model = make_model("qwen3", seed=1)
    labels = ["cab", "cat", "dog"]
    soft = soft_tokens(model, 3)
    before = label_log_probabilities(model, label_prompt(), soft, labels)
    # once with the head inside, which then is no plain matrix
    for targets in (["q_proj"], ["q_proj", "lm_head"]):
        model = make_model("qwen3", seed=1)
        model.language_model = get_peft_model(model.language_model, LoraConfig(r=4, target_modules=targets))
        with torch.no_grad():
            for name, parameter in model.language_model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.3)
        model.eval()
        found = label_log_probabilities(model, label_prompt(), soft, labels)
        assert np.abs(np.exp(found) - np.exp(before)).max() > 0.01
        np.testing.assert_allclose(
            np.exp(found), np.exp(brute_force(model, label_prompt(), soft, labels)), atol=6 * np.exp(PRUNED_BELOW)
        )
        written = generate_text(model, [label_prompt()] * 3, soft, Decoding(max_new_tokens=8))
        assert written == [greedy(model, label_prompt(), s, 8) for s in soft]


def test_layers_with_a_state_score_labels_and_write_in_batches():
    """What some rows of a cache go on with does not reach the others; state-space layers write theirs in place."""
    model = make_model()
    model.language_model = AutoModelForCausalLM.from_config(MORE["state"](len(model.tokenizer))).eval()
    soft, prompt = soft_tokens(model, 4), [Text("Name it: "), Entity("rna"), Answer(None)]
    with torch.no_grad():
        for i, parameter in enumerate(model.language_model.parameters()):
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(i))
    found = label_log_probabilities(model, prompt, soft, model.config.labels)
    expected = brute_force(model, prompt, soft, model.config.labels)
    np.testing.assert_allclose(np.exp(found), np.exp(expected), atol=4 * np.exp(PRUNED_BELOW))
    decoding = Decoding(12, temperature=1.0)
    texts = generate_text(model, [prompt] * 4, soft, decoding, keys=["a", "b", "c", "d"])
    assert texts == [generate_text(model, [prompt], soft[[i]], decoding, keys=["abcd"[i]])[0] for i in range(4)]
