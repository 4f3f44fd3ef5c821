import numpy as np
import pytest
import torch
from transformers import RobertaTokenizerFast

from bioverse_sc.encoders import chemberta
from bioverse_sc.encoders.chemberta import ChembertaEncoder, canonical_smiles
from tests.encoders.entities import write_chemberta, write_esm

pytest.importorskip("rdkit")
MOLECULES = ["CCO", "c1ccccc1C(=O)O", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "[Na+].[Cl-]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_chemberta(tmp_path_factory.mktemp("chemberta"))


@pytest.fixture(scope="module")
def encoder(folder):
    return ChembertaEncoder.from_pretrained(folder)


def states(encoder, smiles):
    with torch.inference_mode():
        inputs = encoder.tokenizer(smiles, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        return encoder.module(**inputs).last_hidden_state[0].numpy()


def test_a_vector_is_the_mean_of_the_tokens_states_or_the_first(encoder):
    canonical = canonical_smiles(MOLECULES)
    expected = [states(encoder, s)[1:-1].mean(axis=0) for s in canonical]
    np.testing.assert_allclose(encoder.encode(MOLECULES), expected, atol=1e-5)
    first = [states(encoder, s)[0] for s in canonical]
    np.testing.assert_allclose(encoder.encode(MOLECULES, pooling="cls"), first, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_do_not_matter(encoder, batch_size):
    np.testing.assert_allclose(encoder.encode(MOLECULES, batch_size=batch_size), encoder.encode(MOLECULES), atol=1e-5)


def test_two_ways_of_writing_a_molecule_give_one_vector(encoder):
    # each alone: rows of one batch may differ in the last bit
    np.testing.assert_array_equal(encoder.encode(["OCC"]), encoder.encode(["C(O)C"]))


def test_salts_are_kept_or_stripped():
    assert canonical_smiles(["CC(=O)[O-].[Na+]"]) == ["CC(=O)[O-].[Na+]"]
    assert canonical_smiles(["[Na+].CC(=O)[O-]"], salts="strip") == ["CC(=O)[O-]"]
    # of seven heavy atoms and 15 hydrogens, and of eight and one
    assert canonical_smiles(["CCCCCCN.OS(=O)(=O)C(F)(F)F"], salts="strip") == ["O=S(=O)(O)C(F)(F)F"]


def test_numbers_of_atom_maps_are_left_out():
    assert canonical_smiles(["[CH3:1][O:2][H:3]", "CO"]) == ["CO", "CO"]


def test_stereo_isotopes_and_metals_stay():
    smiles = ["C[C@@H](N)O", "C[C@H](N)O", "F/C=C/F", "F/C=C\\F", "[2H]O[2H]", "[Fe+2]"]
    assert canonical_smiles(smiles) == smiles


def test_two_loads_agree_and_saving_changes_nothing(folder, encoder, tmp_path):
    again = ChembertaEncoder.from_pretrained(folder)
    assert again.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(again.encode(MOLECULES), encoder.encode(MOLECULES))
    encoder.save(tmp_path / "saved")
    np.testing.assert_array_equal(
        ChembertaEncoder.from_folder(tmp_path / "saved").encode(MOLECULES), encoder.encode(MOLECULES)
    )


@pytest.mark.parametrize(
    ("smiles", "message"),
    [
        ("", "row 1 is empty"),
        ("  ", "row 1 is empty"),
        (None, "row 1 is empty"),
        (float("nan"), "row 1 is empty"),
        (b"CCO", r"row 1 is b'CCO' \(bytes\); expected text"),
        # RDKit reads these as methane, ethane and ethanol
        ("C C O", "row 1 holds ' '"),
        ("CC\uff2f", "row 1 holds '\uff2f'"),
        ("CCO ethanol", "row 1 holds ' '.*without a name"),
        ("CCO>>CC=O", "row 1 is not valid"),
        ("C.", "row 1 is not valid"),
        ("C1CC", "row 1 is not valid: 'C1CC'"),
        ("MKTAYIAK", "row 1 is not valid"),
        ("C" * 200, "row 1 has 202 tokens; this checkpoint reads 128"),
    ],
)
def test_what_is_no_molecule_is_an_error_with_its_row(encoder, smiles, message):
    with pytest.raises(ValueError, match=message):
        encoder.encode(["CCO", smiles])


def test_what_the_tokenizer_cannot_read_is_reported(encoder, log):
    encoder.encode(["CCO", "C[Si](C)C", "[Zn+2]"])
    assert len(log) == 1
    assert "cannot read all of 2 of 3 molecules: " in log[0].getMessage()
    assert "The molecules are C[Si](C)C, [Zn+2]." in log[0].getMessage()
    assert "'Z'" in log[0].getMessage()


def test_what_the_tokenizer_leaves_out_in_silence_is_reported(folder, log):
    # that of the published checkpoints reads bytes, and drops those that it does not know
    characters = {t: i for i, t in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *"()=[]12CNOSlnoc"])}
    tokenizer = RobertaTokenizerFast(vocab=characters, merges=[])
    # older versions of transformers put no tokens around them
    assert [t for t in tokenizer.convert_ids_to_tokens(tokenizer.encode("[Zn]")) if len(t) == 1] == ["[", "n", "]"]
    ChembertaEncoder(ChembertaEncoder.from_pretrained(folder).module, tokenizer).encode(["CCO", "[Zn]", "c1ccccc1"])
    assert (
        "cannot read all of 1 of 3 molecules: it has no token for 'Z'. The molecules are [Zn]." in log[0].getMessage()
    )


def test_a_folder_without_its_tokenizer_is_an_error(tmp_path):
    write_chemberta(tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match="tokenizer"):
        ChembertaEncoder.from_pretrained(tmp_path)


def test_a_checkpoint_of_another_modality_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="of type 'esm'; chemberta expects 'roberta'"):
        ChembertaEncoder.from_pretrained(write_esm(tmp_path))


def test_no_molecules_are_no_vectors(encoder):
    assert encoder.encode([]).shape == (0, 16)


def test_one_text_is_no_list_of_molecules(encoder):
    with pytest.raises(TypeError, match=r"expected a list of them: \['CCO'\]"):
        encoder.encode("CCO")


def test_wrong_choices_are_errors(encoder):
    with pytest.raises(ValueError, match="pooling is 'max'; expected 'mean' or 'cls'"):
        encoder.encode(["C"], pooling="max")
    with pytest.raises(ValueError, match="salts is 'no'; expected 'keep' or 'strip'"):
        encoder.encode(["C"], salts="no")


def test_without_rdkit_the_error_names_the_extra(encoder, monkeypatch):
    def missing(module, extra):
        msg = f"{module} {extra}"
        raise ImportError(msg)

    monkeypatch.setattr(chemberta, "require", missing)
    with pytest.raises(ImportError, match=r"rdkit\.Chem chem"):
        encoder.encode(["CCO"])
