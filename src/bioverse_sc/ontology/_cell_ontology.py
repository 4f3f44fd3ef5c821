"""Cell Ontology in memory."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import pandas as pd

UNKNOWN = "unknown"
"""Label of a cell that cannot be annotated; its id is empty."""


class CellOntology:
    """Terms by id: ``names``, ``definitions``, ``parents``, ``synonyms``, ``markers``.

    Parameters
    ----------
    terms
        Columns id, name, parents and synonyms (both separated by ``|``), definition.
    markers
        Columns id, gene, evidence: the number of sources that name the gene as a marker of the term.
    """

    def __init__(self, terms: pd.DataFrame, markers: pd.DataFrame) -> None:
        self.names: dict[str, str] = dict(zip(terms["id"], terms["name"], strict=True))
        self.definitions: dict[str, str] = dict(zip(terms["id"], terms["definition"], strict=True))
        self.parents: dict[str, list[str]] = {
            term: [p for p in parents.split("|") if p]
            for term, parents in zip(terms["id"], terms["parents"], strict=True)
        }
        self.synonyms: dict[str, list[str]] = {
            term: [s for s in synonyms.split("|") if s]
            for term, synonyms in zip(terms["id"], terms["synonyms"], strict=True)
        }
        self.markers: dict[str, dict[str, int]] = {
            str(term): dict(zip(group["gene"], group["evidence"], strict=True)) for term, group in markers.groupby("id")
        }
        self._ancestors: dict[str, frozenset[str]] = {}
        self._ids = {_key(s): term for term, synonyms in self.synonyms.items() for s in synonyms}
        self._ids |= {_key(name): term for term, name in self.names.items()}
        self._ids |= {_key(term): term for term in self.names}

    def ancestors(self, term: str) -> frozenset[str]:
        """Ids of the term itself and of all that it is a kind of."""
        if term not in self._ancestors:
            ancestors = {term}
            for parent in self.parents.get(term, ()):
                ancestors |= self.ancestors(parent)
            self._ancestors[term] = frozenset(ancestors)
        return self._ancestors[term]

    def find(self, label: str) -> str | None:
        """Id of the term with this name, exact synonym or id; case and plural do not matter."""
        return self._ids.get(_key(label))

    def known_markers(self, term: str) -> dict[str, str]:
        """Marker genes of a term and of its ancestors: gene to the most specific term that it marks."""
        term_of_gene: dict[str, str] = {}
        for ancestor in sorted(self.ancestors(term), key=lambda t: (-len(self.ancestors(t)), t)):
            for gene in self.markers.get(ancestor, ()):
                term_of_gene.setdefault(gene, ancestor)
        return term_of_gene

    def describe(self, term: str, *, n_markers: int = 8) -> str:
        """Describe a term in words: name, definition, best markers. Cells are aligned to this text."""
        parts = [self.names[term] + "."]
        if self.definitions[term]:
            parts.append(self.definitions[term])
        if genes := list(self.markers.get(term, ()))[:n_markers]:
            parts.append(f"Markers: {', '.join(genes)}.")
        return " ".join(parts)


def _key(label: str) -> str:
    """Compare names without case, hyphens or a plural."""
    words = re.sub(r"[-_,]+", " ", label.casefold()).split()
    return " ".join(w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith(("ss", "us")) else w for w in words)


@cache
def cell_ontology() -> CellOntology:
    """Load the ontology that ships with the package, once."""
    folder = files("bioverse_sc.ontology")
    tables = []
    for name in ("cell_ontology.tsv.gz", "markers.tsv.gz"):
        with folder.joinpath(name).open("rb") as file:
            tables.append(pd.read_csv(file, sep="\t", keep_default_na=False, compression="gzip"))
    return CellOntology(*tables)
