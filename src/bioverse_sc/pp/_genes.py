"""Gene names of a data set to the genes of an encoder's vocabulary."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from collections.abc import Sequence

ENSEMBL = re.compile(r"^ENSG\d{11}(\.\d+)?$")


@dataclass(frozen=True)
class GeneMap:
    """Which columns of a matrix are which genes of a vocabulary."""

    columns: np.ndarray
    """Columns that are used."""
    genes: list[str]
    """Genes of the vocabulary that are found, each once."""
    target: np.ndarray
    """Position in ``genes`` of each used column; columns of one gene are summed."""
    kind: str
    """``"symbols"`` or ``"Ensembl ids"``."""
    renamed: int
    """Columns found by Ensembl id, alias or previous symbol."""
    n_vocabulary: int
    """Genes of the vocabulary."""

    @property
    def summed(self) -> int:
        """Columns that were added to another one of the same gene."""
        return len(self.columns) - len(self.genes)

    def gather(self, chunk: csr_matrix) -> csr_matrix:
        """Turn the used columns, in order, into the found genes."""
        if np.array_equal(self.target, np.arange(len(self.genes))):
            return chunk
        ones = np.ones(len(self.target), dtype=chunk.dtype)
        into = csr_matrix((ones, (np.arange(len(self.target)), self.target)), (len(self.target), len(self.genes)))
        return (chunk @ into).tocsr()


@cache
def gene_table() -> tuple[dict[str, str], dict[str, str]]:
    """HGNC: Ensembl id to approved symbol, and alias or previous symbol to approved symbol where it is of one gene."""
    with files("bioverse_sc.pp").joinpath("genes.tsv.gz").open("rb") as file:
        table = pd.read_csv(file, sep="\t", keep_default_na=False, compression="gzip")
    ensembl = {e: s for e, s in zip(table["ensembl"], table["symbol"], strict=True) if e}
    others: dict[str, set[str]] = {}
    for symbol, other in zip(table["symbol"], table["other"], strict=True):
        for name in other.split("|"):
            others.setdefault(name, set()).add(symbol)
    approved = set(table["symbol"])
    names = {name: next(iter(of)) for name, of in others.items() if len(of) == 1 and name not in approved and name}
    return ensembl, names | {symbol: symbol for symbol in approved}


def map_genes(names: Sequence[str], vocabulary: Sequence[str]) -> GeneMap:
    """Find the genes of a vocabulary among the names of a data set.

    A name is found as it is, by Ensembl id (with or without version), or by an alias or previous symbol of HGNC on either
    side. A name found as it is goes before one that has to be renamed.

    Parameters
    ----------
    names
        Gene symbols or Ensembl ids of the data set, without repeats.
    vocabulary
        Gene symbols of an encoder.
    """
    ensembl, approved = gene_table()
    exact = {gene: i for i, gene in enumerate(vocabulary)}
    by_approved: dict[str, int] = {}
    for gene, i in exact.items():
        by_approved.setdefault(approved.get(gene, gene), i)
    found: list[int] = []
    columns, renamed, n_ensembl = [], 0, 0
    taken = {exact[name] for name in names if name in exact}
    for column, name in enumerate(names):
        position = exact.get(name)
        if position is None:
            is_ensembl = bool(ENSEMBL.match(name))
            n_ensembl += is_ensembl
            symbol = ensembl.get(name.split(".")[0]) if is_ensembl else approved.get(name)
            if symbol is None:
                continue
            position = exact.get(symbol, by_approved.get(symbol))
            # a symbol that only resembles one which is there under its own name is another gene's old name
            if position is None or (position in taken and not is_ensembl):
                continue
            renamed += 1
        columns.append(column)
        found.append(position)
    kept, target = np.unique(np.array(found, dtype=np.int64), return_inverse=True)
    return GeneMap(
        columns=np.array(columns, dtype=np.int64),
        genes=[vocabulary[i] for i in kept],
        target=target,
        kind="Ensembl ids" if n_ensembl > len(names) / 2 else "symbols",
        renamed=renamed,
        n_vocabulary=len(vocabulary),
    )
