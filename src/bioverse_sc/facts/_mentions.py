"""What a question names: genes, cell types, pathways, and what looks like a gene and is none."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache, lru_cache

from bioverse_sc.datasets import everyday_texts
from bioverse_sc.facts._genes import pathway_names
from bioverse_sc.facts._tables import gene_entries
from bioverse_sc.ontology import approved_symbol, cell_ontology, match_labels

_WORD = re.compile(r"[A-Za-z0-9]+(?:[-./'][A-Za-z0-9]+)*[+-]?(?![A-Za-z0-9])")
_LIKE_SYMBOL = re.compile(r"^(?=.*[A-Z])(?=.*\d)[A-Z][A-Za-z0-9]*(?:-[A-Z0-9]+)*$")
LONGEST = 9
"""Words of a name at most."""
SHORT_TYPES = frozenset("nk dc pdc cdc cdc1 cdc2 treg tregs mait tfh nkt rbc opc hspc".split())
"""Types that are named without the word "cell"."""
USUAL_TYPES = {
    "microglia": "CL:0000129",
    "astroglia": "CL:0000127",
    "red cell": "CL:0000232",
    "red cells": "CL:0000232",
}
"""Names that the ontology does not have as exact synonyms."""
UNTOLD_TYPES = frozenset({"CL:0000000", "CL:0000003", "CL:0000255", "CL:0000548"})
"""The cell, and what every human cell is."""
USUAL_NAMES = {
    "CD16": "FCGR3A",
    "CD32": "FCGR2A",
    "CD64": "FCGR1A",
    "CD3": "CD3D",
    "CD79": "CD79A",
    "CD45RA": "PTPRC",
    "CD45RO": "PTPRC",
    "PD1": "PDCD1",
    "PDL1": "CD274",
    "KI67": "MKI67",
    "KI-67": "MKI67",
    "HLA-DR": "HLA-DRA",
    "OCT4": "POU5F1",
    "P53": "TP53",
    "TNF-A": "TNF",
    "IFN-G": "IFNG",
    "IFN-GAMMA": "IFNG",
    "GRANZYME B": "GZMB",
    "PERFORIN": "PRF1",
    "INSULIN": "INS",
    "ALBUMIN": "ALB",
    "LYSOZYME": "LYZ",
    "HAEMOGLOBIN": "HBB",
    "HEMOGLOBIN": "HBB",
}
"""What genes are called in the laboratory, where HGNC has no such alias or several genes with it."""
NO_GENES = frozenset(
    "IFN IFNS DNA RNA MRNA SCRNA PBMC PBMCS UMAP TSNE PCA COVID COVID-19 SARS SARS-COV-2 HIV MHC TCR BCR "
    "FACS CITE-SEQ 10X GO CL HGNC UMI UMIS QC G1 G2 G2M G1S M1 M2 TH1 TH2 TH17 ID OK USA AI".split()
)
"""Written like symbols, and no genes."""
PATHWAY_ENDINGS = ("", " pathway", " signaling pathway", " process")
USUAL_PATHWAYS = {
    "apoptosis": "apoptotic process",
    "glycolysis": "glycolytic process",
    "t cell receptor signalling": "T cell receptor signaling pathway",
    "tcr signaling": "T cell receptor signaling pathway",
    "bcr signaling": "B cell receptor signaling pathway",
    "antigen presentation": "antigen processing and presentation",
    "autophagy": "autophagy",
    "oxidative phosphorylation": "oxidative phosphorylation",
    "interferon response": "type I interferon-mediated signaling pathway",
}
ABOUT_GENES = re.compile(r"\b(genes?|express\w*|transcripts?|markers?|positive|counts?)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Mentions:
    """What a text names, each once, in its order."""

    genes: tuple[str, ...] = ()
    """Approved symbols."""
    types: tuple[str, ...] = ()
    """Cell Ontology ids."""
    pathways: tuple[str, ...] = ()
    """Names of the Gene Ontology."""
    unknown: tuple[str, ...] = ()
    """What is written like a gene symbol and is none."""
    written: dict[str, str] = field(default_factory=dict)
    """How the text writes each of these."""

    def __bool__(self) -> bool:
        """Whether anything is named."""
        return bool(self.genes or self.types or self.pathways or self.unknown)


def mentions(text: str) -> Mentions:
    """Genes, cell types and pathways that a text names; the longest name counts.

    Parameters
    ----------
    text
        A question or an answer.

    Returns
    -------
    Genes by approved symbol, also where an alias of one gene alone is written like a symbol; an English word in lower
    case is no gene. Types by names and exact synonyms of the Cell Ontology, plurals and usual abbreviations. Processes
    and complexes by names of the Gene Ontology. ``unknown`` are words that are written like symbols.
    """
    named: dict[str, dict[str, str]] = {"genes": {}, "types": {}, "pathways": {}, "unknown": {}}
    for span in named_spans(text):
        named[span.kind].setdefault(span.name, text[span.start : span.stop])
    written = {name: span for part in named.values() for name, span in part.items()}
    return Mentions(**{kind: tuple(part) for kind, part in named.items()}, written=written)


@dataclass(frozen=True)
class Span:
    """Where a text names something."""

    start: int
    stop: int
    kind: str
    """A field of :class:`Mentions`."""
    name: str


def named_spans(text: str) -> list[Span]:
    """Where a text names something, in its order."""
    spans = []
    words = list(_WORD.finditer(text))
    asks_of_genes = bool(ABOUT_GENES.search(text))
    is_shouted = text.upper() == text and len(words) > 3
    first = 0
    while first < len(words):
        for last in range(min(len(words), first + LONGEST) - 1, first - 1, -1):
            start, stop = words[first].start(), words[last].end()
            span = text[start:stop]
            # a name does not go on behind the end of a sentence
            if re.search(r"[.?!;:()]\s|\s[(]", span):
                continue
            kind, name = _meaning(span, asks_of_genes=asks_of_genes, is_shouted=is_shouted)
            if kind:
                spans.append(Span(start, stop, kind, name))
                first = last
                break
        first += 1
    return spans


@lru_cache(maxsize=100_000)
def _meaning(span: str, *, asks_of_genes: bool, is_shouted: bool) -> tuple[str, str]:
    """Whether some words name a type, a pathway, a gene or something unknown, and which; empty for none."""
    if term := _type(span):
        return "types", term
    if pathway := _pathway(span):
        return "pathways", pathway
    if gene := _gene(span, is_shouted=is_shouted):
        return "genes", gene
    if " " not in span and _is_like_gene(span.rstrip("+-"), asks_of_genes=asks_of_genes) and not is_shouted:
        return "unknown", span.rstrip("+-")
    return "", ""


def _type(span: str) -> str:
    words = span.lower().replace("-", " ").split()
    if words[0] in {"a", "an", "the", "this", "that", "is", "it", "of", "or", "and"}:
        return ""
    is_of_cells = (
        words[-1] in {"cell", "cells", "lymphocyte", "lymphocytes", "monocyte", "monocytes"} and len(words) > 1
    )
    if (is_of_cells or words[-1] in SHORT_TYPES) and "," not in span:
        # what papers call a type comes before what the ontology has by the same name
        term = match_labels([span.rstrip("-")])[span.rstrip("-")].term
    else:
        term = None
    term = term or USUAL_TYPES.get(span.lower()) or cell_ontology().find(span)
    # "neurons of ..." is a name, "A" or "T" alone is a letter, and a gene may be called as a type is
    if term is None or term in UNTOLD_TYPES or (len(span) < 3 and span.lower() not in SHORT_TYPES):
        return ""
    return "" if " " not in span and span in gene_entries() else term


def _pathway(span: str) -> str:
    lower = span.casefold()
    if lower in USUAL_PATHWAYS:
        return USUAL_PATHWAYS[lower] if USUAL_PATHWAYS[lower] in pathway_names().values() else ""
    endings = PATHWAY_ENDINGS if " " in span else ("",)
    name = next((pathway_names()[lower + end] for end in endings if lower + end in pathway_names()), "")
    return "" if name.casefold() in {"cell", "signaling", "transport"} else name


def _gene(span: str, *, is_shouted: bool) -> str:
    """Approved symbol that some words name, ``""`` for none."""
    upper = span.upper().rstrip("+")
    if upper in USUAL_NAMES:
        return USUAL_NAMES[upper]
    if " " in span or len(span) < 2 or upper in NO_GENES:
        return ""
    span = span.rstrip("+-")
    if span in gene_entries() and any(map(str.isdigit, span)):
        return span
    is_word = span.lower() in english()
    if span.isupper() or (any(c.isupper() for c in span[1:]) and not span.islower()):
        if is_shouted and is_word:
            return ""
        if (exact := approved_symbol(span)) and (exact == span or len(span) > 2):
            return exact
        return _approved(upper) if any(map(str.isdigit, span)) else ""
    # in lower case, or with a capital in front as of the mouse; an alias without a number is too often a word
    if any(map(str.isdigit, span)):
        return _approved(upper)
    return upper if not is_word and len(span) > 2 and approved_symbol(upper) == upper else ""


def _approved(upper: str) -> str:
    symbol = approved_symbol(upper)
    return symbol if symbol in gene_entries() or symbol == upper else ""


def _is_like_gene(word: str, *, asks_of_genes: bool) -> bool:
    if word.upper() in NO_GENES or len(word) < 3 or word.startswith("CL:"):
        return False
    if _LIKE_SYMBOL.match(word) and word.upper() == word:
        return True
    return asks_of_genes and word.isupper() and word.isalpha() and len(word) <= 8 and word.lower() not in english()


@cache
def english() -> frozenset[str]:
    """Words in lower case that stand in definitions, summaries and everyday sentences, and a few of questions."""
    texts = [*cell_ontology().definitions.values(), *(entry.summary for entry in gene_entries().values())]
    words = {word for text in texts for word in re.findall(r"\b[a-z]{2,}\b", text)}
    words |= {word for text in everyday_texts() for word in re.findall(r"[a-z]{2,}", text.lower())}
    more = (
        "was can set type cell is it does has have why what how sure call kind else rest ask tell say hi hey "
        "impact she he sit sum mind guess bet trust safe man woman best fine good odd weird lunch pip cat dog "
        "fat bad bid gap art ark fix hit ice ink jam jar map mat mix nap net nut oak oat pad pan pen pet pig "
        "pot rag ram rat rug sad sea sky sun tan tap tea tip toy tub van war wax web win zip"
    )
    return frozenset(words | set(more.split()))
