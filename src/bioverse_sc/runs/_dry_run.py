"""A stage at its true shape with random weights: does it fit, and how fast is it?"""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from bioverse_sc._quiet import undisturbed
from bioverse_sc.encoders import Precomputed
from bioverse_sc.models import (
    CONFIG,
    IGNORED,
    INSIDE,
    SLOT,
    BioVerse,
    ModelConfig,
    Projector,
    ProjectorConfig,
    is_model,
    model_folder,
)
from bioverse_sc.runs import _cost
from bioverse_sc.runs._config import AlignRun, InstructRun
from bioverse_sc.train import ContrastiveTask, LoraSettings, PromptTask, add_adapter

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from bioverse_sc.runs._config import NewModel
    from bioverse_sc.train import Task

ENCODER_WIDTH = 512
"""Of scGPT's published checkpoints; taken when the encoder is not at hand."""
N_TEXTS = 1000
"""Texts in the table of a contrastive step."""
LONGEST_SECONDS = 900.0
"""What would take longer on a device is counted and not timed."""


@dataclass(frozen=True)
class DryRun:
    """What was measured."""

    device: str
    parameters: int
    """Of language model, projectors and adapter. Encoders have run before."""
    trained: int
    weight_bytes: int
    steps: int
    tokens: int | None = None
    """Tokens of a step; none for a contrastive one."""
    activation_bytes: int | None = None
    """What a micro-batch keeps for its backward pass, by a forward pass without memory."""
    flops: float | None = None
    """Of a step, without what gradient checkpointing computes again."""
    peak_flops: float | None = None
    """Operations per second that the device can do."""
    peak_from: str = ""
    step_seconds: float | None = None
    peak_bytes: int | None = None
    not_run: str = ""
    """Why no step was timed."""
    notes: tuple[str, ...] = ()

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation: useful operations per second, of what the device can do."""
        if self.step_seconds is None or self.flops is None or not self.peak_flops:
            return None
        return self.flops / self.step_seconds / self.peak_flops

    def __str__(self) -> str:
        lines = [
            f"device       {self.device}",
            f"parameters   {self.parameters / 1e6:,.1f} M, of which {self.trained / 1e6:,.2f} M train",
            f"weights      {self.weight_bytes / 2**30:.2f} GiB",
        ]
        if self.activation_bytes is not None:
            lines.append(
                f"activations  {self.activation_bytes / 2**30:.2f} GiB of a micro-batch (counted, not measured)"
            )
        if self.flops is not None:
            lines.append(f"operations   {self.flops / 1e12:,.3f} TFLOP a step")
        if self.step_seconds is None:
            lines.append(f"not run      {self.not_run}")
        if self.peak_bytes is not None:
            lines.append(f"peak memory  {self.peak_bytes / 2**30:.2f} GiB")
        if self.step_seconds is not None:
            took = _duration(self.steps * self.step_seconds)
            lines.append(f"step         {self.step_seconds:.3g} s, so {self.steps} steps take {took}")
            if self.tokens is not None:
                lines.append(f"speed        {self.tokens / self.step_seconds:,.0f} tokens/s")
        if self.mfu is not None and self.peak_flops is not None:
            lines.append(
                f"MFU          {100 * self.mfu:.1f} % of {self.peak_flops / 1e12:,.2f} TFLOP/s ({self.peak_from})"
            )
        return "\n".join([*lines, *(f"note         {note}" for note in self.notes)])


@undisturbed()
def dry_run(run: AlignRun | InstructRun, *, shape: str | Path | None = None, device: str | None = None) -> DryRun:
    """Build a stage's language model, adapter and projector with random weights, and time its steps on one process.

    Every example is as long as ``train.max_tokens`` and has targets in its second half. No data, tokenizer or weights
    are read: only the language model's ``config.json``.

    Parameters
    ----------
    run
        The stage.
    shape
        The ``config.json`` of the language model, or its folder, when neither the model nor the network is at hand.
    device
        Torch device; ``bsc.settings.device`` by default.
    """
    from bioverse_sc._settings import settings

    device = device or settings.torch_device()
    shapes = _shapes(run, shape)
    on_meta = _build(shapes, run, "meta")
    is_contrastive = isinstance(run, AlignRun) and run.objective == "contrastive"
    size, n_micro = _micro_batches(run)
    if n_micro > 1 and (is_contrastive or (isinstance(run, InstructRun) and run.keep_alignment)):
        shapes.notes.append(
            f"the contrastive loss takes no micro-batches: this needs {n_micro} processes of {size} examples"
            + ("" if is_contrastive else ", or keep_alignment: false")
        )
    counted = DryRun(
        device=_cost.device_name(device),
        parameters=sum(p.numel() for p in on_meta.parameters()),
        trained=sum(p.numel() for p in on_meta.parameters() if p.requires_grad),
        weight_bytes=sum(p.numel() * p.element_size() for p in on_meta.parameters()),
        steps=run.train.steps,
        notes=tuple(shapes.notes),
    )
    if is_contrastive:
        return _contrastive(run, on_meta, counted, device)
    return _next_token(run, shapes, on_meta, counted, device)


def _micro_batches(run: AlignRun | InstructRun) -> tuple[int, int]:
    """Examples of a micro-batch, and micro-batches of a step, on one process."""
    return run.train.micro_batch_size or run.train.batch_size, run.train.micro_batches(1)


def _contrastive(run: AlignRun | InstructRun, on_meta: BioVerse, counted: DryRun, device: str) -> DryRun:
    """Time a step of contrastive alignment: its texts' vectors are computed once."""
    task, batch = _contrastive_step(on_meta, run.mod, run.train.batch_size, device)
    seconds, peak = _cost.time_step(task, batch, run.train, device)
    notes = (*counted.notes, "the language model does not run, but its weights are in the peak")
    return replace(counted, step_seconds=seconds, peak_bytes=peak + counted.weight_bytes, notes=notes)


def _next_token(
    run: AlignRun | InstructRun, shapes: _Shapes, on_meta: BioVerse, counted: DryRun, device: str
) -> DryRun:
    """Count a step of the next-token loss, and time one when it fits and does not take too long."""
    size, n_micro = _micro_batches(run)
    most = getattr(shapes.language_model.get_text_config(), "max_position_embeddings", None)
    length = min(run.train.max_tokens, most or run.train.max_tokens)
    flops, activations = _cost.count_step(on_meta, size, length, mixed=run.train.mixed_precision == "bf16")
    peak_flops, peak_from = _cost.peak_flops(device, shapes.dtype, run.train)
    counted = replace(
        counted,
        activation_bytes=activations,
        tokens=run.train.batch_size * length,
        flops=n_micro * flops,
        peak_flops=peak_flops,
        peak_from=peak_from,
    )
    # gradients and the optimizer's two moments are in float32
    needed, free = counted.weight_bytes + 12 * counted.trained, _cost.free_bytes(device)
    # a GPU says itself when activations, an estimate, do not fit; a process without memory is killed
    needed += activations if torch.device(device).type != "cuda" else 0
    if needed > free:
        return replace(
            counted, not_run=f"it needs about {needed / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free here"
        )
    if 3 * flops / peak_flops > LONGEST_SECONDS:
        return replace(counted, not_run=f"a micro-batch would take {_duration(flops / peak_flops)} or more here")
    task = PromptTask(_build(shapes, run, device))
    try:
        seconds, peak = _cost.time_step(task, _prompt_batch(task.model, run.mod, size, length), run.train, device)
    except torch.cuda.OutOfMemoryError:
        return replace(counted, not_run=f"it does not fit into the {free / 2**30:.1f} GiB that are free here")
    return replace(counted, step_seconds=n_micro * seconds, peak_bytes=peak)


@dataclass
class _Shapes:
    """What has to be known of a model to build it with random weights."""

    language_model: PretrainedConfig
    dtype: torch.dtype
    projectors: dict[str, tuple[ProjectorConfig, int]]
    """By modality, with the width of the vectors that it reads."""
    lora: LoraSettings | None
    notes: list[str]


def _shapes(run: AlignRun | InstructRun, shape: str | Path | None) -> _Shapes:
    from transformers import AutoConfig

    lora = run.lora if isinstance(run, InstructRun) else None
    notes: list[str] = []
    if isinstance(run, AlignRun) and run.model is not None:
        source, revision, dtype, projectors = _new(run)
    elif is_model(str(run.start)):
        source, revision, dtype, projectors = _saved(model_folder(str(run.start)))
        lora = _saved_adapter(model_folder(str(run.start))) or lora
    elif shape is not None:
        source, revision, dtype = "", None, "bfloat16"
        projectors = {run.mod: (ProjectorConfig(), ENCODER_WIDTH)}
        notes.append(f"there is no model {run.start!r} yet: taken as bfloat16, with a projector of the default shape")
    else:
        msg = (
            f"start: there is no saved model {run.start!r} yet, so the shape of its language model is not known. Train "
            "stage 1 first, or pass the language model's config.json: --shape FILE."
        )
        raise FileNotFoundError(msg)
    if getattr(getattr(run, "model", None) or run, "load_in_4bit", False):
        dtype = "bfloat16"
        notes.append("load_in_4bit is not built: weights are counted as bfloat16, of which they need about a quarter")
    place = source if shape is None else str(shape)
    try:
        language_model = AutoConfig.from_pretrained(place, revision=revision or "main")
    except OSError as error:
        msg = f"The config.json of {place!r} is neither here nor to be fetched; pass the file: --shape FILE."
        raise FileNotFoundError(msg) from error
    return _Shapes(language_model, getattr(torch, dtype), projectors, lora, notes)


_Source = tuple[str, str | None, str, dict[str, tuple[ProjectorConfig, int]]]
"""Language model with its revision and number format, and the projectors with the width that each reads."""


def _new(run: AlignRun) -> _Source:
    """What a configuration says of a new model."""
    new = cast("NewModel", run.model)
    widths = {mod: _encoder_width(name, mod) for mod, name in new.encoders.items()}
    widths |= {mod: _stored_width(run.data.file, mod, key) for mod, key in run.data.use_rep.items()}
    projectors = {mod: (new.projectors.get(mod, ProjectorConfig()), width) for mod, width in widths.items()}
    return _base(new.language_model), new.revision, new.dtype, projectors


def _saved(folder: Path) -> _Source:
    """What a saved model says of itself."""
    saved = ModelConfig.read(folder / CONFIG)
    source = str(folder / INSIDE) if saved.language_model == INSIDE else saved.language_model
    projectors = {mod: (projector, projector.in_width) for mod, projector in saved.projectors.items()}
    return _base(source), saved.language_model_revision, saved.dtype, projectors


def _base(source: str) -> str:
    """A language model's own folder, when it is named by a model of this package."""
    return str(model_folder(source) / INSIDE) if is_model(source) else source


def _saved_adapter(folder: Path) -> LoraSettings | None:
    file = folder / "adapter" / "adapter_config.json"
    if not file.is_file():
        return None
    saved = json.loads(file.read_text(encoding="utf-8"))
    return LoraSettings(saved["r"], saved["lora_alpha"], saved["lora_dropout"], tuple(saved["target_modules"]))


def _encoder_width(name: str, mod: str) -> int:
    """Width of an encoder's vectors, without its weights."""
    if is_model(name):
        return ModelConfig.read(model_folder(name) / CONFIG).projectors[mod].in_width
    arguments = Path(name) / "args.json"
    return json.loads(arguments.read_text(encoding="utf-8"))["embsize"] if arguments.is_file() else ENCODER_WIDTH


def _stored_width(file: Path, mod: str, key: str) -> int:
    """Width of vectors in a file, of which no more is read."""
    import h5py

    if not file.is_file():
        return ENCODER_WIDTH
    with h5py.File(file) as opened:
        slot = opened.get(f"obsm/{key}", opened.get(f"mod/{mod}/obsm/{key}"))
        shape = getattr(slot, "shape", None) or (() if slot is None else tuple(slot.attrs.get("shape", ())))
    if len(shape) != 2:
        msg = f"data.use_rep: there is no matrix {key!r} in .obsm of {file}."
        raise KeyError(msg)
    return int(shape[1])


def _build(shapes: _Shapes, run: AlignRun | InstructRun, device: str) -> BioVerse:
    """Make a model with random weights, with what its stage trains."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    kernel = {"attn_implementation": _cost.counted_attention()} if device == "meta" else {}
    with torch.device(device):
        # transformers writes into the configuration
        architecture = deepcopy(shapes.language_model)
        language_model = AutoModelForCausalLM.from_config(architecture, dtype=shapes.dtype, **kernel)
    width = language_model.get_input_embeddings().weight.shape[1]
    projectors = {
        mod: shape.for_encoder(Precomputed("", in_width), width) for mod, (shape, in_width) in shapes.projectors.items()
    }
    config = ModelConfig(name="dry run", language_model="", projectors=projectors)
    model = BioVerse(config, language_model, cast("Any", None)).to(device)
    if shapes.lora is not None:
        add_adapter(model, shapes.lora)
    model.requires_grad_(requires_grad=False)
    if isinstance(run, AlignRun):
        model.projectors[run.mod].requires_grad_()
    else:
        model.projectors.requires_grad_(run.train_projectors)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.requires_grad_()
    if run.train.gradient_checkpointing:
        model.checkpoint_gradients(enabled=True)
    return model


def _prompt_batch(model: BioVerse, mod: str, size: int, length: int) -> dict[str, torch.Tensor]:
    """Random prompts with an entity each, and targets in the second half."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(model.embeddings.weight), (size, length), generator=generator)
    targets = ids.clone()
    targets[:, : length // 2] = IGNORED
    n_slots = model.n_tokens[mod]
    ids[:, 1 : 1 + n_slots] = SLOT
    return {
        "ids": ids,
        "targets": targets,
        f"vectors:{mod}": torch.randn((size, model.config.projectors[mod].in_width), generator=generator),
        f"entity:{mod}": torch.arange(size),
        f"slots:{mod}": torch.arange(size * n_slots),
    }


def _contrastive_step(model: BioVerse, mod: str, size: int, device: str) -> tuple[Task, dict[str, torch.Tensor]]:
    shape = model.config.projectors[mod]
    model.projectors[mod] = Projector(shape)
    task = ContrastiveTask(model, mod, torch.randn((N_TEXTS, shape.out_width)), None, attraction=1.0).to(device)
    batch = {
        "vectors": torch.randn((size, shape.in_width)),
        "entity": torch.arange(size),
        "text_of": torch.arange(size) % N_TEXTS,
    }
    return task, batch


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} hours" if hours >= 1 else f"{minutes:.1f} minutes" if minutes >= 1 else f"{seconds:.1f} s"
