"""Vectors that the user already has, in the place of an encoder's."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from scipy.sparse import issparse

from bioverse_sc._modality import CELLS


class Precomputed:
    """What a projector has to know of vectors from elsewhere (scVI, Geneformer, UCE, PCA of a reference).

    Two representations of one name and width count as the same one; that they come from the same model is the user's
    word. A projector for them is configured with its ``name``, ``fingerprint`` and ``width``.

    Parameters
    ----------
    use_rep
        Name of the representation, such as ``"X_scVI"``.
    width
        Length of its vectors.
    """

    name = "precomputed"
    mod = CELLS

    def __init__(self, use_rep: str, width: int) -> None:
        self.use_rep = use_rep
        self.width = width
        self.fingerprint = hashlib.sha256(f"precomputed {use_rep} {width}".encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Precomputed({self.use_rep!r}, {self.width})"

    @classmethod
    def of(cls, use_rep: str, stored: Any) -> Precomputed:
        """Describe a matrix, entities by width."""
        if getattr(stored, "ndim", 0) != 2 or stored.shape[1] == 0:
            msg = f"{use_rep!r} has shape {getattr(stored, 'shape', ())}; expected a matrix, cells by width."
            raise ValueError(msg)
        return cls(use_rep, stored.shape[1])

    def vectors(self, stored: Any) -> np.ndarray:
        """Give the stored matrix as float32, checked.

        Raises
        ------
        ValueError
            For another width, for NaN and for infinite values.
        """
        vectors = np.array(stored.toarray() if issparse(stored) else stored, dtype=np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.width:
            msg = f"{self.use_rep!r} has shape {vectors.shape}; expected vectors of width {self.width}."
            raise ValueError(msg)
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            msg = (
                f"{self.use_rep!r} holds NaN or infinite values in {bad.sum()} of {len(vectors)} rows, the first is "
                f"row {np.argmax(bad)}. Compute it again, or leave those cells out."
            )
            raise ValueError(msg)
        return vectors
