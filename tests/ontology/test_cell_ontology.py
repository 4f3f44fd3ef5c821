import gzip
from importlib.resources import files

import pandas as pd
import pytest

from bioverse_sc.ontology import CellOntology, cell_ontology

ROWS = [
    ("X:1", "cell", "", "", "A unit."),
    ("X:2", "immune cell", "X:1", "leukocyte|white blood cell", ""),
    ("X:3", "T cell", "X:2", "T-lymphocyte", "An immune cell with a receptor."),
    ("X:4", "helper T cell", "X:3|X:5", "", ""),
    ("X:5", "secretory cell", "X:1", "", ""),
]


@pytest.fixture
def small():
    terms = pd.DataFrame(ROWS, columns=["id", "name", "parents", "synonyms", "definition"])
    markers = pd.DataFrame(
        [("X:3", "CD3E", 9), ("X:3", "CD2", 4), ("X:2", "PTPRC", 7), ("X:4", "CD4", 5), ("X:2", "CD3E", 1)],
        columns=["id", "gene", "evidence"],
    )
    return CellOntology(terms, markers)


@pytest.mark.parametrize(
    ("label", "term"),
    [
        ("T cell", "X:3"),
        ("T cells", "X:3"),
        ("t CELL", "X:3"),
        ("T-cell", "X:3"),
        ("t-lymphocytes", "X:3"),
        ("white blood cells", "X:2"),
        ("Leukocytes", "X:2"),
        ("neuron", None),
        ("", None),
    ],
)
def test_names_are_found_in_any_case_number_and_spelling(small, label, term):
    assert small.find(label) == term


@pytest.mark.parametrize(
    ("label", "term"),
    [
        ("B cells", "CL:0000236"),
        ("T cell", "CL:0000084"),
        ("Monocytes", "CL:0000576"),
        ("natural killer cell", "CL:0000623"),
        ("NK cell", "CL:0000623"),
        ("hepatocyte", "CL:0000182"),
        ("CD14-positive monocyte", "CL:0001054"),
    ],
)
def test_real_terms_have_their_real_ids(label, term):
    assert cell_ontology().find(label) == term


def test_ancestors_are_over_all_parents_and_the_term(small):
    assert small.ancestors("X:4") == {"X:1", "X:2", "X:3", "X:4", "X:5"}
    assert small.ancestors("X:1") == {"X:1"}


def test_a_naive_b_cell_is_a_b_cell_and_no_t_cell():
    ontology = cell_ontology()
    above = ontology.ancestors(ontology.find("naive B cell"))
    assert ontology.find("B cell") in above
    assert ontology.find("leukocyte") in above
    assert ontology.find("T cell") not in above


def test_a_marker_belongs_to_the_most_specific_term(small):
    assert small.known_markers("X:4") == {"CD4": "X:4", "CD3E": "X:3", "CD2": "X:3", "PTPRC": "X:2"}
    assert small.known_markers("X:2") == {"PTPRC": "X:2", "CD3E": "X:2"}


def test_real_markers_are_there():
    ontology = cell_ontology()
    assert {"CD19", "MS4A1"} <= ontology.known_markers(ontology.find("naive B cell")).keys()
    assert "CD3E" in ontology.known_markers(ontology.find("T cell"))


def test_a_description_has_name_definition_and_markers(small):
    assert small.describe("X:3") == "T cell. An immune cell with a receptor. Markers: CD3E, CD2."
    assert small.describe("X:3", n_markers=1).endswith("Markers: CD3E.")
    assert small.describe("X:5") == "secretory cell."


def test_the_tables_hang_together():
    ontology = cell_ontology()
    assert len(ontology.names) > 2000
    assert all(p in ontology.names for parents in ontology.parents.values() for p in parents)
    assert all(term in ontology.names for term in ontology.markers)
    assert all(ontology.ancestors(term) for term in ontology.names)
    assert sum(ontology.find(name) == term for term, name in ontology.names.items()) > 0.99 * len(ontology.names)


def test_every_label_of_the_bundled_model_is_a_term(mini):
    *labels, last = mini.config.labels
    assert last == "unknown"
    assert [label for label in labels if cell_ontology().find(label) is None] == []
    ids = [cell_ontology().find(label) for label in labels]
    assert len(set(ids)) == len(ids)


def test_the_ontology_is_loaded_once():
    assert cell_ontology() is cell_ontology()


@pytest.mark.parametrize(
    ("file", "columns"),
    [
        ("cell_ontology.tsv.gz", ["id", "name", "parents", "synonyms", "definition"]),
        ("markers.tsv.gz", ["id", "gene", "evidence"]),
    ],
)
def test_package_data_have_the_columns_that_the_code_reads(file, columns):
    with files("bioverse_sc.ontology").joinpath(file).open("rb") as raw, gzip.open(raw, "rt") as text:
        assert set(columns) <= set(text.readline().rstrip("\n").split("\t"))


def test_the_release_of_the_ontology_is_named():
    import bioverse_sc.ontology

    assert "2024-08-16" in bioverse_sc.ontology.__doc__
