"""Confidence that says how often a label is right: tables of it, and two ways to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bioverse_sc.metrics._labels import expected_calibration_error

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

STEPS = 50
"""Most points of an isotonic calibration."""
CELLS_PER_STEP = 20
"""Fewest cells that one is the mean of: with less, the most confident step says 0 or 1."""
TEMPERATURES = (0.01, 100.0)


def reliability_table(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15) -> pd.DataFrame:
    """Confidence and accuracy by bins of confidence, for a plot.

    The bins are those of :func:`expected_calibration_error`, which is the mean distance of the two columns, weighted by
    ``n_cells``.

    Parameters
    ----------
    confidence
        Probability of each predicted label, 0 to 1, shape (cells,).
    correct
        Whether the label is right, bool or 0 and 1, shape (cells,).
    n_bins
        Bins of equal width between 0 and 1, with their upper edge.

    Returns
    -------
    A row for each bin with the columns ``lower``, ``upper``, ``n_cells``, ``confidence`` and ``accuracy``; the last two
    are NaN in an empty bin.

    Raises
    ------
    ValueError
        When there are no cells, when lengths differ, or when a value is out of its range.
    """
    confidence, correct = _checked(confidence, correct, n_bins)
    edges = np.linspace(0, 1, n_bins + 1)
    bins = np.digitize(confidence, edges[1:-1], right=True)
    n = np.bincount(bins, minlength=n_bins)
    sums = [np.bincount(bins, weights=values, minlength=n_bins) for values in (confidence, correct)]
    means = [np.divide(total, n, out=np.full(n_bins, np.nan), where=n > 0) for total in sums]
    return pd.DataFrame(
        {"lower": edges[:-1], "upper": edges[1:], "n_cells": n, "confidence": means[0], "accuracy": means[1]}
    )


def fit_temperature(log_probabilities: ArrayLike, truth: ArrayLike) -> float:
    """Temperature that makes the true labels likeliest.

    Log-probabilities divided by it and normalised again are the calibrated ones: more than 1 makes a model less
    certain. It does not change which label is the best. The mean negative log-likelihood is minimised between 0.01 and
    100.

    Source: Guo et al., On calibration of modern neural networks, ICML 2017, section 4.2.

    Parameters
    ----------
    log_probabilities
        Of each label, or scores that they are up to a constant for each cell; shape (cells, labels), finite.
    truth
        Column of the true label of each cell, shape (cells,).

    Raises
    ------
    ValueError
        When there are no cells, fewer than two labels, when lengths differ, or when a value is out of its range.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    scores = np.asarray(log_probabilities, dtype=np.float64)
    columns = np.asarray(truth)
    if scores.ndim != 2 or scores.shape[0] == 0 or scores.shape[1] < 2:
        msg = (
            f"log_probabilities has the shape {scores.shape}; expected (cells, labels) with a cell and two labels at "
            "least."
        )
        raise ValueError(msg)
    if not np.isfinite(scores).all():
        msg = "log_probabilities holds values that are not finite; leave out the labels or cells that they belong to."
        raise ValueError(msg)
    if columns.shape != scores.shape[:1] or columns.dtype.kind not in "iu":
        msg = (
            f"truth has the shape {columns.shape} and the type {columns.dtype}; expected {len(scores)} whole numbers, "
            "one for each cell."
        )
        raise ValueError(msg)
    if columns.min() < 0 or columns.max() >= scores.shape[1]:
        msg = f"truth runs from {columns.min()} to {columns.max()}; expected columns from 0 to {scores.shape[1] - 1}."
        raise ValueError(msg)
    true = scores[np.arange(len(scores)), columns]

    def loss(log_temperature: float) -> float:
        temperature = np.exp(log_temperature)
        return float(np.mean(logsumexp(scores / temperature, axis=1) - true / temperature))

    # convex in 1 / temperature, so there is one minimum
    best = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))


def fit_isotonic(confidence: ArrayLike, correct: ArrayLike) -> tuple[list[float], list[float]]:
    """Curve from confidence to how often labels of this confidence are right, which never falls.

    Cells are gathered by confidence, at most fifty groups of at least twenty cells each, before the regression: so the
    curve is short, and its ends are no single cells.

    Source: Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability estimates, KDD 2002;
    :class:`sklearn.isotonic.IsotonicRegression`.

    Parameters
    ----------
    confidence
        Probability of each predicted label, 0 to 1, shape (cells,).
    correct
        Whether the label is right, bool or 0 and 1, shape (cells,).

    Returns
    -------
    ``x`` and ``y`` for :func:`apply_calibration`, as lists of numbers that JSON can hold.

    Raises
    ------
    ValueError
        When there are no cells, when lengths differ, or when a value is out of its range.
    """
    from sklearn.isotonic import IsotonicRegression

    confidence, correct = _checked(confidence, correct)
    # a group has all cells of a value, so that the order of the cells does not matter
    values, first, inverse = np.unique(np.sort(confidence), return_index=True, return_inverse=True)
    correct_of_value = np.bincount(np.searchsorted(values, confidence), weights=correct)
    cells_of_value = np.bincount(inverse)
    n_groups = min(STEPS, max(1, len(confidence) // CELLS_PER_STEP))
    group = np.unique(first * n_groups // len(confidence), return_inverse=True)[1]
    n = np.bincount(group, weights=cells_of_value)
    x = np.bincount(group, weights=values * cells_of_value) / n
    y = np.bincount(group, weights=correct_of_value) / n
    fitted = IsotonicRegression(y_min=0, y_max=1).fit(x, y, sample_weight=n)
    return fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist()


def apply_calibration(confidence: ArrayLike, x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Calibrated confidence, by a curve such as :func:`bioverse_sc.metrics.fit_isotonic` finds.

    Between the points the curve is straight, beyond them it is level. It never falls, so the order of cells by their
    confidence stays but for ties.

    Parameters
    ----------
    confidence
        Probabilities, 0 to 1, any shape.
    x
        Confidence at the points, rising.
    y
        Calibrated confidence there, 0 to 1, nowhere falling.

    Raises
    ------
    ValueError
        When ``x`` and ``y`` are no such curve, or when a confidence is out of its range.
    """
    values, x, y = (np.asarray(array, dtype=np.float64) for array in (confidence, x, y))
    if x.ndim != 1 or x.shape != y.shape or x.size == 0:
        msg = (
            f"x and y have the shapes {x.shape} and {y.shape}; expected two lists of the same length, such as "
            "fit_isotonic gives."
        )
        raise ValueError(msg)
    if not ((np.diff(x) > 0).all() and (np.diff(y) >= 0).all() and y[0] >= 0 and y[-1] <= 1):
        msg = "x and y are no calibration curve; expected x to rise, and y to lie between 0 and 1 and nowhere to fall."
        raise ValueError(msg)
    if not ((values >= 0) & (values <= 1)).all():
        msg = "confidence holds values outside of 0 to 1; expected probabilities, such as np.exp(log_probability)."
        raise ValueError(msg)
    return np.interp(values, x, y)


def _checked(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15) -> tuple[np.ndarray, np.ndarray]:
    # the checks and their messages are those of the error that the tables and curves are about
    expected_calibration_error(confidence, correct, n_bins)
    return np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
