import numpy as np
import pytest

from bioverse_sc.ontology import UNKNOWN, cell_ontology, coarse_probabilities
from bioverse_sc.ontology._levels import COARSE, COUNTED_AS


def test_broad_types_have_the_names_of_the_ontology():
    assert {term: cell_ontology().names[term] for term in COARSE} == COARSE
    assert set(COUNTED_AS.values()) <= set(COARSE)
    assert set(COUNTED_AS) <= set(cell_ontology().names)


def test_probabilities_of_a_broad_type_are_those_below_it():
    labels = ["naive B cell", "memory B cell", "CD14+ Mono", "my cluster", UNKNOWN]
    found, names, counted_in = coarse_probabilities(np.array([[0.2, 0.3, 0.1, 0.15, 0.25], [0, 0, 0, 0, 0]]), labels)
    assert names == ["B cell", "monocyte", "my cluster", UNKNOWN]
    np.testing.assert_allclose(found, [[0.5, 0.1, 0.15, 0.25], [0, 0, 0, 0]])
    assert counted_in.tolist() == [0, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("label", "broad"),
    [
        ("microglial cell", "macrophage"),
        ("pancreatic A cell", "pancreatic endocrine cell"),
        ("intestinal enteroendocrine cell", "enteroendocrine cell"),
        ("pro-B cell", "hematopoietic precursor cell"),
        ("respiratory basal cell", "epithelial cell"),
        ("lung neuroendocrine cell", "epithelial cell"),
        ("oligodendrocyte precursor cell", "glial cell"),
        ("decidual cell", "stromal cell"),
        ("transit amplifying cell", "transit amplifying cell"),
    ],
)
def test_a_label_counts_for_the_most_exact_broad_type(label, broad):
    assert coarse_probabilities(np.ones((1, 2)), [label, UNKNOWN])[1][0] == broad


def test_every_label_of_mini_has_a_broad_type(mini):
    labels = [*(label for label in mini.config.labels if label != UNKNOWN), UNKNOWN]
    p = np.random.default_rng(0).dirichlet(np.ones(len(labels)), size=3)
    found, names, _ = coarse_probabilities(p, labels)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert len(names) < 45
