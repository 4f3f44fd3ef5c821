import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bioverse_sc
from tests import house

TREE = house.Tree(Path(__file__).parents[1])
SOURCE, FILES = TREE.source, TREE.files
HEAVY = {"torch", "transformers", "matplotlib", "umap", "peft", "accelerate", "safetensors", "tokenizers", "sklearn"}
LIGHT = ("ontology", "metrics", "datasets", "read", "facts", "pp", "tl", "pl", "get")
"""Packages that load nothing heavy when they are imported."""
WITHOUT_TORCH = ("ontology", "metrics", "datasets", "read", "facts", "pl", "get")
"""Packages that never import torch."""
FLOORS = (
    *(
        "helpers",
        "bundled",
        "ontology",
        "metrics",
        "groups",
        "datasets",
        "encoders",
        "read",
        "fusion",
        "facts",
        "models",
    ),
    *("reasoning", "train", "pp", "tl", "pl", "get", "bioverse_sc", "runs", "explore", "cli"),
)
"""Each may import what stands before it, also inside functions. Helpers are the private files at the top; what gathers
the packages for ``import bioverse_sc`` stands below the programs over it."""
PRIVATE = [*house.private_imports(TREE), *house.private_imports_of_programs(TREE)]


def name_of(file):
    return file.relative_to(SOURCE).as_posix()


def imported(file, *, inside_functions):
    """Modules that a file imports when it is loaded, or at any time; what only types need is left out."""
    found = set()

    def walk(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not inside_functions:
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"relative import in {file}"
                found.add(child.module)
            walk(child)

    walk(ast.parse(file.read_text(encoding="utf-8")))
    return found


def test_import_takes_no_heavy_module_with_it():
    code = (
        # anndata 0.12 takes torch with it, where that is installed
        "import sys, anndata, mudata\n"
        "before = set(sys.modules)\n"
        "import bioverse_sc\n"
        f"heavy = sorted({HEAVY!r} & {{name.split('.')[0] for name in sys.modules.keys() - before}} - {{'sklearn'}})\n"
        "print(heavy)\n"
        "sys.exit(bool(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, f"import bioverse_sc loads {done.stdout}{done.stderr}"


def test_heavy_subpackages_come_when_they_are_used():
    code = (
        "import sys, bioverse_sc as bsc\n"
        "assert set(bsc.__all__) <= set(dir(bsc))\n"
        "assert 'bioverse_sc.models' not in sys.modules\n"
        "bsc.models.load\n"
        "assert 'torch' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'gone'"):
        _ = bioverse_sc.gone


def floor_of(module):
    part = house.part_of(module)
    return FLOORS.index("helpers" if part.startswith("_") else part)


def is_in(file, packages):
    return file.relative_to(SOURCE).parts[0] in packages


@pytest.mark.parametrize("file", [f for f in FILES if f.parent == SOURCE or is_in(f, LIGHT)], ids=name_of)
def test_helpers_and_what_a_user_calls_load_nothing_heavy(file):
    heavy = {module for module in imported(file, inside_functions=False) if module.split(".")[0] in HEAVY}
    assert heavy == set()


@pytest.mark.parametrize("file", [f for f in FILES if is_in(f, WITHOUT_TORCH)], ids=name_of)
def test_figures_metrics_and_data_never_import_torch(file):
    assert not {
        m for m in imported(file, inside_functions=True) if m.split(".")[0] in ("torch", "transformers", "peft")
    }


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_point_one_way(file):
    floor = floor_of(TREE.module_of(file))
    above = {module for module, _ in TREE.imports(file) if floor_of(module) > floor}
    assert above == set(), f"{name_of(file)} imports from a floor above its own"


@pytest.mark.parametrize("file", [*FILES, *TREE.programs], ids=TREE.name_of)
def test_one_imports_from_a_package_and_not_from_its_files(file):
    prefix = f"{TREE.name_of(file)}: "
    assert [line for line in PRIVATE if line.startswith(prefix)] == []


def test_no_file_imports_one_that_imports_it():
    assert house.package_circles(TREE) == []
    assert house.file_circles(TREE) == []


def test_no_machine_path_is_in_the_source():
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert not re.search("/(home|work)/", text), file
