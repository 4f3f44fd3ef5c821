"""Proteins and molecules of the training share, with their texts, as files.

python recipes/smollm2/entity_data.py --shared ../shared --out runs/smollm2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import anndata as ad
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "mini"))

from data import Data
from recipe import Recipe


def tables(shared: Path, work: Path) -> dict[str, pd.DataFrame]:
    """By modality its column of entities, and ``text``; molecules with a name alone have that as their text."""
    data = Data(shared, work, Recipe())
    proteins = data.memory["protein"].table.rename(columns={"entity": "sequence"})[["sequence", "text"]]
    molecules = data.memory["molecule"].table.rename(columns={"entity": "smiles"})[["smiles", "text"]]
    named = data.molecules.more.assign(text=[f"The molecule is {name}." for name in data.molecules.more["name"]])
    return {"protein": proteins, "molecule": pd.concat([molecules, named[["smiles", "text"]]], ignore_index=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    for mod, table in tables(a.shared, a.out).items():
        table.index = [f"{mod}{i}" for i in range(len(table))]
        ad.AnnData(obs=table).write_h5ad(a.out / f"{mod}s.h5ad", compression="lzf")
        print(f"{mod}: {len(table)}")


if __name__ == "__main__":
    main()
