"""What a step costs: operations and activations that are counted, and seconds and memory that are measured."""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from bioverse_sc.models import BioVerse
    from bioverse_sc.train import Task, TrainConfig

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
TIMED_SECONDS = 20.0


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
    weight_storages = {p.untyped_storage()._cdata for p in language_model.parameters()}
    saved_bytes: dict[int, int] = {}  # by storage

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weight_storages:
            saved_bytes[storage._cdata] = storage.nbytes()
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
    return float(counter.get_total_flops()), sum(saved_bytes.values())


def counted_attention() -> str:
    """Name of an attention for models without memory: it computes and keeps what fused kernels do."""
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
        weight_grads = grads[0] @ value.repeat_interleave(shared, 1).transpose(-1, -2)
        _ = weight_grads.transpose(-1, -2) @ grads[0]
        _ = weight_grads @ key.repeat_interleave(shared, 1)
        _ = weight_grads.transpose(-1, -2) @ query
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class _AsOnGPU(TorchFunctionMode):
    """Does as a GPU does what runs otherwise without memory.

    These are autocast's matrix products, and dropout, which keeps a mask of bytes.
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


def time_step(task: Task, batch: dict[str, torch.Tensor], config: TrainConfig, device: str) -> tuple[float, int]:
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
    """Median seconds of a step, over two at least after a first one, and for about 20 seconds at most.

    Parameters
    ----------
    step
        What is timed.
    is_cuda
        Whether it computes on a GPU, for which is waited.
    """
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


def peak_flops(device: str, dtype: torch.dtype, config: TrainConfig) -> tuple[float, str]:
    """Operations per second that the device can do: by its data sheet, or by a large matrix product."""
    name = device_name(device)
    computes = torch.bfloat16 if config.mixed_precision == "bf16" else dtype
    if torch.device(device).type == "cuda" and computes != torch.float32:
        for known, tflops in PEAK_TFLOPS.items():
            if re.search(rf"\b{known}\b", name):
                return tflops * 1e12, f"data sheet of {known}"
    n = 8192 if torch.device(device).type == "cuda" else 2048
    left, right = torch.randn((2, n, n), device=device).to(computes)
    seconds = timed(lambda: left @ right, is_cuda=torch.device(device).type == "cuda")
    return 2 * n**3 / seconds, f"a product of two {n} x {n} {str(computes).removeprefix('torch.')} matrices"


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device


def free_bytes(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available
