"""Calls public functions and says which global states they have changed.

Run by ``test_quiet.py`` in a process of its own.
"""

import logging
import os
import random
import sys
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import matplotlib as mpl
import numpy as np
import scanpy as sc
import torch
from huggingface_hub.utils import are_progress_bars_disabled
from transformers.utils import logging as of_transformers

import bioverse_sc as bsc

bsc.settings.device = "cpu"
bsc.settings.verbosity = sys.argv[1]
bsc.settings.progress = sys.argv[2] == "bars"


def state():
    return {
        "torch random": torch.get_rng_state().numpy().tobytes(),
        "numpy random": repr(np.random.get_state()),  # noqa: NPY002
        "python random": random.getstate(),
        "threads": torch.get_num_threads(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "dtype": torch.get_default_dtype(),
        "precision": (torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "root logger": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "transformers": (of_transformers.get_verbosity(), of_transformers.is_progress_bar_enabled()),
        "hub": are_progress_bars_disabled(),
        "bitsandbytes": logging.getLogger("bitsandbytes").level,
        "folder": Path.cwd(),
        # RDKit says where it is when it is imported
        "environment": {name: value for name, value in os.environ.items() if name != "RDBASE"},
        "figures": {name: repr(value) for name, value in mpl.rcParams.items() if name != "backend"},
        "numpy": (np.geterr(), repr(np.get_printoptions())),
    }


def chat(adata):
    conversation = bsc.Chat(adata, adata.obs_names[0], max_new_tokens=3)
    conversation.ask("What is it?")
    # between the pieces of a stream the user's own code runs
    before = state()
    for _ in conversation.stream("Why?"):
        assert not changed(before, state())


def create(folder):
    made = bsc.models.create("mini", {"rna": bsc.models.load("mini").encoders["rna"]}, name="new")
    bsc.models.save(made, folder / "model", include_language_model=True)
    bsc.models.load(folder / "model")


def changed(before, after):
    return [name for name in before if before[name] != after[name]]


def main():
    cells = sc.datasets.pbmc68k_reduced().raw.to_adata()[:12].copy()
    proteins = ad.AnnData(obs={"sequence": ["CYIQNCPLG", "MKTAYIAKQRQISFVKSHFS"]})
    molecules = ad.AnnData(obs={"smiles": ["CCO", "c1ccccc1"]})
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    calls = {
        "annotate": lambda: bsc.tl.annotate(cells, max_cells_to_generate=1),
        "describe": lambda: bsc.tl.describe(proteins, mod="protein", max_new_tokens=3, temperature=1.0),
        "retrieve": lambda: bsc.tl.describe(molecules, mod="molecule", max_new_tokens=3, retrieve=True),
        "ask": lambda: bsc.tl.ask(cells[:2].copy(), "What is it?", max_new_tokens=3),
        "score": lambda: bsc.tl.score(cells, ["a cell", "a house"]),
        "alignment_umap": lambda: bsc.tl.alignment_umap(cells),
        "evidence": lambda: bsc.tl.evidence(cells),
        "controls": lambda: bsc.tl.controls(cells),
        "chat": lambda: chat(cells),
        "create": lambda: create(Path(tempfile.mkdtemp())),
    }
    for name, call in calls.items():
        before = state()
        call()
        if found := changed(before, state()):
            sys.exit(f"{name} changes {', '.join(found)}")


if __name__ == "__main__":
    main()
