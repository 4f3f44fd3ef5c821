import pandas as pd
import pytest

from bioverse_sc.facts import Known, Memory, binding_facts, closeness, entity_facts, nothing_near, short_name
from bioverse_sc.models import load

INSULIN = (
    "MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEALYLVCGERGFFYTPKTRREAEDLQVGQVELGGGPGAGSLQPLALEGSLQKRGIVEQCCTSICSLYQLENYCN"
)
GFP = (
    "MSKGEELFTGVVPILVELDGDVNGHKFSVSGEGEGDATYGKLTLKFICTTGKLPVPWPTLVTTFSYGVQCFSRYPDHMKQHDFFKSAMPEGYVQERTIFFKDDGNYKTRA"
    "EVKFEGDTLVNRIELKGIDFKEDGNILGHKLEYNYNSHNVYIMADKQKNGIKVNFKIRHNIEDGSVQLADHYQQNTPIGDGPVLLPDNHYLSTQSALSKDPNEKRDHMVLL"
    "EFVTAAGITHGMDELYK"
)


def known(text, similarity, *, is_same=False, **more):
    return Known("MKTAYI", text, similarity, is_same, **more)


def texts(facts, topic):
    return [fact.text for fact in facts if fact.topic == topic]


@pytest.mark.parametrize(
    ("mod", "similarity", "is_same", "expected"),
    [
        ("protein", 1.0, True, "same"),
        ("protein", 0.2, False, "related"),
        ("protein", 0.19, False, "distant"),
        ("protein", 0.09, False, "unknown"),
        ("molecule", 0.7, False, "related"),
        ("molecule", 0.4, False, "distant"),
        ("molecule", 0.39, False, "unknown"),
    ],
)
def test_how_close_the_nearest_is(mod, similarity, is_same, expected):
    near = [known("Insulin.", similarity, is_same=is_same), known("Other.", 0.01)]
    assert closeness(mod, near) == expected


def test_nothing_near_is_unknown():
    assert closeness("protein", []) == "unknown"
    told = "Nothing known is near this molecule (nearest similarity 0.00), so it cannot be told what it is."
    assert nothing_near("molecule", []) == told


def test_a_known_human_protein_is_told_in_full():
    near = load("mini").memory["protein"].nearest([INSULIN])[0]
    facts = entity_facts("protein", INSULIN, near, name="Protein 1")
    assert texts(facts, "properties") == ["Protein 1 is 110 residues long."]
    first, *others = texts(facts, "identity")
    assert first.startswith("Protein 1 is known. It is this: Insulin (INS), human. It is insulin, a peptide hormone")
    assert others == [
        "The name of Protein 1 is Insulin.",
        "The gene of Protein 1 is INS.",
        "Protein 1 is a human protein.",
    ]
    assert texts(facts, "judgment") == ["It is known what Protein 1 is: Insulin (INS), human."]
    assert {fact.about for fact in facts} == {"Protein 1"}


def test_a_protein_that_nothing_is_near_to_is_not_told():
    facts = entity_facts("protein", GFP, load("mini").memory["protein"].nearest([GFP])[0])
    assert not texts(facts, "identity")
    assert texts(facts, "nearest")[0].startswith(
        "No known protein is near Protein. The nearest has a similarity of 0.0"
    )
    assert texts(facts, "judgment") == ["What Protein is cannot be told, as nothing known is near it."]


def test_relatives_are_told_as_such_and_what_is_below_the_threshold_is_left_out():
    near = [known("Insulin (INS), human. It binds.", 0.66), known("Relaxin.", 0.15), known("Titin.", 0.05)]
    facts = entity_facts("protein", "MKTA-yiak*", near)
    assert texts(facts, "properties") == ["Protein is 8 residues long."]
    assert texts(facts, "nearest") == [
        "A known protein that is very similar to Protein (similarity 0.66): Insulin (INS), human.",
        "A known protein that is distantly similar to Protein (similarity 0.15): Relaxin.",
    ]
    family = "It is probably a member of the same family as Insulin (INS), human. Which member it is cannot be told."
    assert texts(facts, "judgment") == [f"Protein itself is not known. {family}"]
    assert "that is not certain" in texts(entity_facts("protein", "MKTA", near[1:]), "judgment")[0]


def test_a_molecule_is_counted_and_its_stereoisomers_are_no_relatives():
    pytest.importorskip("rdkit")
    memory = Memory(
        "molecule", pd.DataFrame({"entity": ["C[C@H](N)C(=O)O"], "text": ["The molecule is an alanine. A."]})
    )
    facts = entity_facts("molecule", "CC(N)C(=O)O", memory.nearest(["CC(N)C(=O)O"])[0], name="Molecule")
    assert texts(facts, "properties") == [
        "Molecule has the formula C3H7NO2 and a molecular weight of 89.1.",
        "Molecule has no ring.",
    ]
    assert texts(facts, "judgment") == ["Molecule is the following one or a stereoisomer of it: an alanine."]
    same = entity_facts("molecule", "OC(=O)[C@@H](N)C", memory.nearest(["OC(=O)[C@@H](N)C"])[0], name="Molecule")
    assert texts(same, "judgment") == ["It is known what Molecule is: an alanine."]


def test_what_a_known_one_is_called():
    assert short_name(known("Insulin (INS), human. It binds.", 1.0, name="Insulin")) == "Insulin (INS), human"
    assert short_name(known("The molecule is a 1.2-ester that binds. It is.", 1.0)) == "a 1.2-ester that binds"
    assert short_name(known("Cuts.", 1.0, name="Trypsin")) == "Trypsin"


INHIBITOR = "The molecule is a drug. It has a role as an EC 3.4.21.4 (trypsin) inhibitor and a poison."


@pytest.mark.parametrize(
    ("molecule", "protein", "expected"),
    [
        (
            known(INHIBITOR, 1.0, is_same=True),
            known("Trypsin.", 1.0, is_same=True, ec="3.4.21.4"),
            "Molecule probably binds Protein, as it is known to inhibit this kind of enzyme.",
        ),
        (
            known(INHIBITOR, 0.8),
            known("Trypsin.", 0.5, ec="3.4.21.4"),
            "Molecule may bind Protein. That is concluded from what is similar to them, and not known.",
        ),
        (known(INHIBITOR, 0.6), known("Trypsin.", 0.5, ec="3.4.21.4"), None),
        (known(INHIBITOR, 0.8), known("Trypsin.", 0.1, ec="3.4.21.4"), None),
        (known(INHIBITOR, 1.0, is_same=True), known("Pepsin.", 1.0, is_same=True, ec="3.4.23.1"), None),
        (known("The molecule is a drug.", 1.0, is_same=True), known("Titin.", 1.0, is_same=True), None),
    ],
)
def test_whether_they_bind(molecule, protein, expected):
    facts = binding_facts([molecule], [protein])
    nothing = "Nothing known says whether Molecule and Protein bind."
    assert texts(facts, "judgment") == [expected or nothing]
    assert len(facts) == (3 if expected else 1)
