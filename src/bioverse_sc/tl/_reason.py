"""What the language model is shown of a cell or cluster, and the reasoning that it writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_matrix

from bioverse_sc._logging import progress
from bioverse_sc._modalities import row_chunks
from bioverse_sc.ontology import UNKNOWN, cell_ontology, match_labels
from bioverse_sc.pp._profile import get_matrix
from bioverse_sc.tl._economy import mean_by_cluster
from bioverse_sc.tl._evidence import EXPRESSED_SHARE, check_reasoning, known_symbols, supported_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData

    from bioverse_sc.models import BioVerse, ShownTypes
    from bioverse_sc.pp._profile import MatrixProfile

GENES_SHOWN = 12
"""Informative genes of a cell that the reasoning prompt lists."""
OTHERS_SHOWN = 1
"""Other types that the cell might be, of which the prompt lists markers that it lacks."""
ABSENT_SHOWN = 2
"""Markers that it lists of each."""
REASONING_TOKENS = 128
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
            here = set(expressed.indices[span][expressed.data[span] >= EXPRESSED_SHARE])
            cases.append(
                Case(
                    label=name,
                    genes=shown[i],
                    absent=absent_markers(self.term(name), {o: self.term(o) for o in others}, self.column, here)
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
        found: list[str] = []
        for j in np.argsort(-probabilities, kind="stable")[: 8 * OTHERS_SHOWN]:
            label = self.labels[j]
            other = self.term(label)
            related = term and other and (term in ontology.ancestors(other) or other in ontology.ancestors(term))
            if label not in (name, UNKNOWN) and not related and probabilities[j] > 0:
                found.append(label)
            if len(found) == OTHERS_SHOWN:
                break
        return found


def absent_markers(
    term: str, others: dict[str, str], column: dict[str, int], expressed: set[int]
) -> dict[str, list[str]]:
    """Markers of other types that a cell lacks and its own need not have, :data:`ABSENT_SHOWN` of each or none.

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
    found: dict[str, list[str]] = {}
    listed: set[str] = set()
    for name, other in others.items():
        markers = _telling_markers(term, other)
        lacking = [g for g in markers if g not in listed and column.get(g, -1) >= 0 and column[g] not in expressed]
        # a small language model, used to lists, goes on where one alone ends
        if term and len(lacking) >= ABSENT_SHOWN:
            found[name] = lacking[:ABSENT_SHOWN]
            listed.update(found[name])
    return found


@cache
def _telling_markers(term: str, other: str) -> list[str]:
    """Markers of the other term or of wider ones, by two sources or more, that are none of this term.

    Those with the most first.
    """
    ontology = cell_ontology()
    own = ontology.known_markers(term) if term else {}
    markers = ontology.known_markers(other) if other else {}
    sources = {gene: ontology.markers[of][gene] for gene, of in markers.items() if gene not in own}
    return sorted((gene for gene, n in sources.items() if n > 1), key=lambda gene: (-sources[gene], gene))[:40]


def informative_genes(model: BioVerse, chunk: csr_matrix, genes: Sequence[str], *, logged: bool) -> list[list[str]]:
    """Genes that exceed the average profile most in each cell, at most :data:`GENES_SHOWN`.

    A cell and the average profile are scaled to 10,000 over the genes that both have; the excess is the difference of
    ``log1p``, times the gene's weight in the model's reference. So the choice does not depend on the other cells.
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


@dataclass(frozen=True)
class Labelled:
    """Cells, or groups of cells, with their labels."""

    vectors: np.ndarray
    """Encoder vectors."""
    names: np.ndarray
    terms: np.ndarray
    """Cell Ontology ids, ``""`` for none."""
    confidence: np.ndarray
    probabilities: np.ndarray
    """Of all labels."""

    def rows(self, which: np.ndarray) -> Labelled:
        """Some of them."""
        return Labelled(
            self.vectors[which], self.names[which], self.terms[which], self.confidence[which], self.probabilities[which]
        )


def reason_about_cells(
    adata: AnnData,
    model: BioVerse,
    matrix: MatrixProfile,
    cells: Labelled,
    maker: CaseMaker,
    rows: np.ndarray,
    *,
    batch_size: int,
) -> np.ndarray:
    """Reasoning of some of the cells; ``""`` for the others."""
    texts = np.full(adata.n_obs, "", dtype=object)
    with progress(total=len(rows), description="reason", unit="cell") as bar:
        for span, raw_chunk in row_chunks(get_matrix(adata, matrix.source), matrix.gene_map.columns):
            here = rows[(rows >= span.start) & (rows < span.stop)]
            if not len(here):
                continue
            chunk = matrix.gene_map.gather(raw_chunk)[here - span.start]
            part = cells.rows(here)
            cases = maker.cases(
                chunk,
                detected(chunk),
                part.names,
                part.confidence,
                part.probabilities,
                logged=matrix.kind == "log-normalised",
            )
            texts[here] = write_reasoning(model, part.vectors, cases, maker.symbols, batch_size=batch_size)
            bar.update(len(here))
    return texts


def check_cells(
    adata: AnnData, matrix: MatrixProfile, texts: np.ndarray, cells: Labelled
) -> tuple[np.ndarray, np.ndarray]:
    """How many claims about genes each cell's text makes that hold in the cell, and that do not."""
    genes = matrix.gene_map.genes
    known = known_symbols(genes)
    counts = []
    for span, raw_chunk in row_chunks(get_matrix(adata, matrix.source), matrix.gene_map.columns):
        expressed = detected(matrix.gene_map.gather(raw_chunk))
        claims = check_reasoning(texts[span], cells.names[span], expressed, genes, terms=cells.terms[span], known=known)
        counts.append(supported_counts(claims, expressed.shape[0]))
    supported, unsupported = zip(*counts, strict=True)
    return np.concatenate(supported), np.concatenate(unsupported)


def reason_about_groups(
    adata: AnnData,
    model: BioVerse,
    matrix: MatrixProfile,
    cells: Labelled,
    group: pd.Categorical[Any],
    maker: CaseMaker,
    *,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reasoning of each group of cells, and how many of its claims hold in the group and do not.

    Parameters
    ----------
    adata, model, matrix, cells, maker, batch_size
        As for :func:`reason_about_cells`.
    group
        Of each cell; the cells of a group have one label.
    """
    n = len(group.categories)
    member = csr_matrix((np.ones(adata.n_obs), (group.codes, np.arange(adata.n_obs))), shape=(n, adata.n_obs))
    first = np.unique(group.codes, return_index=True)[1]
    groups = Labelled(
        vectors=mean_by_cluster(cells.vectors, group),
        names=cells.names[first],
        terms=cells.terms[first],
        confidence=mean_by_cluster(cells.confidence[:, None], group)[:, 0],
        probabilities=mean_by_cluster(cells.probabilities, group),
    )
    expression, expressing = [], []
    for span, raw_chunk in row_chunks(get_matrix(adata, matrix.source), matrix.gene_map.columns):
        chunk = matrix.gene_map.gather(raw_chunk)
        here = detected(chunk)
        if matrix.kind == "log-normalised":
            chunk = chunk.expm1()
        expression.append(member[:, span] @ chunk)
        expressing.append(member[:, span] @ here)
    total = csr_matrix(sum(expression[1:], expression[0]))
    shares = csr_matrix(csr_matrix(sum(expressing[1:], expressing[0])).multiply(1 / np.asarray(member.sum(axis=1))))
    shares.sort_indices()
    cases = maker.cases(total, shares, groups.names, groups.confidence, groups.probabilities, logged=False)
    texts = write_reasoning(model, groups.vectors, cases, maker.symbols, batch_size=batch_size)
    claims = check_reasoning(texts, groups.names, shares, maker.genes, terms=groups.terms)
    return texts, *supported_counts(claims, n)


def detected(chunk: csr_matrix) -> csr_matrix:
    """1 where a cell expresses a gene."""
    found = csr_matrix(chunk > 0, dtype=np.float32)
    found.sort_indices()
    return found


def write_reasoning(
    model: BioVerse, vectors: np.ndarray, cases: Sequence[Case], symbols: Sequence[str], *, batch_size: int
) -> np.ndarray:
    """The language model's reasoning about each case.

    ``""`` where the vector is zeros. ``symbols`` is what counts as a gene.
    """
    import torch

    from bioverse_sc.models import Decoding, ShownGenes, TypeNames, generate_text, reasoning_prompt

    texts = np.full(len(cases), "", dtype=object)
    names = TypeNames(model, list(cell_ontology().names.values()))
    # prompts of about one length need little padding
    real = sorted(
        np.flatnonzero(vectors.any(axis=1)).tolist(), key=lambda i: (len(cases[i].genes) + len(cases[i].missing), i)
    )
    for start in range(0, len(real), batch_size):
        rows = np.array(real[start : start + batch_size])
        here = [cases[i] for i in rows.tolist()]
        prompts = [
            reasoning_prompt(
                case.label,
                case.genes,
                absent=case.absent,
                confidence=case.confidence,
                runner_up=case.runner_up,
                prompts=model.config.prompts,
            )
            for case in here
        ]
        with torch.inference_mode():
            soft_tokens = model.project("rna", torch.from_numpy(vectors[rows]).to(model.device))
        allowed = ShownGenes(model, symbols, [case.genes for case in here], [case.missing for case in here])
        texts[rows] = generate_text(
            model,
            prompts,
            soft_tokens,
            Decoding(max_new_tokens=REASONING_TOKENS),
            constraint=allowed,
            names=names.of([case.types for case in here]),
        )
    return texts
