import pytest

from bioverse_sc.facts import ASKED, gather, kinds_asked, wordings
from tests.facts.making import PLASMA, cell_of


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Who is this cell?", "cell.identity"),
        ("Is there a second candidate?", "cell.runner_up"),
        ("Can you say how many UMIs were captured?", "cell.counts"),
        ("How much mitochondrial RNA does it have?", "cell.mitochondrial"),
        ("Is it going through the cell cycle?", "cell.proliferating"),
        ("Can I rely on this annotation?", "cell.certainty"),
        ("Which larger group does it fall under?", "cell.wider"),
        ("Does this one have any GZMB?", "cell.expresses"),
        ("KRTL7+ or KRTL7-?", "cell.expresses"),
        ("Is this a monocyte or not?", "cell.is_type"),
        ("Which cells carry MS4A1?", "gene.marks"),
        ("What on earth is a podocyte?", "type.definition"),
        ("Which genes belong to glycolysis?", "pathway.genes"),
        ("Did the donor drink coffee?", "refused"),
        ("Which antibiotic would get rid of it?", "refused"),
    ],
)
def test_what_is_asked_in_words_that_are_not_in_the_table(question, kind):
    assert question not in str(wordings())
    kinds = kinds_asked(question)
    assert sum(kinds.values()) == pytest.approx(1)
    assert kind in sorted(kinds, key=kinds.get)[-2:]


def relevance(question, words, **kwargs):
    facts = gather(question, cell_of(PLASMA), **kwargs)
    return max((fact.relevance for fact in facts if words in fact.text), default=0.0)


def test_a_fact_that_is_not_asked_for_is_not_shown_or_has_no_relevance():
    assert relevance("How many UMIs were captured?", " counts of ") > 0.5
    assert relevance("How many UMIs were captured?", "The cell is a plasma cell.") == 0
    assert relevance("What is it?", "The cell is a plasma cell.") > 0.3
    assert relevance("Did the donor drink coffee?", "The cell is a plasma cell.") < ASKED


def test_whom_a_gene_is_specific_to_is_told_where_it_was_named_before():
    facts = gather("Which cells is it specific to?", earlier=["What does FOXP3 do?"])
    assert any("FOXP3 is specific to" in fact.text and fact.relevance > ASKED for fact in facts)


def test_a_gene_is_asked_about_where_one_was_named():
    assert relevance("And is that a marker?", "MZB1 is a marker", earlier=["Is MZB1 there?"]) > 0.3
    assert all(fact.about == "Cell" for fact in gather("And is that a marker?", cell_of(PLASMA)))
