import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from bioverse_sc.metrics import (
    apply_calibration,
    expected_calibration_error,
    fit_isotonic,
    fit_temperature,
    reliability_table,
)

CELLS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=200)


def overconfident(n, *, seed, times=3.0):
    """Log-probabilities that are ``times`` too sharp, and the true labels, drawn from the blunt ones."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, 6)) * 1.5
    p = np.exp(log_softmax(scores, axis=1))
    truth = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=5)
    return log_softmax(scores * times, axis=1), truth


def confidence_of(log_p, truth, *, temperature=1.0):
    p = np.exp(log_softmax(log_p / temperature, axis=1))
    return p.max(axis=1).clip(max=1), p.argmax(axis=1) == truth


def test_a_table_counts_and_averages_each_bin():
    table = reliability_table([0.1, 0.2, 0.5, 0.9, 1.0], [0, 1, 1, 1, 1], n_bins=4)
    expected = pd.DataFrame(
        {
            "lower": [0, 0.25, 0.5, 0.75],
            "upper": [0.25, 0.5, 0.75, 1],
            "n_cells": [2, 1, 0, 2],
            "confidence": [0.15, 0.5, np.nan, 0.95],
            "accuracy": [0.5, 1, np.nan, 1],
        }
    )
    pd.testing.assert_frame_equal(table, expected)


@settings(deadline=None)
@given(CELLS, st.integers(1, 20))
def test_the_table_adds_up_to_the_calibration_error(cells, n_bins):
    confidence, correct = zip(*cells, strict=True)
    table = reliability_table(confidence, correct, n_bins=n_bins)
    assert table["n_cells"].sum() == len(cells)
    full = table[table["n_cells"] > 0]
    assert full["confidence"].between(full["lower"] - 1e-12, full["upper"] + 1e-12).all()
    error = ((full["confidence"] - full["accuracy"]).abs() * full["n_cells"]).sum() / len(cells)
    assert error == pytest.approx(expected_calibration_error(confidence, correct, n_bins), abs=1e-12)


@pytest.mark.parametrize("times", [0.5, 1.0, 3.0])
def test_temperature_undoes_what_made_a_model_too_certain_or_not_certain_enough(times):
    log_p, truth = overconfident(20_000, seed=0, times=times)
    assert fit_temperature(log_p, truth) == pytest.approx(times, rel=0.05)


def test_temperature_makes_confidence_true_on_other_cells():
    temperature = fit_temperature(*overconfident(5_000, seed=0))
    log_p, truth = overconfident(5_000, seed=1)
    before = expected_calibration_error(*confidence_of(log_p, truth))
    after = expected_calibration_error(*confidence_of(log_p, truth, temperature=temperature))
    assert before > 0.15
    assert after < 0.03


def test_temperature_is_the_minimum_of_the_loss():
    log_p, truth = overconfident(500, seed=2)

    def loss(temperature):
        return -log_softmax(log_p / temperature, axis=1)[np.arange(len(truth)), truth].mean()

    found = fit_temperature(log_p, truth)
    assert all(loss(found) <= loss(found * factor) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2))


def test_temperature_does_not_depend_on_a_constant_nor_on_the_order_of_cells():
    log_p, truth = overconfident(300, seed=3)
    order = np.random.default_rng(0).permutation(300)
    found = fit_temperature(log_p, truth)
    assert fit_temperature(log_p + 7, truth) == pytest.approx(found, rel=1e-4)
    assert fit_temperature(log_p[order], truth[order]) == pytest.approx(found, rel=1e-4)


def test_temperature_stays_within_bounds_where_there_is_no_minimum():
    log_p = np.log([[0.9, 0.1], [0.8, 0.2]])
    # so sharp that the loss is 0 to the last digit
    assert 0.01 <= fit_temperature(log_p, [0, 0]) < 0.1
    assert fit_temperature(log_p, [1, 1]) == pytest.approx(100, rel=0.01)


def test_isotonic_calibration_makes_confidence_true_on_other_cells():
    x, y = fit_isotonic(*confidence_of(*overconfident(5_000, seed=0)))
    confidence, correct = confidence_of(*overconfident(5_000, seed=1))
    assert expected_calibration_error(confidence, correct) > 0.15
    assert expected_calibration_error(apply_calibration(confidence, x, y), correct) < 0.03


def test_what_is_calibrated_stays_so():
    rng = np.random.default_rng(0)
    confidence = rng.random(20_000)
    x, y = fit_isotonic(confidence, rng.random(20_000) < confidence)
    grid = np.linspace(0.02, 0.98, 50)
    np.testing.assert_allclose(apply_calibration(grid, x, y), grid, atol=0.05)


@settings(deadline=None)
@given(CELLS)
def test_the_curve_is_short_rises_and_fits_into_json(cells):
    confidence, correct = map(np.array, zip(*cells, strict=True))
    x, y = fit_isotonic(confidence, correct)
    assert len(x) == len(y) <= 50
    assert json.loads(json.dumps([x, y])) == [x, y]
    grid = np.linspace(0, 1, 101)
    calibrated = apply_calibration(grid, x, y)
    assert (np.diff(calibrated) >= 0).all()
    assert calibrated.min() >= 0
    assert calibrated.max() <= 1


@settings(deadline=None)
@given(CELLS, st.randoms(use_true_random=False))
def test_the_curve_does_not_depend_on_the_order_of_cells(cells, random):
    shuffled = random.sample(cells, len(cells))
    one, two = (fit_isotonic(*map(np.array, zip(*order, strict=True))) for order in (cells, shuffled))
    np.testing.assert_allclose(one, two, rtol=1e-12)


def test_the_ends_of_the_curve_are_no_single_cells():
    confidence = np.linspace(0, 1, 1000)
    correct = np.arange(1000) % 2 == 0
    correct[-3:], correct[:3] = True, False
    y = fit_isotonic(confidence, correct)[1]
    assert y[0] > 0.3
    assert y[-1] < 0.7


def test_few_cells_are_one_level():
    x, y = fit_isotonic([0.2, 0.9, 0.7], [0, 1, 0])
    assert y == [pytest.approx(1 / 3)]
    assert apply_calibration([0.0, 1.0], x, y).tolist() == pytest.approx([1 / 3, 1 / 3])


def test_the_curve_is_straight_between_points_and_level_beyond_them():
    calibrated = apply_calibration([[0.0, 0.2], [0.4, 1.0]], [0.2, 0.6], [0.1, 0.5])
    np.testing.assert_allclose(calibrated, [[0.1, 0.1], [0.3, 0.5]])


@pytest.mark.parametrize("function", [reliability_table, fit_isotonic])
@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([], [], "is empty"),
        ([0.5], [0, 1], "1 values and correct has 2"),
        ([1.5], [1], "expected probabilities from 0 to 1"),
        ([float("nan")], [1], "expected probabilities from 0 to 1"),
        ([0.5], [0.5], "correct = true == predicted"),
    ],
)
def test_confidence_that_cannot_be_checked_is_an_error(function, confidence, correct, message):
    with pytest.raises(ValueError, match=message):
        function(confidence, correct)


def test_a_table_needs_bins():
    with pytest.raises(ValueError, match="n_bins is 0"):
        reliability_table([0.5], [1], n_bins=0)


@pytest.mark.parametrize(
    ("log_p", "truth", "message"),
    [
        (np.zeros((0, 2)), [], r"shape \(0, 2\)"),
        (np.zeros((2, 1)), [0, 0], r"shape \(2, 1\)"),
        ([[0.0, -np.inf]], [0], "not finite"),
        (np.zeros((2, 2)), [0], r"truth has the shape \(1,\)"),
        (np.zeros((2, 2)), [0.0, 1.0], "expected 2 whole numbers"),
        (np.zeros((2, 2)), [0, 2], "truth runs from 0 to 2; expected columns from 0 to 1"),
        (np.zeros((2, 2)), [-1, 0], "truth runs from -1 to 0"),
    ],
)
def test_log_probabilities_that_cannot_be_fitted_are_an_error(log_p, truth, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(log_p, truth)


@pytest.mark.parametrize(
    ("confidence", "x", "y", "message"),
    [
        ([0.5], [], [], "expected two lists of the same length"),
        ([0.5], [0.1, 0.2], [0.1], "expected two lists of the same length"),
        ([0.5], [0.2, 0.1], [0.1, 0.2], "no calibration curve"),
        ([0.5], [0.1, 0.2], [0.2, 0.1], "no calibration curve"),
        ([0.5], [0.1, 0.2], [0.1, 1.2], "no calibration curve"),
        ([0.5], [0.1, float("nan")], [0.1, 0.2], "no calibration curve"),
        ([1.5], [0.1, 0.2], [0.1, 0.2], "outside of 0 to 1"),
        ([float("nan")], [0.1, 0.2], [0.1, 0.2], "outside of 0 to 1"),
    ],
)
def test_what_is_no_curve_is_an_error(confidence, x, y, message):
    with pytest.raises(ValueError, match=message):
        apply_calibration(confidence, x, y)
