"""What is known of genes and types, for keys: their words, from the public tables in ``shared/data/knowledge``."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import pandas as pd

from bioverse_sc.ontology import approved_symbol, cell_ontology, gene_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

STEM = 6
"""Letters of a word that are compared."""
MIXED = (
    *("hematopoietic cell", "leukocyte", "lymphocyte", "mononuclear cell", "mononuclear leukocyte", "myeloid cell"),
    *("professional antigen presenting cell", "secretory cell"),
)
"""Types whose markers in the table are those of some of their kinds, such as CD3D and CD14 of a leukocyte."""
COMMONEST = 0.08
"""Words in a larger share of the gene summaries tell nothing."""
UNTELLING = frozenset(
    "about according also another been being both called cannot cells does found from function functions general have "
    "human humans into known label more named other people person short such summary table that their them there these "
    "they thing this those type types what when where which with your".split()
)


def stems(text: str) -> set[str]:
    """Beginnings of the words of a text that have four letters or more."""
    return {w[:STEM] for w in re.findall(r"[a-z][a-z0-9]{3,}", text.casefold()) if w not in UNTELLING}


@dataclass(frozen=True)
class Tables:
    """What keys look up."""

    about: Mapping[str, str]
    """By approved symbol: RefSeq summary and GO terms."""
    pathways: Mapping[str, frozenset[str]]
    """By name of a GO process in lower case, the genes annotated to it."""
    common: frozenset[str] = field(default_factory=frozenset)
    """Stems that say nothing, as most summaries have them."""

    def telling(self, text: str) -> set[str]:
        """Stems of the words of a text that tell one gene from another."""
        return stems(text) - self.common


def read_tables(shared: Path) -> Tables:
    """The tables in ``shared/data/knowledge``."""
    folder = shared / "data/knowledge"
    options = {"sep": "\t", "keep_default_na": False}
    summaries = pd.read_csv(folder / "refseq_gene_summaries_human.tsv.gz", **options)
    go = pd.read_csv(folder / "go_direct_human.tsv.gz", **options)
    about = dict(zip(summaries["symbol"], summaries["summary"], strict=True))
    # a function may be told from GO alone
    for symbol, terms in go.groupby("symbol")["term"]:
        about[symbol] = f"{about.get(symbol, '')} {'; '.join(terms)}"
    process = go[go["aspect"] == "process"]
    pathways = {str(term).casefold(): frozenset(genes) for term, genes in process.groupby("term")["symbol"]}
    counts = Counter(stem for text in summaries["summary"] for stem in stems(text))
    common = frozenset(stem for stem, n in counts.items() if n > COMMONEST * len(summaries))
    return Tables(about, pathways, common)


@cache
def names_of(gene: str) -> frozenset[str]:
    """All names of a gene."""
    symbol = approved_symbol(gene)
    return frozenset({gene} | {name for name, approved in gene_table()[1].items() if symbol and approved == symbol})


@cache
def relatives(term: str) -> frozenset[str]:
    """A term, all that it is a kind of, and all that are a kind of it."""
    ontology = cell_ontology()
    return ontology.ancestors(term) | {t for t in ontology.names if term in ontology.ancestors(t)}


@cache
def bearers(term: str) -> frozenset[str]:
    """A term and the wider ones whose markers it has."""
    ontology = cell_ontology()
    return ontology.ancestors(term) - {ontology.find(name) for name in MIXED} | {term}


@cache
def kin(term: str) -> frozenset[str]:
    """A term, its kinds, and the wider ones whose markers it has: what a gene may mark to be called its marker."""
    return bearers(term) | {t for t in cell_ontology().names if term in cell_ontology().ancestors(t)}


@cache
def marked_by(gene: str) -> frozenset[str]:
    """Terms that a gene is a marker of, in the Accordion table."""
    symbol = approved_symbol(gene) or gene
    return frozenset(term for term, genes in cell_ontology().markers.items() if symbol in genes)


def markers_of(terms: Iterable[str]) -> set[str]:
    """Markers of any of these terms."""
    markers = cell_ontology().markers
    return {gene for term in terms for gene in markers.get(term, ())}
