import json
import math

import numpy as np
import pytest
import torch

from bioverse_sc.train import TrainConfig
from bioverse_sc.train._loop import GROUPED_BATCHES, Task, batch_indices, fit, learning_rate_factor


class Line(Task):
    """Least squares, with dropout so that randomness matters."""

    def __init__(self, *, dropout=0.3):
        super().__init__()
        torch.manual_seed(7)
        self.layer = torch.nn.Linear(4, 1)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, batch):
        error = self.layer(self.dropout(batch["x"])).squeeze(-1) - batch["y"]
        return {"loss": error.pow(2).mean(), "worst": error.abs().max()}


class Points:
    """Points of a plane with noise from the generator; breaks down at the batch that it is told."""

    lengths = None
    weights = None

    def __init__(self, n=20, *, breaks_at=None):
        self.x = torch.from_numpy(np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32))
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5, 3.0])
        self.breaks_at, self.seen = breaks_at, []

    def __len__(self):
        return len(self.x)

    def batch(self, indices, rng):
        if len(self.seen) == self.breaks_at:
            raise KeyboardInterrupt
        self.seen.append(indices.tolist())
        noise = torch.from_numpy(rng.normal(scale=0.1, size=len(indices)).astype(np.float32))
        return {"x": self.x[indices], "y": self.y[indices] + noise}


CONFIG = TrainConfig(steps=6, batch_size=8, warmup_steps=2, log_every=1, checkpoint_every=3, learning_rate=0.05)


def without_time(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


@pytest.mark.parametrize("broken_at", [3, 4, 5])
def test_a_resumed_run_equals_an_unbroken_one_bit_by_bit(broken_at, tmp_path):
    whole, unbroken = Line(), Points()
    expected = fit(whole, unbroken, CONFIG, folder=tmp_path / "whole")
    source = Points(breaks_at=broken_at)
    with pytest.raises(KeyboardInterrupt):
        fit(Line(), source, CONFIG, folder=tmp_path / "broken")
    resumed, rest = Line(), Points()
    history = fit(resumed, rest, CONFIG, folder=tmp_path / "broken")
    assert rest.seen == unbroken.seen[3:], "it goes on from the checkpoint of step 3"
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)
    assert without_time(history) == without_time(expected)


def test_a_run_that_is_done_does_nothing_more(tmp_path):
    task = Line()
    fit(task, Points(), CONFIG, folder=tmp_path)
    again = Line()
    fit(again, Points(breaks_at=0), CONFIG, folder=tmp_path)
    assert torch.equal(again.layer.weight, task.layer.weight)


def test_checkpoints_do_not_change_a_run(tmp_path):
    one, two = Line(), Line()
    fit(one, Points(), CONFIG)
    fit(two, Points(), CONFIG, folder=tmp_path)
    assert torch.equal(one.layer.weight, two.layer.weight)


def test_the_random_state_outside_does_not_matter():
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        task = Line()
        torch.manual_seed(seed)
        fit(task, Points(), CONFIG)
        weights.append(task.layer.weight)
    assert torch.equal(*weights)


def test_another_seed_gives_other_batches():
    sources = [Points(), Points()]
    for seed, source in enumerate(sources):
        fit(Line(), source, TrainConfig(steps=3, batch_size=8, seed=seed))
    assert sources[0].seen != sources[1].seen


def test_another_configuration_does_not_resume(tmp_path):
    fit(Line(), Points(), CONFIG, folder=tmp_path)
    other = TrainConfig(**{**vars(CONFIG), "learning_rate": 0.01, "steps": 9})
    with pytest.raises(ValueError, match=r"another configuration \(learning_rate, steps\)"):
        fit(Line(), Points(), other, folder=tmp_path)


def test_other_parameters_do_not_resume(tmp_path):
    fit(Line(), Points(), CONFIG, folder=tmp_path)
    other = Line()
    other.layer.bias.requires_grad_(False)
    with pytest.raises(ValueError, match="other parameters"):
        fit(other, Points(), CONFIG, folder=tmp_path)


def test_no_examples_are_an_error():
    with pytest.raises(ValueError, match="nothing to train on"):
        fit(Line(), Points(0), CONFIG)


def test_a_loss_that_is_not_finite_stops_the_run():
    source = Points()
    source.y[:] = torch.nan
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 0; lower learning_rate"):
        fit(Line(), source, CONFIG)


def test_it_learns_and_the_log_says_so(tmp_path):
    task = Line(dropout=0.0)
    config = TrainConfig(steps=150, batch_size=16, learning_rate=0.1, warmup_steps=5, log_every=50, weight_decay=0.0)
    history = fit(task, Points(64), config, folder=tmp_path)
    assert [row["step"] for row in history] == [50, 100, 150]
    assert history[-1]["loss"] < 0.1 * history[0]["loss"]
    np.testing.assert_allclose(task.layer.weight[0].detach(), [1.0, -2.0, 0.5, 3.0], atol=0.1)
    logged = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert logged == history
    assert set(history[0]) == {"step", "loss", "worst", "learning_rate", "seconds"}


def test_bf16_trains_too():
    task = Line(dropout=0.0)
    config = TrainConfig(
        steps=60, batch_size=16, learning_rate=0.1, warmup_steps=5, log_every=20, mixed_precision="bf16"
    )
    history = fit(task, Points(64), config)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    assert task.layer.weight.dtype == torch.float32


def test_frozen_parameters_stay():
    task = Line()
    task.layer.bias.requires_grad_(False)
    before = task.layer.bias.clone()
    fit(task, Points(), CONFIG)
    assert torch.equal(task.layer.bias, before)


@pytest.mark.parametrize(("n", "size"), [(10, 3), (7, 7), (5, 8), (1, 4), (12, 4)])
def test_every_epoch_is_a_permutation(n, size):
    steps = 3 * n  # a whole number of epochs
    drawn = np.concatenate([batch_indices(n, size, step, seed=4) for step in range(steps)])
    epochs = drawn.reshape(-1, n)
    assert len(epochs) == 3 * size
    for epoch in epochs:
        assert sorted(epoch) == list(range(n))
    if n > 4:
        assert len({tuple(e) for e in epochs}) > len(epochs) / 2, "epochs have orders of their own"


@pytest.mark.parametrize(("n", "size"), [(10, 3), (70, 8), (1000, 16)])
def test_sorting_by_length_keeps_the_examples_of_each_group(n, size):
    lengths = np.random.default_rng(0).integers(5, 90, size=n)
    for group in range(3):
        steps = range(group * GROUPED_BATCHES, (group + 1) * GROUPED_BATCHES)
        batches = [batch_indices(n, size, step, 4, lengths) for step in steps]
        plain = [batch_indices(n, size, step, 4) for step in steps]
        assert sorted(np.concatenate(batches)) == sorted(np.concatenate(plain))
        spread, unsorted = (np.mean([np.ptp(lengths[b]) for b in drawn]) for drawn in (batches, plain))
        assert spread < 0.5 * unsorted, "examples of one length come together"


def test_indices_follow_from_seed_and_step():
    np.testing.assert_array_equal(batch_indices(50, 8, 9, 1), batch_indices(50, 8, 9, 1))
    assert not np.array_equal(batch_indices(50, 8, 9, 1), batch_indices(50, 8, 9, 2))


def test_learning_rate_warms_up_and_decays_to_a_tenth():
    config = TrainConfig(steps=100, warmup_steps=10)
    factors = [learning_rate_factor(step, config) for step in range(101)]
    np.testing.assert_allclose(factors[:10], np.arange(1, 11) / 10)
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 2)))
    assert factors[100] == pytest.approx(0.1)
    assert (np.diff(factors[10:]) < 0).all()
    assert learning_rate_factor(0, TrainConfig(steps=5, warmup_steps=0)) == 1


@pytest.mark.parametrize(
    "name", ["steps", "batch_size", "learning_rate", "max_grad_norm", "log_every", "checkpoint_every"]
)
def test_a_number_that_must_be_positive_is_named(name):
    with pytest.raises(ValueError, match=f"{name} is 0; expected a positive"):
        TrainConfig(**({"steps": 1} | {name: 0}))
