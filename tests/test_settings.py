import logging
import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

import bioverse_sc as bsc
from bioverse_sc._logging import finish_log, logger
from bioverse_sc._settings import Settings


@pytest.mark.parametrize(("name", "value"), [("verbosity", "loud"), ("progress", "perhaps"), ("device", 3)])
def test_a_wrong_value_is_refused_and_the_old_one_stays(name, value):
    before = getattr(bsc.settings, name)
    with pytest.raises(ValidationError, match=name):
        setattr(bsc.settings, name, value)
    assert getattr(bsc.settings, name) == before


def test_an_unknown_setting_is_refused():
    with pytest.raises((ValidationError, ValueError)):
        bsc.settings.colour = "blue"


def test_override_lasts_for_the_block():
    before = bsc.settings.verbosity
    with bsc.settings.override(verbosity="error", progress=True):
        assert (bsc.settings.verbosity, bsc.settings.progress) == ("error", True)
    assert (bsc.settings.verbosity, bsc.settings.progress) == (before, False)


def test_override_restores_after_an_error():
    before = bsc.settings.verbosity
    with pytest.raises(RuntimeError, match="inside"), bsc.settings.override(verbosity="error"):
        raise RuntimeError("inside")
    assert bsc.settings.verbosity == before
    with pytest.raises(ValidationError), bsc.settings.override(progress=True, verbosity="loud"):
        pass
    assert not bsc.settings.progress


def test_environment_variables_are_read(monkeypatch):
    monkeypatch.setenv("BIOVERSE_SC_VERBOSITY", "debug")
    monkeypatch.setenv("BIOVERSE_SC_PROGRESS", "false")
    monkeypatch.setenv("BIOVERSE_SC_DEVICE", "cuda:1")
    found = Settings()
    assert (found.verbosity, found.progress, found.device) == ("debug", False, "cuda:1")
    assert found.torch_device() == "cuda:1"


def test_auto_is_a_device_that_torch_knows():
    import torch

    torch.zeros(1, device=Settings(device="auto").torch_device())


def test_verbosity_decides_what_is_shown(log):
    for verbosity, shown in [("error", []), ("warning", ["w"]), ("info", ["i", "w"]), ("debug", ["d", "i", "w"])]:
        log.clear()
        with bsc.settings.override(verbosity=verbosity):
            logger.debug("d")
            logger.info("i")
            logger.warning("w")
        assert [record.getMessage() for record in log] == shown


def test_the_finish_line_names_time_and_slots(log):
    with finish_log("doing it") as slots:
        slots.append("'X_new' (adata.obsm)")
    first, last = [record.getMessage() for record in log]
    assert first == "doing it"
    assert "finished (" in last
    assert last.endswith("'X_new' (adata.obsm)")


def test_a_message_goes_to_stderr_and_not_to_the_root_logger(capsys):
    root = logging.getLogger()
    handlers = list(root.handlers)
    with bsc.settings.override(verbosity="info"):
        logger.info("hello")
    captured = capsys.readouterr()
    assert captured.err == "hello\n"
    assert captured.out == ""
    assert root.handlers == handlers


def test_import_leaves_root_logger_and_warning_filters_alone():
    code = (
        "import logging, warnings, anndata, mudata, scipy.sparse, pydantic_settings\n"
        "level, handlers, filters = logging.root.level, list(logging.root.handlers), list(warnings.filters)\n"
        "import bioverse_sc\n"
        "assert (logging.root.level, logging.root.handlers) == (level, handlers), 'root logger'\n"
        "assert warnings.filters == filters, 'warning filters'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
