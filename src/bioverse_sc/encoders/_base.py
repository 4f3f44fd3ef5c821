"""What the rest of the package asks of a biological encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, cast, runtime_checkable

from bioverse_sc._modality import CELLS, modality_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch

Dtype = Literal["float32", "bfloat16", "float16"]
"""Number format of the computation; vectors are float32 whatever it is."""


@runtime_checkable
class Encoder(Protocol):
    """A frozen encoder: observations of one modality to vectors.

    What :meth:`encode` takes follows from the modality (see :class:`bioverse_sc.encoders.Modality`). Where it has a
    column of texts, as proteins and molecules have, these are the texts. Where it is a matrix of genes, as of cells, it
    is the matrix with a gene for each column, and the encoder has two attributes more:

    ``genes``
        Gene symbols that it reads, in the order of its vocabulary.
    ``tokenize`` and ``encode_tokens``
        If it has them: its input is prepared apart from the computation, so that both go on at the same time. Such an
        encoder also chooses among the genes of a cell that has too many, and computes in other number formats. See
        :class:`bioverse_sc.encoders.scgpt.ScGPTEncoder` for their arguments.
    """

    name: str
    """Short name; the embedding is stored in ``.obsm["X_" + name]``."""
    mod: str
    """Modality that it reads, such as ``"protein"``."""
    fingerprint: str
    """Hash of the weights and of the vocabulary; the projector was trained for this one."""

    @property
    def width(self) -> int:
        """Length of a vector."""
        ...

    def to(self, device: str | torch.device) -> Self:
        """Move the weights."""
        ...

    def encode(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Embed texts, ``encode(texts, batch_size=...)``, or cells, ``encode(matrix, genes, batch_size=...)``.

        Parameters
        ----------
        args
            Texts, of which an error names the row of one that cannot be read. Or a sparse matrix, cells by genes, of
            counts or log-normalised values, and a gene of the vocabulary for each column, without repeats.
        kwargs
            ``batch_size``: entities per forward pass at most.

        Returns
        -------
        Array of shape (entities, width), float32. Rows depend on their own entity alone; zeros say that there is none.
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


def missing_members(encoder: Any) -> list[str]:
    """Names of what something lacks to be an encoder."""
    has_text = modality_of(str(getattr(encoder, "mod", CELLS))).has_text
    members = ["name", "mod", "fingerprint", "width", *([] if has_text else ["genes"]), "to", "encode"]
    return [member for member in members if not hasattr(encoder, member)]


def genes_of(encoder: Encoder) -> list[str]:
    """Gene symbols that an encoder of cells reads, in the order of its vocabulary.

    Parameters
    ----------
    encoder
        The encoder.
    """
    return list(cast("Any", encoder).genes)


def prepares_tokens(encoder: Encoder) -> bool:
    """Whether an encoder of cells prepares its input apart from the computation.

    Parameters
    ----------
    encoder
        The encoder.
    """
    return hasattr(encoder, "tokenize") and hasattr(encoder, "encode_tokens")
