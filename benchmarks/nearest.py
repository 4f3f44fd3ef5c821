"""How far the nearest known protein or molecule tells what another one is, by how similar they are.

    python benchmarks/nearest.py --shared ../shared [--model mini]

Those that ``recipes/mini`` kept out of training are looked up in the model's memory; then the known ones, each without
itself (the last tables), as there are more of them that are very alike.

Proteins, by the cosine of their words of four residues. name: the nearest has the same name. half: it has half of the
words of the name at least, so it is of the same family, as "Interleukin-36 beta" and "Interleukin-36 gamma".

Molecules, by the Tanimoto similarity. class: the nearest is said to be of one of the same classes (the first sentence,
and "It is a ..."). half: half of the telling words of these classes are said of the nearest. role: it is said to have
one of the same roles, of those that have one.

The thresholds in ``bioverse_sc.facts`` are chosen by these tables.
"""

from __future__ import annotations

import argparse
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes/mini"))

import proteins
import questions
import sequences
from recipe import Recipe

from bioverse_sc.models import load

if TYPE_CHECKING:
    from bioverse_sc.facts import Known, Memory

BINS = {
    "protein": [0, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.01],
    "molecule": [0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.01],
}
_WORD, _LONG_WORD = re.compile(r"[a-z0-9]+"), re.compile(r"[a-z]{3,}")
COMMON = set("the and with for from acid compound derivative member metabolite monocarboxylic organic".split())
"""Words of classes that tell little."""


def words_of(name: str) -> set[str]:
    return set(_WORD.findall(name.lower()))


def has_half(name: str, other: str) -> bool:
    """Whether another name has half of the words of a name at least."""
    words = words_of(name)
    return 2 * len(words & words_of(other)) >= max(1, len(words))


def listed(text: str, opening: str) -> list[str]:
    """What the sentences of a ChEBI description that begin so list."""
    items: list[str] = []
    for sentence in questions.sentences(text):
        if match := re.match(opening, sentence):
            parts = re.split(r", | and ", sentence[match.end() :].rstrip("."))
            items += [
                re.sub(r"^((an?|the|member of|class of) )*", "", part.strip()).removesuffix("s") for part in parts
            ]
    return items


def classes(text: str) -> list[str]:
    """What a molecule is said to be: the noun of the first sentence, and the classes that are listed."""
    head = re.split(
        r" (?:that|with|obtained|having|in|carrying|resulting|derived|consisting|of which|where|whose|and)\b|,", text
    )
    return listed(f"It is {head[0].removeprefix('The molecule is ')}.", "It is ") + listed(
        text, r"It is (?!an? (conjugate|tautomer|enantiomer))"
    )


def roles(text: str) -> list[str]:
    return listed(text, r"It has a role as an? ")


def judged_protein(name: str, near: Known) -> dict[str, float]:
    return {"name": name == near.name, "half": has_half(name, near.name)}


def judged_molecule(text: str, near: Known) -> dict[str, float]:
    ours, theirs = classes(text), classes(near.text)
    telling = set(_LONG_WORD.findall(" ".join(ours).lower())) - COMMON
    judged = {
        "class": bool(set(ours) & set(theirs)),
        "half": 2 * len(telling & set(_LONG_WORD.findall(near.text.lower()))) >= max(1, len(telling)),
    }
    role = bool(set(roles(text)) & set(roles(near.text))) if roles(text) else np.nan
    return judged | {"role": role}


def table_of(memory: Memory, entities: list[str], truth: list[str], *, themselves: bool = True) -> pd.DataFrame:
    judge = judged_protein if memory.mod == "protein" else judged_molecule
    rows = []
    for own, near in zip(truth, memory.nearest(entities, 1, themselves=themselves), strict=True):
        rows.append({"similarity": near[0].similarity, **judge(own, near[0])} if near else {"similarity": 0.0})
    return pd.DataFrame(rows)


def print_bins(title: str, table: pd.DataFrame, bins: list[float]) -> None:
    columns = [name for name in table if name != "similarity"]
    print(f"\n### {title}: {len(table)}\n\n| similarity | of them | {' | '.join(columns)} |")
    print("| --- |" + " ---: |" * (len(columns) + 1))
    table = table.astype(float).fillna({name: 0.0 for name in columns if name != "role"})
    for low, high in pairwise(bins):
        part = table[(table["similarity"] >= low) & (table["similarity"] < high)]
        shares = " | ".join(f"{part[name].mean():.3f}" if len(part) else "" for name in columns)
        print(f"| {low:g} to {min(high, 1):g} | {len(part)} | {shares} |")
    print(f"| all | {len(table)} | {' | '.join(f'{table[name].mean():.3f}' for name in columns)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument("--model", default="mini")
    a = parser.parse_args()
    recipe, memory = Recipe(), load(a.model).memory
    both = proteins.read_proteins(a.shared, held_out=recipe.held_out, seed=recipe.seed)
    out = both.table[~both.training]
    groups = {
        "human and eukaryote proteins, by cluster": out[out["named"]],
        "human proteins": out[out["named"] & (out["organism"] == "human")],
        "other proteins, at random": out[~out["named"]],
    }
    for title, part in groups.items():
        table = table_of(memory["protein"], part["sequence"].tolist(), part["product"].tolist())
        print_bins(f"{title}, held out", table, BINS["protein"])
    molecules = sequences.read_molecules(a.shared, held_out=recipe.held_out, seed=recipe.seed)
    out = molecules.table[~molecules.training]
    table = table_of(memory["molecule"], out["smiles"].tolist(), out["description"].tolist())
    print_bins("molecules, held out", table, BINS["molecule"])
    for mod, column in (("protein", "name"), ("molecule", "text")):
        known = memory[mod].table
        known = known[known["organism"] == "human"] if mod == "protein" else known
        table = table_of(memory[mod], known["entity"].tolist(), known[column].tolist(), themselves=False)
        print_bins(
            f"known {'human proteins' if mod == 'protein' else 'molecules'}, each without itself", table, BINS[mod]
        )


if __name__ == "__main__":
    main()
