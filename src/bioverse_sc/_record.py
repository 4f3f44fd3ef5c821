"""Provenance in ``.uns``: what made a result, in types that h5ad keeps."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData

    from bioverse_sc._keys import Keys

Scalar = str | int | float | bool


def record(adata: AnnData, keys: Keys, step: str, entries: dict[str, Any], *, outdated: str = "") -> str:
    """Store the provenance of a step in ``.uns[stem][step]`` and return the name of that slot; ``outdated`` is a step whose results go."""
    stored = dict(adata.uns.get(keys.stem, {}))
    stored.pop(outdated, None)
    stored[step] = {"version": version("bioverse-sc"), **entries}
    adata.uns[keys.stem] = stored
    return f"'{keys.stem}', {step} (.uns)"


def recorded(adata: AnnData, keys: Keys, step: str) -> dict[str, Any]:
    """Provenance of a step; empty when it has not run."""
    return dict(adata.uns.get(keys.stem, {}).get(step, {}))
