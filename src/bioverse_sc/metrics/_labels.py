"""Predicted labels beside the true ones, also by the Cell Ontology, and calibration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bioverse_sc.ontology import cell_ontology

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from bioverse_sc.ontology import CellOntology

Labels = Sequence[object] | np.ndarray | pd.Series


def accuracy(true: Labels, predicted: Labels) -> float:
    """Share of the cells whose predicted label is the true one, as it is written.

    Parameters
    ----------
    true
        Labels, shape (cells,).
    predicted
        Labels, shape (cells,). A missing one (None, NaN) is wrong.

    Raises
    ------
    ValueError
        When there are no cells, when the lengths differ, or when a true label is missing.
    """
    true, predicted = _paired(true, predicted)
    return float(np.mean(true == predicted))


def macro_f1(true: Labels, predicted: Labels, classes: Labels) -> float:
    """Mean over a fixed set of classes of each class's F1.

    Every class counts the same, however many cells it has. The classes are named rather than taken from the labels, so
    that data sets and models are averaged over the same ones: a class that occurs nowhere counts 0.

    Parameters
    ----------
    true
        Labels, shape (cells,), all of them among ``classes``.
    predicted
        Labels, shape (cells,). One that is missing or not among ``classes`` is wrong, and lowers no other class's
        precision.
    classes
        The labels to average over, shape (classes,).

    Raises
    ------
    ValueError
        When there are no cells or classes, when lengths differ, when a true label is missing or not among the classes,
        or when a class is named twice.
    """
    from sklearn.metrics import f1_score

    true, predicted = _paired(true, predicted)
    names = _vector(classes, "classes")
    code = {name: number for number, name in enumerate(names)}
    if len(code) < len(names):
        repeated = [name for name, n in Counter(names).items() if n > 1]
        msg = f"classes names {_some(repeated)} more than once. Remove the repeats: list(dict.fromkeys(classes))"
        raise ValueError(msg)
    if outside := [label for label in dict.fromkeys(true) if label not in code]:
        msg = (
            f"true holds {_some(outside)}, which classes does not name. Add them to classes, or leave these cells out: "
            "keep = np.isin(true, classes)"
        )
        raise ValueError(msg)
    # as numbers, labels may be of any type, and all that is no class is one number that is not averaged over
    scores = f1_score(
        [code[label] for label in true],
        [code.get(label, -1) for label in predicted],
        labels=range(len(names)),
        average="macro",
        zero_division=0,
    )
    return float(scores)


def sctab_accuracy(true: Labels, predicted: Labels) -> float:
    """Share of right predictions when a kind of the true cell type is right too.

    Data sets are annotated in different depth. A prediction is right when it is the true type or, at any depth, a kind
    of it: it agrees with the author as far as the author went. A type that the true one is a kind of is wrong, as the
    author was more exact; so is anything else.

    Source: Fischer et al., scTab, Nat. Commun. 15, 6611 (2024), and ``docs/classification-evaluation-metrics.md`` of
    its code. There the rule precedes a macro F1, see :func:`sctab_macro_f1`.

    Parameters
    ----------
    true
        Names, exact synonyms or ids of the Cell Ontology, shape (cells,).
    predicted
        The same, shape (cells,). What the ontology does not know, such as ``"unknown"`` or ``""``, is wrong.

    Raises
    ------
    ValueError
        When there are no cells, when the lengths differ, or when a true label is missing or not in the ontology.
    """
    ontology = cell_ontology()
    pairs = Counter(_terms(true, predicted, ontology))
    return sum(n for (t, p), n in pairs.items() if p and t in ontology.ancestors(p)) / pairs.total()


def sctab_macro_f1(true: Labels, predicted: Labels, classes: Labels) -> float:
    """Macro F1 after predictions of a kind of the true cell type are read as the true type.

    This is the number that scTab reports: first the rule of :func:`sctab_accuracy`, then :func:`macro_f1`.

    Source: Fischer et al., scTab, Nat. Commun. 15, 6611 (2024), and ``correct_labels`` in its code.

    Parameters
    ----------
    true
        Names, exact synonyms or ids of the Cell Ontology, shape (cells,), all of them among ``classes``.
    predicted
        The same, shape (cells,). What the ontology does not know is wrong.
    classes
        The labels to average over, shape (classes,).

    Raises
    ------
    ValueError
        When there are no cells or classes, when lengths differ, when a true label or a class is missing or not in the
        ontology, when a true label is not among the classes, or when a class is named twice.
    """
    ontology = cell_ontology()
    # names rather than ids, so that the errors of macro_f1 can be read
    names = ontology.names
    true_names, read_as = [], []
    for t, p in _terms(true, predicted, ontology):
        true_names.append(names[t])
        read_as.append(names[t] if p and t in ontology.ancestors(p) else names.get(p or ""))
    return macro_f1(true_names, read_as, [names[c] for c in _known(_vector(classes, "classes"), "classes", ontology)])


def popv_agreement(true: Labels, predicted: Labels) -> dict[str, float]:
    """Shares of predictions by how near they are to the true cell type in the Cell Ontology.

    ``exact``: the true type. ``sibling``: another type that shares a parent with it. ``parent``: a parent of the true
    type, one step too coarse. ``child``: a child of it, one step too fine. ``no_match``: anything else, two steps up or
    down as well. Parents are direct ``is_a`` relations, and the first that holds in this order counts.

    Source: Ergen et al., popV, Nat. Genet. 56, 2731 (2024), as in ``_ontology_accuracy`` of its code
    (``popv/reproducibility/_accuracy.py``).

    Parameters
    ----------
    true
        Names, exact synonyms or ids of the Cell Ontology, shape (cells,).
    predicted
        The same, shape (cells,). What the ontology does not know, such as ``"unknown"`` or ``""``, is no match.

    Returns
    -------
    Share of the cells in each of the five; they sum to 1.

    Raises
    ------
    ValueError
        When there are no cells, when the lengths differ, or when a true label is missing or not in the ontology.
    """
    ontology = cell_ontology()
    pairs = Counter(_terms(true, predicted, ontology))
    counts = dict.fromkeys(("exact", "sibling", "parent", "child", "no_match"), 0)
    for (t, p), n in pairs.items():
        counts[_relation(t, p, ontology)] += n
    return {relation: n / pairs.total() for relation, n in counts.items()}


def _relation(true: str, predicted: str | None, ontology: CellOntology) -> str:
    """Name what a prediction is to the true term."""
    if predicted is None:
        return "no_match"
    if predicted == true:
        return "exact"
    parents, parents_of_predicted = ontology.parents[true], ontology.parents[predicted]
    if not set(parents).isdisjoint(parents_of_predicted):
        return "sibling"
    if predicted in parents:
        return "parent"
    return "child" if true in parents_of_predicted else "no_match"


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15) -> float:
    """How far confidence is from accuracy, 0 to 1; 0 when they agree.

    Predictions are sorted into bins of equal width, which include their upper edge; the distance between mean
    confidence and accuracy in a bin is weighted by the share of the predictions that fall into it.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017, equation 3.

    Parameters
    ----------
    confidence
        Probability of each predicted label, 0 to 1, shape (cells,).
    correct
        Whether the label is right, bool or 0 and 1, shape (cells,).
    n_bins
        Bins of equal width between 0 and 1, with their upper edge.

    Raises
    ------
    ValueError
        When there are no cells, when lengths differ, or when a value is out of its range.
    """
    confidence = _vector(confidence, "confidence").astype(np.float64)
    correct = _vector(correct, "correct").astype(np.float64)
    _check_lengths(confidence, correct, "confidence", "correct")
    if n_bins < 1:
        msg = f"n_bins is {n_bins}; expected at least 1."
        raise ValueError(msg)
    # written so that NaN fails as well
    if not ((confidence >= 0) & (confidence <= 1)).all():
        msg = (
            f"confidence runs from {confidence.min():g} to {confidence.max():g}; expected probabilities from 0 to 1, "
            "such as np.exp(log_probability)."
        )
        raise ValueError(msg)
    if not np.isin(correct, (0, 1)).all():
        msg = (
            "correct holds something other than 0 and 1; expected whether each label is right: correct = true == "
            "predicted"
        )
        raise ValueError(msg)
    bins = np.digitize(confidence, np.linspace(0, 1, n_bins + 1)[1:-1], right=True)
    # per bin, n * |accuracy - confidence| is the distance of the two sums
    difference = np.bincount(bins, weights=correct - confidence, minlength=n_bins)
    return float(np.abs(difference).sum() / len(confidence))


def _vector(values: Any, name: str) -> np.ndarray:
    """One dimension, not empty; of objects, so that a missing label does not become the word 'nan'."""
    array = np.asarray(values, dtype=object)
    if array.ndim != 1:
        msg = f"{name} has the shape {array.shape}; expected one dimension, such as adata.obs['cell_type']."
        raise ValueError(msg)
    if len(array) == 0:
        msg = f"{name} is empty; expected at least one value."
        raise ValueError(msg)
    return array


def _check_lengths(one: np.ndarray, two: np.ndarray, name_of_one: str, name_of_two: str) -> None:
    if len(one) != len(two):
        msg = f"{name_of_one} has {len(one)} values and {name_of_two} has {len(two)}; expected one of each per cell."
        raise ValueError(msg)


def _paired(true: Labels, predicted: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Labels as two arrays of the same length; a missing prediction is None."""
    true, predicted = _vector(true, "true"), _vector(predicted, "predicted").copy()
    _check_lengths(true, predicted, "true", "predicted")
    if missing := int(pd.isna(true).sum()):
        msg = f"true has no label for {missing} of {len(true)} cells. Leave them out: keep = pd.notna(true)"
        raise ValueError(msg)
    predicted[pd.isna(predicted)] = None
    return true, predicted


def _terms(true: Labels, predicted: Labels, ontology: CellOntology) -> list[tuple[str, str | None]]:
    """Ids of each cell's true and predicted term; a prediction that the ontology does not know is None."""
    true, predicted = _paired(true, predicted)
    terms = _find(predicted, ontology)
    return list(zip(_known(true, "true", ontology), (terms[label] for label in predicted), strict=True))


def _known(labels: np.ndarray, name: str, ontology: CellOntology) -> list[str]:
    """Ids of labels that the ontology has to know."""
    terms = _find(labels, ontology)
    if unknown := [label for label, term in terms.items() if term is None]:
        msg = (
            f"{name} holds {_some(unknown)}, which the Cell Ontology does not know. Expected its names or ids, such as "
            "'naive B cell' or 'CL:0000788'; rename these, or leave them out."
        )
        raise ValueError(msg)
    return [term for label in labels if (term := terms[label])]


def _find(labels: np.ndarray, ontology: CellOntology) -> dict[object, str | None]:
    """Labels and their ids, each label once."""
    texts = {label: label if isinstance(label, str) else "" for label in labels}
    return {label: ontology.find(text) for label, text in texts.items()}


def _some(labels: Sequence[object]) -> str:
    """The first five labels, in words."""
    names = sorted(map(repr, labels))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
