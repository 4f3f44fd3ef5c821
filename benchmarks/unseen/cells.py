"""Cells of known types as encoder vectors, and types that are held out of a training."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes/mini"))

import cells
from data import Data
from evaluate import read
from recipe import Recipe
from types_named import terms_named

import bioverse_sc as bsc
from bioverse_sc.ontology import cell_ontology

if TYPE_CHECKING:
    from collections.abc import Sequence

SETS = ("pbmc3k", "kang_pbmc_1287g", "symphony_pbmc_3tech", "scp1884_gut", "baron_pancreas_175", "he_liver_20")
TRAIN_SEED, TEST_SEED = 71, 72
N_REAL = 600
"""Cells of a validation set at most."""


@dataclass(frozen=True)
class Typed:
    """Cells whose types are known."""

    vectors: np.ndarray
    """Of the encoder, shape (cells, width)."""
    types: np.ndarray
    """Index of each cell's term, shape (cells,)."""

    def some(self, n: int) -> Typed:
        """At most ``n`` of them, the same ones each time."""
        rows = np.sort(np.random.default_rng(0).permutation(len(self.types))[:n])
        return Typed(self.vectors[rows], self.types[rows])


@dataclass(frozen=True)
class Unseen:
    """A training without some types."""

    terms: Sequence[str]
    """Cell Ontology ids of all types."""
    held_out: np.ndarray
    """Indices of those that nothing is trained on."""

    @property
    def seen(self) -> np.ndarray:
        return np.setdiff1d(np.arange(len(self.terms)), self.held_out)


def held_out_types(terms: Sequence[str], n: int, seed: int) -> np.ndarray:
    """Indices of ``n`` random types, each with all that are kinds of it."""
    ontology = cell_ontology()
    chosen: set[int] = set()
    for i in np.random.default_rng(seed).permutation(len(terms)):
        family = {j for j, term in enumerate(terms) if terms[i] in ontology.ancestors(term)}
        if len(chosen | family) <= n:
            chosen |= family
    return np.array(sorted(chosen))


def named_types(terms: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Indices of the types of these names, and of all that are kinds of them."""
    wanted = terms_named(names)
    return np.array([j for j, term in enumerate(terms) if cell_ontology().ancestors(term) & wanted])


def simulated(shared: Path, work: Path, n_train: int, n_test: int) -> tuple[list[str], Typed, Typed]:
    """Terms, and simulated cells of all of them alike: to train on, and others. Kept in the folder for the next run."""
    file = work / f"simulated_{n_train}_{n_test}.npz"
    if not file.exists():
        data = Data(shared, work, Recipe())
        parts = {"terms": np.array(data.terms)}
        for part, n, seed in (("train", n_train, TRAIN_SEED), ("test", n_test, TEST_SEED)):
            made = cells.simulate(data.profiles, n, seed=seed, balance=0.0)
            types = data.type_of_profile[made.profile]
            rows = np.flatnonzero((types >= 0) & (np.diff(made.counts.indptr) >= cells.MIN_GENES))
            adata = ad.AnnData(made.counts[rows], var=pd.DataFrame(index=data.profiles.genes))
            adata.obs_names = [f"cell{i}" for i in rows]
            parts |= {f"{part}_vectors": embedded(adata), f"{part}_types": types[rows]}
        np.savez(file, **parts)
    stored = np.load(file)
    train, test = (Typed(stored[f"{part}_vectors"], stored[f"{part}_types"]) for part in ("train", "test"))
    return stored["terms"].tolist(), train, test


def real(shared: Path, work: Path, terms: Sequence[str]) -> Typed:
    """Cells of the validation sets whose author label means one of the terms and no other, at most 600 of a set."""
    file = work / "real.npz"
    if file.exists():
        stored = np.load(file)
        return Typed(stored["vectors"], stored["types"])
    table = pd.read_csv(shared / "data/labels_to_cl.csv")
    parts = []
    for name in SETS:
        means = table[table["dataset"] == name].set_index("label")["cl_ids"]
        adata = read(shared, name)
        types = [terms.index(t) if t in terms else -1 for t in adata.obs["cell_type"].astype(str).map(means).fillna("")]
        rows = np.flatnonzero(np.array(types) >= 0)
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:N_REAL])
        if len(rows):
            parts.append(Typed(embedded(adata[rows].copy()), np.array(types)[rows]))
    joined = Typed(np.concatenate([part.vectors for part in parts]), np.concatenate([part.types for part in parts]))
    np.savez(file, vectors=joined.vectors, types=joined.types)
    return joined


def embedded(adata: ad.AnnData) -> np.ndarray:
    """Vectors of the encoder of ``mini``."""
    bsc.tl.embed(adata)
    return np.asarray(adata.obsm["X_scgpt"])
