"""Folders of scGPT checkpoints: given, kept in the cache, published by the authors, or in a hub repository."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bioverse_sc._hub import fetch_folder, is_hub_id
from bioverse_sc._settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterable

FILES = ("args.json", "vocab.json", "best_model.pt")
_PATTERNS = (*FILES, "model.safetensors")


@cache
def published() -> dict[str, Any]:
    """Checkpoints that scGPT's authors publish; none of them has a hub repository with these three files."""
    return json.loads(files("bioverse_sc.encoders").joinpath("checkpoints.json").read_text(encoding="utf-8"))


def checkpoint_folder(name_or_path: str | Path, revision: str | None, known: Iterable[str]) -> Path:
    """Find or fetch the folder of a checkpoint; ``known`` are the names that an error lists."""
    name = str(name_or_path)
    path = Path(name_or_path).expanduser()
    entry = published()["checkpoints"].get(name) if isinstance(name_or_path, str) else None
    cached = settings.cache_dir / "encoders" / (name.replace("/", "--") + (f"@{revision}" if revision else ""))
    if entry is None and path.is_dir():
        if revision is not None:
            msg = f"{name!r} is a folder, which has no revision {revision!r}; leave revision out."
            raise ValueError(msg)
        return path
    if isinstance(name_or_path, str) and cached.is_dir():
        return cached
    if entry is not None:
        msg = (
            f"The scGPT checkpoint {name!r} ({entry['description']}) is not on this machine, and no hub repository "
            f"holds it in scGPT's own format. Its authors publish it at {entry['url']} (see {published()['page']}): "
            f"put {_in_words(FILES)} of it into {cached}, or pass the folder where you have "
            f"them{f', as ./{name}' if path.is_dir() else ''}."
        )
        raise FileNotFoundError(msg)
    if isinstance(name_or_path, str) and is_hub_id(name):
        needed = f"{_in_words(FILES)} (or model.safetensors)"
        instead = f"put {needed} of it into {cached}, or pass the folder where you have them."
        return fetch_folder(name, revision, patterns=_PATTERNS, instead=instead)
    msg = (
        f"There is no encoder {name!r}: it is neither a known name ({', '.join(known)}), nor a folder with "
        f"{_in_words(FILES)}, nor a hub repository such as 'owner/name'. bsc.encoders.register() adds a name."
    )
    raise ValueError(msg)


def _in_words(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
