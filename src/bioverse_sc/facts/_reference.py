"""How high genes are in the reference types: whom a gene is specific to, and whether a cell of a type would show it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from bioverse_sc.facts._tables import expression_table
from bioverse_sc.facts._words import in_plural, listed
from bioverse_sc.ontology import LINEAGES, cell_ontology

DISPERSION = 1.5
"""Of a gene's counts between cells of a type and between a study and the reference. Of markers of their type that cells
should show with a probability of 0.8 to 0.9, then 99 % are seen (pbmc3k), 86 % (Kang), 83 % (Baron), 78 % (Kong)."""
HIGHER = 3.0
"""A gene is specific to types in which it is this much higher than in all others."""
LEAST_LEVEL = 0.2
"""Counts per 10,000 below which the reference says nothing of a gene."""
CLEAR_LEVEL = 3.0
"""Counts per 10,000 with which other types still clearly express a gene."""
EXCEPTIONS = 2
"""Other types in which a gene may be as high, and are named then."""
UNTELLING = {
    "CL:0000842": "mononuclear cell",
    "CL:0000081": "blood cell",
    "CL:0000145": "professional antigen presenting cell",
    "CL:0001201": "B cell, CD19-positive",
    "CL:0002076": "endo-epithelial cell",
    "CL:0002077": "ecto-epithelial cell",
    "CL:0002078": "meso-epithelial cell",
    "CL:0000150": "glandular epithelial cell",
    "CL:0011026": "progenitor cell",
}
"""Types of which it says little that a cell is one."""


@dataclass(frozen=True)
class Specificity:
    """Whom a gene is specific to, in a type that expresses it."""

    home: str = ""
    """The narrowest type around that expresses it more than nearly all others do; ``""`` where there is none."""
    others: tuple[str, ...] = ()
    """Types outside in which it is high too, the highest first."""
    elsewhere: bool = False
    """Whether others express it clearly, though much less."""
    breadth: int = 0
    """Number of reference types at home."""

    @property
    def is_specific(self) -> bool:
        """Whether nearly no other expresses it."""
        return bool(self.home) and not self.others and not self.elsewhere

    def sentence(self, gene: str) -> str:
        """In words; ``""`` where the reference does not say."""
        others = listed(in_plural(other) for other in self.others[:2])
        if self.is_specific:
            return f"{gene} is specific to {in_plural(self.home)}."
        if self.home and not others:
            return f"{gene} is much higher in {in_plural(self.home)} than in other types."
        if self.home:
            return f"{gene} is high in {in_plural(self.home)} and also in {others}."
        return f"{gene} is not specific; it is also high in {others}." if others else ""


class Reference:
    """Mean expression of genes in reference types.

    Parameters
    ----------
    genes
        Approved symbols.
    terms
        Cell Ontology ids of the types.
    mean
        Counts per 10,000, shape (genes, types).
    """

    def __init__(self, genes: list[str], terms: list[str], mean: np.ndarray) -> None:
        self.terms, self.mean = terms, mean
        self.row = {gene: i for i, gene in enumerate(genes)}
        self._types: dict[str, np.ndarray] = {}
        self._specific: dict[tuple[str, str], Specificity] = {}
        self._homes: dict[str, list[tuple[str, np.ndarray]]] = {}

    @cached_property
    def names(self) -> list[str]:
        """Of the types."""
        return [cell_ontology().names[term] for term in self.terms]

    def types(self, term: str) -> np.ndarray:
        """Columns of the types that are this term or a kind of it; else of the nearest wider term that has any."""
        if term not in self._types:
            ontology = cell_ontology()
            wider = [term, *sorted(relevant(term) - {term}, key=lambda t: (-len(ontology.ancestors(t)), t))]
            candidates = (np.array([i for i, t in enumerate(self.terms) if w in ontology.ancestors(t)]) for w in wider)
            self._types[term] = next((columns for columns in candidates if len(columns)), np.array([], dtype=int))
        return self._types[term]

    def level(self, gene: str, term: str) -> float:
        """Mean counts per 10,000 in a type, of its kinds the mean; NaN where it is not known."""
        columns = self.types(term) if term else np.array([], dtype=int)
        return float(self.mean[self.row[gene], columns].mean()) if gene in self.row and len(columns) else np.nan

    def least_level(self, gene: str, term: str) -> float:
        """As :meth:`level`, but of its kinds the least."""
        columns = self.types(term) if term else np.array([], dtype=int)
        return float(self.mean[self.row[gene], columns].min()) if gene in self.row and len(columns) else np.nan

    def is_telling(self, gene: str, term: str) -> bool:
        """Whether a type has a gene ten times as high as most types do, so that it is missed where it is not."""
        return gene in self.row and bool(np.quantile(self.mean[self.row[gene]], 0.75) < self.level(gene, term) / 10)

    def specificity(self, gene: str, term: str) -> Specificity:
        """Whom a gene is specific to, of a type that expresses it.

        Of the type and its wider types, from narrow to wide, it is the first in which the median type has the gene
        ``HIGHER`` times as high as all others, apart from ``EXCEPTIONS``.

        Parameters
        ----------
        gene
            Approved symbol.
        term
            Cell Ontology id of the type.
        """
        if (gene, term) not in self._specific:
            is_known = gene in self.row and bool(term) and bool(len(self.types(term)))
            self._specific[gene, term] = self._specificity(gene, term) if is_known else Specificity()
        return self._specific[gene, term]

    def _specificity(self, gene: str, term: str) -> Specificity:
        values = self.mean[self.row[gene]]  # (types,)
        level = values[self.types(term)].mean()
        if level < LEAST_LEVEL:
            return Specificity()
        order = np.argsort(-values, kind="stable")
        partly = Specificity()
        for home, columns in self._around(term):
            # a wide type is home only where nearly all of its kinds have the gene
            least, inside = np.quantile(values[columns], [0.25, 0.5])
            beyond = np.setdiff1d(order, columns, assume_unique=True)
            outside = beyond[values[beyond] >= inside / HIGHER]
            if least < max(LEAST_LEVEL, level / 6) or len(outside) > EXCEPTIONS:
                continue
            if not len(outside):
                is_clear = bool(values[beyond].max(initial=0) >= CLEAR_LEVEL)
                return Specificity(home, elsewhere=is_clear, breadth=len(columns))
            outside = outside[np.argsort(-values[outside], kind="stable")]
            partly = (
                partly
                if partly.home
                else Specificity(home, tuple(self.names[i] for i in outside), breadth=len(columns))
            )
        if partly.home:
            return partly
        same = set(self.types(term))
        high = [self.names[i] for i in order if i not in same and values[i] >= level / HIGHER]
        return Specificity("", tuple(high[:EXCEPTIONS]))

    def _around(self, term: str) -> list[tuple[str, np.ndarray]]:
        """Names of a type and its wider types, narrow first, with their columns."""
        if term not in self._homes:
            ontology = cell_ontology()
            terms = [t for t in relevant(term) if any(t in ontology.ancestors(self.terms[i]) for i in self.types(t))]
            terms.sort(key=lambda t: (len(self.types(t)), -len(ontology.ancestors(t)), t))
            homes: dict[tuple[int, ...], str] = {}
            for t in terms:
                # of terms with the same types the narrowest
                homes.setdefault(tuple(self.types(t)), ontology.names[t])
            self._homes[term] = [(name, np.array(columns)) for columns, name in homes.items() if columns]
        return self._homes[term]

    def detection(self, level: float, depth: float) -> float:
        """Probability that a cell shows a gene: the gene has ``level`` in 10,000 of its ``depth`` counts.

        The zero of a negative binomial with ``DISPERSION``.
        """
        return float(1 - (1 + DISPERSION * depth * level / 1e4) ** (-1 / DISPERSION))


@cache
def reference() -> Reference:
    """The reference that ships with the package."""
    return Reference(*expression_table())


@cache
def relevant(term: str) -> frozenset[str]:
    """The term and those of its wider types that say more than "motile cell" or "mononuclear cell"."""
    ontology = cell_ontology()
    return frozenset(
        t
        for t in ontology.ancestors(term)
        if t == term or (t not in UNTELLING and not ontology.ancestors(t).isdisjoint(LINEAGES))
    )
