import itertools

import numpy as np
import pytest
import torch

from bioverse_sc.models import label_log_probabilities, label_prompt
from bioverse_sc.models.decode import _labels
from bioverse_sc.models.decode._labels import PRUNED_BELOW, build_trie
from tests.models.decode.by_hand import brute_force, soft_tokens
from tests.tiny import CONFIGS, make_model, make_vectors


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
    trie = build_trie([[1, 2, 0], [1, 3, 0], [4, 6, 0], [4, 6, 5, 0]])
    assert trie.tokens.tolist() == [-1, 1, 4, 2, 3, 6, 0, 5], "what follows the last choice is not there"
    assert trie.labels.tolist() == [-1, -1, -1, 0, 1, -1, 2, 3]
    parents, children = trie.expand(np.array([1, 7, 0]))
    assert parents.tolist() == [0, 0, 2, 2]
    assert trie.tokens[children].tolist() == [2, 3, 1, 4]


def test_a_single_label_is_certain():
    model = make_model()
    assert build_trie([[1, 2, 0]]).labels.tolist() == [-1, 0]
    assert label_log_probabilities(model, label_prompt(), soft_tokens(model, 2), ["cat"]).tolist() == [[0.0], [0.0]]


def test_labels_do_not_depend_on_how_the_work_was_cut(monkeypatch):
    model = make_model(seed=1)
    soft = soft_tokens(model, 7)
    labels = ["cab", "cat", "dog", "dig", "dot", "a dog"]
    together = label_log_probabilities(model, label_prompt(), soft, labels)
    monkeypatch.setattr(_labels, "CACHE_BYTES", 1)
    np.testing.assert_allclose(
        np.exp(label_log_probabilities(model, label_prompt(), soft, labels)), np.exp(together), atol=1e-5
    )


def test_labels_of_the_same_tokens_are_an_error():
    with pytest.raises(ValueError, match="same tokens"):
        build_trie([[1, 2], [1, 2]])
