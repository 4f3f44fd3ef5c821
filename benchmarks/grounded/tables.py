"""What is known of genes and types, for keys: their words, from the public tables in ``shared/data/knowledge``."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from bioverse_sc.ontology import approved_symbol, cell_ontology, gene_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

STEM = 6
"""Letters of a word that are compared."""
COMMONEST = 0.08
"""Words in a larger share of the gene summaries tell nothing."""
UNTELLING = frozenset(
    "about another being called cannot cells known label named other people person these thing those type types which "
    "human humans found where there their function functions general short short summary table according".split()
)


def stems(text: str) -> set[str]:
    """Beginnings of the longer words of a text."""
    return {w[:STEM] for w in re.findall(r"[a-z]{5,}", text.casefold()) if w not in UNTELLING}


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


def names_of(gene: str) -> set[str]:
    """All names of a gene."""
    symbol = approved_symbol(gene)
    return {gene} | {name for name, approved in gene_table()[1].items() if symbol and approved == symbol}


def relatives(term: str) -> set[str]:
    """A term, all that it is a kind of, and all that are a kind of it."""
    ontology = cell_ontology()
    return set(ontology.ancestors(term)) | {t for t in ontology.names if term in ontology.ancestors(t)}


def marked_by(gene: str) -> set[str]:
    """Terms that a gene is a marker of, in the Accordion table."""
    symbol = approved_symbol(gene) or gene
    return {term for term, genes in cell_ontology().markers.items() if symbol in genes}


def markers_of(terms: Iterable[str]) -> set[str]:
    """Markers of any of these terms."""
    markers = cell_ontology().markers
    return {gene for term in terms for gene in markers.get(term, ())}
