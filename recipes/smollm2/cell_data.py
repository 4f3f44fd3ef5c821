"""Cells to train on, as a file: simulated ones, mixtures of two, views of real ones, and strangers, which have no type.

    python recipes/smollm2/cell_data.py --shared ../shared --out runs/smollm2/cells.h5ad

Each has the label that ``mini`` gives it (of the simulated ones 96 % are the true type), so that the two models read
cells alike; the text of the label is what stage 1 aligns with.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

sys.path.insert(0, str(Path(__file__).parents[1] / "mini"))

import cells
import real_cells
from data import Data
from recipe import Recipe
from refine import Refinement

import bioverse_sc as bsc
from bioverse_sc.datasets import SimulationConfig
from bioverse_sc.ontology import UNKNOWN, cell_ontology

SEED = 40
UNKNOWN_TEXT = "This is not a cell of a known type."
SAME_SET = 0.7
"""Share of the mixtures whose two cells are of one tissue's profiles."""


def mixtures(counts: csr_matrix, sets: np.ndarray, n: int, rng: np.random.Generator) -> csr_matrix:
    """Molecules of one cell with some of another, as ambient RNA and doublets give, shape (n, genes).

    What ``mini`` calls them shows where it draws the line between types.
    """
    first = rng.integers(counts.shape[0], size=n)
    second = rng.integers(counts.shape[0], size=n)
    for i in np.flatnonzero(rng.random(n) < SAME_SET):
        second[i] = rng.choice(np.flatnonzero(sets == sets[first[i]]))
    share = rng.uniform(0.5, 1, size=n)
    return csr_matrix(_thinned(counts[first], share, rng) + _thinned(counts[second], 1 - share, rng))


def _thinned(counts: csr_matrix, share: np.ndarray, rng: np.random.Generator) -> csr_matrix:
    """Each molecule of a row stays with the probability of the row."""
    stays = np.repeat(share, np.diff(counts.indptr))
    left = rng.binomial(counts.data.astype(np.int64), stays).astype(np.float32)
    thinned = csr_matrix((left, counts.indices, counts.indptr), shape=counts.shape)
    thinned.eliminate_zeros()
    return thinned


def make(shared: Path, work: Path, *, simulated: int, mixed: int, views: int, strangers: int) -> ad.AnnData:
    """Counts of all four kinds, with labels and texts."""
    data, refinement = Data(shared, work, Recipe()), Refinement()
    config = SimulationConfig(ambient=refinement.ambient)
    made = cells.simulate(data.profiles, simulated, seed=SEED, balance=0.5, config=config)
    real = vstack(real_cells.read_unlabelled(shared, data.profiles.genes), format="csr")
    rows = np.random.default_rng(SEED).integers(real.shape[0], size=views)
    strange = cells.simulate_strangers(
        data.profiles, strangers, seed=SEED, n_profiles=refinement.strange_profiles, shares=refinement.kinds_at_last
    )
    both = mixtures(made.counts, data.profiles.sets[made.profile], mixed, np.random.default_rng(SEED + 1))
    parts = [made.counts, real_cells.views(real, rows, seed=SEED), strange, both]
    counts = vstack(parts, format="csr").astype(np.float32)
    kinds = np.repeat(["simulated", "real", "stranger", "mixed"], [part.shape[0] for part in parts])
    adata = ad.AnnData(counts, obs=pd.DataFrame({"kind": kinds}), var=pd.DataFrame(index=data.profiles.genes))
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    adata = adata[np.diff(counts.indptr) >= cells.MIN_GENES].copy()
    bsc.tl.annotate(adata, reasoning=None, min_confidence=0.0)
    ontology = cell_ontology()
    texts = {
        label: UNKNOWN_TEXT if label == UNKNOWN else ontology.describe(ontology.find(label) or "")
        for label in adata.obs["bioverse_label"].unique()
    }
    labels = adata.obs["bioverse_label"].astype(str)
    adata.obs = pd.DataFrame({"kind": adata.obs["kind"], "label": labels, "text": labels.map(texts)})
    del adata.obsm, adata.uns
    return adata


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--simulated", type=int, default=45_000)
    parser.add_argument("--mixed", type=int, default=20_000)
    parser.add_argument("--views", type=int, default=14_000)
    parser.add_argument("--strangers", type=int, default=5_000)
    a = parser.parse_args()
    a.out.parent.mkdir(parents=True, exist_ok=True)
    adata = make(a.shared, a.out.parent, simulated=a.simulated, mixed=a.mixed, views=a.views, strangers=a.strangers)
    print(adata.obs.groupby("kind", observed=True)["label"].agg(["size", "nunique"]))
    adata.write_h5ad(a.out, compression="lzf")


if __name__ == "__main__":
    main()
