"""Fetch labelled cells from CZ CELLxGENE Census: so many of each type and donor, raw counts, normal primary tissue.

    python cells.py -o runs/cells.h5ad [--per-type-and-donor 300] [--cells 500000] [--census 2025-01-30]

Needs the network and ``pip install cellxgene-census``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cellxgene_census
import numpy as np

FILTER = "is_primary_data == True and disease == 'normal' and suspension_type == 'cell' and cell_type != 'unknown'"
COLUMNS = ["cell_type", "donor_id", "dataset_id", "tissue", "tissue_general", "assay", "sex", "development_stage"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--per-type-and-donor", type=int, default=300)
    parser.add_argument("--cells", type=int, default=500_000)
    parser.add_argument("--census", default="2025-01-30", help="version, so that the same cells come again")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    with cellxgene_census.open_soma(census_version=a.census) as census:
        columns = ["soma_joinid", "cell_type", "donor_id", "dataset_id"]
        obs = cellxgene_census.get_obs(census, "Homo sapiens", value_filter=FILTER, column_names=columns)
        # donors have names inside a data set only
        donor = obs["dataset_id"].astype(str) + "|" + obs["donor_id"].astype(str)
        shuffled = obs.assign(donor=donor).sample(frac=1, random_state=a.seed)
        few = shuffled.groupby(["cell_type", "donor"], observed=True).head(a.per_type_and_donor).head(a.cells)
        adata = cellxgene_census.get_anndata(
            census, "Homo sapiens", obs_coords=np.sort(few["soma_joinid"].to_numpy()), obs_column_names=COLUMNS
        )
    adata.obs["donor_id"] = adata.obs["dataset_id"].astype(str) + "|" + adata.obs["donor_id"].astype(str)
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    a.output.parent.mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(a.output, compression="gzip")
    print(f"{a.output}: {adata.n_obs} cells, {adata.obs['cell_type'].nunique()} types")


if __name__ == "__main__":
    main()
