from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from bioverse_sc.models import Answer, Entity, Text
from bioverse_sc.models._inject import pad_prompts, tokenize_prompt
from tests.tiny import CONFIGS, VECTOR, WIDTH, make_model, make_vectors

if TYPE_CHECKING:
    from bioverse_sc.models._projector import Projector


def test_untrained_projector_is_the_same_each_time(tiny):
    torch.manual_seed(1)
    one = tiny.untrained_projector("rna").state_dict()
    torch.manual_seed(2)
    two = tiny.untrained_projector("rna").state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_untrained_projector_starts_at_the_size_of_token_embeddings(tiny):
    with torch.inference_mode():
        soft = tiny.untrained_projector("rna").eval()(torch.from_numpy(make_vectors(300)))
    size = float(tiny.embeddings.weight.pow(2).mean().sqrt())
    assert 0.5 * size < float(soft.pow(2).mean().sqrt()) < 2 * size


def test_a_projector_of_another_width_is_an_error(tiny):
    config = tiny.config.projectors["rna"]
    tiny.config.projectors["rna"] = type(config)(**{**vars(config), "out_width": WIDTH + 8})
    with pytest.raises(ValueError, match=f"writes width {WIDTH + 8}, the language model reads {WIDTH}"):
        tiny.untrained_projector("rna")


@pytest.mark.parametrize("n_tokens", [1, 3])
def test_projector_is_the_mlp_of_the_paper(n_tokens):
    model = make_model(n_tokens=n_tokens)
    projector: Projector = model.projectors["rna"]
    weights = {k: v.numpy() for k, v in projector.state_dict().items()}

    def norm(x, name):
        x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    names = {i: f"layers.{i}" for i in range(len(projector.layers))}
    linears = [i for i, layer in enumerate(projector.layers) if isinstance(layer, torch.nn.Linear)]
    norms = [i for i, layer in enumerate(projector.layers) if isinstance(layer, torch.nn.LayerNorm)]
    assert (len(linears), len(norms)) == (3, 3)
    vectors = make_vectors(5)
    x = norm(vectors.astype(np.float64), names[norms[0]])
    x = norm(np.maximum(linear(x, names[linears[0]]), 0), names[norms[1]])
    x = norm(np.maximum(linear(x, names[linears[1]]), 0), names[norms[2]])
    expected = linear(x, names[linears[2]]).reshape(5, n_tokens, WIDTH)
    with torch.inference_mode():
        np.testing.assert_allclose(model.project("rna", torch.from_numpy(vectors)), expected, atol=1e-4)


@pytest.mark.parametrize("kind", CONFIGS)
def test_forward_reads_the_soft_token(kind):
    model = make_model(kind)
    prompt = tokenize_prompt(model.tokenizer, [Text("a"), Entity("rna"), Text("b"), Answer("c")], model.n_tokens)
    batch = pad_prompts([prompt, prompt], model.pad_id, left=False)
    soft = model.project("rna", torch.from_numpy(make_vectors(2))).flatten(0, 1)
    with torch.inference_mode():
        logits = model(batch, soft).logits
        swapped = model(batch, soft.flip(0)).logits
    assert logits.shape == (2, len(prompt.ids), len(model.tokenizer))
    torch.testing.assert_close(logits, swapped.flip(0), atol=1e-4, rtol=1e-4)
    assert torch.allclose(logits[0, 0], logits[1, 0], atol=1e-5), "nothing before the soft token may depend on it"
    assert not torch.allclose(logits[0, -1], logits[1, -1], atol=1e-2)


def test_text_vectors_are_means_of_token_embeddings(tiny):
    texts = ["a", "some words"]
    expected = []
    for text in texts:
        rows = [tiny.embeddings.weight[i].numpy() for i in tiny.tokenizer.encode(text, add_special_tokens=False)]
        expected.append(np.mean(rows, axis=0))
    np.testing.assert_allclose(tiny.text_vectors(texts), expected, atol=1e-6)


def test_an_empty_text_has_no_place(tiny):
    with pytest.raises(ValueError, match="empty"):
        tiny.text_vectors(["a", ""])


def test_the_embedding_matrix_is_never_enlarged(mini):
    tokenizer = mini.tokenizer
    assert mini.embeddings.weight.shape[0] >= len(tokenizer)
    assert "[BIO]" not in tokenizer.get_vocab()


def test_vectors_of_another_width_are_an_error(tiny):
    with pytest.raises((ValueError, RuntimeError), match=f"{VECTOR}"):
        tiny.project("rna", torch.zeros(2, VECTOR + 1))
