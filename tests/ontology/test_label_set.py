import pytest

from bioverse_sc.ontology import cell_ontology, match_labels, means_unknown, nearest_labels


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
