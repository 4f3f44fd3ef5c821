"""Puzzles: eight cells of eight types and the eight names. How often are all of them put right?

    python benchmarks/puzzles.py --shared ../shared [--sets pbmc3k ...] [--size 8] [--puzzles 300] [--seeds 0 1 2]

A puzzle draws types of a validation set, a cell of each, and names them by the first Cell Ontology term of the author's label
(``shared/data/labels_to_cl.csv``). Each cell is a cluster of its own for ``bsc.tl.annotate(labels=names, by="cluster", min_confidence=0)``.
own best: each cell has its likeliest label. one of each: ``unique=True``. chance: of all right, when the names are dealt at random.
A value is the share of puzzles, and of cells, that are right: the mean over seeds, with the range in brackets.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes/mini"))

from evaluate import read

import bioverse_sc as bsc
from bioverse_sc.ontology import cell_ontology

if TYPE_CHECKING:
    from anndata import AnnData

    from bioverse_sc.models import BioVerse

SETS = ("pbmc3k", "symphony_pbmc_3tech", "scp1884_gut")
WAYS = {"own best": False, "one of each": True}


def deal(terms: pd.Series, size: int, rng: np.random.Generator) -> list[str]:
    """Names of cells, one of each of some types; a cell without a term is never drawn."""
    types = rng.choice(sorted(terms.dropna().unique()), size=size, replace=False)
    return [rng.choice(terms.index[terms == term]) for term in types]


def play(adata: AnnData, names: list[str], model: BioVerse, *, unique: bool) -> np.ndarray:
    """Which cells of a puzzle are put right; their types are in the order of the names."""
    puzzle = adata.copy()
    puzzle.obs["leiden"] = pd.Categorical(puzzle.obs_names)
    bsc.tl.annotate(puzzle, model=model, labels=names, by="cluster", unique=unique, min_confidence=0, reasoning=None)
    return puzzle.obs["bioverse_label"].to_numpy(dtype=str) == np.array(names)


def shown(values: list[float]) -> str:
    return f"{np.mean(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--size", type=int, default=8, help="cells and names of a puzzle")
    parser.add_argument("--puzzles", type=int, default=100, help="of each set and seed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    a = parser.parse_args()
    torch.set_num_threads(1)
    bsc.settings.verbosity = "error"
    model = bsc.models.load(a.model)
    table = pd.read_csv(a.shared / "data/labels_to_cl.csv")
    ontology = cell_ontology()
    print(f"{a.model} ({model.fingerprint}), {len(a.seeds)} x {a.puzzles} puzzles of {a.size}, seeds {a.seeds}")
    print("\n| set | types | own best: all right | cells | one of each: all right | cells | chance | s |")
    print("| --- |" + " ---: |" * 7)
    for name in a.sets:
        began = time.perf_counter()
        adata = read(a.shared, name)
        first = table.query("dataset == @name").set_index("label")["cl_ids"].str.split("|").str[0]
        terms = adata.obs["cell_type"].astype(str).map(first)
        # a cell's embedding does not depend on its company
        bsc.tl.align(adata, model=model)
        all_right: dict[str, list[float]] = {way: [] for way in WAYS}
        cells: dict[str, list[float]] = {way: [] for way in WAYS}
        for seed in a.seeds:
            rng = np.random.default_rng(seed)
            puzzles = [deal(terms, a.size, rng) for _ in range(a.puzzles)]
            for way, unique in WAYS.items():
                right = [
                    play(adata[drawn], [ontology.names[terms[cell]] for cell in drawn], model, unique=unique)
                    for drawn in puzzles
                ]
                all_right[way].append(float(np.mean([of.all() for of in right])))
                cells[way].append(float(np.mean(right)))
        values = " | ".join(f"{shown(all_right[way])} | {shown(cells[way])}" for way in WAYS)
        print(
            f"| {name} | {terms.nunique()} | {values} | {1 / math.factorial(a.size):.5f} | {time.perf_counter() - began:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
