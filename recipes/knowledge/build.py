"""Make the compact knowledge tables that ship in the package.

    python recipes/knowledge/build.py ../shared/data/knowledge

Sources: Cell Ontology 2024-08-16 (CC BY 4.0), Cell Marker Accordion (MIT), HGNC and Ensembl names (public). Writes
``cell_ontology.tsv.gz`` and ``markers.tsv.gz`` beside ``bioverse_sc.ontology``, ``genes.tsv.gz`` beside
``bioverse_sc.pp``.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import sys
from pathlib import Path

import pandas as pd

PACKAGE = Path(__file__).resolve().parents[2] / "src/bioverse_sc"
MARKERS_PER_TERM = 80


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a gzipped table whose bytes depend on its content alone."""
    text = io.StringIO()
    table.to_csv(text, sep="\t", index=False, lineterminator="\n")
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    print(f"{path.name}: {len(table)} rows, {path.stat().st_size / 1e6:.2f} MB")


def cell_ontology(folder: Path) -> pd.DataFrame:
    """Id, name, parents, exact synonyms and definition of the terms that are not obsolete."""
    raw = pd.read_csv(
        folder / "cell_ontology_cl_basic_2024-08-16.tsv.gz", sep="\t", keep_default_na=False, quoting=csv.QUOTE_NONE
    )
    raw = raw[(raw["obsolete"] != "TRUE") & raw["id"].str.startswith("CL:")]
    definition = raw["def"].str.extract(r'^"(.*)" \[.*\]$')[0].fillna("").str.replace(r"\s+", " ", regex=True)
    synonyms = ["|".join(re.findall(r'"([^"|]+)" EXACT', text)) for text in raw["synonym"]]
    parents = ["|".join(re.findall(r"CL:\d+", text)) for text in raw["is_a"]]
    return pd.DataFrame(
        {"id": raw["id"], "name": raw["name"], "parents": parents, "synonyms": synonyms, "definition": definition}
    ).sort_values("id")


def markers(folder: Path, terms: set[str]) -> pd.DataFrame:
    """Positive markers of each term with their evidence: the number of sources that name them."""
    raw = pd.read_csv(folder / "cellmarker_accordion_human.tsv.gz", sep="\t", low_memory=False)
    raw = raw[(raw["marker_type"] == "positive") & raw["CL_ID"].isin(terms)]
    table = raw.groupby(["CL_ID", "marker"], as_index=False)["ECs_global"].max()
    table.columns = ["id", "gene", "evidence"]
    # one source alone is often a list of differential expression; it counts where a term has nothing better
    table = table[(table["evidence"] >= 2) | (table.groupby("id")["evidence"].transform("max") < 2)]
    n_terms = table.groupby("gene")["id"].transform("size")
    # many sources first; of equal ones the marker of fewer terms says more
    table = table.assign(rank=table["evidence"] / n_terms**0.5).sort_values(
        ["id", "rank", "gene"], ascending=[True, False, True]
    )
    table = table.groupby("id").head(MARKERS_PER_TERM)
    return table.assign(evidence=table["evidence"].astype(int))[["id", "gene", "evidence"]]


def genes(folder: Path) -> pd.DataFrame:
    """Approved symbol, Ensembl id, and the other symbols that a gene goes or went by."""
    raw = pd.read_csv(folder / "hgnc_long_AbNames.tsv.gz", sep="\t", low_memory=False)
    rows = []
    for symbol, group in raw.dropna(subset=["HGNC_SYMBOL"]).groupby("HGNC_SYMBOL"):
        other = group.loc[group["symbol_type"].isin(["ALIAS", "PREVIOUS_SYMBOL"]), "value"]
        ensembl = group["ENSEMBL_ID"].dropna()
        rows.append(
            (symbol, ensembl.iloc[0] if len(ensembl) else "", "|".join(sorted(set(other.astype(str)) - {symbol})))
        )
    return pd.DataFrame(rows, columns=["symbol", "ensembl", "other"]).sort_values("symbol")


def main() -> None:
    folder = Path(sys.argv[1])
    ontology = cell_ontology(folder)
    write(ontology, PACKAGE / "ontology/cell_ontology.tsv.gz")
    write(markers(folder, set(ontology["id"])), PACKAGE / "ontology/markers.tsv.gz")
    write(genes(folder), PACKAGE / "pp/genes.tsv.gz")


if __name__ == "__main__":
    main()
