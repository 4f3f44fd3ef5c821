"""Make the bundled model of the recipe's last run: its labels, what it shares with ``mini``, in float16.

    python recipes/smollm2/finish.py --run runs/smollm2/converse/model --out src/bioverse_sc/bundled/smollm2-135m

The language model stays where it is from, and the encoders, the gene reference and the memories are those of ``mini``.
``recipes/mini/calibrate.py`` follows.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch

import bioverse_sc as bsc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the model that the last run saved")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    a = parser.parse_args()
    model, mini = bsc.models.load(a.run, merge_adapter=False), bsc.models.load("mini")
    model.config = replace(model.config, labels=mini.config.labels, grounding="shown", no_repeat_ngram_size=0)
    model.gene_reference, model.memory = mini.gene_reference, mini.memory
    fresh = a.out.with_name(a.out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    bsc.models.save(model, fresh, include_language_model=False, shared_with="mini", dtype=torch.float16)
    card = a.out / "README.md"
    if card.exists():
        shutil.copy(card, fresh / "README.md")
    shutil.rmtree(a.out, ignore_errors=True)
    fresh.rename(a.out)
    size = sum(file.stat().st_size for file in a.out.rglob("*") if file.is_file())
    print(json.dumps({"out": str(a.out), "megabytes": round(size / 1e6, 1)}))


if __name__ == "__main__":
    main()
