import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from bioverse_sc.train import TrainConfig, pretrain_encoder
from tests.tiny import GENES, make_encoder


def two_types(n=60, *, seed=0):
    """Cells of two types, which express different halves of the genes."""
    rng = np.random.default_rng(seed)
    types = np.arange(n) % 2
    rate = np.where((np.arange(len(GENES)) < 40) == (types[:, None] == 0), 4.0, 0.3)
    return csr_matrix(rng.poisson(rate).astype(np.float32)), types


CONFIG = TrainConfig(steps=60, batch_size=20, learning_rate=3e-3, warmup_steps=5, log_every=20)


def test_the_loss_falls_and_types_are_learnt():
    encoder = make_encoder(dropout=0.0)
    counts, types = two_types()
    history = pretrain_encoder(encoder, encoder.tokenize(counts, GENES), CONFIG, types=types)
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert history[-1]["values"] < history[0]["values"]
    assert history[-1]["accuracy"] > 0.9
    fresh, truth = two_types(seed=9)
    vectors = encoder.encode(fresh, GENES)
    centres = np.stack([vectors[truth == t].mean(axis=0) for t in (0, 1)])
    assert ((vectors @ centres.T).argmax(axis=1) == truth).mean() > 0.95


@pytest.mark.parametrize("types", [np.full(60, -1), np.where(np.arange(60) == 7, 1, -1)])
def test_batches_without_a_known_type_train_on_values(types):
    encoder = make_encoder(dropout=0.0)
    config = TrainConfig(steps=4, batch_size=5, warmup_steps=1, log_every=1)
    counts, _ = two_types()
    targets = np.eye(2)
    history = pretrain_encoder(encoder, encoder.tokenize(counts, GENES), config, types=types, type_targets=targets)
    assert all(np.isfinite(row["loss"]) for row in history)


def test_batches_without_masked_values_train_on_types():
    encoder = make_encoder(dropout=0.0)
    counts, types = two_types()
    config = TrainConfig(steps=2, batch_size=5, warmup_steps=1, log_every=1)
    cells = encoder.tokenize(counts, GENES)
    history = pretrain_encoder(encoder, cells, config, types=types, mask_share=(0.0, 0.0))
    assert [row["values"] for row in history] == [0, 0]
    assert all(row["types"] > 0 for row in history)


def test_input_that_does_not_fit_is_an_error():
    encoder = make_encoder()
    counts, types = two_types()
    with pytest.raises(ValueError, match="60 cells but 59 types"):
        pretrain_encoder(encoder, encoder.tokenize(counts, GENES), CONFIG, types=types[1:])
    category = make_encoder(input_emb_style="category", pad_value=51)
    with pytest.raises(ValueError, match=r"mask_value is -1.*n_bins \+ 1, 52"):
        pretrain_encoder(category, category.tokenize(counts, GENES), CONFIG)


def test_values_alone_are_learnt_without_types():
    encoder = make_encoder(dropout=0.0)
    counts, _ = two_types()
    history = pretrain_encoder(encoder, encoder.tokenize(counts, GENES), CONFIG)
    assert history[-1]["loss"] < history[0]["loss"]
    assert "accuracy" not in history[0]


def test_cells_of_unknown_type_do_not_train_the_head():
    counts, types = two_types()
    results = []
    for wrong in (0, 1):
        encoder = make_encoder(dropout=0.0)
        labelled = types.copy()
        labelled[::3] = -1
        targets = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [wrong, 1 - wrong, 0.0]])
        config = TrainConfig(steps=3, batch_size=20)
        cells = encoder.tokenize(counts, GENES)
        pretrain_encoder(encoder, cells, config, types=labelled, type_targets=targets, values_weight=0.0)
        results.append(encoder.encode(counts, GENES))
    np.testing.assert_array_equal(*results)


def test_two_runs_give_the_same_weights():
    counts, types = two_types()
    states = []
    for outside in (1, 2):
        encoder = make_encoder()
        torch.manual_seed(outside)
        pretrain_encoder(encoder, encoder.tokenize(counts, GENES), TrainConfig(steps=4, batch_size=8), types=types)
        states.append(encoder.module.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_it_is_frozen_and_in_evaluation_mode_afterwards():
    encoder = make_encoder()
    counts, _ = two_types()
    pretrain_encoder(encoder, encoder.tokenize(counts, GENES), TrainConfig(steps=1, batch_size=8))
    assert not encoder.module.training
    assert not any(p.requires_grad for p in encoder.module.parameters())


def test_no_cells_are_an_error():
    encoder = make_encoder()
    with pytest.raises(ValueError, match="nothing to train on"):
        pretrain_encoder(encoder, encoder.tokenize(csr_matrix((0, len(GENES))), GENES), CONFIG)
