"""The plan of the source tree in numbers: circles, private imports, long files and functions, repeated words.

python tests/house.py [ROOT OF A CHECKOUT]

Prints a table in Markdown; with a root it measures another checkout, such as one of an earlier commit.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PACKAGE = "bioverse_sc"
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
MOST_COLUMNS = 120
EMPTY_NAMES = ("found", "of", "own", "kept", "here", "what")
"""Names that say how a thing came about, or nothing, where its name could say what it is."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Tree:
    """The Python files of a checkout, and what they import of the package."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = root / "src" / PACKAGE
        self.files = sorted(self.source.rglob("*.py"))
        self.programs = sorted(file for part in ("recipes", "benchmarks") for file in (root / part).rglob("*.py"))
        self.modules = {self.module_of(file): file for file in self.files}

    def module_of(self, file: Path) -> str:
        """Name that a file of the package is imported by."""
        parts = file.relative_to(self.source).with_suffix("").parts
        return ".".join((PACKAGE, *(part for part in parts if part != "__init__")))

    def name_of(self, file: Path) -> str:
        """Path in the checkout."""
        return file.relative_to(self.root).as_posix()

    def imports(self, file: Path) -> list[tuple[str, str | None]]:
        """Module and name of each import of the package in a file, also inside functions; not what only types need.

        A name that is a module is part of the first, and a whole module has no name.
        """
        imports: list[tuple[str, str | None]] = []
        for node in nodes_that_run(parsed(file)):
            if isinstance(node, ast.Import):
                imports += [(alias.name, None) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                for alias in node.names:
                    module = f"{node.module}.{alias.name}"
                    imports.append((module, None) if module in self.modules else (node.module, alias.name))
        return [(module, name) for module, name in imports if module.partition(".")[0] == PACKAGE]

    def edges(self) -> dict[str, set[str]]:
        """By module, the modules of the package that it imports."""
        return {
            module: {target for target, _ in self.imports(file) if target in self.modules} - {module}
            for module, file in self.modules.items()
        }


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def nodes_that_run(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only types need."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for node in child.orelse:
                yield node
                yield from nodes_that_run(node)
            continue
        yield child
        yield from nodes_that_run(child)


def part_of(module: str) -> str:
    """The package of a module: its folder right below the package, or itself where it has none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else PACKAGE


def circles(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of nodes that can all be reached from each other."""
    reached: dict[str, set[str]] = {}
    for start in edges:
        reached[start] = set()
        waiting = list(edges[start])
        while waiting:
            if (node := waiting.pop()) not in reached[start]:
                reached[start].add(node)
                waiting += edges.get(node, ())
    groups = {
        tuple(sorted(other for other in edges if other in reached[node] and node in reached[other])) for node in edges
    }
    return [list(group) for group in sorted(groups) if group]


def package_circles(tree: Tree) -> list[list[str]]:
    edges: dict[str, set[str]] = {}
    for module, targets in tree.edges().items():
        # the top gathers all packages, and nothing below imports it
        if module != PACKAGE:
            edges.setdefault(part_of(module), set()).update(map(part_of, targets - {PACKAGE}))
    return circles({part: targets - {part} for part, targets in edges.items()})


def file_circles(tree: Tree) -> list[list[str]]:
    return circles(tree.edges())


def private_imports(tree: Tree) -> list[str]:
    """Imports of a private file or name of another package, in the source.

    What is at the top of the package is there for all of it, and what is in a folder for the folders below it.
    """
    lines = []
    for module, file in tree.modules.items():
        home = module if file.name == "__init__.py" else module.rpartition(".")[0]
        for target, name in sorted(set(tree.imports(file)), key=str):
            owner = _owner(target, name)
            if owner not in (None, PACKAGE) and not f"{home}.".startswith(f"{owner}."):
                lines.append(f"{tree.name_of(file)}: {target}{'' if name is None else f' {name}'}")
    return lines


def private_imports_of_programs(tree: Tree) -> list[str]:
    """Imports of anything private in recipes and benchmarks."""
    return [
        f"{tree.name_of(file)}: {target}{'' if name is None else f' {name}'}"
        for file in tree.programs
        for target, name in sorted(set(tree.imports(file)), key=str)
        if _owner(target, name) is not None
    ]


def _owner(target: str, name: str | None) -> str | None:
    """The package that a private file or name belongs to; ``None`` for what is public."""
    parts = target.split(".") if name is None else [*target.split("."), name]
    private = [i for i, part in enumerate(parts) if part.startswith("_") and not part.startswith("__")]
    return ".".join(parts[: private[0]]) if private else None


def lines_of_imports(imports: Iterable[str]) -> int:
    """How many import lines there are: several names of one file stand in one."""
    return len({line.split(" ")[0] + line.split(" ")[1] for line in imports})


def long_files(tree: Tree) -> list[str]:
    sizes = {tree.name_of(file): _n_lines(file) for file in (*tree.files, *tree.programs)}
    return [f"{name} ({n})" for name, n in sizes.items() if n > MOST_LINES]


def _n_lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def functions(file: Path) -> Iterator[Function]:
    return (node for node in ast.walk(parsed(file)) if isinstance(node, Function))


def long_functions(tree: Tree) -> list[str]:
    """Functions of the source that are too long without their docstring, with what is inside of them."""
    sizes = {
        f"{tree.name_of(file)}:{function.name}": _body_lines(function)
        for file in tree.files
        for function in functions(file)
    }
    return [f"{name} ({n})" for name, n in sizes.items() if n > MOST_LINES_OF_A_FUNCTION]


def _body_lines(function: Function) -> int:
    n = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        docstring = function.body[0]
        n -= (docstring.end_lineno or 0) - docstring.lineno + 1
    return n


def wide_lines(tree: Tree) -> list[str]:
    """Lines of all Python files of a checkout that are too wide, but for one long word, as in ruff's E501."""
    parts = ("src", "tests", "recipes", "benchmarks", "demo", "docs", "locks")
    files = [
        file
        for part in parts
        for file in sorted((tree.root / part).rglob("*.py"))
        # what the docs build makes
        if not {"_build", "generated"} & set(file.relative_to(tree.root).parts)
    ]
    return [
        f"{tree.name_of(file)}:{i}"
        for file in files
        for i, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > MOST_COLUMNS and len(line.split()) > 1
    ]


def encoder_checks(tree: Tree) -> list[str]:
    """Calls of ``isinstance`` with an encoder's class, in ``tl``."""
    return [
        f"{tree.name_of(file)}:{node.lineno}"
        for file in tree.files
        if file.is_relative_to(tree.source / "tl")
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "isinstance"
        and re.search(r"Encoder|Precomputed", ast.unparse(node.args[1]))
    ]


def literals(tree: Tree, word: str) -> list[str]:
    """Places of a word as a value in the code of the source."""
    return [
        f"{tree.name_of(file)}:{node.lineno}"
        for file in tree.files
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Constant) and node.value == word
    ]


def mentions(tree: Tree, word: str) -> list[str]:
    """Lines of the source that have a word in double quotes, docstrings among them."""
    return [
        f"{tree.name_of(file)}:{i}"
        for file in tree.files
        for i, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if f'"{word}"' in line
    ]


def empty_names(tree: Tree) -> dict[str, list[str]]:
    """By name that says too little, the functions of the source that have it as a parameter or a local name."""
    places: dict[str, list[str]] = {name: [] for name in EMPTY_NAMES}
    for file in tree.files:
        for function in functions(file):
            names = set(_locals(function))
            for name in EMPTY_NAMES:
                if name in names:
                    places[name].append(f"{tree.name_of(file)}:{function.name}")
    return places


def _locals(node: ast.AST) -> Iterator[str]:
    """Names that a function binds; those of functions inside of it are theirs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            continue
        if isinstance(child, ast.arg):
            yield child.arg
        elif isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif isinstance(child, ast.ExceptHandler) and child.name:
            yield child.name
        yield from _locals(child)


_COUNTING = """
import functools, importlib, inspect, pkgutil, sys, warnings
warnings.simplefilter("ignore")
import scanpy as sc
import bioverse_sc as bsc

for module in pkgutil.walk_packages(bsc.__path__, "bioverse_sc."):
    importlib.import_module(module.name)
modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "bioverse_sc"]
# what looks at a matrix had another name before it had a room
known_as = {"profile": "profile", "gene_matrix": "profile", "map_genes": "map_genes"}
calls, depth = {"profile": 0, "map_genes": 0}, {"profile": 0, "map_genes": 0}

def counted(function, name):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        # one that calls another of the same name is one
        calls[name] += not depth[name]
        depth[name] += 1
        try:
            return function(*args, **kwargs)
        finally:
            depth[name] -= 1
    return wrapper

wrappers = {
    item: counted(item, known_as[item.__name__.lstrip("_")])
    for module in modules
    for item in vars(module).values()
    if inspect.isfunction(item) and item.__name__.lstrip("_") in known_as and item.__module__.startswith("bioverse_sc.")
}
for module in modules:
    for name, item in list(vars(module).items()):
        if inspect.isfunction(item) and item in wrappers:
            setattr(module, name, wrappers[item])
bsc.tl.annotate(sc.datasets.pbmc68k_reduced())
print("calls", calls["profile"], calls["map_genes"])
"""


def passes_of_annotate(tree: Tree) -> tuple[int, int] | None:
    """How often one ``annotate`` of the demo's cells profiles the matrix and maps the genes.

    ``None`` where the package cannot be imported.
    """
    environment = dict(os.environ) | {"PYTHONPATH": str(tree.root / "src"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", _COUNTING], capture_output=True, text=True, env=environment)
    counts = re.search(r"^calls (\d+) (\d+)$", done.stdout, re.MULTILINE)
    return (int(counts[1]), int(counts[2])) if counts else None


def table(tree: Tree) -> str:
    """All numbers, in Markdown."""
    files, packages = file_circles(tree), package_circles(tree)
    imports, of_programs = private_imports(tree), private_imports_of_programs(tree)
    too_long, wide = long_files(tree), wide_lines(tree)
    long, names = long_functions(tree), empty_names(tree)
    name_counts = ", ".join(str(len(names[name])) for name in EMPTY_NAMES)
    passes = passes_of_annotate(tree)
    rows = {
        "circles of imports between packages; between files, also inside of functions": f"{_counted(packages)}; "
        f"{_counted(files)}",
        "imports of another package's private file, in src": str(lines_of_imports(imports)),
        "private imports in recipes and benchmarks": str(lines_of_imports(of_programs)),
        f"files over {MOST_LINES} lines": _listed(too_long),
        f"functions over {MOST_LINES_OF_A_FUNCTION} lines without the docstring": _listed(long),
        f"lines over {MOST_COLUMNS} columns": str(len(wide)),
        "profiles and gene maps in one `annotate`": "not measured" if passes is None else f"{passes[0]}; {passes[1]}",
        "`isinstance` on encoders in `tl`": str(len(encoder_checks(tree))),
        'the literal `"rna"` in the code of src; lines with it, docstrings among them': "; ".join(
            str(len(places)) for places in (literals(tree, "rna"), mentions(tree, "rna"))
        ),
        f"functions with a local name {', '.join(f'`{name}`' for name in EMPTY_NAMES)}": name_counts,
    }
    return "\n".join(["| | now |", "| --- | --- |", *(f"| {row} | {value} |" for row, value in rows.items())])


def _counted(groups: list[list[str]]) -> str:
    names = "; ".join(" ".join(_short(node) for node in group) for group in groups)
    return f"{len(groups)} ({names})" if groups else "0"


def _short(module: str) -> str:
    return module.removeprefix(f"{PACKAGE}.")


def _listed(items: list[str]) -> str:
    return f"{len(items)}: {', '.join(items)}" if items else "0"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the plan of the source tree.")
    parser.add_argument("root", type=Path, nargs="?", default=Path(__file__).parents[1], help="root of a checkout")
    print(table(Tree(parser.parse_args().root.resolve())))


if __name__ == "__main__":
    main()
