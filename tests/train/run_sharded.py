"""Training with sharded parameters as a program, two processes on the CPU, for ``test_fsdp.py``.

    python -m torch.distributed.run --nproc_per_node=2 -m tests.train.run_sharded FOLDER

accelerate refuses FSDP on the CPU, so its part is done here as it does it: blocks and the whole are sharded, and the
optimizer gets the sharded parameters. All the rest is the package's own loop.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from bioverse_sc import settings
from bioverse_sc.models import label_prompt
from bioverse_sc.train import Example, PromptSource, PromptTask, TrainConfig, fit
from bioverse_sc.train._checkpoint import set_trained_weights, trained_weights, unshard
from tests.tiny import LABELS, make_model, make_vectors

CONFIG = TrainConfig(
    steps=4, batch_size=8, micro_batch_size=2, warmup_steps=1, learning_rate=0.01, log_every=1, checkpoint_every=2
)


def make_task():
    """All weights train, those among them that the language model uses twice."""
    return PromptTask(make_model("llama", dropout=0.0).requires_grad_(requires_grad=True))


def sources(task):
    """Examples to train on and to validate on."""
    vectors = {"rna": make_vectors(24)}
    examples = [Example(label_prompt(LABELS[i % 4]), (i,)) for i in range(24)]
    return PromptSource(task.model, examples[:19], vectors), PromptSource(task.model, examples[19:], vectors)


def train(task, folder, *, steps=CONFIG.steps):
    """Train, or be interrupted before a step."""
    source, held_out = sources(task)
    real, seen = source.batch, []

    def batch(indices, rng):
        if len(seen) == steps * CONFIG.micro_batches(Accelerator().num_processes):
            raise KeyboardInterrupt
        seen.append(indices)
        return real(indices, rng)

    source.batch = batch
    try:
        return fit(task, source, CONFIG, validation=held_out, folder=folder)
    except KeyboardInterrupt:
        return None


def shard(_accelerator, task, optimizer):
    """What ``Accelerator.prepare`` does with FSDP 2."""
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    names = {id(p): name for name, p in task.named_parameters()}
    for layer in task.model.language_model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(task, mesh=mesh)
    sharded = dict(task.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [sharded[names[id(p)]] for p in group["params"]]
    return task, SimpleNamespace(optimizer=optimizer)


def check_that_weights_are_set(task):
    """After a forward pass alone, FSDP leaves whole copies in the place of some parameters."""
    source, _ = sources(task)
    batch = source.batch(np.arange(4), np.random.default_rng(0))
    before = trained_weights(task)
    losses = []
    for weights in (before, {name: tensor * 0.5 for name, tensor in before.items()}, before):
        with torch.no_grad():
            task.eval()(batch)
        set_trained_weights(task, weights)
        with torch.no_grad():
            losses.append(float(task(batch)["loss"]))
        assert all(torch.equal(tensor, weights[name]) for name, tensor in trained_weights(task).items())
        assert all(isinstance(p, DTensor) for p in task.parameters())
    assert losses[0] == losses[2] != losses[1], losses


def main(folder):
    settings.progress = False
    torch.set_num_threads(1)
    Accelerator.prepare = shard
    task = make_task()
    train(task, folder / "begun_sharded", steps=2)
    assert all(isinstance(p, DTensor) for p in task.parameters())
    task = make_task()
    history = train(task, folder / "begun_whole")
    check_that_weights_are_set(task)
    unshard(task.model)
    model = task.model
    assert not any(isinstance(p, DTensor) for p in model.parameters())
    assert model.language_model.lm_head.weight is model.embeddings.weight
    soft_tokens = model.project("rna", torch.from_numpy(make_vectors(3)))
    if Accelerator().is_main_process:
        weights = {name: p.detach().contiguous() for name, p in model.named_parameters()}
        save_file(weights | {"soft_tokens": soft_tokens.detach().contiguous()}, folder / "result.safetensors")
        (folder / "history.json").write_text(json.dumps(history))
    Accelerator().wait_for_everyone()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    torch.distributed.destroy_process_group()
