import numpy as np
import pytest
from scipy.sparse import csr_matrix

from bioverse_sc.facts import (
    REFUSAL,
    About,
    Fact,
    Known,
    cell_facts,
    check_answer,
    facts_about,
    refusal_about,
    shown_answer,
)

GENES = ["MS4A1", "CD79A", "CD3D", "LYZ"]


@pytest.fixture(scope="module")
def cell():
    counts = csr_matrix([[4.0, 6.0, 0.0, 1.0]])
    expressed = csr_matrix(counts > 0, dtype=np.float32)
    return cell_facts(
        counts, expressed, GENES, ["B cell", "T cell"], ["B cell"], np.array([[0.93, 0.07]]), logged=False
    )[0]


def known(text, similarity, entity="MKTAYIAK"):
    return Known(entity, text, similarity, is_same=similarity == 1.0)


def test_facts_of_one_thing_call_it_by_its_noun(cell):
    assert any(fact.text == "The cell is a B cell." for fact in facts_about("What is it?", [About("Cell", cell=cell)]))
    protein = About("Protein", "protein", None, "MKTAYIAK", [known("Insulin.", 0.5)])
    texts = [fact.text for fact in facts_about("What is it?", [protein])]
    assert "The protein is 8 residues long." in texts
    assert "A known protein that is similar to the protein (similarity 0.50): Insulin." in texts


def test_facts_of_several_name_each_and_what_holds_of_them_together(cell):
    molecule = About("Molecule", "molecule", None, "CCO", [])
    proteins = [About(f"Protein {i}", "protein", None, "MKTAYIAK", []) for i in (1, 2)]
    facts = facts_about("Which does it bind?", [molecule, *proteins])
    together = {fact.text for fact in facts if " and " in fact.about}
    assert together == {f"Nothing known says whether the molecule and Protein {i} bind." for i in (1, 2)}
    facts = facts_about("What does it do to the cell?", [molecule, About("Cell", cell=cell)])
    assert "Nothing known says what the molecule does to the cell." in [fact.text for fact in facts]


def test_of_features_with_abundances_nothing_is_told():
    assert facts_about("What is it?", [About("Protein", "protein"), About("Molecule", "molecule")]) == []


def test_without_anything_the_tables_answer():
    facts = facts_about("What does CD3E do?")
    assert any("CD3E encodes" in fact.text for fact in facts)
    assert facts_about("How old is the donor?") == []


def test_refusals_name_what_they_are_about(cell):
    assert refusal_about([About("Cell", cell=cell)]) == REFUSAL
    assert refusal_about([About("Protein", "protein")]) == "That cannot be told from this protein."
    assert refusal_about() == "That cannot be told from what is known here."
    assert check_answer(refusal_about(), [])[0].verdict == "refusal"


FACTS = [
    Fact("The cell is a B cell.", "label", "Cell"),
    Fact("The cell expresses MS4A1 with 4 counts.", "judgment", "Cell"),
    Fact("The cell is not a T cell. The cell is a B cell.", "judgment", "Cell"),
]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("The cell is a B cell.", "The cell is a B cell."),
        ("No. The cell is not a T cell.", "No. The cell is not a T cell."),
        ("The cell is a B cell. It expresses CD19 with 7 counts.", "The cell is a B cell."),
        ("The cell is a monocyte.", "refused"),
        # a yes that nothing bears out is not shown either
        ("Yes. The donor is old.", "refused"),
        ("Yes. That cannot be told from this cell.", "That cannot be told from this cell."),
        ("", "refused"),
        # what was said before, in the same or in other words
        ("The cell is a B cell. The cell is a B cell.", "The cell is a B cell."),
        ("The cell expresses MS4A1 with 4 counts. It expresses MS4A1.", "The cell expresses MS4A1 with 4 counts."),
        ("The cell is not a T cell. The cell is a B cell.", "The cell is not a T cell. The cell is a B cell."),
        # cut off at the longest length
        ("The donor is old. The cell is a B cell", "The cell is a B cell"),
        ("The cell is a B cell. The cell expresses MS4A1 with 4", "The cell is a B cell."),
        ("The cell is a B cell", "The cell is a B cell"),
    ],
)
def test_what_the_facts_do_not_support_is_left_out(written, shown):
    assert shown_answer(written, FACTS, refusal="refused")[0] == shown


def test_a_sentence_about_another_thing_is_not_said_already():
    facts = [
        Fact("Cell 1 is a B cell.", "label", "Cell 1"),
        Fact("Cell 2 has 1200 counts of 900 genes.", "numbers", "Cell 2"),
        Fact("Cell 2 is a B cell.", "label", "Cell 2"),
    ]
    written = " ".join(fact.text for fact in facts)
    assert shown_answer(written, facts)[0] == written


def test_labels_of_two_cells_are_not_exchanged():
    facts = [
        Fact("Cell 1 is a B cell.", "label", "Cell 1"),
        Fact("Cell 2 is a T cell.", "label", "Cell 2"),
        *(Fact(f"Cell {i} has {i}200 counts of 900 genes.", "numbers", f"Cell {i}") for i in (1, 2)),
    ]
    verdicts = {text: check_answer(text, facts)[0].verdict for text in ("Cell 2 is a B cell.", "Cell 2 is a T cell.")}
    assert verdicts == {"Cell 2 is a B cell.": "contradicted", "Cell 2 is a T cell.": "supported"}


LABEL = [
    Fact("The cell expresses the markers MS4A1 and CD79A of B cells.", "markers", "Cell"),
    Fact("The label is sure. Its probability is 0.93.", "certainty", "Cell"),
    Fact("The next most likely type is T cell, with a probability of 0.07.", "runner-up", "Cell"),
    Fact(
        "CD3D is not detected, which speaks against T cell. A T cell of this depth would show it with a probability of "
        "0.95.",
        "absence",
        "Cell",
    ),
]


@pytest.mark.parametrize(
    "paraphrase",
    [
        "MS4A1 and CD79A point to a B cell.",
        "Its MS4A1 and CD79A fit a B cell.",
        "The label rests on MS4A1 and CD79A, markers of B cells.",
        "MS4A1 and CD79A are expressed and mark B cells.",
        "With MS4A1 and CD79A the cell has known markers of B cells.",
        "The runner-up is T cell, with 0.07.",
        "A T cell is the next candidate, with a probability of 0.07.",
        "After it comes T cell (0.07).",
        "That makes the label sure: its probability is 0.93.",
        "So the label is sure (0.93).",
        "Against T cell speaks that CD3D is not detected: such a cell would show it with a probability of 0.95.",
        "CD3D is missing, though a T cell of this depth would show it with a probability of 0.95.",
    ],
)
def test_usual_paraphrases_are_supported_and_their_changes_are_not(paraphrase):
    assert [s.verdict for s in check_answer(paraphrase, LABEL)] == ["supported"]
    for right, wrong in (
        ("MS4A1", "CD19"),
        ("T cell", "monocyte"),
        ("0.07", "0.70"),
        ("0.93", "0.39"),
        ("CD3D", "CD3E"),
    ):
        if right in paraphrase:
            assert check_answer(paraphrase.replace(right, wrong), LABEL)[0].verdict != "supported", wrong


OF_TABLES = Fact("The best known markers of B cells are MS4A1, CD79A and CD19.", "markers", "B cell")
UNUSUAL = Fact(
    "The cell also expresses GYPA and ALAS2, which are specific to erythroid lineage cells. This is unusual in B "
    "cells.",
    "unusual",
    "Cell",
)


@pytest.mark.parametrize(
    ("written", "is_supported"),
    [
        ("MS4A1 and CD79A support the call.", True),
        ("ACTB supports the call.", False),
        # a table says that it is a marker, and nothing that the cell expresses it
        ("As other B cells do, it expresses CD19.", False),
        ("Its CD19 is a marker of B cells.", False),
        ("The label rests on CD19, a marker of B cells.", False),
        ("CD19 points to a B cell.", False),
        ("CD19 is a marker of B cells.", True),
        ("Unusual are GYPA and ALAS2, specific to erythroid lineage cells.", True),
        ("What is unusual: it expresses GYPA, which is specific to erythroid lineage cells.", True),
        ("What is unusual: it expresses MS4A1.", False),
        ("MS4A1 is unusual here, as it is specific to B cells.", False),
        ("The label is sure.", True),
        ("The label is fairly sure.", False),
        ("The genes leave it open: the call is certain, with a probability of 0.93.", False),
    ],
)
def test_a_style_of_its_own_says_no_more_than_the_facts(written, is_supported):
    facts = [*LABEL, OF_TABLES, UNUSUAL, Fact("The cell expresses ACTB with 9 counts.", "judgment", "Cell")]
    facts.append(Fact("MS4A1 is specific to B cells.", "markers", "MS4A1"))
    assert [sentence.verdict == "supported" for sentence in check_answer(written, facts)] == [is_supported]


def test_a_label_that_is_fairly_sure_is_not_sure():
    facts = [Fact("The label is fairly sure. Its probability is 0.84.", "certainty", "Cell")]
    assert check_answer("The label is fairly sure.", facts)[0].verdict == "supported"
    assert check_answer("The label is sure.", facts)[0].verdict != "supported"


def test_only_what_the_question_names_among_several(cell):
    things = [
        About("Cell", cell=cell),
        About("Protein", "protein", text="MKTAYIAK"),
        About("Molecule", "molecule", text="CCO"),
    ]

    def told_of(question, things=things):
        return {fact.about for fact in facts_about(question, things) if " and " not in fact.about}

    assert told_of("What is the protein?") == {"Protein"}
    assert told_of("Which compound is it?") == {"Molecule"}
    assert told_of("What does the drug do to the cell?") == {"Cell", "Molecule"}
    assert told_of("What is the cell?") == {"Cell"}
    assert told_of("What have we got here?") == {"Cell", "Protein", "Molecule"}
    two = [About(f"Protein {i}", "protein", text="MKTAYIAK") for i in (1, 2)]
    assert told_of("What is Protein 2?", two) == {"Protein 2"}
    assert told_of("Which of the proteins is an enzyme?", two) == {"Protein 1", "Protein 2"}
