import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioverse_sc.ontology import LINEAGES, UNKNOWN, back_off, cell_ontology, match_labels, runner_up

BLOOD = [
    "memory B cell",
    "naive B cell",
    "plasma cell",
    "CD14-positive monocyte",
    "non-classical monocyte",
    "my cluster",
]


def test_a_certain_label_stays_and_an_uncertain_one_goes_up():
    p = [
        [0.9, 0.05, 0, 0, 0, 0.05],
        [0.4, 0.35, 0.1, 0.1, 0, 0.05],
        [0.3, 0.1, 0.2, 0.25, 0.15, 0],
        [0, 0, 0, 0.45, 0.4, 0.15],
    ]
    names, ids, confidence = back_off(p, BLOOD, 0.7)
    assert names.tolist() == ["memory B cell", "mature B cell", "mononuclear cell", "monocyte"]
    assert ids.tolist() == [cell_ontology().find(name) for name in names]
    assert confidence == pytest.approx([0.9, 0.75, 1.0, 0.85])


@pytest.mark.parametrize("threshold", [None, 0, 0.0])
def test_without_a_threshold_it_is_the_best_label(threshold):
    p = np.random.default_rng(0).dirichlet(np.ones(len(BLOOD)), size=50)
    names, ids, confidence = back_off(p, BLOOD, threshold)
    assert names.tolist() == [BLOOD[i] for i in p.argmax(axis=1)]
    assert ids.tolist() == [cell_ontology().find(name) or "" for name in names]
    np.testing.assert_allclose(confidence, p.max(axis=1))


def test_what_groups_cells_across_lineages_is_unknown():
    labels = ["neutrophil", "hepatocyte", "sperm"]
    names, ids, confidence = back_off([[0.4, 0.3, 0.3]], labels, 0.9)
    assert (names.tolist(), ids.tolist(), confidence.tolist()) == ([UNKNOWN], [""], [0.0])


def test_a_label_without_a_term_has_no_parents():
    p = [[0.1, 0.1, 0, 0, 0, 0.8], [0.2, 0.2, 0, 0, 0, 0.6]]
    names, ids, confidence = back_off(p, BLOOD, 0.7)
    assert (names.tolist(), ids.tolist(), confidence.tolist()) == (["my cluster", UNKNOWN], ["", ""], [0.8, 0.0])


def test_a_cell_without_probabilities_is_unknown():
    for threshold in (None, 0.5):
        names, ids, confidence = back_off(np.zeros((1, len(BLOOD))), BLOOD, threshold)
        assert (names.tolist(), ids.tolist(), confidence.tolist()) == ([UNKNOWN], [""], [0.0])


def test_a_term_goes_by_the_users_word_and_holds_what_is_below_it():
    labels = ["CD4 T", "CD8 T", "T cells", "NK"]
    names, ids, confidence = back_off([[0.4, 0.2, 0.3, 0.1], [0.1, 0.2, 0.6, 0.1]], labels, 0.8)
    assert names.tolist() == ["T cells", "T cells"]
    assert ids.tolist() == ["CL:0000084"] * 2
    assert confidence == pytest.approx([0.9, 0.9])


def test_of_several_parents_the_one_with_most_mass_is_taken_and_of_equal_ones_the_first_by_name():
    ontology = cell_ontology()
    child = "CD4-positive, CD25-positive, alpha-beta regulatory T cell"
    parents = {ontology.names[p] for p in ontology.parents[ontology.find(child)]}
    assert parents == {"CD4-positive, alpha-beta T cell", "regulatory T cell"}
    regulatory, helper = "CD8-positive, alpha-beta regulatory T cell", "CD4-positive helper T cell"
    for labels, p, parent in [
        ([child, regulatory, helper], [0.5, 0.4, 0.1], "regulatory T cell"),
        ([child, regulatory, helper], [0.5, 0.1, 0.4], "CD4-positive, alpha-beta T cell"),
        ([child, regulatory, helper], [0.4, 0.3, 0.3], "CD4-positive, alpha-beta T cell"),
        ([helper, regulatory, child], [0.3, 0.3, 0.4], "CD4-positive, alpha-beta T cell"),
    ]:
        assert back_off([p], labels, 0.6)[0].tolist() == [parent]


def plain_walk(row, labels, threshold):
    """One cell, as the docstring says it."""
    ontology = cell_ontology()
    terms = [match_labels([label])[label].term for label in labels]
    mass = lambda t: sum(p for p, term in zip(row, terms, strict=True) if term and t in ontology.ancestors(term))
    best = int(np.argmax(row))
    name, term = labels[best], terms[best]
    while (mass(term) if term else row[best]) < threshold:
        above = ontology.parents[term] if term else []
        above = [t for t in above if ontology.ancestors(t) & LINEAGES.keys()]
        if not above:
            return UNKNOWN, "", 0.0
        term = min(above, key=lambda t: (-mass(t), ontology.names[t]))
        name = ontology.names[term]
    return name, term or "", mass(term) if term else row[best]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.05, 1), st.integers(1, 12))
def test_the_walk_is_the_plain_one_for_each_cell(mini, seed, threshold, n):
    rng = np.random.default_rng(seed)
    labels = [*rng.choice(mini.config.labels, n, replace=False), "my cluster"]
    # eighths add up exactly, and often to the same
    p = rng.multinomial(8, np.ones(n + 1) / (n + 1), size=6) / 8
    names, ids, confidence = back_off(p, labels, threshold)
    expected = [plain_walk(row, labels, threshold) for row in p]
    assert list(zip(names, ids, confidence, strict=True)) == expected


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.floats(0.05, 1))
def test_cells_do_not_depend_on_their_order_or_company(mini, seed, threshold):
    rng = np.random.default_rng(seed)
    labels = list(mini.config.labels)
    p = rng.dirichlet(np.full(len(labels), 0.05), size=40)
    whole = back_off(p, labels, threshold)
    order = rng.permutation(40)
    for all_at_once, shuffled in zip(whole, back_off(p[order], labels, threshold), strict=True):
        np.testing.assert_array_equal(all_at_once[order], shuffled)
    for all_at_once, alone in zip(whole, back_off(p[7:8], labels, threshold), strict=True):
        np.testing.assert_array_equal(all_at_once[7:8], alone)


def test_a_known_label_is_as_certain_as_asked_for_and_a_higher_threshold_leaves_fewer(mini):
    labels = [label for label in mini.config.labels if label != UNKNOWN]
    p = np.random.default_rng(0).dirichlet(np.full(len(labels), 0.02), size=500)
    known = []
    for threshold in (0.3, 0.5, 0.7, 0.9):
        names, ids, confidence = back_off(p, labels, threshold)
        is_known = names != UNKNOWN
        assert (confidence[is_known] >= threshold).all()
        assert (confidence[~is_known] == 0).all()
        assert ((ids == "") == ~is_known).all()
        assert (confidence <= 1 + 1e-9).all()
        known.append(is_known.mean())
    assert known == sorted(known, reverse=True)
    assert known[0] > known[-1]


def test_runners_up_are_the_next_best():
    p = np.array([[0.1, 0.2, 0.3, 0.4, 0, 0], [0.6, 0.1, 0.1, 0.2, 0, 0], np.zeros(6)])
    names, confidence = runner_up(p, BLOOD, 2)
    assert names.tolist() == [["plasma cell", "naive B cell"], ["CD14-positive monocyte", "naive B cell"], ["", ""]]
    assert confidence.tolist() == [[0.3, 0.2], [0.2, 0.1], [0, 0]]


def test_of_several_parents_the_likeliest_is_taken_where_the_curve_is_level():
    labels = ["CD8-positive, alpha-beta cytotoxic T cell", "CD8-positive, alpha-beta memory T cell", "B cell"]
    p = np.array([[0.5, 0.35, 0.15]])
    flat = back_off(p, labels, 0.9, calibrate=lambda mass: np.where(mass > 0.8, 0.95, 0.1))
    assert flat[0] == back_off(p, labels, 0.8)[0]
    assert flat[2] == 0.95


def test_the_best_label_is_a_runner_up_of_a_wider_one():
    p = np.array([[0.1, 0.2, 0.3, 0.4, 0, 0]] * 2)
    names, confidence = runner_up(p, BLOOD, 2, given=["monocyte", "CD14-positive monocyte"])
    assert names.tolist() == [["CD14-positive monocyte", "plasma cell"], ["plasma cell", "naive B cell"]]
    assert confidence.tolist() == [[0.4, 0.3], [0.3, 0.2]]


def test_the_best_label_is_no_runner_up(mini):
    labels = list(mini.config.labels)
    p = np.random.default_rng(0).multinomial(6, np.ones(len(labels)) / len(labels), size=50) / 6
    best = back_off(p, labels)[0]
    names, confidence = runner_up(p, labels, len(labels) - 1)
    assert all(sorted([b, *others]) == sorted(labels) for b, others in zip(best, names, strict=True))
    assert (np.diff(confidence, axis=1) <= 0).all()


def test_inputs_are_left_as_they_are():
    p = np.array([[0.1, 0.2, 0.3, 0.4, 0, 0]])
    before = p.copy()
    back_off(p, BLOOD, 0.5)
    runner_up(p, BLOOD, 2)
    np.testing.assert_array_equal(p, before)


def test_no_cells_are_no_labels():
    names, ids, confidence = back_off(np.zeros((0, len(BLOOD))), BLOOD, 0.5)
    assert len(names) == len(ids) == len(confidence) == 0


@pytest.mark.parametrize(
    ("p", "labels", "threshold", "message"),
    [
        ([0.5, 0.5], ["T", "B"], 0.5, r"shape \(2,\); expected \(cells, 2\)"),
        ([[0.5, 0.5]], ["T"], 0.5, r"shape \(1, 2\); expected \(cells, 1\)"),
        ([[]], [], 0.5, "expected"),
        ([[-0.1, 0.5]], ["T", "B"], 0.5, "negative or missing"),
        ([[np.nan, 0.5]], ["T", "B"], 0.5, "negative or missing"),
        ([[-3.0, -0.5]], ["T", "B"], 0.5, r"np.exp\(log_probabilities\)"),
        ([[0.9, 0.9]], ["T", "B"], 0.5, "more than 1"),
        ([[0.5, 0.5]], ["T", "B"], 70, "min_confidence is 70; expected a probability"),
        ([[0.5, 0.5]], ["T", "B"], float("nan"), "min_confidence is nan"),
    ],
)
def test_what_cannot_be_backed_off_is_an_error(p, labels, threshold, message):
    with pytest.raises(ValueError, match=message):
        back_off(p, labels, threshold)


@pytest.mark.parametrize("n", [0, 2, 5])
def test_there_are_fewer_runners_up_than_labels(n):
    with pytest.raises(ValueError, match=f"n is {n} for 2 labels; expected from 1 to 1"):
        runner_up([[0.5, 0.5]], ["T", "B"], n)


def test_masses_are_calibrated_before_they_are_compared():
    labels = ["CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell", "B cell"]
    p = np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 0.0]])

    def calibrate(mass):
        return 0.1 + 0.8 * mass

    names, _, confidence = back_off(p, labels, 0.6, calibrate=calibrate)
    plain = back_off(p, labels, 0.6)
    assert names.tolist() == plain[0].tolist()
    assert names[1] == "unknown"
    np.testing.assert_allclose(confidence, [0.1 + 0.8 * 0.8, 0])
    # what the curve lifts over the threshold stays
    assert back_off(p, labels, 0.5, calibrate=calibrate)[0][0] == labels[0]
    assert back_off(p, labels, 0.51, calibrate=calibrate)[0][0] != labels[0]
