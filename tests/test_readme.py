import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks():
    """Lines of the README's code blocks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [line.strip() for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_readme_gives_the_command(command):
    assert command in [line.removeprefix("$ ").split("#")[0].strip() for line in blocks()]


def test_the_readme_gives_the_two_lines():
    assert any(line.startswith("bsc.tl.annotate(adata") for line in blocks())
    assert any(line.startswith("bsc.pl.alignment_umap(adata") for line in blocks())


@pytest.mark.parametrize("target", ["demo", "test", "lint", "docs"])
def test_the_makefile_has_the_target(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_ci_runs_the_test_command_of_the_readme():
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line.strip() for line in lines if line.strip() and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make test"]


def test_the_demo_is_there():
    assert (ROOT / "demo" / "run.py").is_file()
    assert "demo/run.py" in (ROOT / "Makefile").read_text(encoding="utf-8")
