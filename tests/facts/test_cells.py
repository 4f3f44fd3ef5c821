import numpy as np
import pytest
from scipy.sparse import csr_matrix

from bioverse_sc.facts import TOPICS, cell_facts
from tests.facts.making import GENES, LABELS, MONOCYTE, PLASMA, T_CELL, cell_of, cells_of, texts


def test_label_certainty_and_wider_types():
    cell = cell_of(PLASMA)
    assert (cell.term, cell.certainty) == ("CL:0000786", "sure")
    assert cell.wider == (
        "antibody secreting cell",
        "lymphocyte of B lineage",
        "lymphocyte",
        "leukocyte",
        "hematopoietic cell",
    )
    said = texts(cell.facts())
    assert said[:2] == ["The cell is a plasma cell.", "The label is sure. Its probability is 0.98."]
    assert "The Cell Ontology id of the label is CL:0000786." in said


@pytest.mark.parametrize(
    ("probability", "words"),
    [(0.9, "sure"), (0.89, "fairly sure"), (0.5, "likely, but not certain"), (0.49, "not certain")],
)
def test_certainty_in_words(probability, words):
    assert cell_of(PLASMA, probability=probability).certainty == words


def test_probability_of_a_wider_label_is_that_of_its_kinds():
    cell = cells_of([PLASMA], ["lymphocyte"], [{"plasma cell": 0.5, "naive B cell": 0.3, "unknown": 0.2}])[0]
    assert cell.probability == pytest.approx(0.8)
    assert cell.runners_up == ()


def test_label_in_the_words_of_the_user():
    cell = cells_of([PLASMA], ["Plasma"], [{"plasma cell": 0.9}])[0]
    assert texts(cell.facts(), "label")[0] == "The cell is labelled Plasma. The cell is a plasma cell."


def test_best_evidenced_markers_come_first():
    cell = cell_of(PLASMA | T_CELL)
    # named by 14, 11, 11 and 10 sources
    assert [m.gene for m in cell.markers][:3] == ["SDC1", "MZB1", "JCHAIN"]
    assert cell.markers[1].amount == 12
    assert cell.markers[1].specificity.home == "antibody secreting cell"
    # a marker of T cells is none of plasma cells or of a wider type alone
    assert "CD3D" not in [m.gene for m in cell.markers if m.marks == "plasma cell"]
    said = texts(cell.facts(), "markers")
    assert said[0] == "The cell expresses the markers SDC1, MZB1, JCHAIN and XBP1 of plasma cells."
    assert (
        "The cell expresses MZB1 with 12 counts. MZB1 is much higher in antibody secreting cells than in other types."
        in said
    )


def test_no_marker_is_said():
    assert texts(cell_of({"EPCAM": 3}).facts(), "markers") == ["The cell expresses no known marker of plasma cells."]


def test_absence_is_told_only_where_the_depth_makes_it_telling():
    # no marker of plasma cells in 20,000 counts, and in 100
    deep = cell_of({"ACTB": 20_000})
    shallow = cells_of([{"ACTB": 100}], ["plasma cell"], [{"plasma cell": 0.9}])[0]
    assert len(deep.absences) == 2
    assert all(absence.probability >= 0.8 for absence in deep.absences)
    assert "which speaks against plasma cell" in texts(deep.facts(), "absence")[0]
    assert shallow.absences == ()
    # SDC1 is the best known marker, and too low for its absence to tell
    assert "SDC1" not in [absence.gene for absence in cell_of({"ACTB": 2500}).absences]


def test_absence_of_what_is_not_measured_is_never_told():
    genes = [gene for gene in GENES if gene not in ("JCHAIN", "MZB1")]
    absent = {absence.gene for absence in cell_of({"ACTB": 20_000}, genes=genes).absences}
    assert absent
    assert not absent & {"JCHAIN", "MZB1"}


def test_what_speaks_for_the_runner_up():
    wrong = cell_of({"MS4A1": 3, "CD79A": 5, "TCL1A": 4}, "CD14-positive monocyte", 0.01, others={"naive B cell": 0.98})
    assert set(wrong.rival_markers) == {"MS4A1", "CD79A", "TCL1A"}
    assert texts(wrong.facts())[0] == "The cell is labelled CD14-positive monocyte, but another type is more likely."
    said = texts(wrong.facts(), "runner-up")
    assert said[0] == "A more likely type is naive B cell, with a probability of 0.98."
    assert "which speak for naive B cell" in said[1]
    assert {absence.gene for absence in wrong.absences} & {"S100A8", "S100A9", "LYZ"}


def test_two_cells_caught_together_are_unusual():
    doublet = cell_of(MONOCYTE | {"MS4A1": 4, "CD79A": 6, "TCL1A": 8}, "CD14-positive monocyte")
    assert doublet.strangers[0] == "lymphocyte of B lineage"
    assert "This is unusual in CD14-positive monocytes" in texts(doublet.facts(), "unusual")[0]
    assert cell_of(MONOCYTE, "CD14-positive monocyte").strangers == ("", ())
    # one gene, or one count, is nothing
    assert cell_of(MONOCYTE | {"MS4A1": 4}, "CD14-positive monocyte").strangers == ("", ())
    assert cell_of(MONOCYTE | {"MS4A1": 1, "CD79A": 1}, "CD14-positive monocyte").strangers == ("", ())


def test_haemoglobin_and_mitochondria():
    cell = cell_of(T_CELL | {"HBB": 300, "HBA1": 100, "MT-CO1": 600}, "CD4-positive, alpha-beta memory T cell")
    assert cell.has_haemoglobin
    assert cell.mitochondrial == pytest.approx(600 / 2500)
    said = " ".join(texts(cell.facts(), "unusual"))
    assert "haemoglobin" in said
    assert "24 percent" in said
    assert texts(cell_of(T_CELL, "CD4-positive, alpha-beta memory T cell").facts(), "unusual") == []


def test_few_counts_are_said():
    few = cells_of([T_CELL | {"ACTB": 100}], ["unknown"], [{"unknown": 1.0}])[0]
    assert texts(few.facts(), "unusual") == ["The cell has few counts, so a gene that is not detected says little."]


@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ({"MKI67": 2, "TOP2A": 3, "CDK1": 1}, "proliferation"),
        ({"ISG15": 20, "IFI6": 8, "IFIT1": 3, "IFIT3": 4, "MX1": 3, "IFIT2": 1}, "interferon"),
    ],
)
def test_states(counts, state):
    cell = cell_of(T_CELL | counts, "CD4-positive, alpha-beta memory T cell")
    assert list(cell.states) == [state]
    assert set(cell.states[state]) == set(counts)
    one = dict(list(counts.items())[:1])
    assert cell_of(T_CELL | one, "CD4-positive, alpha-beta memory T cell").states == {}


def test_numbers_of_counts_and_not_of_logarithms():
    counts = PLASMA | {"MT-CO1": 100, "ACTB": 2000}
    cell = cells_of([counts], ["plasma cell"], [{"plasma cell": 1.0}])[0]
    assert texts(cell.facts(), "numbers") == [
        "The cell has 2178 counts of 6 genes.",
        "The share of mitochondrial counts is 5 percent.",
    ]
    total = sum(counts.values())
    logs = {gene: np.log1p(count * 1e4 / total) for gene, count in counts.items()}
    logged = cells_of([logs], ["plasma cell"], [{"plasma cell": 1.0}], logged=True)[0]
    assert texts(logged.facts(), "numbers")[0] == "The cell expresses 6 genes. Its counts are not known."
    assert np.isnan(logged.total)
    # the depth shows in the logarithms, as the least of the counts is one
    assert logged.depth == pytest.approx(cell.depth)
    assert not any("counts" in text for text in texts(logged.facts(), "markers"))


def test_study_columns():
    cell = cell_of(PLASMA, columns={"tissue": ["lung"], "cell_source": ["biopsy"]})
    assert texts(cell.facts(), "study") == ["The sample's tissue is lung.", "The sample's cell source is biopsy."]


def test_groups_are_told_by_shares():
    counts = {gene: 50 * n for gene, n in PLASMA.items()} | {"ACTB": 100_000, "CD3D": 2, "LYZ": 30}
    share = {"MZB1": 0.94, "JCHAIN": 0.99, "XBP1": 0.6, "SDC1": 0.4, "ACTB": 1.0, "CD3D": 0.02, "LYZ": 0.2}
    group = cells_of([counts], ["plasma cell"], [{"plasma cell": 0.95}], share=[share])[0]
    assert group.is_group
    said = texts(group.facts("Cluster"))
    assert said[0] == "The cluster consists of plasma cells."
    assert any(text.startswith("94 percent of the cells of the cluster express MZB1.") for text in said)
    assert group.amount("CD3D") == 0
    assert group.amount("LYZ") == pytest.approx(0.2)
    assert group.amount("NKG7") is None


def test_unknown_cells():
    cell = cells_of([PLASMA], ["unknown"], [{"unknown": 0.7, "plasma cell": 0.3}])[0]
    said = texts(cell.facts())
    assert said[0] == "The type of the cell is unknown."
    assert said[1] == (
        "No type is likely enough for a label. The likeliest is plasma cell, with a probability of 0.30."
    )


def test_sentences_are_short_plain_and_few():
    for cell in (
        cell_of(PLASMA),
        cell_of(T_CELL | MONOCYTE, "CD14-positive monocyte", 0.6, others={"naive B cell": 0.3}),
    ):
        facts = cell.facts()
        assert 8 <= len(facts) <= 18
        for fact in facts:
            assert fact.topic in TOPICS
            assert fact.about == "Cell"
            assert fact.text.isascii()
            assert fact.text.endswith(".")
            assert all(len(sentence.split()) <= 32 for sentence in fact.text.split(". "))


def test_name_and_aliases():
    cell = cell_of({"SDC1": 2})
    assert texts(cell.facts("Cell 2"))[0] == "Cell 2 is a plasma cell."
    assert cell.amount("CD138") == 2
    other = cells_of([{"CD138": 2, "ACTB": 9}], ["plasma cell"], [{"plasma cell": 1}], genes=["CD138", "ACTB"])[0]
    assert other.amount("SDC1") == 2


def test_rows_are_in_order_and_inputs_stay():
    matrix = csr_matrix(np.array([[1.0, 0.0], [0.0, 2.0]]))
    before = matrix.copy()
    shares = csr_matrix((matrix > 0).astype(float))
    table = np.tile([1.0, 0, 0, 0, 0], (2, 1))
    first, second = cell_facts(matrix, shares, ["MZB1", "XBP1"], LABELS, ["plasma cell"] * 2, table, logged=False)
    assert (first.amounts, second.amounts) == ({"MZB1": 1.0}, {"XBP1": 2.0})
    assert (matrix != before).nnz == 0
