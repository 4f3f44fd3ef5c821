import os
import subprocess
import sys

import pytest

HOWS = ("after annotate", "torch alone")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("how", HOWS)
def test_a_forked_process_gives_the_results_of_its_parent(how):
    command = [sys.executable, "-m", "tests.run_forked", how]
    env = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    }
    # a child that waits for ever is ended
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the same\n"
    assert "TOKENIZERS_PARALLELISM" not in done.stderr
