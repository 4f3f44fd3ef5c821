"""The one training loop: optimiser, schedule, precision, checkpoints. It knows no stage."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from bioverse_sc._logging import logger, progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bioverse_sc.train._config import TrainConfig


class BatchSource(Protocol):
    """Training examples. All randomness comes from ``rng``, so a resumed run sees the batches of an unbroken one."""

    lengths: np.ndarray | None
    """Tokens of each example, to put examples of one length together; ``None`` when all are alike."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Collate the examples of these indices."""
        ...


class Task(torch.nn.Module):
    """What is trained: its parameters with ``requires_grad``; ``forward(batch)`` gives ``{"loss": ..., metrics}``."""

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """Name the parameters that train."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


GROUPED_BATCHES = 32
"""Batches over which examples are sorted by length: enough for little padding, few enough to stay well mixed."""


def batch_indices(
    n_examples: int, batch_size: int, step: int, seed: int, lengths: np.ndarray | None = None
) -> np.ndarray:
    """Indices of a step. Epochs are permutations seeded by their number, so any step can be computed on its own.

    With ``lengths``, the examples of :data:`GROUPED_BATCHES` consecutive batches are shared out among these by length,
    so that a batch needs little padding.
    """
    if lengths is None:
        return _shuffled(n_examples, np.arange(step * batch_size, (step + 1) * batch_size), seed)
    group, place = divmod(step, GROUPED_BATCHES)
    size = GROUPED_BATCHES * batch_size
    together = _shuffled(n_examples, np.arange(group * size, (group + 1) * size), seed)
    together = together[np.argsort(lengths[together], kind="stable")].reshape(GROUPED_BATCHES, batch_size)
    return together[np.random.default_rng([seed, 4, group]).permutation(GROUPED_BATCHES)[place]]


def _shuffled(n_examples: int, positions: np.ndarray, seed: int) -> np.ndarray:
    """Example at each position of an endless series of shuffled epochs."""
    indices = np.empty(len(positions), dtype=np.int64)
    for epoch in np.unique(positions // n_examples):
        order = np.random.default_rng([seed, 1, int(epoch)]).permutation(n_examples)
        here = positions // n_examples == epoch
        indices[here] = order[positions[here] % n_examples]
    return indices


def fit(
    task: Task,
    source: BatchSource,
    config: TrainConfig,
    *,
    folder: str | Path | None = None,
    description: str = "train",
) -> list[dict[str, float]]:
    """Train a task.

    Parameters
    ----------
    task
        Trained in place.
    source
        Its examples.
    config
        Steps, batch size, rates.
    folder
        Where checkpoints and ``log.jsonl`` go. When it holds a checkpoint of the same configuration, training goes on
        from there.
    description
        Shown by the progress bar.

    Returns
    -------
    The logged metrics: a dict with ``step``, ``loss`` and the task's own for every ``log_every`` steps.
    """
    from accelerate import Accelerator

    if len(source) == 0:
        msg = "There is nothing to train on: the data set has no examples."
        raise ValueError(msg)
    torch.manual_seed(config.seed)
    # precision is ours, as accelerate fixes its own for the life of the process
    accelerator = Accelerator()
    autocast = torch.autocast(accelerator.device.type, torch.bfloat16, enabled=config.mixed_precision == "bf16")
    decayed = [p for p in task.trained().values() if p.ndim > 1]
    plain = [p for p in task.trained().values() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))
    wrapped, optimizer = accelerator.prepare(task, optimizer)
    checkpoint = Path(folder) / "checkpoint" if folder else None
    start = 0
    history: list[dict[str, float]] = []
    if checkpoint and checkpoint.exists():
        start, history = _load_checkpoint(checkpoint, task, optimizer, scheduler, config)
        logger.info("%s: resumed at step %d of %d", description, start, config.steps)
    wrapped.train()
    per_process = config.batch_size // accelerator.num_processes
    share = slice(accelerator.process_index * per_process, (accelerator.process_index + 1) * per_process)
    window: list[dict[str, torch.Tensor]] = []
    began = time.perf_counter()
    with progress(total=config.steps, initial=start, description=description) as bar:
        for step in range(start, config.steps):
            indices = batch_indices(len(source), config.batch_size, step, config.seed, source.lengths)[share]
            rng = np.random.default_rng([config.seed, 2, step, accelerator.process_index])
            batch = {k: v.to(accelerator.device) for k, v in source.batch(indices, rng).items()}
            # dropout too must not depend on where a run was interrupted
            torch.manual_seed(int(np.random.default_rng([config.seed, 3, step]).integers(2**31)))
            with autocast:
                out = wrapped(batch)
            loss = out["loss"]
            if not math.isfinite(loss.item()):
                msg = f"{description}: the loss is {loss.item()} at step {step}; lower learning_rate."
                raise FloatingPointError(msg)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(list(task.trained().values()), config.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            window.append({k: v.detach() for k, v in out.items()})
            bar.update(1)
            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                row = {k: float(torch.stack([w[k].float() for w in window]).mean()) for k in window[0]}
                history.append({"step": done, **row, "seconds": round(time.perf_counter() - began, 1)})
                window.clear()
                bar.set_postfix({k: f"{v:.3f}" for k, v in row.items()})
            if (
                checkpoint
                and accelerator.is_main_process
                and (done % config.checkpoint_every == 0 or done == config.steps)
            ):
                _save_checkpoint(checkpoint, task, optimizer, scheduler, config, done, history)
    task.eval()
    return history


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then cosine decay to a tenth."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progressed = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progressed)))


def _save_checkpoint(
    folder: Path,
    task: Task,
    optimizer: Any,
    scheduler: Any,
    config: TrainConfig,
    step: int,
    history: list[dict[str, float]],
) -> None:
    """Write a checkpoint beside the old one, then put it in its place: a kill leaves one of the two."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({k: p.detach().contiguous().cpu() for k, p in task.trained().items()}, fresh / "weights.safetensors")
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, fresh / "optimizer.pt")
    (fresh / "state.json").write_text(json.dumps({"step": step, "config": asdict(config), "history": history}))
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    log = "".join(json.dumps(row) + "\n" for row in history)
    (folder.parent / "log.jsonl").write_text(log)


def _load_checkpoint(
    folder: Path, task: Task, optimizer: Any, scheduler: Any, config: TrainConfig
) -> tuple[int, list[dict[str, float]]]:
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    if state["config"] != asdict(config):
        differs = {k for k, v in asdict(config).items() if state["config"].get(k) != v}
        msg = f"{folder} was written with another configuration ({', '.join(sorted(differs))}); use a new folder."
        raise ValueError(msg)
    weights: Mapping[str, torch.Tensor] = load_file(folder / "weights.safetensors")
    trained = task.trained()
    if weights.keys() != trained.keys():
        msg = f"{folder} holds other parameters than this task trains; use a new folder."
        raise ValueError(msg)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(weights[name])
    stored = torch.load(folder / "optimizer.pt", weights_only=True)
    optimizer.load_state_dict(stored["optimizer"])
    scheduler.load_state_dict(stored["scheduler"])
    return state["step"], state["history"]
