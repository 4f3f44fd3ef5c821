"""One step, and one validation: batches, forward and backward passes, on all processes."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

from bioverse_sc.train._checkpoint import whole
from bioverse_sc.train._order import batch_indices

if TYPE_CHECKING:
    from pathlib import Path

    from accelerate import Accelerator

    from bioverse_sc.train._config import TrainConfig
    from bioverse_sc.train._loop import BatchSource, Task


class Stepper:
    """Does the steps and validations of one run.

    Parameters
    ----------
    task
        What is trained.
    wrapped
        The task as accelerate lays it over the processes.
    optimizer
        Of its parameters.
    source
        Its examples.
    config
        Batch size, precision, largest gradient, seed.
    accelerator
        The processes.
    folder
        Where a batch goes whose loss is not finite.
    description
        Names the run in errors.
    """

    def __init__(
        self,
        task: Task,
        wrapped: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        source: BatchSource,
        config: TrainConfig,
        accelerator: Accelerator,
        folder: Path | None,
        description: str,
    ) -> None:
        self.task = task
        self.wrapped = wrapped
        self.optimizer = optimizer
        self.source = source
        self.config = config
        self.accelerator = accelerator
        self.folder = folder
        self.description = description
        self.trained = [p for p in wrapped.parameters() if p.requires_grad]

    def step(self, step: int, *, terminated: bool) -> tuple[dict[str, float], bool]:
        """Do one step; gives its metrics, and whether any process was told to stop."""
        config, accelerator = self.config, self.accelerator
        rank, n_processes = accelerator.process_index, accelerator.num_processes
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config)
        parts = self._share_of_this_process(step)  # (micro-batches, examples)
        rng = np.random.default_rng([config.seed, 2, step, rank])
        batches = [self.source.batch(part, rng) for part in parts]
        # dropout too must not depend on where a run was interrupted
        torch.manual_seed(int(np.random.default_rng([config.seed, 3, step, rank]).integers(2**31)))
        weights = [self.task.weight(batch) for batch in batches]
        summed = torch.tensor([sum(weights), float(terminated)], device=accelerator.device)
        total, n_terminated = accelerator.reduce(summed, reduction="sum").tolist()
        # every target counts the same, wherever it is computed; gradients are averaged over processes
        shares = [weight * n_processes / total if total else 0.0 for weight in weights]
        losses, metrics = self._gradients(batches, shares)
        # looked at after the gradients are shared, so that all processes stop together
        norm = float(whole(accelerator.clip_grad_norm_(self.trained, config.max_grad_norm)))
        if not_finite := [i for i, loss in enumerate(losses) if not math.isfinite(loss)]:
            self._set_aside(step, parts, batches, not_finite, f"the loss is {losses[not_finite[0]]}")
        if not math.isfinite(norm):
            self._set_aside(step, parts, batches, list(range(len(batches))), f"the gradient's norm is {norm}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.task.after_step()
        values = torch.stack(list(metrics.values()))  # (metrics,)
        if n_processes > 1:
            values = accelerator.reduce(values, "mean")
        return dict(zip(metrics, values.tolist(), strict=True)), n_terminated > 0

    def _share_of_this_process(self, step: int) -> np.ndarray:
        """Indices of the examples that this process sees in a step, shape (micro-batches, examples)."""
        config, source = self.config, self.source
        rank, n_processes = self.accelerator.process_index, self.accelerator.num_processes
        # a step of several micro-batches mixes short and long examples, and so all tasks; each of its parts is of one
        # length
        lengths = source.lengths if config.micro_batch_size is None else None
        indices = batch_indices(len(source), config.batch_size, step, config.seed, lengths, source.weights)
        mine = indices.reshape(n_processes, -1)[rank]
        if config.micro_batch_size is not None and source.lengths is not None:
            mine = mine[np.argsort(source.lengths[mine], kind="stable")]
        return mine.reshape(config.micro_batches(n_processes), -1)

    def _gradients(
        self, batches: list[dict[str, torch.Tensor]], shares: list[float]
    ) -> tuple[list[float], dict[str, torch.Tensor]]:
        """Add up the gradients of the micro-batches; gives the loss of each, and their metrics by their shares."""
        self.wrapped.train()
        losses: list[float] = []
        metrics: dict[str, torch.Tensor] = {}
        for i, (batch, share) in enumerate(zip(batches, shares, strict=True)):
            is_last = i == len(batches) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.wrapped):
                out = self._forward(batch)
                self.accelerator.backward(out["loss"] * share)
            losses.append(float(out["loss"].detach()))
            for name, value in out.items():
                metrics[name] = metrics.get(name, 0.0) + value.detach().float() * share
        return losses, metrics

    def _forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        device = self.accelerator.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.mixed_precision == "bf16"):
            return self.wrapped({k: v.to(device, non_blocking=True) for k, v in batch.items()})

    def _set_aside(
        self, step: int, parts: np.ndarray, batches: list[dict[str, torch.Tensor]], which: list[int], reason: str
    ) -> None:
        """Stop, and keep the batches for whoever looks into them."""
        msg = f"{self.description}: {reason} at step {step}; lower learning_rate."
        if self.folder:
            folder = self.folder / "not_finite"
            folder.mkdir(parents=True, exist_ok=True)
            for i in which:
                part = f"-part-{i}" if len(batches) > 1 else ""
                file = folder / f"step-{step:08d}-process-{self.accelerator.process_index}{part}.safetensors"
                # tensors of a file must not share memory
                tensors = {k: v.detach().cpu().clone().contiguous() for k, v in batches[i].items()}
                save_file(tensors | {"examples": torch.from_numpy(parts[i].copy())}, file)
            msg += f" The batch is in {file}; its 'examples' are the indices of the examples."
        raise FloatingPointError(msg)

    def validate(self, validation: BatchSource, step: int) -> dict[str, float]:
        """Measure the validation examples, all of them on every process, so that no process waits for another."""
        from accelerate.utils import broadcast_object_list

        size = self.config.micro_batch_size or -(-self.config.batch_size // self.accelerator.num_processes)
        order = (
            np.arange(len(validation)) if validation.lengths is None else np.argsort(validation.lengths, kind="stable")
        )
        rng = np.random.default_rng([self.config.seed, 5])
        batches = (validation.batch(order[i : i + size], rng) for i in range(0, len(order), size))
        self.wrapped.eval()
        with torch.no_grad():
            measured = self.task.evaluate(self._forward, batches)
        # processes must agree on what is best, and their devices may differ in the last digit
        measured = broadcast_object_list([measured])[0]
        if not math.isfinite(measured["loss"]):
            msg = f"{self.description}: the validation loss is {measured['loss']} at step {step}; lower learning_rate."
            raise FloatingPointError(msg)
        return measured


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then cosine decay to a tenth."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progressed = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progressed)))
