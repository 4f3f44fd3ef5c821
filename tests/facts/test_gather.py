import pytest

from bioverse_sc.facts import gather
from tests.facts.making import MONOCYTE, PLASMA, T_CELL, cell_of, cells_of, texts

MEMORY = "CD4-positive, alpha-beta memory T cell"


def judged(question, cell, **kwargs):
    return texts(gather(question, cell, **kwargs), "judgment")


@pytest.mark.parametrize(
    ("question", "judgment"),
    [
        ("Is it a plasma cell?", "The cell is a plasma cell. This is sure."),
        ("Is it a leukocyte?", "The cell is a leukocyte, because plasma cells are leukocytes. This is sure."),
        ("Is it a T cell?", "The cell is not a T cell. The cell is a plasma cell."),
        (
            "Is it an IgG plasma cell?",
            "It cannot be told whether the cell is an IgG plasma cell. "
            "The cell is labelled plasma cell, which is wider.",
        ),
        ("Does it express MZB1?", "The cell expresses MZB1 with 12 counts."),
        ("Does it express NKG7?", "NKG7 was not measured, so it cannot be told whether the cell expresses it."),
        ("Does it express ABCX9?", "ABCX9 is not the symbol of a known human gene, so nothing can be told about it."),
        ("Is CD3D expressed?", "CD3D is not detected in the cell, as is usual for plasma cells."),
        ("Is SDC1 expressed?", "The cell expresses SDC1 with 1 count."),
        ("Is TNFRSF17 there?", "TNFRSF17 is not detected in the cell, which says little at this depth."),
        ("Anything unusual?", "Nothing unusual is seen in the cell."),
    ],
)
def test_judgments(question, judgment):
    assert judged(question, cell_of(PLASMA))[0] == judgment


def test_absence_that_tells():
    said = judged("Is S100A8 expressed?", cell_of({"CD14": 1}, "CD14-positive monocyte"))[0]
    assert said.startswith("S100A8 is not detected in the cell. A CD14-positive monocyte of this depth would show it")


def test_a_possible_type():
    doubtful = cell_of(MONOCYTE, "CD14-positive monocyte", 0.6, others={"naive B cell": 0.35})
    said = judged("Could it be a B cell?", doubtful)
    assert said[0] == "The cell is probably not a B cell. The cell is a CD14-positive monocyte."
    assert said[1] == "A B cell is possible, with a probability of 0.35."


def test_a_type_that_is_as_likely_as_the_label():
    doubtful = cell_of(MONOCYTE, "CD14-positive monocyte", 0.4, others={"naive B cell": 0.38})
    assert judged("Could it be a B cell?", doubtful) == [
        "It is not certain whether the cell is a B cell.",
        "A B cell is possible, with a probability of 0.38.",
        "The label CD14-positive monocyte has a probability of 0.40.",
    ]
    assert texts(doubtful.facts())[0] == "The cell is most likely a CD14-positive monocyte."


def test_a_type_that_was_no_choice_is_not_ruled_out():
    said = judged("Is it a Th17 cell?", cell_of(T_CELL, MEMORY))
    assert said[0].startswith("It cannot be told whether the cell is a T-helper 17 cell.")
    assert judged("Is it a Th17 cell?", cell_of(PLASMA))[0].startswith("The cell is not a T-helper 17 cell.")


def test_an_unknown_cell():
    cell = cells_of([PLASMA], ["unknown"], [{"unknown": 0.7, "plasma cell": 0.3}])[0]
    said = judged("Is it a B lineage cell, such as a plasma cell?", cell)
    assert "It cannot be told whether the cell is a plasma cell, because its type is unknown." in said


def test_marker_of_the_label_or_not():
    assert "SDC1 is a marker of plasma cells, named by 14 sources." in judged("Is SDC1 a marker?", cell_of(PLASMA))
    said = judged("Is FCN1 a marker?", cell_of(PLASMA))[0]
    assert said.startswith("FCN1 is no known marker of plasma cells. FCN1 is a known marker of ")
    # a marker of T cells that CD4 T cells hardly have
    said = judged("Is CD8A a marker?", cell_of(T_CELL, MEMORY))[0]
    assert said == f"CD8A is a marker of T cells, but it is low in {MEMORY}s."


def test_pathways_and_states():
    said = judged("Is T cell receptor signaling active?", cell_of(T_CELL, MEMORY))
    assert said[0].startswith("The cell expresses 2 of the ")
    assert said[1] == "Expression of its genes does not prove that a pathway is active."
    assert judged("Is it dividing?", cell_of(T_CELL, MEMORY))[0].startswith(
        "The cell does not show signs of proliferation"
    )
    assert judged("Is it dividing?", cell_of(T_CELL | {"MKI67": 2, "TOP2A": 3, "CDK1": 1}, MEMORY))[0].startswith(
        "The cell shows signs of proliferation: it expresses TOP2A"
    )


def test_trust_differs_between_right_and_wrong_calls():
    right = judged("Is that a safe call?", cell_of(PLASMA))
    wrong = judged("Is that a safe call?", cell_of(T_CELL, "plasma cell", 0.2, others={MEMORY: 0.7}))
    assert right[0] == "The label plasma cell is sure."
    assert "Nothing that was measured speaks clearly against plasma cell." in right
    assert wrong[0] == "The label plasma cell is not certain."
    assert "No expressed marker speaks clearly for plasma cell." in wrong
    assert any("speaks against plasma cell" in text for text in wrong)


def test_earlier_questions_keep_what_it_means():
    cell = cell_of(PLASMA)
    assert any(t.startswith("The cell is not a T cell.") for t in judged("Why?", cell, earlier=["Is it a T cell?"]))
    assert any("full name of MZB1" in t for t in texts(gather("What does it do?", cell, earlier=["Is MZB1 there?"])))
    # a question of its own is not about the last gene
    assert judged("How many counts does it have?", cell, earlier=["Is MZB1 there?"]) == []


def test_order_and_number_of_facts():
    cell = cell_of(PLASMA)
    facts = gather("Does it express MZB1?", cell)
    assert len(facts) <= 20
    assert facts[0].topic == "judgment"
    assert not any("takes part in" in text or "plasma cell." in text for text in texts(facts))
    assert gather("What does MZB1 do?", cell)[0].about == "MZB1"
    assert len(gather("Describe the cell.", cell)) > 6
    assert len(gather("Describe the cell.", cell, most=3)) == 3
    assert len(set(texts(facts))) == len(facts)
    # what is asked for comes before the rest
    study = gather("Which tissue is it from?", cell_of(PLASMA, columns={"tissue": ["lung"]}))
    assert "The sample's tissue is lung." in texts(study[:3])


def test_several_cells_and_none():
    cells = {"Cell 1": cell_of(PLASMA), "Cell 2": cell_of(T_CELL, MEMORY)}
    said = judged("Is it a T cell?", cells)
    assert said[0].startswith("Cell 1 is not a T cell.")
    assert said[1].startswith("Cell 2 is a T cell,")
    facts = gather("What is a plasma cell?")
    assert facts
    assert {fact.about for fact in facts} == {"plasma cell"}
    assert gather("Is that so?") == []
