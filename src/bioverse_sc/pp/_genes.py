"""Gene names of a data set to the genes of an encoder's vocabulary."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

T = TypeVar("T")

ENSEMBL = re.compile(r"^(ENSG\d{11})(\.\d+)?(_PAR_Y)?$")
_MADE_UNIQUE = re.compile(r"^(.+)-\d+$")


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
    cased: int = 0
    """Columns found only when upper and lower case are taken as the same."""
    mouse: bool = False
    """Whether most names look like mouse genes."""
    left_out: int = 0
    """Columns that differ from a gene that is there only in upper and lower case: another species, as a rule."""

    @property
    def summed(self) -> int:
        """Columns that were added to another one of the same gene."""
        return len(self.columns) - len(self.genes)

    def gather(self, chunk: csr_matrix) -> csr_matrix:
        """Turn the used columns, in order, into the found genes."""
        if np.array_equal(self.target, np.arange(len(self.genes))):
            return chunk
        # small integers would overflow in the sum
        ones = np.ones(len(self.target), dtype=np.result_type(chunk.dtype, np.float32))
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


def approved_symbol(name: str) -> str | None:
    """Approved symbol of an Ensembl id, alias, previous or approved symbol; the bare id of a gene without a symbol."""
    ensembl, approved = gene_table()
    if match := ENSEMBL.match(name):
        return ensembl.get(match[1], match[1])
    return approved.get(name)


@cache
def _folded_names() -> dict[str, str]:
    """The names of :func:`gene_table` in upper case, where that is the name of one gene."""
    return {name: symbol for name, symbol in _folded(gene_table()[1].items()).items() if symbol is not None}


def _folded(names: Iterable[tuple[str, T]]) -> dict[str, T | None]:
    """Put names into upper case; ``None`` where two of them then mean different things."""
    folded: dict[str, T | None] = {}
    for name, meaning in names:
        upper = name.upper()
        folded[upper] = meaning if folded.get(upper, meaning) == meaning else None
    return folded


def looks_like_mouse(names: Sequence[str]) -> bool:
    """Whether most names are written as mouse genes are: ``Cd3e`` in place of ``CD3E``, or ``ENSMUSG...``."""
    judged = mouse = 0
    for name in names:
        letters = [c for c in name if c.isalpha()]
        if ENSEMBL.match(name) or len(letters) < 2:
            continue
        judged += 1
        title = letters[0].isupper() and all(c.islower() for c in letters[1:])
        mouse += title or name.startswith("ENSMUSG")
    return mouse > judged / 2


def map_genes(names: Sequence[str], vocabulary: Sequence[str]) -> GeneMap:
    """Find the genes of a vocabulary among the names of a data set.

    A name is found as it is, by Ensembl id (with or without version), by an alias or previous symbol of HGNC, all of these on
    either side, or by the name before the number that ``var_names_make_unique`` puts behind a repeat; and at last with upper
    and lower case taken as the same. Columns that are found to be one gene are summed. Only a column that differs in case
    alone from one that is there under its own name is left out, as it is another species' gene.

    Where most names look like mouse genes (``Cd3e``), case matters: a mouse gene is never read as the human one.

    Parameters
    ----------
    names
        Gene symbols or Ensembl ids of the data set, without repeats.
    vocabulary
        Gene symbols or Ensembl ids of an encoder.
    """
    exact = {gene: i for i, gene in enumerate(vocabulary)}
    by_approved: dict[str, int] = {}
    for gene, i in exact.items():
        by_approved.setdefault(approved_symbol(gene) or gene, i)
    mouse = looks_like_mouse(names)
    folded = {} if mouse else _folded((gene, i) for gene, i in exact.items())
    taken = {exact[name] for name in names if name in exact}
    present = set(names)
    found: list[int] = []
    columns, renamed, cased, left_out, n_ensembl = [], 0, 0, 0, 0
    for column, name in enumerate(names):
        n_ensembl += bool(ENSEMBL.match(name))
        position = exact.get(name)
        if position is None:
            symbol = approved_symbol(name)
            if symbol is None and (unique := _MADE_UNIQUE.match(name)) and unique[1] in present:
                symbol = approved_symbol(unique[1]) or unique[1]
            if symbol is not None:
                position = exact.get(symbol, by_approved.get(symbol))
                renamed += position is not None
            elif not mouse and not ENSEMBL.match(name):
                position = folded.get(name.upper())
                if position is None and (resembled := _folded_names().get(name.upper())):
                    position = exact.get(resembled, by_approved.get(resembled))
                if position in taken:
                    left_out += 1
                    continue
                cased += position is not None
            if position is None:
                continue
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
        cased=cased,
        mouse=mouse,
        left_out=left_out,
    )
