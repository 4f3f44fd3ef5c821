from dataclasses import replace

import numpy as np
import pytest
import torch

from bioverse_sc.encoders.chemberta import ChembertaEncoder
from bioverse_sc.encoders.esm2 import Esm2Encoder
from bioverse_sc.train import TrainConfig, pretrain_sequence_encoder
from bioverse_sc.train._sequence_encoder import SequenceSource
from tests.encoders.entities import write_chemberta, write_esm

CONFIG = TrainConfig(steps=40, batch_size=16, learning_rate=5e-3, warmup_steps=4, log_every=5)


def sequences(n=64, *, seed=0):
    """Proteins of two kinds, by their letters."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(n) % 2
    return ["".join(rng.choice(list("ACDEF" if kind else "VWYGK"), size=rng.integers(8, 30))) for kind in kinds], kinds


@pytest.fixture
def esm(tmp_path):
    return Esm2Encoder.from_folder(write_esm(tmp_path / "esm"))


def test_masked_residues_and_kinds_are_learned(esm):
    texts, kinds = sequences()
    before, fingerprint = esm.encode(texts), esm.fingerprint
    history = pretrain_sequence_encoder(esm, texts, CONFIG, targets=kinds)
    assert history[-1]["tokens"] < 0.9 * history[0]["tokens"]
    assert history[-1]["accuracy"] > 0.9
    assert esm.fingerprint != fingerprint
    assert not np.allclose(esm.encode(texts), before)
    assert not any(p.requires_grad for p in esm.module.parameters())
    assert not esm.module.training


def test_properties_of_molecules_are_learned(tmp_path):
    encoder = ChembertaEncoder.from_folder(write_chemberta(tmp_path / "chemberta"))
    texts = ["CCO", "CCCCO", "CCN", "CCCCN"] * 8
    targets = np.array([["O" in t, "N" in t, len(t) > 4] for t in texts], dtype=np.uint8)
    history = pretrain_sequence_encoder(encoder, texts, replace(CONFIG, steps=100), targets=targets)
    assert history[-1]["targets"] < 0.5 * history[0]["targets"]


def test_without_targets_only_masked_tokens_count(esm):
    history = pretrain_sequence_encoder(esm, sequences()[0], CONFIG)
    assert "targets" not in history[-1]
    assert history[-1]["loss"] == pytest.approx(history[-1]["tokens"])


def test_unknown_classes_are_in_no_loss(esm):
    texts, kinds = sequences()
    history = pretrain_sequence_encoder(esm, texts, CONFIG, targets=np.where(kinds == 0, -1, kinds))
    assert np.isfinite([h["loss"] for h in history]).all()


def test_an_interrupted_run_goes_on(tmp_path, esm):
    texts, kinds = sequences()
    unbroken = Esm2Encoder.from_folder(tmp_path / "esm")
    pretrain_sequence_encoder(unbroken, texts, CONFIG, targets=kinds)
    pretrain_sequence_encoder(esm, texts, CONFIG, targets=kinds, folder=tmp_path / "run")
    resumed = Esm2Encoder.from_folder(tmp_path / "esm")
    pretrain_sequence_encoder(resumed, texts, CONFIG, targets=kinds, folder=tmp_path / "run")
    assert resumed.fingerprint == esm.fingerprint
    np.testing.assert_allclose(unbroken.encode(texts), esm.encode(texts), atol=1e-5)


def test_too_few_targets(esm):
    with pytest.raises(ValueError, match="2 texts but 1 targets"):
        pretrain_sequence_encoder(esm, ["MKTA", "MKTA"], CONFIG, targets=np.array([0]))


def source(tokens, max_tokens=10):
    return SequenceSource(tokens, None, max_tokens=max_tokens, pad_id=1, mask_id=32, ordinary=np.arange(4, 30))


def test_a_long_sequence_is_read_in_stretches_of_all_its_parts():
    tokens = np.array([0, *range(4, 24), 2])
    seen = set()
    for seed in range(60):
        batch = source([tokens]).batch(np.array([0]), np.random.default_rng(seed))
        ids = batch["true"][0].tolist()
        assert [ids[0], ids[-1], len(ids)] == [0, 2, 10]
        assert np.array_equal(np.diff(ids[1:-1]), np.ones(7))
        seen |= set(ids[1:-1])
    assert seen == set(range(4, 24))


def test_masking_follows_bert_and_leaves_special_tokens():
    tokens = [np.array([0, *np.full(1000, 7), 2])] * 20
    batch = source(tokens, 2000).batch(np.arange(20), np.random.default_rng(0))
    chosen, ids = batch["chosen"], batch["ids"]
    assert chosen.float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert not chosen[:, [0, -1]].any()
    assert torch.equal(ids[~chosen], batch["true"][~chosen])
    assert (ids[chosen] == 32).float().mean().item() == pytest.approx(0.8, abs=0.02)
    # of the tenth that is replaced, one in 26 draws is the token itself
    assert (ids[chosen] == 7).float().mean().item() == pytest.approx(0.1 + 0.1 / 26, abs=0.02)
