"""What the rest of the package asks of a biological encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from scipy.sparse import csr_matrix


@runtime_checkable
class CellEncoder(Protocol):
    """A frozen encoder of single cells: rows of an expression matrix to vectors."""

    name: str
    """Short name; the embedding is stored in ``.obsm["X_" + name]``."""
    modality: str
    """``"rna"``."""
    fingerprint: str
    """Hash of the weights and of the vocabulary; the projector was trained for this one."""

    @property
    def width(self) -> int:
        """Length of an embedding."""
        ...

    @property
    def genes(self) -> Sequence[str]:
        """Gene symbols that it reads, in the order of its vocabulary."""
        ...

    @classmethod
    def from_folder(cls, folder: Path) -> CellEncoder:
        """Load what :meth:`save` wrote."""
        ...

    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        """Write a folder that :meth:`from_folder` reads."""
        ...

    def to(self, device: str | torch.device) -> CellEncoder:
        """Move the weights."""
        ...

    def encode(self, matrix: csr_matrix, genes: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Embed cells.

        Parameters
        ----------
        matrix
            Cells by genes, counts or log-normalised values.
        genes
            A symbol of the encoder's vocabulary for each column, without repeats.
        batch_size
            Cells per forward pass.

        Returns
        -------
        Array of shape (cells, width), float32.
        """
        ...
