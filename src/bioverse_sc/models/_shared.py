"""Models that tools share: a name is loaded once."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from bioverse_sc._fork import one_thread
from bioverse_sc._settings import settings
from bioverse_sc.models._bioverse import BioVerse
from bioverse_sc.models._io import load

if TYPE_CHECKING:
    from pathlib import Path


def get_model(model: str | Path | BioVerse) -> BioVerse:
    """Load a model by name or path, once; a loaded one is returned as it is.

    Parameters
    ----------
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    """
    # a child may have been given threads again, which it cannot have
    one_thread()
    return model if isinstance(model, BioVerse) else _load(str(model), settings.torch_device())


@lru_cache(maxsize=2)
def _load(model: str, device: str) -> BioVerse:
    return load(model, device=device)
