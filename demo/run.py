"""Annotate the 700 blood cells that ship inside scanpy, offline, and look at the result.

make demo
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import scanpy as sc

import bioverse_sc as bsc

HERE = Path(__file__).parent


def main() -> None:
    adata = sc.datasets.pbmc68k_reduced()
    bsc.tl.annotate(adata)
    bsc.pl.alignment_umap(adata, show=False)
    plt.savefig(HERE / "alignment_umap.png", dpi=150)
    adata.write_h5ad(HERE / "pbmc68k_annotated.h5ad")

    obs = adata.obs
    print(f"\n{'cells':>5}  {'confidence':>10}  label")
    for label, cells in obs.groupby("bioverse_label", observed=True):
        # the surest of the cells that were written about serves as the example
        written_about = cells[cells["bioverse_reasoning_of"] == cells.index]
        example = written_about.sort_values("bioverse_confidence", ascending=False, kind="stable").iloc[0]
        print(
            f"{len(cells):>5}  {cells['bioverse_confidence'].mean():>10.2f}  {label} ({example['bioverse_label_id']})"
        )
        print(f"{'':19}{example['bioverse_reasoning']}")
    claims = obs["bioverse_genes_supported"].sum() + obs["bioverse_genes_unsupported"].sum()
    print(
        f"\nOf {claims} claims about genes in the reasoning, {obs['bioverse_genes_supported'].sum() / claims:.1%} "
        "hold in their cell."
    )
    print("Wrote demo/pbmc68k_annotated.h5ad and demo/alignment_umap.png")


if __name__ == "__main__":
    main()
