"""Does memory depend on the number of cells? Embeds sparse cells with ``mini``, each size in a process of its own.

    python benchmarks/memory.py [--cells 20000 200000]

Peak is the resident memory of the process at its highest, without the input matrix, vectors included.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import anndata as ad
import numpy as np
from scipy.sparse import csr_matrix

import bioverse_sc as bsc


def make_cells(n: int, genes: list[str], per_cell: int) -> ad.AnnData:
    """Counts of random genes, made without a larger matrix in between."""
    rng = np.random.default_rng(0)
    step = len(genes) // per_cell
    columns = np.arange(per_cell, dtype=np.int32) * step
    indices = np.empty(n * per_cell, dtype=np.int32)
    data = np.empty(n * per_cell, dtype=np.float32)
    for start in range(0, n, 1000):
        rows = min(1000, n - start)
        span = slice(start * per_cell, (start + rows) * per_cell)
        indices[span] = (columns + rng.integers(step, size=(rows, 1), dtype=np.int32)).ravel()
        data[span] = rng.integers(1, 50, size=rows * per_cell)
    indptr = np.arange(n + 1, dtype=np.int64) * per_cell
    adata = ad.AnnData(csr_matrix((data, indices, indptr), shape=(n, len(genes))))
    adata.var_names = genes
    return adata


def worker(n: int, per_cell: int) -> None:
    adata = make_cells(n, bsc.models.load("mini").encoders["rna"].genes, per_cell)
    matrix = adata.X
    size = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    began = time.perf_counter()
    with bsc.settings.override(progress=False, verbosity="warning"):
        bsc.tl.embed(adata)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(n, size, peak - size, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--genes", type=int, default=100, help="expressed genes of a cell")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.genes)
        return
    print(f"{'cells':>9}{'input':>12}{'peak beyond it':>16}{'ratio':>8}{'cells/s':>9}")
    first = None
    for n in options.cells:
        command = [sys.executable, __file__, "--worker", str(n), "--genes", str(options.genes)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        _, size, peak, seconds = (float(x) for x in done.stdout.split())
        first = first or peak
        print(f"{n:9}{size / 2**20:8.0f} MiB{peak / 2**20:12.0f} MiB{peak / first:8.2f}{n / seconds:9.0f}", flush=True)


if __name__ == "__main__":
    main()
