"""Which observations a conversation is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from bioverse_sc._modality import CELLS
from bioverse_sc.tl._subject import modalities_read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData

    from bioverse_sc.models import BioVerse

ALL = 8
"""Observations at most that are shown when none is named."""


def chosen_names(
    data: AnnData | MuData,
    entities: str | Sequence[str] | Mapping[str, str | Sequence[str]] | None,
    mod: str | None,
    model: BioVerse,
) -> dict[str, list[str] | None]:
    """By modality the names that are asked for; ``None`` for all."""
    from mudata import MuData

    if not isinstance(data, (AnnData, MuData)):
        msg = f"Expected AnnData or MuData, found {type(data).__name__}."
        raise TypeError(msg)
    if entities is None:
        return _all(data, mod, model)
    if isinstance(entities, Mapping):
        if mod is not None or not isinstance(data, MuData):
            msg = (
                f"entities is {dict(entities)!r}, by modality; that goes with MuData and without mod. Give the names "
                "alone: entities=[...]"
            )
            raise TypeError(msg)
        named_by = dict(entities)
    elif mod is None and isinstance(data, MuData):
        example = {modalities_read(model, data, None)[0]: entities}
        msg = f"The modality of {entities!r} is not said; of a MuData name it: entities={example!r}"
        raise TypeError(msg)
    else:
        named_by = {mod or CELLS: entities}
    chosen: dict[str, list[str] | None] = {}
    for name, names in named_by.items():
        listed: list[Any] = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
        if not all(isinstance(each, str) for each in listed):
            msg = (
                f"entities of {name!r} are {names!r}; expected names of observations, such as "
                f"{list(_modality(data, name).obs_names[:2])}."
            )
            raise TypeError(msg)
        if listed:
            chosen[name] = listed
    if not chosen:
        msg = "entities is empty. Name what the chat is about, or leave it out for all observations."
        raise ValueError(msg)
    return chosen


def _all(data: AnnData | MuData, mod: str | None, model: BioVerse) -> dict[str, list[str] | None]:
    """All that the model reads, when they are few."""
    sizes = {name: _modality(data, name).n_obs for name in modalities_read(model, data, mod)}
    if not 0 < sum(sizes.values()) <= ALL:
        first = {name: str(_modality(data, name).obs_names[0]) for name, n in sizes.items() if n}
        named = next(iter(first.values()), "name") if isinstance(data, AnnData) or mod is not None else first
        msg = (
            f"The data have {', '.join(f'{n} observations of {name}' for name, n in sizes.items())}; without names a "
            f"chat shows all, when they are 1 to {ALL}. Name those that it is about, for example entities={named!r}."
        )
        raise ValueError(msg)
    return {name: None for name, n in sizes.items() if n}


def _modality(data: AnnData | MuData, mod: str) -> AnnData:
    """AnnData of a modality; a view will do, as nothing is written to it."""
    if isinstance(data, AnnData):
        return data
    if mod not in data.mod:
        msg = f"The MuData has no modality {mod!r}; it has {list(data.mod)}."
        raise KeyError(msg)
    return data.mod[mod]


def part_of(data: AnnData | MuData, mod: str, names: list[str] | None) -> AnnData:
    """Observations as a data set of their own."""
    adata = _modality(data, mod)
    if names is None:
        return adata[:].to_memory()
    rows = []
    for name in names:
        named = np.flatnonzero(adata.obs_names == name)
        if not len(named):
            msg = (
                f"There is no observation {name!r} of {mod}; the {adata.n_obs} are {list(adata.obs_names[:4])} and so "
                "on."
            )
            raise KeyError(msg)
        if len(named) > 1:
            msg = (
                f"{len(named)} observations of {mod} have the name {name!r}. Give each its own: "
                "adata.obs_names_make_unique()"
            )
            raise ValueError(msg)
        rows.append(named[0])
    if repeated := [name for name, n in Counter(names).items() if n > 1]:
        msg = f"entities names {repeated[0]!r} more than once. Name each observation once."
        raise ValueError(msg)
    return adata[np.array(rows)].to_memory()
