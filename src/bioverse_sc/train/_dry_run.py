"""A stage at its true shape with random weights: does it fit, and how fast is it?"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from bioverse_sc.models._bioverse import BioVerse
from bioverse_sc.models._config import ModelConfig, ProjectorConfig, ProjectorShape
from bioverse_sc.models._inject import IGNORED, SLOT
from bioverse_sc.models._projector import Projector
from bioverse_sc.train._run import AlignRun, InstructRun
from bioverse_sc.train._stages import add_adapter
from bioverse_sc.train._tasks import ContrastiveTask, PromptTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PretrainedConfig

    from bioverse_sc.train._config import LoraSettings, TrainConfig
    from bioverse_sc.train._loop import Task

PEAK_TFLOPS = {"H200": 989, "H100": 989, "H800": 989, "A100": 312, "A800": 312, "L40S": 362, "L4": 121, "RTX 4090": 165}
"""Dense bfloat16 throughput that the makers' data sheets give."""
ENCODER_WIDTH = 512
"""Of scGPT's published checkpoints; taken when the encoder is not at hand."""
N_TEXTS = 1000
"""Texts in the table of a contrastive step."""
TIMED_SECONDS = 20.0
LONGEST_SECONDS = 900.0
"""What would take longer on a device is counted and not timed."""


@dataclass(frozen=True)
class DryRun:
    """What was measured."""

    device: str
    parameters: int
    trained: int
    weight_bytes: int
    activation_bytes: int | None
    """What a step keeps for its backward pass, by a forward pass without memory."""
    tokens: int | None
    """Tokens of a step; none for a contrastive one."""
    step_seconds: float | None
    not_run: str
    """Why no step was timed."""
    peak_bytes: int | None
    flops: float | None
    """Of a step, without what gradient checkpointing computes again."""
    peak_flops: float | None
    peak_from: str
    steps: int

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
            return "\n".join([*lines, f"not run      {self.not_run}"])
        if self.peak_bytes is not None:
            lines.append(f"peak memory  {self.peak_bytes / 2**30:.2f} GiB")
        lines.append(
            f"step         {self.step_seconds:.3f} s, so {self.steps} steps take {_duration(self.steps * self.step_seconds)}"
        )
        if self.tokens is not None:
            lines.append(f"speed        {self.tokens / self.step_seconds:,.0f} tokens/s")
        if self.mfu is not None and self.peak_flops is not None:
            lines.append(
                f"MFU          {100 * self.mfu:.1f} % of {self.peak_flops / 1e12:,.2f} TFLOP/s ({self.peak_from})"
            )
        return "\n".join(lines)


def dry_run(run: AlignRun | InstructRun, *, shape: str | Path | None = None, device: str | None = None) -> DryRun:
    """Build a stage's language model, adapter and projector with random weights, and time its steps on one process.

    Every example is as long as ``train.max_tokens`` and has targets in its second half. No data, tokenizer or weights are read:
    only the language model's ``config.json``.

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
    architecture, dtype, projector, in_width = _shapes(run, shape)
    lora = run.lora if isinstance(run, InstructRun) else None
    is_contrastive = isinstance(run, AlignRun) and run.objective == "contrastive"
    size = run.train.micro_batch_size or run.train.batch_size
    n_micro = run.train.micro_batches(1)
    on_meta = _build(architecture, dtype, projector, in_width, lora, run, "meta")
    of = on_meta.projectors if is_contrastive else on_meta
    found = DryRun(
        device=_name(device),
        parameters=sum(p.numel() for p in on_meta.parameters()),
        trained=sum(p.numel() for p in of.parameters() if p.requires_grad),
        weight_bytes=sum(p.numel() * p.element_size() for p in on_meta.parameters()),
        activation_bytes=None,
        tokens=None,
        step_seconds=None,
        not_run="",
        peak_bytes=None,
        flops=None,
        peak_flops=None,
        peak_from="",
        steps=run.train.steps,
    )
    if is_contrastive:
        # the language model does not run, and its texts' vectors are computed once
        seconds, peak = _time(*_contrastive_step(on_meta, run.modality, size, device), run.train, device)
        return replace(found, step_seconds=seconds, peak_bytes=peak)
    flops, activations = count_step(on_meta, size, run.train.max_tokens)
    peak_flops, peak_from = _peak(device, dtype, run.train)
    found = replace(
        found,
        activation_bytes=activations,
        tokens=run.train.batch_size * run.train.max_tokens,
        flops=n_micro * flops,
        peak_flops=peak_flops,
        peak_from=peak_from,
    )
    # gradients and the optimizer's state are in float32
    needed, free = found.weight_bytes + 16 * found.trained + activations, _free_bytes(device)
    if needed > free:
        return replace(found, not_run=f"it needs about {needed / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free here")
    if 3 * flops / peak_flops > LONGEST_SECONDS:
        return replace(found, not_run=f"a micro-batch would take {_duration(flops / peak_flops)} or more here")
    model = _build(architecture, dtype, projector, in_width, lora, run, device)
    batch = _prompt_batch(model, run.modality, size, run.train.max_tokens)
    seconds, peak = _time(PromptTask(model), batch, run.train, device)
    return replace(found, step_seconds=n_micro * seconds, peak_bytes=peak)


def _shapes(
    run: AlignRun | InstructRun, shape: str | Path | None
) -> tuple[PretrainedConfig, torch.dtype, ProjectorShape, int]:
    """Architecture and number format of the language model; shape of the projector, and the width that it reads."""
    from transformers import AutoConfig

    from bioverse_sc.models import bundled_models
    from bioverse_sc.models._io import CONFIG, INSIDE, model_folder

    dtype, projector, in_width = "float32", ProjectorShape(), ENCODER_WIDTH
    source, revision = "", "main"
    new = run.model if isinstance(run, AlignRun) else None
    start = run.start
    if new is not None:
        source, revision, dtype = new.language_model, new.revision or "main", new.dtype
        projector = new.projectors.get(run.modality, projector)
        start = source if source in bundled_models() else None
    if start is not None and (start in bundled_models() or (Path(start) / CONFIG).is_file()):
        saved = ModelConfig.read(model_folder(start) / CONFIG)
        inside = saved.language_model == INSIDE
        source = str(model_folder(start) / INSIDE) if inside else saved.language_model
        revision = saved.language_model_revision or "main"
        if new is None:
            dtype, of = saved.dtype, saved.projectors[run.modality]
            in_width = of.in_width
            projector = ProjectorShape(of.hidden_width, of.n_tokens, of.n_layers, of.layer_norm, of.dropout)
    elif new is None and shape is None:
        msg = (
            f"There is no saved model {start!r} yet, so the shape of its language model is not known; train stage 1 first, or pass "
            "its config.json: --shape FILE."
        )
        raise FileNotFoundError(msg)
    elif new is None:
        # the model of stage 1 is not there yet
        dtype = "bfloat16"
    if shape is not None:
        source = str(shape)
    try:
        architecture = AutoConfig.from_pretrained(source, revision=revision)
    except OSError as error:
        msg = f"The config.json of {source!r} is neither here nor to be fetched; pass the file: --shape FILE."
        raise FileNotFoundError(msg) from error
    return architecture, getattr(torch, dtype), projector, in_width


def _build(
    architecture: PretrainedConfig,
    dtype: torch.dtype,
    projector: ProjectorShape,
    in_width: int,
    lora: LoraSettings | None,
    run: AlignRun | InstructRun,
    device: str,
) -> BioVerse:
    """Make a model with random weights, with what its stage trains."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        language_model = AutoModelForCausalLM.from_config(architecture, dtype=dtype)
    width = language_model.get_input_embeddings().weight.shape[1]
    shape = ProjectorConfig(
        encoder="",
        encoder_fingerprint="",
        in_width=in_width,
        hidden_width=projector.hidden_width or width,
        out_width=width,
        n_tokens=projector.n_tokens,
        n_layers=projector.n_layers,
        layer_norm=projector.layer_norm,
        dropout=projector.dropout,
    )
    config = ModelConfig(name="dry run", language_model="", projectors={run.modality: shape})
    model = BioVerse(config, language_model, cast("Any", None)).to(device)
    model.requires_grad_(requires_grad=False)
    model.projectors.requires_grad_(getattr(run, "train_projectors", True))
    if lora is not None:
        add_adapter(model, lora)
    if run.train.gradient_checkpointing:
        model.checkpoint_gradients(enabled=True)
    return model


def _prompt_batch(model: BioVerse, modality: str, size: int, length: int) -> dict[str, torch.Tensor]:
    """Random prompts with an entity each, and targets in the second half."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(model.embeddings.weight), (size, length), generator=generator)
    targets = ids.clone()
    targets[:, : length // 2] = IGNORED
    n_slots = model.n_tokens[modality]
    ids[:, 1 : 1 + n_slots] = SLOT
    return {
        "ids": ids,
        "targets": targets,
        f"vectors:{modality}": torch.randn((size, model.config.projectors[modality].in_width), generator=generator),
        f"entity:{modality}": torch.arange(size),
        f"slots:{modality}": torch.arange(size * n_slots),
    }


def _contrastive_step(model: BioVerse, modality: str, size: int, device: str) -> tuple[Task, dict[str, torch.Tensor]]:
    shape = model.config.projectors[modality]
    model.projectors[modality] = Projector(shape)
    task = ContrastiveTask(model, modality, torch.randn((N_TEXTS, shape.out_width)), None, attraction=1.0).to(device)
    batch = {
        "vectors": torch.randn((size, shape.in_width)),
        "entity": torch.arange(size),
        "text_of": torch.arange(size) % N_TEXTS,
    }
    return task, batch


def _time(task: Task, batch: dict[str, torch.Tensor], config: TrainConfig, device: str) -> tuple[float, int | None]:
    """Seconds of a step of one micro-batch, and the peak of memory, after a first step that is not timed."""
    task = task.to(device).train()
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    trained = [p for p in task.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    is_cuda = torch.device(device).type == "cuda"

    def step() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=config.mixed_precision == "bf16"):
            loss = task(batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(step, is_cuda=is_cuda)
    peak = torch.cuda.max_memory_allocated() if is_cuda else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return seconds, peak


def timed(step: Callable[[], object], *, is_cuda: bool = False) -> float:
    """Median seconds of a step, over at least two after a first one, and for at most about :data:`TIMED_SECONDS`."""
    taken: list[float] = []
    step()
    while len(taken) < 2 or (sum(taken) < TIMED_SECONDS and len(taken) < 20):
        if is_cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        step()
        if is_cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2]


def count_step(model: BioVerse, size: int, length: int) -> tuple[float, int]:
    """Operations of a forward and a backward pass over a micro-batch, and bytes kept between them.

    Both are counted by torch on a model without memory. Gradient checkpointing saves bytes; the operations that it repeats
    are not counted, as they are no progress.
    """
    from torch.autograd.graph import saved_tensors_hooks
    from torch.utils.flop_counter import FlopCounterMode

    language_model = model.language_model
    shape = (size, length, model.embeddings.embedding_dim)
    embedded = torch.empty(shape, dtype=model.embeddings.weight.dtype, device="meta", requires_grad=True)
    positions = torch.arange(length // 2 - 1, length - 1, device="meta")
    # transformers makes a mask by looking at values, which are not there
    mask = torch.empty((size, 1, length, length), dtype=torch.bool, device="meta")
    of_weights = {p.untyped_storage()._cdata for p in language_model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in of_weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    def forward() -> torch.Tensor:
        out = language_model(inputs_embeds=embedded, attention_mask=mask, logits_to_keep=positions, use_cache=False)
        return out.logits.float().log_softmax(-1).sum()

    language_model.train()
    with saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    # what is kept is alive until here, so that no storage was counted twice or missed
    language_model.eval()
    with FlopCounterMode(display=False) as counter:
        forward().backward()
    return float(counter.get_total_flops()), sum(kept.values())


def _peak(device: str, dtype: torch.dtype, config: TrainConfig) -> tuple[float, str]:
    """Operations per second that the device can do: by its data sheet, or by a large matrix product."""
    name = _name(device)
    computes = torch.bfloat16 if config.mixed_precision == "bf16" else dtype
    if torch.device(device).type == "cuda" and computes != torch.float32:
        for known, tflops in PEAK_TFLOPS.items():
            if known in name:
                return tflops * 1e12, f"data sheet of {known}"
    n = 8192 if torch.device(device).type == "cuda" else 2048
    left, right = torch.randn((2, n, n), device=device).to(computes)
    seconds = timed(lambda: left @ right, is_cuda=torch.device(device).type == "cuda")
    return 2 * n**3 / seconds, f"a product of two {n} x {n} {str(computes).removeprefix('torch.')} matrices"


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device


def _free_bytes(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return f"{hours:.1f} hours" if hours >= 1 else f"{minutes:.1f} minutes" if minutes >= 1 else f"{seconds:.1f} s"
