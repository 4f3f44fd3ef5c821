"""scGPT as a cell encoder: expression matrix in, ``<cls>`` embeddings out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from bioverse_sc._modality import CELLS
from bioverse_sc.encoders.scgpt._heads import Heads
from bioverse_sc.encoders.scgpt._io import read_folder, write_folder, write_official
from bioverse_sc.encoders.scgpt._module import ScGPT
from bioverse_sc.encoders.scgpt._tokenize import GeneSelection, TokenizedCells, tokenize

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from scipy.sparse import csr_matrix

    from bioverse_sc.encoders._base import Dtype
    from bioverse_sc.encoders.scgpt._config import ScGPTConfig
    from bioverse_sc.encoders.scgpt._vocabulary import GeneVocabulary

POSITIONS = {"cpu": 4096, "other": 131_072}
"""Positions per forward pass at most: on a CPU what its caches hold, elsewhere what keeps the device busy."""


class ScGPTEncoder:
    """An scGPT checkpoint, read natively.

    Source: Cui et al., scGPT, Nature Methods 21, 1470-1480 (2024); the input, binning and pooling of its
    ``embed_data``: the hidden state of ``<cls>`` after the last layer, scaled to unit length.
    """

    name = "scgpt"
    mod = CELLS

    def __init__(
        self,
        module: ScGPT,
        vocabulary: GeneVocabulary,
        fingerprint: str,
        head_weights: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.module = module
        self.vocabulary = vocabulary
        self.fingerprint = fingerprint
        self.head_weights = dict(head_weights or {})
        """Weights of the heads of scGPT (masked values, types) that came with the checkpoint or were trained, by
        name."""

    @classmethod
    def from_folder(cls, folder: str | Path) -> ScGPTEncoder:
        """Load a folder with ``args.json``, ``vocab.json`` and the weights."""
        return cls(*read_folder(Path(folder)))

    def save(
        self,
        folder: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        format: Literal["safetensors", "official"] = "safetensors",
    ) -> None:
        """Write a checkpoint folder.

        Parameters
        ----------
        folder
            Where ``args.json``, ``vocab.json`` and the weights go.
        dtype
            Number format of the weights in it.
        format
            ``"safetensors"`` writes ``model.safetensors`` with the encoder alone; ``"official"`` writes
            ``best_model.pt`` with scGPT's own names and with the heads, which the ``scgpt`` package loads.
        """
        if format == "official":
            write_official(Path(folder), self.module, self.vocabulary, self.head_weights, dtype=dtype)
        elif format == "safetensors":
            write_folder(Path(folder), self.module, self.vocabulary, dtype=dtype)
        else:
            msg = f"format is {format!r}; expected 'safetensors' or 'official'."
            raise ValueError(msg)

    @classmethod
    def untrained(cls, config: ScGPTConfig, vocabulary: GeneVocabulary, *, seed: int = 0) -> ScGPTEncoder:
        """Make one with random weights, to train with :func:`bioverse_sc.train.pretrain_encoder`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = ScGPT(config, len(vocabulary), vocabulary.pad_id)
        return cls(module.eval(), vocabulary, "")

    @property
    def width(self) -> int:
        """Length of an embedding."""
        return self.module.config.embsize

    @property
    def genes(self) -> list[str]:
        """Gene symbols of the vocabulary."""
        return self.vocabulary.genes

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    def to(self, device: str | torch.device) -> ScGPTEncoder:
        """Move the weights."""
        self.module.to(device)
        return self

    def heads(self) -> Heads:
        """Make the heads of :attr:`head_weights`, in evaluation mode.

        Raises
        ------
        ValueError
            When the checkpoint has no decoders of values that fit, as without heads or when they also read the batch.
        """
        out = self.head_weights.get("cls_decoder.out_layer.bias")
        heads = Heads(self.module.config, 0 if out is None else len(out))
        taken = heads.load(self.head_weights)
        if missing := [head for head in ("decoder", "mvc_decoder") if head not in taken]:
            msg = f"This checkpoint has no {' and no '.join(missing)} of the usual shape; it predicts no masked values."
            raise ValueError(msg)
        return heads.to(self.device).eval().requires_grad_(requires_grad=False)

    def tokenize(
        self,
        matrix: csr_matrix,
        genes: Sequence[str],
        *,
        gene_selection: GeneSelection = "top",
        max_length: int | None = None,
        seed: int = 0,
    ) -> TokenizedCells:
        """Gene ids and binned values of each cell.

        Parameters
        ----------
        matrix, genes
            As in :meth:`encode`.
        gene_selection
            Which genes of a cell with more than ``max_length - 1`` are read: the ``"top"`` ones by value, ties in the
            order of the vocabulary, or ``"random"`` ones, as in the official code.
        max_length
            Positions of a cell, ``<cls>`` among them; ``max_seq_len`` of the checkpoint by default. (The official
            ``embed_data`` takes 1200, whatever the checkpoint says.)
        seed
            Of the random choice, which depends on it and on the cell, and on nothing else.
        """
        self._check_genes(matrix, genes)
        length = self.module.config.max_seq_len if max_length is None else max_length
        if length < 2:
            msg = f"max_length is {length}; expected at least 2, as <cls> takes the first position."
            raise ValueError(msg)
        ids = np.array([self.vocabulary.ids[gene] for gene in genes], dtype=np.int64)
        order = np.argsort(ids)
        # the official code bins in single precision
        matrix = matrix[:, order].tocsr().astype(np.float32)
        matrix.eliminate_zeros()
        matrix.sort_indices()
        return tokenize(
            matrix,
            ids[order],
            n_bins=self.module.config.n_bins,
            max_genes=length - 1,
            gene_selection=gene_selection,
            seed=seed,
        )

    def _check_genes(self, matrix: csr_matrix, genes: Sequence[str]) -> None:
        """Raise unless every column is one gene of the vocabulary, each once."""
        if matrix.shape[1] != len(genes):
            msg = f"The matrix has {matrix.shape[1]} columns, but {len(genes)} genes were named."
            raise ValueError(msg)
        if unknown := [gene for gene in genes if gene not in self.vocabulary.ids]:
            msg = (
                f"{len(unknown)} genes are not in the vocabulary, e.g. {unknown[:5]}; leave their columns out, or let "
                "bsc.tl.embed match the names."
            )
            raise ValueError(msg)
        if repeated := sorted(gene for gene, n in Counter(genes).items() if n > 1):
            msg = f"Genes are named twice, e.g. {repeated[:5]}; sum their columns, or let bsc.tl.embed do it."
            raise ValueError(msg)

    def encode(
        self,
        matrix: csr_matrix,
        genes: Sequence[str],
        *,
        batch_size: int = 64,
        dtype: Dtype = "float32",
        gene_selection: GeneSelection = "top",
        max_length: int | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """Embed cells; see :class:`~bioverse_sc.encoders.Encoder`. Rows without any known gene give zeros."""
        cells = self.tokenize(matrix, genes, gene_selection=gene_selection, max_length=max_length, seed=seed)
        return self.encode_tokens(cells, batch_size=batch_size, dtype=dtype)

    def encode_tokens(self, cells: TokenizedCells, *, batch_size: int = 64, dtype: Dtype = "float32") -> np.ndarray:
        """Embed what :meth:`tokenize` made; arguments and result as in :meth:`encode`."""
        device = self.device
        on_cpu = device.type == "cpu"
        module = self.module.eval()
        if dtype != "float32":
            # a copy for the time of this call: the weights may be trained on in between
            module = _cast(module, len(self.vocabulary), getattr(torch, dtype))
        out = np.zeros((len(cells), self.width), dtype=np.float32)
        pad_value = module.config.pad_value
        limit = POSITIONS["cpu" if on_cpu else "other"]
        with torch.inference_mode():
            for rows in length_batches(cells.lengths, batch_size, limit):
                if on_cpu:
                    ids, values, runs = pack_cells(cells, rows, self.vocabulary, pad_value)
                    cls = module.packed(ids, values, runs)
                else:
                    ids, values, padded = pad_cells(cells, rows, self.vocabulary, pad_value)
                    ids, values = ids.to(device, non_blocking=True), values.to(device, non_blocking=True)
                    cls = module(ids, values, padded=padded, cls_only=True)[:, 0]
                out[rows] = torch.nn.functional.normalize(cls.float(), dim=-1).cpu().numpy()
        return out


def _cast(module: ScGPT, n_tokens: int, dtype: torch.dtype) -> ScGPT:
    """Copy a network into another number format."""
    with torch.device("meta"):
        copy = ScGPT(module.config, n_tokens, module.pad_id)
    copy.load_state_dict({k: v.to(dtype) for k, v in module.state_dict().items()}, assign=True)
    return copy.eval().requires_grad_(requires_grad=False)


def length_batches(lengths: np.ndarray, batch_size: int, limit: int) -> Iterator[np.ndarray]:
    """Cells for each forward pass, of about one length, so that there is little padding. Empty cells are left out.

    Parameters
    ----------
    lengths
        Genes of each cell.
    batch_size
        Cells per pass at most.
    limit
        Positions per pass at most, padding included; a longer cell goes alone.
    """
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    while start < len(order):
        part = order[start : start + batch_size]
        # the last cell is the longest, so the size of a batch grows with each cell
        size = (lengths[part] + 1) * np.arange(1, len(part) + 1)
        n = max(1, int(np.searchsorted(size, limit, side="right")))
        yield part[:n]
        start += n


def _places(cells: TokenizedCells, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the entries of some cells lie: row in the batch, rank inside the cell, place in the ragged arrays."""
    lengths = cells.lengths[rows]
    row = np.repeat(np.arange(len(rows)), lengths)
    rank = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return row, rank, np.repeat(cells.offsets[rows], lengths) + rank


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
    row, rank, place = _places(cells, rows)
    ids[row, 1 + rank] = cells.gene_ids[place]
    values[row, 1 + rank] = cells.values[place]
    return torch.from_numpy(ids), torch.from_numpy(values), bool((lengths < longest).any())


def pack_cells(
    cells: TokenizedCells, rows: np.ndarray, vocabulary: GeneVocabulary, pad_value: float
) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, int]]]:
    """Put cells one behind the other, each with ``<cls>`` in front.

    Returns
    -------
    Gene ids and values, both of shape (positions,), and the runs of cells of one length: how many, and how long with
    ``<cls>``.
    """
    lengths = cells.lengths[rows]
    starts = np.cumsum(lengths + 1) - (lengths + 1)
    ids = np.full(int(lengths.sum()) + len(rows), vocabulary.cls_id, dtype=np.int64)
    values = np.full(ids.shape, pad_value, dtype=np.float32)
    row, rank, place = _places(cells, rows)
    ids[starts[row] + 1 + rank] = cells.gene_ids[place]
    values[starts[row] + 1 + rank] = cells.values[place]
    borders = np.flatnonzero(np.diff(lengths, prepend=-1))
    counts = np.diff(borders, append=len(rows))
    runs = [(int(n), int(lengths[i]) + 1) for i, n in zip(borders, counts, strict=True)]
    return torch.from_numpy(ids), torch.from_numpy(values), runs
