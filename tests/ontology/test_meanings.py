import numpy as np
import pytest

from bioverse_sc.ontology import UNKNOWN, back_off, cell_ontology, match_labels, meanings_of
from bioverse_sc.ontology._similarity import contradict, similarity

OWN = [
    "CD14-positive monocyte",
    "non-classical monocyte",
    "memory B cell",
    "naive B cell",
    "fibroblast",
    "mast cell",
    "macrophage",
    UNKNOWN,
]


def taken(labels, own=OWN):
    return {label: (of.relation, of.shares) for label, of in meanings_of(own, labels).items()}


def term(name):
    return match_labels([name])[name].term


def test_a_sibling_takes_what_nothing_in_the_list_names():
    found = meanings_of(OWN, ["classical monocyte", "B cell", "natural killer cell"])
    classical = found["classical monocyte"]
    assert (classical.relation, classical.shares) == ("sibling", {"CD14-positive monocyte": 1.0})
    assert classical.is_guess
    assert 0.1 < classical.similarity < 0.6
    assert 0.65 < classical.trust < 0.9
    b = found["B cell"]
    assert (b.relation, b.shares, b.trust) == ("wider", {"memory B cell": 1.0, "naive B cell": 1.0}, 1.0)
    assert found["natural killer cell"].relation == "nothing"


def test_what_the_model_calls_non_classical_is_not_classical():
    assert contradict(term("classical monocyte"), term("non-classical monocyte"))
    assert not contradict(term("classical monocyte"), term("CD14-positive monocyte"))
    assert contradict(
        term("CD16-positive, CD56-dim natural killer cell, human"),
        term("CD16-negative, CD56-bright natural killer cell, human"),
    )
    assert "non-classical monocyte" not in meanings_of(OWN, ["classical monocyte"])["classical monocyte"].shares


def test_a_narrower_label_takes_what_it_is_a_kind_of():
    assert taken(["cardiac fibroblast"])["cardiac fibroblast"] == ("narrower", {"fibroblast": 1.0})
    # not where the list has the model's own word for it
    found = meanings_of(OWN, ["fibroblast", "cardiac fibroblast"])
    assert found["fibroblast"].shares == {"fibroblast": 1.0}
    assert (found["cardiac fibroblast"].relation, found["cardiac fibroblast"].nearest[0]) == ("nothing", "fibroblast")


def test_what_is_called_by_the_parent_of_a_label_is_taken_as_a_guess(mini):
    found = meanings_of(mini.config.labels, ["tissue-resident macrophage", "B cell"])["tissue-resident macrophage"]
    assert {"macrophage", "Kupffer cell"} <= found.shares.keys()
    assert found.relation == "narrower"
    assert found.trust < 1
    found = meanings_of(mini.config.labels, ["tissue-resident macrophage", "macrophage"])["tissue-resident macrophage"]
    assert found.relation == "wider"
    assert "macrophage" not in found.shares


def test_an_exact_label_keeps_its_own_and_leaves_its_siblings_alone():
    assert taken(["memory B cell", "T cell"])["memory B cell"] == ("same", {"memory B cell": 1.0})


@pytest.mark.parametrize(
    "labels",
    [
        ["memory B cell", "memory B cells"],
        ["memory B cell", "CL:0000787"],
        ["monocyte", "CD14-positive monocyte", "non-classical monocyte"],
        ["T cell", "T lymphocytes"],
    ],
)
def test_a_label_whose_cells_the_list_names_otherwise_does_not_take_their_relatives(labels, mini):
    found = taken([*labels, "hepatocyte"], mini.config.labels)
    assert [label for label in labels if not found[label][1]] == [labels[0] if labels[0] == "monocyte" else labels[1]]


def test_equally_near_labels_share_by_their_texts():
    found = meanings_of(OWN, ["classical monocyte", "intermediate monocyte"])
    shares = [
        found[label].shares["CD14-positive monocyte"] for label in ("classical monocyte", "intermediate monocyte")
    ]
    assert sum(shares) == pytest.approx(1)
    # an intermediate one may as well be a non-classical one
    assert shares[0] > 0.8
    assert found["intermediate monocyte"].shares["non-classical monocyte"] == 1


def test_a_guess_comes_before_a_wider_label_only_when_it_is_a_good_one():
    found = taken(["monocyte", "classical monocyte"])
    assert found["classical monocyte"] == ("sibling", {"CD14-positive monocyte": 1.0})
    assert found["monocyte"] == ("wider", {"non-classical monocyte": 1.0})
    found = taken(["monocyte", "intermediate monocyte"])
    assert found["monocyte"][1].keys() == {"CD14-positive monocyte", "non-classical monocyte"}
    assert found["intermediate monocyte"] == ("nothing", {})


@pytest.mark.parametrize("label", ["osteoblast", "oocyte", "imaginal disc cell"])
def test_other_cells_are_no_guess_though_the_ontology_has_them_beside_each_other(label, mini):
    found = meanings_of(mini.config.labels, [label, "B cell"])[label]
    assert (found.relation, found.shares) == ("nothing", {})
    assert len(found.nearest) == 3


def test_a_sibling_of_unlike_text_is_taken_with_little_trust(mini):
    found = meanings_of(mini.config.labels, ["osteoclast", "B cell"])["osteoclast"]
    assert "macrophage" in found.shares
    assert found.similarity < 0.1
    assert found.trust < 0.7


def test_the_one_label_that_a_list_lacks_is_the_one_that_it_has_instead(mini):
    own = [label for label in mini.config.labels if label != UNKNOWN]
    for label, other in [
        ("microglial cell", "central nervous system macrophage"),
        ("CD14-positive monocyte", "intermediate monocyte"),
    ]:
        labels = [other if one == label else one for one in own]
        assert meanings_of(mini.config.labels, labels)[other].shares == {label: 1.0}


def test_the_models_own_list_means_itself(mini):
    own = list(mini.config.labels)
    assert {label: of.shares for label, of in meanings_of(own, own).items()} == {label: {label: 1.0} for label in own}


def test_an_ambiguous_label_takes_all_that_it_may_mean(mini):
    found = taken(["HSC", "B cell"], mini.config.labels)
    assert found["HSC"] == ("ambiguous", {"hematopoietic stem cell": 1.0, "hepatic stellate cell": 1.0})
    found = taken(["HSC", "hepatic stellate cell"], mini.config.labels)
    assert found["HSC"] == ("ambiguous", {"hematopoietic stem cell": 1.0})


def test_no_label_of_the_model_is_shared_out_more_than_once_and_the_order_does_not_matter(mini):
    names = [name for name in cell_ontology().names.values() if not name.startswith("obsolete")]
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels = rng.choice(names, size=25, replace=False).tolist()
        found = meanings_of(mini.config.labels, labels)
        total = {}
        for of in found.values():
            assert bool(of.shares) == (of.relation not in ("text", "nothing"))
            for label, share in of.shares.items():
                total[label] = total.get(label, 0) + share
        assert all(value == pytest.approx(1) for value in total.values())
        again = meanings_of(mini.config.labels, labels[::-1])
        for label in labels:
            assert again[label].relation == found[label].relation
            assert again[label].shares == pytest.approx(found[label].shares)


def test_texts_are_alike_by_their_rare_words():
    ours = term("CD14-positive monocyte")
    assert similarity(ours, ours) == pytest.approx(1)
    assert similarity(ours, term("classical monocyte")) == similarity(term("classical monocyte"), ours)
    assert similarity(ours, term("classical monocyte")) > 2 * similarity(ours, term("fibroblast"))


def test_a_guess_is_less_certain_and_gives_way_to_what_it_has_in_common():
    labels = ["classical monocyte", "B cell", UNKNOWN]
    meanings = meanings_of(OWN, labels)
    trust = meanings["classical monocyte"].trust
    p = [[0.9, 0.05, 0.05], [0.05, 0.9, 0.05]]
    names, _, confidence = back_off(p, labels, 0.5, meanings=meanings)
    assert names.tolist() == ["classical monocyte", "B cell"]
    np.testing.assert_allclose(confidence, [0.9 * trust, 0.9])
    names, _, confidence = back_off(p, labels, 0.85, meanings=meanings)
    # a monocyte it is for certain
    assert names.tolist() == ["monocyte", "B cell"]
    np.testing.assert_allclose(confidence, [0.9, 0.9])


def test_only_a_text_is_not_calibrated():
    labels = ["B cell", "my cluster", UNKNOWN]
    _, _, confidence = back_off(
        [[0.5, 0.3, 0.2], [0.3, 0.5, 0.2]], labels, calibrate=np.sqrt, meanings=meanings_of(OWN, labels)
    )
    np.testing.assert_allclose(confidence, [np.sqrt(0.5), 0.5])


def test_of_two_wider_labels_a_parent_that_takes_nothing_else_takes_what_the_other_can_spare(mini):
    ontology = cell_ontology()
    own = [label for label in mini.config.labels if label != UNKNOWN]
    tried = 0
    for label in own:
        for parent in ontology.parents[ontology.find(label)]:
            name = ontology.names[parent]
            if name not in own:
                found = meanings_of(own, [name if one == label else one for one in own])[name]
                assert found.relation == "wider"
                assert label in found.shares
                tried += 1
    assert tried > 200
