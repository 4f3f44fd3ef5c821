"""Cells and the compounds that they were treated with (sciPlex 3), in one prompt: what each adds to the answer.

    python benchmarks/sciplex.py --shared ../shared [--model mini] [--cells 200]

Every cell is asked about together with its compound, then again with the compound of another cell, with another cell's
profile, and with nothing changed. A model that reads both changes its answer with either, and never otherwise. The
question is one that ``mini`` was trained on, with simulated cells and other molecules: it says what the two are. What a
drug does to a cell it has never seen.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from mudata import MuData

import bioverse_sc as bsc

QUESTION = "What are the cell and the molecule?"


def pair(cells: ad.AnnData, smiles: np.ndarray) -> MuData:
    """Cells and molecules that share their names."""
    obs = pd.DataFrame({"smiles": smiles}, index=cells.obs_names)
    return MuData({"rna": cells, "molecule": ad.AnnData(obs=obs)})


def answers(cells: ad.AnnData, smiles: np.ndarray, model: str) -> np.ndarray:
    """Ask about each pair."""
    mdata = pair(cells.copy(), smiles)
    bsc.tl.ask(mdata, QUESTION, mod=["rna", "molecule"], model=model)
    written: np.ndarray = mdata.obs.loc[cells.obs_names, "bioverse_answer"].to_numpy()
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    data = ad.read_h5ad(a.shared / "data/cells/sciplex3_2247.h5ad")
    rng = np.random.default_rng(a.seed)
    cells = data[np.sort(rng.permutation(data.n_obs)[: a.cells])].copy()
    smiles = cells.obs["SMILES"].astype(str).to_numpy()
    if len(set(smiles)) < 2:
        sys.exit(f"All {len(smiles)} cells have one compound, so that none can be exchanged; take more, --cells 200.")
    # another compound for each cell, never its own
    other = np.roll(np.arange(len(smiles)), 1)
    while same := np.flatnonzero(smiles[other] == smiles).tolist():
        other[same] = rng.integers(len(smiles), size=len(same))
    swapped = ad.AnnData(cells.X[np.roll(np.arange(len(cells)), 1)].copy(), obs=cells.obs, var=cells.var)
    start = time.perf_counter()
    first = answers(cells, smiles, a.model)
    seconds = time.perf_counter() - start
    rows = {
        "nothing": answers(cells, smiles, a.model),
        "the compound": answers(cells, smiles[other], a.model),
        "the cell": answers(swapped, smiles, a.model),
    }
    print(f"{len(cells)} cells, {len(set(smiles))} compounds, {seconds:.1f} s with embedding\n")
    print("| what is exchanged | answers that change | what is said of the molecule | what is said of the cell |")
    print("| --- | ---: | ---: | ---: |")
    before = pd.Series(first).str.split(". ", n=1, expand=True, regex=False).reindex(columns=[0, 1]).fillna("")
    for name, texts in rows.items():
        after = pd.Series(texts).str.split(". ", n=1, expand=True, regex=False).reindex(columns=[0, 1]).fillna("")
        changed = [float(x.mean()) for x in (texts != first, before[1] != after[1], before[0] != after[0])]
        print(f"| {name} | " + " | ".join(f"{x:.3f}" for x in changed) + " |")
    print()
    for i in range(min(5, len(cells))):
        obs = cells.obs.iloc[i]
        print(f"- {obs['cell_type']}, {obs['product_name']} ({obs['target']}): {first[i]}")


if __name__ == "__main__":
    main()
