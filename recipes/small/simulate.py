"""Write a small labelled data set to train on: cells simulated from reference profiles of human blood and organs.

    python recipes/small/simulate.py --shared ../shared -o runs/cells.h5ad [--cells 6000]

Each profile set (a study of an organ) stands for a donor, so that whole sets are held out. Labels are the authors' own
words as Cell Ontology names.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "mini"))

from cells import read_profiles, simulate

from bioverse_sc.ontology import cell_ontology


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    profiles = read_profiles(a.shared, n_genes=7000)
    cells = simulate(profiles, a.cells, seed=a.seed, balance=0.7)
    rows = np.flatnonzero(profiles.usable[cells.profile])
    profile = cells.profile[rows]
    names = [cell_ontology().names[profiles.terms[i]] for i in profile]
    obs = pd.DataFrame(
        {"cell_type": names, "donor_id": profiles.sets[profile]}, index=[f"cell{i}" for i in range(len(rows))]
    )
    adata = ad.AnnData(cells.counts[rows], obs=obs, var=pd.DataFrame(index=profiles.genes))
    a.output.parent.mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(a.output, compression="gzip")
    print(f"{a.output}: {adata.n_obs} cells, {obs['cell_type'].nunique()} types, {obs['donor_id'].nunique()} sets")


if __name__ == "__main__":
    main()
