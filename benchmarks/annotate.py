"""Cells per second of annotation, beside a loop over cells.

    python benchmarks/annotate.py --shared ../shared [--cells 512] [--loop-cells 16] [--threads 2]

The cells are simulated from reference profiles. The loop does the same one cell at a time, over the first of the cells.
Both count from the matrix on, embedding too. Cells per second of CPU time, which all threads add to, compare where
something else runs on the machine.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import torch

import bioverse_sc as bsc
from bioverse_sc.datasets import simulate_counts

if TYPE_CHECKING:
    from collections.abc import Callable


def simulated(shared: Path, n_cells: int) -> ad.AnnData:
    """Cells of random types."""
    profiles = ad.read_h5ad(shared / "data/profiles/cellprofilelibrary_human.h5ad")
    mean = np.asarray(profiles.to_df(), dtype=np.float64)
    chosen = np.random.default_rng(0).integers(len(mean), size=n_cells)
    types, sets = (profiles.obs[name].astype(str).to_numpy() for name in ("cell_type", "tissue"))
    counts = simulate_counts(mean, types, sets, chosen)
    names = pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)])
    return ad.AnnData(counts, obs=names, var=pd.DataFrame(index=profiles.var_names))


def timed(work: Callable[[], object], n_cells: int) -> tuple[float, float]:
    """Cells per second, of time on the clock and of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return n_cells / (time.perf_counter() - wall), n_cells / (time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/profiles")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--cells", type=int, default=512)
    parser.add_argument("--loop-cells", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bsc.settings.progress = False
    bsc.settings.verbosity = "warning"
    bsc.settings.device = "cpu"
    model = bsc.models.load(options.model)
    adata = simulated(options.shared, options.cells)
    size, few = options.batch_size, min(options.loop_cells, options.cells)

    def annotated(n_cells: int, reasoning: str | None, batch_size: int) -> ad.AnnData:
        return bsc.tl.annotate(adata[:n_cells], model=model, reasoning=reasoning, batch_size=batch_size, copy=True)

    # also loads what is loaded once
    annotated(options.cells, None, size)
    annotated(2, "cell", 2)
    rows = {
        "labels": (lambda: annotated(options.cells, None, size), lambda: annotated(few, None, 1)),
        "labels and a reasoning each": (
            lambda: annotated(options.cells, "cell", size),
            lambda: annotated(few, "cell", 1),
        ),
    }
    print(
        f"{model.config.name}, {options.cells} cells in batches of {size}, {options.threads} threads; loop: {few} cells"
    )
    print(f"{'cells per second':30}{'batched':>10}{'loop':>8}{'ratio':>8}{'of CPU time':>14}{'loop':>8}{'ratio':>8}")
    for name, (batched, loop) in rows.items():
        (fast, fast_cpu), (slow, slow_cpu) = timed(batched, options.cells), timed(loop, few)
        text = f"{name:30}{fast:10.1f}{slow:8.1f}{fast / slow:7.1f}x"
        print(f"{text}{fast_cpu:14.1f}{slow_cpu:8.1f}{fast_cpu / slow_cpu:7.1f}x", flush=True)


if __name__ == "__main__":
    main()
