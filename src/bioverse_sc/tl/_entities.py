"""Vectors of entities that are written as text: observations with a text of their own, or mixtures of features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from bioverse_sc._modalities import layer_names, row_chunks
from bioverse_sc._row_hash import bound_hashes, hash_sparse_rows, hash_texts
from bioverse_sc.encoders._words import NO_ENTITY

if TYPE_CHECKING:
    from anndata import AnnData

    from bioverse_sc.encoders._base import EntityEncoder


def entity_vectors(
    adata: AnnData, encoder: EntityEncoder, *, layer: str | None = None, batch_size: int | None = None
) -> tuple[np.ndarray, str]:
    """Embed the observations of a modality of entities or of features.

    Entities have a text each, ``.obs["sequence"]`` or ``.obs["smiles"]``. Features (the antibodies of CITE-seq) have
    one each in ``.var`` and abundances in ``.X``: an observation is the mean of its features' vectors, weighted by
    abundance. Texts that occur several times are embedded once.

    Parameters
    ----------
    adata
        The modality.
    encoder
        Its encoder.
    layer
        Layer of the abundances; ``.X``, or ``"X"``, by default.
    batch_size
        Entities per forward pass at most.

    Returns
    -------
    Vectors, shape (observations, width), and what they were made from. An observation without any abundance has zeros.

    Raises
    ------
    KeyError
        When there is no column to read, or no such layer.
    ValueError
        For a text that cannot be read, or abundances that are negative or not finite.
    """
    column = encoder.column
    if column in adata.obs:
        return _of_texts(adata.obs[column], encoder, batch_size), f"obs[{column!r}]"
    if column not in adata.var:
        msg = (
            f"There is no column {column!r} in .obs (an entity for each observation) or in .var (features with "
            "abundances); there "
            f"are {list(adata.obs.columns)} and {list(adata.var.columns)}. Rename one: adata.obs[{column!r}] = "
            "adata.obs[...]"
        )
        raise KeyError(msg)
    abundances, where = _abundances(adata, layer)
    features = _of_texts(adata.var[column], encoder, batch_size)
    found = np.zeros((adata.n_obs, encoder.width), dtype=np.float32)
    for rows, chunk in row_chunks(abundances, np.arange(adata.n_vars)):
        if not np.isfinite(chunk.data).all() or (chunk.data < 0).any():
            msg = (
                f"The abundances in {where} are negative or not finite; expected counts or "
                "other amounts, which weigh the features. Centred values (CLR, scaled) do not: name the counts, "
                "layer='counts'."
            )
            raise ValueError(msg)
        total = np.asarray(chunk.sum(axis=1))
        mean = chunk @ features / np.maximum(total, 1e-12)
        found[rows] = mean.toarray() if issparse(mean) else mean
    return found, f"var[{column!r}], weighted by {where}"


def entity_hashes(adata: AnnData, encoder: EntityEncoder, layer: str | None) -> np.ndarray:
    """Hash of what :func:`entity_vectors` reads of each observation, shape (observations,), uint64.

    None when it is not there.
    """
    column = encoder.column
    if column in adata.obs:
        return hash_texts(adata.obs[column])
    if column not in adata.var:
        return np.zeros(0, dtype=np.uint64)
    features = bound_hashes(hash_texts(adata.var_names), hash_texts(adata.var[column]))
    chunks = row_chunks(_abundances(adata, layer)[0], np.arange(adata.n_vars))
    return np.concatenate([hash_sparse_rows(chunk, features) for _, chunk in chunks])


def _abundances(adata: AnnData, layer: str | None) -> tuple[Any, str]:
    """Abundances of features, and where they are."""
    if layer not in (None, "X"):
        if layer not in adata.layers:
            msg = f"There is no layer {layer!r}; there are {layer_names(adata)}."
            raise KeyError(msg)
        return adata.layers[layer], f"layers[{layer!r}]"
    if adata.X is None:
        msg = f"There are no abundances in .X; name their layer, layer=..., one of {layer_names(adata)}."
        raise ValueError(msg)
    return adata.X, ".X"


def _of_texts(texts: pd.Series, encoder: EntityEncoder, batch_size: int | None) -> np.ndarray:
    """Vectors of texts; each different one is embedded once."""
    from bioverse_sc.encoders._transformer import UnreadableError, check_input

    values = texts.astype(object)
    is_blank = values.map(lambda text: isinstance(text, str) and not text.strip())
    codes, unique = pd.factorize(values.where(~is_blank, None), use_na_sentinel=True)
    if (missing := np.flatnonzero(codes < 0)).size:
        msg = (
            f"{missing.size} of {len(texts)} rows have no {texts.name}, the first is {texts.index[missing[0]]!r} (row "
            f"{missing[0]}); leave "
            "them out, or fill them in."
        )
        raise ValueError(msg)
    try:
        # encoders from elsewhere may read any letters
        check_input(list(unique), str(texts.name), batch_size, NO_ENTITY.get(encoder.modality, frozenset()))
        return encoder.encode(list(unique), batch_size=batch_size)[codes]
    except UnreadableError as error:
        # the encoder counts the different texts
        rows = np.flatnonzero(codes == error.row)
        others = f" Of {len(texts)} rows {len(rows)} have it." if len(rows) > 1 else ""
        msg = f"The {error.what} of {texts.index[rows[0]]!r} (row {rows[0]}) {error.found}{others}"
        raise ValueError(msg) from error
    except ValueError:
        # of an encoder from elsewhere: once more, with the rows of the data
        encoder.encode(list(values), batch_size=batch_size)
        raise
