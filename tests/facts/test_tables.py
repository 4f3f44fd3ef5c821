import numpy as np
import pytest

from bioverse_sc.facts import expression_letters, gene_facts, pathway_facts, type_facts
from bioverse_sc.facts._reference import reference, relevant
from bioverse_sc.facts._tables import expression_table, gene_entries, letter_means, pathways
from bioverse_sc.facts._words import brief, in_plural, listed, shown_probability, with_article
from bioverse_sc.ontology import cell_ontology
from tests.facts.making import texts

T_CELL, PLASMA, MEMORY = "CL:0000084", "CL:0000786", "CL:0000897"


def test_letters_keep_expression():
    mean = np.array([[0.0, 0.05, 1.0], [20.0, 2000.0, 0.3]])
    letters = expression_letters(mean)
    assert [len(row) for row in letters] == [3, 3]
    # steps of 26 %, from a hundredth on
    np.testing.assert_allclose(letter_means(letters), mean, rtol=0.13, atol=0.006)


def test_tables_are_whole():
    genes, terms, mean = expression_table()
    assert mean.shape == (len(genes), len(terms)) == (len(genes), 140)
    assert set(terms) <= set(cell_ontology().names)
    assert (mean.sum(axis=0) > 5000).all()
    assert len(gene_entries()) > 20_000
    assert all(5 <= len(pathway.genes) <= 400 for pathway in pathways().values())
    assert all(entry.summary.isascii() for entry in gene_entries().values())
    boilerplate = ("this gene", "provided by", "transcript variants")
    share = np.mean([any(word in entry.summary.lower() for word in boilerplate) for entry in gene_entries().values()])
    assert share < 0.002


@pytest.mark.parametrize(
    ("gene", "term", "home"),
    [("CD3D", MEMORY, "T cell"), ("TNFRSF17", PLASMA, "antibody secreting cell"), ("CD19", "CL:0000788", "B cell")],
)
def test_specific_genes(gene, term, home):
    specificity = reference().specificity(gene, term)
    assert specificity.home == home
    assert specificity.is_specific


def test_genes_that_are_high_elsewhere():
    lyz = reference().specificity("LYZ", "CL:0001054")
    assert lyz.home == ""
    assert "CD1c-positive myeloid dendritic cell" in lyz.others
    assert lyz.sentence("LYZ").startswith("LYZ is not specific; it is also high in ")
    # much higher, and yet expressed by others
    mzb1 = reference().specificity("MZB1", PLASMA)
    assert (mzb1.others, mzb1.is_specific) == ((), False)
    assert reference().specificity("NOT-A-GENE", PLASMA).sentence("NOT-A-GENE") == ""


def test_detection_grows_with_level_and_depth():
    chance = reference().detection
    assert chance(10, 1000) < chance(10, 5000) < chance(100, 5000) < 1
    assert chance(0, 5000) == 0


def test_types_without_a_reference_take_the_nearest_wider_one():
    classical, monocyte = "CL:0000860", "CL:0000576"
    assert set(reference().types(classical)) == set(reference().types(monocyte))
    assert "CL:0000842" not in relevant(classical)  # mononuclear cell


def test_gene_facts():
    said = texts(gene_facts("CD79A"))
    assert said[0] == "The full name of CD79A is CD79a molecule."
    assert any("B-cell antigen component" in text for text in said)
    assert any("known marker of" in text for text in said)
    assert gene_facts("CD138")[0].about == "SDC1"
    with pytest.raises(KeyError, match="no symbol"):
        gene_facts("ABCX9")


def test_type_facts():
    facts = type_facts("plasma cell")
    said = texts(facts)
    assert said[0].startswith("Plasma cell: A terminally differentiated")
    assert "The best known markers of plasma cells are SDC1, TNFRSF17, MZB1, JCHAIN and IGHG1." in said
    assert any(text.startswith("A plasma cell is a kind of ") for text in said)
    assert said == texts(type_facts(PLASMA))
    assert "Hepatocytes occur in the liver." in texts(type_facts("hepatocyte"))
    with pytest.raises(KeyError, match="Cell Ontology"):
        type_facts("my cluster")


def test_pathway_facts():
    said = texts(pathway_facts("t cell receptor signaling pathway"))
    assert said[0].endswith(" known genes.")
    assert said[1].startswith("Genes of T cell receptor signaling pathway include ")
    assert any(text.startswith("CD3D is a known marker of T cells") for text in said)
    with pytest.raises(KeyError, match="Gene Ontology"):
        pathway_facts("walking")


def test_words():
    assert [
        with_article("erythroblast"),
        with_article("unipolar brush cell"),
        with_article("T cell"),
        with_article("L5/6 neuron"),
        with_article("NK cell"),
    ] == [
        "an erythroblast",
        "a unipolar brush cell",
        "a T cell",
        "an L5/6 neuron",
        "an NK cell",
    ]
    assert in_plural("natural killer cell, human") == "natural killer cells, human"
    assert in_plural("endothelial cell of hepatic sinusoid") == "endothelial cells of hepatic sinusoid"
    assert listed(["a", "b, c", "d"]) == "a; b, c and d"
    assert [shown_probability(p) for p in (1.0, 0.5, 0.001)] == ["more than 0.99", "0.50", "less than 0.01"]
    assert brief("A first one. A second one.", 15) == "A first one."
