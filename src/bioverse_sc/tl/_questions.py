"""What a question is about: the observations that its modalities share, and those that every prompt shows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bioverse_sc._validation import check_storable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.tl._subject import Subject


def check_question(question: str) -> None:
    """Raise when a question is no text, or an empty one."""
    if not isinstance(question, str):
        msg = f"question is {question!r}; expected a text, such as 'What does this protein do?'"
        raise TypeError(msg)
    if not question.strip():
        msg = "question is empty; expected a text, such as 'What does this protein do?'"
        raise ValueError(msg)
    check_storable(question, "question")


def check_beside(beside: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    """Names by modality as lists; raise for what is no mapping to names."""
    example = "beside={'protein': ['P1', 'P2']}"
    if beside is not None and not hasattr(beside, "items"):
        msg = f"beside is {beside!r}; expected names of observations by modality, such as {example}."
        raise TypeError(msg)
    for mod, names in (beside or {}).items():
        if isinstance(names, str):
            msg = f"beside[{mod!r}] is the string {names!r}; expected a list of names, such as [{names!r}]."
            raise TypeError(msg)
        if len(names) == 0:
            msg = f"beside[{mod!r}] names no observation; expected for example {example}."
            raise ValueError(msg)
    return {mod: [str(name) for name in names] for mod, names in (beside or {}).items()}


def check_modalities(data: AnnData | MuData, mods: Sequence[str], used: Sequence[str]) -> None:
    """Raise for no modality, for one that is named twice, and for several of an AnnData."""
    if not mods:
        msg = "mod is empty; expected a modality such as 'protein', or several, such as ['molecule', 'rna']."
        raise ValueError(msg)
    if repeated := [mod for mod, n in Counter(mods).items() if n > 1]:
        msg = (
            f"mod names {', '.join(map(repr, repeated))} more than once. To show several of one, name them: "
            f"beside={{{repeated[0]!r}: [...]}}"
        )
        raise ValueError(msg)
    if len(used) > 1 and not hasattr(data, "mod"):
        msg = (
            f"Expected MuData for the modalities {list(used)}, found {type(data).__name__}, which holds one; say "
            f"which, for example mod={used[-1]!r}, or join several: mudata.MuData({{{used[0]!r}: ..., {used[1]!r}: "
            "...})"
        )
        raise TypeError(msg)


def shared_observations(
    adatas: Mapping[str, AnnData], target: AnnData | MuData
) -> tuple[pd.Index, dict[str, np.ndarray]]:
    """Names that all modalities have, in the order of the first, and their rows in each.

    Parameters
    ----------
    adatas
        The modalities.
    target
        What the answers go to.
    """
    (first, adata), *others = adatas.items()
    names = adata.obs_names
    if target is adata:
        return names, {first: np.arange(adata.n_obs)}
    for mod, each in adatas.items():
        check_unique(each, mod)
    for _, each in others:
        names = names[names.isin(each.obs_names)]
    if not len(names):
        counts = ", ".join(f"{mod} has {each.n_obs}, such as {each.obs_names[0]!r}" for mod, each in adatas.items())
        msg = (
            f"No observation is in all of {list(adatas)}: {counts}. Ask about one of them, mod={first!r}, or show "
            f"chosen ones in every prompt, mod={first!r}, beside={{{others[0][0]!r}: [{others[0][1].obs_names[0]!r}]}}."
        )
        raise ValueError(msg)
    if not names.isin(target.obs_names).all():
        msg = "The modalities have observations that the MuData has not: they have changed since. Type mdata.update()"
        raise ValueError(msg)
    return names, {mod: each.obs_names.get_indexer(names) for mod, each in adatas.items()}


def rows_beside(adata: AnnData, mod: str, names: Sequence[str]) -> np.ndarray:
    """Rows of named observations."""
    check_unique(adata, mod)
    rows = adata.obs_names.get_indexer(pd.Index(names))
    if missing := [name for name, row in zip(names, rows, strict=True) if row < 0]:
        msg = (
            f"beside[{mod!r}] names {missing}, which are not there; {mod} has {adata.n_obs}, such as "
            f"{list(adata.obs_names[:3])}."
        )
        raise KeyError(msg)
    return rows


def check_unique(adata: AnnData, mod: str) -> None:
    """Raise when names of observations do not say which one is meant."""
    if not adata.obs_names.is_unique:
        twice = adata.obs_names[adata.obs_names.duplicated()][0]
        msg = (
            f"Observations are found by their name, and {mod} has {twice!r} more than once. Make the names different: "
            f"mdata[{mod!r}].obs_names_make_unique(); mdata.update()"
        )
        raise ValueError(msg)


def check_known(subject: Subject, rows: np.ndarray) -> None:
    """Raise when an entity that every prompt is to show has no vector."""
    if empty := list(subject.adata.obs_names[rows[~subject.is_known[rows]]]):
        msg = (
            f"beside[{subject.mod!r}] names {empty}, whose vectors are zero, as of a cell without any known gene; "
            "leave them out of beside."
        )
        raise ValueError(msg)
