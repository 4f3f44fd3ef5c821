import numpy as np
import pytest
import torch

from bioverse_sc.encoders import chemberta
from bioverse_sc.encoders.chemberta import ChembertaEncoder, canonical_smiles
from tests.encoders.entities import write_chemberta

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
    one, two = encoder.encode(["OCC", "C(O)C"])
    np.testing.assert_array_equal(one, two)


def test_salts_are_kept_or_stripped():
    assert canonical_smiles(["CC(=O)[O-].[Na+]"]) == ["CC(=O)[O-].[Na+]"]
    assert canonical_smiles(["[Na+].CC(=O)[O-]"], salts="strip") == ["CC(=O)[O-]"]


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
        (None, "row 1 is empty"),
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
    assert "cannot read all of 2 of 3 molecules (rows 1, 2)" in log[0].getMessage()
    assert "'Z'" in log[0].getMessage()


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
