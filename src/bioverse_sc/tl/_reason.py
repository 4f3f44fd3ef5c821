"""Reasoning of cells and of groups of cells, and whether its claims hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from bioverse_sc._logging import logger, progress
from bioverse_sc.facts import cell_facts
from bioverse_sc.groups import label_in_cluster, mean_by_cluster, propagate, representatives
from bioverse_sc.read import CONNECTIVITIES, neighbors_graph, whole_matrix
from bioverse_sc.reasoning import (
    CaseMaker,
    check_reasoning,
    detected,
    explain,
    known_symbols,
    supported_counts,
    write_reasoning,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from bioverse_sc.read import GeneMatrix
    from bioverse_sc.tl._label import Labels
    from bioverse_sc.tl._subject import Subject


REPRESENTATIVES = 256
"""Cells that texts are written about, unless the user says how many."""


def reason(
    subject: Subject,
    cell_labels: Labels,
    label_set: Sequence[str],
    *,
    about: str,
    budget: int | None,
    clusters: pd.Categorical | None,
) -> Reasoning:
    """Write about each ``"cell"``, each ``"cluster"``, or about cells that speak for others (``"representative"``).

    Parameters
    ----------
    subject
        The cells.
    cell_labels
        Their labels.
    label_set
        The labels that there were to choose from, ``"unknown"`` last.
    about
        What the texts are about.
    budget
        Representatives at most.
    clusters
        Of the cells, where there are any.
    """
    fine = cell_labels.fine
    confidence = fine.confidence.astype(np.float32)
    cells = LabelledCells(subject.vectors, fine.names, fine.terms, confidence, cell_labels.probabilities)
    reasoner = Reasoner(subject, cells, label_set)
    if about == "cluster" and clusters is not None:
        return reasoner.of_clusters(clusters)
    if about == "cell":
        return reasoner.of_cells()
    return reasoner.of_representatives(budget or REPRESENTATIVES, clusters)


@dataclass(frozen=True)
class LabelledCells:
    """Cells, or groups of cells, with their labels."""

    vectors: np.ndarray
    """Encoder vectors, shape (cells, width)."""
    names: np.ndarray
    terms: np.ndarray
    """Cell Ontology ids, ``""`` for none."""
    confidence: np.ndarray
    probabilities: np.ndarray
    """Of all labels, shape (cells, labels)."""

    def rows(self, which: np.ndarray) -> LabelledCells:
        """Some of them."""
        return LabelledCells(
            self.vectors[which], self.names[which], self.terms[which], self.confidence[which], self.probabilities[which]
        )


@dataclass(frozen=True)
class Reasoning:
    """Text of each cell, and how many of its claims about genes hold and do not."""

    texts: np.ndarray
    supported: np.ndarray
    unsupported: np.ndarray
    written_about: np.ndarray | None = None
    """Name of the cell or cluster that a text was written about, where that is not the cell itself."""


class Reasoner:
    """Writes reasoning about the cells of a subject.

    Parameters
    ----------
    subject
        The cells.
    cells
        Their labels.
    labels
        The labels that there were to choose from, ``"unknown"`` last.
    """

    def __init__(self, subject: Subject, cells: LabelledCells, labels: Sequence[str]) -> None:
        self.subject, self.cells, self.labels = subject, cells, list(labels)
        self.maker = CaseMaker(subject.model, subject.matrix.genes, labels)

    @cached_property
    def matrix(self) -> GeneMatrix:
        """What the texts are written from: facts are of all genes, and otherwise those of the model do."""
        matrix = self.subject.matrix
        if self.subject.model.config.grounding != "shown":
            return matrix
        return whole_matrix(self.subject.adata, matrix.source, gene_symbols=matrix.gene_symbols)

    def of_cells(self) -> Reasoning:
        """About each cell."""
        texts = self._written(np.flatnonzero(self.subject.is_known))
        return Reasoning(texts, *self._checked(texts))

    def of_representatives(self, budget: int, clusters: pd.Categorical | None) -> Reasoning:
        """About ``budget`` cells that speak for the others."""
        cells = self.cells
        if budget >= self.subject.is_known.sum():
            # each cell speaks for itself
            return self.of_cells()
        rows = np.sort(representatives(cells.vectors, cells.names, budget, clusters=clusters))
        texts = self._written(rows)
        adata = self.subject.adata
        graph = neighbors_graph(adata) if CONNECTIVITIES in adata.obsp else None
        source = propagate(rows, cells.vectors, cells.names, graph)  # (cells,), -1 for none
        texts = np.where(source >= 0, texts[source], "")
        written_about = np.where(source >= 0, np.asarray(adata.obs_names, dtype=object)[source], "")
        if missing := int(((source < 0) & self.subject.is_known).sum()):
            logger.warning("%d cells have labels that max_cells_to_generate=%d left without a text", missing, budget)
        return Reasoning(texts, *self._checked(texts), written_about)

    def of_clusters(self, clusters: pd.Categorical) -> Reasoning:
        """About each cluster, and there about each label: cells of one cluster with two labels have two texts."""
        group = label_in_cluster(self.cells.names, clusters)
        texts, supported, unsupported = (values[group.codes] for values in self._of_groups(group))
        is_known = self.subject.is_known
        texts[~is_known], supported[~is_known], unsupported[~is_known] = "", 0, 0
        written_about = np.where(is_known, np.asarray(clusters, dtype=str), "").astype(object)
        return Reasoning(texts, supported, unsupported, written_about)

    def _written(self, rows: np.ndarray) -> np.ndarray:
        """Texts about some of the cells; ``""`` for the others. Shape (cells,)."""
        matrix = self.matrix
        texts = np.full(self.subject.adata.n_obs, "", dtype=object)
        with progress(total=len(rows), description="reason", unit="cell") as bar:
            for span, chunk in matrix.chunks():
                chosen = rows[(rows >= span.start) & (rows < span.stop)]
                if not len(chosen):
                    continue
                expression = chunk[chosen - span.start]  # (chosen, genes)
                texts[chosen] = self._texts(
                    expression, detected(expression), self.cells.rows(chosen), logged=matrix.is_logged
                )
                bar.update(len(chosen))
        return texts

    def _texts(
        self, expression: csr_matrix, expressed: csr_matrix, cells: LabelledCells, *, logged: bool
    ) -> np.ndarray:
        """Texts about cells or groups, of their expression and the shares of their cells, shape (rows, genes)."""
        model, batch_size = self.subject.model, self.subject.reading.batch_size
        if model.config.grounding == "shown":
            known = cell_facts(
                expression,
                expressed,
                self.matrix.genes,
                self.labels,
                cells.names,
                cells.probabilities,
                logged=logged,
            )
            known = [replace(one, probability=float(p)) for one, p in zip(known, cells.confidence, strict=True)]
            return explain(model, cells.vectors, known, batch_size=batch_size)[0]
        cases = self.maker.cases(
            expression, expressed, cells.names, cells.confidence, cells.probabilities, logged=logged
        )
        return write_reasoning(model, cells.vectors, cases, self.maker.symbols, batch_size=batch_size)

    def _checked(self, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many claims about genes each cell's text makes that hold in the cell, and that do not."""
        matrix, cells = self.subject.matrix, self.cells
        known = known_symbols(matrix.genes)
        counts = []
        for span, chunk in matrix.chunks():
            claims = check_reasoning(
                texts[span], cells.names[span], detected(chunk), matrix.genes, terms=cells.terms[span], known=known
            )
            counts.append(supported_counts(claims, chunk.shape[0]))
        supported, unsupported = zip(*counts, strict=True)
        return np.concatenate(supported), np.concatenate(unsupported)

    def _of_groups(self, group: pd.Categorical[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Text of each group of cells with one label, and how many of its claims hold in the group and do not."""
        matrix, cells = self.matrix, self.cells
        n_groups, n_cells = len(group.categories), len(group)
        # (groups, cells)
        member = csr_matrix((np.ones(n_cells), (group.codes, np.arange(n_cells))), (n_groups, n_cells))
        first = np.unique(group.codes, return_index=True)[1]
        groups = LabelledCells(
            vectors=mean_by_cluster(cells.vectors, group),
            names=cells.names[first],
            terms=cells.terms[first],
            confidence=mean_by_cluster(cells.confidence[:, None], group)[:, 0],
            probabilities=mean_by_cluster(cells.probabilities, group),
        )
        expression, expressing = [], []
        for span, chunk in matrix.chunks():
            counts = chunk.expm1() if matrix.is_logged else chunk
            expression.append(member[:, span] @ counts)  # (groups, genes)
            expressing.append(member[:, span] @ detected(chunk))
        total = csr_matrix(sum(expression[1:], expression[0]))  # (groups, genes)
        shares = csr_matrix(csr_matrix(sum(expressing[1:], expressing[0])).multiply(1 / np.asarray(member.sum(axis=1))))
        shares.sort_indices()
        texts = self._texts(total, shares, groups, logged=False)
        claims = check_reasoning(texts, groups.names, shares, matrix.genes, terms=groups.terms)
        return texts, *supported_counts(claims, n_groups)
