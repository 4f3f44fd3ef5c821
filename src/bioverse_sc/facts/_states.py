"""State of a cell, and what is unusual about it: rules over several genes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc.facts._reference import HIGHER, reference
from bioverse_sc.facts._types import types_marked
from bioverse_sc.ontology import cell_ontology

if TYPE_CHECKING:
    from collections.abc import Callable

HAEMOGLOBIN = ("HBA1", "HBA2", "HBB")
RED_CELLS = ("CL:0000764", "CL:0000232", "CL:0000765", "CL:0000558")
"""Erythroid lineage cell, erythrocyte, erythroblast, reticulocyte."""
HAEMOGLOBIN_COUNTS, HAEMOGLOBIN_SHARE = 10, 0.01
"""From so many counts, which are this share of all, haemoglobin is unusual in a cell that is no red cell."""
MITOCHONDRIAL_SHARE = 0.15
"""A higher share of counts is from mitochondria in cells that are damaged."""
FEW_COUNTS = 500
"""Fewer counts say little."""

COMPARTMENTS = {
    "CL:0000084": "T cell",
    "CL:0000945": "lymphocyte of B lineage",
    "CL:0001065": "innate lymphoid cell",
    "CL:0000766": "myeloid leukocyte",
    "CL:0000556": "megakaryocyte",
    "CL:0000764": "erythroid lineage cell",
    "CL:0000066": "epithelial cell",
    "CL:0000115": "endothelial cell",
    "CL:0002320": "connective tissue cell",
    "CL:0000187": "muscle cell",
    "CL:0000540": "neuron",
    "CL:0000125": "glial cell",
    "CL:0000039": "germ line cell",
}
"""Types that are far apart: a cell is hardly of two."""
LEAST_SOURCES = 3
"""That name a gene as a marker of a type in a compartment."""
STRANGER_COUNTS, STRANGER_SHARE = 2, 0.2
"""Counts in a cell, or share of a group's cells, from which a gene of another compartment is clearly expressed."""
FOREIGN = 20
"""The label must have the gene this many times less."""
STRANGER_PART = 0.25
"""Two cells that were caught together show about half of what each has; less may be RNA that drifts."""


@dataclass(frozen=True)
class State:
    """Genes that together tell a state."""

    name: str
    """As in "The cell shows ..."."""
    genes: tuple[str, ...]
    least: int
    """Of them that must be expressed, at least."""
    beyond: float = 0
    """How many more must be than a cell of the type and depth would show."""
    fold: float = 0
    """How many times as many counts of them there must be as in such a cell."""
    needs: tuple[str, ...] = ()
    """One of these must be among them."""


STATES = {
    "proliferation": State(
        "signs of proliferation",
        (
            "MKI67",
            "TOP2A",
            "CDK1",
            "BIRC5",
            "UBE2C",
            "CENPF",
            "TPX2",
            "CCNB1",
            "RRM2",
            "TYMS",
            "NUSAP1",
            "PCLAF",
            "ZWINT",
        ),
        least=3,
        needs=("MKI67", "TOP2A", "CDK1", "BIRC5", "UBE2C", "TPX2", "CCNB1", "RRM2"),
    ),
    "interferon": State(
        "a response to interferon",
        (
            "ISG15",
            "IFI6",
            "IFIT1",
            "IFIT2",
            "IFIT3",
            "MX1",
            "OAS1",
            "IFI44L",
            "IFI44",
            "RSAD2",
            "CXCL10",
            "HERC5",
            "CMPK2",
        ),
        least=4,
        beyond=2,
        fold=4,
    ),
    "stress": State(
        "a response to stress or dissociation",
        ("HSPA1A", "HSPA1B", "FOS", "JUN", "FOSB", "DNAJB1", "HSPA6", "EGR1", "ATF3", "HSPH1"),
        least=5,
        beyond=2,
        fold=3,
    ),
}
"""States by what a question calls them."""


def state_genes(
    name: str, amounts: dict[str, float], term: str, depth: float, measured: Callable[[str], bool]
) -> tuple[str, ...]:
    """Genes that show a state, the highest first; none where the cell is not in it.

    Parameters
    ----------
    name
        Key of ``STATES``.
    amounts
        Of each gene that the cell expresses.
    term
        Of the cell's label.
    depth
        Its counts; NaN where they are not known.
    measured
        Whether the data have a gene.
    """
    state = STATES[name]
    shown = [gene for gene in state.genes if amounts.get(gene, 0) > 0]
    if len(shown) < state.least or (state.needs and not set(state.needs).intersection(shown)):
        return ()
    if state.beyond and np.isfinite(depth):
        known = reference()
        levels = [known.level(gene, term) for gene in state.genes if measured(gene)]
        levels = [level for level in levels if np.isfinite(level)]
        n_expected = sum(known.detection(level, depth) for level in levels)
        counts_expected = sum(levels) * depth / 1e4
        n_counts = sum(amounts[gene] for gene in shown)
        if len(shown) < n_expected + state.beyond or n_counts < state.fold * counts_expected:
            return ()
    return tuple(sorted(shown, key=lambda gene: -amounts[gene]))


def strangers(amounts: dict[str, float], term: str, least: float, depth: float) -> tuple[str, tuple[str, ...]]:
    """Another compartment whose specific markers a cell clearly expresses, at least two of them, and these.

    Parameters
    ----------
    amounts
        Of each gene that the cell expresses.
    term
        Of its label.
    least
        Amount from which a gene is clearly expressed.
    depth
        Counts of a cell, which must have ``STRANGER_PART`` of what the other compartment shows; NaN asks for no more.
    """
    lineage = cell_ontology().ancestors(term)
    if lineage.isdisjoint(COMPARTMENTS):
        # a stem cell, or one beside the compartments, may have anything
        return "", ()
    by_compartment: dict[str, list[str]] = {}
    known = reference()
    for gene in amounts.keys() & specific_genes().keys():
        compartment, level = specific_genes()[gene]
        # a term above the compartment may be one of it
        near = compartment in lineage or term in cell_ontology().ancestors(compartment)
        part = STRANGER_PART * level * depth / 1e4 if np.isfinite(depth) else 0
        if not near and amounts[gene] >= max(least, part) and not known.level(gene, term) > level / FOREIGN:
            by_compartment.setdefault(compartment, []).append(gene)
    best = max(by_compartment, key=lambda c: (len(by_compartment[c]), c), default="")
    genes = sorted(by_compartment.get(best, ()), key=lambda gene: (-amounts[gene], gene))
    return (COMPARTMENTS[best], tuple(genes)) if len(genes) >= 2 else ("", ())


@cache
def specific_genes() -> dict[str, tuple[str, float]]:
    """Markers that are higher in one compartment than in the types outside of it: the compartment, and their level.

    One type outside may be as high, as a profile may hold RNA of other cells. Neither immunoglobulins nor haemoglobins,
    whose RNA drifts from cell to cell, nor what stress induces.
    """
    known, ontology = reference(), cell_ontology()
    above = [ontology.ancestors(term) for term in known.terms]
    specific = {}
    for gene, marked in types_marked().items():
        if gene not in known.row or gene.startswith(("IGH", "IGK", "IGL", "JCHAIN", "HB", "HSP")):
            continue
        terms = [term for term, n in marked.items() if n >= LEAST_SOURCES]
        values = known.mean[known.row[gene]]  # (types,)
        for compartment in COMPARTMENTS:
            inside = np.array([compartment in a for a in above])
            level = values[inside].max(initial=0)
            if (
                level >= 1
                and np.sort(values[~inside])[-2] < level / (2 * HIGHER)
                and any(compartment in ontology.ancestors(term) for term in terms)
            ):
                specific[gene] = (compartment, float(level))
    return specific


def is_red(term: str) -> bool:
    """Whether a type is a red cell or one of its precursors."""
    return not cell_ontology().ancestors(term).isdisjoint(RED_CELLS)
