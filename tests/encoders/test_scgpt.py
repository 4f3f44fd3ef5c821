import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.sparse import csr_matrix, random_array

from bioverse_sc.encoders import Encoder
from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPTConfig, ScGPTEncoder
from bioverse_sc.encoders.scgpt._encoder import pad_cells
from bioverse_sc.encoders.scgpt._tokenize import TokenizedCells, bin_values
from tests.tiny import GENES, make_encoder

GOLDEN = Path(__file__).parents[1] / "data" / "scgpt_tiny"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def official():
    return ScGPTEncoder.from_folder(GOLDEN)


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the golden checkpoint whose parts a test may change."""

    def write(*, state=None, args=None, vocabulary=None):
        folder = tmp_path / "checkpoint"
        folder.mkdir(exist_ok=True)
        state = torch.load(GOLDEN / "best_model.pt", weights_only=True) if state is None else state
        torch.save(state, folder / "best_model.pt")
        args = json.loads((GOLDEN / "args.json").read_text()) if args is None else args
        (folder / "args.json").write_text(json.dumps(args))
        vocabulary = json.loads((GOLDEN / "vocab.json").read_text()) if vocabulary is None else vocabulary
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        return folder

    return write


def golden_state():
    return torch.load(GOLDEN / "best_model.pt", weights_only=True)


def random_cells(n=6, *, seed=0, density=0.5):
    rng = np.random.default_rng(seed)
    counts = random_array(
        (n, len(GENES)), density=density, rng=rng, format="csr", data_sampler=lambda size: rng.integers(1, 30, size)
    )
    return csr_matrix(counts.astype(np.float32))


# --- the official code's numbers -------------------------------------------------------------------------------------


def test_hidden_states_are_those_of_the_official_code(official, golden):
    ids, values = torch.from_numpy(golden["gene_ids"]).long(), torch.from_numpy(golden["binned_values"])
    with torch.inference_mode():
        hidden = official.module(ids, values).numpy()
    true = np.arange(ids.shape[1]) < golden["lengths"][:, None]
    assert true.sum() == golden["lengths"].sum()
    np.testing.assert_allclose(hidden[true], golden["token_hidden"][true], atol=1e-5, rtol=0)
    np.testing.assert_allclose(hidden[:, 0], golden["cls_hidden"], atol=1e-5, rtol=0)


def test_cell_embedding_is_that_of_the_official_code(official, golden):
    ids, values = torch.from_numpy(golden["gene_ids"]).long(), torch.from_numpy(golden["binned_values"])
    with torch.inference_mode():
        cls = official.module(ids, values, cls_only=True)[:, 0]
    unit = cls.numpy() / np.linalg.norm(cls.numpy(), axis=1, keepdims=True)
    np.testing.assert_allclose(unit, golden["cell_embedding"], atol=1e-5, rtol=0)


def test_packed_cells_are_those_of_the_official_code(official, golden):
    lengths = golden["lengths"]
    real = np.arange(golden["gene_ids"].shape[1]) < lengths[:, None]
    real[:, 0] = False  # <cls>, which encode_tokens puts in front
    cells = TokenizedCells(
        golden["gene_ids"][real], golden["binned_values"][real], np.concatenate([[0], np.cumsum(lengths - 1)])
    )
    np.testing.assert_allclose(official.encode_tokens(cells, batch_size=5), golden["cell_embedding"], atol=1e-5, rtol=0)


def test_cls_only_equals_the_full_pass(official, golden):
    ids, values = torch.from_numpy(golden["gene_ids"]).long(), torch.from_numpy(golden["binned_values"])
    with torch.inference_mode():
        full = official.module(ids, values)[:, :1]
        short = official.module(ids, values, cls_only=True)
    assert short.shape == (len(ids), 1, 64)
    torch.testing.assert_close(short, full, atol=1e-5, rtol=0)


def test_a_cell_does_not_change_by_the_padding_beside_it(official, golden):
    ids, values = torch.from_numpy(golden["gene_ids"]).long(), torch.from_numpy(golden["binned_values"])
    with torch.inference_mode():
        batch = official.module(ids, values, cls_only=True)[:, 0]
        alone = torch.cat(
            [
                official.module(ids[i : i + 1, :n], values[i : i + 1, :n], padded=False, cls_only=True)[:, 0]
                for i, n in enumerate(golden["lengths"])
            ]
        )
    torch.testing.assert_close(batch, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("row", [0, 1, 2])
def test_bins_are_those_of_the_official_code(row):
    with np.load(GOLDEN / "binning.npz") as file:
        values, expected = file[f"row{row}"], file[f"bin{row}"]
    np.testing.assert_array_equal(bin_values(values, 51), expected)


# --- binning ---------------------------------------------------------------------------------------------------------


def possible_bins(value, edges):
    """Bins that scGPT's official code may draw for a value: it draws above the number of edges below the value."""
    below, up_to = sum(e < value for e in edges), sum(e <= value for e in edges)
    return list(range(below + 1, up_to + 1)) or [below]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=90))
@settings(max_examples=25, deadline=None)
def test_ties_get_the_middle_of_their_possible_bins(counts):
    values = np.array(counts, dtype=np.float64)
    edges = np.quantile(values, np.linspace(0, 1, 50))
    bins = bin_values(values, 51)
    for value, got in zip(values, bins, strict=True):
        possible = possible_bins(value, edges)
        assert got == possible[(len(possible) - 1) // 2] or got == possible[len(possible) // 2]
    assert bins.min() >= 1
    assert bins.max() <= 50
    np.testing.assert_array_equal(bins, bin_values(values, 51))


def test_a_cell_of_one_value_lies_in_the_middle():
    np.testing.assert_array_equal(bin_values(np.full(7, 3.0), 51), np.full(7, 25))


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60, unique=True))
@settings(max_examples=25, deadline=None)
def test_bins_grow_with_values(counts):
    values = np.sort(np.array(counts, dtype=np.float64))
    assert (np.diff(bin_values(values, 51)) >= 0).all()


# --- the cut to the highest genes ------------------------------------------------------------------------------------


def test_the_highest_genes_are_kept_ties_in_the_order_of_the_vocabulary():
    encoder = make_encoder(max_seq_len=5)  # four genes and <cls>
    row = np.zeros((1, len(GENES)))
    row[0, [70, 10, 40, 20, 60, 5]] = [9, 2, 2, 2, 7, 1]
    cells = encoder.tokenize(csr_matrix(row), GENES)
    assert [GENES[i] for i in cells.gene_ids] == ["GENE10", "GENE20", "GENE60", "GENE70"]


def test_the_cut_comes_after_binning():
    row = np.zeros((1, len(GENES)))
    row[0] = np.arange(1, len(GENES) + 1)
    short, full = (make_encoder(max_seq_len=n).tokenize(csr_matrix(row), GENES) for n in (11, 200))
    assert len(short.values) == 10
    np.testing.assert_array_equal(short.values, full.values[-10:])


def test_zeros_that_are_stored_are_not_genes():
    matrix = random_cells()
    stored = matrix.copy()
    stored.data[::3] = 0
    clean = stored.copy()
    clean.eliminate_zeros()
    encoder = make_encoder()
    np.testing.assert_array_equal(encoder.tokenize(stored, GENES).gene_ids, encoder.tokenize(clean, GENES).gene_ids)
    assert stored.nnz == matrix.nnz, "the caller's matrix was changed"


# --- invariance ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000))
@settings(max_examples=6, deadline=None)
def test_the_order_of_genes_and_cells_does_not_matter(seed):
    encoder, matrix = make_encoder(max_seq_len=30), random_cells(seed=seed)
    rng = np.random.default_rng(seed)
    genes, rows = rng.permutation(len(GENES)), rng.permutation(matrix.shape[0])
    expected = encoder.encode(matrix, GENES)
    np.testing.assert_array_equal(encoder.encode(csr_matrix(matrix[:, genes]), [GENES[i] for i in genes]), expected)
    np.testing.assert_allclose(encoder.encode(csr_matrix(matrix[rows]), GENES), expected[rows], atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_the_batch_size_does_not_matter(batch_size):
    encoder = make_encoder()
    matrix = csr_matrix(np.vstack([random_cells(3, density=d).toarray() for d in (0.1, 0.5, 0.9)]))
    np.testing.assert_allclose(
        encoder.encode(matrix, GENES, batch_size=batch_size), encoder.encode(matrix, GENES), atol=1e-6
    )


def test_embeddings_are_unit_vectors_and_differ():
    vectors = make_encoder().encode(random_cells(), GENES)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(np.unique(vectors.round(4), axis=0)) == len(vectors)


def test_a_cell_without_genes_gives_zeros_and_leaves_the_others():
    encoder, matrix = make_encoder(), random_cells()
    expected = encoder.encode(matrix, GENES)
    emptied = matrix.toarray()
    emptied[2] = 0
    vectors = encoder.encode(csr_matrix(emptied), GENES)
    assert not vectors[2].any()
    others = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(vectors[others], expected[others], atol=1e-6)


@pytest.mark.parametrize("style", ["continuous", "category", "scaling"])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_every_style_of_input_works(style, pre_norm):
    shape = {"input_emb_style": style, "pre_norm": pre_norm}
    if style == "category":
        shape["pad_value"] = 52
    encoder = make_encoder(**shape)
    matrix = random_cells()
    vectors = encoder.encode(matrix, GENES)
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(encoder.encode(matrix, GENES, batch_size=1), vectors, atol=1e-5)


# --- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: name.replace(".self_attn.Wqkv.", ".self_attn.in_proj_"),
        lambda name: name.replace(".self_attn.", ".self_attn._impl.").replace("Wqkv.", "in_proj_"),
        lambda name: name.replace(".self_attn.", ".self_attn._impl."),
    ],
    ids=["Wqkv", "in_proj", "_impl.in_proj", "_impl.Wqkv"],
)
def test_every_name_of_attention_loads(rename, checkpoint, official):
    state = {rename(name): tensor for name, tensor in golden_state().items()}
    loaded = ScGPTEncoder.from_folder(checkpoint(state=state))
    assert loaded.fingerprint == official.fingerprint
    for name, tensor in official.module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], tensor)


def test_safetensors_load_as_well(checkpoint, official):
    folder = checkpoint()
    (folder / "best_model.pt").unlink()
    save_file(golden_state(), folder / "model.safetensors")
    assert ScGPTEncoder.from_folder(folder).fingerprint == official.fingerprint


@pytest.mark.parametrize(
    "head",
    [
        "decoder.fc.0.weight",
        "cls_decoder.out_layer.bias",
        "mvc_decoder.W.weight",
        "grad_reverse_discriminator.out_layer.weight",
        "flag_encoder.weight",
    ],
)
def test_heads_are_left_out_by_name(head, checkpoint, official):
    state = golden_state() | {head: torch.ones(3)}
    assert ScGPTEncoder.from_folder(checkpoint(state=state)).fingerprint == official.fingerprint


@pytest.mark.parametrize("change", [{"nheads": 8}, {"n_bins": 41}, {"max_seq_len": 100}])
def test_other_settings_give_another_fingerprint(change, checkpoint, official):
    args = json.loads((GOLDEN / "args.json").read_text())
    assert ScGPTEncoder.from_folder(checkpoint(args=args | change)).fingerprint != official.fingerprint
    assert ScGPTEncoder.from_folder(checkpoint(args=args | {"dropout": 0.5})).fingerprint == official.fingerprint


def test_an_encoder_without_training_gives_the_same_twice():
    encoder = ScGPTEncoder.untrained(make_encoder(dropout=0.5).module.config, GeneVocabulary(GENES))
    matrix = random_cells()
    np.testing.assert_array_equal(encoder.encode(matrix, GENES), encoder.encode(matrix, GENES))
    encoder.module.train()
    np.testing.assert_array_equal(encoder.encode(matrix, GENES), encoder.encode(matrix, GENES))


def test_making_an_encoder_leaves_the_random_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    make_encoder()
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        (GENES[:-1], "80 columns, but 79 genes"),
        ([*GENES[:-1], "FOO"], r"not in the vocabulary, e.g. \['FOO'\]"),
        ([*GENES[:-1], GENES[0]], f"named twice, e.g. \\['{GENES[0]}'\\]"),
    ],
)
def test_columns_that_are_not_one_gene_each_are_an_error(genes, message):
    with pytest.raises(ValueError, match=message):
        make_encoder().encode(random_cells(), genes)


def test_values_below_single_precision_are_no_genes():
    encoder = make_encoder()
    matrix = csr_matrix(np.array([[1e-60, 2.0, 3.0]]))
    assert encoder.tokenize(matrix, GENES[:3]).lengths.tolist() == [2]


def test_max_length_counts_cls():
    encoder, matrix = make_encoder(), csr_matrix(np.arange(1.0, len(GENES) + 1)[None].astype(np.float32))
    cells = encoder.tokenize(matrix, GENES, max_length=11)
    assert cells.lengths.tolist() == [10]
    assert sorted(cells.gene_ids) == sorted(encoder.vocabulary.ids[gene] for gene in GENES[-10:])
    with pytest.raises(ValueError, match="max_length is 1"):
        encoder.encode(matrix, GENES, max_length=1)


def test_another_weight_gives_another_fingerprint(checkpoint, official):
    state = golden_state()
    state["encoder.enc_norm.bias"] = state["encoder.enc_norm.bias"] + 1e-3
    assert ScGPTEncoder.from_folder(checkpoint(state=state)).fingerprint != official.fingerprint


def test_a_missing_tensor_is_named(checkpoint):
    state = golden_state()
    del state["transformer_encoder.layers.1.norm2.weight"]
    with pytest.raises(ValueError, match=r"missing: transformer_encoder\.layers\.1\.norm2\.weight"):
        ScGPTEncoder.from_folder(checkpoint(state=state))


def test_a_surplus_tensor_is_named(checkpoint):
    with pytest.raises(ValueError, match=r"unknown: encoder\.surprise"):
        ScGPTEncoder.from_folder(checkpoint(state=golden_state() | {"encoder.surprise": torch.ones(2)}))


def test_a_misshapen_tensor_is_named_with_both_shapes(checkpoint):
    state = golden_state() | {"encoder.enc_norm.weight": torch.ones(65)}
    with pytest.raises(ValueError, match=r"encoder\.enc_norm\.weight: \(65,\) in the file, \(64,\)"):
        ScGPTEncoder.from_folder(checkpoint(state=state))


def test_all_problems_are_listed_at_once(checkpoint):
    state = golden_state() | {"encoder.enc_norm.weight": torch.ones(65), "encoder.surprise": torch.ones(2)}
    del state["encoder.enc_norm.bias"]
    with pytest.raises(ValueError, match=r"(?s)enc_norm\.bias.*surprise.*enc_norm\.weight"):
        ScGPTEncoder.from_folder(checkpoint(state=state))


@pytest.mark.parametrize("key", ["embsize", "nheads", "d_hid", "nlayers"])
def test_args_without_a_key_are_an_error(key, checkpoint):
    args = json.loads((GOLDEN / "args.json").read_text())
    del args[key]
    with pytest.raises(ValueError, match=f"lacks {key}"):
        ScGPTEncoder.from_folder(checkpoint(args=args))


@pytest.mark.parametrize(("key", "value"), [("input_emb_style", "fourier"), ("nheads", 5)])
def test_args_that_cannot_be_are_an_error(key, value):
    args = json.loads((GOLDEN / "args.json").read_text()) | {key: value}
    with pytest.raises(ValueError, match=key):
        ScGPTConfig.from_args(args)


def test_a_vocabulary_with_a_hole_is_an_error(checkpoint):
    vocabulary = json.loads((GOLDEN / "vocab.json").read_text())
    vocabulary = {token: i + (i > 100) for token, i in vocabulary.items()}
    with pytest.raises(ValueError, match=r"vocab\.json: the ids are not 0 to 2002"):
        ScGPTEncoder.from_folder(checkpoint(vocabulary=vocabulary))


def test_a_token_that_stands_twice_is_an_error():
    with pytest.raises(ValueError, match="twice"):
        GeneVocabulary(["A", "B", "A"])


def test_special_tokens_are_appended_and_are_no_genes():
    vocabulary = GeneVocabulary(["A", "<cls>", "B"])
    assert vocabulary.tokens == ["A", "<cls>", "B", "<pad>", "<eoc>"]
    assert vocabulary.genes == ["A", "B"]
    assert (vocabulary.cls_id, vocabulary.pad_id, len(vocabulary)) == (1, 3, 5)


@pytest.mark.parametrize("file", ["args.json", "vocab.json", "best_model.pt"])
def test_a_missing_file_is_named(file, checkpoint):
    folder = checkpoint()
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        ScGPTEncoder.from_folder(folder)


def test_no_code_in_a_checkpoint_runs(tmp_path, checkpoint):
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    folder = checkpoint(state={"encoder.embedding.weight": Attack()})
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        ScGPTEncoder.from_folder(folder)
    assert not (tmp_path / "ran").exists()


def test_save_and_load_keep_every_tensor(tmp_path):
    encoder = make_encoder(dropout=0.0)
    encoder.save(tmp_path / "one")
    loaded = ScGPTEncoder.from_folder(tmp_path / "one")
    assert loaded.module.config == encoder.module.config
    assert loaded.vocabulary.tokens == encoder.vocabulary.tokens
    for name, tensor in encoder.module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], tensor), name
    loaded.save(tmp_path / "two")
    assert ScGPTEncoder.from_folder(tmp_path / "two").fingerprint == loaded.fingerprint


def test_half_precision_is_stored_and_computed_in_single(tmp_path):
    encoder = make_encoder()
    encoder.save(tmp_path / "half", dtype=torch.float16)
    loaded = ScGPTEncoder.from_folder(tmp_path / "half")
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.6 * 4 * sum(
        p.numel() for p in encoder.module.parameters()
    ) + 4096
    np.testing.assert_allclose(loaded.encode(random_cells(), GENES), encoder.encode(random_cells(), GENES), atol=0.01)


def test_untrained_is_reproducible_by_seed():
    one, two, other = (make_encoder(seed=s).module.state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["encoder.embedding.weight"], other["encoder.embedding.weight"])


def test_it_keeps_the_protocol():
    assert isinstance(make_encoder(), Encoder)


def test_pad_cells_puts_cls_first_and_padding_last():
    encoder = make_encoder()
    row = np.zeros((2, len(GENES)))
    row[0, [3, 7]], row[1, 5] = 1, 4
    cells = encoder.tokenize(csr_matrix(row), GENES)
    ids, values, padded = pad_cells(cells, np.array([1, 0]), encoder.vocabulary, -2)
    pad, cls = encoder.vocabulary.pad_id, encoder.vocabulary.cls_id
    assert ids.tolist() == [[cls, 5, pad], [cls, 3, 7]]
    assert values[:, 0].tolist() == [-2, -2]
    assert values[0, 2] == -2
    assert padded
