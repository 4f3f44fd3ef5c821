import json
import math
import os
import signal
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bioverse_sc.train import Task, TrainConfig, batch_indices, fit
from bioverse_sc.train._checkpoint import Checkpoints
from bioverse_sc.train._order import GROUPED_BATCHES
from bioverse_sc.train._step import learning_rate_factor


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
    """Points of a plane with noise from the generator; breaks down, or is told to end, at a batch."""

    def __init__(self, n=20, *, breaks_at=None, terminates_at=None, lengths=None, weights=None):
        self.x = torch.from_numpy(np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32))
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5, 3.0])
        self.breaks_at, self.terminates_at, self.seen = breaks_at, terminates_at, []
        self.lengths, self.weights = lengths, weights

    def __len__(self):
        return len(self.x)

    def batch(self, indices, rng):
        if len(self.seen) == self.breaks_at:
            raise KeyboardInterrupt
        if len(self.seen) == self.terminates_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.seen.append(indices.tolist())
        noise = torch.from_numpy(rng.normal(scale=0.1, size=len(indices)).astype(np.float32))
        return {"x": self.x[indices], "y": self.y[indices] + noise}


CONFIG = TrainConfig(steps=6, batch_size=8, warmup_steps=2, log_every=1, checkpoint_every=3, learning_rate=0.05)


class Counted(Line):
    """The loss is a mean over those points of a batch that count, as over target tokens."""

    def __init__(self):
        super().__init__(dropout=0.0)

    def weight(self, batch):
        return float((batch["y"] > 0).sum())

    def forward(self, batch):
        error = (self.layer(batch["x"]).squeeze(-1) - batch["y"])[batch["y"] > 0]
        n = max(1, len(error))
        return {"loss": error.pow(2).sum() / n, "bias": error.sum() / n}


class Walk(Task):
    """One weight that falls with every step; the validation loss is lowest at ``goal``."""

    def __init__(self, goal, start=1.0):
        super().__init__()
        self.weight_ = torch.nn.Parameter(torch.tensor([start]))
        self.goal, self.path = goal, [start]

    def forward(self, batch):
        return {"loss": self.weight_.sum() if self.training else (self.weight_ - self.goal).pow(2).sum()}

    def after_step(self):
        self.path.append(self.weight_.item())

    def nearest(self):
        return int(np.argmin([(w - self.goal) ** 2 for w in self.path]))


def without_time(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def assert_same_weights(one, two):
    assert one.state_dict().keys() == two.state_dict().keys()
    for name, tensor in one.state_dict().items():
        assert torch.equal(two.state_dict()[name], tensor), name


def rows_in(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("log_every", [1, 2, 4])
@pytest.mark.parametrize("broken_at", [3, 4, 5])
def test_a_resumed_run_equals_an_unbroken_one_bit_by_bit(broken_at, log_every, tmp_path):
    config = replace(CONFIG, log_every=log_every)
    whole, unbroken = Line(), Points()
    expected = fit(whole, unbroken, config, folder=tmp_path / "whole")
    source = Points(breaks_at=broken_at)
    with pytest.raises(KeyboardInterrupt):
        fit(Line(), source, config, folder=tmp_path / "broken")
    resumed, rest = Line(), Points()
    history = fit(resumed, rest, config, folder=tmp_path / "broken")
    assert rest.seen == unbroken.seen[3:], "it goes on from the checkpoint of step 3"
    assert_same_weights(whole, resumed)
    assert without_time(history) == without_time(expected)
    assert rows_in(tmp_path / "broken") == history, "each row is there once"
    seconds = [row["seconds"] for row in history]
    assert seconds == sorted(seconds), "the time before the break counts"


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


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_accumulation_equals_the_whole_batch(micro_batch_size):
    tasks, histories = [], []
    for size in (None, micro_batch_size):
        tasks.append(Counted())
        config = replace(CONFIG, micro_batch_size=size)
        histories.append(fit(tasks[-1], Points(), config, validation=Points(11)))
    for one, two in zip(*(task.state_dict().values() for task in tasks), strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)
    whole, parts = map(without_time, histories)
    assert [row.keys() for row in whole] == [row.keys() for row in parts]
    for row, other in zip(whole, parts, strict=True):
        assert other == pytest.approx(row, abs=1e-5, rel=1e-5)


def test_a_batch_without_targets_changes_nothing_but_the_schedule():
    source = Points()
    source.y[:] = -1
    task = Counted()
    before = task.layer.weight.clone()
    history = fit(task, source, replace(CONFIG, weight_decay=0.0, micro_batch_size=4))
    assert torch.equal(task.layer.weight, before)
    assert {row["loss"] for row in history} == {0.0}


def test_batches_that_cannot_be_shared_out_are_an_error():
    with pytest.raises(ValueError, match=r"batch_size is 8; expected a multiple of 3, 1 process with 3 examples"):
        fit(Line(), Points(), replace(CONFIG, micro_batch_size=3))
    with pytest.raises(ValueError, match=r"batch_size is 8; expected a multiple of 9, 3 processes with 3 examples"):
        CONFIG.micro_batches(3)
    with pytest.raises(ValueError, match=r"multiple of 12, 3 processes with 4 examples"):
        replace(CONFIG, micro_batch_size=4).micro_batches(3)
    assert replace(CONFIG, micro_batch_size=2).micro_batches(2) == 2


def test_a_loss_that_compares_examples_takes_no_parts():
    task = Line()
    task.whole_batch = True
    with pytest.raises(ValueError, match=r"contrastive loss compares all examples.*no micro_batch_size"):
        fit(task, Points(), replace(CONFIG, micro_batch_size=4))
    fit(task, Points(), replace(CONFIG, micro_batch_size=8))


def test_metrics_that_some_steps_lack_are_averaged_over_the_others():
    class Sometimes(Line):
        n = 0

        def forward(self, batch):
            self.n += 1
            return super().forward(batch) | ({} if self.n % 2 else {"even": torch.tensor(float(self.n))})

    history = fit(Sometimes(), Points(), replace(CONFIG, log_every=4))
    assert [row["even"] for row in history] == [3.0, 6.0]


def test_validation_comes_first_every_so_often_and_last(tmp_path):
    config = replace(CONFIG, steps=5, validate_every=2, log_every=5)
    held_out = Points(11)
    history = fit(Line(), Points(), config, validation=held_out, folder=tmp_path)
    validated = [row for row in history if "validation_loss" in row]
    assert [row["step"] for row in validated] == [0, 2, 4, 5]
    assert set(validated[0]) == {"step", "validation_loss", "validation_worst"}
    batches = [list(range(8)), [8, 9, 10]]
    assert held_out.seen == batches * 4, "every example, in order"
    fit(Line(), Points(), config, validation=held_out, folder=tmp_path)
    assert len(held_out.seen) == 8, "a run that is done measures nothing again"
    steps = [row["step"] for row in fit(Line(), Points(), replace(CONFIG, log_every=9), validation=held_out)]
    assert steps == [0, 3, 6, 6], "as often as checkpoints by default"


def test_validation_does_not_change_a_run():
    one, two = Line(), Line()
    config = replace(CONFIG, weight_decay=0.0)
    seen = []
    two.after_step = lambda: seen.append(two.layer.weight.clone())
    fit(one, Points(), config)
    fit(two, Points(), replace(config, validate_every=1), validation=Points(11))
    assert torch.equal(seen[-1], one.layer.weight)


WALK = TrainConfig(steps=8, batch_size=4, warmup_steps=0, learning_rate=0.1, validate_every=1, checkpoint_every=3)


@pytest.mark.parametrize("with_folder", [True, False])
@pytest.mark.parametrize(("goal", "best"), [(2.0, 0), (0.7, 3), (0.6, 5), (-1.0, 8)])
def test_it_ends_with_the_best_weights(goal, best, with_folder, tmp_path):
    folder = tmp_path if with_folder else None
    task = Walk(goal)
    history = fit(task, Points(), WALK, validation=Points(4), folder=folder)
    assert len(task.path) == 9
    assert task.nearest() == best
    assert task.weight_.item() == task.path[best]
    losses = [row["validation_loss"] for row in history if "validation_loss" in row]
    assert int(np.argmin(losses)) == best
    if folder:
        again = Walk(goal)
        assert fit(again, Points(breaks_at=0), WALK, validation=Points(4), folder=folder) == history
        assert again.weight_.item() == task.path[best], "a run that is done ends with them too"


@pytest.mark.parametrize("with_folder", [True, False])
def test_patience_ends_a_run(with_folder, tmp_path, log):
    folder = tmp_path if with_folder else None
    config = replace(WALK, patience=2)
    task = Walk(0.7)
    history = fit(task, Points(), config, validation=Points(4), folder=folder)
    assert len(task.path) == 6, "two steps after the best, step 3"
    assert task.weight_.item() == task.path[3]
    assert "stopped at step 5; step 3 was best" in log[-1].getMessage()
    if folder:
        again = Walk(0.7)
        assert fit(again, Points(breaks_at=0), config, validation=Points(4), folder=folder) == history
        assert again.path == [1.0], "no step more"
        assert again.weight_.item() == task.path[3]


def test_patience_survives_a_break(tmp_path):
    config = replace(WALK, patience=3, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        fit(Walk(0.7), Points(breaks_at=5), config, validation=Points(4), folder=tmp_path)
    task = Walk(0.7)
    history = fit(task, Points(), config, validation=Points(4), folder=tmp_path)
    assert history[-1]["step"] == 6
    assert task.weight_.item() == pytest.approx(0.7, abs=0.05)


def test_patience_needs_validation():
    with pytest.raises(ValueError, match="patience needs examples to validate on"):
        fit(Line(), Points(), replace(CONFIG, patience=1))


def broken_example(source, number=5):
    source.y[number] = torch.nan
    return source


def test_a_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(FloatingPointError, match=r"loss is nan at step \d; lower learning_rate"):
        fit(Line(), broken_example(Points()), CONFIG)


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_the_batch_of_a_loss_that_is_not_finite_is_written_aside(micro_batch_size, tmp_path):
    config = replace(CONFIG, steps=9, batch_size=4, checkpoint_every=1, micro_batch_size=micro_batch_size)
    drawn = [batch_indices(20, 4, step, 0) for step in range(5)]
    number = int(next(i for i in drawn[2] if i not in np.concatenate(drawn[:2])))
    n_before = 2 * (4 // (micro_batch_size or 4))
    task, source = Line(), broken_example(Points(), number)
    with pytest.raises(FloatingPointError, match="loss is nan at step 2") as raised:
        fit(task, source, config, folder=tmp_path)
    as_before = Line()
    with pytest.raises(KeyboardInterrupt):
        fit(as_before, Points(breaks_at=n_before), config)
    assert_same_weights(task, as_before)
    (file,) = (tmp_path / "not_finite").iterdir()
    assert str(file) in str(raised.value)
    kept = load_file(file)
    assert set(kept) == {"x", "y", "examples"}
    assert kept["examples"].tolist() in source.seen
    assert len(kept["examples"]) == (micro_batch_size or 4)
    assert kept["y"].isnan().tolist() == [i == number for i in kept["examples"].tolist()]
    assert torch.equal(kept["x"], source.x[kept["examples"]])
    assert Checkpoints(tmp_path).names()["last"] == "step-00000002"
    # with the example mended, it goes on
    fit(Line(), Points(), config, folder=tmp_path)


@pytest.mark.parametrize("micro_batch_size", [None, 2])
def test_a_gradient_that_is_not_finite_stops_the_run_too(micro_batch_size, tmp_path):
    class Steep(Line):
        def forward(self, batch):
            weight = self.layer.weight
            return {"loss": super().forward(batch)["loss"] + (weight - weight.detach()).sqrt().sum()}

    task = Steep()
    before = task.layer.weight.clone()
    config = replace(CONFIG, micro_batch_size=micro_batch_size)
    with pytest.raises(FloatingPointError, match=r"the gradient's norm is inf at step 0"):
        fit(task, Points(), config, folder=tmp_path)
    assert torch.equal(task.layer.weight, before)
    kept = [load_file(file)["examples"].tolist() for file in sorted((tmp_path / "not_finite").iterdir())]
    assert np.concatenate(kept).tolist() == batch_indices(20, 8, 0, 0).tolist(), "all parts of the step"


def test_tensors_of_a_batch_may_share_memory(tmp_path):
    class Shared(Points):
        def batch(self, indices, rng):
            batch = super().batch(indices, rng)
            return batch | {"again": batch["y"], "first": batch["x"][:1]}

    with pytest.raises(FloatingPointError, match="not_finite"):
        fit(Line(), broken_example(Shared()), CONFIG, folder=tmp_path)


def test_a_validation_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match=r"train: the validation loss is nan at step 0"):
        fit(Line(), Points(), CONFIG, validation=broken_example(Points()), folder=tmp_path)
    assert Checkpoints(tmp_path).names() == {}


@pytest.mark.parametrize("log_every", [1, 4])
def test_sigterm_saves_exits_and_is_given_back(log_every, tmp_path, log):
    config = replace(CONFIG, checkpoint_every=100, log_every=log_every)
    handler = lambda *_: pytest.fail("it is not for this one")
    outside = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(SystemExit) as exited:
            fit(Line(), Points(terminates_at=2), config, folder=tmp_path / "stopped")
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, outside)
    assert exited.value.code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM at step 4 of 6" in log[-1].getMessage(), "it was told in step 3, and sees it in the next"
    resumed, whole = Line(), Line()
    history = fit(resumed, Points(), config, folder=tmp_path / "stopped")
    assert without_time(history) == without_time(fit(whole, Points(), config, folder=tmp_path / "whole"))
    assert_same_weights(resumed, whole)


def test_without_a_folder_sigterm_is_left_alone():
    class Told(BaseException):
        pass

    def handler(*_):
        raise Told

    outside = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(Told):
            fit(Line(), Points(terminates_at=2), CONFIG)
    finally:
        signal.signal(signal.SIGTERM, outside)


def test_it_works_off_the_main_thread(tmp_path):
    here, there = Line(), Line()
    failed = []

    def work():
        try:
            fit(there, Points(), CONFIG, folder=tmp_path)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert not failed
    fit(here, Points(), CONFIG)
    assert_same_weights(here, there)


def test_precision_is_not_left_to_accelerate(monkeypatch):
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    AcceleratorState._reset_state()
    try:
        with pytest.raises(
            ValueError, match=r"mixed_precision 'bf16', this training to 'no'; set accelerate's to 'no'"
        ):
            fit(Line(), Points(), CONFIG)
        fit(Line(), Points(), replace(CONFIG, mixed_precision="bf16"))
    finally:
        AcceleratorState._reset_state()


def test_tensorboard_holds_the_scalars_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(CONFIG, tensorboard=True)
    with pytest.raises(KeyboardInterrupt):
        fit(Line(), Points(breaks_at=5), config, validation=Points(4), folder=tmp_path)
    history = fit(Line(), Points(), config, validation=Points(4), folder=tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    names = {"loss", "worst", "learning_rate", "seconds", "validation/loss", "validation/worst"}
    assert set(events.Tags()["scalars"]) == names
    for name in names:
        key = name.replace("/", "_")
        logged = [(row["step"], row[key]) for row in history if key in row]
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in logged], "each step once, after a resume too"
        np.testing.assert_allclose([v for _, v in found], [v for _, v in logged], rtol=1e-6)


def test_tensorboard_that_is_not_there_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"tensorboard.*pip install 'bioverse-sc\[train\]'"):
        fit(Line(), Points(), replace(CONFIG, tensorboard=True), folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_tensorboard_needs_a_folder():
    with pytest.raises(ValueError, match="tensorboard needs a folder"):
        fit(Line(), Points(), replace(CONFIG, tensorboard=True))


def test_the_log_holds_the_learning_rate_of_each_step():
    history = fit(Line(), Points(), CONFIG)
    expected = [CONFIG.learning_rate * learning_rate_factor(step, CONFIG) for step in range(6)]
    assert [row["learning_rate"] for row in history] == expected


def test_after_step_and_evaluate_are_the_tasks_own():
    class Bounded(Line):
        def after_step(self):
            with torch.no_grad():
                self.layer.bias.fill_(0.25)

        def evaluate(self, forward, batches):
            return {"loss": float(sum(len(batch["y"]) for batch in batches))}

    task = Bounded()
    history = fit(task, Points(), CONFIG, validation=Points(11))
    assert float(task.layer.bias.detach()) != 0.25, "the first validation is best, before any step"
    assert {row["validation_loss"] for row in history if "validation_loss" in row} == {11.0}


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


@pytest.mark.parametrize("with_lengths", [True, False])
def test_weights_say_how_often_an_example_is_drawn(with_lengths):
    n, size = 60, 5
    rng = np.random.default_rng(0)
    weights = rng.choice([0.0, 1.0, 4.0], size=n)
    lengths = rng.integers(5, 90, size=n) if with_lengths else None
    steps = 10 * GROUPED_BATCHES
    batches = [batch_indices(n, size, step, 3, lengths, weights) for step in range(steps)]
    counts = np.bincount(np.concatenate(batches), minlength=n)
    expected = weights / weights.sum() * size * steps
    assert (counts[weights == 0] == 0).all()
    np.testing.assert_allclose(counts, expected, atol=2 + 0.1 * expected.max())
    for epoch in np.concatenate([batch_indices(n, size, step, 3, None, weights) for step in range(24)]).reshape(2, n):
        once = np.bincount(epoch, minlength=n)
        assert (np.abs(once - weights / weights.sum() * n) < 1).all(), "as even as can be in each epoch"
    if with_lengths:
        plain = [batch_indices(n, size, step, 3, None, weights) for step in range(GROUPED_BATCHES)]
        assert sorted(np.concatenate(batches[:GROUPED_BATCHES])) == sorted(np.concatenate(plain))
        spread, unsorted = (np.mean([np.ptp(lengths[b]) for b in drawn]) for drawn in (batches, plain))
        assert spread < 0.5 * unsorted


def test_a_run_draws_by_weights_and_lengths():
    weights, lengths = np.arange(20.0), np.arange(20)[::-1]
    source = Points(weights=weights, lengths=lengths)
    fit(Line(), source, CONFIG)
    assert source.seen == [batch_indices(20, 8, step, 0, lengths, weights).tolist() for step in range(6)]
    held_out = Points(20, lengths=lengths)
    fit(Line(), Points(), CONFIG, validation=held_out)
    assert held_out.seen[0] == list(range(19, 11, -1)), "validation goes by length, and has each once"
    assert sorted(np.concatenate(held_out.seen[:3])) == list(range(20))


def test_micro_batches_are_of_one_length_and_their_step_is_mixed():
    lengths = np.random.default_rng(1).permutation(20)
    source = Points(20, lengths=lengths)
    fit(Line(), source, replace(CONFIG, micro_batch_size=2))
    for step in range(CONFIG.steps):
        parts = source.seen[4 * step : 4 * (step + 1)]
        drawn = batch_indices(20, 8, step, 0)
        assert np.concatenate(parts).tolist() == sorted(drawn, key=lambda i: lengths[i])


def test_a_run_does_not_go_on_with_micro_batches_that_it_began_without(tmp_path):
    fit(Line(), Points(), replace(CONFIG, micro_batch_size=4), folder=tmp_path)
    fit(Line(), Points(), replace(CONFIG, micro_batch_size=2), folder=tmp_path)
    with pytest.raises(ValueError, match=r"another configuration \(micro_batch_size\)"):
        fit(Line(), Points(), CONFIG, folder=tmp_path)


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
