import json

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPTConfig, ScGPTEncoder
from bioverse_sc.train import TrainConfig, pretrain_encoder
from tests.encoders.test_scgpt import GOLDEN, checkpoint, golden, golden_state, official  # noqa: F401
from tests.tiny import GENES, make_encoder

# --- the heads of a checkpoint ---------------------------------------------------------------------------------------


def test_masked_values_are_those_of_the_official_code(official, golden):  # noqa: F811
    ids, values = torch.from_numpy(golden["gene_ids"]).long(), torch.from_numpy(golden["binned_values"])
    with torch.inference_mode():
        predicted = official.heads().values(official.module(ids, values)).numpy()
    true = np.arange(ids.shape[1]) < golden["lengths"][:, None]
    np.testing.assert_allclose(predicted[true], golden["mlm_output"][true], atol=1e-5, rtol=0)


def test_the_official_format_keeps_every_tensor_of_the_official_file(official, tmp_path):  # noqa: F811
    official.save(tmp_path, format="official")
    written = torch.load(tmp_path / "best_model.pt", weights_only=True)
    expected = golden_state()
    assert set(written) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(written[name], tensor), name
    assert ScGPTEncoder.from_folder(tmp_path).fingerprint == official.fingerprint


@pytest.mark.parametrize("formats", [("safetensors", "official"), ("official", "safetensors")])
def test_a_folder_holds_what_was_saved_last(formats, tmp_path):
    first, second = make_encoder(seed=1), make_encoder(seed=2)
    first.save(tmp_path, format=formats[0])
    second.save(tmp_path, format=formats[1])
    matrix, _ = cells(4)
    np.testing.assert_array_equal(
        ScGPTEncoder.from_folder(tmp_path).encode(matrix, GENES), second.encode(matrix, GENES)
    )


def test_a_checkpoint_without_heads_predicts_no_values():
    with pytest.raises(ValueError, match="no decoder and no mvc_decoder"):
        make_encoder().heads()


def test_another_format_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="format is 'onnx'"):
        make_encoder().save(tmp_path, format="onnx")


# --- pretraining and training on -------------------------------------------------------------------------------------


def cells(n=40, *, seed=0):
    rng = np.random.default_rng(seed)
    return csr_matrix(rng.poisson(1.5, size=(n, len(GENES))).astype(np.float32)), np.arange(n) % 3


CONFIG = TrainConfig(steps=8, batch_size=20, learning_rate=3e-3, warmup_steps=2, log_every=2)


def trained(encoder, config=CONFIG, **kwargs):
    counts, types = cells()
    return pretrain_encoder(encoder, encoder.tokenize(counts, GENES), config, types=types, **kwargs)


def test_what_was_trained_is_written_with_the_official_names(tmp_path):
    encoder = make_encoder(n_layers_cls=2)
    trained(encoder)
    encoder.save(tmp_path, format="official")
    names = set(torch.load(tmp_path / "best_model.pt", weights_only=True))
    assert {
        "decoder.fc.4.bias",
        "mvc_decoder.gene2query.weight",
        "mvc_decoder.W.weight",
        "cls_decoder._decoder.0.weight",
        "cls_decoder._decoder.2.weight",
        "cls_decoder.out_layer.weight",
        "transformer_encoder.layers.0.self_attn.Wqkv.weight",
    } <= names
    assert not [name for name in names if "in_proj" in name]
    assert json.loads((tmp_path / "args.json").read_text())["embsize"] == 16


def test_training_goes_on_where_it_was(tmp_path):
    """The first loss of a run that goes on is that of the last one, not of a new network."""
    encoder = make_encoder(dropout=0.0)
    before = trained(encoder, TrainConfig(steps=60, batch_size=20, learning_rate=5e-3, warmup_steps=2, log_every=2))
    encoder.save(tmp_path, format="official")
    loaded = ScGPTEncoder.from_folder(tmp_path)
    assert loaded.fingerprint == encoder.fingerprint
    still = TrainConfig(steps=2, batch_size=20, learning_rate=1e-6, warmup_steps=1, log_every=2)
    after = trained(loaded, still)
    new = trained(make_encoder(dropout=0.0), still)
    assert after[0]["loss"] < before[0]["loss"] - 0.5 * (before[0]["loss"] - before[-1]["loss"])
    assert after[0]["loss"] < new[0]["loss"]


def test_heads_of_another_shape_are_made_anew():
    encoder = make_encoder()
    trained(encoder)
    counts, _ = cells()
    types = np.arange(40) % 7
    pretrain_encoder(encoder, encoder.tokenize(counts, GENES), CONFIG, types=types)
    assert encoder.head_weights["cls_decoder.out_layer.bias"].shape == (7,)


def test_heads_survive_official_units():
    encoder = make_encoder()
    trained(encoder)
    heads = encoder.heads()
    for name, tensor in heads.official().items():
        torch.testing.assert_close(tensor, encoder.head_weights[name])


def test_the_fingerprint_follows_the_weights():
    encoder = make_encoder()
    trained(encoder)
    one = encoder.fingerprint
    trained(encoder)
    assert "" != one != encoder.fingerprint


# --- loading: what published folders leave open ----------------------------------------------------------------------


def test_appended_tokens_without_rows_are_named(checkpoint):  # noqa: F811
    vocabulary = json.loads((GOLDEN / "vocab.json").read_text())
    short = [t for t in sorted(vocabulary, key=vocabulary.get) if t != "<eoc>"]
    state = golden_state()
    rows = [vocabulary[t] for t in short]
    state["encoder.embedding.weight"] = state["encoder.embedding.weight"][rows]
    with pytest.raises(ValueError, match=r"encoder\.embedding\.weight: \(2002, 64\).*\(2003, 64\)[\s\S]*lacks <eoc>"):
        ScGPTEncoder.from_folder(checkpoint(state=state, vocabulary={t: i for i, t in enumerate(short)}))


def test_appended_tokens_with_rows_load(checkpoint, official):  # noqa: F811
    vocabulary = json.loads((GOLDEN / "vocab.json").read_text())
    last = sorted(vocabulary, key=vocabulary.get)[-3:]
    if set(last) != {"<pad>", "<cls>", "<eoc>"}:
        pytest.skip("the special tokens are not the last ones")
    folder = checkpoint(vocabulary={t: i for t, i in vocabulary.items() if t not in last})
    assert len(ScGPTEncoder.from_folder(folder).vocabulary) == len(official.vocabulary)


def test_the_rows_of_the_value_embedding_are_those_of_the_checkpoint(tmp_path):
    encoder = make_encoder(input_emb_style="category", pad_value=51, mask_value=52, n_input_bins=60)
    encoder.save(tmp_path)
    args = json.loads((tmp_path / "args.json").read_text())
    del args["n_input_bins"]
    (tmp_path / "args.json").write_text(json.dumps(args))
    assert ScGPTEncoder.from_folder(tmp_path).module.value_encoder.embedding.num_embeddings == 60


def test_a_pad_value_that_is_no_row_is_an_error():
    with pytest.raises(ValueError, match="pad_value is -2"):
        make_encoder(input_emb_style="category")


def test_a_file_with_more_than_tensors_says_how_to_mend_it(checkpoint):  # noqa: F811
    folder = checkpoint()
    torch.save({"model": {"a": torch.ones(2)}, "epoch": 3}, folder / "best_model.pt")
    with pytest.raises(ValueError, match=r"not a state_dict.*\['model', 'epoch'\].*that key"):
        ScGPTEncoder.from_folder(folder)
    torch.save(torch.nn.Linear(2, 2), folder / "best_model.pt")
    with pytest.raises(ValueError, match=r"more than tensors.*state_dict\(\)"):
        ScGPTEncoder.from_folder(folder)


def test_a_vocabulary_of_sixty_thousand_genes_loads_in_a_moment(tmp_path):
    import time

    (tmp_path / "vocab.json").write_text(json.dumps({f"GENE{i}": i for i in range(60_694)}))
    began = time.process_time()
    vocabulary = GeneVocabulary.read(tmp_path / "vocab.json")
    assert (len(vocabulary), len(vocabulary.genes)) == (60_697, 60_694)
    assert time.process_time() - began < 3


def test_args_keep_no_empty_key(tmp_path):
    config = ScGPTConfig(embsize=8, nheads=2, d_hid=8, nlayers=1)
    config.write(tmp_path / "args.json")
    assert None not in json.loads((tmp_path / "args.json").read_text()).values()
    assert ScGPTConfig.read(tmp_path / "args.json") == config
