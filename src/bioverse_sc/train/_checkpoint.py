"""Checkpoints of a run: written whole or not at all, checked when they are read."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from torch.distributed.tensor import DTensor, distribute_tensor

from bioverse_sc._cache import file_hash

if TYPE_CHECKING:
    from bioverse_sc.train._config import TrainConfig

INDEX = "index.json"
WEIGHTS, OPTIMIZER, STATE, CHECKSUMS = "weights.safetensors", "optimizer.pt", "state.json", "checksums.json"
MAY_CHANGE = {"micro_batch_size", "gradient_checkpointing", "log_every", "checkpoint_every", "tensorboard"}
"""Settings that may be others when a run goes on: they change only the rounding, and how often it says something.

But for whether there are micro-batches at all: that decides which examples a step has.
"""


def _fixed(config: dict[str, Any]) -> dict[str, Any]:
    """Settings that a run that goes on must have as it began."""
    settings = {name: value for name, value in config.items() if name not in MAY_CHANGE}
    return settings | {"micro_batch_size": config.get("micro_batch_size") is not None}


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_loss: float | None = None
    """Lowest validation loss so far."""
    best_step: int = 0
    without_gain: int = 0
    """Validations in a row that did not lower it."""
    stopped: bool = False
    """Whether patience has ended the run."""
    unlogged: list[dict[str, float]] = field(default_factory=list)
    """Metrics of the steps since the last row of the log."""


class Checkpoints:
    """The ``last`` and the ``best`` checkpoint in ``folder/checkpoints``.

    Each is a folder of its own; a small index names them and is replaced in one stroke, so a kill at any moment leaves
    a whole checkpoint. Parameters that FSDP has sharded are put together, so the files do not depend on the number of
    processes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkpoints"

    def names(self) -> dict[str, str]:
        """Folder names of ``last`` and ``best``; none before the first checkpoint."""
        path = self.folder / INDEX
        if not path.is_file():
            # an empty index is written before the first checkpoint
            if stray := sorted(other.name for other in self.folder.glob("step-*")):
                msg = f"{self.folder} holds {', '.join(stray)} but lacks {INDEX}. {self._remedy(path)}"
                raise FileNotFoundError(msg)
            return {}
        try:
            names = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            names = None
        if not isinstance(names, dict) or set(names) not in (set(), {"last"}, {"last", "best"}):
            msg = f"{path} is damaged. {self._remedy(path)}"
            raise ValueError(msg)
        there = [other.name for other in self.folder.iterdir()]
        for name in names.values():
            if name not in there:
                msg = f"{path} names the checkpoint {name!r}, which is not there. {self._remedy(self.folder)}"
                raise FileNotFoundError(msg)
        return names

    def save(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        progress: Progress,
        *,
        best: bool,
        writes: bool,
    ) -> None:
        """Save as ``last``, and as ``best`` too if asked. All processes call it, and one of them writes."""
        weights = trained_weights(model)
        state = optimizer.state_dict()
        state["state"] = {i: {k: whole(v) for k, v in moments.items()} for i, moments in state["state"].items()}
        if not writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        names = self.names()
        if not names:
            # first, so that folders without an index are never what a kill has left
            self._write_index(names)
        self.remove_others()
        name = f"step-{progress.step:08d}"
        fresh = self.folder / f"{name}.new"
        fresh.mkdir()
        save_file(weights, fresh / WEIGHTS)
        torch.save(state, fresh / OPTIMIZER)
        stored = {"config": asdict(config), "progress": asdict(progress)}
        (fresh / STATE).write_text(json.dumps(stored), encoding="utf-8")
        hashes = {file.name: file_hash(file) for file in sorted(fresh.iterdir())}
        (fresh / CHECKSUMS).write_text(json.dumps(hashes), encoding="utf-8")
        for path in (*fresh.iterdir(), fresh):
            _flush(path)
        fresh.rename(self.folder / name)
        _flush(self.folder)
        names |= {"last": name} | ({"best": name} if best else {})
        self._write_index(names)
        self.remove_others()

    def _write_index(self, names: dict[str, str]) -> None:
        index = self.folder / f"{INDEX}.new"
        index.write_text(json.dumps(names), encoding="utf-8")
        _flush(index)
        index.replace(self.folder / INDEX)
        _flush(self.folder)

    def remove_others(self) -> None:
        """Remove what the index does not name: older checkpoints, and those that a killed run left behind."""
        names = self.names()
        for other in self.folder.glob("step-*"):
            if other.name not in names.values():
                shutil.rmtree(other)

    def load(
        self,
        which: Literal["last", "best"],
        model: torch.nn.Module,
        config: TrainConfig,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> Progress:
        """Put a checkpoint's weights, and the optimizer's state, into place."""
        names = self.names()
        # a damaged "best" must not come to light only when a run ends
        for name in sorted(set(names.values())):
            self._check(self.folder / name)
        folder = self.folder / names[which]
        stored = json.loads((folder / STATE).read_text(encoding="utf-8"))
        before, now = _fixed(stored["config"]), _fixed(json.loads(json.dumps(asdict(config))))
        if differs := sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k)):
            msg = f"{folder} was written with another configuration ({', '.join(differs)}); use a new folder."
            raise ValueError(msg)
        weights = load_file(folder / WEIGHTS)
        shapes = {name: tensor.shape for name, tensor in weights.items()}
        if shapes != {name: p.shape for name, p in trained_parameters(model).items()}:
            msg = f"{folder} holds other parameters than this task trains; use a new folder."
            raise ValueError(msg)
        set_trained_weights(model, weights)
        if optimizer is not None:
            state = torch.load(folder / OPTIMIZER, weights_only=True)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for i, moments in state["state"].items():
                state["state"][i] = {k: _shared_out(v, parameters[i]) for k, v in moments.items()}
            optimizer.load_state_dict(state)
        return Progress(**stored["progress"])

    def _check(self, folder: Path) -> None:
        try:
            hashes = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
            if not isinstance(hashes, dict) or set(hashes) != {WEIGHTS, OPTIMIZER, STATE}:
                hashes = {}
            damaged = [name for name, value in hashes.items() if file_hash(folder / name) != value]
        except FileNotFoundError as error:
            msg = (
                f"The checkpoint {folder} is incomplete: it lacks {Path(str(error.filename)).name}. "
                f"{self._remedy(folder)}"
            )
            raise FileNotFoundError(msg) from error
        except ValueError:
            hashes = {}
        if not hashes:
            msg = f"The checkpoint {folder} is damaged: {CHECKSUMS} is not what was written. {self._remedy(folder)}"
            raise ValueError(msg)
        if damaged:
            msg = (
                f"The checkpoint {folder} is damaged: {', '.join(damaged)} is not what was written. "
                f"{self._remedy(folder)}"
            )
            raise ValueError(msg)

    def _remedy(self, path: Path) -> str:
        return f"Delete {self.folder} to train from the start, or put a copy of {path.name} in its place."


def has_checkpoint(folder: str | Path) -> bool:
    """Whether there is a checkpoint that a run in this folder goes on from.

    Parameters
    ----------
    folder
        Folder of the run, as :func:`fit` takes it.

    Raises
    ------
    FileNotFoundError
        When a checkpoint lacks a file.
    ValueError
        When its index is damaged.
    """
    return bool(Checkpoints(Path(folder)).names())


def trained_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Parameters that train, by name, without the names that wrappers add."""
    _reshard(model)
    return {name.removeprefix("module."): p for name, p in model.named_parameters() if p.requires_grad}


def trained_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Whole values of the parameters that train, on the CPU; every process has to call it."""
    return {name: whole(p) for name, p in trained_parameters(model).items()}


def set_trained_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Put whole values into the parameters that train."""
    with torch.no_grad():
        for name, parameter in trained_parameters(model).items():
            parameter.copy_(_shared_out(weights[name], parameter))


def unshard(model: torch.nn.Module) -> None:
    """Put whole parameters in the place of those that FSDP has sharded; every process has to call it."""
    _reshard(model)
    done: dict[torch.Tensor, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                # tied parameters stay tied
                if parameter not in done:
                    # on the CPU: a model is sharded because one device cannot hold it
                    full = parameter.full_tensor().detach().cpu()
                    done[parameter] = torch.nn.Parameter(full, requires_grad=parameter.requires_grad)
                module.register_parameter(name, done[parameter])


def _reshard(model: torch.nn.Module) -> None:
    """Make parameters those that the optimizer has: after a forward pass alone, FSDP leaves copies in their place."""
    if not distributed.is_initialized():
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Copy on the CPU, put together from all processes when it is sharded."""
    full: torch.Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu().clone().contiguous()


def _shared_out(full: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shard as the parameter is; what has another shape, as a count of steps, is the same everywhere."""
    if isinstance(like, DTensor) and full.shape == like.shape:
        return distribute_tensor(full.to(like.device), like.device_mesh, like.placements)
    return full


def _flush(path: Path) -> None:
    """Wait until the disk has it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
