"""scGPT as a cell encoder: expression matrix in, ``<cls>`` embeddings out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from bioverse_sc.encoders.scgpt._io import read_folder, write_folder
from bioverse_sc.encoders.scgpt._module import ScGPT
from bioverse_sc.encoders.scgpt._tokenize import TokenizedCells, tokenize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy.sparse import csr_matrix

    from bioverse_sc.encoders.scgpt._config import ScGPTConfig
    from bioverse_sc.encoders.scgpt._vocabulary import GeneVocabulary


class ScGPTEncoder:
    """An scGPT checkpoint, read natively.

    Source: Cui et al., scGPT, Nature Methods 21, 1470-1480 (2024); the input, binning and pooling of its
    ``embed_data``: the hidden state of ``<cls>`` after the last layer, scaled to unit length.
    """

    name = "scgpt"
    modality = "rna"

    def __init__(self, module: ScGPT, vocabulary: GeneVocabulary, fingerprint: str) -> None:
        self.module = module
        self.vocabulary = vocabulary
        self.fingerprint = fingerprint

    @classmethod
    def from_folder(cls, folder: str | Path) -> ScGPTEncoder:
        """Load a folder with ``args.json``, ``vocab.json`` and the weights."""
        return cls(*read_folder(Path(folder)))

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write a checkpoint folder; ``dtype`` is the number format of the weights in it."""
        write_folder(Path(folder), self.module, self.vocabulary, dtype=dtype)

    @classmethod
    def untrained(cls, config: ScGPTConfig, vocabulary: GeneVocabulary, *, seed: int = 0) -> ScGPTEncoder:
        """Make one with random weights, to train with :func:`bioverse_sc.train.pretrain_encoder`."""
        torch.manual_seed(seed)
        return cls(ScGPT(config, len(vocabulary), vocabulary.pad_id), vocabulary, "")

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return self.module.config.embsize

    @property
    def genes(self) -> list[str]:
        """Gene symbols of the vocabulary."""
        return self.vocabulary.genes

    def to(self, device: str | torch.device) -> ScGPTEncoder:
        """Move the weights."""
        self.module.to(device)
        return self

    def tokenize(self, matrix: csr_matrix, genes: Sequence[str]) -> TokenizedCells:
        """Gene ids and binned values of each cell; ``matrix`` and ``genes`` as in :meth:`encode`."""
        ids = np.array([self.vocabulary.ids[gene] for gene in genes], dtype=np.int64)
        order = np.argsort(ids)
        matrix = matrix[:, order].tocsr()
        matrix.eliminate_zeros()
        matrix.sort_indices()
        config = self.module.config
        return tokenize(matrix, ids[order], n_bins=config.n_bins, max_genes=config.max_seq_len - 1)

    def encode(self, matrix: csr_matrix, genes: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
        """Embed cells; see :class:`~bioverse_sc.encoders.CellEncoder`. Rows without any known gene give zeros."""
        cells = self.tokenize(matrix, genes)
        out = np.zeros((len(cells), self.width), dtype=np.float32)
        order = np.argsort(cells.lengths, kind="stable")
        order = order[cells.lengths[order] > 0]
        device = next(self.module.parameters()).device
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                rows = order[start : start + batch_size]
                ids, values, padded = pad_cells(cells, rows, self.vocabulary, self.module.config.pad_value)
                hidden = self.module(ids.to(device), values.to(device), padded=padded, cls_only=True)[:, 0]
                out[rows] = torch.nn.functional.normalize(hidden.float(), dim=-1).cpu().numpy()
        return out


def pad_cells(
    cells: TokenizedCells, rows: np.ndarray, vocabulary: GeneVocabulary, pad_value: float
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Put ``<cls>`` in front and padding behind.

    Returns
    -------
    Gene ids and values, both of shape (rows, 1 + longest), and whether there is any padding.
    """
    lengths = cells.lengths[rows]
    longest = int(lengths.max(initial=0))
    ids = np.full((len(rows), 1 + longest), vocabulary.pad_id, dtype=np.int64)
    values = np.full(ids.shape, pad_value, dtype=np.float32)
    ids[:, 0] = vocabulary.cls_id
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        span = slice(cells.offsets[row], cells.offsets[row] + length)
        ids[i, 1 : 1 + length] = cells.gene_ids[span]
        values[i, 1 : 1 + length] = cells.values[span]
    return torch.from_numpy(ids), torch.from_numpy(values), bool((lengths < longest).any())
