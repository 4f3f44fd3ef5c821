import numpy as np
import pytest
import torch

from bioverse_sc import train
from bioverse_sc.metrics import modality_gap
from bioverse_sc.models import Answer, Decoding, generate_text, label_log_probabilities, label_prompt
from bioverse_sc.train import Descriptions, Example, LoraSettings, PairSource, PromptTask, TrainConfig, add_adapter
from tests.tiny import CONFIGS, make_encoder, make_model, make_vectors

TEXTS = ["B cell. Markers: CD19.", "T cell. Markers: CD3E.", "monocyte."]
CONFIG = TrainConfig(steps=4, batch_size=6, warmup_steps=1, learning_rate=0.01, log_every=1, checkpoint_every=2)


def groups(n=30, *, seed=0):
    """Vectors in three clusters, and the cluster of each."""
    rng = np.random.default_rng(seed)
    which = np.arange(n) % 3
    return (make_vectors(3)[which] + rng.normal(scale=0.05, size=(n, 16))).astype(np.float32), which


def changed(before, model):
    after = model.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def examples_of(which):
    return [Example(label_prompt(TEXTS[w]), (i,)) for i, w in enumerate(which)]


@pytest.mark.parametrize("objective", ["contrastive", "autoregressive"])
def test_align_changes_the_projector_and_nothing_else(objective):
    model = make_model(encoders={"rna": make_encoder()})
    vectors, which = groups()
    before, encoder = copied(model), {k: v.clone() for k, v in model.encoders["rna"].module.state_dict().items()}
    train.align(model, vectors, Descriptions(TEXTS, which), CONFIG, objective=objective)
    projector = {name for name in before if name.startswith("projectors.rna.")}
    assert changed(before, model) == projector
    after = model.encoders["rna"].module.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in encoder.items())
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.projectors["rna"].training


@pytest.mark.parametrize("with_projector", [True, False])
def test_instruct_changes_adapter_and_projector_and_nothing_else(with_projector):
    model = make_model()
    vectors, which = groups()
    base = {name: p.detach().clone() for name, p in model.language_model.named_parameters()}
    before = copied(model)
    train.instruct(
        model, examples_of(which), {"rna": vectors}, CONFIG, lora=LoraSettings(rank=2), train_projectors=with_projector
    )
    after = copied(model)
    for name, tensor in base.items():
        stem, leaf = name.rsplit(".", 1)
        found = [n for n in after if "lora" not in n and (n.endswith((f".{name}", f".{stem}.base_layer.{leaf}")))]
        assert found, name
        assert torch.equal(after[found[0]], tensor), name
    adapters = [name for name in after if "lora_B" in name]
    assert adapters
    assert all(after[name].any() for name in adapters), "every adapter starts at zero and trains"
    moved = {n for n in before if n.startswith("projectors.") and not torch.equal(before[n], after[n])}
    assert moved == ({n for n in before if n.startswith("projectors.")} if with_projector else set())
    assert not any(p.requires_grad for p in model.parameters())


def test_text_changes_the_language_model_and_nothing_else():
    model = make_model()
    before = copied(model)
    train.pretrain_language_model(model, [Example([Answer(text)]) for text in TEXTS], CONFIG)
    moved = changed(before, model)
    assert moved
    assert all(name.startswith("language_model.") for name in moved)


def test_text_is_learnt():
    model = make_model()
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            parameter *= 0.1 if parameter.ndim > 1 else 1
    config = TrainConfig(steps=60, batch_size=3, learning_rate=0.01, warmup_steps=5, log_every=20)
    history = train.pretrain_language_model(model, [Example([Answer(text)]) for text in TEXTS], config)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]


@pytest.mark.parametrize("objective", ["contrastive", "autoregressive"])
def test_alignment_is_learnt(objective):
    model = make_model(dropout=0.0)
    vectors, which = groups()
    config = TrainConfig(steps=120, batch_size=15, learning_rate=0.01, warmup_steps=10, log_every=40)
    history = train.align(model, vectors, Descriptions(TEXTS, which), config, objective=objective)
    assert history[-1]["loss"] < (0.7 if objective == "contrastive" else 0.95) * history[0]["loss"]
    if objective == "contrastive":
        assert history[-1]["retrieval"] > 0.95
        soft = model.project("rna", torch.from_numpy(vectors)).mean(dim=1)
        similarity = torch.nn.functional.cosine_similarity(soft[:, None], model.text_vectors(TEXTS)[None], dim=-1)
        assert (similarity.argmax(dim=1).numpy() == which).mean() > 0.95


def test_attraction_brings_entities_to_their_texts():
    vectors, which = groups()
    config = TrainConfig(steps=120, batch_size=15, learning_rate=0.01, warmup_steps=10)
    gaps = []
    for attraction in (0.0, 1.0):
        model = make_model(dropout=0.0)
        train.align(model, vectors, Descriptions(TEXTS, which), config, attraction=attraction)
        soft = model.project("rna", torch.from_numpy(vectors)).mean(dim=1).detach().numpy()
        gaps.append(modality_gap(soft, model.text_vectors(TEXTS).numpy()))
    assert gaps[1] < 0.5 * gaps[0]


def test_stage_two_beside_contrast_keeps_the_alignment():
    vectors, which = groups()
    config = TrainConfig(steps=150, batch_size=15, learning_rate=0.02, warmup_steps=10)
    cosines = []
    for descriptions in (None, {"rna": Descriptions(TEXTS, which)}):
        model = make_model(dropout=0.0)
        train.align(model, vectors, Descriptions(TEXTS, which), config)
        train.instruct(model, examples_of(which), {"rna": vectors}, config, descriptions=descriptions)
        soft = model.project("rna", torch.from_numpy(vectors)).mean(dim=1)
        own = model.text_vectors([TEXTS[w] for w in which])
        cosines.append(float(torch.nn.functional.cosine_similarity(soft, own, dim=-1).mean()))
    assert cosines[1] > 0.9
    assert cosines[1] > cosines[0]


def test_labels_are_learnt_from_the_soft_token_alone():
    labels = ["ab", "cd", "ef"]
    model = make_model(dropout=0.0, labels=labels)
    vectors, which = groups()
    examples = [Example(label_prompt(labels[w]), (i,)) for i, w in enumerate(which)]
    config = TrainConfig(steps=120, batch_size=15, learning_rate=0.01, warmup_steps=10)
    train.instruct(model, examples, {"rna": vectors}, config, lora=LoraSettings(rank=4))
    fresh, truth = groups(seed=5)
    with torch.inference_mode():
        soft = model.project("rna", torch.from_numpy(fresh))
        found = label_log_probabilities(model, label_prompt(), soft, labels)
        written = generate_text(model, [label_prompt()] * len(fresh), soft, Decoding(max_new_tokens=4))
        blank = label_log_probabilities(model, label_prompt(), torch.zeros_like(soft), labels)
    assert (found.argmax(axis=1) == truth).mean() > 0.95
    assert np.mean([text == labels[t] for text, t in zip(written, truth, strict=True)]) > 0.95
    assert len(set(blank.argmax(axis=1))) == 1, "without the soft token all cells are alike"


@pytest.mark.parametrize("kind", CONFIGS)
def test_any_architecture_can_be_tuned(kind):
    model = make_model(kind)
    vectors, which = groups(9)
    config = TrainConfig(steps=2, batch_size=4, warmup_steps=1, log_every=1)
    history = train.instruct(model, examples_of(which), {"rna": vectors}, config)
    assert len(history) == 2
    assert all(np.isfinite(row["loss"]) for row in history)
    soft = model.project("rna", torch.from_numpy(vectors[:2]))
    with torch.inference_mode():
        assert np.isfinite(label_log_probabilities(model, label_prompt(), soft, ["a", "b"])).any(axis=1).all()
        assert len(generate_text(model, [label_prompt()] * 2, soft, Decoding(max_new_tokens=3))) == 2


class Breaks(list):
    """Examples of which the power fails after so many."""

    def __init__(self, items, after):
        super().__init__(items)
        self.left = after

    def __getitem__(self, i):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().__getitem__(i)


@pytest.mark.parametrize("stage", ["instruct", "text"])
def test_a_resumed_stage_equals_an_unbroken_one_bit_by_bit(stage, tmp_path):
    vectors, which = groups()

    def run(model, examples, folder):
        if stage == "instruct":
            lora = LoraSettings(rank=2, dropout=0.2)
            return train.instruct(model, examples, {"rna": vectors}, CONFIG, lora=lora, folder=tmp_path / folder)
        return train.pretrain_language_model(model, examples, CONFIG, folder=tmp_path / folder)

    examples = examples_of(which) if stage == "instruct" else [Example([Answer(t)]) for t in TEXTS]
    whole, broken, resumed = make_model(), make_model(), make_model()
    run(whole, examples, "whole")
    with pytest.raises(KeyboardInterrupt):
        run(broken, Breaks(examples, 3 * CONFIG.batch_size), "broken")
    run(resumed, examples, "broken")
    before, after = whole.state_dict(), resumed.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


def test_a_resumed_alignment_equals_an_unbroken_one_bit_by_bit(tmp_path, monkeypatch):
    vectors, which = groups()
    whole, broken, resumed = make_model(), make_model(), make_model()
    train.align(whole, vectors, Descriptions(TEXTS, which), CONFIG, folder=tmp_path / "whole")
    real, calls = PairSource.batch, []

    def fails(self, indices, rng):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, indices, rng)

    with monkeypatch.context() as patched:
        patched.setattr(PairSource, "batch", fails)
        with pytest.raises(KeyboardInterrupt):
            train.align(broken, vectors, Descriptions(TEXTS, which), CONFIG, folder=tmp_path / "broken")
    train.align(resumed, vectors, Descriptions(TEXTS, which), CONFIG, folder=tmp_path / "broken")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_second_stage_two_goes_on_with_the_same_adapter():
    model = make_model()
    vectors, which = groups()
    train.instruct(model, examples_of(which), {"rna": vectors}, CONFIG, lora=LoraSettings(rank=2))
    names = set(model.state_dict())
    train.instruct(model, examples_of(which), {"rna": vectors}, CONFIG, lora=LoraSettings(rank=2))
    assert set(model.state_dict()) == names


def test_no_examples_are_an_error():
    with pytest.raises(ValueError, match="nothing to train on"):
        train.instruct(make_model(), [], {"rna": make_vectors(1)}, CONFIG)
    with pytest.raises(ValueError, match="nothing to train on"):
        train.align(make_model(), np.zeros((0, 16)), Descriptions(TEXTS, np.zeros(0, dtype=int)), CONFIG)


@pytest.mark.parametrize("objective", ["contrastive", "autoregressive"])
def test_nan_is_an_error_and_changes_nothing(objective):
    model = make_model()
    vectors, which = groups()
    vectors[3, 3] = np.nan
    before = copied(model)
    with pytest.raises(ValueError, match="finite"):
        train.align(model, vectors, Descriptions(TEXTS, which), CONFIG, objective=objective)
    assert not changed(before, model)


def test_an_unknown_objective_is_an_error():
    vectors, which = groups()
    with pytest.raises(ValueError, match="'telepathic'; expected"):
        train.align(make_model(), vectors, Descriptions(TEXTS, which), CONFIG, objective="telepathic")


def test_the_user_s_random_numbers_go_on_as_if_nothing_had_been_drawn():
    vectors, which = groups()
    torch.manual_seed(5)
    expected = torch.rand(3)
    model = make_model()
    torch.manual_seed(5)
    train.align(model, vectors, Descriptions(TEXTS, which), CONFIG)
    train.instruct(model, examples_of(which), {"rna": vectors}, CONFIG, lora=LoraSettings(rank=2))
    assert torch.equal(torch.rand(3), expected)


def test_a_projector_without_entities_stays_as_it_is():
    from dataclasses import replace

    from bioverse_sc.models import BioVerse

    one = make_model()
    shapes = {"rna": one.config.projectors["rna"], "protein": replace(one.config.projectors["rna"], seed=3)}
    model = BioVerse(replace(one.config, projectors=shapes), one.language_model, one.tokenizer)
    vectors, which = groups()
    before = copied(model)
    train.instruct(model, examples_of(which), {"rna": vectors}, CONFIG, lora=LoraSettings(rank=2))
    after = model.state_dict()
    assert all(torch.equal(after[n], t) for n, t in before.items() if n.startswith("projectors.protein."))
    assert not any(torch.equal(after[n], t) for n, t in before.items() if n.startswith("projectors.rna."))


def test_a_frozen_language_model_has_no_dropout_and_its_adapter_has():
    model = make_model("gpt2")
    add_adapter(model, LoraSettings(rank=2, dropout=0.2))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    task = PromptTask(model).train()
    dropouts = {n: m for n, m in task.named_modules() if isinstance(m, torch.nn.Dropout) and m.p > 0}
    assert {n for n, m in dropouts.items() if m.training} == {n for n in dropouts if "lora_" in n or "projectors" in n}
    assert len(dropouts) > 10
    assert not any(m.training for m in task.modules() if type(m).__name__ == "GPT2Attention")
    # a language model that trains as a whole has its own
    whole = make_model("gpt2").requires_grad_()
    assert all(m.training for m in PromptTask(whole).train().modules())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mixed_precision": "fp16"}, "mixed_precision is 'fp16'; expected 'no' or 'bf16'"),
        ({"too_long": "drop"}, "too_long is 'drop'; expected 'error' or 'cut'"),
        ({"warmup_steps": -1}, "warmup_steps is -1; expected 0 or more"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; expected 0 or more"),
    ],
)
def test_settings_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(steps=1, **wrong)


@pytest.mark.parametrize(("name", "value"), [("rank", 0), ("alpha", -1), ("dropout", 1.0)])
def test_settings_of_adapters_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        LoraSettings(**{name: value})


def test_what_changes_no_number_may_change_when_a_run_goes_on(tmp_path, monkeypatch):
    from dataclasses import replace

    vectors, which = groups()
    examples = examples_of(which)
    config = replace(CONFIG, micro_batch_size=1)
    train.instruct(make_model(), examples, {"rna": vectors}, config, folder=tmp_path)
    for change in (
        {"micro_batch_size": 2},
        {"gradient_checkpointing": True},
        {"log_every": 3},
        {"checkpoint_every": 1},
    ):
        train.instruct(make_model(), examples, {"rna": vectors}, replace(config, **change), folder=tmp_path)
    with pytest.raises(ValueError, match=r"another configuration \(seed\)"):
        train.instruct(make_model(), examples, {"rna": vectors}, replace(config, seed=4), folder=tmp_path)


def test_another_device_than_the_first_says_what_to_do(monkeypatch):
    from bioverse_sc import settings

    vectors, which = groups()
    with (
        settings.override(device="cuda:1"),
        pytest.raises(ValueError, match="start Python with CUDA_VISIBLE_DEVICES=1"),
    ):
        train.align(make_model(), vectors, Descriptions(TEXTS, which), CONFIG)


@pytest.mark.parametrize("targets", ["all-linear", "attention", ("q_proj", "down_proj")])
def test_adapters_of_the_last_layers_alone(targets):
    model = make_model()
    add_adapter(model, LoraSettings(rank=2, targets=targets, last_layers=1))
    adapted = {name for name, _ in model.language_model.named_parameters() if "lora_A" in name}
    assert adapted
    assert all(".layers.1." in name for name in adapted)
    every = make_model()
    add_adapter(every, LoraSettings(rank=2, targets=targets))
    both = {name for name, _ in every.language_model.named_parameters() if "lora_A" in name}
    assert adapted == {name for name in both if ".layers.1." in name}


def test_more_layers_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=r"lora\.last_layers is 3; .* has 2 layers"):
        add_adapter(make_model(), LoraSettings(last_layers=3))
