import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bioverse_sc

SOURCE = Path(bioverse_sc.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
HEAVY = {"torch", "transformers", "matplotlib", "umap", "peft", "accelerate", "safetensors", "tokenizers", "sklearn"}
WITHOUT_TORCH = ("pl", "metrics", "datasets", "pp", "ontology", "tl")
# each may import what stands before it
ORDER = ["ontology", "pp", "encoders", "models", "train"]


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


LIGHT = [f for f in FILES if f.parent == SOURCE or f.relative_to(SOURCE).parts[0] in WITHOUT_TORCH]


@pytest.mark.parametrize("file", LIGHT, ids=name_of)
def test_helpers_and_what_a_user_calls_load_nothing_heavy(file):
    heavy = {module for module in imported(file, inside_functions=False) if module.split(".")[0] in HEAVY}
    assert heavy == set()


@pytest.mark.parametrize(
    "file",
    [f for f in FILES if f.relative_to(SOURCE).parts[0] in ("pl", "metrics", "datasets", "ontology")],
    ids=name_of,
)
def test_figures_metrics_and_data_never_import_torch(file):
    assert not {
        m for m in imported(file, inside_functions=True) if m.split(".")[0] in ("torch", "transformers", "peft")
    }


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_point_one_way(file):
    part = file.relative_to(SOURCE).parts[0]
    own = {m.split(".")[1] for m in imported(file, inside_functions=True) if m.startswith("bioverse_sc.")}
    if part in ORDER:
        forbidden = set(ORDER[ORDER.index(part) + 1 :]) | {"tl", "pl", "runs", "cli"}
    elif part in ("metrics", "datasets"):
        forbidden = {"encoders", "models", "train", "tl", "pl", "runs", "cli"}
    elif part == "tl":
        forbidden = {"pl", "runs", "cli"}
    elif part.startswith("_") and part != "__init__.py":
        forbidden = {"tl", "pl", "train", "runs", "cli"}
    else:
        forbidden = set()
    assert own & forbidden == set()


def test_no_machine_path_is_in_the_source():
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert not re.search("/(home|work)/", text), file
