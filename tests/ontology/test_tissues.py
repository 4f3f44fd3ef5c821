import gzip
import re
from importlib.resources import files

import pytest

from bioverse_sc.ontology import cell_ontology, known_tissues, terms_of_tissue
from bioverse_sc.ontology._tissues import FLUIDS, RESIDENT, SYNONYMS

IMMUNE = [
    "B cell",
    "memory B cell",
    "CD4-positive, alpha-beta T cell",
    "natural killer cell",
    "monocyte",
    "neutrophil",
    "platelet",
]


def holds(tissue, label):
    term = cell_ontology().find(label)
    assert term is not None, label
    return term in terms_of_tissue(tissue)


@pytest.mark.parametrize(
    ("tissue", "there", "not_there"),
    [
        (
            "blood",
            [*IMMUNE, "plasmacytoid dendritic cell", "hematopoietic stem cell", "leukocyte", "regulatory T cell"],
            [
                "hepatocyte",
                "Kupffer cell",
                "type B pancreatic cell",
                "epithelial cell",
                "fibroblast",
                "neuron",
                "thymocyte",
            ],
        ),
        (
            "pancreas",
            [
                *IMMUNE,
                "type B pancreatic cell",
                "pancreatic A cell",
                "pancreatic acinar cell",
                "epithelial cell",
                "fibroblast",
            ],
            ["hepatocyte", "Kupffer cell", "pulmonary alveolar type 2 cell", "astrocyte", "keratinocyte", "thymocyte"],
        ),
        (
            "gut",
            [*IMMUNE, "enterocyte", "intestine goblet cell", "intestinal crypt stem cell", "plasma cell", "macrophage"],
            [
                "hepatocyte",
                "type B pancreatic cell",
                "pulmonary alveolar type 1 cell",
                "hematopoietic stem cell",
                "sperm",
            ],
        ),
        (
            "bone marrow",
            ["hematopoietic stem cell", "erythroblast", "pro-B cell", "T cell"],
            ["enterocyte", "hepatocyte"],
        ),
        ("lung", ["pulmonary alveolar type 2 cell", "alveolar macrophage", "mast cell"], ["hepatocyte", "enterocyte"]),
        ("liver", ["hepatocyte", "Kupffer cell", "cholangiocyte", "endothelial cell"], ["astrocyte", "enterocyte"]),
        ("brain", ["astrocyte", "microglial cell", "GABAergic neuron", "T cell"], ["hepatocyte", "keratinocyte"]),
    ],
)
def test_a_tissue_holds_its_cells_and_no_others(tissue, there, not_there):
    assert [label for label in there if not holds(tissue, label)] == []
    assert [label for label in not_there if holds(tissue, label)] == []


@pytest.mark.parametrize("tissue", known_tissues())
def test_terms_are_real_and_what_is_above_a_term_is_there_too(tissue):
    ontology = cell_ontology()
    terms = terms_of_tissue(tissue)
    assert terms <= ontology.names.keys()
    assert len(terms) < 0.3 * len(ontology.names)
    assert frozenset().union(*map(ontology.ancestors, terms)) == terms


@pytest.mark.parametrize("tissue", known_tissues())
def test_leukocytes_are_everywhere_and_vessels_wherever_there_is_stroma(tissue):
    assert [label for label in IMMUNE if not holds(tissue, label)] == []
    assert holds(tissue, "fibroblast") == (tissue not in FLUIDS)


def test_the_cells_of_every_tissue_go_by_their_names():
    ontology = cell_ontology()
    assert {term: ontology.names[term] for term in RESIDENT} == RESIDENT


@pytest.mark.parametrize(
    ("asked", "same"),
    [
        ("Blood", "blood"),
        ("PBMCs", "blood"),
        ("peripheral-blood", "blood"),
        ("bone_marrow", "bone marrow"),
        ("gut", "intestine"),
        ("Colon", "intestine"),
        ("kidneys", "kidney"),
        ("oesophagus", "esophagus"),
        ("pancreatic islets", "pancreas"),
        ("pancras", "pancreas"),
        ("Lymph nodes", "lymph node"),
    ],
)
def test_a_tissue_goes_by_several_names(asked, same):
    assert terms_of_tissue(asked) == terms_of_tissue(same)


@pytest.mark.parametrize(
    "tissue", ["shin", "brian", "bone", "blood vessel", "mesocosm", "", "cord", "hand", "lung and liver"]
)
def test_what_is_no_tissue_is_no_other_tissue(tissue):
    with pytest.raises(ValueError, match=re.escape(f"tissue is {tissue!r}, which is not known.")):
        terms_of_tissue(tissue)


def test_the_error_names_near_tissues_and_all_of_them():
    with pytest.raises(
        ValueError, match=r"The nearest: 'blood'.*Expected one of: adrenal gland, .*umbilical cord blood"
    ) as error:
        terms_of_tissue("blood vessels")
    assert all(tissue in str(error.value) for tissue in known_tissues())


def test_a_list_is_no_tissue():
    with pytest.raises(TypeError, match="expected the name of one tissue"):
        terms_of_tissue(["blood"])


def test_no_name_means_two_tissues():
    names = [name for tissue, others in SYNONYMS.items() for name in (tissue, *others)]
    assert len(set(names)) == len(names)


def test_each_tissue_keeps_labels_of_the_bundled_model_and_drops_some(mini):
    ids = {cell_ontology().find(label) for label in mini.config.labels}
    for tissue in known_tissues():
        kept = ids & terms_of_tissue(tissue)
        assert 10 < len(kept) < 0.7 * len(ids), tissue


def test_the_table_has_the_tissues_that_can_be_asked_for():
    with files("bioverse_sc.ontology").joinpath("tissues.tsv.gz").open("rb") as raw, gzip.open(raw, "rt") as text:
        rows = [line.rstrip("\n").split("\t") for line in text]
    assert rows[0] == ["tissue", "id"]
    assert {tissue for tissue, _ in rows[1:]} == SYNONYMS.keys()
