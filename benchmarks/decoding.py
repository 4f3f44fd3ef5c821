"""What writes reasonings faster: the package's loop, or ``generate`` of transformers with the same constraints.

    python benchmarks/decoding.py cells.h5ad [--cells 256] [--batch-size 128 32 1] [--repeats 5] [--threads 1]

The prompts are those of ``bsc.tl.annotate``. Both write in turn, and first whoever wrote last, as other work on the
machine slows what it meets; ``ratio`` is the median over the repeats. Of texts that differ, the first pair is printed.
``generate`` keeps answers that have ended in the batch, and its head computes the logits of every token; the loop does
neither. Answers are the likeliest tokens; draws of each prompt's own would need a processor that adds their noise.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from transformers import GenerationConfig, LogitsProcessor

import bioverse_sc as bsc
from bioverse_sc import models
from bioverse_sc.models import ShownGenes, TypeNames, inject, pad_prompts
from bioverse_sc.models.decode import GenesLeft, NamesLeft

if TYPE_CHECKING:
    from collections.abc import Callable

    from bioverse_sc.models import BioVerse

Call = tuple[Any, Any, Any, Any, ShownGenes, TypeNames]
"""Model, prompts, soft tokens, decoding and constraints of a batch."""


class Constrained(LogitsProcessor):
    """The constraints of reasonings, as ``generate`` takes them. What it chose is seen at its next question."""

    def __init__(self, genes: ShownGenes, names: TypeNames) -> None:
        self.columns = genes.writable
        self.genes = torch.nonzero(genes.is_gene).flatten()
        self.left = GenesLeft(genes, lambda rows: self.scores[rows][:, self.genes], self.columns)
        self.names = NamesLeft(names, self.left, self.columns)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.scores = scores  # (answers, vocabulary)
        if input_ids.shape[1]:
            # an answer that has ended goes on with padding, which no column has
            self.left.wrote(input_ids[:, -1])
            self.names.wrote(input_ids[:, -1])
        allowed = self.names.close(self.left.close(scores[:, self.columns]))
        return torch.full_like(scores, -torch.inf).index_copy(1, self.columns, allowed)


@torch.inference_mode()
def by_generate(call: Call) -> list[str]:
    """Texts of a batch, written by ``generate``."""
    model, prompts, soft_tokens, decoding, genes, names = call
    batch = pad_prompts([model.tokenize(prompt) for prompt in prompts], model.pad_id, left=True).to(model.device)
    ids = model.language_model.generate(
        inputs_embeds=inject(model.embeddings, batch.ids, soft_tokens.flatten(0, -2)),
        attention_mask=torch.ones_like(batch.ids) if batch.mask is None else batch.mask,
        logits_processor=[Constrained(genes, names)],
        generation_config=GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            do_sample=False,
            eos_token_id=list(model.end_ids),
            pad_token_id=model.pad_id,
        ),
    )
    return [text.strip() for text in model.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def by_loop(call: Call) -> list[str]:
    """Texts of a batch, written by the package."""
    *given, genes, names = call
    return models.generate_text(*given, constraint=genes, names=names)


def calls_of(adata: ad.AnnData, model: BioVerse, batch_size: int) -> list[Call]:
    """What annotation asks to be written."""
    calls: list[Call] = []
    real = models.generate_text

    def record(*given: Any, constraint: Any, names: Any) -> list[str]:
        calls.append((*given, constraint, names))
        return [""] * len(given[1])

    models.generate_text = record
    try:
        bsc.tl.annotate(adata.copy(), model=model, batch_size=batch_size, reasoning="cell")
    finally:
        models.generate_text = real
    return calls


def timed(write: Callable[[Call], list[str]], calls: list[Call]) -> tuple[float, float, list[str]]:
    """Seconds on the clock, seconds of CPU time, and the texts."""
    wall, cpu = time.perf_counter(), time.process_time()
    texts = [text for call in calls for text in write(call)]
    return time.perf_counter() - wall, time.process_time() - cpu, texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="h5ad of cells")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--cells", type=int, default=256)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[128, 32, 1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    bsc.settings.verbosity = "error"
    adata = ad.read_h5ad(args.data)
    chosen = np.random.default_rng(0).choice(adata.n_obs, min(args.cells, adata.n_obs), replace=False)
    model = bsc.models.load(args.model)
    table = []
    for batch_size in args.batch_size:
        # one at a time they take long
        cells = adata[np.sort(chosen if batch_size > 1 else chosen[:24])]
        calls = calls_of(cells, model, batch_size)
        pair = {"loop": by_loop, "generate": by_generate}
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in pair}
        for repeat in range(args.repeats):
            texts = {}
            for name in list(pair) if repeat % 2 else reversed(pair):
                wall, cpu, texts[name] = timed(pair[name], calls)
                spent[name].append((wall, cpu))
        if different := [both for both in zip(*texts.values(), strict=True) if both[0] != both[1]]:
            print(f"{len(different)} of {cells.n_obs} texts differ: {different[0]}")
        loop, generate = (np.array(spent[name]) for name in pair)
        row = {"threads": args.threads, "batch": batch_size, "cells": cells.n_obs}
        for place, unit in enumerate(("wall", "cpu")):
            row |= {f"loop/{unit} s": cells.n_obs / np.median(loop[:, place])}
            row |= {f"generate/{unit} s": cells.n_obs / np.median(generate[:, place])}
            row |= {f"{unit} ratio": np.median(loop[:, place] / generate[:, place])}
        table.append(row)
        print(pd.DataFrame(table).round(2).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
