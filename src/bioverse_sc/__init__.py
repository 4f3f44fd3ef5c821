"""BioVERSE for the scverse: single cells, read by a language model, in AnnData.

Usual import: ``import bioverse_sc as bsc``.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from bioverse_sc import datasets, facts, groups, metrics, ontology, pl, pp, reasoning, tl
from bioverse_sc._fork import register as _register_at_fork
from bioverse_sc._settings import settings
from bioverse_sc.tl import Chat

if TYPE_CHECKING:
    from bioverse_sc import encoders, models, runs, train

__version__ = version("bioverse-sc")

__all__ = [
    "Chat",
    "datasets",
    "encoders",
    "facts",
    "groups",
    "metrics",
    "models",
    "ontology",
    "pl",
    "pp",
    "reasoning",
    "runs",
    "settings",
    "tl",
    "train",
]

_register_at_fork()

_NEED_TORCH = ("encoders", "models", "runs", "train")


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used: ``import bioverse_sc`` stays fast."""
    if name in _NEED_TORCH:
        return import_module(f"bioverse_sc.{name}")
    msg = f"module 'bioverse_sc' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
