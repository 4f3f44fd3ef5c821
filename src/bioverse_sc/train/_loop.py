"""The one training loop: optimiser, schedule, precision, checkpoints. It knows no stage."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file

from bioverse_sc._logging import logger, progress
from bioverse_sc._optional import require
from bioverse_sc._settings import settings
from bioverse_sc.train._checkpoint import Checkpoints, Progress, set_trained_weights, trained_weights, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from accelerate import Accelerator

    from bioverse_sc.train._config import TrainConfig

LOG = "log.jsonl"


class BatchSource(Protocol):
    """Training examples. All randomness comes from ``rng``, so a resumed run sees the batches of an unbroken one."""

    lengths: np.ndarray | None
    """Tokens of each example, to put examples of one length together; ``None`` when all are alike."""
    weights: np.ndarray | None
    """How often each example is drawn relative to the others; ``None``: each once in an epoch."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Collate the examples of these indices."""
        ...


class Task(torch.nn.Module):
    """What is trained: its parameters with ``requires_grad``; ``forward(batch)`` gives ``{"loss": ..., metrics}``."""

    whole_batch = False
    """Whether the loss compares the examples of a step with each other, so that it cannot be computed in parts."""

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """Name the parameters that train."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def weight(self, batch: dict[str, torch.Tensor]) -> float:
        """How much a batch counts beside the others of its step: the number of terms that its loss is the mean of."""
        return 1.0

    def after_step(self) -> None:
        """Called after each step of the optimizer, for instance to keep a parameter within bounds."""

    def evaluate(
        self,
        forward: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
        batches: Iterable[dict[str, torch.Tensor]],
    ) -> dict[str, float]:
        """Metrics of validation batches, ``"loss"`` among them; ``forward`` runs the task where it lies."""
        sums: dict[str, float] = {}
        total = 0.0
        for batch in batches:
            weight = self.weight(batch)
            total += weight
            for name, value in forward(batch).items():
                sums[name] = sums.get(name, 0.0) + weight * float(value)
        return {name: value / max(total, 1e-12) for name, value in sums.items()}


GROUPED_BATCHES = 32
"""Batches over which examples are sorted by length: enough for little padding, few enough to stay well mixed."""


def batch_indices(
    n_examples: int,
    batch_size: int,
    step: int,
    seed: int,
    lengths: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Indices of a step. Epochs are drawn with a seed of their number, so any step can be computed on its own.

    With ``lengths``, the examples of :data:`GROUPED_BATCHES` consecutive batches are shared out among these by length,
    so that a batch needs little padding. With ``weights``, an epoch holds each example as often as its weight says.
    """
    if lengths is None:
        return _drawn(n_examples, np.arange(step * batch_size, (step + 1) * batch_size), seed, weights)
    group, place = divmod(step, GROUPED_BATCHES)
    size = GROUPED_BATCHES * batch_size
    together = _drawn(n_examples, np.arange(group * size, (group + 1) * size), seed, weights)
    together = together[np.argsort(lengths[together], kind="stable")].reshape(GROUPED_BATCHES, batch_size)
    return together[np.random.default_rng([seed, 4, group]).permutation(GROUPED_BATCHES)[place]]


def _drawn(n_examples: int, positions: np.ndarray, seed: int, weights: np.ndarray | None) -> np.ndarray:
    """Example at each position of an endless series of epochs."""
    indices = np.empty(len(positions), dtype=np.int64)
    # by value, as an array may be changed
    kept = ("", None) if weights is None else (weights.dtype.str, weights.tobytes())
    for epoch in np.unique(positions // n_examples):
        order = _epoch_order(n_examples, int(epoch), seed, *kept)
        here = positions // n_examples == epoch
        indices[here] = order[positions[here] % n_examples]
    return indices


@lru_cache(maxsize=2)
def _epoch_order(n_examples: int, epoch: int, seed: int, dtype: str, kept: bytes | None) -> np.ndarray:
    """Examples of an epoch, in order. Steps follow each other, so the last epochs are remembered."""
    rng = np.random.default_rng([seed, 1, epoch])
    order = rng.permutation(n_examples)
    if kept is not None:
        # evenly spaced points on the cumulated weights of the shuffled examples: as even as a draw can be
        cumulated = np.cumsum(np.frombuffer(kept, dtype)[order])
        points = (np.arange(n_examples) + rng.random()) * cumulated[-1] / n_examples
        order = order[np.minimum(np.searchsorted(cumulated, points, side="right"), n_examples - 1)]
        order = rng.permutation(order)
    return order


def fit(
    task: Task,
    source: BatchSource,
    config: TrainConfig,
    *,
    validation: BatchSource | None = None,
    folder: str | Path | None = None,
    description: str = "train",
) -> list[dict[str, float]]:
    """Train a task, on all processes that accelerate started.

    Parameters
    ----------
    task
        Trained in place. With ``validation`` it ends with the weights of the lowest validation loss, were it that of
        the start.
    source
        Its examples.
    config
        Steps, batch size, rates.
    validation
        Examples that are not trained on. They are measured before the first step, every ``config.validate_every``
        steps, and after the last.
    folder
        Where ``checkpoints/``, ``log.jsonl`` and ``tensorboard/`` go. When it holds a checkpoint of the same
        configuration, training goes on from there. SIGTERM then saves a checkpoint and ends the process with status
        143.
    description
        Shown by the progress bar.

    Returns
    -------
    The logged metrics: a dict with ``step``, ``loss``, ``learning_rate``, ``seconds`` and the task's own for every
    ``log_every`` steps, and one of ``validation_loss`` and the like for each validation.

    Raises
    ------
    FloatingPointError
        When the loss or its gradient is not finite, before the step is taken; the batch is then in
        ``folder/not_finite``. Also when the validation loss is not finite.
    ValueError
        When there is nothing to train on, batches cannot be shared out, or a checkpoint is damaged or does not fit.
    FileNotFoundError
        When a checkpoint lacks a file.
    """
    with seeded(config.seed):
        return _fit(task, source, config, validation, Path(folder) if folder else None, description)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers from a seed; outside they go on as if nothing had been drawn."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _fit(
    task: Task,
    source: BatchSource,
    config: TrainConfig,
    validation: BatchSource | None,
    folder: Path | None,
    description: str,
) -> list[dict[str, float]]:
    from accelerate import Accelerator

    if len(source) == 0:
        msg = "There is nothing to train on: the data set has no examples."
        raise ValueError(msg)
    if config.patience is not None and validation is None:
        msg = "patience needs examples to validate on."
        raise ValueError(msg)
    if config.tensorboard and folder is None:
        msg = "tensorboard needs a folder to write to."
        raise ValueError(msg)
    if ":" in settings.device:
        number = settings.device.split(":")[1]
        msg = (
            f"Training takes the first device that it sees, and not {settings.device!r}; start Python with "
            f"CUDA_VISIBLE_DEVICES={number} "
            "and leave bsc.settings.device at 'auto'."
        )
        raise ValueError(msg)
    accelerator = Accelerator(cpu=settings.device == "cpu")
    # precision is ours, as accelerate fixes its own for the life of the process
    if accelerator.mixed_precision not in ("no", config.mixed_precision):
        msg = (
            f"accelerate is set to mixed_precision {accelerator.mixed_precision!r}, this training to "
            f"{config.mixed_precision!r}; "
            "set accelerate's to 'no'."
        )
        raise ValueError(msg)
    n_micro = config.micro_batches(accelerator.num_processes)
    if task.whole_batch and n_micro > 1:
        msg = (
            "A contrastive loss compares all examples of a step, so it takes no micro_batch_size; use a smaller "
            "batch_size."
        )
        raise ValueError(msg)
    writer = _LogWriter(folder if accelerator.is_main_process else None, tensorboard=config.tensorboard)
    decayed = [p for p in task.trained().values() if p.ndim > 1]
    plain = [p for p in task.trained().values() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=(0.9, 0.98)
    )
    wrapped, prepared = accelerator.prepare(task, optimizer)
    optimizer = prepared.optimizer
    checkpoints = Checkpoints(folder) if folder else None
    state = Progress()
    if checkpoints and checkpoints.names():
        state = checkpoints.load("last", wrapped, config, optimizer)
        if accelerator.is_main_process:
            checkpoints.remove_others()
        logger.info("%s: resumed at step %d of %d", description, state.step, config.steps)
    # no process may write before all have looked
    accelerator.wait_for_everyone()
    runner = _Runner(task, wrapped, source, config, accelerator, description, folder)
    began = time.perf_counter() - max((row.get("seconds", 0.0) for row in state.history), default=0.0)
    best_weights: dict[str, torch.Tensor] = {}

    def log(row: dict[str, float]) -> None:
        state.history.append(row)
        writer.write(row)

    def validate() -> bool:
        """Measure; whether it is the best so far."""
        if validation is None:
            return False
        measured = runner.validate(validation, state.step)
        log({"step": state.step} | {f"validation_{k}": v for k, v in measured.items()})
        best = state.best_loss is None or measured["loss"] < state.best_loss
        if best:
            state.best_loss, state.best_step, state.without_gain = measured["loss"], state.step, 0
            if checkpoints is None:
                best_weights.update(trained_weights(wrapped))
        else:
            state.without_gain += 1
        return best

    def save(*, best: bool) -> None:
        if checkpoints:
            checkpoints.save(wrapped, optimizer, config, state, best=best, writes=accelerator.is_main_process)

    with (
        writer.started(state.history),
        _Terminated(enabled=checkpoints is not None) as terminated,
        progress(
            total=config.steps, initial=state.step, description=description, hidden=not accelerator.is_main_process
        ) as bar,
    ):
        if state.step == 0 and state.best_loss is None and validate():
            save(best=True)
        while state.step < config.steps and not state.stopped:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * learning_rate_factor(state.step, config)
            metrics, stop = runner.step(state.step, optimizer, terminated=terminated.signalled)
            state.unlogged.append(metrics)
            state.step += 1
            bar.update(1)
            done = state.step == config.steps
            if state.step % config.log_every == 0 or done:
                row = _means(state.unlogged)
                rate = float(optimizer.param_groups[0]["lr"])
                log(
                    {"step": state.step, **row, "learning_rate": rate, "seconds": round(time.perf_counter() - began, 1)}
                )
                state.unlogged.clear()
                bar.set_postfix({k: f"{v:.3f}" for k, v in row.items()})
            best = False
            if done or state.step % (config.validate_every or config.checkpoint_every) == 0:
                best = validate()
                state.stopped = config.patience is not None and state.without_gain >= config.patience
            if done or best or stop or state.stopped or state.step % config.checkpoint_every == 0:
                save(best=best)
            if stop:
                logger.warning("%s: stopped by SIGTERM at step %d of %d", description, state.step, config.steps)
                accelerator.wait_for_everyone()
                raise SystemExit(128 + signal.SIGTERM)
    if state.stopped:
        logger.info("%s: stopped at step %d; step %d was best", description, state.step, state.best_step)
    if validation is not None and state.best_loss is not None and state.best_step != state.step:
        if checkpoints:
            accelerator.wait_for_everyone()
            checkpoints.load("best", wrapped, config)
        else:
            set_trained_weights(wrapped, best_weights)
    task.eval()
    return state.history


def _means(steps: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the steps that have it: a contrast without entities, for instance, has only a loss."""
    names = dict.fromkeys(name for step in steps for name in step)
    values = {name: [step[name] for step in steps if name in step] for name in names}
    return {name: sum(of) / len(of) for name, of in values.items()}


class _Runner:
    """Steps and validations of one run."""

    def __init__(
        self,
        task: Task,
        wrapped: torch.nn.Module,
        source: BatchSource,
        config: TrainConfig,
        accelerator: Accelerator,
        description: str,
        folder: Path | None,
    ) -> None:
        self.task = task
        self.wrapped = wrapped
        self.source = source
        self.config = config
        self.accelerator = accelerator
        self.description = description
        self.folder = folder
        self.trained = [p for p in wrapped.parameters() if p.requires_grad]

    def _forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        device = self.accelerator.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.mixed_precision == "bf16"):
            return self.wrapped({k: v.to(device, non_blocking=True) for k, v in batch.items()})

    def step(self, step: int, optimizer: torch.optim.Optimizer, *, terminated: bool) -> tuple[dict[str, float], bool]:
        """Do one step; gives its metrics, and whether any process was told to stop."""
        config, accelerator = self.config, self.accelerator
        rank, n_processes = accelerator.process_index, accelerator.num_processes
        indices = batch_indices(
            len(self.source), config.batch_size, step, config.seed, self.source.lengths, self.source.weights
        )
        own = indices.reshape(n_processes, -1)[rank].reshape(config.micro_batches(n_processes), -1)
        rng = np.random.default_rng([config.seed, 2, step, rank])
        batches = [self.source.batch(part, rng) for part in own]
        # dropout too must not depend on where a run was interrupted
        torch.manual_seed(int(np.random.default_rng([config.seed, 3, step, rank]).integers(2**31)))
        weights = [self.task.weight(batch) for batch in batches]
        shared = torch.tensor([sum(weights), float(terminated)], device=accelerator.device)
        total, stop = accelerator.reduce(shared, reduction="sum").tolist()
        self.wrapped.train()
        metrics: dict[str, torch.Tensor] = {}
        losses: list[float] = []
        for i, (batch, weight) in enumerate(zip(batches, weights, strict=True)):
            last = i == len(batches) - 1
            # every target counts the same, wherever it is computed; gradients are averaged over processes
            share = weight * n_processes / total if total else 0.0
            with nullcontext() if last else accelerator.no_sync(self.wrapped):
                out = self._forward(batch)
                accelerator.backward(out["loss"] * share)
            losses.append(float(out["loss"].detach()))
            for name, value in out.items():
                metrics[name] = metrics.get(name, 0.0) + value.detach().float() * share
        # looked at after the gradients are shared, so that all processes stop together
        norm = float(whole(accelerator.clip_grad_norm_(self.trained, config.max_grad_norm)))
        if not_finite := [i for i, loss in enumerate(losses) if not math.isfinite(loss)]:
            self._set_aside(step, own, batches, not_finite, f"the loss is {losses[not_finite[0]]}")
        if not math.isfinite(norm):
            self._set_aside(step, own, batches, list(range(len(batches))), f"the gradient's norm is {norm}")
        optimizer.step()
        optimizer.zero_grad()
        self.task.after_step()
        values = torch.stack(list(metrics.values()))
        if n_processes > 1:
            values = accelerator.reduce(values, "mean")
        return dict(zip(metrics, values.tolist(), strict=True)), stop > 0

    def _set_aside(
        self, step: int, own: np.ndarray, batches: list[dict[str, torch.Tensor]], which: list[int], what: str
    ) -> None:
        """Stop, and keep the batches for whoever looks into them."""
        msg = f"{self.description}: {what} at step {step}; lower learning_rate."
        if self.folder:
            kept = self.folder / "not_finite"
            kept.mkdir(parents=True, exist_ok=True)
            for i in which:
                part = f"-part-{i}" if len(batches) > 1 else ""
                file = kept / f"step-{step:08d}-process-{self.accelerator.process_index}{part}.safetensors"
                # tensors of a file must not share memory
                tensors = {k: v.detach().cpu().clone().contiguous() for k, v in batches[i].items()}
                save_file(tensors | {"examples": torch.from_numpy(own[i].copy())}, file)
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


class _Terminated:
    """Whether SIGTERM has come, inside a ``with`` block of the main thread."""

    def __init__(self, *, enabled: bool) -> None:
        self.signalled = False
        self.enabled = enabled and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> _Terminated:
        if self.enabled:
            self.before = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, _signal: int, _frame: object) -> None:
        self.signalled = True

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            # a handler that was not set from Python is None
            signal.signal(signal.SIGTERM, self.before or signal.SIG_DFL)


class _LogWriter:
    """``log.jsonl``, a row at a time, and TensorBoard's events."""

    def __init__(self, folder: Path | None, *, tensorboard: bool) -> None:
        self.folder = folder
        self.tensorboard = tensorboard
        self.events: Any = None
        if tensorboard and folder is not None:
            require("tensorboard", "train")

    @contextmanager
    def started(self, history: list[dict[str, float]]) -> Iterator[None]:
        """Write the rows up to a checkpoint; what an interrupted run wrote after it is dropped."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(row) + "\n" for row in history)
            (self.folder / LOG).write_text(text, encoding="utf-8")
        if self.folder is not None and self.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            following = int(history[-1]["step"]) + 1 if history else 0
            self.events = SummaryWriter(str(self.folder / "tensorboard"), purge_step=following)
        try:
            yield
        finally:
            if self.events is not None:
                self.events.close()

    def write(self, row: dict[str, float]) -> None:
        """Append a row."""
        if self.folder is not None:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if self.events is not None:
            for name, value in row.items():
                if name != "step":
                    self.events.add_scalar(name.replace("validation_", "validation/"), value, int(row["step"]))
            self.events.flush()


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then cosine decay to a tenth."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progressed = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progressed)))
