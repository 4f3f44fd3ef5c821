"""Time and memory of ``bsc.tl.annotate(adata)``, the call without options, on many cells.

    python benchmarks/default_call.py ../shared/data/cells/pbmc3k.h5ad [--cells 100000] [--threads 2]

The cells are drawn from those of a file of counts, and each of their counts is kept with a chance of 0.8, so that no
two are the same.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix

import bioverse_sc as bsc

KEPT = 0.8


def many(file: Path, n_cells: int, rng: np.random.Generator) -> ad.AnnData:
    """Cells of a file, thinned, as many as are asked for."""
    adata = ad.read_h5ad(file)
    counts = csr_matrix(adata.X)[rng.integers(adata.n_obs, size=n_cells)]
    counts.data = rng.binomial(counts.data.astype(np.int64), KEPT).astype(np.float32)
    counts.eliminate_zeros()
    return ad.AnnData(counts, obs=pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)]), var=adata.var[[]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bsc.settings.device = "cpu"
    adata = many(options.file, options.cells, np.random.default_rng(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    bsc.tl.annotate(adata)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    supported, unsupported = (adata.obs[f"bioverse_genes_{name}"].sum() for name in ("supported", "unsupported"))
    print(f"cells      {adata.n_obs}, {options.threads} threads")
    print(f"seconds    {wall:.0f} ({cpu:.0f} of CPU time)")
    print(f"memory     {peak / 2**20:.1f} GiB at its highest, {before / 2**20:.1f} before")
    print(f"texts      {adata.obs['bioverse_reasoning'].nunique()} different")
    print(f"supported  {supported / max(supported + unsupported, 1):.3f} of the claims about genes, each in its cell")


if __name__ == "__main__":
    main()
