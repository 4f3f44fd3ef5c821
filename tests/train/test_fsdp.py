"""Sharded parameters, as far as a CPU goes: accelerate itself shards on GPUs only."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bioverse_sc.train._checkpoint import Checkpoints
from tests.tiny import make_vectors
from tests.train.run_sharded import make_task, train

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Trained in this process, unbroken."""
    task = make_task()
    history = train(task, tmp_path_factory.mktemp("whole"))
    return task, history


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """Folder of two processes that began a run, and that went on with one that this process began."""
    folder = tmp_path_factory.mktemp("sharded")
    train(make_task(), folder / "begun_whole", steps=2)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*command, "-m", "tests.train.run_sharded", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def assert_close(weights, others):
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        np.testing.assert_allclose(others[name], tensor, atol=2e-5, rtol=2e-5, err_msg=name)


def assert_same_history(history, other):
    for row, found in zip(history, other, strict=True):
        assert {k: v for k, v in found.items() if k != "seconds"} == pytest.approx(
            {k: v for k, v in row.items() if k != "seconds"}, abs=1e-4, rel=1e-4
        )


@pytest.mark.slow
def test_one_process_goes_on_with_what_sharded_ones_saved(whole, sharded):
    checkpoints = Checkpoints(sharded / "begun_sharded")
    assert checkpoints.names()["last"] == "step-00000002"
    saved = load_file(checkpoints.folder / "step-00000002" / "weights.safetensors")
    task, history = whole
    assert {n: t.shape for n, t in saved.items()} == {n: p.shape for n, p in task.named_parameters()}
    resumed = make_task()
    assert_same_history(history, train(resumed, sharded / "begun_sharded"))
    assert_close(*(dict(t.state_dict()) for t in (task, resumed)))


@pytest.mark.slow
def test_sharded_processes_go_on_with_what_one_saved(whole, sharded):
    task, history = whole
    assert_same_history(history, json.loads((sharded / "history.json").read_text()))
    found = load_file(sharded / "result.safetensors")
    soft_tokens = found.pop("soft_tokens")
    expected = {name: p.detach() for name, p in task.model.named_parameters()}
    assert_close(expected, found)
    with torch.no_grad():
        own = task.model.project("rna", torch.from_numpy(make_vectors(3)))
    np.testing.assert_allclose(soft_tokens, own, atol=2e-5)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_accelerate_reads_the_recipe(file):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))
    kinds = {"cpu": "MULTI_CPU", "one_gpu": "NO", "ddp": "MULTI_GPU", "fsdp": "FSDP"}
    assert config.distributed_type == kinds[file.stem]
    assert config.mixed_precision == "no", "precision is the package's own"
    assert config.use_cpu == (file.stem == "cpu")


def test_the_recipe_of_fsdp_has_only_keys_that_accelerate_knows():
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(ROOT / "recipes" / "accelerate" / "fsdp.yaml"))
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) <= known


def test_there_is_a_recipe_for_each_way():
    assert {file.stem for file in RECIPES} == {"cpu", "one_gpu", "ddp", "fsdp"}
