"""Labels in other words: recall when a label gives way to a term one step from it in the Cell Ontology.

    python benchmarks/neighbours.py --shared ../shared [--model mini] [--cells 6000] [--seeds 0] [--check 10]

For each label L of the model and each parent, child, sibling (a term with a common parent) or synonym N of it that is
no label of the model, cells that are L are labelled among a list with L and among the same list with N in its place.

whole list: all labels of the model. short list: L and nine others that are not related to it (``SHORT``), as somebody
types. validation sets: the names of a set's types, where L is one of them; its cells are those with that author label.

recall: share of the cells that get L, and share that get N, each a mean over pairs. within 5: share of the pairs in
which N reaches L's recall less 5 points. median and worst: of the differences, in points. What N is taken for is in the
second table: ``nothing`` when the model knows cells of N as another label, when there is a nearer one, or when the
texts of siblings are not alike; a message says so. before: ``nearest_labels`` alone, where only what is at or below a
label is its own.

Cells are simulated from the recipe's profiles. The lists share the model's probabilities of its own labels, and a label
is kept when its calibrated probability reaches ``min_confidence``, as in ``bsc.tl.annotate``; ``--check`` runs that
function on some of the lists and says how many cells get the same label.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes/mini"))

from baselines import labelled_cells
from cells import read_profiles
from evaluate import SETS, read
from recipe import Recipe

import bioverse_sc as bsc
from bioverse_sc.metrics import apply_calibration
from bioverse_sc.models import label_probabilities
from bioverse_sc.ontology import UNKNOWN, cell_ontology, match_labels, meanings_of, nearest_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.models import BioVerse

SHORT = 9
"""Other labels of a short list."""
MIN_CELLS = 10
POINTS = 0.05
MOST_CELLS = 3000
"""Of a validation set."""
RELATIONS = ("parent", "child", "sibling", "synonym")


@dataclass(frozen=True)
class Pair:
    label: str
    relation: str
    other: str


@dataclass(frozen=True)
class Cells:
    """Cells with the model's probabilities of its own labels.

    ``labels`` by cell, one of the model's or a type's name.
    """

    adata: ad.AnnData
    p: np.ndarray
    labels: np.ndarray


def pairs_of(labels: Sequence[str]) -> list[Pair]:
    """Each label with the terms one step from it, and its synonyms."""
    ontology = cell_ontology()
    terms = {label: ontology.find(label) for label in labels}
    children = defaultdict(set)
    for term, parents in ontology.parents.items():
        for parent in parents:
            children[parent].add(term)
    known, pairs = set(terms.values()), []
    for label, term in terms.items():
        parents = set(ontology.parents[term])
        siblings = set().union(*(children[parent] for parent in parents))
        for relation, others in (("parent", parents), ("child", children[term]), ("sibling", siblings)):
            names = sorted(ontology.names[other] for other in others - known)
            pairs += [Pair(label, relation, name) for name in names if not name.startswith("obsolete ")]
        # a synonym that means another term in use is no other name
        matches = match_labels(ontology.synonyms[term])
        pairs += [Pair(label, "synonym", name) for name in sorted(matches) if matches[name].term == term]
    return pairs


def mixed(model: BioVerse, p: np.ndarray, labels: Sequence[str], *, before: bool = False) -> np.ndarray:
    """Probabilities of labels and, in the last column, of ``unknown``, from those of the model's own labels.

    With ``before`` by ancestry alone.
    """
    model_labels = list(model.config.labels)
    into = np.zeros((len(model_labels), len(labels) + 1))
    if before:
        nearest = nearest_labels(model_labels, labels)
        into[np.flatnonzero(nearest >= 0), nearest[nearest >= 0]] = 1
    else:
        for j, meaning in enumerate(meanings_of(model_labels, labels).values()):
            for k, share in meaning.shares.items():
                into[model_labels.index(k), j] = share
    into[:, -1] = 1 - into.sum(axis=1)
    return p @ into


def keeps(model: BioVerse, p: np.ndarray, labels: Sequence[str], label: str, *, before: bool) -> np.ndarray:
    """Which cells get and keep a label, by the probabilities of the model's own ones."""
    p_of_labels = mixed(model, p, labels, before=before)
    trust = 1.0 if before else meanings_of(model.config.labels, labels)[label].trust
    ontology, matches = cell_ontology(), match_labels(labels)
    column = labels.index(label)
    below = [
        j
        for j, other in enumerate(labels)
        if j == column or (matches[other].term and matches[label].term in ontology.ancestors(matches[other].term))
    ]
    certainty = apply_calibration(p_of_labels[:, below].sum(axis=1).clip(0, 1), *model.config.calibration) * trust
    return (p_of_labels.argmax(axis=1) == column) & (certainty >= model.config.min_confidence)


def short_list(labels: Sequence[str], label: str, rng: np.random.Generator) -> list[str]:
    """The label, and some that have no parent in common with it and are neither above nor below it."""
    ontology = cell_ontology()
    term = ontology.find(label)
    parents = set(ontology.parents[term])
    others = []
    for other in labels:
        other_term = ontology.find(other)
        if not (
            parents & set(ontology.parents[other_term])
            or term in ontology.ancestors(other_term)
            or other_term in ontology.ancestors(term)
        ):
            others.append(other)
    return [label, *rng.choice(others, size=SHORT, replace=False).tolist()]


def compare(
    model: BioVerse, cells: Cells, lists: dict[str, list[str]], pairs: Sequence[Pair], *, before: bool
) -> pd.DataFrame:
    """Recall of each pair: of the label in its list, and of the other one in its place."""
    rows, recall = [], {}
    for pair in pairs:
        if pair.label not in lists or (inside := np.flatnonzero(cells.labels == pair.label)).size < MIN_CELLS:
            continue
        with_label, p = lists[pair.label], cells.p[inside]
        if pair.label not in recall:
            recall[pair.label] = keeps(model, p, with_label, pair.label, before=before).mean()
        if pair.other in with_label:
            continue
        with_other = [pair.other if label == pair.label else label for label in with_label]
        recall_of_other = keeps(model, p, with_other, pair.other, before=before).mean()
        meaning = meanings_of(model.config.labels, with_other)[pair.other]
        taken = (
            f"{meaning.relation}, of {'L' if pair.label in meaning.shares else 'others'}"
            if meaning.shares
            else "nothing"
        )
        rows.append((pair.label, pair.relation, pair.other, taken, recall[pair.label], recall_of_other))
    return pd.DataFrame(rows, columns=["own", "relation", "other", "taken", "recall_own", "recall"])


def summary(title: str, table: pd.DataFrame, before: pd.DataFrame) -> None:
    print(f"\n### {title}: {table['own'].nunique()} labels, {len(table)} pairs\n")
    print("| | pairs | recall of L | of N | within 5 | median | worst | within 5, before |\n| --- |" + " ---: |" * 7)
    for relation in (*RELATIONS, "all"):
        part = table if relation == "all" else table[table["relation"] == relation]
        if len(part):
            difference = part["recall"] - part["recall_own"]
            old = (before["recall"] - before["recall_own"]).loc[part.index]
            print(
                f"| {relation} | {len(part)} | {part['recall_own'].mean():.3f} | {part['recall'].mean():.3f} | "
                f"{(difference >= -POINTS - 1e-9).mean():.3f} | {100 * difference.median():.1f} | "
                f"{100 * difference.min():.1f} | "
                f"{(old >= -POINTS - 1e-9).mean():.3f} |"
            )
    within = table["recall"] - table["recall_own"] >= -POINTS - 1e-9
    by_term = within.groupby(table["other"]).any()
    print(f"\n{by_term.sum()} of {len(by_term)} terms N are within 5 points of at least one L")
    print("\n| N is taken as | pairs | recall of L | of N | within 5 |\n| --- |" + " ---: |" * 4)
    for taken, part in table.groupby("taken"):
        share = within[part.index].mean()
        print(
            f"| {taken} | {len(part)} | {part['recall_own'].mean():.3f} | {part['recall'].mean():.3f} | {share:.3f} |"
        )
    sys.stdout.flush()


def own_probabilities(model: BioVerse, adata: ad.AnnData, *, whole: bool = False) -> np.ndarray:
    bsc.tl.align(adata, model=model)
    labels = list(model.config.labels)
    order = [*(label for label in labels if label != UNKNOWN), UNKNOWN]
    vectors = np.asarray(adata.obsm["X_scgpt"], dtype=np.float32)
    p = label_probabilities(model, vectors, order, closed=True, whole=whole)
    return p[:, [order.index(label) for label in labels]]


def simulated(model: BioVerse, shared: Path, n_cells: int, seed: int) -> Cells:
    profiles = read_profiles(shared, n_genes=Recipe().genes)
    counts, terms = labelled_cells(profiles, n_cells, seed=seed + 1000, balance=0.0)
    index = pd.DataFrame(index=[f"cell{i}" for i in range(len(terms))])
    adata = ad.AnnData(counts, index, pd.DataFrame(index=profiles.genes))
    ontology = cell_ontology()
    return Cells(adata, own_probabilities(model, adata), np.array([ontology.names[term] for term in terms]))


def validation(model: BioVerse, shared: Path, name: str) -> tuple[Cells, dict[str, list[str]]]:
    """Cells of a set, and the list of each label.

    Cells are named by the model's label where the author's means one, else by its first term.
    """
    adata = read(shared, name)
    chosen = np.random.default_rng(0).permutation(adata.n_obs)[:MOST_CELLS]
    adata = adata[np.sort(chosen)].copy()
    table = pd.read_csv(shared / "data/labels_to_cl.csv").query("dataset == @name").set_index("label")["cl_ids"]
    ontology, known = cell_ontology(), set(model.config.labels)
    named = {}
    for label, terms in table.items():
        names = [ontology.names[term] for term in terms.split("|")]
        named[label] = next((n for n in names if n in known), names[0])
    labels = adata.obs["cell_type"].astype(str).map(named).fillna("").to_numpy(dtype=str)
    types = sorted(set(labels) - {""})
    return Cells(adata, own_probabilities(model, adata), labels), {n: types for n in types if n in known}


def check(model: BioVerse, cells: Cells, lists: dict[str, list[str]], pairs: Sequence[Pair], n: int) -> None:
    """Compare some lists with what ``annotate`` gives."""
    same = total = 0
    rng = np.random.default_rng(0)
    usable = [pair for pair in pairs if (cells.labels == pair.label).sum() >= MIN_CELLS]
    for i in rng.choice(len(usable), size=min(n, len(usable)), replace=False):
        pair = usable[i]
        inside = np.flatnonzero(cells.labels == pair.label)
        labels = [pair.other if label == pair.label else label for label in lists[pair.label]]
        annotated = bsc.tl.annotate(cells.adata[inside].copy(), model=model, labels=labels, reasoning=None, copy=True)
        ours = keeps(model, cells.p[inside], labels, pair.other, before=False)
        same += int(((annotated.obs["bioverse_label"].astype(str) == pair.other) == ours).sum())
        total += len(inside)
    print(f"\n{same} of {total} cells of {n} lists are as annotate has them")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--cells", type=int, default=6000, help="simulated cells")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--sets", nargs="*", default=[name for name in SETS if name != "he_liver_20"])
    parser.add_argument("--check", type=int, default=0, help="lists to run with annotate as well")
    parser.add_argument("--out", type=Path, help="also write the pairs as a table")
    a = parser.parse_args()
    torch.set_num_threads(1)
    bsc.settings.verbosity = "error"
    model = bsc.models.load(a.model)
    labels = [label for label in model.config.labels if label != UNKNOWN]
    pairs = pairs_of(labels)
    print(
        f"{a.model} ({model.fingerprint}): {len(pairs)} pairs of {len(labels)} labels; min_confidence "
        f"{model.config.min_confidence}"
    )
    written = []

    def table(title: str, cells: Cells, lists: dict[str, list[str]]) -> None:
        began = time.perf_counter()
        now = compare(model, cells, lists, pairs, before=False)
        if len(now):
            summary(title, now, compare(model, cells, lists, pairs, before=True))
            written.append(now.assign(of=title))
            print(f"({time.perf_counter() - began:.0f} s)", flush=True)

    for seed in a.seeds:
        cells = simulated(model, a.shared, a.cells, seed)
        rng = np.random.default_rng(seed)
        short = {label: short_list(labels, label, rng) for label in labels}
        table(f"simulated cells, seed {seed}, whole list", cells, dict.fromkeys(labels, labels))
        table(f"simulated cells, seed {seed}, short list", cells, short)
        if a.check:
            check(model, cells, short, pairs, a.check)
    for name in a.sets:
        table(name, *validation(model, a.shared, name))
    if a.out and written:
        pd.concat(written).to_csv(a.out, index=False, sep="\t")


if __name__ == "__main__":
    main()
