import pytest

from bioverse_sc.facts import Mentions, mentions
from bioverse_sc.ontology import cell_ontology


def named(text):
    m = mentions(text)
    return m.genes, tuple(cell_ontology().names[term] for term in m.types), m.pathways, m.unknown


@pytest.mark.parametrize(
    ("text", "genes"),
    [
        ("Does the cell express CD3D or cd8a?", ("CD3D", "CD8A")),
        ("what does lyz do", ("LYZ",)),
        ("Is PD-1 expressed? And CD16?", ("PDCD1", "FCGR3A")),
        ("Does the cell express Foxp3 and Ptprc?", ("FOXP3", "PTPRC")),
        ("Is it CD14+?", ("CD14",)),
        ("Is HLA-DRA there?", ("HLA-DRA",)),
        ("Is C19orf38 there?", ("C19orf38",)),
        # each of these words is a symbol in capitals
        ("Was the cell set of this type? Can it rest? Is the impact large?", ()),
        ("IS IT A MONOCYTE AND CAN IT MOVE", ()),
        ("Is it from a patient with COVID-19, and how many UMIs?", ()),
    ],
)
def test_genes(text, genes):
    assert named(text)[0] == genes


@pytest.mark.parametrize(
    ("text", "types"),
    [
        ("Is this an NK cell or a CD8 T cell?", ("natural killer cell", "CD8-positive, alpha-beta T cell")),
        ("Are these pDCs or Tregs?", ("plasmacytoid dendritic cell", "regulatory T cell")),
        ("Are there CD4+ T cells?", ("CD4-positive, alpha-beta T cell",)),
        ("Is it a CD14-positive monocyte?", ("CD14-positive monocyte",)),
        ("Is it a naive thymus-derived CD4-positive, alpha-beta T cell?",) * 1
        + (("naive thymus-derived CD4-positive, alpha-beta T cell",),),
        ("A lymphocyte of B lineage, lymphocyte and leukocyte", ("lymphocyte of B lineage", "lymphocyte", "leukocyte")),
        ("Is it a red blood cell or a microglia?", ("erythrocyte", "microglial cell")),
        ("What is this cell?", ()),
        ("Is it a killer cell?", ()),
    ],
)
def test_types(text, types):
    assert named(text)[1] == types
    # a gene in the name of a type is no gene
    assert named(text)[0] == ()


def test_pathways_and_unknown_genes():
    assert named("Does T cell receptor signaling run here?")[2] == ("T cell receptor signaling pathway",)
    assert named("Is glycolysis active?")[2] == ("glycolytic process",)
    assert named("Does it express ABCX9?")[3] == ("ABCX9",)
    assert named("Is the gene FOOB expressed?")[3] == ("FOOB",)
    assert named("Is that OK with the DNA?") == ((), (), (), ())


def test_each_is_named_once_with_how_it_is_written():
    m = mentions("Is CD138 the same as SDC1?")
    assert m.genes == ("SDC1",)
    assert m.written["SDC1"] == "CD138"
    assert m
    assert not Mentions()
