"""Where the matrices of an AnnData lie, and what their features are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bioverse_sc.read._features import TYPE_COLUMNS, other_features

if TYPE_CHECKING:
    from anndata import AnnData


def layer_names(adata: AnnData) -> list[str]:
    """Names of the layers, among which anndata 0.13 lists ``.X`` as ``None``."""
    return [name for name in adata.layers if name is not None]


def source_names(adata: AnnData) -> list[str]:
    """Names of all matrices: the layers, ``"X"``, and ``"raw"`` where there is one."""
    return [*layer_names(adata), "X", *(["raw"] if adata.raw is not None else [])]


def is_there(adata: AnnData, source: str) -> bool:
    """Whether there is a matrix of that name."""
    return source in adata.layers or {"X": adata.X, "raw": adata.raw}.get(source) is not None


def shown(source: str) -> str:
    """Name a matrix as a user writes it."""
    return source if source in ("X", "raw") else f"layers[{source!r}]"


def get_matrix(adata: AnnData, source: str) -> Any:
    """Take ``layers[source]``, ``X`` or ``raw.X``."""
    if source in adata.layers:
        return adata.layers[source]
    if source == "X":
        return adata.X
    if source == "raw" and adata.raw is not None:
        return adata.raw.X
    msg = f"There is no layer {source!r}; there are {source_names(adata)}."
    raise KeyError(msg)


def is_raw(adata: AnnData, source: str) -> bool:
    """Whether a matrix has the features of ``.raw``, and not those of ``.var``."""
    return source == "raw" and source not in adata.layers


def variables(adata: AnnData, source: str) -> pd.DataFrame:
    """Table of the features of a matrix."""
    return adata.raw.var if is_raw(adata, source) else adata.var


def _column(adata: AnnData, source: str, name: str) -> pd.Series | None:
    """A column about the features of a matrix, of its own table or, where names are shared, of the other one."""
    table = variables(adata, source)
    if name in table:
        return table[name]
    for other in [adata.var, *([adata.raw.var] if adata.raw is not None else [])]:
        if name in other and other.index.is_unique and table.index.isin(other.index).any():
            return other[name].astype(object).reindex(table.index)
    return None


def features(adata: AnnData, source: str, gene_symbols: str | None) -> tuple[list[str], np.ndarray]:
    """Names of the features of a matrix, and which of them are no genes."""
    index = variables(adata, source).index
    if gene_symbols is None:
        names = index.astype(str)
    elif (column := _column(adata, source, gene_symbols)) is not None:
        # a gene without a symbol keeps its name
        given = column.notna() & (column.astype(str).str.strip() != "")
        names = pd.Index(np.where(given, column.astype(object), index).astype(str))
    else:
        beside = "" if adata.raw is None else f", and in .raw.var there are {list(adata.raw.var.columns)}"
        msg = f"There is no column {gene_symbols!r} in .var; there are {list(adata.var.columns)}{beside}."
        raise KeyError(msg)
    types = (_column(adata, source, name) for name in TYPE_COLUMNS)
    other = other_features(list(names), next((column for column in types if column is not None), None))
    genes = names[~other]
    if (repeated := genes[genes.duplicated()].unique()).size:
        where, remedy = ".var_names", "adata.var_names_make_unique()"
        if gene_symbols:
            where = f".var[{gene_symbols!r}]"
            remedy = f"adata.var_names = adata.var[{gene_symbols!r}].astype(str); {remedy}, without gene_symbols"
        elif source == "raw":
            where, remedy = ".raw.var_names", f"adata = adata.raw.to_adata(); {remedy}"
        msg = (
            f"{len(repeated)} gene names stand more than once in {where}, e.g. {list(repeated[:5])}. Which one is "
            f"meant cannot be known; make them unique first, {remedy}; the columns of one gene are then summed"
        )
        raise ValueError(msg)
    return list(names), other
