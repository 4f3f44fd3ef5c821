"""Fit the calibration curve of a saved model on the validation sets, and write it into the model's folder.

    python recipes/mini/calibrate.py --shared ../shared --model src/bioverse_sc/bundled/mini [--min-confidence 0.4]

The curve (isotonic regression) leads from the probability of the best label to how often such a label fits the
author's: equal to it, below it or above it in the Cell Ontology. Each set counts with at most 1,000 cells. It changes
no label but those that back off. The table says how the expected calibration error (ECE) of each set is with the curve
of all sets, and with one that was fitted without that set. pbmc68k_reduced is left out, as its author labels were
assigned by correlation, and he_liver_20 has 20 cells.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from evaluate import correct_cells, read

import bioverse_sc as bsc
from bioverse_sc.metrics import apply_calibration, expected_calibration_error, fit_isotonic
from bioverse_sc.models import CONFIG, ModelConfig, write_checksums

SETS = ("pbmc3k", "kang_pbmc_1287g", "symphony_pbmc_3tech", "scp1884_gut", "baron_pancreas_175")
MOST_CELLS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model, which is changed")
    parser.add_argument("--min-confidence", type=float, default=0.4)
    a = parser.parse_args()
    model = bsc.models.load(a.model)
    model.config = replace(model.config, calibration=None)
    by_set: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in SETS:
        adata = read(a.shared, name)
        rows = np.random.default_rng(0).permutation(adata.n_obs)[:MOST_CELLS]
        adata = adata[np.sort(rows)].copy()
        bsc.tl.annotate(adata, model=model, reasoning=None, min_confidence=0)
        known, right = correct_cells(a.shared, adata, name)
        by_set[name] = adata.obs["bioverse_confidence"].to_numpy(dtype=np.float64)[known].clip(0, 1), right

    def fitted(names: list[str]) -> tuple[list[float], list[float]]:
        confidence, right = (np.concatenate([by_set[name][k] for name in names]) for k in (0, 1))
        x, y = fit_isotonic(confidence, right)
        # few cells have a low probability, and a label of none is never right
        return ([0.0, *x], [0.0, *y]) if x[0] > 0 else (x, y)

    curve = fitted(list(SETS))
    print("| set | cells | ECE before | after | after, fitted without it |")
    print("| --- |" + " ---: |" * 4)
    for name, (confidence, right) in by_set.items():
        others = fitted([other for other in SETS if other != name])
        after = [apply_calibration(confidence, *fit) for fit in (curve, others)]
        errors = [expected_calibration_error(values, right) for values in (confidence, *after)]
        print(f"| {name} | {len(right)} | {errors[0]:.3f} | {errors[1]:.3f} | {errors[2]:.3f} |")
    confidence, right = (np.concatenate([values[k] for values in by_set.values()]) for k in (0, 1))
    after = apply_calibration(confidence, *curve)
    errors = [expected_calibration_error(values, right) for values in (confidence, after)]
    print(f"| all | {len(right)} | {errors[0]:.3f} | {errors[1]:.3f} | |")
    config = ModelConfig.read(a.model / CONFIG)
    x, y = map(tuple, curve)
    replace(config, calibration=(x, y), min_confidence=a.min_confidence).write(a.model / CONFIG)
    write_checksums(a.model)


if __name__ == "__main__":
    main()
