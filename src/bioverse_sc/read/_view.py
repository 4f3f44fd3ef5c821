"""AnnData or MuData in; the checked AnnData of one modality out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anndata import AnnData

from bioverse_sc._modality import CELLS

if TYPE_CHECKING:
    from mudata import MuData


def observations(data: AnnData | MuData, mod: str = CELLS) -> AnnData:
    """Take the AnnData of a modality, and check that results can be written to it."""
    from mudata import MuData

    if isinstance(data, MuData):
        if mod not in data.mod:
            msg = f"The MuData has no modality {mod!r}; it has {list(data.mod)}."
            raise KeyError(msg)
        adata = data.mod[mod]
    elif isinstance(data, AnnData):
        adata = data
    else:
        msg = f"Expected AnnData or MuData, found {type(data).__name__}."
        raise TypeError(msg)
    if adata.is_view:
        remedy = "mdata = mdata.copy()" if isinstance(data, MuData) else "adata = adata.copy()"
        msg = f"This AnnData is a view of another one. Make it a data set of its own first: {remedy}"
        raise ValueError(msg)
    if adata.n_obs == 0:
        msg = "This AnnData has no cells: n_obs is 0. Check the filter that made it."
        raise ValueError(msg)
    return adata
