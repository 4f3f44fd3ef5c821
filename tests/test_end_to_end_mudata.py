"""The bundled model on proteins, molecules, and cells beside molecules."""

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

import bioverse_sc as bsc

MOLECULES = {
    "palmitic acid amide": "CCCCCCCCCCCCCCCC(N)=O",
    "quercetin": "O=c1c(O)c(-c2ccc(O)c(O)c2)oc2cc(O)cc(O)c12",
    "Ala-Phe": "C[C@H](N)C(=O)N[C@@H](Cc1ccccc1)C(=O)O",
    "testosterone": "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@@]34C)[C@@H]1CC[C@@H]2O",
}
QUESTION = "What are the cell and the molecule?"


@pytest.fixture(scope="module")
def cells(_pbmc):
    """A cell of each of four types, log-normalised."""
    whole = _pbmc.raw.to_adata()
    types = ["CD19+ B", "CD14+ Monocyte", "CD56+ NK", "CD4+/CD25 T Reg"]
    rows = [np.flatnonzero(whole.obs["bulk_labels"] == name)[0] for name in types]
    return whole[rows].copy()


def treated(cells, names):
    """Cells with the molecules that they were treated with."""
    obs = pd.DataFrame({"smiles": [MOLECULES[name] for name in names]}, index=cells.obs_names)
    return md.MuData({"rna": cells.copy(), "molecule": ad.AnnData(obs=obs)})


def answers(mdata):
    """What the model wrote, each answer whole, and what is shown of it."""
    bsc.tl.ask(mdata, QUESTION, mod=["rna", "molecule"], retrieve=False)
    sentences = mdata.uns["bioverse"]["ask"]["sentences"]
    wrote = sentences.groupby("observation")["sentence"].agg(" ".join).reindex(mdata.obs_names)
    return wrote.to_numpy(), mdata.obs["bioverse_answer"].to_numpy()


def test_another_compound_changes_what_is_said_of_the_compound(cells):
    names = list(MOLECULES)
    (first, shown), (again, _) = answers(treated(cells, names)), answers(treated(cells, names))
    other, _ = answers(treated(cells, names[1:] + names[:1]))
    assert first.tolist() == again.tolist()
    assert (first != other).all()
    # what is said of the cell is the first sentence
    assert np.mean([a.split(". ")[0] == b.split(". ")[0] for a, b in zip(first, other, strict=True)]) >= 0.5
    # what it writes of a compound is not in the facts, and is left out
    assert not any("The molecule is" in answer for answer in shown)


def test_answers_are_kept_with_their_facts_and_verdicts(cells):
    mdata = treated(cells, list(MOLECULES))
    bsc.tl.ask(mdata, QUESTION, mod=["rna", "molecule"], retrieve=False)
    asked = mdata.uns["bioverse"]["ask"]
    assert set(asked["facts"]["observation"]) == set(mdata.obs_names)
    assert {"Cell", "Molecule"} <= set(asked["facts"]["about"])
    is_label = asked["sentences"]["sentence"].str.startswith("The cell is")
    assert (asked["sentences"].loc[is_label, "verdict"] == "supported").mean() >= 0.5
    dropped = asked["sentences"].query("verdict in ['contradicted', 'not in the facts']")
    assert len(dropped)
    for observation, sentence in zip(dropped["observation"], dropped["sentence"], strict=True):
        assert sentence not in mdata.obs.loc[observation, "bioverse_answer"]


def test_what_mini_cannot_put_in_words_is_refused(cells):
    bsc.tl.ask(cells, "What is this cell?")
    assert "monocyte" in cells.obs["bioverse_answer"].iloc[1]
    for question in ("What will it turn into?", "How old is the donor?", "Is it in a good mood?"):
        bsc.tl.ask(cells, question)
        told = cells.obs["bioverse_answer"][cells.obs["bioverse_answer"] != ""]
        assert told.str.contains("'mini' cannot put this into words").all()


def test_another_cell_changes_what_is_said_of_the_cell(cells):
    same = ["quercetin"] * 4
    said = [answer.split(". ")[0] for answer in answers(treated(cells, same))[0]]
    assert len(set(said)) >= 3
    assert "monocyte" in said[1]


def test_molecules_are_told_apart(mini):
    adata = ad.AnnData(obs=pd.DataFrame({"smiles": list(MOLECULES.values())}, index=list(MOLECULES)))
    bsc.tl.describe(adata, mod="molecule", model=mini, retrieve=False)
    texts = adata.obs["bioverse_description"]
    assert texts.str.startswith("The molecule is").all()
    assert texts.nunique() == 4
    assert "flavon" in texts["quercetin"]
    assert "peptide" in texts["Ala-Phe"]
    assert "steroid" in texts["testosterone"]


def test_molecules_that_are_not_known_are_told_by_what_is_near(mini):
    adata = ad.AnnData(
        obs=pd.DataFrame({"smiles": [MOLECULES["quercetin"], "CC(=O)Nc1ccc(O)cc1", "CCO"]}, index=list("abc"))
    )
    bsc.tl.describe(adata, mod="molecule", model=mini)
    near, known, far = adata.obs["bioverse_description"]
    assert near.startswith("This molecule itself is not known.")
    assert "flavon" in near
    assert known.startswith("The molecule is a member of the class of phenols that is 4-aminophenol")
    assert far.endswith("so it cannot be told what it is.")


def test_a_chat_goes_on_about_the_same_molecule():
    adata = ad.AnnData(obs=pd.DataFrame({"smiles": [MOLECULES["Ala-Phe"]]}, index=["Ala-Phe"]))
    chat = bsc.Chat(adata, mod="molecule")
    # only a relative of it is known, and `mini` does not say that it is one
    assert chat.ask("What is this molecule?").startswith("'mini' cannot put this into words.")
    assert any("peptide" in fact.text for fact in chat.facts)
    assert chat.ask("Which class does it belong to?")
    assert [turn.question for turn in chat.transcript] == ["What is this molecule?", "Which class does it belong to?"]


def test_the_memory_gives_the_texts_of_alike_proteins(mini):
    known = mini.memory["protein"].table
    assert len(known) > 20_000
    # a cytochrome b of another start and with changes is still one
    sequence = known.loc[known["text"].str.startswith("Cytochrome b."), "entity"].iloc[0]
    changed = "MW" + sequence[5:].replace("LLG", "LIG")
    assert mini.memory["protein"].nearest([changed])[0][0].text.startswith("Cytochrome b")
