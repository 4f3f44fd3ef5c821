"""The tables that facts are read from, each when it is first needed."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd

STEPS_PER_DOUBLING, SCALE = 3, 50
"""Expression is kept in steps of 26 %, from a hundredth of a count in 10,000."""


@dataclass(frozen=True)
class GeneEntry:
    """What the table holds of a gene; what is not known is empty."""

    symbol: str
    name: str
    summary: str
    """What it does, in one to three sentences."""
    process: tuple[str, ...]
    """GO terms, the most telling first."""
    function: tuple[str, ...]
    component: tuple[str, ...]


@dataclass(frozen=True)
class Pathway:
    """A process or complex of the Gene Ontology."""

    name: str
    term: str
    """GO id."""
    genes: tuple[str, ...]
    """Approved symbols, by name."""


def expression_letters(mean: np.ndarray) -> list[str]:
    """Write mean expression as a letter for each type.

    Parameters
    ----------
    mean
        Counts per 10,000, shape (genes, types).

    Returns
    -------
    A string for each gene.
    """
    steps = np.round(STEPS_PER_DOUBLING * np.log2(1 + SCALE * np.asarray(mean))).astype(np.uint8) + ord("0")
    return [row.tobytes().decode("ascii") for row in steps]


def letter_means(letters: list[str]) -> np.ndarray:
    """Mean expression that :func:`expression_letters` wrote, shape (genes, types)."""
    steps = np.frombuffer("".join(letters).encode("ascii"), dtype=np.uint8).reshape(len(letters), -1) - ord("0")
    return ((2.0 ** (steps.astype(np.float32) / STEPS_PER_DOUBLING) - 1) / SCALE).astype(np.float32)


@cache
def gene_entries() -> dict[str, GeneEntry]:
    """Genes by approved symbol."""
    table = _read("genes.tsv.xz")
    lists = (
        [tuple(filter(None, terms.split("|"))) for terms in table[c]] for c in ("process", "function", "component")
    )
    rows = zip(table["symbol"], table["name"], table["summary"], *lists, strict=True)
    return {row[0]: GeneEntry(*row) for row in rows}


@cache
def pathways() -> dict[str, Pathway]:
    """Pathways by name."""
    table = _read("pathways.tsv.xz")
    rows = zip(table["term"], table["target_id"], table["genes"], strict=True)
    return {name: Pathway(name, term, tuple(genes.split(" "))) for name, term, genes in rows}


@cache
def expression_table() -> tuple[list[str], list[str], np.ndarray]:
    """Genes, Cell Ontology ids of types, and the mean counts per 10,000 of each gene in each; (genes, types)."""
    table = _read("expression.tsv.xz")
    return table["gene"].tolist(), table.columns[1].split("|"), letter_means(table.iloc[:, 1].tolist())


def _read(name: str) -> pd.DataFrame:
    with files("bioverse_sc.facts").joinpath(name).open("rb") as file, lzma.open(file, "rt", encoding="ascii") as text:
        return pd.read_csv(text, sep="\t", keep_default_na=False, quoting=3, dtype=str)
