"""Conversations that stage 2 learns from: questions in many wordings, facts in any order, answers taken from the facts.

    python recipes/smollm2/conversations.py --shared ../shared --out runs/smollm2

It reads ``cells.h5ad`` and writes ``entities.h5mu`` (cells, proteins and molecules) and ``conversations.jsonl``. The
answers are written by the rules below: which facts answer a question, said as the facts say it. What no fact answers is
refused. At use no rule chooses: the language model reads the facts and writes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import anndata as ad
import mudata as md
import numpy as np

# first, as it finds the modules of mini
from known import HELD_OUT_TYPES, TEMPLATES, real_and_simulated, with_labelled  # isort: skip

from data import Data
from recipe import Recipe
from turns import CellTalk, conversation, entity_turn, several_turns, table_turn
from writer import Turn, Writer

from bioverse_sc.facts import About, pathway_names, wordings
from bioverse_sc.models import Entity, question_prompt
from bioverse_sc.ontology import approved_symbol

SEED = 41


def record(mods: list[str], names: list[str], turns: list[Turn]) -> dict[str, Any]:
    """A line of the file: entities by modality, the conversation and its last answer."""
    prompt: list[str] = []
    for i, (question, _, facts) in enumerate(turns):
        segments = question_prompt(mods if i == 0 else [], [(question, None)], facts=[facts], prompts=TEMPLATES)
        words = [f"[BIO:{s.mod}]" if isinstance(s, Entity) else s.text or "" for s in segments]
        prompt += [*([turns[i - 1][1]] if i else []), "".join(words)]
    named: dict[str, Any] = {}
    for mod, name in zip(mods, names, strict=True):
        named.setdefault(mod, []).append(name)
    return {**named, "prompt": prompt, "answer": turns[-1][1]}


def make(
    shared: Path, out: Path, *, n_cells: int, n_entities: int, per_cell: int, n_labels: int
) -> list[dict[str, Any]]:
    """All conversations, and the file of their entities."""
    rng = np.random.default_rng(SEED)
    data = Data(shared, out, Recipe())
    held_out = {data.ontology.find(name) for name in HELD_OUT_TYPES}
    marked = sorted({gene for genes in data.ontology.markers.values() for gene in genes})
    genes = [gene for gene in marked if approved_symbol(gene) == gene]
    types = [term for term in data.ontology.markers if term not in held_out]
    writer = Writer(rng, wordings(), genes, types, list(pathway_names().values()))
    cells, facts = real_and_simulated(shared, ad.read_h5ad(out / "cells.h5ad"), data.profiles.genes, n_cells, rng)
    records = []
    for name, cell in zip(cells.obs_names, facts, strict=True):
        for _ in range(per_cell):
            records.append(record(["rna"], [name], conversation(CellTalk(writer, cell))))
    mods = {"rna": cells}
    abouts: dict[str, list[About]] = {}
    for mod, column in (("protein", "sequence"), ("molecule", "smiles")):
        table = ad.read_h5ad(out / f"{mod}s.h5ad").obs
        table = table[: len(data.memory[mod])].sample(n_entities, random_state=SEED)
        texts = table[column].astype(str).tolist()
        # of two thirds the memory does not tell themselves, as at use
        known = rng.random(len(texts)) < 0.4
        near = [
            data.memory[mod].nearest([text], 3, themselves=bool(own))[0] for text, own in zip(texts, known, strict=True)
        ]
        abouts[mod] = [About(mod.capitalize(), mod, None, text, n) for text, n in zip(texts, near, strict=True)]
        mods[mod] = ad.AnnData(obs=table[[column]].astype(str))
        for name, about in zip(table.index, abouts[mod], strict=True):
            writer.begin()
            records.append(record([mod], [name], [entity_turn(writer, about) for _ in range(int(rng.integers(1, 5)))]))
    for _ in range(n_entities // 4):
        writer.begin()
        molecule, protein, cell = (int(rng.integers(n)) for n in (n_entities, n_entities, len(facts)))
        first = abouts["molecule"][molecule]
        names = [mods["molecule"].obs_names[molecule]]
        if rng.random() < 0.6:
            shown, names = [first, abouts["protein"][protein]], [*names, mods["protein"].obs_names[protein]]
        else:
            shown, names = [first, About("Cell", "rna", facts[cell])], [*names, cells.obs_names[cell]]
        records.append(record([about.mod for about in shown], names, several_turns(writer, shown)))
    for _ in range(n_entities):
        writer.begin()
        records.append(record([], [], [table_turn(writer) for _ in range(int(rng.integers(1, 5)))]))
    mods["rna"], labelled = with_labelled(cells, ad.read_h5ad(out / "cells.h5ad"), n_labels, rng)
    md.MuData(mods).write(out / "entities.h5mu")
    return [*records, *labelled]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument("--out", type=Path, required=True, help="folder of cells.h5ad, and of the files")
    parser.add_argument("--cells", type=int, default=3000)
    parser.add_argument("--per-cell", type=int, default=1, help="conversations about each cell")
    parser.add_argument("--entities", type=int, default=700, help="proteins, and as many molecules")
    parser.add_argument("--labels", type=int, default=16_000, help="cells that are asked for their label alone")
    a = parser.parse_args()
    records = make(a.shared, a.out, n_cells=a.cells, n_entities=a.entities, per_cell=a.per_cell, n_labels=a.labels)
    with (a.out / "conversations.jsonl").open("w", encoding="utf-8") as file:
        for each in records:
            file.write(json.dumps(each) + "\n")
    print(f"{len(records)} conversations, {sum(len(r['prompt']) // 2 + 1 for r in records)} answers")


if __name__ == "__main__":
    main()
