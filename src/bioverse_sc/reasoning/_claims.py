"""What a text says about genes, and whether it holds: in the cell, and in the marker table. These are rules."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bioverse_sc.ontology import approved_symbol, cell_ontology, gene_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from scipy.sparse import csr_matrix

EXPRESSED_SHARE = 0.1
"""A group of cells expresses a gene when at least this share of its cells does."""
CLAIMS = ("present", "absent")
MARKS = ("label", "wider type", "another type", "none")
"""What the marker table has a gene for."""

SYMBOL = re.compile(r"[A-Za-z0-9]+(?:[-.][A-Za-z0-9]+)*(?![+])\b")

# what is after a word of `absent` is absent, until a word of `present` or the end of the clause; `after` stands behind
# its genes
_PARTS = re.compile(
    r"(?P<end>[;!?\n]|\.(?=\s|$))"
    r"|(?P<after>\b(?:is|are|was|were)\s+(?:\w+\s+)?(?:absent|missing|undetected|not\s+(?:\w+\s+)?(?:expressed|detected|found|seen|present))\b)"
    r"|(?P<absent>\b(?i:lack(?:s|ed|ing)?|no|nor|neither|without|absen(?:t|ce)|missing|negative\s+for|"
    r"(?:not|\w+n['’]t)\s+(?:\w+\s+)?(?:express(?:es|ed|ing)?|show|have|contain|detect(?:ed)?))\b(?![-+]))"
    r"|(?P<present>\b(?i:but|while|whereas|although|though|yet|however|with|express(?:es|ed|ing)?|shows?|has|have|"
    r"positive\s+for|rul(?:es?|ing)\s+out)\b(?![-+]))"
    r"|(?P<marker>\b(?i:mark(?:ers?|s|ing)?|another)\b(?![-+]))"
    rf"|(?P<word>{SYMBOL.pattern})"
)


def check_reasoning(
    texts: Iterable[str],
    labels: Iterable[str],
    expressed: csr_matrix | np.ndarray,
    genes: Sequence[str],
    *,
    terms: Iterable[str] | None = None,
    known: AbstractSet[str] | None = None,
) -> pd.DataFrame:
    """Look up the genes that texts name, by the rule of :func:`bioverse_sc.tl.evidence`.

    Parameters
    ----------
    texts
        One for each row of ``expressed``.
    labels
        Of the cells or groups.
    expressed
        Share of the cells of each row that express each gene, 0 to 1; whether it does, of single cells. Shape (rows,
        genes).
    genes
        Names of the columns.
    terms
        Cell Ontology id of each label, ``""`` for none; found by the label by default.
    known
        What counts as a gene in a text; :func:`known_symbols` by default.

    Returns
    -------
    A row for each claim, in the order of the texts: ``cell`` (number of the row), and what
    :func:`bioverse_sc.tl.evidence` lists.
    """
    ontology = cell_ontology()
    labels = np.asarray(list(labels), dtype=object)
    term_of = {label: ontology.find(label) or "" for label in dict.fromkeys(labels)}
    term_of_row = [term_of[label] for label in labels] if terms is None else list(terms)
    known = known_symbols(genes) if known is None else known
    rows, claims = [], []
    # one text may stand for many cells
    claims_by_text: dict[tuple[str, str], list[Claim]] = {}
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if (text, label) not in claims_by_text:
            claims_by_text[text, label] = claims_of(text, known, label=label)
        claims += claims_by_text[text, label]
        rows += [row] * len(claims_by_text[text, label])
    column = {_approved(gene): j for j, gene in enumerate(genes)} | {gene: j for j, gene in enumerate(genes)}
    columns = np.array([column.get(c.gene, column.get(_approved(c.gene), -1)) for c in claims], dtype=np.int64)
    row_of = np.array(rows, dtype=np.int64)  # (claims,)
    share = np.full(len(claims), np.nan, dtype=np.float32)
    measured = np.flatnonzero(columns >= 0)
    if measured.size:
        share[measured] = np.asarray(expressed[row_of[measured], columns[measured]]).ravel()
    marker_of = np.array(
        [_marks(term_of_row[row], claim.gene) for row, claim in zip(rows, claims, strict=True)], dtype=object
    )
    absent = np.array([c.absent for c in claims], dtype=bool)
    called = np.array([c.marker for c in claims], dtype=bool)
    of_label_or_wider = (marker_of == "label") | (marker_of == "wider type")
    has_term = np.array([bool(term_of_row[row]) for row in rows], dtype=bool)
    # comparisons with NaN are false: what is not measured supports nothing
    is_borne_out = (share >= EXPRESSED_SHARE) & (of_label_or_wider | ~called | ~has_term)
    is_ruled_out = (share < EXPRESSED_SHARE) & (marker_of != "label")
    return pd.DataFrame(
        {
            "cell": row_of,
            "label": labels[row_of],
            "gene": np.array([c.gene for c in claims], dtype=object),
            "claim": pd.Categorical(np.where(absent, "absent", "present"), categories=CLAIMS),
            "called_marker": called,
            "expressed": share,
            "marker_of": pd.Categorical(marker_of, categories=MARKS),
            "supported": np.where(absent, is_ruled_out, is_borne_out),
        }
    )


def supported_counts(claims: pd.DataFrame, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of supported and of unsupported claims of each text.

    Parameters
    ----------
    claims
        Of :func:`check_reasoning`.
    n
        Number of texts.
    """
    cell, supported = claims["cell"].to_numpy(), claims["supported"].to_numpy()
    return np.bincount(cell[supported], minlength=n), np.bincount(cell[~supported], minlength=n)


@dataclass(frozen=True)
class Claim:
    """What a text says of a gene."""

    gene: str
    absent: bool = False
    marker: bool = False
    """Whether its clause calls it a marker."""


def claims_of(text: str, known: AbstractSet[str], *, label: str = "") -> list[Claim]:
    """Claims of a text, each once, by the rule of :func:`bioverse_sc.tl.evidence`.

    Parameters
    ----------
    text
        A reasoning.
    known
        What counts as a gene; see :func:`known_symbols`.
    label
        Of the cell; one of several words names no gene.
    """
    if " " in label:
        text = text.replace(label, "")
    claims: dict[Claim, None] = {}
    # States within a clause: what comes next is claimed present, or absent (`absent`); the clause speaks of markers
    # (`marker`). `genes` are those of the clause with whether they are absent; those after `since` can still be said
    # to be absent.
    genes: list[tuple[str, bool]] = []
    since, absent, marker = 0, False, False
    for match in _PARTS.finditer(text + "\n"):
        kind = match.lastgroup
        if kind == "word":
            if match[0] in known:
                genes.append((match[0], absent))
        elif kind == "after":
            genes[since:] = [(gene, True) for gene, _ in genes[since:]]
            since = len(genes)
        elif kind == "marker":
            marker = True
        else:
            absent, since = kind == "absent", len(genes)
        if kind == "end":
            claims |= dict.fromkeys(Claim(gene, is_absent, marker) for gene, is_absent in genes)
            genes, since, marker = [], 0, False
    return list(claims)


def known_symbols(genes: Sequence[str]) -> frozenset[str]:
    """What counts as a gene in a text: the data's genes and the approved symbols, as an alias may be a word.

    Parameters
    ----------
    genes
        Names of the data's genes.
    """
    return frozenset(gene_table()[0].values()) | frozenset(genes)


def _approved(gene: str) -> str:
    """Approved symbol of a name; the name itself when there is none."""
    return approved_symbol(gene) or gene


@cache
def _marks(term: str, gene: str) -> str:
    """What the marker table has the gene for."""
    gene = _approved(gene)
    marked_term = _markers(term).get(gene)
    if marked_term is not None:
        return "label" if marked_term == term else "wider type"
    return "another type" if gene in _marked() else "none"


@cache
def _markers(term: str) -> dict[str, str]:
    """Marker genes of a term and of wider ones, by approved symbol."""
    markers = cell_ontology().known_markers(term) if term else {}
    return {_approved(gene): marked_term for gene, marked_term in reversed(markers.items())}


@cache
def _marked() -> frozenset[str]:
    """Marker genes of any type, by approved symbol."""
    return frozenset(_approved(gene) for genes in cell_ontology().markers.values() for gene in genes)
