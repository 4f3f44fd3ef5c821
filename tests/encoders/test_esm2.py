import numpy as np
import pytest
import torch

from bioverse_sc.encoders.esm2 import WINDOW, Esm2Encoder, clean_sequence, split_windows
from tests.encoders.entities import damage, write_esm

PROTEINS = ["MKTAYIAKQR", "MLSDEDFKAVFGMTRSAFANLPLWKQQNLKKEKGLF", "GGG", "MAUXOBZ"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_esm(tmp_path_factory.mktemp("esm"))


@pytest.fixture(scope="module")
def encoder(folder):
    return Esm2Encoder.from_pretrained(folder)


def long_protein(n, *, seed=0):
    return "".join(np.random.default_rng(seed).choice(list("ACDEFGHIKLMNPQRSTVWY"), size=n))


def plain(encoder, sequence):
    """One sequence, without batches: the mean of the states of its residues."""
    with torch.inference_mode():
        inputs = encoder.tokenizer(sequence, return_tensors="pt")
        return encoder.module(**inputs).last_hidden_state[0, 1:-1].mean(dim=0).numpy()


def test_a_vector_is_the_mean_of_the_residues_states(encoder):
    found = encoder.encode(PROTEINS)
    assert found.shape == (4, 16)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [plain(encoder, s) for s in PROTEINS], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_batches_and_order_do_not_matter(encoder, batch_size):
    sequences = [long_protein(n, seed=n) for n in (900, 3, 80, 81, 400, 7)]
    found = encoder.encode(sequences, batch_size=batch_size)
    order = np.array([3, 5, 0, 1, 4, 2])
    shuffled = encoder.encode([sequences[i] for i in order], batch_size=batch_size)
    np.testing.assert_allclose(shuffled, found[order], atol=1e-5)
    np.testing.assert_allclose(found, [plain(encoder, s) for s in sequences], atol=1e-5)


@pytest.mark.parametrize("n", [WINDOW, WINDOW + 1, 3000])
def test_a_long_protein_is_read_in_windows_weighted_by_length(encoder, n):
    sequence = long_protein(n)
    windows = split_windows(sequence)
    assert "".join(windows) == sequence
    assert max(map(len, windows)) <= WINDOW
    assert max(map(len, windows)) - min(map(len, windows)) <= 1
    expected = sum(len(w) * plain(encoder, w) for w in windows) / n
    np.testing.assert_allclose(encoder.encode([sequence])[0], expected, atol=1e-5)


def test_titin_is_read(encoder):
    found = encoder.encode([long_protein(35_000)])
    assert np.isfinite(found).all()
    assert found.any()


def test_two_loads_agree_and_saving_changes_nothing(folder, encoder, tmp_path):
    again = Esm2Encoder.from_pretrained(folder)
    assert again.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(again.encode(PROTEINS), encoder.encode(PROTEINS))
    encoder.save(tmp_path / "saved")
    stored = Esm2Encoder.from_folder(tmp_path / "saved")
    assert stored.fingerprint == encoder.fingerprint
    np.testing.assert_array_equal(stored.encode(PROTEINS), encoder.encode(PROTEINS))


def test_other_weights_have_another_fingerprint(encoder, tmp_path):
    assert Esm2Encoder.from_pretrained(write_esm(tmp_path, seed=1)).fingerprint != encoder.fingerprint


def test_it_is_frozen(encoder):
    assert not any(p.requires_grad for p in encoder.module.parameters())
    assert not encoder.module.training


@pytest.mark.parametrize(
    ("given", "read"),
    [("mkta", "MKTA"), ("MK TA\nYI", "MKTAYI"), ("MKTA*", "MKTA"), ("M--K.T", "MKT"), ("MUJX", "MUXX"), ("OBZ", "OBZ")],
)
def test_letters_are_brought_into_those_of_esm(given, read):
    assert clean_sequence(given, 0) == read


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("", "row 2 is empty"),
        ("   ", "row 2 is empty"),
        (None, "row 2 is empty"),
        (float("nan"), "row 2 is empty"),
        ("--*", "row 2 has no residues"),
        ("MK1TA", "row 2 holds '1', which are no amino acids, first at residue 3"),
        ("MK*TA", "row 2 holds a stop inside, first at residue 3"),
        ("ACGT" * 10, "row 2 looks like nucleotides .*translate it first"),
        ("acgu" * 10, "row 2 looks like nucleotides"),
    ],
)
def test_what_is_no_protein_is_an_error_with_its_row(encoder, sequence, message):
    with pytest.raises(ValueError, match=message):
        encoder.encode(["MKT", "GG", sequence])


def test_a_short_protein_of_nucleotide_letters_is_a_protein():
    assert clean_sequence("ACGTA", 0) == "ACGTA"


def test_no_proteins_are_no_vectors(encoder):
    assert encoder.encode([]).shape == (0, 16)


def test_a_checkpoint_that_is_not_there_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"hf download facebook/nothing.*--local-dir FOLDER"):
        Esm2Encoder.from_pretrained("facebook/nothing")


def test_missing_weights_are_an_error(tmp_path):
    write_esm(tmp_path)
    damage(tmp_path, "layer.1.attention.self.query.weight")
    with pytest.raises(ValueError, match=r"lacks 1 weights, .*layer\.1\.attention\.self\.query\.weight"):
        Esm2Encoder.from_pretrained(tmp_path)
