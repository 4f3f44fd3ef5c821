"""Words, names and codes in the place of sequences and SMILES."""

import pytest

from bioverse_sc._modality import modality_of
from bioverse_sc.encoders._words import ACCESSION, is_missing, not_a_protein, not_smiles
from bioverse_sc.encoders.chemberta import canonical_smiles
from bioverse_sc.encoders.esm2 import clean_sequence

PROTEIN_WORDS, MOLECULE_WORDS = (modality_of(mod).placeholders for mod in ("protein", "molecule"))
PEPTIDES = {
    "oxytocin": "CYIQNCPLG",
    "vasopressin": "CYFQNCPRG",
    "glucagon": "HSQGTFTSDYSKYLDSRRAQDFVQWLMNT",
    "angiotensin II": "DRVYIHPF",
    "bradykinin": "RPPGFSPFR",
    "met-enkephalin": "YGGFM",
    "endomorphin": "YPWF",
    "substance P": "RPKPQQFFGLM",
    "gonadorelin": "EHWSYGLRPG",
    "somatostatin-14": "AGCKNFFWKTFTSC",
    "ovalbumin 257-264": "SIINFEKL",
    "fibronectin": "RGD",
    "fibronectin, four": "RGDS",
    "laminin": "IKVAV",
    "copper peptide": "GHK",
    "glutathione-like": "GAG",
    "FLAG": "DYKDDDDK",
    "HA": "YPYDVPDYA",
    "myc": "EQKLISEEDL",
    "His": "HHHHHH",
    "TAT": "GRKKRRQRRR",
    "amyloid": "KLVFF",
    "selenopeptide": "MKTAYIUKQRGSSS",
    "lower case": "cyiqncplg",
    "of every textbook": "PEPTIDE",
    "blocks": "MKTAYIAKQR QISFVKSHFS RQLEERLGLI EVQ",
}


@pytest.mark.parametrize("name", PEPTIDES)
def test_short_peptides_are_read(name):
    sequence = PEPTIDES[name]
    assert not is_missing(sequence, PROTEIN_WORDS)
    assert clean_sequence(sequence, 0) == sequence.upper().replace(" ", "")


@pytest.mark.parametrize("ending", ["{}", "{}*", "\n{}\n"])
def test_real_proteins_are_read(ending):
    from bioverse_sc.models import load

    known = load("mini").memory["protein"].table["entity"]
    assert len(known) > 100
    for row, sequence in enumerate(known):
        text = ending.format(sequence)
        assert not is_missing(text, PROTEIN_WORDS)
        assert clean_sequence(text, row)


WORDS = """unknown Unknown UNKNOWN None none nan NaN NAN NA N/A n/a null NULL - ? <NA> protein Protein missing TBD
'' (none) undefined antibody isotype control #N/A unassigned other seq"""
PHRASES = [
    "not available",
    "no sequence",
    "Not Found",
    "NO DATA",
    "sequence unavailable",
    "unknown protein",
    " unknown ",
]


@pytest.mark.parametrize("word", [*WORDS.split(), *PHRASES])
def test_words_for_nothing_are_missing_in_any_case(word):
    assert is_missing(word, PROTEIN_WORDS)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("GAPDH", "symbol of a gene"),
        ("gapdh", "symbol of a gene"),
        ("Gapdh", "name"),
        ("INS", "symbol of a gene"),
        ("VEGF", "symbol of a gene"),
        ("EGFR", "symbol of a gene"),
        ("P04637", "accession"),
        ("Q9Y6K9-2", "accession"),
        ("A0A024R1R8", "accession"),
        ("ENSP00000269305.4", "accession"),
        ("NP_000537.3", "accession"),
        ("1TUP_A", "accession"),
        ("P53_HUMAN", "accession"),
        (">sp|P04637|P53_HUMAN\nMEEPQSDPSV", "header"),
        (">p53\nMEEPQSDPSV", "header"),
        ("sp|P04637|P53_HUMAN", "accession"),
        ("Met-Lys-Thr-Ala", "three letters"),
        ("MetLysThr", "three letters"),
        ("MET-LYS-THR", "three letters"),
        ("Insulin", "name"),
        ("INSULIN", "word"),
        ("insulin", "word"),
        ("kinase", "name"),
        ("Albumin", "name"),
        ("HEMOGLOBIN", "word"),
        ("heat shock protein", "words"),
        ("T CELL", "words"),
        ("CCOC", "word"),
        ("CC(=O)O", "molecule"),
        ("InChI=1S/CH4/h1H4", "molecule"),
        ("1 mktayiakqr qisfvkshfs 21 rqleerlgli", "numbers"),
    ],
)
def test_what_is_no_sequence_is_told_what_it_is(text, what):
    assert what in str(not_a_protein(text))
    with pytest.raises(ValueError, match=r"in row 7 is .*which"):
        clean_sequence(text, 7)


@pytest.mark.parametrize("text", ["GAPDH*", "INS*", "MAUXOBZ*", "kinase*"])
def test_a_stop_at_the_end_says_that_a_sequence_is_meant(text):
    assert clean_sequence(text, 0) == text[:-1].upper()


def test_only_unknown_residues_are_no_sequence():
    with pytest.raises(ValueError, match="only X"):
        clean_sequence("XXXX", 0)


def test_an_accession_is_the_whole_text():
    assert not ACCESSION.fullmatch("MEEPQSDPSV")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("InChI=1S/C2H6O/c1-2-3/h3H,2H2,1H3", r"Chem\.MolToSmiles\(Chem\.MolFromInchi"),
        ("1S/C2H6O/c1-2-3/h3H,2H2,1H3", "InChI"),
        ("BSYNRYMUTXBXSQ-UHFFFAOYSA-N", "InChIKey"),
        ("InChIKey=BSYNRYMUTXBXSQ-UHFFFAOYSA-N", "InChIKey"),
        ("2244", "CID"),
        ("CID2244", "CID"),
        ("CHEMBL25", "database"),
        ("CHEBI:15365", "database"),
        ("50-78-2", "CAS"),
        ("C9H8O4", "formula"),
        ("aspirin", "name"),
        ("2-acetyloxybenzoic acid", "name"),
        ("Imatinib", "name"),
        ("MKTAYIAKQR", "protein"),
        ("CCO>>CC=O", "reaction"),
        ("[C][C][=O]", "SELFIES"),
    ],
)
def test_what_is_no_smiles_has_a_hint_also_without_rdkit(text, hint, monkeypatch):
    assert not is_missing(text, MOLECULE_WORDS)
    monkeypatch.setitem(__import__("sys").modules, "rdkit.Chem", None)
    with pytest.raises(ValueError, match=f"in row 1 (is not valid|holds).*{hint}"):
        canonical_smiles(["CCO", text])


@pytest.mark.parametrize(
    "word", ["unknown", "None", "nan", "N/A", "DMSO", "vehicle", "PBS", "-", "no SMILES", "Control"]
)
def test_words_are_no_molecules_also_without_rdkit(word, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rdkit.Chem", None)
    with pytest.raises(ValueError, match=r"SMILES in row 1 is .*, a word; leave it out"):
        canonical_smiles(["CCO", word])


@pytest.mark.parametrize(
    "smiles",
    ["CO", "C", "O", "N", "NO", "CCO", "Cl", "[Na+].[Cl-]", "c1ccccc1", "I", "FC(F)F", "C%12CCCC%12", "[2H]O[2H]"],
)
def test_small_molecules_are_read(smiles):
    pytest.importorskip("rdkit")
    assert not is_missing(smiles, MOLECULE_WORDS)
    assert canonical_smiles([smiles])


def test_real_molecules_are_read():
    pytest.importorskip("rdkit")
    from bioverse_sc.models import load

    known = load("mini").memory["molecule"].table["entity"].head(500)
    assert len(canonical_smiles(list(known))) == len(known)


def test_nothing_comes_to_mind():
    assert not_smiles("C1CC") == ""
