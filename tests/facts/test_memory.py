import numpy as np
import pandas as pd
import pytest

from bioverse_sc.facts import Memory

PROTEINS = {
    "MKTAYIAKQRQISFVKSHFSRQ": "kinase",
    "MKTAYIAKQRGGGGGGGGGGGG": "kinase",
    "WWWWHHHHWWWWHHHHDDDDEE": "receptor",
    "CCCCPPPPCCCCPPPPLLLLII": "capsid",
}


def table(known):
    return pd.DataFrame({"entity": list(known), "text": list(known.values())})


@pytest.fixture
def proteins():
    return Memory("protein", table(PROTEINS))


def texts(nearest):
    return [[known.text for known in each] for each in nearest]


def naive_words(sequence, known):
    """Cosine of TF-IDF vectors, term by term."""
    words = lambda s: [s[i : i + 4] for i in range(len(s) - 3)]
    n_having = {w: sum(w in words(k) for k in known) for k in [*known, sequence] for w in words(k)}
    idf = {w: np.log((1 + len(known)) / (1 + n)) + 1 for w, n in n_having.items()}

    def vector(s):
        counts = {w: words(s).count(w) for w in words(s)}
        return {w: (1 + np.log(n)) * idf[w] for w, n in counts.items()}

    def cosine(one, two):
        norm = np.sqrt(sum(v**2 for v in one.values()) * sum(v**2 for v in two.values()))
        return sum(v * two.get(w, 0) for w, v in one.items()) / norm

    return [cosine(vector(sequence), vector(k)) for k in known]


def test_proteins_are_ranked_by_the_words_that_they_share(proteins):
    asked = "MKTAYIAKQRQISFWWWWHHHH"
    expected = naive_words(asked, list(PROTEINS))
    np.testing.assert_allclose(proteins._similarity([asked])[0], expected, atol=1e-5)
    assert texts(proteins.nearest([asked])) == [["kinase", "receptor"]]


def test_a_text_is_given_once_and_entities_without_anything_in_common_are_not_near(proteins):
    assert texts(proteins.nearest(["MKTAYIAKQRQISFVKSHFSRQ"], 3)) == [["kinase"]]
    assert texts(proteins.nearest(["VVVVNNNNVVVV", "mktayiakqr"])) == [[], ["kinase"]]


def test_an_entity_of_the_memory_can_be_left_out_of_its_own_neighbours():
    memory = Memory("protein", table({"MKTAYIAK": "itself", "MKTAYIAW": "other"}))
    assert texts(memory.nearest(["MKTAYIAK"], 2)) == [["itself", "other"]]
    assert texts(memory.nearest(["MKTAYIAK"], 2, themselves=False)) == [["other"]]


def test_many_are_found_as_one_by_one(proteins):
    rng = np.random.default_rng(0)
    asked = ["".join(rng.choice(list("MKTAYIQRWHCP"), 30)) for _ in range(300)]
    assert texts(proteins.nearest(asked)) == [texts(proteins.nearest([each]))[0] for each in asked]


def test_one_that_is_known_comes_first_and_says_so():
    memory = Memory("protein", table({"MKTAYIAKMKTAYIAK": "repeat", "MKTAYIAK": "once", "WWWWW": "other"}))
    same, other = memory.nearest(["mkta-yiak*"])[0]
    assert (same.entity, same.text, same.similarity, same.is_same) == ("MKTAYIAK", "once", 1.0, True)
    assert (other.text, other.is_same) == ("repeat", False)
    assert 0 < other.similarity < 1
    # one of twice the length has the same words
    assert not memory.nearest(["MKTAYIAKMKTAYIAKMKTAYIAK"])[0][0].is_same


def test_a_molecule_is_known_by_its_structure_and_stereochemistry():
    pytest.importorskip("rdkit")
    memory = Memory("molecule", table({"C[C@H](N)C(=O)O": "one hand", "C[C@@H](N)C(=O)O": "the other hand"}))
    first, second = memory.nearest(["OC(=O)[C@@H](N)C"])[0]
    assert (first.text, first.is_same) == ("one hand", True)
    assert (second.text, second.similarity, second.is_same) == ("the other hand", 1.0, False)
    assert [known.is_same for known in memory.nearest(["CC(N)C(=O)O"])[0]] == [False, False]


def test_what_else_is_known_comes_with_it(tmp_path):
    more = pd.DataFrame({"entity": ["MKTAYIAK"], "text": ["Insulin."], "name": ["Insulin"], "gene": [None]})
    Memory("protein", more.assign(organism="human", note="not read")).write(tmp_path / "m.tsv.xz")
    memory = Memory("protein", tmp_path / "m.tsv.xz")
    assert list(memory.table) == ["entity", "text", "name", "gene", "organism"]
    known = memory.nearest(["MKTAYIAK"])[0][0]
    assert (known.name, known.gene, known.organism, known.ec) == ("Insulin", "", "human", "")


def test_molecules_are_ranked_by_tanimoto_similarity():
    from rdkit import Chem, DataStructs
    from rdkit.Chem import rdFingerprintGenerator

    known = {"CCO": "ethanol", "CCCO": "propanol", "c1ccccc1O": "phenol", "CC(=O)Oc1ccccc1C(=O)O": "aspirin"}
    memory = Memory("molecule", table(known))
    asked = ["OC(=O)c1ccccc1O", "CCCCO", "OCC"]
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = {s: generator.GetFingerprint(Chem.MolFromSmiles(s)) for s in [*known, *asked]}
    for smiles, found in zip(asked, texts(memory.nearest(asked, 4)), strict=True):
        likeness = {known[k]: DataStructs.TanimotoSimilarity(prints[smiles], prints[k]) for k in known}
        assert found == sorted((t for t in known.values() if likeness[t]), key=lambda t: -likeness[t])
    # two ways of writing ethanol
    assert texts(memory.nearest(["OCC"], 1)) == [["ethanol"]]


def test_what_is_no_molecule_is_near_to_none():
    memory = Memory("molecule", table({"CCO": "ethanol"}))
    assert memory.nearest(["no molecule", ""]) == [[], []]


def test_a_written_memory_is_the_same_and_the_same_file_each_time(tmp_path, proteins):
    proteins.write(tmp_path / "one.tsv.xz")
    proteins.write(tmp_path / "two.tsv.xz")
    assert (tmp_path / "one.tsv.xz").read_bytes() == (tmp_path / "two.tsv.xz").read_bytes()
    again = Memory("protein", tmp_path / "one.tsv.xz")
    pd.testing.assert_frame_equal(again.table, proteins.table)
    assert len(again) == 4


def test_texts_keep_their_letters(tmp_path):
    known = {"MKTA": 'Says "NA", a\ttab and μ.', "NAAA": "NA"}
    Memory("protein", table(known)).write(tmp_path / "m.tsv.xz")
    assert Memory("protein", tmp_path / "m.tsv.xz").table["text"].tolist() == list(known.values())


@pytest.mark.parametrize(
    ("mod", "source", "message"),
    [
        ("rna", table(PROTEINS), "'protein' or 'molecule'"),
        ("protein", table({}), "one row at least"),
        ("protein", pd.DataFrame({"sequence": ["MKTA"]}), "columns 'entity' and 'text'"),
    ],
)
def test_what_is_no_memory(mod, source, message):
    with pytest.raises(ValueError, match=message):
        len(Memory(mod, source))
