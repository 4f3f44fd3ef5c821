"""Puzzles: eight cells of eight types and the eight names. How often are all of them put right?

    python benchmarks/puzzles.py --shared ../shared [--sets pbmc3k ...] [--size 8] [--puzzles 300]
        [--seeds 0 1 2] [--check 10]

A puzzle draws types of a validation set, a cell of each, and names them by the first Cell Ontology term of the author's
label (``shared/data/labels_to_cl.csv``). Each cell is a cluster of its own.

own best: each cell has its likeliest name, ``unknown`` where nothing is likelier; before: by ancestry alone, where a
name that is no label of the model and not above one takes nothing. one of each: as ``bsc.tl.annotate(by="cluster",
unique=True)``. A value is the share of puzzles that are all right, or of cells that are right: the mean over seeds,
with the range in brackets. The puzzles share the model's probabilities of its own labels; ``--check`` runs ``annotate``
on some of them and says how many cells get the same name.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes/mini"))

from evaluate import read
from neighbours import mixed, own_probabilities

import bioverse_sc as bsc
from bioverse_sc.groups import one_label_each
from bioverse_sc.ontology import UNKNOWN, cell_ontology

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from bioverse_sc.models import BioVerse

SETS = ("pbmc3k", "symphony_pbmc_3tech", "scp1884_gut")
WAYS = ("own best, before", "own best", "one of each")


def deal(terms: pd.Series, size: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of cells, one of each of some types; a cell without a term is never drawn."""
    types = rng.choice(sorted(terms.dropna().unique()), size=size, replace=False)
    return np.array([rng.choice(np.flatnonzero(terms == term)) for term in types])


def solve(model: BioVerse, p: np.ndarray, names: Sequence[str], way: str) -> np.ndarray:
    """Name of each cell of a puzzle.

    The names are given in the order of the alphabet, which does not tell whose they are.
    """
    names = sorted(names)
    p_of_names = mixed(model, p, names, before=way.endswith("before"))  # (cells, names and unknown)
    if way == "one of each":
        best = one_label_each(p_of_names, pd.Categorical(np.arange(len(p))))
    else:
        best = p_of_names.argmax(axis=1)
    return np.array([*names, UNKNOWN])[best]


def check(model: BioVerse, adata: AnnData, rows: np.ndarray, p: np.ndarray, names: Sequence[str]) -> int:
    """How many cells of a puzzle have the same name by ``annotate``."""
    puzzle = adata[rows].copy()
    puzzle.obs["leiden"] = [str(i) for i in range(len(rows))]
    bsc.tl.annotate(puzzle, model=model, labels=sorted(names), by="cluster", unique=True, reasoning=None)
    return int((puzzle.obs["bioverse_label"].to_numpy(dtype=str) == solve(model, p, names, "one of each")).sum())


def shown(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--size", type=int, default=8, help="cells and names of a puzzle")
    parser.add_argument("--puzzles", type=int, default=300, help="of each set and seed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--check", type=int, default=0, help="puzzles of each set to solve with annotate as well")
    a = parser.parse_args()
    torch.set_num_threads(1)
    bsc.settings.verbosity = "error"
    model = bsc.models.load(a.model)
    table = pd.read_csv(a.shared / "data/labels_to_cl.csv")
    print(f"{a.model} ({model.fingerprint}): {len(a.seeds)} x {a.puzzles} puzzles of {a.size}, seeds {a.seeds}\n")
    heads = [f"{way}: {share}" for way in WAYS for share in ("all right", "cells")]
    print(f"| set | types | {' | '.join(heads)} | seconds |\n| --- |{' ---: |' * (len(heads) + 2)}")
    same = total = 0
    for name in a.sets:
        began = time.perf_counter()
        adata = read(a.shared, name)
        first = table.query("dataset == @name").set_index("label")["cl_ids"].str.split("|").str[0]
        terms = adata.obs["cell_type"].astype(str).map(first).reset_index(drop=True)
        p = own_probabilities(model, adata, whole=True)
        right: dict[str, list[np.ndarray]] = {way: [] for way in WAYS}
        for seed in a.seeds:
            rng = np.random.default_rng(seed)
            puzzles = [deal(terms, a.size, rng) for _ in range(a.puzzles)]
            names = [[cell_ontology().names[terms[row]] for row in rows] for rows in puzzles]
            for way in WAYS:
                solved = [
                    solve(model, p[rows], named, way) == named for rows, named in zip(puzzles, names, strict=True)
                ]
                right[way].append(np.array(solved))
            if seed == a.seeds[0]:
                for rows, named in list(zip(puzzles, names, strict=True))[: a.check]:
                    same, total = same + check(model, adata, rows, p[rows], named), total + len(rows)
        values = [shown([f(r) for r in right[way]]) for way in WAYS for f in (lambda r: r.all(axis=1).mean(), np.mean)]
        print(f"| {name} | {terms.nunique()} | {' | '.join(values)} | {time.perf_counter() - began:.0f} |", flush=True)
    if total:
        print(f"\n{same} of {total} cells of the puzzles tried have the same name by annotate")


if __name__ == "__main__":
    main()
