"""Is our scGPT the official one? Compares random models of scGPT's own code, and what we write, with ``scgpt`` 0.2.4.

    python benchmarks/parity.py [--environment FOLDER]

The environment is made in a temporary folder by default; it needs the package index. Exit status 1 when anything
differs by more than 1e-4.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import official
import scipy.sparse
import torch

from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPTConfig, ScGPTEncoder, pad_cells
from bioverse_sc.train import TrainConfig, pretrain_encoder

LIMIT = 1e-4
CASES = {
    "continuous": [],
    "8 heads, width 128": ["--heads", 8, "--width", 128, "--layers", 2],
    "category": ["--style", "category"],
    "scaling": ["--style", "scaling"],
    "flash names": ["--flash"],
    "pre-norm": ["--flash", "--pre-norm"],
    "special tokens appended": ["--bare-vocabulary"],
}


def cells(n_genes: int, n: int = 12) -> scipy.sparse.csr_matrix:
    """Random cells of different lengths without ties, which the official code breaks at random."""
    rng = np.random.default_rng(1)
    matrix = rng.gamma(1.0, size=(n, n_genes)) * (rng.random((n, n_genes)) < rng.uniform(0.05, 0.9, size=(n, 1)))
    return scipy.sparse.csr_matrix(matrix.astype(np.float32))


def compare(python: Path, folder: Path, *, flash: bool) -> dict[str, float]:
    """Largest difference of every output."""
    encoder = ScGPTEncoder.from_folder(folder)
    matrix = cells(len(encoder.genes))
    tokens = encoder.tokenize(matrix, encoder.genes)
    ids, values, _ = pad_cells(tokens, np.arange(len(tokens)), encoder.vocabulary, encoder.module.config.pad_value)
    scipy.sparse.save_npz(folder / "cells.npz", matrix)
    np.savez(folder / "tokens.npz", ids=ids.numpy(), values=values.numpy())
    arguments = ["run", folder, folder / "cells.npz", folder / "out.npz", "--tokens", folder / "tokens.npz"]
    official.call(python, *arguments, *(["--flash"] if flash else []), flash=flash)
    with np.load(folder / "out.npz") as file:
        theirs = dict(file)
    real = (ids != encoder.vocabulary.pad_id).numpy()
    heads = encoder.heads()
    with torch.inference_mode():
        hidden = encoder.module(ids, values)
        ours = {
            "cells": encoder.encode(matrix, encoder.genes),
            "hidden": hidden.numpy(),
            "mlm_output": heads.values(hidden).numpy(),
            "mvc_output": heads.cell_values(hidden[:, 0], encoder.module.encoder(ids)).numpy(),
        }
        if "cls_output" in theirs:
            ours["cls_output"] = heads.cls_decoder(hidden[:, 0]).numpy()
    differences = {}
    for name, value in ours.items():
        there = real if value.shape[:2] == real.shape else np.ones(len(value), dtype=bool)
        scale = max(1.0, np.abs(theirs[name][there]).max()) if name.endswith("output") else 1.0
        differences[name] = float(np.abs(value[there] - theirs[name][there]).max() / scale)
    return differences


def ours_trained(folder: Path) -> None:
    """Pretrain a small encoder and write it in the official format."""
    shape = ScGPTConfig(embsize=32, nheads=4, d_hid=64, nlayers=2)
    genes = [f"GENE{i}" for i in range(200)]
    encoder = ScGPTEncoder.untrained(shape, GeneVocabulary(genes))
    types = np.arange(12) % 3
    config = TrainConfig(steps=5, batch_size=6, learning_rate=1e-2, warmup_steps=1)
    pretrain_encoder(encoder, encoder.tokenize(cells(200), genes), config, types=types)
    encoder.save(folder, format="official")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, help="where the environment of scgpt is, or is made")
    options = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        python = official.environment(options.environment or Path(temporary) / "environment")
        for number, case in enumerate([*CASES, "written by pretrain_encoder"]):
            folder = Path(temporary) / str(number)
            flash = "--flash" in CASES.get(case, [])
            if case in CASES:
                official.call(python, "make", folder, "--seed", number, *CASES[case], flash=flash)
            else:
                ours_trained(folder)
            differences = compare(python, folder, flash=flash)
            worst = max(worst, *differences.values())
            print(f"{case:28}" + "  ".join(f"{name} {value:.1e}" for name, value in differences.items()), flush=True)
    print(f"largest difference {worst:.1e}, limit {LIMIT:.0e}: {'the same' if worst < LIMIT else 'DIFFERENT'}")
    return int(not worst < LIMIT)


if __name__ == "__main__":
    sys.exit(main())
