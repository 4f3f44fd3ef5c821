import random
import re

import pytest

from bioverse_sc.facts import REFUSAL, VERDICTS, Fact, check_answer, gather
from tests.facts.making import MONOCYTE, PLASMA, T_CELL, cell_of

TEXTS = [
    "The cell is a plasma cell.",
    "The label is sure. Its probability is 0.98.",
    "The next most likely type is plasmablast, with a probability of 0.02.",
    "A plasma cell is a kind of antibody secreting cell, lymphocyte of B lineage, lymphocyte and leukocyte.",
    "The Cell Ontology id of the label is CL:0000786.",
    "The cell expresses the markers MZB1, XBP1, CD38, FKBP11 and SPCS3 of plasma cells.",
    "The cell expresses MZB1 with 6 counts. MZB1 is specific to antibody secreting cells.",
    "The cell expresses XBP1 with 2 counts. XBP1 is not specific; it is also high in plasmablasts.",
    "CD3D is not detected in the cell, as is usual for plasma cells.",
    "CD3D is specific to T cells.",
    "The cell is not a B cell. The cell is a plasma cell.",
    "The cell has 2632 counts of 1027 genes.",
    "The share of mitochondrial counts is 6 percent.",
    "The sample's tissue is bone marrow.",
    "ABCX9 is not the symbol of a known human gene, so nothing can be told about it.",
    "The cell does not show signs of proliferation: none of the genes for this is detected.",
    "It cannot be told whether the cell is a T-helper 17 cell.",
    "XBP1 encodes a transcription factor that regulates MHC class II genes.",
]
FACTS = [Fact(text, "label", "Cell") for text in TEXTS]


def verdicts(answer, facts=FACTS):
    return [checked.verdict for checked in check_answer(answer, facts)]


@pytest.mark.parametrize(
    "answer",
    [
        "Yes, it is a plasma cell.",
        "A plasma cell.",
        "The cell is a plasma cell, with a probability of 0.98.",
        "No, the cell is not a B cell.",
        "The cell is a leukocyte.",
        "The label is sure, with a probability of 0.98.",
        "MZB1 is expressed.",
        "The cell expresses CD38, XBP1 and MZB1.",
        "With 6 counts, MZB1 is expressed by the cell.",
        "CD3D is not expressed.",
        "The cell has 2,632 counts.",
        "The tissue is bone marrow.",
        "The cell is a plasma cell because it expresses MZB1.",
        "It expresses MZB1, which is specific to antibody secreting cells.",
        "ABCX9 is not a known gene.",
        "It cannot be told whether the cell is a T-helper 17 cell.",
    ],
)
def test_supported(answer):
    assert verdicts(answer) == ["supported"]


@pytest.mark.parametrize(
    "answer",
    [
        "The cell is a B cell.",
        "The cell is a hepatocyte.",
        "A hepatocyte.",
        "The cell is a plasma cell, with a probability of 0.89.",
        "The cell is not a plasma cell.",
        "The cell expresses MZB1 with 2 counts.",
        "The cell expresses XBP1 with 6 counts.",
        "The cell does not express MZB1.",
        "The cell expresses CD3D.",
        "MZB1 is specific to T cells.",
        "The label is not sure.",
        "Its probability is 0.89.",
        "The next most likely type is monocyte.",
        "The cell has 1027 counts of 2632 genes.",
        "The share of mitochondrial counts is 16 percent.",
        "The tissue is lung.",
        "ABCX9 is a known gene.",
        "The cell is proliferating.",
        "The Cell Ontology id is CL:0000236.",
    ],
)
def test_contradicted(answer):
    checked = check_answer(answer, FACTS)
    assert [c.verdict for c in checked] == ["contradicted"]
    assert checked[0].fact is not None


@pytest.mark.parametrize(
    "answer",
    [
        "The cell expresses CD3E.",
        "The cell is a long-lived plasma cell.",
        "The cell expresses MZB1 and is activated by antigen.",
        "The cell is a plasma cell and will become a memory cell.",
        "MZB1 encodes a transcription factor.",
        "XBP1 encodes a kinase.",
        "The cell expresses the markers MZB1 and CD3E of plasma cells.",
        "It expresses XBP1, which is specific to antibody secreting cells.",
        "A leukocyte is a kind of plasma cell.",
        "The next most likely type is T cell, with a probability of 0.02.",
        "Yes.",
    ],
)
def test_not_supported(answer):
    assert verdicts(answer)[0] in ("not in the facts", "contradicted")


def test_the_name_before_a_definition_is_no_label():
    facts = [
        *FACTS,
        Fact("B cell: A lymphocyte of B lineage that is capable of B cell mediated immunity.", "type", "B cell"),
    ]
    assert verdicts("The cell is a B cell.", facts) == ["contradicted"]


def test_a_label_is_not_what_the_cell_is():
    facts = [
        Fact("The cell is labelled hepatocyte, but another type is more likely.", "label", "Cell"),
        Fact("A more likely type is naive B cell, with a probability of 0.90.", "runner-up", "Cell"),
    ]
    assert verdicts("The cell is labelled hepatocyte.", facts) == ["supported"]
    assert verdicts("The cell is a hepatocyte.", facts) == ["not in the facts"]


def test_an_absence_that_speaks_against_is_no_presence():
    facts = [
        Fact("MYL9 is not detected, which speaks against smooth muscle cell.", "absence", "Cell"),
        Fact("The absence of MYL9 speaks against smooth muscle cell.", "judgment", "Cell"),
    ]
    assert verdicts("The absence of MYL9 speaks against smooth muscle cell.", facts) == ["supported"]
    assert verdicts("MYL9 is detected, which speaks against smooth muscle cell.", facts) == ["contradicted"]


def test_likely_is_said_of_the_label():
    facts = [Fact("The label is likely, but not certain. Its probability is 0.60.", "certainty", "Cell")]
    assert verdicts("The label is likely, but not certain.", facts) == ["supported"]
    assert verdicts("The label is not likely.", facts) == ["contradicted"]


def test_refusals():
    assert verdicts(REFUSAL) == ["refusal"]
    assert verdicts("The age of the donor cannot be told.") == ["refusal"]
    assert set(verdicts(REFUSAL)) <= set(VERDICTS)


def test_sentences_are_checked_one_by_one_with_the_fact_that_decides():
    checked = check_answer("The cell is a plasma cell. It expresses CD3D. It is from lung.", FACTS)
    assert [c.text for c in checked] == ["The cell is a plasma cell.", "It expresses CD3D.", "It is from lung."]
    assert [c.verdict for c in checked] == ["supported", "contradicted", "not in the facts"]
    assert [TEXTS[c.fact] if c.fact is not None else None for c in checked] == [TEXTS[0], TEXTS[8], None]
    assert check_answer("", FACTS) == []
    assert verdicts("The cell is a plasma cell.", []) == ["not in the facts"]


CELLS = [
    cell_of(PLASMA),
    cell_of(T_CELL, "CD4-positive, alpha-beta memory T cell"),
    cell_of(MONOCYTE, "CD14-positive monocyte"),
]
QUESTIONS = ["Is it a B cell?", "Is CD3D expressed?", "Why do you call it that?", "What is LYZ?", "Is it dividing?"]
SENTENCES = [
    (facts, sentence)
    for cell in CELLS
    for question in QUESTIONS
    for facts in [[*gather(question, cell), *cell.facts()]]
    for fact in facts
    for sentence in re.split(r"(?<=[.])\s+(?=[A-Z])", fact.text)
]


def test_each_fact_is_supported_by_the_facts():
    wrong = [sentence for facts, sentence in SENTENCES if verdicts(sentence, facts) != ["supported"]]
    assert wrong == []


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r"\b(MZB1|CD3D|LYZ|JCHAIN|S100A8|IL7R)\b", "GATA3"),
        (r"(?<=with )\d+(?= count)", "77"),
        (r"(?<=probability of )0\.\d+", "0.44"),
        (r"\bis (?=an? |sure|specific|much)", "is not "),
        (r"\bexpresses (?!no )", "does not express "),
        (r"\.$", " and is activated by antigen."),
        (r"\.$", ", and it causes leukemia."),
    ],
)
def test_changed_facts_are_caught(pattern, replacement):
    changed = [(facts, re.sub(pattern, replacement, s, count=1)) for facts, s in SENTENCES if re.search(pattern, s)]
    sample = random.Random(0).sample(changed, min(60, len(changed)))
    missed = [text for facts, text in sample if verdicts(text, facts) == ["supported"]]
    assert len(sample) > 5
    assert missed == []


DISTANT = [
    Fact(text, "nearest", "Molecule")
    for text in (
        "A known molecule that is distantly similar to the molecule (similarity 0.50): a fatty alcohol.",
        "The molecule itself is not known. A known one that is distantly similar is this: a fatty alcohol.",
    )
]


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("It is a fatty alcohol.", "not in the facts"),
        ("The molecule is a fatty alcohol.", "not in the facts"),
        ("A similar known molecule is a fatty alcohol.", "supported"),
        ("It may be a fatty alcohol.", "supported"),
        (DISTANT[0].text, "supported"),
    ],
)
def test_what_is_known_of_a_relative_is_not_said_of_the_asked(answer, verdict):
    assert verdicts(answer, DISTANT) == [verdict]


def test_the_probability_of_the_next_type_is_not_that_of_the_label():
    assert verdicts("Its probability is 0.98.") == ["supported"]
    assert verdicts("Its probability is 0.02.") == ["contradicted"]
    assert verdicts("The next most likely type is plasmablast, with a probability of 0.02.") == ["supported"]
