"""What must hold for any causal language model: scaled embeddings, tied or not, absolute or rotary positions."""

import numpy as np
import pytest
import torch

from bioverse_sc import train
from bioverse_sc.models import Answer, Entity, Text, label_prompt
from bioverse_sc.models._inject import SLOT, PromptBatch
from bioverse_sc.train import (
    Descriptions,
    Example,
    LoraSettings,
    PromptSource,
    PromptTask,
    TrainConfig,
    add_adapter,
)
from tests.tiny import CONFIGS, make_model, make_vectors

SCALED = {"gemma", "gemma3"}
"""Their embedding multiplies by the root of the width."""


@pytest.mark.parametrize("kind", CONFIGS)
def test_soft_tokens_that_are_word_embeddings_are_read_as_the_words(kind):
    model = make_model(kind)
    ids = torch.tensor([[20, 30, 40, 50, 60]])
    slots = ids.clone()
    slots[0, [1, 3]] = SLOT
    with torch.inference_mode():
        words = model.language_model(input_ids=ids, use_cache=False).logits
        soft = model.embeddings(ids[0, [1, 3]])
        read = model(PromptBatch(slots, None, slots), soft, use_cache=False).logits
    torch.testing.assert_close(read, words)


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_untrained_soft_token_is_as_long_as_a_word(kind):
    model = make_model(kind)
    words = model.embeddings(torch.arange(len(model.embeddings.weight))).detach()
    assert model.embedding_scale() == pytest.approx(float(words.pow(2).mean().sqrt()), rel=1e-5)
    scale = float(words.pow(2).mean() / model.embeddings.weight.detach().pow(2).mean()) ** 0.5
    assert scale == pytest.approx(32**0.5 if kind in SCALED else 1, rel=1e-4)
    soft = model.untrained_projector("rna").eval()(torch.from_numpy(make_vectors(200))).detach()
    assert float(soft.pow(2).mean().sqrt()) == pytest.approx(model.embedding_scale(), rel=0.3)


@pytest.mark.parametrize("kind", CONFIGS)
def test_texts_lie_where_their_words_enter(kind):
    model = make_model(kind)
    ids = model.tokenizer.encode("T cell", add_special_tokens=False)
    expected = torch.stack([model.embeddings(torch.tensor(i)) for i in ids]).mean(dim=0)
    torch.testing.assert_close(model.text_vectors(["T cell"])[0], expected)


@pytest.mark.parametrize("kind", CONFIGS)
def test_gradient_checkpointing_changes_no_number(kind):
    vectors = make_vectors(4)
    examples = [Example(label_prompt(text), (i,)) for i, text in enumerate(["ab", "cde", "f", "gh"])]
    weights = []
    for checkpointing in (False, True):
        model = make_model(kind, dropout=0.0)
        config = TrainConfig(steps=2, batch_size=4, warmup_steps=1, gradient_checkpointing=checkpointing)
        train.instruct(model, examples, {"rna": vectors}, config, lora=LoraSettings(rank=2))
        weights.append({n: p for n, p in model.named_parameters() if "lora_" in n or n.startswith("projectors.")})
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, msg=name)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("targets", ["all-linear", "attention"])
def test_adapters_go_to_the_layers_of_the_architecture(kind, targets):
    model = make_model(kind)
    add_adapter(model, LoraSettings(rank=2, alpha=4, dropout=0.1, targets=targets))
    adapted = {n.split(".lora_A")[0].split(".")[-1] for n, _ in model.named_parameters() if "lora_A" in n}
    attention = {"q_proj", "k_proj", "v_proj", "o_proj", "dense", "qkv_proj", "query_key_value", "c_attn", "c_proj"}
    assert adapted
    if targets == "attention":
        assert adapted <= attention
    else:
        assert adapted > (adapted & attention) != set(), "there are others than attention"
    assert not any("lm_head" in n or "embed_out" in n for n, _ in model.named_parameters() if "lora_" in n)
    config = model.language_model.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (2, 4, 0.1)


def test_adapters_of_named_layers_and_wrong_names():
    model = make_model()
    add_adapter(model, LoraSettings(rank=2, targets=("q_proj", "down_proj")))
    adapted = {n.split(".lora_A")[0].split(".")[-1] for n, _ in model.named_parameters() if "lora_A" in n}
    assert adapted == {"q_proj", "down_proj"}
    with pytest.raises(ValueError, match=r"nowhere.*not found"):
        add_adapter(make_model(), LoraSettings(targets=("nowhere",)))
    with pytest.raises(ValueError, match="targets is 'everything'; expected 'all-linear', 'attention' or a list"):
        add_adapter(make_model(), LoraSettings(targets="everything"))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_without_pad_and_start_tokens_trains_and_writes_as_one_with(kind):
    """The end token pads, outside of the loss; the loss is that of examples of their own."""
    model, vectors = make_model(kind), make_vectors(2)
    model.tokenizer.pad_token = None
    examples = [
        Example([Entity("rna"), Answer("a")], (0,)),
        Example([Text("longer"), Entity("rna"), Answer("bcd")], (1,)),
    ]
    source = PromptSource(model, examples, {"rna": vectors})
    task = PromptTask(model).eval()
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        both = task(source.batch(np.array([0, 1]), rng))
        alone = [task(source.batch(np.array([i]), rng)) for i in (0, 1)]
    n = [2 + 1, 4 + 1]
    expected = sum(k * float(out["loss"]) for k, out in zip(n, alone, strict=True)) / sum(n)
    assert float(both["loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("objective", ["contrastive", "autoregressive"])
def test_stage_one_moves_the_projector_alone(kind, objective):
    model, vectors = make_model(kind), make_vectors(6)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = TrainConfig(steps=2, batch_size=3, warmup_steps=1)
    train.align(model, vectors, Descriptions(["one", "two"], np.arange(6) % 2), config, objective=objective)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if name.startswith("projectors.rna.")}
