import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioverse_sc.ontology import (
    UNKNOWN,
    LabelMatch,
    back_off,
    cell_ontology,
    match_labels,
    means_unknown,
    nearest_labels,
    runner_up,
)
from bioverse_sc.ontology._label_set import IN_USE, LINEAGES

BLOOD = [
    "memory B cell",
    "naive B cell",
    "plasma cell",
    "CD14-positive monocyte",
    "non-classical monocyte",
    "my cluster",
]


def name_of(label):
    term = match_labels([label])[label].term
    return term and cell_ontology().names[term]


def candidates_of(label):
    match = match_labels([label])[label]
    assert match.term is None
    return [cell_ontology().names[term] for term in match.candidates]


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("CD14+ Mono", "CD14-positive monocyte"),
        ("Mono_CD14", "CD14-positive monocyte"),
        ("CD14-positive monocytes", "CD14-positive monocyte"),
        ("FCGR3A+ Mono", "non-classical monocyte"),
        ("CD16 Mono", "non-classical monocyte"),
        ("NK", "natural killer cell"),
        ("Natural Killer cells", "natural killer cell"),
        ("B cells", "B cell"),
        ("B", "B cell"),
        ("T", "T cell"),
        ("T-lymphocytes", "T cell"),
        ("CD4 T", "CD4-positive, alpha-beta T cell"),
        ("T_CD4", "CD4-positive, alpha-beta T cell"),
        ("CD8+ T cells", "CD8-positive, alpha-beta T cell"),
        ("Memory CD4 T", "CD4-positive, alpha-beta memory T cell"),
        ("CD8 Naive", "naive thymus-derived CD8-positive, alpha-beta T cell"),
        ("CD4 TCM", "central memory CD4-positive, alpha-beta T cell"),
        ("CD4+CD25+ Treg", "CD4-positive, CD25-positive, alpha-beta regulatory T cell"),
        ("Tregs", "regulatory T cell"),
        ("γδ T cells", "gamma-delta T cell"),
        ("MAIT", "mucosal invariant T cell"),
        ("NK_CD56bright", "CD16-negative, CD56-bright natural killer cell, human"),
        ("pDC", "plasmacytoid dendritic cell"),
        ("DCs", "dendritic cell"),
        ("Platelet", "platelet"),
        ("MKs", "megakaryocyte"),
        ("ILC2s", "group 2 innate lymphoid cell"),
        ("alpha cells", "pancreatic A cell"),
        ("beta", "type B pancreatic cell"),
        ("Endothelial", "endothelial cell"),
        ("Haematopoietic stem cells", "hematopoietic stem cell"),
        ("Type II pneumocytes", "pulmonary alveolar type 2 cell"),
        ("CL:0000236", "B cell"),
        # one letter off
        ("hepatocites", "hepatocyte"),
        ("plasmacitoid dendritic cell", "plasmacytoid dendritic cell"),
        ("erythroblats", "erythroblast"),
        # near, and yet another cell
        ("NK T cell", "mature NK T cell"),
        ("Natural killer T cells", "mature NK T cell"),
        ("pre-B", "precursor B cell"),
        ("pro-B", "pro-B cell"),
        ("osteoblast", "osteoblast"),
        ("osteoclast", "osteoclast"),
        ("erythrocytes", "erythrocyte"),
        ("B-1 cells", "B-1 B cell"),
    ],
)
def test_words_of_users_are_terms(label, name):
    assert name_of(label) == name


NO_NAMES = """
? | glorp cells | foo | cluster 1 | cluster B | Unknown | doublets | low quality | A | C | 7 | L
T/NK | T_NK | T, NK | T & NK | T + B | B or T cell | non-B | not T cells | other T | B-ALL | CD3- | CD4- T
T cell leukemia | glioma | ependymoma | oligodendroglioma | melanoma | lymphoma | branchial cells | memory
B cell 2 | T cell 1 | NK 1 | Mono 2
Fibroblasts ADAMDEC1 | NK-like cells | T Cell GZMK | activated stellate | obsolete cell line cell
"""


@pytest.mark.parametrize("label", ["", " ", *re.split(r" \| |\n", NO_NAMES.strip())])
def test_what_is_no_name_of_a_cell_stays_text(label):
    assert match_labels([label])[label] == LabelMatch(None, ())


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("HSC", {"hematopoietic stem cell", "hepatic stellate cell"}),
        ("DC2", {"plasmacytoid dendritic cell", "CD1c-positive myeloid dendritic cell"}),
        ("stellate cells", {"hepatic stellate cell", "pancreatic stellate cell"}),
        ("osteoxlast", {"osteoblast", "osteoclast"}),
    ],
)
def test_an_ambiguous_label_names_what_it_may_mean(label, names):
    assert set(candidates_of(label)) == names


def test_every_name_and_id_of_the_ontology_is_its_own_term():
    ontology = cell_ontology()
    current = {term: name for term, name in ontology.names.items() if not name.startswith("obsolete ")}
    for labels in (current.values(), current.keys()):
        matches = match_labels(labels)
        assert [label for term, label in zip(current, labels, strict=True) if matches[label].term != term] == []


def test_exact_synonyms_are_their_terms_but_for_those_that_others_use_otherwise():
    ontology = cell_ontology()
    synonyms = [(s, term) for term, others in ontology.synonyms.items() for s in others]
    synonyms = [(s, t) for s, t in synonyms if not ontology.names[t].startswith("obsolete ")]
    matches = match_labels(s for s, _ in synonyms)
    changed = [s for s, term in synonyms if matches[s].term != term]
    assert {"DC2", "alpha cell", "CD16+ monocyte"} <= set(changed)
    assert len(changed) < 15


def test_the_terms_written_in_the_code_are_real():
    ontology = cell_ontology()
    assert {term: ontology.names[term] for term in LINEAGES} == LINEAGES
    assert {term for terms in IN_USE.values() for term in terms} <= ontology.names.keys()


def test_no_obsolete_term_is_matched():
    labels = [name.removeprefix("obsolete ") for name in cell_ontology().names.values() if name.startswith("obsolete ")]
    found = [name_of(label) or "" for label in labels]
    assert not any(name.startswith("obsolete ") for name in found)


def test_matches_do_not_depend_on_the_other_labels_nor_on_hashes():
    labels = ["osteoxlast", "HSC", "DC2", "hepatocites", "B cells"]
    assert match_labels(labels[::-1]) == match_labels(labels) == {k: match_labels([k])[k] for k in labels}
    code = f"from bioverse_sc.ontology import match_labels; print(match_labels({labels!r}))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{match_labels(labels)}\n"}


@settings(deadline=None)
@given(st.text(max_size=20))
def test_any_text_can_be_a_label(label):
    match = match_labels([label])[label]
    assert match.term is None or match.candidates == ()


@pytest.mark.parametrize(
    "label",
    [
        "unknown", "Unknown", "UNASSIGNED", "Unassigned cells", "unknown cell type", "Unknown_1", "other",
        "Other cells", "others", "none", "None of these", "none of the above", "NA", "N/A", "nan", "?", "--",
        "not assigned", "no label", "un-assigned", "ambiguous", "undetermined", "unlabelled", "unlabeled",
        "unclassified", "the rest", "everything else", "Other/unknown", "misc.",
    ],
)  # fmt: skip
def test_words_for_none_of_these(label):
    assert means_unknown(label)
    assert match_labels([label])[label].term is None


@pytest.mark.parametrize(
    "label",
    [
        "T cell",
        "other T cells",
        "unknown T cell",
        "doublet",
        "low quality",
        "debris",
        "1",
        "T",
        "native cell",
        "日本",
        "cell",
    ],
)
def test_what_is_a_label_by_itself(label):
    assert not means_unknown(label)


def test_no_name_of_the_ontology_means_unknown():
    ontology = cell_ontology()
    texts = [*ontology.names.values(), *ontology.names, *(s for of in ontology.synonyms.values() for s in of)]
    assert [text for text in texts if means_unknown(text)] == []


def test_own_labels_go_to_the_nearest_of_the_users_labels():
    own = ["memory B cell", "plasma cell", "CD14-positive monocyte", "hepatocyte", "naive B cell"]
    labels = ["Leukocytes", "B cells", "naive B cell", "Mono", "what"]
    assert nearest_labels(own, labels).tolist() == [1, 0, 3, -1, 2]
    assert nearest_labels(own, own).tolist() == [0, 1, 2, 3, 4]
    assert nearest_labels(own, ["T"]).tolist() == [-1] * 5
    assert nearest_labels([], ["T"]).tolist() == []


def test_a_label_in_the_same_words_comes_before_a_term_and_the_first_before_the_second():
    assert nearest_labels(["my cluster"], ["B cells", "my cluster"]).tolist() == [1]
    assert nearest_labels(["memory B cell"], ["B cells", "B lymphocytes"]).tolist() == [0]
    assert nearest_labels(["memory B cell"], ["B lymphocytes", "B cells"]).tolist() == [0]


def test_every_label_of_the_bundled_model_goes_to_itself_or_to_its_lineage(mini):
    own = list(mini.config.labels)
    assert nearest_labels(own, own).tolist() == list(range(len(own)))
    ontology = cell_ontology()
    expected = [0 if ontology.find("leukocyte") in ontology.ancestors(ontology.find(label)) else -1 for label in own]
    assert nearest_labels(own, ["White blood cells"]).tolist() == expected


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
