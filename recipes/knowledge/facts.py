"""Make the tables of genes, pathways and expression that ``bioverse_sc.facts`` reads.

    python recipes/knowledge/facts.py ../shared/data

Sources: Ensembl gene names and HGNC symbols (public), RefSeq summaries (NCBI, public domain), direct annotations of the
Gene Ontology (CC BY 4.0), profiles of the CellProfileLibrary (CC BY 4.0) with the terms of
``recipes/mini/profile_labels.csv``. Writes ``genes.tsv.xz``, ``pathways.tsv.xz`` and ``expression.tsv.xz`` beside
``bioverse_sc.facts``.
"""

from __future__ import annotations

import csv
import io
import lzma
import re
import sys
import unicodedata
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from build import PACKAGE
from summaries import summary_of

from bioverse_sc.facts import expression_letters
from bioverse_sc.ontology import approved_symbol, cell_ontology, gene_table

TERMS_SHOWN = {"process": 4, "function": 2, "component": 2}
"""GO terms of a gene by aspect."""
PATHWAY_SIZES = (5, 400)
MOST_COMMON = {"process": 700, "function": 700, "component": 6000}
"""Terms of more genes say too little."""
SAYS_NOTHING = re.compile(
    r"^(?:identical |enzyme )?protein binding$|(?:metal ion|enzyme|macromolecular complex|kinase) binding$|"
    r"(?:homo|hetero)dimerization activity$|^(?:membrane|cytoplasm|protein-containing complex|cellular_component|"
    r"biological_process|molecular_function|intracellular anatomical structure)$"
)
SHARPNESS = 50
"""Expression is compared from a fiftieth of a count in 10,000."""
LEAST_MEAN = 0.3
"""Counts per 10,000 that a gene must reach in some type to be listed, where it is no marker."""


def plain(text: str) -> str:
    """ASCII alone, with Greek letters written out."""
    letters = (
        unicodedata.name(c).rsplit(" ", 1)[-1].lower() if "GREEK SMALL LETTER" in unicodedata.name(c, "") else c
        for c in text
    )
    return unicodedata.normalize("NFKD", "".join(letters)).encode("ascii", "ignore").decode()


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a compressed table whose bytes depend on its content alone."""
    text = io.StringIO()
    table.to_csv(text, sep="\t", index=False, lineterminator="\n", quoting=csv.QUOTE_NONE)
    path.write_bytes(lzma.compress(text.getvalue().encode("ascii"), preset=9 | lzma.PRESET_EXTREME))
    print(f"{path.name}: {len(table)} rows, {path.stat().st_size / 1e6:.2f} MB")


def read_terms(folder: Path) -> pd.DataFrame:
    """Annotations by approved symbol, with the number of genes that each term has."""
    table = pd.read_csv(folder / "go_direct_human.tsv.gz", sep="\t")
    table = table.assign(symbol=table["symbol"].map(approved_symbol), term=table["term"].map(plain))
    # a gene that is kept by several lines of evidence is one of the term's genes once
    table = table.dropna(subset=["symbol"]).sort_values("experimental", ascending=False, kind="stable")
    table = table.drop_duplicates(["symbol", "aspect", "term"])
    return table.assign(genes=table.groupby("term")["symbol"].transform("nunique"))


def telling_terms(terms: pd.DataFrame) -> pd.DataFrame:
    """The few terms of each gene that say most, best first, joined by ``|``; a column for each aspect.

    Best are those of about thirty genes, short, and found by experiment.
    """
    chosen = {}
    for aspect, n in TERMS_SHOWN.items():
        part = terms[(terms["aspect"] == aspect) & (terms["genes"] <= MOST_COMMON[aspect])]
        part = part[~part["term"].str.contains(SAYS_NOTHING)]
        distance = np.abs(np.log(part["genes"] / (30 if aspect != "component" else 200)))
        score = part["experimental"] * 1.0 - 0.4 * distance - part["term"].str.len() / 40
        part = part.assign(score=score).sort_values(["symbol", "score", "term"], ascending=[True, False, True])
        chosen[aspect] = part.groupby("symbol")["term"].agg(lambda names, n=n: "|".join(apart(names, n)))
    return pd.DataFrame(chosen).fillna("")


def apart(names: pd.Series, n: int) -> list[str]:
    """The first ``n`` names of which none is said by another."""
    chosen: list[str] = []
    for name in names:
        core = re.sub(r"^(positive |negative )?regulation of |, .*", "", name)
        if len(chosen) < n and not any(core in other or other in core for other in chosen):
            chosen.append(name)
    return chosen


def genes(folder: Path, terms: pd.DataFrame) -> pd.DataFrame:
    """Symbol, full name, what it does, and its terms."""
    names = pd.read_csv(folder / "gene_description_ensembl.tsv.gz", sep="\t").dropna()
    names = names.assign(
        symbol=names["gene_symbol"].map(approved_symbol),
        name=names["gene_description"].str.replace(r"\s*\[Source:.*", "", regex=True).str.strip().map(plain),
    ).dropna(subset=["symbol"])
    names = names[names["name"].ne("") & ~names["name"].str.contains(r"novel|pseudogene|\bantisense RNA\b|^RNA, ")]
    raw = pd.read_csv(folder / "refseq_gene_summaries_human.tsv.gz", sep="\t").dropna(subset=["summary"])
    summaries = {
        symbol: summary_of(approved, plain(text))
        for symbol, text in zip(raw["symbol"], raw["summary"], strict=True)
        if (approved := approved_symbol(symbol))
    }
    summaries = {approved_symbol(symbol): text for symbol, text in summaries.items()}
    table = names.drop_duplicates("symbol").set_index("symbol")[["name"]]
    table = table.join(pd.Series(summaries, name="summary"), how="outer").join(telling_terms(terms), how="left")
    table = table.fillna("").rename_axis("symbol").reset_index().sort_values("symbol")
    says = table[["summary", *TERMS_SHOWN]].ne("").any(axis=1) | ~table["name"].str.contains("non-protein coding RNA")
    return table[says]


def pathways(terms: pd.DataFrame) -> pd.DataFrame:
    """Processes and complexes with their genes."""
    is_pathway = (terms["aspect"] == "process") | (
        (terms["aspect"] == "component") & terms["term"].str.contains("complex")
    )
    table = terms[is_pathway & terms["genes"].between(*PATHWAY_SIZES)].sort_values(["term", "symbol"])
    return table.groupby(["term", "target_id"])["symbol"].agg(" ".join).reset_index(name="genes")


def expression(shared: Path) -> pd.DataFrame:
    """Typical expression by gene and type: a letter for each type, in the order of the header.

    Of several profiles of a type it is the mean of their logarithms, so that one with RNA of other cells counts little.
    """
    adata = ad.read_h5ad(shared / "profiles/cellprofilelibrary_human.h5ad")
    labels = pd.read_csv(Path(__file__).parents[1] / "mini/profile_labels.csv").set_index("profile")
    labels = labels.loc[adata.obs_names]
    usable = (labels["use"] == "label").to_numpy()
    profiles = pd.DataFrame(adata.X[usable].toarray(), columns=adata.var_names)
    symbols = np.array([approved_symbol(gene) or gene for gene in profiles.columns])
    profiles = profiles.T.groupby(symbols).sum().T
    log = np.log1p(profiles * SHARPNESS).groupby(labels["cl_id"][usable].to_numpy()).mean()  # (types, genes)
    mean = (np.expm1(log) / SHARPNESS).T  # (genes, types)
    marked = {approved_symbol(gene) or gene for genes in cell_ontology().markers.values() for gene in genes}
    named = mean.index.isin(marked)
    mean = mean[named | (mean.index.isin(list(gene_table()[1])) & (mean.max(axis=1) >= LEAST_MEAN).to_numpy())]
    return pd.DataFrame({"gene": mean.index, "|".join(mean.columns): expression_letters(mean.to_numpy())})


def main() -> None:
    shared = Path(sys.argv[1])
    terms = read_terms(shared / "knowledge")
    write(genes(shared / "knowledge", terms), PACKAGE / "facts/genes.tsv.xz")
    write(pathways(terms), PACKAGE / "facts/pathways.tsv.xz")
    write(expression(shared), PACKAGE / "facts/expression.tsv.xz")


if __name__ == "__main__":
    main()
