"""Entities that are written as text: observations with a text of their own, or mixtures of features that have one."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from bioverse_sc._modality import modality_of
from bioverse_sc._row_hash import bound_hashes, hash_sparse_rows, hash_texts
from bioverse_sc.encoders import UnreadableError, check_texts
from bioverse_sc.read._map import row_chunks
from bioverse_sc.read._sources import layer_names

if TYPE_CHECKING:
    from anndata import AnnData

    from bioverse_sc.encoders import Encoder


class Entities:
    """The observations of a modality that has texts.

    Entities have a text each, ``.obs["sequence"]`` or ``.obs["smiles"]``. Features (the antibodies of CITE-seq) have
    one each in ``.var`` and abundances in ``.X``: an observation is the mean of its features' vectors, weighted by
    abundance. Texts that occur several times are embedded once.

    Parameters
    ----------
    adata
        The modality.
    mod
        Its name, which says the column.
    layer
        Layer of the abundances; ``.X``, or ``"X"``, by default.
    """

    def __init__(self, adata: AnnData, mod: str, *, layer: str | None = None) -> None:
        self.adata, self.layer = adata, layer
        self.modality = modality_of(mod)

    @property
    def column(self) -> str:
        """Column of the texts."""
        return self.modality.column

    @property
    def texts(self) -> pd.Series:
        """Text of each observation, or of each feature.

        Raises
        ------
        KeyError
            When there is no column to read.
        """
        if self.column in self.adata.obs:
            return self.adata.obs[self.column]
        if self.column in self.adata.var:
            return self.adata.var[self.column]
        msg = (
            f"There is no column {self.column!r} in .obs (an entity for each observation) or in .var (features with "
            f"abundances); there are {list(self.adata.obs.columns)} and {list(self.adata.var.columns)}. Rename one: "
            f"adata.obs[{self.column!r}] = adata.obs[...]"
        )
        raise KeyError(msg)

    def vectors(self, encoder: Encoder, *, batch_size: int | None = None) -> tuple[np.ndarray, str]:
        """Embed the observations.

        Parameters
        ----------
        encoder
            Encoder of the modality.
        batch_size
            Entities per forward pass at most.

        Returns
        -------
        Vectors, shape (observations, width), and what they were made from. An observation without any abundance has
        zeros.

        Raises
        ------
        KeyError
            When there is no column to read, or no such layer.
        ValueError
            For a text that cannot be read, or abundances that are negative or not finite.
        """
        texts = self.texts
        if self.column in self.adata.obs:
            return self._of_texts(texts, encoder, batch_size), f"obs[{self.column!r}]"
        abundances, where = self._abundances
        features = self._of_texts(texts, encoder, batch_size)  # (features, width)
        vectors = np.zeros((self.adata.n_obs, encoder.width), dtype=np.float32)
        for rows, chunk in row_chunks(abundances, np.arange(self.adata.n_vars)):
            if not np.isfinite(chunk.data).all() or (chunk.data < 0).any():
                msg = (
                    f"The abundances in {where} are negative or not finite; expected counts or other amounts, which "
                    "weigh the features. Centred values (CLR, scaled) do not: name the counts, layer='counts'."
                )
                raise ValueError(msg)
            total = np.asarray(chunk.sum(axis=1))  # (rows, 1)
            mean = chunk @ features / np.maximum(total, 1e-12)
            vectors[rows] = mean.toarray() if issparse(mean) else mean
        return vectors, f"var[{self.column!r}], weighted by {where}"

    @cached_property
    def hashes(self) -> np.ndarray:
        """Hash of what is read of each observation, shape (observations,), uint64; none when it is not there."""
        if self.column in self.adata.obs:
            return hash_texts(self.adata.obs[self.column])
        if self.column not in self.adata.var:
            return np.zeros(0, dtype=np.uint64)
        features = bound_hashes(hash_texts(self.adata.var_names), hash_texts(self.adata.var[self.column]))
        chunks = row_chunks(self._abundances[0], np.arange(self.adata.n_vars))
        return np.concatenate([hash_sparse_rows(chunk, features) for _, chunk in chunks])

    @property
    def _abundances(self) -> tuple[Any, str]:
        """Abundances of features, and where they are."""
        if self.layer not in (None, "X"):
            if self.layer not in self.adata.layers:
                msg = f"There is no layer {self.layer!r}; there are {layer_names(self.adata)}."
                raise KeyError(msg)
            return self.adata.layers[self.layer], f"layers[{self.layer!r}]"
        if self.adata.X is None:
            msg = f"There are no abundances in .X; name their layer, layer=..., one of {layer_names(self.adata)}."
            raise ValueError(msg)
        return self.adata.X, ".X"

    def _of_texts(self, texts: pd.Series, encoder: Encoder, batch_size: int | None) -> np.ndarray:
        """Vectors of texts, shape (texts, width); each different one is embedded once."""
        values = texts.astype(object)
        is_blank = values.map(lambda text: isinstance(text, str) and not text.strip())
        codes, unique = pd.factorize(values.where(~is_blank, None), use_na_sentinel=True)
        if (missing := np.flatnonzero(codes < 0)).size:
            msg = (
                f"{missing.size} of {len(texts)} rows have no {texts.name}, the first is {texts.index[missing[0]]!r} "
                f"(row {missing[0]}); leave them out, or fill them in."
            )
            raise ValueError(msg)
        try:
            # encoders from elsewhere may read any letters
            check_texts(list(unique), str(texts.name), batch_size, self.modality.placeholders)
            return encoder.encode(list(unique), batch_size=batch_size)[codes]
        except UnreadableError as error:
            # the encoder counts the different texts
            rows = np.flatnonzero(codes == error.row)
            others = f" Of {len(texts)} rows {len(rows)} have it." if len(rows) > 1 else ""
            msg = f"The {error.noun} of {texts.index[rows[0]]!r} (row {rows[0]}) {error.problem}{others}"
            raise ValueError(msg) from error
        except ValueError:
            # of an encoder from elsewhere: once more, with the rows of the data
            encoder.encode(list(values), batch_size=batch_size)
            raise
