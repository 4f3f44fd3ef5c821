"""The folder of a saved model: the names of its files, where it lies, and whether it is whole.

The folder::

    bioverse.json         shapes, label set, prompts, temperature, what the parts were trained on, format version
    projectors.safetensors
    encoders/rna/         an encoder's checkpoint, when it travels with the model
    language_model/       a language model with its tokenizer, when it travels with the model
    adapter/              LoRA weights, when there are any
    gene_reference.json   mean expression of each gene over many cell types, and its weight
    memory/               known proteins and molecules with their texts, for retrieve=True
    checksums.json        SHA-256 of every other file
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from bioverse_sc._cache import file_hash
from bioverse_sc._hub import fetch_file, fetch_folder, is_hub_id

CONFIG = "bioverse.json"
"""File of a model's folder that holds everything but the weights."""
PROJECTORS = "projectors.safetensors"
ENCODERS = "encoders"
ADAPTER = "adapter"
REFERENCE = "gene_reference.json"
MEMORY = "memory"
CHECKSUMS = "checksums.json"
INSIDE = "language_model"
"""Folder of the language model in a model's folder, and what stands for it in :class:`ModelConfig`."""


def bundled_models() -> list[str]:
    """Names of the models that ship in the package."""
    folder = Path(str(files("bioverse_sc") / "bundled"))
    return sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))


def model_folder(model: str | Path, revision: str | None = None) -> Path:
    """Resolve a bundled name, a path or a hub id to a model's folder; what is not on this machine yet is fetched.

    Parameters
    ----------
    model
        Name of a bundled model, path of a saved one, or a hub repository ``"owner/name"``.
    revision
        Branch, tag or commit of the hub repository.

    Raises
    ------
    ValueError
        For an unknown name, or a folder with a revision.
    FileNotFoundError
        When a repository cannot be fetched, or holds no model.
    """
    path = Path(model)
    folder = Path(str(files("bioverse_sc") / "bundled" / model)) if is_bundled(model) else path
    if folder.is_dir():
        if revision is not None:
            msg = f"{str(model)!r} is a folder, which has no revision {revision!r}; leave revision out."
            raise ValueError(msg)
        return folder
    if isinstance(model, str) and is_hub_id(model):
        return _fetch(model, revision)
    msg = (
        f"There is no model {str(model)!r}: it is neither one that ships with the package "
        f"({', '.join(bundled_models())}), nor a folder that bsc.models.save() wrote, nor a hub repository such as "
        "'owner/name'."
    )
    raise ValueError(msg)


def is_bundled(model: str | Path) -> bool:
    """Whether this is the name of a model that ships in the package."""
    return isinstance(model, str) and model in bundled_models()


def is_model(source: str | Path) -> bool:
    """Whether this is a model of this package, and here: a bundled one, or the folder of a saved one.

    Parameters
    ----------
    source
        Name or path.
    """
    return is_bundled(source) or (Path(source) / CONFIG).is_file()


def _fetch(repository: str, revision: str | None) -> Path:
    # asked for first, so that a language model's many gigabytes are not fetched in vain
    if fetch_file(repository, CHECKSUMS, revision) is None:
        msg = (
            f"The hub repository {repository!r}{f' at {revision}' if revision else ''} holds no model of bioverse-sc: "
            f"it lacks {CHECKSUMS}. bsc.models.create({repository!r}, ...) makes a new model from a language model."
        )
        raise FileNotFoundError(msg)
    return fetch_folder(repository, revision)


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a model's folder."""
    return {
        path.relative_to(folder).as_posix(): file_hash(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (CHECKSUMS, "README.md")
    }


def write_checksums(folder: Path) -> None:
    """Record the hashes of all files of a model's folder, after one was changed on purpose.

    Parameters
    ----------
    folder
        Of the model.
    """
    (folder / CHECKSUMS).write_text(json.dumps(file_hashes(folder), indent=1) + "\n", encoding="utf-8")


def check_files(folder: Path) -> None:
    """Raise when a file of a saved model is missing or altered."""
    if not (folder / CHECKSUMS).is_file():
        msg = f"{folder} is not a saved model: it lacks {CHECKSUMS}. Save one with bsc.models.save(model, folder)."
        raise FileNotFoundError(msg)
    try:
        recorded: dict[str, str] = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"The model in {folder} is damaged: {CHECKSUMS} is not JSON. Copy the whole folder again."
        raise ValueError(msg) from error
    if missing := [name for name in recorded if not (folder / name).is_file()]:
        msg = f"The model in {folder} is incomplete: it lacks {', '.join(missing)}. Copy the whole folder again."
        raise FileNotFoundError(msg)
    present = file_hashes(folder)
    if altered := [name for name, value in recorded.items() if present[name] != value]:
        msg = (
            f"The model in {folder} is damaged: {', '.join(altered)} differ from {CHECKSUMS}. Copy the whole folder "
            "again."
        )
        raise ValueError(msg)
