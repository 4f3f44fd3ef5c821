import io

import pytest

import bioverse_sc as bsc
from bioverse_sc import _logging
from bioverse_sc._logging import ProgressLog, progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes when it is told."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

        perf_counter = monotonic

    made = Clock()
    monkeypatch.setattr(_logging, "time", made)
    return made


def run(clock, total, seconds_each, *, initial=0):
    with (
        bsc.settings.override(progress=True),
        progress(total=total, initial=initial, description="embed", unit="cell") as bar,
    ):
        for _ in range(total - initial):
            clock.now += seconds_each
            bar.update(1)
    return bar


def test_a_job_without_a_terminal_logs_its_progress(clock, log, monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    run(clock, 100, 10.0)
    lines = [record.getMessage().strip() for record in log]
    assert len(lines) == 9
    assert lines[0] == "embed: 10 of 100 cells (10 %) after 1 min 40 s, about 15 min 0 s left"
    assert {record.levelname for record in log} == {"INFO"}


def test_lines_are_half_a_minute_apart(clock, log, monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    run(clock, 100, 1.0)
    assert [record.getMessage().split()[1] for record in log] == ["30", "60", "90"]


def test_short_work_has_no_line(clock, log, monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    run(clock, 100, 0.2)
    assert log == []


def test_what_was_done_before_does_not_count_as_quick(clock, log, monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    run(clock, 100, 60.0, initial=80)
    assert log[0].getMessage().strip() == "embed: 90 of 100 cells (90 %) after 10 min 0 s, about 10 min 0 s left"


def test_hours_are_hours():
    assert [_logging._duration(s) for s in (5, 65, 7325)] == ["5 s", "1 min 5 s", "2 h 2 min"]


def test_nothing_is_logged_when_it_is_off_or_hidden_and_a_terminal_has_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for off, hidden in ((True, False), (False, True)):
        with bsc.settings.override(progress=not off), progress(total=3, description="x", hidden=hidden) as bar:
            bar.update(1)
        assert bar.disable
    monkeypatch.setattr("sys.stderr", Terminal())
    with bsc.settings.override(progress=True), progress(total=3, description="x") as bar:
        assert not isinstance(bar, ProgressLog)
        bar.update(1)
        bar.set_postfix({"loss": "1.0"})


def test_it_takes_what_a_bar_takes(clock, monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with bsc.settings.override(progress=True), progress(total=3, description="x") as bar:
        bar.set_postfix({"loss": "1.0"})
        bar.update(2)
    assert (bar.n, bar.total) == (2, 3)
