"""What the rest of the package asks of a biological encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from scipy.sparse import csr_matrix

Dtype = Literal["float32", "bfloat16", "float16"]
"""Number format of the computation; vectors are float32 whatever it is."""


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
        Array of shape (cells, width), float32. Rows depend on their own cell alone; zeros say that there is no cell.
        """
        ...


@runtime_checkable
class EntityEncoder(Protocol):
    """A frozen encoder of entities that are written as text: proteins as sequences, molecules as SMILES."""

    name: str
    """Short name; the embedding is stored in ``.obsm["X_" + name]``."""
    modality: str
    """``"protein"`` or ``"molecule"``."""
    column: str
    """Column that holds the texts: of ``.obs`` for entities, of ``.var`` for features with abundances."""
    fingerprint: str
    """Hash of the weights and of the vocabulary; the projector was trained for this one."""

    @property
    def width(self) -> int:
        """Length of an embedding."""
        ...

    def to(self, device: str | torch.device) -> EntityEncoder:
        """Move the weights."""
        ...

    def encode(self, entities: Sequence[str], *, batch_size: int | None = None) -> np.ndarray:
        """Embed entities.

        Parameters
        ----------
        entities
            Their texts; an error names the row of one that cannot be read.
        batch_size
            Entities per forward pass at most.

        Returns
        -------
        Array of shape (entities, width), float32. Rows depend on their own entity alone.
        """
        ...


@runtime_checkable
class StoredEncoder(Protocol):
    """An encoder that travels with a model: its weights are written to the model's folder."""

    fingerprint: str
    """Hash of the weights and of the vocabulary."""

    @classmethod
    def from_folder(cls, folder: Path) -> StoredEncoder:
        """Load what :meth:`save` wrote."""
        ...

    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        """Write a folder that :meth:`from_folder` reads."""
        ...


@runtime_checkable
class TokenEncoder(CellEncoder, Protocol):
    """An encoder whose input can be prepared apart from the computation, so that both go on at the same time.

    It also chooses among the genes of a cell that has too many, and computes in other number formats.
    """

    def tokenize(
        self,
        matrix: csr_matrix,
        genes: Sequence[str],
        *,
        gene_selection: Literal["top", "random"],
        max_length: int | None,
        seed: int,
    ) -> Any:
        """Prepare cells; the result is only for :meth:`encode_tokens`."""
        ...

    def encode_tokens(self, cells: Any, *, batch_size: int, dtype: Dtype) -> np.ndarray:
        """Embed prepared cells, as :meth:`CellEncoder.encode` does."""
        ...
