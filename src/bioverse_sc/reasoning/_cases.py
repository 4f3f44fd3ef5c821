"""What the language model is shown of a cell or cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from bioverse_sc.ontology import UNKNOWN, cell_ontology, match_labels
from bioverse_sc.reasoning._claims import EXPRESSED_SHARE, known_symbols

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.models import BioVerse, ShownTypes

GENES_SHOWN = 12
"""Informative genes of a cell that the reasoning prompt lists."""
OTHERS_SHOWN = 1
"""Other types that the cell might be, of which the prompt lists markers that it lacks."""
ABSENT_SHOWN = 2
"""Markers that it lists of each."""
MEDIUM, HIGH = 0.5, 0.8
"""Confidence from which it is called medium and high."""


@dataclass(frozen=True)
class Case:
    """What the language model is shown of a cell or cluster, beside its soft token."""

    label: str
    genes: list[str]
    """Informative genes."""
    absent: dict[str, list[str]] = field(default_factory=dict)
    """By another type that it might be: markers of it that it lacks."""
    confidence: str = "high"
    runner_up: str = ""

    @property
    def missing(self) -> list[str]:
        """Genes that the cell lacks."""
        return [gene for markers in self.absent.values() for gene in markers]

    @property
    def types(self) -> ShownTypes:
        """Types that the prompt names, and those that are wider than the label."""
        from bioverse_sc.models import ShownTypes

        ontology = cell_ontology()
        term = ontology.find(self.label)
        wider = [ontology.names[t] for t in sorted(ontology.ancestors(term))] if term else []
        return ShownTypes([self.label, *wider], list(self.absent), [self.runner_up] if self.runner_up else [])


class CaseMaker:
    """Makes cases from expression and label probabilities.

    Parameters
    ----------
    model
        Its reference of genes says which are informative.
    genes
        Names of the columns of the expression that comes.
    labels
        Names of the columns of the probabilities.
    """

    def __init__(self, model: BioVerse, genes: Sequence[str], labels: Sequence[str]) -> None:
        self.model, self.genes, self.labels = model, list(genes), list(labels)
        self.column = {gene: j for j, gene in enumerate(genes)}
        self.symbols = sorted(known_symbols(genes))
        self.matches = match_labels(labels)
        self.shows_absent = "{absent}" in model.config.prompts["reason"]
        """Whether the model's template has a place for markers that the cell lacks."""

    def cases(
        self,
        expression: csr_matrix,
        expressed: csr_matrix,
        names: Sequence[str] | np.ndarray,
        confidence: np.ndarray,
        probabilities: np.ndarray,
        *,
        logged: bool,
    ) -> list[Case]:
        """Cases of some rows.

        Parameters
        ----------
        expression
            Counts, or their logarithms; shape (rows, genes).
        expressed
            Share of the cells of each row that express each gene, 0 to 1; shape (rows, genes).
        names, confidence
            Final label of each row, and its probability.
        probabilities
            Of all labels; shape (rows, labels).
        logged
            Whether ``expression`` is logarithms.
        """
        shown = informative_genes(self.model, expression, self.genes, logged=logged)
        cases = []
        for i, name in enumerate(names):
            others = self.others(name, probabilities[i])
            span = slice(expressed.indptr[i], expressed.indptr[i + 1])
            columns = set(expressed.indices[span][expressed.data[span] >= EXPRESSED_SHARE])
            cases.append(
                Case(
                    label=name,
                    genes=shown[i],
                    absent=absent_markers(self.term(name), {o: self.term(o) for o in others}, self.column, columns)
                    if self.shows_absent
                    else {},
                    confidence="high" if confidence[i] >= HIGH else "medium" if confidence[i] >= MEDIUM else "low",
                    runner_up=others[0] if others else "",
                )
            )
        return cases

    def term(self, label: str) -> str:
        """Cell Ontology id of a label or of a wider term, ``""`` for none."""
        match = self.matches.get(label)
        return (match.term if match else cell_ontology().find(label)) or ""

    def others(self, name: str, probabilities: np.ndarray) -> list[str]:
        """The likeliest labels that are no kind of the given one, nor it a kind of them."""
        if name == UNKNOWN:
            return []
        term, ontology = self.term(name), cell_ontology()
        others: list[str] = []
        for j in np.argsort(-probabilities, kind="stable")[: 8 * OTHERS_SHOWN]:
            label = self.labels[j]
            other = self.term(label)
            related = term and other and (term in ontology.ancestors(other) or other in ontology.ancestors(term))
            if label not in (name, UNKNOWN) and not related and probabilities[j] > 0:
                others.append(label)
            if len(others) == OTHERS_SHOWN:
                break
        return others


def absent_markers(
    term: str, others: dict[str, str], column: dict[str, int], expressed: set[int]
) -> dict[str, list[str]]:
    """Markers of other types that a cell lacks and its own need not have, ``ABSENT_SHOWN`` of each or none.

    Parameters
    ----------
    term
        Cell Ontology id of the label.
    others
        Name and id of each of the other types.
    column
        Of each gene that the data measure.
    expressed
        Columns of the genes that the cell expresses.
    """
    absent: dict[str, list[str]] = {}
    listed: set[str] = set()
    for name, other in others.items():
        markers = _telling_markers(term, other)
        lacking = [g for g in markers if g not in listed and column.get(g, -1) >= 0 and column[g] not in expressed]
        # a small language model, used to lists, goes on where one alone ends
        if term and len(lacking) >= ABSENT_SHOWN:
            absent[name] = lacking[:ABSENT_SHOWN]
            listed.update(absent[name])
    return absent


@cache
def _telling_markers(term: str, other: str) -> list[str]:
    """Markers of the other term or of wider ones, by two sources or more, that are none of this term.

    Those that most sources name come first.
    """
    ontology = cell_ontology()
    shared = ontology.known_markers(term) if term else {}
    markers = ontology.known_markers(other) if other else {}
    sources = {gene: ontology.markers[marked][gene] for gene, marked in markers.items() if gene not in shared}
    return sorted((gene for gene, n in sources.items() if n > 1), key=lambda gene: (-sources[gene], gene))[:40]


def informative_genes(model: BioVerse, chunk: csr_matrix, genes: Sequence[str], *, logged: bool) -> list[list[str]]:
    """Genes that exceed the average profile most in each cell, at most ``GENES_SHOWN``.

    A cell and the average profile are scaled to 10,000 over the genes that both have; the excess is the difference of
    ``log1p``, times the gene's weight in the model's reference. So the choice does not depend on the other cells.

    Parameters
    ----------
    model
        It has the reference.
    chunk
        Counts, or their logarithms, shape (cells, genes).
    genes
        Names of the columns.
    logged
        Whether ``chunk`` is logarithms.
    """
    reference = np.array([model.gene_reference.get(gene, (0.0, 1.0)) for gene in genes])
    mean, weight = reference[:, 0], reference[:, 1]
    mean = np.log1p(mean / max(mean.sum(), 1e-12) * 1e4)
    values = chunk.copy()
    if logged:
        values.data = np.expm1(values.data)
    totals = np.asarray(values.sum(axis=1)).ravel()
    shown = []
    for i in range(values.shape[0]):
        span = slice(values.indptr[i], values.indptr[i + 1])
        columns = values.indices[span]
        excess = np.log1p(values.data[span] / max(totals[i], 1e-12) * 1e4) - mean[columns]
        score = excess * weight[columns]
        best = np.lexsort((columns, -score))[:GENES_SHOWN]
        shown.append([genes[columns[j]] for j in best if score[j] > 0])
    return shown


def detected(chunk: csr_matrix) -> csr_matrix:
    """1 where a cell expresses a gene, shape (cells, genes).

    Parameters
    ----------
    chunk
        Counts, or their logarithms, shape (cells, genes).
    """
    expressed = csr_matrix(chunk > 0, dtype=np.float32)  # (cells, genes)
    expressed.sort_indices()
    return expressed
