"""The plan of the source tree keeps to its numbers, as ``make house`` prints; imports are in ``test_imports.py``."""

from pathlib import Path

import pytest

from tests import house

TREE = house.Tree(Path(__file__).parents[1])
# the goal of each number
MOST_LONG_FUNCTIONS = 3
MOST_CHECKS_OF_ENCODERS = 1
MOST_LITERALS = 10


def test_no_file_is_long():
    assert house.long_files(TREE) == []


def test_few_functions_are_long():
    long = house.long_functions(TREE)
    assert len(long) <= MOST_LONG_FUNCTIONS, long


def test_no_line_is_wide():
    assert house.wide_lines(TREE) == []


def test_tools_treat_encoders_alike():
    checks = house.encoder_checks(TREE)
    assert len(checks) <= MOST_CHECKS_OF_ENCODERS, checks


def test_modalities_are_rarely_named():
    places = house.literals(TREE, "rna")
    assert len(places) <= MOST_LITERALS, places


@pytest.mark.parametrize("name", house.EMPTY_NAMES)
def test_names_say_what_a_thing_is(name):
    assert house.empty_names(TREE)[name] == []


@pytest.mark.slow
def test_annotate_looks_at_the_matrix_once():
    assert house.passes_of_annotate(TREE) == (1, 1)


@pytest.fixture
def crooked(tmp_path):
    """A checkout with one of everything that is measured."""
    source = tmp_path / "src" / house.PACKAGE
    files = {
        source / "__init__.py": "",
        source / "_help.py": "",
        source / "a" / "__init__.py": f"from {house.PACKAGE}.a._one import one\n",
        source / "a" / "_one.py": f"def one(own):\n    from {house.PACKAGE}.b._two import two\n    return two\n",
        source / "b" / "__init__.py": "",
        source / "b" / "_two.py": (
            f"from typing import TYPE_CHECKING\nfrom {house.PACKAGE}._help import x\nfrom {house.PACKAGE} import a\n"
            f"if TYPE_CHECKING:\n    from {house.PACKAGE}.c import _three\n"
            "def two():\n    for of in a:\n        found = [what for what in of]\n"
        ),
        source / "c" / "__init__.py": "",
        source / "c" / "_three.py": (
            'def three():\n    """Say "rna".\n\n    And more.\n    """\n'
            + "    'rna'\n" * 61
            + "#" * 60
            + " "
            + "#" * 60
            + "\n"
            + "#" * 121
            + "\n"
        ),
        source / "c" / "_four.py": "\n" * 401,
        source / "tl" / "__init__.py": "isinstance(1, CellEncoder)\n",
        tmp_path / "recipes" / "cook.py": f"from {house.PACKAGE}._help import x\nimport {house.PACKAGE}.a\n",
        tmp_path / "benchmarks" / "run.py": f"from {house.PACKAGE}.a import _one\n",
    }
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return house.Tree(tmp_path)


def test_what_is_crooked_is_seen(crooked):
    assert house.package_circles(crooked) == [["a", "b"]]
    assert house.file_circles(crooked) == [[f"{house.PACKAGE}.{name}" for name in ("a", "a._one", "b._two")]]
    assert house.private_imports(crooked) == [f"src/{house.PACKAGE}/a/_one.py: {house.PACKAGE}.b._two two"]
    assert house.private_imports_of_programs(crooked) == [
        f"benchmarks/run.py: {house.PACKAGE}.a._one",
        f"recipes/cook.py: {house.PACKAGE}._help x",
    ]
    assert house.long_files(crooked) == [f"src/{house.PACKAGE}/c/_four.py (401)"]
    assert house.long_functions(crooked) == [f"src/{house.PACKAGE}/c/_three.py:three (62)"]
    assert house.wide_lines(crooked) == [f"src/{house.PACKAGE}/c/_three.py:67"]
    assert house.encoder_checks(crooked) == [f"src/{house.PACKAGE}/tl/__init__.py:1"]
    assert len(house.literals(crooked, "rna")) == 61
    assert len(house.mentions(crooked, "rna")) == 1
    names = house.empty_names(crooked)
    assert {name: len(places) for name, places in names.items() if places} == {"found": 1, "of": 1, "own": 1, "what": 1}
