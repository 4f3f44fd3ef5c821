"""Annotates in a process with two threads, then in forked children; run by ``test_fork.py`` in a process of its own."""

import multiprocessing as mp
import os
import sys
from concurrent.futures import ProcessPoolExecutor

import scanpy as sc
import torch

import bioverse_sc as bsc

bsc.settings.device = "cpu"
bsc.settings.progress = False


def annotate(_=0, data=None):
    data = sc.datasets.pbmc68k_reduced().raw.to_adata()[:30].copy() if data is None else data
    bsc.tl.annotate(data, reasoning=None)
    return data.obs["bioverse_label"].tolist()


def describe(_=0):
    """Texts are tokenized in parallel, and the generation runs in the child as well."""
    data = sc.datasets.pbmc68k_reduced().raw.to_adata()[:2].copy()
    bsc.tl.describe(data, max_new_tokens=4)
    return data.obs["bioverse_description"].tolist()


def two_threads():
    torch.set_num_threads(2)


def by_os_fork():
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, str(annotate()).encode())
        os._exit(0)
    os.wait()
    return [eval(os.read(read, 1 << 20))]


def main(how):
    torch.set_num_threads(2)
    context = mp.get_context("fork")
    found = []
    if how == "torch alone":
        # what a user computes starts the threads as well
        torch.randn(500, 500) @ torch.randn(500, 500)
        with context.Pool(1) as pool:
            found += pool.map(annotate, range(1))
        expected = annotate()
    else:
        expected, described = annotate(), describe()
        with context.Pool(2) as pool:
            found += pool.map(annotate, range(2))
        with context.Pool(1, initializer=two_threads) as pool:
            found += pool.map(annotate, range(1))
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            assert list(pool.map(describe, range(1))) == [described]
        found += by_os_fork()
    assert found == [expected] * len(found)
    assert torch.get_num_threads() == 2, "the parent keeps its threads"
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    print("the same")


if __name__ == "__main__":
    main(sys.argv[1])
