import itertools

import numpy as np
import pytest
import torch

from bioverse_sc.models import Answer, Decoding, Entity, Text, generate_text, label_log_probabilities, label_prompt
from bioverse_sc.models._generate import PRUNED_BELOW, build_trie
from bioverse_sc.models._inject import SLOT, tokenize_prompt
from tests.tiny import CONFIGS, WIDTH, make_model, make_vectors


def soft_tokens(model, n, *, seed=0):
    with torch.inference_mode():
        return model.project("rna", torch.from_numpy(make_vectors(n, seed=seed)))


def score_alone(model, prompt, soft, label):
    """Log-probability of one label for one cell: one forward pass over the whole sequence, no cache and no trie."""
    tokenizer = model.tokenizer
    rows = []
    for segment in prompt:
        if isinstance(segment, Text):
            rows.append(model.embeddings(torch.tensor(tokenizer.encode(segment.text, add_special_tokens=False))))
        elif isinstance(segment, Entity):
            rows.append(soft)
    answer = [*tokenizer.encode(f" {label}", add_special_tokens=False), tokenizer.eos_token_id]
    before = sum(len(r) for r in rows)
    rows.append(model.embeddings(torch.tensor(answer)))
    with torch.inference_mode():
        logits = model.language_model(inputs_embeds=torch.cat(rows)[None], use_cache=False).logits[0].double()
    log_p = torch.log_softmax(logits, dim=-1)
    return sum(float(log_p[before - 1 + i, token]) for i, token in enumerate(answer))


def brute_force(model, prompt, soft, labels):
    scores = np.array([[score_alone(model, prompt, s, label) for label in labels] for s in soft])
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("n_tokens", [1, 2])
def test_label_probabilities_equal_scoring_each_label_alone(kind, n_tokens):
    model = make_model(kind, n_tokens=n_tokens)
    labels = ["cab", "cat", "dog", "dig", "dot"]
    soft = soft_tokens(model, 4)
    found = label_log_probabilities(model, label_prompt(), soft, labels)
    expected = brute_force(model, label_prompt(), soft, labels)
    np.testing.assert_allclose(np.exp(found), np.exp(expected), atol=2 * len(labels) * np.exp(PRUNED_BELOW))
    kept = np.isfinite(found)
    # a prefix is compared with the best prefix, whose own labels may turn out to be unlikely at their ends
    assert (np.exp(expected[~kept]) < 0.005).all()
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-6)


def test_the_cells_differ_so_the_comparison_means_something():
    model = make_model()
    found = label_log_probabilities(model, label_prompt(), soft_tokens(model, 4), ["cab", "cat", "dog"])
    assert np.ptp(np.exp(found), axis=0).max() > 0.01


def test_nothing_is_pruned_when_labels_are_close():
    model = make_model(seed=3)
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            parameter *= 0.2 if parameter.ndim > 1 else 1
    labels = ["".join(p) for p in itertools.product("ab", "cd", "ef")]
    soft = soft_tokens(model, 3)
    found = label_log_probabilities(model, label_prompt(), soft, labels)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, brute_force(model, label_prompt(), soft, labels), atol=1e-4)


def test_a_label_that_starts_another_one_is_scored_to_its_end():
    model = make_model(seed=1)
    labels = ["T", "T cell"]
    soft = soft_tokens(model, 2)
    found = label_log_probabilities(model, label_prompt(), soft, labels)
    np.testing.assert_allclose(
        np.exp(found), np.exp(brute_force(model, label_prompt(), soft, labels)), atol=4 * np.exp(PRUNED_BELOW)
    )


@pytest.mark.parametrize("kind", CONFIGS)
def test_labels_of_a_batch_are_those_of_single_cells(kind):
    model = make_model(kind)
    soft = soft_tokens(model, 5)
    together = label_log_probabilities(model, label_prompt(), soft, ["cat", "cow", "dog"])
    alone = np.concatenate(
        [label_log_probabilities(model, label_prompt(), soft[i : i + 1], ["cat", "cow", "dog"]) for i in range(5)]
    )
    np.testing.assert_allclose(np.exp(together), np.exp(alone), atol=1e-5)


def test_the_bundled_model_scores_as_each_label_alone(mini):
    labels = ["B cell", "naive B cell", "T cell", "hepatocyte"]
    vectors = torch.from_numpy(make_vectors(2, width=mini.config.projectors["rna"].in_width))
    with torch.inference_mode():
        soft = mini.project("rna", vectors)
    found = label_log_probabilities(mini, label_prompt(), soft, labels)
    np.testing.assert_allclose(
        np.exp(found), np.exp(brute_force(mini, label_prompt(), soft, labels)), atol=4 * np.exp(PRUNED_BELOW)
    )


def test_trie_shares_prefixes():
    root = build_trie([[1, 2, 0], [1, 3, 0], [4, 0]])
    assert sorted(root.children) == [1, 4]
    assert sorted(root.children[1].children) == [2, 3]
    assert root.children[1].children[3].children[0].label == 1


def test_labels_of_the_same_tokens_are_an_error():
    with pytest.raises(ValueError, match="same tokens"):
        build_trie([[1, 2], [1, 2]])


def greedy(model, prompt, soft, n):
    """Write without generate(): the most likely token, again and again."""
    tokens = tokenize_prompt(model.tokenizer, prompt, model.n_tokens).ids
    embedded = lambda token: model.embeddings(torch.tensor(token))
    rows = torch.stack([soft[0] if i == SLOT else embedded(i) for i in tokens])
    written = []
    with torch.inference_mode():
        for _ in range(n):
            token = int(model.language_model(inputs_embeds=rows[None], use_cache=False).logits[0, -1].argmax())
            if token == model.tokenizer.eos_token_id:
                break
            written.append(token)
            rows = torch.cat([rows, embedded(token)[None]])
    return model.tokenizer.decode(written, skip_special_tokens=True).strip()


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
        for process in decoding.processors([str(i)]):
            found = process(torch.zeros(1, 0, dtype=torch.long), found)
        drawn.append(int(found.argmax()))
    expected = torch.softmax(scores / 0.5, dim=-1).numpy()
    # the least likely two are outside of top_p
    expected = np.where([False, True, True, False], expected, 0)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 2000, expected / expected.sum(), atol=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
    ],
)
def test_decoding_options_out_of_their_range(options, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**options)
