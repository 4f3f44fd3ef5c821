"""Broad types, for a second column of labels beside the exact one."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc.ontology._back_off import LINEAGES
from bioverse_sc.ontology._cell_ontology import UNKNOWN, cell_ontology
from bioverse_sc.ontology._match import match_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

COARSE = {
    "CL:0000084": "T cell",
    "CL:0000236": "B cell",
    "CL:0000786": "plasma cell",
    "CL:0000623": "natural killer cell",
    "CL:0001065": "innate lymphoid cell",
    "CL:0000576": "monocyte",
    "CL:0000235": "macrophage",
    "CL:0000451": "dendritic cell",
    "CL:0000094": "granulocyte",
    "CL:0000097": "mast cell",
    "CL:0008001": "hematopoietic precursor cell",
    "CL:0000764": "erythroid lineage cell",
    "CL:0000556": "megakaryocyte",
    "CL:0000233": "platelet",
    "CL:0000066": "epithelial cell",
    "CL:0000164": "enteroendocrine cell",
    "CL:0008024": "pancreatic endocrine cell",
    "CL:0000115": "endothelial cell",
    "CL:0000057": "fibroblast",
    "CL:0000632": "hepatic stellate cell",
    "CL:0002410": "pancreatic stellate cell",
    "CL:0000669": "pericyte",
    "CL:0000192": "smooth muscle cell",
    "CL:0000188": "cell of skeletal muscle",
    "CL:0000746": "cardiac muscle cell",
    "CL:0000136": "adipocyte",
    "CL:0000134": "mesenchymal stem cell",
    "CL:0000540": "neuron",
    "CL:0000125": "glial cell",
    "CL:0000148": "melanocyte",
    "CL:0000586": "germ cell",
    "CL:0000351": "trophoblast cell",
}
"""Terms of the coarse level, which are what an atlas calls compartments and major types; with their names in the
Cell Ontology."""
COUNTED_AS = {
    "CL:0000036": "CL:0000066",  # epithelial fate stem cell: basal cells
    "CL:0000677": "CL:0000066",  # gut absorptive cell: BEST4+ cells
    "CL:0000165": "CL:0000066",  # neuroendocrine cell, which the ontology calls a neuron
    "CL:0002453": "CL:0000125",  # oligodendrocyte precursor cell
}
"""Terms that the ontology does not put below the broad type that everyone counts them in."""


def coarse_probabilities(probabilities: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Probabilities of the broad types (``COARSE``) from those of labels, and their names.

    A label counts for the most exact of the broad types that it is a kind of, or is counted in (``COUNTED_AS``);
    one that is none of them for its lineage, and one without a term for itself.

    Parameters
    ----------
    probabilities
        Of each label, shape (cells, labels).
    labels
        Labels in any words; the last is ``"unknown"``.

    Returns
    -------
    Shape (cells, broad types); the names, ``"unknown"`` last; and the number of the broad type of each label.
    """
    broad = _broad(tuple(labels))
    names = [*dict.fromkeys(name for name in broad if name != UNKNOWN), UNKNOWN]
    counted_in = np.array([names.index(name) for name in broad])
    into = np.zeros((len(labels), len(names)), dtype=probabilities.dtype)
    into[np.arange(len(labels)), counted_in] = 1
    return probabilities @ into, names, counted_in


@lru_cache(maxsize=4)
def _broad(labels: tuple[str, ...]) -> list[str]:
    ontology, matches = cell_ontology(), match_labels(labels)
    broad_of = {term: term for term in (*LINEAGES, *COARSE)} | COUNTED_AS
    broad = []
    for label in labels:
        above = ontology.ancestors(matches[label].term or "")
        # lineages are the last choice, and the most exact term has most above it
        order = sorted(
            above & broad_of.keys(),
            key=lambda term: (term in LINEAGES.keys() - COUNTED_AS.keys(), -len(ontology.ancestors(term)), term),
        )
        broad.append(ontology.names[broad_of[order[0]]] if order else label)
    return broad
