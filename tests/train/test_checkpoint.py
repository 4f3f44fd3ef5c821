import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bioverse_sc.train import _checkpoint, fit
from bioverse_sc.train._checkpoint import (
    CHECKSUMS,
    INDEX,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    Checkpoints,
    set_trained_weights,
    trained_weights,
    unshard,
)
from tests.train.test_loop import CONFIG, WALK, Line, Points, Walk, assert_same_weights, without_time

FILES = (WEIGHTS, OPTIMIZER, STATE, CHECKSUMS)


def listed(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_only_the_best_and_the_last_are_kept(tmp_path):
    fit(Walk(0.7), Points(), WALK, validation=Points(4), folder=tmp_path)
    names = Checkpoints(tmp_path).names()
    assert names == {"last": "step-00000008", "best": "step-00000003"}
    assert listed(tmp_path) == [INDEX, *sorted(names.values())]
    for name in names.values():
        assert sorted(path.name for path in (tmp_path / "checkpoints" / name).iterdir()) == sorted(FILES)
    best, last = (load_file(tmp_path / "checkpoints" / names[which] / WEIGHTS)["weight_"] for which in ("best", "last"))
    assert float(best) > float(last)


def test_what_is_best_and_last_at_once_is_kept_once(tmp_path):
    fit(Walk(-1.0), Points(), WALK, validation=Points(4), folder=tmp_path)
    assert listed(tmp_path) == [INDEX, "step-00000008"]


def test_without_validation_there_is_no_best(tmp_path):
    fit(Line(), Points(), CONFIG, folder=tmp_path)
    assert Checkpoints(tmp_path).names() == {"last": "step-00000006"}
    assert listed(tmp_path) == [INDEX, "step-00000006"]


class Killed(BaseException):
    pass


class Killer:
    """Raises at an operation on the files of checkpoints: before it, or half way through."""

    def __init__(self, monkeypatch, *, half):
        self.at, self.n, self.half = None, 0, half
        writers = {
            (Path, "write_text"): self._half_text,
            (_checkpoint, "save_file"): self._half_file,
            (torch, "save"): self._half_file,
        }
        others = dict.fromkeys([(Path, "mkdir"), (Path, "rename"), (Path, "replace"), (_checkpoint, "_flush")])
        for (owner, name), halved in (writers | others | {(shutil, "rmtree"): self._half_tree}).items():
            monkeypatch.setattr(owner, name, self._watched(getattr(owner, name), halved))

    def _watched(self, real, halved):
        def call(*args, **kwargs):
            if not any("checkpoints" in str(arg) for arg in args[:2] if isinstance(arg, Path)):
                return real(*args, **kwargs)
            self.n += 1
            if self.n == self.at:
                if self.half and halved:
                    halved(real, *args)
                raise Killed
            return real(*args, **kwargs)

        return call

    def _half_text(self, real, path, text, **_):
        real(path, text[: len(text) // 2])

    def _half_file(self, real, tensors, path):
        real(tensors, path)
        path.write_bytes(path.read_bytes()[:-20])

    def _half_tree(self, real, path):
        next(path.iterdir()).unlink()

    def run(self, folder, at):
        """Train, and whether it came to the end."""
        self.at, self.n = at, 0
        try:
            run(folder)
        except Killed:
            return False
        finally:
            self.at = None
        return True


def run(folder):
    task = Line()
    config = replace(CONFIG, steps=4, checkpoint_every=2, log_every=3)
    return task, without_time(fit(task, Points(), config, validation=Points(4), folder=folder))


@pytest.mark.parametrize("half", [False, True])
def test_a_kill_at_any_operation_leaves_what_a_run_goes_on_from(half, tmp_path, monkeypatch):
    expected, history = run(tmp_path / "whole")
    names = Checkpoints(tmp_path / "whole").names()
    killer = Killer(monkeypatch, half=half)
    n = 0
    while True:
        n += 1
        folder = tmp_path / str(n)
        if killer.run(folder, n):
            break
        # once more, where it may come to the same place
        killer.run(folder, n)
        task, resumed = run(folder)
        assert_same_weights(task, expected)
        assert resumed == history
        assert Checkpoints(folder).names() == names
        assert listed(folder) == [INDEX, *sorted(set(names.values()))]
        shutil.rmtree(folder)
    assert n > 40, "all of them were tried"


@pytest.fixture
def stopped(tmp_path):
    """A run that has saved steps 0, its best, and 3, its last, of 6."""
    with pytest.raises(KeyboardInterrupt):
        fit(Walk(2.0), Points(breaks_at=4), replace(WALK, steps=6), validation=Points(4), folder=tmp_path)
    names = Checkpoints(tmp_path).names()
    assert names == {"last": "step-00000003", "best": "step-00000000"}
    return tmp_path


def go_on(folder):
    task = Walk(2.0)
    fit(task, Points(), replace(WALK, steps=6), validation=Points(4), folder=folder)
    return task


def refused(folder, *names, kind=(ValueError, FileNotFoundError)):
    """What is said instead of going on; nothing may be touched."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    task, source = Walk(2.0), Points()
    with pytest.raises(kind) as raised:
        fit(task, source, replace(WALK, steps=6), validation=Points(4), folder=folder)
    assert task.weight_.item() == 1.0
    assert not source.seen
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    said = str(raised.value)
    for name in (*names, f"Delete {folder / 'checkpoints'} to train from the start", "put a copy of"):
        assert name in said
    return said


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x80
    path.write_bytes(content)


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\n ")


@pytest.mark.parametrize("damage", [truncate, empty, flip, lengthen])
@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, STATE])
def test_a_damaged_file_is_named(name, damage, stopped):
    damage(stopped / "checkpoints" / "step-00000003" / name)
    refused(stopped, "step-00000003 is damaged", name, kind=ValueError)


def test_a_damaged_best_checkpoint_is_seen_at_once(stopped):
    flip(stopped / "checkpoints" / "step-00000000" / WEIGHTS)
    refused(stopped, "step-00000000 is damaged", WEIGHTS, kind=ValueError)


@pytest.mark.parametrize("damage", [truncate, empty, flip])
def test_damaged_checksums_are_named(damage, stopped):
    damage(stopped / "checkpoints" / "step-00000003" / CHECKSUMS)
    refused(stopped, "step-00000003 is damaged", kind=ValueError)


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"state.json": "0"}'])
def test_checksums_of_something_else_are_no_checksums(text, stopped):
    (stopped / "checkpoints" / "step-00000003" / CHECKSUMS).write_text(text)
    refused(stopped, CHECKSUMS, "is damaged", kind=ValueError)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name, stopped):
    (stopped / "checkpoints" / "step-00000003" / name).unlink()
    refused(stopped, "step-00000003 is incomplete", f"lacks {name}", kind=FileNotFoundError)


@pytest.mark.parametrize("damage", [truncate, empty, flip])
def test_a_damaged_index_is_named(damage, stopped):
    damage(stopped / "checkpoints" / INDEX)
    refused(stopped, f"{INDEX} is damaged", kind=ValueError)


@pytest.mark.parametrize("text", ["[]", "null", '{"best": "step-00000000"}', '{"last": "step-00000003", "other": ""}'])
def test_an_index_of_something_else_is_none(text, stopped):
    (stopped / "checkpoints" / INDEX).write_text(text)
    refused(stopped, f"{INDEX} is damaged", kind=ValueError)


def test_a_missing_index_is_named(stopped):
    (stopped / "checkpoints" / INDEX).unlink()
    refused(stopped, "step-00000000, step-00000003", f"lacks {INDEX}", kind=FileNotFoundError)


@pytest.mark.parametrize("name", ["step-00000000", "step-00000003"])
def test_a_missing_checkpoint_is_named(name, stopped):
    shutil.rmtree(stopped / "checkpoints" / name)
    refused(stopped, INDEX, name, "not there", kind=FileNotFoundError)


@pytest.mark.parametrize("name", ["../step-00000003", "step-00000003/..", "", 3, None])
def test_an_index_names_folders_beside_it_only(name, stopped):
    (stopped / "checkpoints" / INDEX).write_text(json.dumps({"last": name}))
    refused(stopped, INDEX)


def test_no_flipped_bit_of_the_small_files_goes_unseen(stopped):
    checkpoints = Checkpoints(stopped)
    for path in (checkpoints.folder / INDEX, checkpoints.folder / "step-00000003" / CHECKSUMS):
        content = path.read_bytes()
        rng = np.random.default_rng(0)
        for place in range(len(content)):
            flipped = bytearray(content)
            flipped[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            with pytest.raises((ValueError, FileNotFoundError), match="Delete"):
                checkpoints.load("last", Walk(2.0), replace(WALK, steps=6))
        path.write_bytes(content)


def test_both_remedies_help(stopped):
    copy = stopped / "copy"
    shutil.copytree(stopped / "checkpoints" / "step-00000003", copy)
    flip(stopped / "checkpoints" / "step-00000003" / WEIGHTS)
    refused(stopped, WEIGHTS)
    shutil.rmtree(stopped / "checkpoints" / "step-00000003")
    copy.rename(stopped / "checkpoints" / "step-00000003")
    assert len(go_on(stopped).path) == 4, "three steps are left"
    flip(stopped / "checkpoints" / "step-00000006" / WEIGHTS)
    refused(stopped, WEIGHTS)
    shutil.rmtree(stopped / "checkpoints")
    assert len(go_on(stopped).path) == 7, "all six steps"


def test_another_configuration_does_not_resume(tmp_path):
    fit(Line(), Points(), CONFIG, folder=tmp_path)
    other = replace(CONFIG, learning_rate=0.01, steps=9)
    with pytest.raises(ValueError, match=r"another configuration \(learning_rate, steps\); use a new folder"):
        fit(Line(), Points(), other, folder=tmp_path)


@pytest.mark.parametrize("change", ["fewer", "more", "shape"])
def test_other_parameters_do_not_resume(change, tmp_path):
    fit(Line(), Points(), CONFIG, folder=tmp_path)
    other = Line()
    if change == "fewer":
        other.layer.bias.requires_grad_(requires_grad=False)
    elif change == "more":
        other.extra = torch.nn.Parameter(torch.zeros(2))
    else:
        other.layer = torch.nn.Linear(4, 2)
    with pytest.raises(
        ValueError, match=r"step-00000006 holds other parameters than this task trains; use a new folder"
    ):
        fit(other, Points(), CONFIG, folder=tmp_path)


def test_only_what_trains_is_saved(tmp_path):
    task = Line()
    task.layer.bias.requires_grad_(requires_grad=False)
    fit(task, Points(), CONFIG, folder=tmp_path)
    assert set(load_file(tmp_path / "checkpoints" / "step-00000006" / WEIGHTS)) == {"layer.weight"}


def test_weights_of_a_wrapped_model_have_the_names_of_the_model():
    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    task, other = Line(), Line()
    torch.nn.init.zeros_(other.layer.weight)
    assert trained_weights(Wrapper(task)).keys() == trained_weights(task).keys() == {"layer.weight", "layer.bias"}
    set_trained_weights(Wrapper(other), trained_weights(task))
    assert_same_weights(task, other)


def test_whole_parameters_stay_as_they_are():
    task = Line()
    weight = task.layer.weight
    unshard(task)
    assert task.layer.weight is weight
