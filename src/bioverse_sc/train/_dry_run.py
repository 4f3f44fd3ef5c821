"""A stage at its true shape with random weights: does it fit, and how fast is it?"""

from __future__ import annotations

import json
import re
import sys
import time
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.overrides import TorchFunctionMode

from bioverse_sc._quiet import undisturbed
from bioverse_sc.encoders import Precomputed
from bioverse_sc.models import IGNORED, SLOT, BioVerse, ModelConfig, Projector, ProjectorConfig
from bioverse_sc.train._config import LoraSettings
from bioverse_sc.train._run import AlignRun, InstructRun
from bioverse_sc.train._stages import add_adapter
from bioverse_sc.train._tasks import ContrastiveTask, PromptTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PretrainedConfig

    from bioverse_sc.train._config import TrainConfig
    from bioverse_sc.train._loop import Task

PEAK_TFLOPS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H200 NVL": 835,
    "H200": 989,
    "H100": 989,
    "H800": 989,
    "A100": 312,
    "A800": 312,
    "L40S": 362,
    "L4": 121,
    "RTX 4090": 165,
}
"""Dense bfloat16 throughput that the makers' data sheets give; a name that holds another comes first."""
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
    size, n_micro = run.train.micro_batch_size or run.train.batch_size, run.train.micro_batches(1)
    if n_micro > 1 and (is_contrastive or (isinstance(run, InstructRun) and run.keep_alignment)):
        shapes.notes.append(
            f"the contrastive loss takes no micro-batches: this needs {n_micro} processes of {size} examples"
            + ("" if is_contrastive else ", or keep_alignment: false")
        )
    found = DryRun(
        device=_name(device),
        parameters=sum(p.numel() for p in on_meta.parameters()),
        trained=sum(p.numel() for p in on_meta.parameters() if p.requires_grad),
        weight_bytes=sum(p.numel() * p.element_size() for p in on_meta.parameters()),
        steps=run.train.steps,
        notes=tuple(shapes.notes),
    )
    if is_contrastive:
        # its texts' vectors are computed once
        shapes.notes.append("the language model does not run, but its weights are in the peak")
        seconds, peak = _time(
            *_contrastive_step(on_meta, run.modality, run.train.batch_size, device), run.train, device
        )
        peak += found.weight_bytes
        return replace(found, step_seconds=seconds, peak_bytes=peak, notes=tuple(shapes.notes))
    most = getattr(shapes.language_model.get_text_config(), "max_position_embeddings", None)
    length = min(run.train.max_tokens, most or run.train.max_tokens)
    flops, activations = count_step(on_meta, size, length, mixed=run.train.mixed_precision == "bf16")
    peak_flops, peak_from = _peak(device, shapes.dtype, run.train)
    found = replace(
        found,
        activation_bytes=activations,
        tokens=run.train.batch_size * length,
        flops=n_micro * flops,
        peak_flops=peak_flops,
        peak_from=peak_from,
    )
    # gradients and the optimizer's two moments are in float32
    needed, free = found.weight_bytes + 12 * found.trained, _free_bytes(device)
    # a GPU says itself when activations, an estimate, do not fit; a process without memory is killed
    needed += activations if torch.device(device).type != "cuda" else 0
    if needed > free:
        return replace(found, not_run=f"it needs about {needed / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free here")
    if 3 * flops / peak_flops > LONGEST_SECONDS:
        return replace(found, not_run=f"a micro-batch would take {_duration(flops / peak_flops)} or more here")
    model = _build(shapes, run, device)
    try:
        seconds, peak = _time(PromptTask(model), _prompt_batch(model, run.modality, size, length), run.train, device)
    except torch.cuda.OutOfMemoryError:
        return replace(found, not_run=f"it does not fit into the {free / 2**30:.1f} GiB that are free here")
    return replace(found, step_seconds=n_micro * seconds, peak_bytes=peak)


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

    from bioverse_sc.models import CONFIG, INSIDE, is_model, model_folder

    new = run.model if isinstance(run, AlignRun) else None
    lora = run.lora if isinstance(run, InstructRun) else None
    notes = []
    if new is not None:
        source, revision, dtype = new.language_model, new.revision, new.dtype
        widths = {mod: _encoder_width(name, mod) for mod, name in new.encoders.items()}
        widths |= {mod: _stored_width(run.data.file, mod, key) for mod, key in run.data.use_rep.items()}
        projectors = {mod: (new.projectors.get(mod, ProjectorConfig()), width) for mod, width in widths.items()}
        if is_model(source):
            source = str(model_folder(source) / INSIDE)
    elif is_model(str(run.start)):
        folder = model_folder(str(run.start))
        saved = ModelConfig.read(folder / CONFIG)
        source = str(folder / INSIDE) if saved.language_model == INSIDE else saved.language_model
        if is_model(source):
            source = str(model_folder(source) / INSIDE)
        revision, dtype = saved.language_model_revision, saved.dtype
        projectors = {mod: (shape, shape.in_width) for mod, shape in saved.projectors.items()}
        if (adapter := folder / "adapter" / "adapter_config.json").is_file():
            of = json.loads(adapter.read_text(encoding="utf-8"))
            lora = LoraSettings(of["r"], of["lora_alpha"], of["lora_dropout"], tuple(of["target_modules"]))
    elif shape is not None:
        source, revision, dtype = "", None, "bfloat16"
        projectors = {run.modality: (ProjectorConfig(), ENCODER_WIDTH)}
        notes.append(f"there is no model {run.start!r} yet: taken as bfloat16, with a projector of the default shape")
    else:
        msg = (
            f"start: there is no saved model {run.start!r} yet, so the shape of its language model is not known. "
            "Train stage 1 first, or "
            "pass the language model's config.json: --shape FILE."
        )
        raise FileNotFoundError(msg)
    if getattr(new or run, "load_in_4bit", False):
        dtype = "bfloat16"
        notes.append("load_in_4bit is not built: weights are counted as bfloat16, of which they need about a quarter")
    where = source if shape is None else str(shape)
    try:
        language_model = AutoConfig.from_pretrained(where, revision=revision or "main")
    except OSError as error:
        msg = f"The config.json of {where!r} is neither here nor to be fetched; pass the file: --shape FILE."
        raise FileNotFoundError(msg) from error
    return _Shapes(language_model, getattr(torch, dtype), projectors, lora, notes)


def _encoder_width(name: str, mod: str) -> int:
    """Width of an encoder's vectors, without its weights."""
    from bioverse_sc.models import CONFIG, is_model, model_folder

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
    kernel = {"attn_implementation": _counted_attention()} if device == "meta" else {}
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
        model.projectors[run.modality].requires_grad_()
    else:
        model.projectors.requires_grad_(run.train_projectors)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.requires_grad_()
    if run.train.gradient_checkpointing:
        model.checkpoint_gradients(enabled=True)
    return model


def _counted_attention() -> str:
    """Attention for models without memory, by its name.

    What fused kernels compute and keep, which is no matrix of length x length.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def forward(_module: object, query: Any, key: Any, value: Any, *_: object, **__: object) -> tuple[Any, None]:
        return _Attention.apply(query, key, value).transpose(1, 2), None

    # transformers makes masks only for kernels of its own, by looking at values, which are not there
    ALL_ATTENTION_FUNCTIONS.register("bioverse_counted", forward)
    return "bioverse_counted"


class _Attention(torch.autograd.Function):
    """Products of attention: of queries with keys, of weights with values, and their gradients."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        shared = query.shape[1] // key.shape[1]
        weights = query @ key.repeat_interleave(shared, 1).transpose(-1, -2)
        out = weights @ value.repeat_interleave(shared, 1)
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, _ = ctx.saved_tensors
        shared = query.shape[1] // key.shape[1]
        of_weights = grads[0] @ value.repeat_interleave(shared, 1).transpose(-1, -2)
        _ = of_weights.transpose(-1, -2) @ grads[0]
        _ = of_weights @ key.repeat_interleave(shared, 1)
        _ = of_weights.transpose(-1, -2) @ query
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


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


def _time(task: Task, batch: dict[str, torch.Tensor], config: TrainConfig, device: str) -> tuple[float, int]:
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
        torch.cuda.reset_peak_memory_stats(device)
    return timed(step, is_cuda=is_cuda), _peak_memory(device)


def _peak_memory(device: str) -> int:
    """Most bytes on the GPU, or of this process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


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


class _AsOnGPU(TorchFunctionMode):
    """What runs otherwise without memory than on a GPU.

    Autocast's matrix products, and dropout, which keeps a mask of bytes.
    """

    def __init__(self, *, mixed: bool) -> None:
        super().__init__()
        self.mixed = mixed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.mixed and func in (torch.nn.functional.linear, torch.addmm, torch.Tensor.matmul):
            args = [a.bfloat16() if isinstance(a, torch.Tensor) else a for a in args]
        if func is torch.nn.functional.dropout and kwargs.get("training", True):
            return torch.native_dropout(args[0], kwargs.get("p", args[1] if len(args) > 1 else 0.5), train=True)[0]
        return func(*args, **kwargs)


def count_step(model: BioVerse, size: int, length: int, *, mixed: bool = False) -> tuple[float, int]:
    """Operations of a forward and a backward pass over a micro-batch, and bytes kept between them.

    Both are counted by torch on a model without memory. Gradient checkpointing saves bytes; the operations that it
    repeats are not counted, as they are no progress. Attention is counted without the half that causality leaves out,
    as is usual.
    """
    from torch.autograd.graph import saved_tensors_hooks
    from torch.utils.flop_counter import FlopCounterMode

    language_model = model.language_model
    trains_projector = any(p.requires_grad for p in model.projectors.parameters())
    shape = (size, length, model.embeddings.embedding_dim)
    embedded = torch.empty(shape, dtype=model.embeddings.weight.dtype, device="meta", requires_grad=trains_projector)
    # as of PromptTask: logits where there are targets
    positions = torch.arange(length // 2 - 1, length - 1, device="meta")
    of_weights = {p.untyped_storage()._cdata for p in language_model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in of_weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    def forward() -> torch.Tensor:
        out = language_model(inputs_embeds=embedded, logits_to_keep=positions, use_cache=False)
        return out.logits.float().log_softmax(-1).sum()

    language_model.train()
    with saved_tensors_hooks(note, lambda tensor: tensor), _AsOnGPU(mixed=mixed):
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
            if re.search(rf"\b{known}\b", name):
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
