"""Cells per second of the scGPT encoder, ours and the official code's, on the same random weights and cells.

    python benchmarks/embed.py                       the published shape, 880 genes a cell, fp32 and bf16
    python benchmarks/embed.py --skip-official --device cuda --dtypes float32 bfloat16 float16 --cells 4096

One process for each row. The official code is ``scgpt`` 0.2.4, in an environment of its own (see ``official.py``),
called as its ``embed_data`` calls it. The share of the peak counts the operations that are needed (matrix products and
attention, the last layer for ``<cls>`` alone) against the best matrix product that this process measures, of the
network's shapes or square.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import official
import scipy.sparse
import torch

from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPTConfig, ScGPTEncoder


def random_cells(n: int, n_genes: int, per_cell: int, spread: float) -> scipy.sparse.csr_matrix:
    """Cells without ties, which the official code breaks at random."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.normal(per_cell, spread * per_cell, size=n).round().astype(int), 10, 1199)
    columns = np.concatenate([np.sort(rng.choice(n_genes, size=k, replace=False)) for k in lengths])
    values = np.concatenate([rng.permutation(np.arange(1, k + 1)) for k in lengths]).astype(np.float32)
    return scipy.sparse.csr_matrix((values, columns, np.r_[0, np.cumsum(lengths)]), shape=(n, n_genes))


def operations(config: ScGPTConfig, positions: np.ndarray) -> float:
    """Floating-point operations that the embeddings of cells need."""
    n, d, h = positions.astype(np.float64), config.embsize, config.d_hid
    layer = n * (8 * d * d + 4 * d * h) + 4 * n * n * d
    last = n * 4 * d * d + (4 * d * d + 4 * d * h) + 4 * n * d
    return float(((config.nlayers - 1) * layer + last).sum())


def gemm_peak(config: ScGPTConfig, dtype: torch.dtype, device: str) -> float:
    """Best rate of a matrix product, of the network's shapes or large and square, in operations per second."""
    d = config.embsize
    sizes = [(rows, d, c * d) for rows in ((1024, 2048, 4096) if device == "cpu" else (16_384, 65_536)) for c in (1, 3)]
    square = 2048 if device == "cpu" else 8192
    best = 0.0
    for rows, inner, columns in [*sizes, (square, square, square)]:
        a = torch.randn(rows, inner, dtype=dtype, device=device)
        b = torch.randn(columns, inner, dtype=dtype, device=device)
        for _ in range(12):
            synchronize(device)
            began = time.perf_counter()
            torch.nn.functional.linear(a, b)
            synchronize(device)
            best = max(best, 2 * rows * inner * columns / (time.perf_counter() - began))
    return best


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def ours(options: argparse.Namespace) -> None:
    """Embed and store, in a process of its own."""
    encoder = ScGPTEncoder.from_folder(options.folder).to(options.device)
    matrix = scipy.sparse.load_npz(options.folder / "cells.npz")
    genes = encoder.genes
    kind = {"batch_size": options.batch_size, "dtype": options.worker}
    encoder.encode(matrix[:2], genes, **kind)
    synchronize(options.device)
    began = time.perf_counter()
    vectors = encoder.encode(matrix, genes, **kind)
    seconds = time.perf_counter() - began
    if options.device == "cpu":
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    else:
        memory = torch.cuda.max_memory_allocated()
    needed = operations(encoder.module.config, np.diff(matrix.indptr) + 1) / seconds
    peak = gemm_peak(encoder.module.config, getattr(torch, options.worker), options.device)
    np.savez(options.out, cells=vectors, seconds=seconds, peak=memory, needed=needed, gemm=peak)


def prepare(options: argparse.Namespace, folder: Path, python: Path | None) -> None:
    """Write random weights and cells."""
    shape = {"width": 512, "heads": 8, "hidden": 512, "layers": options.layers, "genes": options.vocabulary}
    if python is not None:
        official.call(python, "make", folder, *(x for k, v in shape.items() for x in (f"--{k}", v)))
    else:
        config = ScGPTConfig(embsize=512, nheads=8, d_hid=512, nlayers=options.layers)
        vocabulary = GeneVocabulary(f"GENE{i}" for i in range(options.vocabulary))
        ScGPTEncoder.untrained(config, vocabulary).save(folder)
    cells = random_cells(options.cells, options.vocabulary, options.genes, options.spread)
    scipy.sparse.save_npz(folder / "cells.npz", cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=64)
    parser.add_argument("--genes", type=int, default=880, help="expressed genes of a cell")
    parser.add_argument("--spread", type=float, default=0.0, help="relative standard deviation of that number")
    parser.add_argument(
        "--vocabulary", type=int, default=60_694, help="genes of the vocabulary, without special tokens"
    )
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--environment", type=Path, help="where the environment of scgpt is, or is made")
    parser.add_argument("--official-python", type=Path, help="interpreter of an environment with scgpt, instead")
    parser.add_argument("--skip-official", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        ours(options)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "checkpoint"
        python = None
        if not options.skip_official:
            python = options.official_python or official.environment(options.environment or Path(temporary) / "scgpt")
        prepare(options, folder, python)
        rows = {}
        if python is not None:
            out = folder / "official.npz"
            arguments = ["--time", "--batch-size", options.batch_size]
            official.call(python, "run", folder, folder / "cells.npz", out, *arguments)
            rows["official"] = dict(np.load(out))
        for dtype in options.dtypes:
            out = folder / f"{dtype}.npz"
            command = [sys.executable, __file__, "--worker", dtype, "--folder", folder, "--out", out]
            command += ["--device", options.device, "--batch-size", str(options.batch_size)]
            subprocess.run(command, check=True)
            rows[dtype] = dict(np.load(out))
        where = torch.cuda.get_device_name() if options.device != "cpu" else f"{len(os.sched_getaffinity(0))} CPU cores"
        print(
            f"{options.cells} cells, {options.genes} genes each, {options.layers} layers, {where}, torch "
            f"{torch.__version__}"
        )
        print(
            f"{'':10}{'cells/s':>10}{'ratio':>8}{'peak memory':>14}{'of GEMM peak':>14}{'difference':>12}{'cosine':>10}"
        )
        reference = rows.get("official", rows[options.dtypes[0]])
        for name, row in rows.items():
            rate = options.cells / float(row["seconds"])
            ratio = float(reference["seconds"] / row["seconds"])
            text = f"{name:10}{rate:10.2f}{ratio:8.2f}{float(row['peak']) / 2**30:10.2f} GiB"
            text += f"{float(row['needed'] / row['gemm']):14.0%}" if "gemm" in row else f"{'':14}"
            cosine = (row["cells"] * reference["cells"]).sum(axis=1).min()
            print(text + f"{np.abs(row['cells'] - reference['cells']).max():12.1e}{cosine:10.5f}")


if __name__ == "__main__":
    main()
