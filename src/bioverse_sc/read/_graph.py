"""The neighbours graph and the clusters of cells, as scanpy leaves them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from scipy.sparse import csr_matrix

from bioverse_sc._keys import Keys

if TYPE_CHECKING:
    from anndata import AnnData

CONNECTIVITIES = "connectivities"
"""Slot of the neighbours graph that :func:`scanpy.pp.neighbors` writes."""
VECTORS = Keys().embedding("scgpt")
"""Slot of the vectors that errors propose to make it from."""


def neighbors_graph(adata: AnnData) -> csr_matrix:
    """``.obsp["connectivities"]``, shape (cells, cells); an error says how to make it."""
    if CONNECTIVITIES not in adata.obsp:
        holds = f"it holds {sorted(adata.obsp)}" if len(adata.obsp) else "it is empty"
        msg = (
            f"There is no neighbours graph in .obsp[{CONNECTIVITIES!r}] ({holds}). Make it: bsc.tl.embed(adata); "
            f"sc.pp.neighbors(adata, use_rep={VECTORS!r})"
        )
        raise KeyError(msg)
    return csr_matrix(adata.obsp[CONNECTIVITIES])


def clusters_of(adata: AnnData, key: str) -> pd.Categorical:
    """Cluster of each cell, from a column of ``.obs``; categories that no cell has are left out.

    Parameters
    ----------
    adata
        Cells.
    key
        Column of ``.obs``.

    Raises
    ------
    KeyError
        When there is no such column.
    ValueError
        When a cell has no cluster.
    """
    if key not in adata.obs:
        msg = (
            f"There is no column {key!r} in .obs, which has {list(adata.obs.columns)}. Make clusters: "
            f"bsc.tl.embed(adata); sc.pp.neighbors(adata, use_rep={VECTORS!r}); sc.tl.leiden(adata, flavor='igraph', "
            f"key_added={key!r})"
        )
        raise KeyError(msg)
    column = adata.obs[key]
    missing = adata.obs_names[column.isna()]
    if len(missing):
        msg = (
            f"{len(missing)} of {adata.n_obs} cells have no cluster in .obs[{key!r}], the first is {missing[0]!r}. "
            f"Leave them out: adata = adata[adata.obs[{key!r}].notna()].copy()"
        )
        raise ValueError(msg)
    return pd.Categorical(column).remove_unused_categories()
