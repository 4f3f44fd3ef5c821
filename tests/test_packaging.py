import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bioverse_sc

ROOT = Path(__file__).parents[1]
SOURCE = Path(bioverse_sc.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEPENDENCIES = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {extra: [Requirement(line) for line in lines] for extra, lines in PROJECT["optional-dependencies"].items()}
EVERYTHING = DEPENDENCIES + [one for extra in EXTRAS.values() for one in extra]
# what the package declares and never imports, and why
NOT_IMPORTED = {
    "gguf": "transformers reads GGUF files with it",
    "ipywidgets": "tqdm imports it, for bars in notebooks",
}
# of each lock, what it holds for one interpreter on Linux
LOCKS = {"locked": ("3.11", "3.12", "3.13"), "lowest": ("3.11",)}


def distributions(module):
    return {canonicalize_name(name) for name in packages_distributions().get(module.partition(".")[0], [module])}


def names(requirements):
    return {canonicalize_name(one.name) for one in requirements}


def imports():
    """Modules of other packages that the source imports, and those that it asks an extra for."""
    plain, of_extra = {}, {}
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            found = []
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found = [node.module]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "require":
                of_extra.setdefault(node.args[0].value.partition(".")[0], set()).add(node.args[1].value)
            for module in found:
                if (top := module.partition(".")[0]) not in (*sys.stdlib_module_names, "bioverse_sc"):
                    plain.setdefault(top, set()).add(file.relative_to(SOURCE).as_posix())
    return plain, of_extra


PLAIN, OF_EXTRA = imports()


@pytest.mark.parametrize("module", sorted(PLAIN))
def test_what_is_imported_is_declared(module):
    declared = names(DEPENDENCIES)
    for extra in OF_EXTRA.get(module, ()):
        declared |= names(EXTRAS[extra])
    assert distributions(module) & declared, f"{sorted(PLAIN[module])} import {module}, which pyproject.toml lacks"


@pytest.mark.parametrize("module", sorted(OF_EXTRA))
def test_the_extra_that_a_message_names_installs_the_package(module):
    for extra in OF_EXTRA[module]:
        assert distributions(module) & names(EXTRAS[extra])


@pytest.mark.parametrize("extra", sorted(set().union(*OF_EXTRA.values())))
def test_what_an_extra_installs_is_asked_for(extra):
    asked_for = set().union(*(distributions(module) for module in OF_EXTRA if extra in OF_EXTRA[module]))
    assert names(EXTRAS[extra]) == names(EXTRAS[extra]) & asked_for


def test_what_is_declared_is_imported_or_has_a_reason():
    used = set().union(*(distributions(module) for module in (*PLAIN, *OF_EXTRA)))
    assert names(DEPENDENCIES) - used == set(NOT_IMPORTED)


def entries(*files):
    """Name, version, marker and number of hashes of what locks hold."""
    for file in files:
        text = (ROOT / "locks" / f"{file}.txt").read_text(encoding="utf-8")
        for entry in re.findall(r"^[^#\s].*(?:\n\s+.*)*", text, re.MULTILINE):
            hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry)
            requirement = Requirement(entry.partition("\\")[0])
            (exact,) = requirement.specifier
            assert exact.operator == "=="
            yield canonicalize_name(requirement.name), exact.version, requirement.marker, len(hashes)


def on(python, *files):
    here = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux", "os_name": "posix"}
    here |= {"platform_machine": "x86_64", "platform_system": "Linux", "implementation_name": "cpython", "extra": ""}
    held = {}
    for name, version, marker, _ in entries(*files):
        if marker is None or marker.evaluate(here):
            assert name not in held
            held[name] = version
    return held, here


LINES = [(lock, python) for lock, pythons in LOCKS.items() for python in pythons]


@pytest.mark.parametrize("file", sorted((ROOT / "locks").glob("*.txt")), ids=lambda file: file.stem)
def test_each_entry_of_a_lock_is_exact_and_hashed_and_names_no_host(file):
    held = list(entries(file.stem))
    assert held
    assert all(n_hashes for *_, n_hashes in held)
    assert not re.search(r"://|@ |--(index|extra-index|find-links)", file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("lock", "python"), LINES)
def test_a_lock_holds_what_is_declared_in_versions_that_fit(lock, python):
    held, here = on(python, lock, f"{lock}-torch")
    for requirement in EVERYTHING:
        if requirement.marker is None or requirement.marker.evaluate(here):
            version = held[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{requirement}, {version} in {lock}"
    assert {"igraph", "leidenalg"} <= set(held)


@pytest.mark.parametrize("lock", LOCKS)
def test_both_builds_of_torch_are_one_version(lock):
    ((name, version, *_),) = entries(f"{lock}-torch-cpu")
    assert name == "torch"
    assert version == on("3.11", f"{lock}-torch")[0]["torch"] + "+cpu"
    assert "torch" not in on("3.11", lock)[0]


@pytest.mark.parametrize(
    ("python", "lines"),
    [
        ("3.11", {"scanpy": "1.11", "anndata": "0.12", "mudata": "0.3"}),
        ("3.13", {"scanpy": "1.12", "anndata": "0.13", "mudata": "0.4"}),
    ],
)
def test_each_interpreter_has_its_line_of_the_scverse(python, lines):
    held, _ = on(python, "locked")
    assert {name: held[name].rpartition(".")[0] for name in lines} == lines


@pytest.mark.parametrize("requirement", EVERYTHING, ids=str)
def test_each_lower_bound_is_what_the_oldest_versions_are_tested_with(requirement):
    (bound,) = requirement.specifier
    held, _ = on("3.11", "lowest", "lowest-torch")
    assert bound.operator == ">="
    assert f"{held[canonicalize_name(requirement.name)]}.".startswith(f"{bound.version}.")


def test_the_package_says_that_it_is_typed():
    assert (SOURCE / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_links_of_the_readme_work_where_a_registry_shows_it():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    assert len(links) > 8
    assert [link for link in links if not link.startswith("https://")] == []
    # what is linked inside of the repository is there
    for path in re.findall(rf"{re.escape(PROJECT['urls']['Source'])}/(?:blob|tree|raw)/main/([^\s)\"#]+)", text):
        assert (ROOT / path).exists(), path
    for page in re.findall(rf"{re.escape(PROJECT['urls']['Documentation'])}/en/latest/([^\s)\"#]+)\.html", text):
        assert (ROOT / "docs" / f"{page}.md").exists() or (ROOT / f"{page}.ipynb").exists(), page


def test_the_urls_of_the_project():
    urls = PROJECT["urls"]
    assert {"Source", "Issues", "Documentation"} <= set(urls)
    assert urls["Issues"].startswith(urls["Source"])


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))])
def test_clusters_are_made_in_a_way_that_no_release_of_scanpy_deprecates(page):
    for call in re.findall(r"sc\.tl\.leiden\((.*?)\)", (ROOT / page).read_text(encoding="utf-8")):
        assert 'flavor="igraph"' in call
