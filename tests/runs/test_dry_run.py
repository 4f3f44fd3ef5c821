"""Dry runs against real models of the same shape, and counts against formulas."""

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig
from typer.testing import CliRunner

import bioverse_sc as bsc
from bioverse_sc.cli import app
from bioverse_sc.runs import AlignRun, InstructRun, NewModel, TrainingData, _cost, dry_run
from bioverse_sc.runs import _dry_run as dry
from bioverse_sc.train import LoraSettings, TrainConfig, add_adapter
from tests.tiny import make_encoder, make_model

ROOT = Path(__file__).parents[2]
STEPS = TrainConfig(steps=10, batch_size=4, max_tokens=64)
DATA = TrainingData(Path("cells.h5ad"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(_cost, "TIMED_SECONDS", 0.05)
    monkeypatch.setattr(_cost, "peak_flops", lambda *_: (1e11, "a guess"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    model = make_model(encoders={"rna": make_encoder()}, n_tokens=2)
    bsc.models.save(model, folder, include_language_model=True)
    return folder


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """Folder with a config.json, and nothing else."""
    folder = tmp_path_factory.mktemp("shape")
    shape = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3}
    config = LlamaConfig(num_attention_heads=8, num_key_value_heads=2, tie_word_embeddings=False, **shape)
    config.save_pretrained(folder)
    return folder


def new(language_model, **changes):
    projectors = {"rna": bsc.models.ProjectorConfig(hidden_width=24, n_tokens=2)}
    return NewModel("mine", str(language_model), encoders={"rna": "whole-human"}, projectors=projectors, **changes)


def align(language_model, *, train=STEPS, objective="autoregressive", **changes):
    return AlignRun(Path("out"), DATA, train, model=new(language_model, **changes), objective=objective)


def instruct(saved, *, train=STEPS, **changes):
    return InstructRun(Path("out"), str(saved), DATA, train, **({"keep_alignment": False} | changes))


def count(parameters):
    return sum(p.numel() for p in parameters)


@pytest.mark.parametrize("train_projectors", [True, False])
def test_parameters_of_stage_2_are_those_of_the_real_model(train_projectors, saved):
    lora = LoraSettings(rank=3)
    found = dry_run(instruct(saved, lora=lora, train_projectors=train_projectors))
    model = bsc.models.load(saved)
    add_adapter(model, lora)
    adapter = count(p for name, p in model.named_parameters() if "lora_" in name)
    assert found.parameters == count(model.parameters())
    assert found.trained == adapter + train_projectors * count(model.projectors.parameters())
    assert found.weight_bytes == sum(p.numel() * p.element_size() for p in model.parameters())
    assert found.not_run == ""
    assert found.step_seconds > 0


def test_an_adapter_that_is_there_is_taken_as_it_is(saved, tmp_path):
    model = bsc.models.load(saved)
    add_adapter(model, LoraSettings(rank=2, targets=("q_proj", "v_proj")))
    bsc.models.save(model, tmp_path / "tuned", include_language_model=True)
    found = dry_run(instruct(tmp_path / "tuned", lora=LoraSettings(rank=9)))
    assert found.parameters == count(model.parameters())


@pytest.mark.parametrize("objective", ["contrastive", "autoregressive"])
@pytest.mark.parametrize("source", ["new", "bundled", "start"])
def test_parameters_of_stage_1_are_those_of_the_real_model(objective, source, saved, mini):
    if source == "start":
        run = AlignRun(Path("out"), DATA, STEPS, start=str(saved), objective=objective)
        model = bsc.models.load(saved)
    else:
        named = str(saved) if source == "new" else "mini"
        encoders = {"rna": str(saved / "encoders" / "rna") if source == "new" else "mini"}
        shapes = {"rna": bsc.models.ProjectorConfig(n_layers=2)}
        run = AlignRun(
            Path("out"),
            DATA,
            STEPS,
            model=NewModel("m", named, encoders=encoders, projectors=shapes),
            objective=objective,
        )
        encoder = make_encoder() if source == "new" else mini.encoders["rna"]
        model = bsc.models.create(named, {"rna": encoder}, name="m", projectors=shapes)
    found = dry_run(run)
    assert found.parameters == count(model.parameters())
    assert found.trained == count(model.projectors["rna"].parameters())


def test_the_width_of_stored_vectors_is_that_of_the_file(cells, language_model, tmp_path):
    import scipy.sparse as sp

    cells.obsm["X_rep"] = cells.obsm["X_pca"][:, :7] if "X_pca" in cells.obsm else cells.X[:, :7].toarray()
    cells.obsm["X_sparse"] = sp.csr_matrix(cells.obsm["X_rep"])
    cells.write_h5ad(tmp_path / "c.h5ad")
    for key in ("X_rep", "X_sparse"):
        assert dry._stored_width(tmp_path / "c.h5ad", "rna", key) == 7
    with pytest.raises(KeyError, match="no matrix 'X_no'"):
        dry._stored_width(tmp_path / "c.h5ad", "rna", "X_no")
    assert dry._stored_width(tmp_path / "later.h5ad", "rna", "X_rep") == dry.ENCODER_WIDTH


def products(config, *, batch, length):
    """Operations of a forward pass: of the linear layers, of the head, and of attention."""
    head_width = config.hidden_size // config.num_attention_heads
    keys = config.num_key_value_heads * head_width
    linear = (
        2 * config.hidden_size**2 + 2 * config.hidden_size * keys + 3 * config.hidden_size * config.intermediate_size
    )
    layers = config.num_hidden_layers
    n = batch * length
    head = 2 * n / 2 * config.hidden_size * config.vocab_size
    return 2 * n * layers * linear, head, 4 * n * length * config.hidden_size * layers


def test_operations_of_frozen_weights_are_forward_and_one_backward(language_model):
    """Frozen weights have no products for their own gradients: twice the forward pass, not three times.

    Attention has them.
    """
    linear, head, attention = products(LlamaConfig.from_pretrained(language_model), batch=4, length=64)
    found = dry_run(align(language_model))
    assert found.flops == pytest.approx(2 * linear + 2 * head + 3 * attention, rel=0.01)
    assert found.tokens == 4 * 64
    assert found.mfu == pytest.approx(found.flops / found.step_seconds / 1e11)


def test_operations_of_an_adapter_are_three_passes(saved):
    lora = LoraSettings(rank=4)
    linear, head, attention = products(bsc.models.load(saved).language_model.config, batch=4, length=64)
    model = bsc.models.load(saved)
    add_adapter(model, lora)
    adapter = 2 * 4 * 64 * count(p for name, p in model.named_parameters() if "lora_" in name)
    found = dry_run(instruct(saved, lora=lora))
    assert found.flops == pytest.approx(2 * linear + 2 * head + 3 * attention + 3 * adapter, rel=0.01)


def test_the_operations_of_micro_batches_add_up(saved):
    whole = dry_run(instruct(saved))
    parts = dry_run(instruct(saved, train=dataclasses.replace(STEPS, micro_batch_size=1)))
    # torch before 2.13 counts a product more or less, by the shape of the batch
    assert parts.flops == pytest.approx(whole.flops, rel=1e-4)
    assert parts.activation_bytes < whole.activation_bytes / 3
    assert parts.tokens == whole.tokens


def test_operations_are_those_that_really_run(language_model):
    """Counted without memory, and on a model with memory, by torch's counter."""
    from torch.utils.flop_counter import FlopCounterMode

    run = align(language_model)
    shapes = dry._shapes(run, None)
    dry._build(shapes, run, "meta")
    model = dry._build(shapes, run, "cpu")
    assert model.language_model.config._attn_implementation == "sdpa", "what is timed has its own attention"
    # torch does not count the fused kernel of CPUs
    model.language_model.set_attn_implementation("eager")
    embedded = torch.randn(4, 64, 64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        out = model.language_model(inputs_embeds=embedded, use_cache=False, logits_to_keep=torch.arange(31, 63))
        out.logits.sum().backward()
    assert dry_run(run).flops == pytest.approx(counter.get_total_flops(), rel=0.01)


def kept_by_a_real_pass(run):
    model = dry._build(dry._shapes(run, None), run, "cpu").train()
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept, alive = {}, []

    def note(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
        return tensor

    embedded = torch.randn(4, 64, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = model.language_model(inputs_embeds=embedded, use_cache=False, logits_to_keep=torch.arange(31, 63))
        loss = out.logits.float().log_softmax(-1).sum()
    del loss
    return sum(kept.values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_those_that_are_really_kept(checkpointing, language_model):
    run = align(language_model, train=dataclasses.replace(STEPS, gradient_checkpointing=checkpointing))
    assert dry_run(run).activation_bytes == pytest.approx(kept_by_a_real_pass(run), rel=0.1)


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing(language_model):
    def activations(**changes):
        return dry_run(align(language_model, train=dataclasses.replace(STEPS, **changes))).activation_bytes

    plain = activations()
    assert activations(batch_size=8) == pytest.approx(2 * plain, rel=0.05)
    # no matrix of length x length is kept
    assert activations(max_tokens=256) == pytest.approx(4 * plain, rel=0.05)
    assert activations(gradient_checkpointing=True) < plain / 3
    assert activations(mixed_precision="bf16") < plain


def test_no_prompt_is_longer_than_the_language_model_reads(saved):
    found = dry_run(instruct(saved, train=dataclasses.replace(STEPS, max_tokens=10_000)))
    assert found.tokens == 4 * 256


def test_what_does_not_fit_is_counted_and_not_run(saved, monkeypatch):
    monkeypatch.setattr(_cost, "free_bytes", lambda _: 1)
    monkeypatch.setattr(_cost, "time_step", lambda *_: pytest.fail("it ran"))
    found = dry_run(instruct(saved))
    assert found.step_seconds is None
    assert found.mfu is None
    assert found.flops > 0
    assert found.not_run.startswith("it needs about 0.0 GiB; 0.0 GiB are free here")
    assert f"not run      {found.not_run}" in str(found)


def test_what_would_take_too_long_is_not_run(saved, monkeypatch):
    monkeypatch.setattr(_cost, "peak_flops", lambda *_: (1.0, "a very slow device"))
    assert "would take" in dry_run(instruct(saved)).not_run


def test_a_gpu_without_room_is_no_error(saved, monkeypatch):
    def full(*_):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(_cost, "time_step", full)
    assert dry_run(instruct(saved)).not_run.startswith("it does not fit")


def test_contrastive_steps_run_without_the_language_model(language_model, monkeypatch):
    real, built = dry._build, []

    def build(shapes, run, device):
        built.append(device)
        return real(shapes, run, device)

    monkeypatch.setattr(dry, "_build", build)
    monkeypatch.setattr(_cost, "free_bytes", lambda _: 0)
    found = dry_run(align(language_model, objective="contrastive"))
    assert built == ["meta"]
    assert found.step_seconds > 0
    assert found.tokens is found.flops is found.activation_bytes is None
    assert found.peak_bytes > found.weight_bytes
    assert "the language model does not run" in str(found)


def test_contrast_in_parts_is_noted(saved, language_model):
    train = dataclasses.replace(STEPS, micro_batch_size=2)
    note = "note         the contrastive loss takes no micro-batches: this needs 2 processes of 2 examples"
    assert note in str(dry_run(instruct(saved, train=train, keep_alignment=True)))
    assert "keep_alignment" in str(dry_run(instruct(saved, train=train, keep_alignment=True)))
    assert note in str(dry_run(align(language_model, train=train, objective="contrastive")))
    assert "note" not in str(dry_run(instruct(saved, train=train)))


def test_four_bits_are_noted(language_model):
    found = dry_run(align(language_model, load_in_4bit=True, dtype="float32"))
    assert "load_in_4bit is not built" in str(found)


def test_a_stage_whose_start_is_not_there_needs_a_shape(saved, language_model):
    run = instruct("runs/align/model")
    with pytest.raises(
        FileNotFoundError, match=r"no saved model 'runs/align/model' yet.*Train stage 1 first.*--shape FILE"
    ):
        dry_run(run)
    found = dry_run(run, shape=language_model / "config.json")
    assert found.step_seconds > 0
    assert "there is no model 'runs/align/model' yet" in str(found)
    with pytest.raises(FileNotFoundError, match="neither here nor to be fetched; pass the file: --shape FILE"):
        dry_run(run, shape=saved / "gone.json")


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_the_recipe_of_8_billion_parameters_is_counted(stage, monkeypatch):
    monkeypatch.setattr(_cost, "free_bytes", lambda _: 0)
    monkeypatch.setattr(_cost, "time_step", lambda *_: (1.0, 0))
    recipe = ROOT / "recipes" / "granite-8b"
    args = ["train", stage, "--config", recipe / f"{stage}.yaml", "--dry-run", "--shape", recipe / "shape.json"]
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == 0, result.output
    assert "parameters   8," in result.output
    if stage == "instruct":
        assert "not run      it needs about" in result.output
        assert "TFLOP a step" in result.output


def test_the_command_prints_speed_and_utilisation(language_model, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "output: out\nobjective: autoregressive\ndata: {file: gone.h5ad}\n"
        f"model: {{name: m, language_model: {language_model}, encoders: {{rna: whole-human}}}}\n"
        "train: {steps: 100, batch_size: 2, max_tokens: 32, learning_rate: 1e-3}\n"
    )
    result = CliRunner().invoke(app, ["train", "align", "-c", str(tmp_path / "run.yaml"), "--dry-run"])
    assert result.exit_code == 0, result.output
    for words in ("tokens/s", "MFU", "% of 0.10 TFLOP/s (a guess)", "peak memory", "so 100 steps take"):
        assert words in result.output
    assert not (tmp_path / "out").exists()
    without = CliRunner().invoke(app, ["train", "align", "-c", str(tmp_path / "run.yaml"), "--shape", "x"])
    assert without.exit_code == 1
    assert "--shape goes with --dry-run" in without.output


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("NVIDIA H200", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA L4", 121), ("NVIDIA L40S", 362), ("NVIDIA L40", None)],
)
def test_utilisation_is_of_the_device(name, tflops, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(_cost, "device_name", lambda _: name)
    monkeypatch.setattr(_cost, "timed", lambda *_, **__: 1.0)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: torch.zeros(2, 1, 1))
    peak, source = _cost.peak_flops("cuda", torch.bfloat16, STEPS)
    assert (peak == tflops * 1e12) if tflops else ("matrices" in source)
    assert _cost.peak_flops("cuda", torch.float32, STEPS)[1].startswith("a product")


def test_durations_are_in_words():
    assert [dry._duration(s) for s in (2, 90, 7200)] == ["2.0 s", "1.5 minutes", "2.0 hours"]
