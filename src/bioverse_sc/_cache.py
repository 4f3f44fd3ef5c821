"""Arrays on disk, keyed by the content that they were computed from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


class ArrayCache:
    """A folder of arrays. Delete it at will: what is missing is computed again.

    Parameters
    ----------
    folder
        Made when the first array is kept; ``None`` keeps nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else Path(folder)

    def get(self, content: list[Any], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Array for some content, computed when it is not there.

        Parameters
        ----------
        content
            Everything that the array depends on: strings, numbers, arrays, and lists of them.
        compute
            Computes the array.
        """
        if self.folder is None:
            return compute()
        key = content_hash(content)
        file = self.folder / key[:2] / f"{key}.npy"
        try:
            return np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            # not there, or a file that was cut off
            array = compute()
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(f".{os.getpid()}.new")
        with fresh.open("wb") as opened:
            np.save(opened, array, allow_pickle=False)
        fresh.replace(file)
        return array


def file_hash(file: Path) -> str:
    """SHA-256 of a file, which may be larger than memory."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def content_hash(content: list[Any]) -> str:
    """SHA-256 of values and arrays, their types and shapes included."""
    digest = hashlib.sha256()
    for part in content:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            text = repr(part).encode()
            digest.update(f"{type(part).__name__}{len(text)}".encode() + text)
    return digest.hexdigest()
