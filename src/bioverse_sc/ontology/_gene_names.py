"""Names of human genes: the table of HGNC."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import pandas as pd

ENSEMBL = re.compile(r"^(ENSG\d{11})(\.\d+)?(_PAR_Y)?$")


@cache
def gene_table() -> tuple[dict[str, str], dict[str, str]]:
    """HGNC: Ensembl id to approved symbol, and alias or previous symbol to approved symbol where it is of one gene."""
    with files("bioverse_sc.ontology").joinpath("genes.tsv.gz").open("rb") as file:
        table = pd.read_csv(file, sep="\t", keep_default_na=False, compression="gzip")
    ensembl = {e: s for e, s in zip(table["ensembl"], table["symbol"], strict=True) if e}
    others: dict[str, set[str]] = {}
    for symbol, other in zip(table["symbol"], table["other"], strict=True):
        for name in other.split("|"):
            others.setdefault(name, set()).add(symbol)
    approved = set(table["symbol"])
    names = {
        name: next(iter(symbols))
        for name, symbols in others.items()
        if len(symbols) == 1 and name not in approved and name
    }
    return ensembl, names | {symbol: symbol for symbol in approved}


def approved_symbol(name: str) -> str | None:
    """Approved symbol of a gene; the bare id of a gene without a symbol; ``None`` for what is no gene's name.

    Parameters
    ----------
    name
        Ensembl id, with or without version, alias, previous or approved symbol.
    """
    ensembl, approved = gene_table()
    if match := ENSEMBL.match(name):
        return ensembl.get(match[1], match[1])
    return approved.get(name)
