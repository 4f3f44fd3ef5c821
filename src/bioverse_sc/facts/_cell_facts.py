"""Makes what is known of cells from expression and label probabilities."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc.facts._cells import EXPRESSED_SHARE, LEAST_PROBABILITY, Candidate, CellFacts, Panel
from bioverse_sc.facts._reference import reference
from bioverse_sc.facts._states import HAEMOGLOBIN
from bioverse_sc.ontology import UNKNOWN, approved_symbol, cell_ontology, match_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike
    from scipy.sparse import csr_matrix

WHOLE = 0.02
"""Numbers this near to whole ones are counts."""
LEAST_SHARE = 0.5
"""Of the reference's counts that the measured genes are taken for: a panel of few genes says little of the depth."""


def cell_facts(
    expression: csr_matrix,
    expressed: csr_matrix,
    genes: Sequence[str],
    labels: Sequence[str],
    names: Sequence[str] | np.ndarray,
    probabilities: np.ndarray,
    *,
    logged: bool,
    columns: Mapping[str, ArrayLike] | None = None,
) -> list[CellFacts]:
    """What is known of some cells, or groups of cells.

    Parameters
    ----------
    expression
        Counts, or their logarithms (``log1p``); of a group the sum of its cells' counts. Shape (rows, genes).
    expressed
        Share of the cells of each row that express each gene, 0 to 1; of a single cell 0 or 1. A row with a share
        between is a group. Shape (rows, genes).
    genes
        Names of the columns.
    labels
        Names of the columns of the probabilities.
    names
        Final label of each row.
    probabilities
        Of all labels; shape (rows, labels).
    logged
        Whether ``expression`` is logarithms.
    columns
        What the user's columns say of each row, by name, such as ``{"tissue": ["lung", "lung"]}``.

    Returns
    -------
    One for each row.
    """
    panel, terms = _panel(tuple(genes)), _terms(tuple(labels))
    named = _terms(tuple(dict.fromkeys(str(name) for name in names)))
    values, shares = expression.tocsr(), expressed.tocsr()
    facts = []
    for i, name in enumerate(map(str, names)):
        span = slice(shares.indptr[i], shares.indptr[i + 1])
        at, share = shares.indices[span], shares.data[span]
        is_group = bool(((share > 0) & (share < 1)).any())
        at, share = at[share >= (EXPRESSED_SHARE if is_group else 1e-9)], share[share > 0]
        counts, total, is_exact = _counts(values[i], logged=logged, is_group=is_group)
        share = share[share >= EXPRESSED_SHARE] if is_group else share
        per_cell = total / _n_cells(shares[i], counts) if is_group else total
        facts.append(
            CellFacts(
                label=name,
                term=named[name] or "",
                probability=_probability(name, named[name], terms, probabilities[i]),
                candidates=_candidates(terms, probabilities[i]),
                choices=frozenset(terms.values()),
                is_group=is_group,
                panel=panel,
                columns_expressed=at,
                values=share if is_group else counts[at],
                has_counts=is_exact and not logged,
                total=total if is_exact and not logged else np.nan,
                depth=per_cell / max(LEAST_SHARE, panel.share_of_reference) if is_exact else np.nan,
                mitochondrial=float(counts[panel.mitochondrial].sum() / max(counts.sum(), 1e-9))
                if len(panel.mitochondrial)
                else np.nan,
                haemoglobin=float(sum(counts[panel.column[gene]] for gene in HAEMOGLOBIN if gene in panel.column)),
                study={key: str(np.asarray(column)[i]) for key, column in (columns or {}).items()},
            )
        )
    return facts


def _counts(row: csr_matrix, *, logged: bool, is_group: bool) -> tuple[np.ndarray, float, bool]:
    """Counts of a row, shape (genes,), their total, and whether they are whole.

    The logarithms of a cell that was scaled come from counts of which the least is one.
    """
    counts = np.asarray(row.todense(), dtype=np.float64).ravel()
    if logged:
        counts = np.expm1(counts)
        if not is_group and (counts > 0).any():
            counts = counts / counts[counts > 0].min()
    positive = counts[counts > 0]
    is_whole = bool(len(positive) and np.quantile(np.abs(positive - positive.round()), 0.95) < WHOLE)
    counts = counts.round() if is_whole else counts
    return counts, float(counts.sum()), is_whole


def _n_cells(shares: csr_matrix, counts: np.ndarray) -> float:
    """About how many cells a group has: counts of rarely expressed genes, by how many of them a cell has."""
    rare = shares.indices[(shares.data > 0) & (shares.data < 0.3)]
    if not len(rare):
        return 1.0
    per_cell = -np.log1p(-np.asarray(shares[0, rare].todense(), dtype=np.float64)).sum()
    return max(1.0, float(counts[rare].sum() / per_cell))


@lru_cache(maxsize=16)
def _panel(genes: tuple[str, ...]) -> Panel:
    approved = tuple(approved_symbol(gene) or gene for gene in genes)
    column = {gene: j for j, gene in enumerate(genes)} | {gene: j for j, gene in enumerate(approved)}
    mitochondrial = np.array([j for j, gene in enumerate(approved) if gene.upper().startswith("MT-")], dtype=int)
    known = reference()
    rows = [known.row[gene] for gene in set(approved) if gene in known.row]
    share = float(known.mean[rows].sum() / known.mean.sum())
    return Panel(approved, column, mitochondrial, share)


@lru_cache(maxsize=256)
def _terms(labels: tuple[str, ...]) -> dict[str, str]:
    """Cell Ontology id of each label, ``""`` for none."""
    matches = match_labels(labels)
    return {label: matches[label].term or cell_ontology().find(label) or "" for label in labels}


def _candidates(terms: dict[str, str], probabilities: np.ndarray) -> tuple[Candidate, ...]:
    labels = list(terms)
    order = np.argsort(-probabilities, kind="stable")
    likely = [j for j in order if probabilities[j] >= LEAST_PROBABILITY]
    return tuple(Candidate(labels[j], terms[labels[j]], float(probabilities[j])) for j in likely)


def _probability(name: str, term: str, terms: dict[str, str], probabilities: np.ndarray) -> float:
    """Of a label: that of its term and the kinds of it."""
    ontology = cell_ontology()
    same = [
        j
        for j, (label, other) in enumerate(terms.items())
        if label != UNKNOWN and (label == name or (term and other and term in ontology.ancestors(other)))
    ]
    return float(min(1.0, probabilities[same].sum()))
