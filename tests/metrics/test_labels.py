import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioverse_sc.metrics import (
    accuracy,
    expected_calibration_error,
    macro_f1,
    popv_agreement,
    sctab_accuracy,
    sctab_macro_f1,
)
from bioverse_sc.ontology import cell_ontology

ONTOLOGY_METRICS = [sctab_accuracy, popv_agreement]
LABEL_METRICS = [accuracy, *ONTOLOGY_METRICS]
PAIRS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcde")), min_size=1, max_size=30)


def f1(true, predicted, name):
    both = sum(t == p == name for t, p in zip(true, predicted, strict=True))
    total = true.count(name) + predicted.count(name)
    return 2 * both / total if total else 0.0


def test_accuracy_is_the_share_of_equal_labels():
    assert accuracy(["a", "b", "c", "d"], ["a", "b", "d", "c"]) == 0.5
    assert accuracy(["a"], ["a"]) == 1
    assert accuracy(["B cell"], ["b cell"]) == 0


def test_labels_may_be_of_any_container_and_type():
    true, predicted = ["a", "b", "a"], ["a", "b", "b"]
    for kind in (list, tuple, np.array, pd.Series, pd.Categorical, pd.Index):
        assert accuracy(kind(true), kind(predicted)) == pytest.approx(2 / 3)
    assert accuracy(pd.Series(true, index=[5, 6, 7]), predicted) == pytest.approx(2 / 3)
    assert accuracy(np.array([1, 2, 3]), [1, 2, 4]) == pytest.approx(2 / 3)
    assert macro_f1(np.array([1, 2]), np.array([1, 2]), range(1, 3)) == 1


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA], ids=repr)
def test_a_missing_prediction_is_wrong(missing):
    assert accuracy(["a", "nan", "b"], ["a", missing, missing]) == pytest.approx(1 / 3)
    assert macro_f1(["a", "b"], ["a", missing], ["a", "b"]) == 0.5
    assert sctab_accuracy(["B cell", "T cell"], ["B cell", missing]) == 0.5
    assert popv_agreement(["B cell", "T cell"], ["B cell", missing])["no_match"] == 0.5


def test_inputs_are_left_as_they_are():
    predicted = np.array(["B cell", np.nan], dtype=object)
    accuracy(["B cell", "T cell"], predicted)
    assert math.isnan(predicted[1])


@pytest.mark.parametrize("metric", LABEL_METRICS)
@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        ([], [], "true is empty"),
        (["B cell"], ["B cell", "T cell"], "true has 1 values and predicted has 2"),
        (["B cell", None, float("nan")], ["B cell"] * 3, r"no label for 2 of 3 cells.*pd.notna\(true\)"),
        ([["B cell"], ["T cell"]], ["B cell", "T cell"], r"shape \(2, 1\); expected one dimension"),
        ("B cell", "B cell", "expected one dimension"),
    ],
)
def test_labels_that_cannot_be_compared_are_errors(metric, true, predicted, message):
    with pytest.raises(ValueError, match=message):
        metric(true, predicted)


def test_macro_f1_of_a_worked_example():
    true = ["a", "a", "a", "b", "b", "c"]
    predicted = ["a", "a", "b", "b", "c", "c"]
    # a: precision 1, recall 2/3; b: 1/2 and 1/2; c: 1/2 and 1
    assert macro_f1(true, predicted, ["a", "b", "c"]) == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)


def test_a_class_that_occurs_nowhere_counts_zero():
    assert macro_f1(["a", "b"], ["a", "b"], ["a", "b"]) == 1
    assert macro_f1(["a", "b"], ["a", "b"], ["a", "b", "c", "d"]) == 0.5


def test_a_prediction_outside_of_the_classes_is_wrong_and_no_class_of_its_own():
    # a: precision 1, recall 1/2
    assert macro_f1(["a", "a", "b"], ["a", "unknown", "b"], ["a", "b"]) == pytest.approx((2 / 3 + 1) / 2)


@settings(deadline=None)
@given(PAIRS)
def test_macro_f1_is_the_mean_of_each_class(pairs):
    true, predicted = map(list, zip(*pairs, strict=True))
    assert macro_f1(true, predicted, list("abcd")) == pytest.approx(np.mean([f1(true, predicted, n) for n in "abcd"]))


def test_classes_have_to_be_a_set_that_holds_every_true_label():
    with pytest.raises(ValueError, match="true holds 'b', 'c', which classes does not name"):
        macro_f1(["a", "b", "c", "b"], ["a"] * 4, ["a", "d"])
    with pytest.raises(ValueError, match="classes names 'a' more than once"):
        macro_f1(["a"], ["a"], ["a", "b", "a"])
    with pytest.raises(ValueError, match="classes is empty"):
        macro_f1(["a"], ["a"], [])
    with pytest.raises(ValueError, match="'k4' and 3 more, which classes"):
        macro_f1([f"k{n}" for n in range(8)], ["a"] * 8, ["a"])


@pytest.mark.parametrize(
    ("true", "predicted", "right"),
    [
        ("B cell", "B cell", True),
        # a kind of the true type, several steps down
        ("B cell", "naive B cell", True),
        ("T cell", "CD4-positive, alpha-beta T cell", True),
        ("monocyte", "classical monocyte", True),
        # coarser than the author
        ("naive B cell", "B cell", False),
        ("CD4-positive, alpha-beta T cell", "T cell", False),
        # beside it
        ("naive B cell", "memory B cell", False),
        ("B cell", "hepatocyte", False),
        # no cell type at all
        ("B cell", "unknown", False),
        ("B cell", "", False),
        ("B cell", "a cell of no name", False),
        # ids, another case, a plural
        ("CL:0000236", "CL:0000788", True),
        ("b cells", "CL:0000236", True),
    ],
)
def test_the_rule_of_sctab(true, predicted, right):
    assert sctab_accuracy([true], [predicted]) == right


def test_sctab_accuracy_is_a_share_of_cells():
    assert sctab_accuracy(["B cell"] * 3 + ["T cell"], ["naive B cell", "B cell", "lymphocyte", "T cell"]) == 0.75


def test_sctab_macro_f1_reads_a_kind_of_the_true_type_as_the_true_type():
    true = ["B cell", "B cell", "T cell", "naive B cell"]
    predicted = ["naive B cell", "B cells", "unknown", "B cell"]
    # B cell: 2 right, 1 that is a naive B cell; T cell: none; naive B cell: none, and the first is no false positive
    assert sctab_macro_f1(true, predicted, ["B cell", "T cell", "CL:0000788"]) == pytest.approx((4 / 5 + 0 + 0) / 3)
    # without the rule, the first is wrong as well
    assert macro_f1(true, predicted, ["B cell", "T cell", "naive B cell"]) == 0


def test_sctab_macro_f1_without_nested_classes_is_macro_f1():
    names = ["B cell", "T cell", "hepatocyte", "monocyte"]
    rng = np.random.default_rng(0)
    true, predicted = rng.choice(names, 50), rng.choice([*names, "unknown"], 50)
    assert sctab_macro_f1(true, predicted, names) == pytest.approx(macro_f1(true, predicted, names))


def test_classes_of_sctab_macro_f1_are_terms():
    with pytest.raises(ValueError, match="classes holds 'blob', 'blub', which the Cell Ontology does not know"):
        sctab_macro_f1(["B cell"], ["B cell"], ["B cell", "blob", "blub"])
    with pytest.raises(ValueError, match="classes names 'B cell' more than once"):
        sctab_macro_f1(["B cell"], ["B cell"], ["B cell", "CL:0000236"])
    with pytest.raises(ValueError, match="true holds 'T cell', which classes does not name"):
        sctab_macro_f1(["B cell", "CL:0000084"], ["B cell", "T cell"], ["B cell"])


@pytest.mark.parametrize(
    ("true", "predicted", "relation"),
    [
        ("naive B cell", "naive B cell", "exact"),
        ("naive B cell", "CL:0000788", "exact"),
        # both are mature B cells
        ("naive B cell", "memory B cell", "sibling"),
        ("CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell", "sibling"),
        ("naive B cell", "mature B cell", "parent"),
        ("classical monocyte", "monocyte", "parent"),
        ("mature B cell", "naive B cell", "child"),
        ("T cell", "alpha-beta T cell", "child"),
        # two steps and more are no match
        ("naive B cell", "B cell", "no_match"),
        ("B cell", "naive B cell", "no_match"),
        ("naive B cell", "hepatocyte", "no_match"),
        ("naive B cell", "unknown", "no_match"),
        ("naive B cell", "", "no_match"),
    ],
)
def test_the_relations_of_popv(true, predicted, relation):
    found = popv_agreement([true], [predicted])
    assert list(found) == ["exact", "sibling", "parent", "child", "no_match"]
    assert found[relation] == 1
    assert sum(found.values()) == 1


def test_popv_agreement_is_in_shares_of_cells():
    true = ["naive B cell"] * 4
    found = popv_agreement(true, ["naive B cell", "memory B cell", "memory B cell", "unknown"])
    assert found == {"exact": 0.25, "sibling": 0.5, "parent": 0.0, "child": 0.0, "no_match": 0.25}


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from(sorted(cell_ontology().names))] * 2), min_size=1, max_size=20))
def test_both_rules_agree_with_a_walk_through_the_graph(pairs):
    ontology = cell_ontology()

    def reached(term):
        found, edge = set(), [term]
        while edge:
            found.add(term := edge.pop())
            edge += ontology.parents[term]
        return found

    # beside the random pairs, which are seldom related, every one of their ancestors
    pairs = [*pairs, *((true, term) for true, _ in pairs for term in reached(true))]
    pairs += [(b, a) for a, b in pairs]
    true, predicted = zip(*pairs, strict=True)
    assert sctab_accuracy(true, predicted) == pytest.approx(np.mean([t in reached(p) for t, p in pairs]))
    found = popv_agreement(true, predicted)
    assert sum(found.values()) == pytest.approx(1)
    assert found["exact"] == pytest.approx(np.mean([t == p for t, p in pairs]))
    assert found["exact"] == pytest.approx(accuracy(true, predicted))
    # the pairs are symmetric
    assert found["parent"] == pytest.approx(found["child"])
    assert found["parent"] == pytest.approx(np.mean([p in ontology.parents[t] for t, p in pairs]))


@pytest.mark.parametrize("metric", ONTOLOGY_METRICS)
def test_a_true_label_that_is_no_term_is_named(metric):
    with pytest.raises(ValueError, match="true holds 'blob', 'unknown', which the Cell Ontology does not know"):
        metric(["B cell", "unknown", "blob", "blob"], ["B cell"] * 4)


def naive_calibration_error(confidence, correct, n_bins):
    total = 0.0
    for m in range(1, n_bins + 1):
        inside = [i for i, c in enumerate(confidence) if (m - 1) / n_bins < c <= m / n_bins or (m == 1 and c == 0)]
        if inside:
            gap = np.mean([correct[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            total += len(inside) / len(confidence) * abs(gap)
    return total


def test_calibration_of_a_worked_example():
    confidence, correct = [0.9, 0.8, 0.3, 0.1], [True, False, False, False]
    # two bins: |1/2 - 0.85| and |0 - 0.2|, half of the cells in each
    assert expected_calibration_error(confidence, correct, n_bins=2) == pytest.approx(0.5 * 0.35 + 0.5 * 0.2)
    # one bin: |1/4 - 2.1/4|
    assert expected_calibration_error(confidence, correct, n_bins=1) == pytest.approx(1.1 / 4)


def test_calibration_is_nought_when_confidence_is_accuracy_and_one_when_it_is_the_contrary():
    assert expected_calibration_error(np.full(10, 0.7), [1] * 7 + [0] * 3) == pytest.approx(0)
    assert expected_calibration_error([1.0, 0.0], [True, False]) == 0
    assert expected_calibration_error([1.0, 0.0], [False, True]) == 1


def test_the_upper_edge_belongs_to_a_bin():
    # 0.5 with 0.3, not with 0.7: |1/2 - 0.4| * 2/3 + |1 - 0.7| * 1/3
    assert expected_calibration_error([0.3, 0.5, 0.7], [0, 1, 1], n_bins=2) == pytest.approx(0.2 / 3 + 0.1)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1000).map(lambda n: n / 1000), st.booleans()), min_size=1, max_size=40),
    # edges that are the same floats however they are computed
    st.sampled_from([1, 2, 4, 8, 16]),
)
def test_calibration_error_is_the_sum_over_bins(cells, n_bins):
    confidence, correct = zip(*cells, strict=True)
    found = expected_calibration_error(confidence, correct, n_bins)
    assert found == pytest.approx(naive_calibration_error(confidence, correct, n_bins), abs=1e-12)
    assert 0 <= found <= 1


@pytest.mark.parametrize(
    ("confidence", "correct", "n_bins", "message"),
    [
        ([], [], 15, "confidence is empty"),
        ([0.5], [1, 0], 15, "confidence has 1 values and correct has 2"),
        ([0.5, 1.2], [1, 0], 15, "from 0.5 to 1.2; expected probabilities"),
        ([-0.1], [1], 15, "expected probabilities"),
        ([float("nan")], [1], 15, "expected probabilities"),
        ([0.5], [2], 15, "something other than 0 and 1"),
        ([0.5], [float("nan")], 15, "something other than 0 and 1"),
        ([0.5], [1], 0, "n_bins is 0"),
    ],
)
def test_what_is_no_confidence_is_an_error(confidence, correct, n_bins, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(confidence, correct, n_bins)


def test_every_number_is_a_plain_float():
    true, predicted = np.array(["B cell", "T cell"]), np.array(["B cell", "B cell"])
    numbers = [
        accuracy(true, predicted),
        macro_f1(true, predicted, true),
        sctab_accuracy(true, predicted),
        sctab_macro_f1(true, predicted, true),
        *popv_agreement(true, predicted).values(),
        expected_calibration_error(np.array([0.5, 0.5], dtype=np.float32), true == predicted),
    ]
    assert {type(number) for number in numbers} == {float}
