"""Labels that back off to a term above them, as far as their probability asks for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc.ontology._cell_ontology import UNKNOWN, cell_ontology
from bioverse_sc.ontology._match import match_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike
    from scipy.sparse import csr_matrix

    from bioverse_sc.ontology._meanings import Meaning

LINEAGES = {
    "CL:0000988": "hematopoietic cell",
    "CL:0000066": "epithelial cell",
    # the ontology has these beside epithelial cells: basal cells are below the first, BEST4+ cells below the second
    "CL:0000036": "epithelial fate stem cell",
    "CL:0000677": "gut absorptive cell",
    "CL:0000115": "endothelial cell",
    "CL:0002319": "neural cell",
    "CL:0002320": "connective tissue cell",
    "CL:0000499": "stromal cell",
    "CL:0000187": "muscle cell",
    "CL:0000188": "cell of skeletal muscle",
    "CL:0002494": "cardiocyte",
    "CL:0008034": "mural cell",
    "CL:0000147": "pigment cell",
    "CL:0000039": "germ line cell",
    "CL:0000349": "extraembryonic cell",
}
"""The widest terms that a label backs off to. What is neither one of them nor below one groups cells across lineages,
by what they do or look like ("motile cell", "secretory cell", "nucleate cell", "stem cell"): true, and no help."""


def back_off(
    probabilities: ArrayLike,
    labels: Sequence[str],
    min_confidence: float | None = None,
    *,
    calibrate: Callable[[np.ndarray], np.ndarray] | None = None,
    meanings: Mapping[str, Meaning] | None = None,
    given: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label each cell with the most exact term that is certain enough.

    The probability of a term is the sum over the labels whose term it is or is above. From the best label of a cell the
    walk goes up the Cell Ontology until a term's probability reaches ``min_confidence``; of several parents it takes
    the one with the highest probability, of equal ones the first by name. It ends at ``"unknown"`` above the widest
    terms of the lineages (``LINEAGES``), as it does at once for a label without a term, which has no parents.

    Parameters
    ----------
    probabilities
        Of each label, shape (cells, labels).
    labels
        Labels, in any words; see :func:`match_labels`.
    min_confidence
        From 0 to 1. ``None`` or 0 leaves every cell at its best label.
    calibrate
        Turns the probabilities of terms into how often such a label is right, before they are compared with
        ``min_confidence``; it must not fall, such as :func:`bioverse_sc.metrics.apply_calibration`.
    meanings
        Of :func:`meanings_of`. What is only a text is not calibrated. The certainty of a guess is lowered by its
        :attr:`Meaning.trust`, and that of terms above it which are not above what it takes. So a guess gives way to
        what it and the model's label have in common.
    given
        Number of the label from which each cell starts; by default its best one.

    Returns
    -------
    names
        Labels, shape (cells,): as they are in ``labels`` where a term has one there, else the term's name, or
        ``"unknown"``, as for a row of zeros.
    ids
        Cell Ontology ids, shape (cells,); ``""`` where there is none.
    confidence
        Probability of the term, shape (cells,); that of the label itself where it has no term, 0 for ``"unknown"``.

    Raises
    ------
    ValueError
        When shapes do not fit, or a probability or ``min_confidence`` is out of its range.
    """
    p = _check_probabilities(probabilities, labels)
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        msg = f"min_confidence is {min_confidence}; expected a probability from 0 to 1, or None."
        raise ValueError(msg)
    graph = _graph(tuple(labels))
    below, trust = _trusted(graph, labels, meanings or {})
    # a sparse product adds up the same labels in the same order for every cell, so that equal sums are equal
    mass = np.asarray((below @ p.T).T)
    # nothing is the probability of a label that is not there
    certainty = mass if calibrate is None else np.where(mass > 0, calibrate(mass.clip(0, 1)), 0)
    is_text = [
        j
        for j, label in enumerate(labels)
        if meanings and label in meanings and meanings[label].relation == "text" and label != UNKNOWN
    ]
    # calibration is about types
    certainty[:, is_text] = mass[:, is_text]
    certainty = certainty * trust
    cells = np.arange(len(p))
    node = graph.of_label[p.argmax(axis=1) if given is None else np.asarray(given)]
    node[~p.any(axis=1)] = graph.root
    walking = cells[node != graph.root] if min_confidence else cells[:0]
    while walking.size:
        walking = walking[certainty[walking, node[walking]] < min_confidence]
        parents = graph.parents[node[walking]]
        # the root pads the lists of parents, and is nobody's choice where there is another
        chances = np.where(parents == graph.root, -1, mass[walking[:, None], parents])
        node[walking] = parents[np.arange(len(walking)), chances.argmax(axis=1)]
        walking = walking[node[walking] != graph.root]
    return graph.names[node], graph.ids[node], certainty[cells, node]


def runner_up(
    probabilities: ArrayLike, labels: Sequence[str], n: int, *, given: Sequence[str] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The ``n`` likeliest labels of each cell that it was not given.

    Parameters
    ----------
    probabilities
        Of each label, shape (cells, labels).
    labels
        Labels, in any words; see :func:`match_labels`.
    n
        How many, at most one fewer than there are labels.
    given
        Label of each cell, such as :func:`back_off` gives; where it is not the likeliest one, that one comes first. By
        default all cells have their likeliest.

    Returns
    -------
    names
        Labels, shape (cells, n), the better ones first and equal ones by name; ``""`` for a row of zeros.
    confidence
        Their own probabilities, shape (cells, n).

    Raises
    ------
    ValueError
        When shapes do not fit, or there are not so many labels.
    """
    p = _check_probabilities(probabilities, labels)
    if not 0 < n < len(labels):
        msg = f"n is {n} for {len(labels)} labels; expected from 1 to {len(labels) - 1}, as one of them is the best."
        raise ValueError(msg)
    # the best one is the one that back_off starts from
    remaining = p.copy()
    best = remaining.argmax(axis=1)
    by_name = np.array(sorted(range(len(labels)), key=labels.__getitem__))
    cells = np.arange(len(p))
    order = np.empty((len(p), n), dtype=np.int64)
    has_best = (
        cells
        if given is None
        else np.flatnonzero(np.array(labels, dtype=object)[best] == np.asarray(given, dtype=object))
    )
    remaining[has_best, best[has_best]] = -1
    for k in range(n):
        best = order[:, k] = by_name[remaining[:, by_name].argmax(axis=1)]
        remaining[cells, best] = -1
    names = np.array(labels, dtype=object)[order]
    names[~p.any(axis=1)] = ""
    return names, np.take_along_axis(p, order, axis=1)


def _check_probabilities(probabilities: ArrayLike, labels: Sequence[str]) -> np.ndarray:
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != len(labels) or len(labels) == 0:
        msg = f"probabilities has the shape {p.shape}; expected (cells, {len(labels)}), one column for each label."
        raise ValueError(msg)
    # written so that NaN fails as well
    if not ((p >= 0) & (p.sum(axis=1, keepdims=True) <= 1 + 1e-4)).all():
        msg = (
            "probabilities holds a negative or missing value, or a row whose sum is more than 1; expected "
            "probabilities, such as np.exp(log_probabilities)."
        )
        raise ValueError(msg)
    return p


@dataclass(frozen=True)
class _Graph:
    """Where labels can back off to: a node for each label, for each term above one, and for ``unknown``."""

    names: np.ndarray
    ids: np.ndarray
    of_label: np.ndarray
    """Node of each label."""
    parents: np.ndarray
    """Nodes, shape (nodes, most parents), sorted by name and padded with the root."""
    below: csr_matrix
    """Shape (nodes, labels): 1 where a label is at or below a node."""

    @property
    def root(self) -> int:
        return len(self.names) - 1


@lru_cache(maxsize=4)
def _graph(labels: tuple[str, ...]) -> _Graph:
    from scipy.sparse import csr_matrix

    ontology = cell_ontology()
    matches = match_labels(labels)
    terms = [matches[label].term for label in labels]
    above = [lineage_terms(term) if term else set() for term in terms]
    # the user's word for a term, the first by name
    word_for = {term: label for label, term in sorted(zip(labels, terms, strict=True), reverse=True) if term}
    nodes = sorted(set().union(*above))
    names = [*labels, *(word_for.get(term, ontology.names[term]) for term in nodes), UNKNOWN]
    number = {term: len(labels) + i for i, term in enumerate(nodes)}
    node_terms = [*terms, *nodes, None]
    root = len(names) - 1
    parents = [
        sorted((number[p] for p in ontology.parents[term] if p in number), key=lambda i: (names[i], i)) if term else []
        for term in node_terms
    ]
    width = max(1, *map(len, parents))
    below = np.zeros((len(names), len(labels)))
    for j, term in enumerate(terms):
        at_or_above = ontology.ancestors(term) if term else set()
        for i, other in enumerate(node_terms):
            below[i, j] = i == j or other in at_or_above
    return _Graph(
        names=np.array(names, dtype=object),
        ids=np.array([term or "" for term in node_terms], dtype=object),
        of_label=np.arange(len(labels)),
        parents=np.array([nodes_above + [root] * (width - len(nodes_above)) for nodes_above in parents]),
        below=csr_matrix(below),
    )


def _trusted(graph: _Graph, labels: Sequence[str], meanings: Mapping[str, Meaning]) -> tuple[csr_matrix, np.ndarray]:
    """What is below each node, and the trust in each node.

    Below one that is not above what it takes, it is a guess in part.
    """
    from scipy.sparse import csr_matrix

    trust = np.ones(len(graph.names))
    guesses = [(j, meanings[label]) for j, label in enumerate(labels) if label in meanings and meanings[label].is_guess]
    if not guesses:
        return graph.below, trust
    ontology = cell_ontology()
    below = graph.below.toarray()
    for j, meaning in guesses:
        trust[j] = meaning.trust
        terms = [match.term for match in match_labels(meaning.shares).values()]
        common = frozenset.intersection(*(ontology.ancestors(term) for term in terms if term))
        is_guess = np.array([i != j and term not in common for i, term in enumerate(graph.ids)])
        below[is_guess, j] *= meaning.trust
    return csr_matrix(below), trust


def lineage_terms(term: str) -> set[str]:
    """Terms above this one, as far up as they say which lineage (``LINEAGES``).

    Parameters
    ----------
    term
        Id of a Cell Ontology term.

    Returns
    -------
    Ids, without the term itself.
    """
    ontology = cell_ontology()
    return {t for t in ontology.ancestors(term) - {term} if not ontology.ancestors(t).isdisjoint(LINEAGES)}
