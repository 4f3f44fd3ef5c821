"""What is known of a cell or of a group of cells: values, before they become sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc.facts._reference import Specificity, reference, relevant
from bioverse_sc.facts._states import (
    HAEMOGLOBIN_COUNTS,
    HAEMOGLOBIN_SHARE,
    MITOCHONDRIAL_SHARE,
    STATES,
    STRANGER_COUNTS,
    STRANGER_SHARE,
    is_red,
    state_genes,
    strangers,
)
from bioverse_sc.facts._types import sources_of, wider_names
from bioverse_sc.ontology import LINEAGES, UNKNOWN, approved_symbol, cell_ontology

if TYPE_CHECKING:
    from bioverse_sc.facts._fact import Fact

CERTAINTY = {0.9: "sure", 0.8: "fairly sure", 0.5: "likely, but not certain", 0.0: "not certain"}
"""What a label is called from which probability."""
EXPRESSED_SHARE = 0.1
"""A group of cells expresses a gene when at least this share of its cells does."""
TELLING = 0.8
"""Probability that a cell of a type would show a gene, from which its absence tells something."""
LEAST_PROBABILITY = 0.01
"""Of a label that is worth a word."""
POSSIBLE, RIVAL = 0.05, 0.1
"""Probability of a type that is worth a thought beside the label, and of one whose markers are told."""
MUCH_LESS = 5
"""A type has a gene much less when it has less than this part of it."""
BEST_EVIDENCED = 3
"""Markers of the label that come first, by the number of their sources alone."""
MARKERS, ABSENT, RIVALS = 8, 2, 3
"""Markers of the label, absences of each type, and expressed markers of the likeliest other type, at most."""
INDUCED = ("MT1", "MT2", "HSP", "FOS", "JUN")
"""Genes that come and go with metals and stress, so that their absence tells nothing of a type."""
MARKERS_TRIED = 12
"""Best markers of a type whose absence may tell something."""


@dataclass(frozen=True)
class Candidate:
    """A type that the cell may be."""

    label: str
    term: str
    """Cell Ontology id, ``""`` for none."""
    probability: float


@dataclass(frozen=True)
class Marker:
    """A marker of the label, or of a wider type, that is expressed."""

    gene: str
    amount: float
    """Counts, or the share of a group's cells."""
    marks: str
    """Name of the type."""
    sources: int
    """That name it."""
    specificity: Specificity

    @property
    def worth(self) -> float:
        """How much it says: its sources, more where it is specific, and to few types."""
        if not self.specificity.home:
            return 0.1 * self.sources**0.5 if self.specificity.others else 0.0
        narrow = 10 / (10 + self.specificity.breadth)
        return narrow * (1.0 if self.specificity.others else 2.0) * self.sources**0.5


@dataclass(frozen=True)
class Absence:
    """A gene that is not detected, although a cell of a type would show it."""

    gene: str
    label: str
    """The type."""
    probability: float
    """That a cell of this type with as many counts would show the gene."""


@dataclass(frozen=True)
class Panel:
    """The genes that are measured."""

    genes: tuple[str, ...]
    """Approved symbols, where there are."""
    column: dict[str, int]
    """Of each name and approved symbol."""
    mitochondrial: np.ndarray
    """Columns of the genes of mitochondria."""
    share_of_reference: float
    """Share of the reference's counts that are of these genes."""


@dataclass(frozen=True)
class CellFacts:
    """What is known of a cell, or of a group of cells."""

    label: str
    term: str
    """Cell Ontology id, ``""`` for none."""
    probability: float
    candidates: tuple[Candidate, ...]
    """Labels with a probability of 0.01 or more, the likeliest first."""
    choices: frozenset[str] = field(repr=False)
    """Cell Ontology ids of all labels that there were to choose from."""
    is_group: bool
    panel: Panel = field(repr=False)
    columns_expressed: np.ndarray = field(repr=False)
    """Columns of the genes that are expressed, shape (expressed,)."""
    values: np.ndarray = field(repr=False)
    """Their counts; the shares of a group's cells."""
    has_counts: bool
    """Whether the data hold counts, so that numbers of them may be told."""
    total: float
    """Counts, NaN where they are not known."""
    depth: float
    """Counts of a cell, had all genes of the reference been measured; NaN where it cannot be told."""
    mitochondrial: float
    """Share of the counts, NaN where not known."""
    haemoglobin: float
    """Counts of haemoglobin, NaN where not known."""
    study: dict[str, str]
    """Columns that the user named, and what they say."""

    @cached_property
    def amounts(self) -> dict[str, float]:
        """Counts, or share of a group's cells, by approved symbol; only expressed genes."""
        genes = self.panel.genes
        return {genes[j]: float(v) for j, v in zip(self.columns_expressed, self.values, strict=True)}

    def amount(self, gene: str) -> float | None:
        """Counts of a gene, or share of a group's cells: 0 where it is not detected, ``None`` where not measured."""
        gene = approved_symbol(gene) or gene
        return self.amounts.get(gene, 0.0) if gene in self.panel.column else None

    @property
    def certainty(self) -> str:
        """How sure the label is, in words."""
        return certainty(self.probability)

    @property
    def n_genes(self) -> int:
        """Number of genes that are expressed."""
        return len(self.values)

    @cached_property
    def runners_up(self) -> tuple[Candidate, ...]:
        """Other types that are no kind of the label, nor it of them; the likeliest first."""
        ontology = cell_ontology()
        mine = ontology.ancestors(self.term) if self.term else frozenset()
        return tuple(
            c
            for c in self.candidates
            if c.label not in (self.label, UNKNOWN)
            and not (self.term and c.term and (c.term in mine or self.term in ontology.ancestors(c.term)))
        )

    @property
    def is_outdone(self) -> bool:
        """Whether another type is more likely than the label."""
        others = [c for c in self.runners_up if c.label != UNKNOWN]
        return bool(others) and others[0].probability > self.probability

    @cached_property
    def wider(self) -> tuple[str, ...]:
        """Names of the label's wider types that matter, the narrowest first and the lineage last."""
        return wider_names(self.term) if self.term else ()

    @cached_property
    def markers(self) -> tuple[Marker, ...]:
        """Expressed markers, best first: the label's by evidence, then those of it and wider types by specificity."""
        if not self.term:
            return ()
        ontology, known = cell_ontology(), reference()
        names = ontology.names
        amounts = self.amounts
        first = [g for g in sources_of(self.term) if g in amounts][:BEST_EVIDENCED]
        terms = sorted(relevant(self.term) - (set(LINEAGES) - {self.term}), key=lambda t: -len(ontology.ancestors(t)))
        marks: dict[str, tuple[str, int]] = {}
        for term in terms:
            for gene, n in sources_of(term).items():
                if gene in amounts:
                    marks.setdefault(gene, (term, n))
        made = {
            gene: Marker(gene, amounts[gene], names[term], n, known.specificity(gene, self.term))
            for gene, (term, n) in marks.items()
            if n > 1 or gene in first
        }
        rest = sorted((m for m in made.values() if m.gene not in first), key=lambda m: (-m.worth, m.gene))
        rest = [m for m in rest if m.worth > 0]
        return tuple([made[gene] for gene in first] + rest[: MARKERS - len(first)])

    @cached_property
    def absences(self) -> tuple[Absence, ...]:
        """Absences that tell something: best markers of the label, and those that set the runner-up apart."""
        if not np.isfinite(self.depth):
            return ()
        return (*self._absent(self.label, self.term, ""), *self.absences_of_runner_up)

    @cached_property
    def absences_of_runner_up(self) -> tuple[Absence, ...]:
        """Telling markers of the likeliest other type that are not detected."""
        if not self.runners_up:
            return ()
        return self.absences_of(self.runners_up[0].label, self.runners_up[0].term)

    def absences_of(self, label: str, term: str) -> tuple[Absence, ...]:
        """Markers of another type that are not detected, although such a cell would show them and the label need not.

        Parameters
        ----------
        label, term
            Name and Cell Ontology id of the type.
        """
        return self._absent(label, term, self.term) if np.isfinite(self.depth) else ()

    def _absent(self, label: str, term: str, unlike: str) -> tuple[Absence, ...]:
        """Telling absences of a type's markers; only of those that a type that it is ``unlike`` has much less."""
        known = reference()
        absent = []
        for gene in list(sources_of(term))[:MARKERS_TRIED] if term else ():
            probability = self.detection(gene, term)
            if self.amount(gene) != 0 or not probability >= TELLING or gene.startswith(INDUCED):
                continue
            level = known.level(gene, term)
            if known.level(gene, unlike) < level / MUCH_LESS if unlike else known.is_telling(gene, term):
                absent.append(Absence(gene, label, probability))
        return tuple(absent[:ABSENT])

    @cached_property
    def rival_markers(self) -> tuple[str, ...]:
        """Expressed markers of the likeliest other type that the label has much less, where that type is possible."""
        if not self.runners_up or self.runners_up[0].probability < RIVAL or not self.runners_up[0].term:
            return ()
        known, term = reference(), self.runners_up[0].term
        genes = [gene for gene, n in sources_of(term).items() if n > 1 and self.amounts.get(gene, 0) > 0]
        less = [g for g in genes if known.level(g, self.term) < known.level(g, term) / MUCH_LESS]
        return tuple(less[:RIVALS])

    def detection(self, gene: str, term: str) -> float:
        """Probability that a cell of a type with as many counts would show a gene; NaN where it is not known."""
        level = reference().least_level(gene, term)
        return reference().detection(level, self.depth) if np.isfinite(level * self.depth) else float("nan")

    @cached_property
    def states(self) -> dict[str, tuple[str, ...]]:
        """States that the cell is in, with the genes that show it."""
        told = {
            name: state_genes(name, self.amounts, self.term, self.depth, self.panel.column.__contains__)
            for name in STATES
        }
        return {name: genes for name, genes in told.items() if genes}

    @cached_property
    def strangers(self) -> tuple[str, tuple[str, ...]]:
        """Another type, far from the label, whose specific markers are clearly expressed, and these; empty if none."""
        if not self.term or not (self.has_counts or self.is_group):
            return "", ()
        if self.is_group:
            return strangers(self.amounts, self.term, STRANGER_SHARE, np.nan)
        return strangers(self.amounts, self.term, STRANGER_COUNTS, self.depth)

    @property
    def has_haemoglobin(self) -> bool:
        """Whether it has haemoglobin without being a red cell."""
        is_high = self.haemoglobin >= HAEMOGLOBIN_COUNTS and self.haemoglobin >= HAEMOGLOBIN_SHARE * self.total
        return bool(is_high) and not (self.term and is_red(self.term))

    @property
    def is_damaged(self) -> bool:
        """Whether many counts are of mitochondria."""
        return bool(self.mitochondrial > MITOCHONDRIAL_SHARE)

    def probability_of(self, term: str) -> float:
        """Probability of a type and of its kinds, among the labels with 0.01 or more."""
        ontology = cell_ontology()
        return float(sum(c.probability for c in self.candidates if c.term and term in ontology.ancestors(c.term)))

    def facts(self, name: str = "Cell") -> list[Fact]:
        """All of it in sentences, about twelve to sixteen.

        Parameters
        ----------
        name
            What it is called: ``"Cell"`` and ``"Cluster"`` are "The cell" and "The cluster" in a sentence.
        """
        from bioverse_sc.facts._cell_words import cell_sentences

        return cell_sentences(self, name)


def certainty(probability: float) -> str:
    """What a label of some probability is called, such as ``"fairly sure"``.

    Parameters
    ----------
    probability
        Of the label, 0 to 1; NaN where it is not known.
    """
    return next((words for least, words in CERTAINTY.items() if probability >= least), CERTAINTY[0.0])
