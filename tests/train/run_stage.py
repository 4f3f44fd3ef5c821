"""A stage of training as a program, for the tests that start processes, kill them, and start them again.

    python -m tests.train.run_stage '[["contrastive", "FOLDER", {"steps": 4, ...}], ...]'

Each trains a tiny model without dropout and writes ``FOLDER/result.safetensors`` (what was trained) and
``FOLDER/history.json``.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from safetensors.torch import save_file

from bioverse_sc import settings, train
from bioverse_sc.models import Answer, Entity, Text, label_prompt
from bioverse_sc.train import Descriptions, Example, LoraSettings, TrainConfig
from tests.tiny import make_model, make_vectors

TEXTS = ["B cell. Markers: CD19.", "T cell. Markers: CD3E.", "monocyte."]
N = 40


def run(stage, folder, **config):
    """Train one stage on one thread, so that the last bits do not depend on the process that does it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train_stage(stage, folder, **config)
    finally:
        torch.set_num_threads(threads)


def train_stage(stage, folder, *, pause=0.0, **config):
    """Train one stage; ``pause`` makes each batch take that long, so that there is time to interrupt it."""
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(dropout=0.0)
    which = np.arange(N) % 3
    noise = np.random.default_rng(0).normal(scale=0.05, size=(N, 16))
    vectors = (make_vectors(3)[which] + noise).astype(np.float32)
    texts = Descriptions(TEXTS, which)
    config = TrainConfig(**{"warmup_steps": 1, "learning_rate": 0.01, "log_every": 1, "checkpoint_every": 2} | config)
    if pause:
        for source in (train.PairSource, train.PromptSource):
            slow(source, pause)
    common = {"folder": folder / "run"}
    if stage in ("contrastive", "autoregressive"):
        held_out = np.arange(0, N, 5)
        history = train.align(model, vectors, texts, config, objective=stage, validation=held_out, **common)
    elif stage == "sequences":
        ragged = [np.repeat(v[None], 1 + i % 3, axis=0) for i, v in enumerate(vectors)]
        history = train.align(model, ragged, texts, config, **common)
    else:
        # answers of very different length, and prompts without, with one and with two cells
        examples = [Example(label_prompt(TEXTS[w][: 3 + 2 * (i % 9)]), (i,)) for i, w in enumerate(which)]
        examples[::5] = [
            Example([Text("Two: "), Entity("rna"), Text(", "), Entity("rna"), Answer("a pair")], (i, (i + 1) % N))
            for i in range(0, N, 5)
        ]
        examples[1::7] = [Example([Text("None."), Answer("no cell at all")]) for _ in examples[1::7]]
        descriptions = {"rna": texts} if stage == "instruct beside contrast" else None
        history = train.instruct(
            model, examples, {"rna": vectors}, config, lora=LoraSettings(rank=2), descriptions=descriptions, **common
        )
    if PartialState().is_main_process:
        weights = {n: p for n, p in model.named_parameters() if n.startswith("projectors.") or "lora_" in n}
        save_file({n: p.detach().contiguous() for n, p in weights.items()}, folder / "result.safetensors")
        (folder / "history.json").write_text(json.dumps(history))


def slow(source, pause):
    real = source.batch

    def batch(self, indices, rng):
        time.sleep(pause)
        return real(self, indices, rng)

    source.batch = batch


if __name__ == "__main__":
    settings.progress = False
    for stage, folder, config in json.loads(sys.argv[1]):
        run(stage, Path(folder), **config)
