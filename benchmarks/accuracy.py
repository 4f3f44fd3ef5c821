"""Cell types by ``mini`` and by plain baselines, side by side, on sets that none of them was trained on.

    python benchmarks/accuracy.py --shared ../shared [--model mini] [--sets baron_pancreas_175 ...]
        [--cells N] [--seeds 0 1 2]
    python benchmarks/accuracy.py --shared ../shared --sets --leave-out

It needs the extra: ``pip install 'bioverse-sc[benchmarks]'``.

Every method chooses among the types of the reference profiles, and all but ``mini`` read one matrix: ``log1p`` of
10,000 over those genes of the recipe's vocabulary that the set has. A seed is one draw of simulated cells
(``recipes/mini/cells.py``) and the classifiers' seed. What has no seed has one value, ``mini`` too, as it is one
trained model; several paths behind ``--model`` are several seeds of it.

mini: ``bsc.tl.annotate``, default settings, without reasoning. Spearman: type of the reference profile with the highest
rank correlation. CellTypist: ``celltypist.train`` on simulated cells, by its stochastic gradient in five passes, as its
other solver does not run with scikit-learn 1.8 and newer; alpha is 0.01, which labels these sets better than its
default of 0.0001. decoupler: univariate linear model (``mt.ulm``) over the package's marker table, the best-scoring of
the types with five markers in the data. probe: LogisticRegression on ``mini``'s embedding of simulated cells.
LogisticRegression: on their expression.

coarse, fine, macro-F1: by ``shared/tools/score_labels.py``. seconds: labelling the set, all preparation of its cells
counted, training not. A value is the mean over seeds, with the range in brackets; the best of a column is bold.

``--leave-out`` labels cells simulated from one set of profiles. "seen": all sets were trained on. "left out": all but
this one. fine is over the types that another set has too, coarse over those under a lineage that the validation sets
name. ``mini`` has seen every set and is not trained again, so it has no figure of a left-out set; the probe's is
flattered, as only the probe is trained again and the embedding has seen the set. Of a seen set, Spearman looks up the
very profiles that the cells were drawn from. The genes were chosen with all sets; decoupler reads no profiles.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import anndata as ad
import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes/mini"))

from baselines import PROBE, Labeller, Query, by_markers, by_profile, labelled_cells, prepare, train
from cells import Profiles, read_profiles
from evaluate import SETS, read
from recipe import Recipe

import bioverse_sc as bsc
from bioverse_sc.ontology import cell_ontology

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import ModuleType

    from bioverse_sc.models import BioVerse

OURS = "mini"
SCORES = {"coarse": "coarse", "fine": "fine", "coarse_macro_f1": "macro-F1"}
"""Columns of a table that say how right a method is."""
SPEED = {"seconds": "seconds", "speed": "cells/s"}
LEFT_OUT_CELLS = 200
"""Cells that are simulated from a left-out set."""
SEEN = {"coarse seen": "coarse, seen", "fine seen": "fine, seen"}
LEFT_OUT = {"coarse": "coarse, left out", "fine": "fine, left out"}
Row = dict[str, list[float]]
"""By column, a value of each seed."""


def label(name: str, labeller: Labeller, query: Query) -> tuple[np.ndarray, float]:
    """Cell Ontology ids and seconds, those of preparing the cells among them."""
    began = time.perf_counter()
    terms = labeller(query)
    prepared = query.vector_seconds if name == PROBE else query.log_seconds
    return terms, time.perf_counter() - began + prepared


def annotate(adata: ad.AnnData, model: BioVerse) -> tuple[np.ndarray, float]:
    """What a user of ``mini`` does."""
    began = time.perf_counter()
    annotated = bsc.tl.annotate(adata, model=model, reasoning=None, copy=True)
    return annotated.obs["bioverse_label_id"].astype(str).to_numpy(), time.perf_counter() - began


def load_scorer(shared: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("score_labels", shared / "tools/score_labels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def score(scorer: ModuleType, adata: ad.AnnData, name: str, terms: np.ndarray) -> dict[str, float]:
    """Run the project's scorer in this process: a start of its own would take longer than most of the labelling."""
    obs = pd.DataFrame({"cell_type": adata.obs["cell_type"].astype(str), "term": terms}, index=adata.obs_names)
    obs = obs.astype("category")
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scored.h5ad"
        ad.AnnData(obs=obs).write_h5ad(file)
        arguments = ["score_labels.py", str(file), name, "--column", "term", "--json"]
        with mock.patch.object(sys, "argv", arguments), redirect_stdout(printed):
            scorer.main()
    return json.loads(printed.getvalue())


def shown(values: Sequence[float], digits: int = 3) -> str:
    """Mean, and the range of several."""
    if not len(values) or np.isnan(values).all():
        return "–"
    text = f"{np.mean(values):.{digits}f}"
    return text + (f" [{min(values):.{digits}f}, {max(values):.{digits}f}]" if len(values) > 1 else "")


def best(rows: dict[str, Row], column: str, *, least: bool = False) -> set[str]:
    """Methods with the best mean of a column, to three digits."""
    means = {name: round(float(np.mean(row[column])), 3) for name, row in rows.items() if row.get(column)}
    means = {name: mean for name, mean in means.items() if not np.isnan(mean)}
    top = min(means.values(), default=0) if least else max(means.values(), default=0)
    return {name for name, mean in means.items() if mean == top}


def table(
    rows: dict[str, Row], columns: dict[str, str], *, digits: dict[str, int], unmarked: Sequence[str] = ()
) -> str:
    """Markdown; the best of a column is bold, ``unmarked`` rows are not compared."""
    compared = {name: row for name, row in rows.items() if name not in unmarked}
    bold = {column: best(compared, column, least=column == "seconds") for column in columns}
    lines = [f"| | {' | '.join(columns.values())} |", f"| --- |{' ---: |' * len(columns)}"]
    for name, row in rows.items():
        texts = [(column, shown(row.get(column, []), digits.get(column, 3))) for column in columns]
        cells = [f"**{text}**" if name in bold[column] else text for column, text in texts]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def beaten(rows: dict[str, Row], columns: dict[str, str], *, ours: str = OURS) -> list[str]:
    """Baselines with a better mean than ours, by column.

    A star where not every one of their seeds is better than all of ours.
    """
    lines = []
    for column, title in columns.items():
        mine = rows[ours][column]
        better = [
            f"{name} {np.mean(row[column]):.3f}" + ("" if min(row[column]) > max(mine) else "*")
            for name, row in rows.items()
            if name != ours and row.get(column) and np.mean(row[column]) > np.mean(mine) + 1e-9
        ]
        if better:
            lines.append(f"{title} (mini {np.mean(mine):.3f}): {', '.join(better)}")
    return lines


def mean_of_sets(results: dict[str, dict[str, Row]], columns: Iterable[str]) -> dict[str, Row]:
    """Every set counts the same; seconds are summed. Each seed on its own, so that the range is that of the mean."""
    methods = dict.fromkeys(name for rows in results.values() for name in rows)
    return {
        name: {
            column: [
                float(np.sum(values) if column == "seconds" else np.nanmean(values))
                for values in zip(*(rows[name][column] for rows in results.values()), strict=True)
            ]
            for column in columns
        }
        for name in methods
    }


def compare(shared: Path, models: list[BioVerse], profiles: Profiles, a: argparse.Namespace) -> None:
    """Tables of the validation sets."""
    scorer = load_scorer(shared)
    sets = {name: read(shared, name) for name in a.sets}
    results: dict[str, dict[str, Row]] = {name: defaultdict(lambda: defaultdict(list)) for name in sets}

    def add(name: str, method: str, terms: np.ndarray, seconds: float) -> None:
        scores = score(scorer, sets[name], name, terms)
        scores |= {"seconds": seconds, "speed": sets[name].n_obs / seconds}
        for column in SCORES | SPEED:
            results[name][method][column].append(scores[column])

    for model in models:
        # what is loaded and compiled once is no part of labelling a set
        annotate(next(iter(sets.values()))[:8].copy(), model)
    queries = {}
    terms = sorted(set(profiles.terms[profiles.usable]))
    fixed = {"Spearman": by_profile(profiles), "decoupler": by_markers(terms)}
    for name, adata in sets.items():
        for model in models:
            add(name, OURS, *annotate(adata, model))
        queries[name] = prepare(adata, profiles.genes, models)
        for method, labeller in fixed.items():
            add(name, method, *label(method, labeller, queries[name]))
    for turn, seed in enumerate(a.seeds):
        labellers, seconds = train(profiles, a.cells, models, seed=seed, turn=turn, threads=a.threads)
        told = ", ".join(f"{method} {taken:.0f} s" for method, taken in seconds.items())
        print(f"seed {seed}, {a.cells} simulated cells: {told}", flush=True)
        for name, query in queries.items():
            for method, labeller in labellers.items():
                add(name, method, *label(method, labeller, query))
    columns, digits = SCORES | SPEED, {"seconds": 1, "speed": 0}
    for name, rows in results.items():
        print(f"\n### {name}: {sets[name].n_obs} cells, {len(queries[name].genes)} genes\n")
        print(table(rows, columns, digits=digits))
    lines = {name: beaten(rows, SCORES) for name, rows in results.items()}
    if len(results) > 1:
        mean = mean_of_sets(results, [*SCORES, "seconds"])
        print(f"\n### Mean of {len(results)} sets, each counting the same; seconds in all\n")
        print(table(mean, {**SCORES, "seconds": "seconds"}, digits=digits))
        lines["mean of the sets"] = beaten(mean, SCORES)
    print_beaten(lines)


def print_beaten(lines: dict[str, list[str]]) -> None:
    if not any(lines.values()):
        print("\nNo baseline beats mini.")
        return
    print("\nA baseline beats mini here (a star: not in every seed):\n")
    for name, columns in lines.items():
        if columns:
            print(f"- {name}: {'; '.join(columns)}")


def subset(profiles: Profiles, rows: np.ndarray) -> Profiles:
    p = profiles
    return Profiles(p.mean[rows], p.genes, p.terms[rows], p.sets[rows], p.usable[rows])


def lineage(term: str, among: set[str]) -> set[str]:
    """The nearest of the lineages at or above a term."""
    ancestors = cell_ontology().ancestors
    above = ancestors(term) & among
    return {one for one in above if not any(one in ancestors(other) for other in above - {one})}


def ontology_scores(truth: Sequence[str], given: Sequence[str], others: set[str], among: set[str]) -> dict[str, float]:
    """Share of cells whose label is at or below their lineage, or their type if ``others`` has it or one below it."""
    ancestors = cell_ontology().ancestors
    known = set().union(*(ancestors(term) for term in others))
    coarse = [bool(ancestors(f) & lineage(t, among)) for t, f in zip(truth, given, strict=True) if lineage(t, among)]
    fine = [t in ancestors(f) for t, f in zip(truth, given, strict=True) if t in known]
    return {"coarse": float(np.mean(coarse or np.nan)), "fine": float(np.mean(fine or np.nan))}


def leave_out(shared: Path, models: list[BioVerse], profiles: Profiles, a: argparse.Namespace) -> None:
    """Tables of sets of profiles that the baselines were not trained on."""
    usable = sorted(set(profiles.sets[profiles.usable].tolist()))
    names = a.leave_out or usable
    if unknown := set(names) - set(usable):
        sys.exit(f"There is no set {sorted(unknown)[0]!r} of profiles; there are {usable}.")
    labels = pd.read_csv(shared / "data/labels_to_cl.csv")
    among = {term for terms in labels["coarse_cl_ids"] for term in terms.split("|")}
    results: dict[str, dict[str, Row]] = {name: defaultdict(lambda: defaultdict(list)) for name in names}
    markers = by_markers(sorted(set(profiles.terms[profiles.usable])))
    for turn, seed in enumerate(a.seeds):
        options = {"models": models, "seed": seed, "turn": turn, "threads": a.threads}
        with_all = train(profiles, a.leave_out_cells, **options)[0] | {"Spearman": by_profile(profiles)}
        for name in names:
            began = time.perf_counter()
            inside = profiles.sets == name
            others = subset(profiles, ~inside)
            without = train(others, a.leave_out_cells, **options)[0] | {"Spearman": by_profile(others)}
            counts, truth = labelled_cells(subset(profiles, inside), LEFT_OUT_CELLS, seed=seed + 1000, balance=0.0)
            index = pd.DataFrame(index=[f"cell{i}" for i in range(len(truth))])
            adata = ad.AnnData(counts, index, pd.DataFrame(index=profiles.genes))
            query = prepare(adata, profiles.genes, models)
            seen = {OURS: annotate(adata, models[turn % len(models)])[0]}
            seen |= {method: labeller(query) for method, labeller in with_all.items()}
            left = {method: labeller(query) for method, labeller in without.items()}
            seen["decoupler"] = left["decoupler"] = markers(query)
            known = set(others.terms[others.usable])
            for when, labelled in ((" seen", seen), ("", left)):
                for method, terms in labelled.items():
                    for column, value in ontology_scores(truth, terms, known, among).items():
                        results[name][method][column + when].append(value)
            print(f"seed {seed}, without {name}: {time.perf_counter() - began:.0f} s", flush=True)
    print_left_out(results, a.leave_out_cells)


def print_left_out(results: dict[str, dict[str, Row]], n_cells: int) -> None:
    methods = [method for method in next(iter(results.values())) if method != OURS]
    seen = mean_of_sets(results, SEEN)
    left = mean_of_sets({name: {m: rows[m] for m in methods} for name, rows in results.items()}, LEFT_OUT)
    # the embedding has seen the left-out set, so it stands on a line of its own and is not compared
    flattered = f"{PROBE}, whose embedding has seen the set"
    rows = {name: row | left.get(name, {}) for name, row in seen.items()}
    rows[PROBE] = seen[PROBE]
    rows[flattered] = left[PROBE]
    print(f"\n### Cells simulated from one set of profiles, mean of {len(results)} sets; {n_cells} training cells\n")
    print(table(rows, SEEN | LEFT_OUT, digits={}, unmarked=[flattered]))
    titles = [flattered if method == PROBE else method for method in methods]
    print(f"\n### Left out, by set: coarse / fine\n\n| | {' | '.join(titles)} |\n| --- |{' ---: |' * len(methods)}")
    for name, row in results.items():
        cells = [" / ".join(shown(row[method][column], 2) for column in LEFT_OUT) for method in methods]
        print(f"| {name.replace('|', ', ')} | {' | '.join(cells)} |")
    print_beaten({"sets that all have seen": beaten(seen, SEEN)})
    print("Sets that mini has not seen are those of the other tables.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument("--model", nargs="+", default=[OURS], help="one, or one of each seed")
    parser.add_argument("--sets", nargs="*", default=SETS, help="validation sets; none of them when nothing follows")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cells", type=int, default=20_000, help="simulated cells that the baselines are trained on")
    parser.add_argument(
        "--leave-out", nargs="*", metavar="SET", help="leave out these sets of profiles; all when nothing follows"
    )
    parser.add_argument(
        "--leave-out-cells", type=int, default=4_000, help="simulated training cells for each left-out set"
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch and of CellTypist"
    )
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    for module in ("celltypist", "decoupler"):
        if importlib.util.find_spec(module) is None:
            sys.exit(f"This needs {module}: pip install 'bioverse-sc[benchmarks]'")
    bsc.settings.verbosity = "error"
    models = [bsc.models.load(path) for path in a.model]
    profiles = read_profiles(a.shared, n_genes=Recipe().genes)
    for model in models:
        same = len(set(profiles.genes) & set(model.encoders["rna"].genes))
        print(
            f"{model.config.name} ({model.fingerprint}), {model.device}; reads {same} of the recipe's "
            f"{len(profiles.genes)} genes"
        )
    packages = ("celltypist", "decoupler", "scikit-learn", "torch")
    print(f"{a.threads} threads; {', '.join(f'{name} {version(name)}' for name in packages)}")
    if a.sets:
        compare(a.shared, models, profiles, a)
    if a.leave_out is not None:
        leave_out(a.shared, models, profiles, a)


if __name__ == "__main__":
    main()
