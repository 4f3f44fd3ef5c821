import numpy as np
import pytest
import torch

from bioverse_sc.encoders.esm2 import RESIDUES, WINDOW, Esm2Encoder, clean_sequence, split_windows
from tests.encoders.entities import damage, write_chemberta, write_esm

PROTEINS = ["MKTAYIAKQR", "MLSDEDFKAVFGMTRSAFANLPLWKQQNLKKEKGLF", "GGG", "MAUXOBZMKTAYIAKQRQISFVKSHFS"]


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
    [
        ("mkta", "MKTA"),
        ("MK TA\nYI", "MKTAYI"),
        ("MKTA*", "MKTA"),
        ("MKTA**-", "MKTA"),
        ("M--K.T", "MKT"),
        ("MUJX*", "MUXX"),
        ("mujx*", "MUXX"),
        ("OBZ*", "OBZ"),
    ],
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
        (b"MKT", r"row 2 is b'MKT' \(bytes\); expected text"),
        (5, r"row 2 is 5 \(int\); expected text"),
        ("--*", "row 2 has no residues"),
        ("---", "row 2 has no residues"),
        ("unknown", r"row 2 is 'unknown', a word; leave it out, or fill in the sequence"),
        ("GAPDH", r"row 2 is 'GAPDH', which is the symbol of a gene; .*end it with a stop"),
        ("P04637", "row 2 is 'P04637', which is an accession"),
        # upper() would make F and I, SS and I of these
        ("M\ufb01", "row 2 holds '\ufb01'"),
        ("M\xdf", "row 2 holds '\xdf'"),
        ("M\u0131", "row 2 holds '\u0131'"),
        ("MK1TA", "row 2 holds '1', which are no amino acids, first at residue 3"),
        ("MK*TA", "row 2 holds a stop inside, first at residue 3"),
        ("ACGT" * 10, "row 2 looks like nucleotides .*translate it first"),
        ("acgu" * 10, "row 2 looks like nucleotides"),
        ("ACGT" * 10 + "RY", "row 2 looks like nucleotides"),
    ],
)
def test_what_is_no_protein_is_an_error_with_its_row(encoder, sequence, message):
    with pytest.raises(ValueError, match=message):
        encoder.encode(["MKT", "GG", sequence])


@pytest.mark.parametrize("sequence", ["ACGTA", "GA" * 40, "A" * 50, "GAGAGT" * 10, "ACGT" * 10 + "MKLRE"])
def test_few_or_repeated_nucleotide_letters_are_a_protein(sequence):
    assert clean_sequence(sequence, 0) == sequence


def test_one_text_is_no_list_of_proteins(encoder):
    with pytest.raises(TypeError, match=r"expected a list of them: \['MKT'\]"):
        encoder.encode("MKT")


def test_a_batch_size_is_positive(encoder):
    with pytest.raises(ValueError, match="batch_size is 0; expected 1 or more"):
        encoder.encode(["MKT"], batch_size=0)


def test_repeated_proteins_have_one_vector(encoder):
    one, other, two = encoder.encode(["MKTAYI", "GGG", "mktayi*"])
    np.testing.assert_allclose(one, two, atol=1e-6)
    assert np.abs(one - other).max() > 1e-3


def test_tokens_are_those_of_the_tokenizer(encoder, monkeypatch):
    read = []
    monkeypatch.setattr(encoder, "_pooled", lambda tokens, *_, **__: read.extend(tokens) or np.zeros((len(tokens), 16)))
    encoder.encode([RESIDUES, "MKT"])
    assert read == [encoder.tokenizer.encode(RESIDUES), encoder.tokenizer.encode("MKT")]


def test_no_proteins_are_no_vectors(encoder):
    assert encoder.encode([]).shape == (0, 16)


def test_a_checkpoint_that_is_not_there_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"hf download facebook/nothing.*--local-dir FOLDER"):
        Esm2Encoder.from_pretrained("facebook/nothing")


def test_a_folder_has_no_revision(folder):
    with pytest.raises(ValueError, match="is a folder, which has no revision 'main'; leave revision out"):
        Esm2Encoder.from_pretrained(folder, revision="main")


def test_a_checkpoint_of_another_modality_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="of type 'roberta'; esm2 expects 'esm'"):
        Esm2Encoder.from_pretrained(write_chemberta(tmp_path))


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        (["vocab.txt", "tokenizer_config.json", "tokenizer.json"], ValueError, "tokenizer's files of .* are missing"),
        (["model.safetensors"], FileNotFoundError, "is no complete esm2 checkpoint, with config.json"),
        (["config.json"], (FileNotFoundError, ValueError), "config.json"),
    ],
)
def test_missing_files_are_an_error(tmp_path, files, error, message):
    write_esm(tmp_path)
    for file in files:
        (tmp_path / file).unlink(missing_ok=True)
    with pytest.raises(error, match=message):
        Esm2Encoder.from_pretrained(tmp_path)


def test_damaged_weights_are_an_error(tmp_path):
    weights = write_esm(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"weights of .* are damaged"):
        Esm2Encoder.from_pretrained(tmp_path)


def test_missing_weights_are_an_error(tmp_path):
    write_esm(tmp_path)
    damage(tmp_path, "layer.1.attention.self.query.weight")
    with pytest.raises(ValueError, match=r"lacks 1 weights, .*layer\.1\.attention\.self\.query\.weight"):
        Esm2Encoder.from_pretrained(tmp_path)
