import logging
import os
import random
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch

import bioverse_sc as bsc
from bioverse_sc._quiet import quiet_loading, undisturbed


@pytest.mark.parametrize(("verbosity", "progress"), [("error", "none"), ("info", "bars")])
def test_public_functions_change_no_global_state_and_print_nothing_of_libraries(verbosity, progress):
    command = [sys.executable, "-m", "tests.run_quiet", verbosity, progress]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    if verbosity == "error":
        assert done.stderr == ""
    assert "Loading weights" not in done.stderr
    assert "kernels" not in done.stderr


def test_random_numbers_go_on_as_if_nothing_had_been_drawn():
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    expected = draw()
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    with undisturbed():
        draw()
        with undisturbed():
            draw()
        draw()
    assert draw() == expected


def test_messages_of_libraries_are_held_back_where_only_errors_are_asked_for(caplog):
    other = logging.getLogger("another_library")
    with bsc.settings.override(verbosity="error"), undisturbed():
        warnings.warn("held back", UserWarning, stacklevel=1)
        other.warning("held back")
        other.error("an error is always said")
    assert [record.getMessage() for record in caplog.records] == ["an error is always said"]
    with bsc.settings.override(verbosity="warning"), pytest.warns(UserWarning, match="not held back"), undisturbed():
        warnings.warn("not held back", UserWarning, stacklevel=1)
    other.warning("heard again")
    assert caplog.records[-1].getMessage() == "heard again"


@pytest.mark.parametrize("fails", [False, True])
def test_all_is_put_back_also_after_an_error(fails):
    before = list(warnings.filters), logging.root.manager.disable, torch.get_num_threads()
    try:
        with bsc.settings.override(verbosity="error"), undisturbed():
            warnings.simplefilter("always")
            torch.set_num_threads(before[2] + 1)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert (list(warnings.filters), logging.root.manager.disable, torch.get_num_threads()) == before


def test_several_threads_put_back_what_the_first_found():
    before = list(warnings.filters), logging.root.manager.disable
    inside, go = threading.Event(), threading.Event()

    def work():
        with undisturbed():
            inside.set()
            go.wait(60)

    with bsc.settings.override(verbosity="error"):
        thread = threading.Thread(target=work)
        with undisturbed():
            thread.start()
            assert inside.wait(60)
        # the other one goes on
        assert logging.root.manager.disable == logging.WARNING
        go.set()
        thread.join(60)
    assert (list(warnings.filters), logging.root.manager.disable) == before


@pytest.mark.parametrize("shown", [True, False])
def test_a_users_choice_of_bars_stays(shown):
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as of_transformers

    was = of_transformers.is_progress_bar_enabled()
    try:
        (of_transformers.enable_progress_bar if shown else of_transformers.disable_progress_bar)()
        with quiet_loading():
            assert not of_transformers.is_progress_bar_enabled()
        assert of_transformers.is_progress_bar_enabled() == shown
        assert are_progress_bars_disabled() != shown
    finally:
        (of_transformers.enable_progress_bar if was else of_transformers.disable_progress_bar)()
