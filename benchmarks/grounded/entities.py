"""What famous proteins and molecules are: the answers of ``bsc.tl.describe``, keyed.

right: the answer holds the key. sure: it is asserted, neither refused nor hedged. wrong: no key in an answer that was
not refused; hedged answers may name the family alone. near: what is known is above the threshold of refusal, or the
entity itself is known.

30 famous proteins and 30 famous molecules are described (``data/famous_*.tsv``): once with the model's memory
as it is, and once without themselves in it, so that at most a relative is known.

How far to trust these: 23 of the proteins were taken from the data that the memory is made of, so that 21 are known by
choice; seven sequences and all molecules were written down by hand. ChEBI's descriptions leave names out, so the keys
of five molecules are phrases of the texts that are stored of them. Some neighbours had been seen when the keys of
families were written. All that is not known itself is hedged, so that "wrong, sure" can only count wrong stored texts.
"""

from __future__ import annotations

import re
from pathlib import Path

import anndata as ad
import pandas as pd

import bioverse_sc as bsc
from bioverse_sc.facts import Memory, closeness

DATA = Path(__file__).parents[1] / "data"
REFUSED = re.compile(r"cannot be told what it is", re.IGNORECASE)
HEDGED = re.compile(r"itself is not known|probably|may be|stereoisomer of it", re.IGNORECASE)
FAMOUS = {"protein": ("famous_proteins.tsv", "sequence"), "molecule": ("famous_molecules.tsv", "smiles")}


def judged(answer: str, key: str, family: str) -> tuple[str, str]:
    """``"right"``, ``"wrong"`` or ``"refused"``, and ``"sure"`` or ``"hedged"``."""
    if REFUSED.search(answer):
        return "refused", "hedged"
    is_hedged = bool(HEDGED.search(answer))
    pattern = f"{key}|{family}" if is_hedged else key
    return "right" if re.search(pattern, answer, re.IGNORECASE) else "wrong", "hedged" if is_hedged else "sure"


def famous(mod: str) -> pd.DataFrame:
    """Name, entity, key of the answer, and key of the family."""
    file, column = FAMOUS[mod]
    return pd.read_csv(DATA / file, sep="\t").rename(columns={column: "entity"})


def without(memory: Memory, entities: list[str]) -> Memory:
    """A memory that does not hold these."""
    same = [near[0].entity for near in memory.nearest(entities, 1) if near and near[0].is_same]
    return Memory(memory.mod, memory.table[~memory.table["entity"].isin(same)])


def entities(model: bsc.models.BioVerse, *, show: bool) -> None:
    """What is this protein, this molecule?"""
    print("\n### What is it?\n\n| | near | right | right, near | wrong, sure | wrong, hedged | refused |")
    print("| --- |" + " ---: |" * 6)
    for mod, (_, column) in FAMOUS.items():
        table, whole = famous(mod), model.memory[mod]
        for title, memory in (("", whole), (", without themselves", without(whole, table["entity"].tolist()))):
            model.memory[mod] = memory
            adata = ad.AnnData(obs=pd.DataFrame({column: table["entity"].tolist()}, index=table["name"].tolist()))
            bsc.tl.describe(adata, mod=mod, model=model)
            nearest = memory.nearest(table["entity"].tolist(), 1)
            rows = table.assign(answer=adata.obs["bioverse_description"].tolist())
            rows[["verdict", "tone"]] = [
                judged(*row) for row in zip(rows["answer"], rows["answers"], rows["family"], strict=True)
            ]
            rows["near"] = [closeness(mod, near) != "unknown" for near in nearest]
            print_row(f"famous {mod}s{title}", rows)
            if show:
                for row in rows.itertuples():
                    print(f"  {row.verdict}, {row.tone}: {row.name}: {row.answer}")
        model.memory[mod] = whole


def print_row(title: str, rows: pd.DataFrame) -> None:
    near = rows["near"]
    is_right, is_wrong = rows["verdict"] == "right", rows["verdict"] == "wrong"
    cells = [
        f"{near.sum()} of {len(rows)}",
        is_right.sum(),
        f"{(is_right & near).sum()} ({(is_right & near).sum() / max(1, near.sum()):.2f})",
        (is_wrong & (rows["tone"] == "sure")).sum(),
        (is_wrong & (rows["tone"] == "hedged")).sum(),
        (rows["verdict"] == "refused").sum(),
    ]
    print(f"| {title} | {' | '.join(map(str, cells))} |", flush=True)
