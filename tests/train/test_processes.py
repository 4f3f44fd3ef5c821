"""Training in processes of their own: two that work together, and some that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.train.run_stage import run

ROOT = Path(__file__).parents[2]
CONFIG = {"steps": 6, "batch_size": 8}


def start(*jobs, n_processes=1):
    """Start processes that train one stage after another."""
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n_processes}"] if n_processes > 1 else []
    )
    listed = json.dumps([(stage, str(folder), config) for stage, folder, config in jobs])
    command = [sys.executable, *launcher, "-m", "tests.train.run_stage", listed]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process, status=0):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == status, output[-3000:]
    return output


def results(folder):
    history = json.loads((folder / "history.json").read_text())
    return load_file(folder / "result.safetensors"), [{k: v for k, v in r.items() if k != "seconds"} for r in history]


def assert_same(one, two, *, atol):
    (weights, history), (other_weights, other_history) = one, two
    assert weights.keys() == other_weights.keys()
    for name, tensor in weights.items():
        np.testing.assert_allclose(other_weights[name], tensor, atol=atol, rtol=atol, err_msg=name)
    assert [row.keys() for row in history] == [row.keys() for row in other_history]
    for row, other in zip(history, other_history, strict=True):
        np.testing.assert_allclose(list(other.values()), list(row.values()), atol=10 * atol, rtol=10 * atol)


STAGES = {
    "contrastive": None,
    "sequences": None,
    "autoregressive": 2,
    "instruct": 2,
    "instruct beside contrast": None,
}
"""Stages, and the size of their micro-batches."""


@pytest.fixture(scope="module")
def by_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    jobs = [(stage, folder / stage, CONFIG | {"micro_batch_size": micro}) for stage, micro in STAGES.items()]
    finish(start(*jobs, n_processes=2))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_equal_one_on_the_same_global_batch(stage, by_two_processes, tmp_path):
    run(stage, tmp_path, **CONFIG, micro_batch_size=STAGES[stage])
    assert_same(results(tmp_path), results(by_two_processes / stage), atol=2e-5)


def wait_for_step(folder, step, process):
    log = folder / "run" / "log.jsonl"
    for _ in range(600):
        rows = log.read_text().splitlines() if log.is_file() else []
        if rows and json.loads(rows[-1])["step"] >= step:
            return
        if process.poll() is not None:
            pytest.fail(process.communicate()[0][-3000:])
        time.sleep(0.05)
    pytest.fail("it does not get there")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["contrastive", "instruct"])
def test_a_killed_run_goes_on_as_if_nothing_had_been(stage, tmp_path):
    # 32 or 40 examples: step 7 is inside an epoch
    config = {"steps": 12, "batch_size": 7}
    process = start((stage, tmp_path / "killed", config | {"pause": 0.1}))
    wait_for_step(tmp_path / "killed", 7, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "result.safetensors").exists()
    run(stage, tmp_path / "killed", **config)
    run(stage, tmp_path / "whole", **config)
    assert_same(results(tmp_path / "whole"), results(tmp_path / "killed"), atol=0)
    logged = [json.loads(line) for line in (tmp_path / "killed" / "run" / "log.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in logged if "loss" in row]
    assert steps == list(range(1, 13)), "the log has every step once"


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [1, 2])
def test_sigterm_saves_and_exits(n_processes, tmp_path):
    config = {"steps": 30, "batch_size": 8, "checkpoint_every": 1000}
    process = start(("contrastive", tmp_path / "stopped", config | {"pause": 0.1}), n_processes=n_processes)
    wait_for_step(tmp_path / "stopped", 3, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == (128 + signal.SIGTERM if n_processes == 1 else process.returncode) != 0
    assert "stopped by SIGTERM at step" in output
    index = json.loads((tmp_path / "stopped" / "run" / "checkpoints" / "index.json").read_text())
    done = int(index["last"].split("-")[1])
    assert 3 <= done < 30
    # one process goes on with what two have written
    run("contrastive", tmp_path / "stopped", **config)
    run("contrastive", tmp_path / "whole", **config)
    assert_same(results(tmp_path / "whole"), results(tmp_path / "stopped"), atol=0 if n_processes == 1 else 2e-5)
