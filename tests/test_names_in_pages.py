"""What pages and notebooks name is there."""

import json
import re
from functools import reduce
from pathlib import Path

import pytest

import bioverse_sc as bsc

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("notebooks/*.ipynb"),
    *ROOT.glob("recipes/**/*.md"),
    *ROOT.glob("src/**/*.md"),
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
]


def text_of(page):
    """Words of a page, or the source of a notebook's cells."""
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    return "\n".join("".join(cell["source"]) for cell in json.loads(page.read_text(encoding="utf-8"))["cells"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_functions_are_there(page):
    named = set(re.findall(r"\bbsc((?:\.[A-Za-z_]\w*)+)", text_of(page)))
    missing = []
    for name in sorted(named):
        try:
            reduce(getattr, name.split(".")[1:3], bsc)
        except AttributeError:
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_records_are_those_of_tools(page):
    steps = set(re.findall(r"""uns\[["']bioverse["']\]\[["'](\w+)["']\]""", text_of(page)))
    assert steps <= {*bsc.tl.__all__, "to_human"}


@pytest.mark.parametrize("page", [ROOT / "ARCHITECTURE.md"], ids=lambda page: page.name)
def test_files_are_there(page):
    files = set(re.findall(r"`((?:\w+/)*_\w+\.py)`", text_of(page)))
    assert [file for file in sorted(files) if not (ROOT / "src/bioverse_sc" / file).is_file()] == []
