"""The one training loop: optimiser, schedule, precision, checkpoints. It knows no stage."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from bioverse_sc._logging import logger, progress
from bioverse_sc._settings import settings
from bioverse_sc.train._checkpoint import Checkpoints, Progress, set_trained_weights, trained_weights
from bioverse_sc.train._log import LogWriter
from bioverse_sc.train._signals import Terminated
from bioverse_sc.train._step import Stepper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    from accelerate import Accelerator

    from bioverse_sc.train._config import TrainConfig


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

    def __init__(self) -> None:
        super().__init__()

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
        _check(source, config, validation, folder)
        run = _Run(task, source, config, validation, Path(folder) if folder else None, description)
        run.resume()
        run.train()
        run.end_at_the_best()
    task.eval()
    return run.state.history


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers from a seed; outside they go on as if nothing had been drawn."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _check(source: BatchSource, config: TrainConfig, validation: BatchSource | None, folder: str | Path | None) -> None:
    """Raise when a run cannot be what its settings say."""
    if len(source) == 0:
        msg = "There is nothing to train on: the data set has no examples."
        raise ValueError(msg)
    if config.patience is not None and validation is None:
        msg = "patience needs examples to validate on."
        raise ValueError(msg)
    if config.tensorboard and not folder:
        msg = "tensorboard needs a folder to write to."
        raise ValueError(msg)
    if ":" in settings.device:
        number = settings.device.split(":")[1]
        msg = (
            f"Training takes the first device that it sees, and not {settings.device!r}; start Python with "
            f"CUDA_VISIBLE_DEVICES={number} and leave bsc.settings.device at 'auto'."
        )
        raise ValueError(msg)


def _accelerator(task: Task, config: TrainConfig) -> Accelerator:
    """Give the processes of this run, when they can share out its batches."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=settings.device == "cpu")
    # precision is ours, as accelerate fixes its own for the life of the process
    if accelerator.mixed_precision not in ("no", config.mixed_precision):
        msg = (
            f"accelerate is set to mixed_precision {accelerator.mixed_precision!r}, this training to "
            f"{config.mixed_precision!r}; set accelerate's to 'no'."
        )
        raise ValueError(msg)
    if config.micro_batches(accelerator.num_processes) > 1 and task.whole_batch:
        msg = (
            "A contrastive loss compares all examples of a step, so it takes no micro_batch_size; use a smaller "
            "batch_size."
        )
        raise ValueError(msg)
    return accelerator


def _optimizer(task: Task, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; biases and norms do not decay."""
    decayed = [p for p in task.trained().values() if p.ndim > 1]
    plain = [p for p in task.trained().values() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.learning_rate, betas=(0.9, 0.98))


class _Run:
    """A training from its first step, or from where its checkpoint ends, up to its last one."""

    def __init__(
        self,
        task: Task,
        source: BatchSource,
        config: TrainConfig,
        validation: BatchSource | None,
        folder: Path | None,
        description: str,
    ) -> None:
        self.config, self.validation, self.description = config, validation, description
        self.accelerator = _accelerator(task, config)
        self.is_main = self.accelerator.is_main_process
        self.writer = LogWriter(folder if self.is_main else None, tensorboard=config.tensorboard)
        self.wrapped, prepared = self.accelerator.prepare(task, _optimizer(task, config))
        self.optimizer: torch.optim.Optimizer = prepared.optimizer
        self.stepper = Stepper(
            task, self.wrapped, self.optimizer, source, config, self.accelerator, folder, description
        )
        self.checkpoints = Checkpoints(folder) if folder else None
        self.state = Progress()
        self.began = time.perf_counter()
        # where there is no folder for them
        self.best_weights: dict[str, torch.Tensor] = {}

    def resume(self) -> None:
        """Go to where the last checkpoint ends, when there is one."""
        if self.checkpoints and self.checkpoints.names():
            self.state = self.checkpoints.load("last", self.wrapped, self.config, self.optimizer)
            if self.is_main:
                self.checkpoints.remove_others()
            logger.info("%s: resumed at step %d of %d", self.description, self.state.step, self.config.steps)
        # no process may write before all have looked
        self.accelerator.wait_for_everyone()
        self.began = time.perf_counter() - max((row.get("seconds", 0.0) for row in self.state.history), default=0.0)

    def train(self) -> None:
        """Do the steps that are left, until the last, or until patience or SIGTERM ends the run."""
        state, config = self.state, self.config
        with (
            self.writer.started(state.history),
            Terminated(enabled=self.checkpoints is not None) as terminated,
            progress(
                total=config.steps, initial=state.step, description=self.description, hidden=not self.is_main
            ) as bar,
        ):
            if state.step == 0 and state.best_loss is None and self.validate():
                self.save(best=True)
            while state.step < config.steps and not state.stopped:
                metrics, stop = self.stepper.step(state.step, terminated=terminated.signalled)
                state.unlogged.append(metrics)
                state.step += 1
                bar.update(1)
                if self.is_due(config.log_every):
                    bar.set_postfix({name: f"{value:.3f}" for name, value in self.log_steps().items()})
                best = self.is_due(config.validate_every or config.checkpoint_every) and self.validate()
                if best or stop or state.stopped or self.is_due(config.checkpoint_every):
                    self.save(best=best)
                if stop:
                    self.leave()
        if state.stopped:
            logger.info("%s: stopped at step %d; step %d was best", self.description, state.step, state.best_step)

    def is_due(self, every: int) -> bool:
        """Whether what is done every so many steps, and after the last, is done now."""
        return self.state.step % every == 0 or self.state.step == self.config.steps

    def log(self, row: dict[str, float]) -> None:
        self.state.history.append(row)
        self.writer.write(row)

    def log_steps(self) -> dict[str, float]:
        """Log the means of the steps since the last row; gives them."""
        means = _means(self.state.unlogged)
        rate = float(self.optimizer.param_groups[0]["lr"])
        seconds = round(time.perf_counter() - self.began, 1)
        self.log({"step": self.state.step, **means, "learning_rate": rate, "seconds": seconds})
        self.state.unlogged.clear()
        return means

    def validate(self) -> bool:
        """Measure; whether it is the best so far."""
        if self.validation is None:
            return False
        state = self.state
        measured = self.stepper.validate(self.validation, state.step)
        self.log({"step": state.step} | {f"validation_{name}": value for name, value in measured.items()})
        best = state.best_loss is None or measured["loss"] < state.best_loss
        if best:
            state.best_loss, state.best_step, state.without_gain = measured["loss"], state.step, 0
            if self.checkpoints is None:
                self.best_weights.update(trained_weights(self.wrapped))
        else:
            state.without_gain += 1
        state.stopped = self.config.patience is not None and state.without_gain >= self.config.patience
        return best

    def save(self, *, best: bool) -> None:
        if self.checkpoints:
            self.checkpoints.save(self.wrapped, self.optimizer, self.config, self.state, best=best, writes=self.is_main)

    def leave(self) -> None:
        """End the process, as SIGTERM asks, once all have saved."""
        logger.warning("%s: stopped by SIGTERM at step %d of %d", self.description, self.state.step, self.config.steps)
        self.accelerator.wait_for_everyone()
        raise SystemExit(128 + signal.SIGTERM)

    def end_at_the_best(self) -> None:
        """Put the weights of the lowest validation loss in place."""
        state = self.state
        if self.validation is None or state.best_loss is None or state.best_step == state.step:
            return
        if self.checkpoints:
            self.accelerator.wait_for_everyone()
            self.checkpoints.load("best", self.wrapped, self.config)
        else:
            set_trained_weights(self.wrapped, self.best_weights)


def _means(steps: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the steps that have it: a contrast without entities, for instance, has only a loss."""
    names = dict.fromkeys(name for step in steps for name in step)
    values = {name: [step[name] for step in steps if name in step] for name in names}
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}
