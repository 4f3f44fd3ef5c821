"""Pretraining of an scGPT-format encoder of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from bioverse_sc._quiet import undisturbed
from bioverse_sc.encoders.scgpt import Heads, fingerprint, pad_cells
from bioverse_sc.train._loop import Task, fit

if TYPE_CHECKING:
    from pathlib import Path

    from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPT, ScGPTEncoder, TokenizedCells
    from bioverse_sc.train._config import TrainConfig


class CellSource:
    """Tokenized cells with an optional target distribution over types; a random share of the values is masked.

    Parameters
    ----------
    cells
        The cells.
    vocabulary
        Of the encoder.
    pad_value
        Value at padding.
    mask_value
        Value where one is masked.
    mask_share
        Range of the share of a cell's values that is masked.
    types
        Type of each cell as an integer, shape (cells,); negative where unknown.
    """

    def __init__(
        self,
        cells: TokenizedCells,
        vocabulary: GeneVocabulary,
        *,
        pad_value: float,
        mask_value: float,
        mask_share: tuple[float, float],
        types: np.ndarray | None,
    ) -> None:
        self.cells = cells
        self.vocabulary = vocabulary
        self.pad_value = pad_value
        self.mask_value = mask_value
        self.mask_share = mask_share
        self.types = types
        self.lengths: np.ndarray | None = None
        self.weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.cells)

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        ids, values, _ = pad_cells(self.cells, indices, self.vocabulary, self.pad_value)
        share = rng.uniform(*self.mask_share, size=(len(indices), 1))
        masked = torch.from_numpy(rng.random(ids.shape) < share) & ids.ne(self.vocabulary.pad_id)
        masked[:, 0] = False
        batch = {
            "gene_ids": ids,
            "values": values.masked_fill(masked, self.mask_value),
            "masked": masked,
            "true": values,
        }
        if self.types is not None:
            batch["types"] = torch.from_numpy(self.types[indices])
        return batch


class EncoderTask(Task):
    """Masked values from the genes' states and from ``<cls>`` (scGPT's GEP and GEPC), and the type from ``<cls>``.

    Parameters
    ----------
    module
        The encoder's network.
    heads
        What predicts from its states.
    type_targets
        Target distribution of each type, shape (types, types); ``None`` when the heads have no types.
    values_weight
        Weight of the masked values beside the types.
    """

    type_targets: torch.Tensor

    def __init__(self, module: ScGPT, heads: Heads, *, type_targets: torch.Tensor | None, values_weight: float) -> None:
        super().__init__()
        self.module = module
        self.heads = heads
        self.values_weight = values_weight
        self.register_buffer("type_targets", type_targets, persistent=False)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Losses of the masked values and of the types, and their sum."""
        hidden = self.module(batch["gene_ids"], batch["values"])  # (cells, positions, width)
        cls, masked = hidden[:, 0], batch["masked"]
        true = batch["true"][masked] / self.heads.n_bins
        of_gene = self.heads.decoder(hidden)[masked]
        of_cell = self.heads.mvc_decoder(cls, self.module.encoder(batch["gene_ids"]))[masked]
        # a batch without masked values, or without known types, has none of that loss
        n_masked = max(1, len(true))
        values = ((of_gene - true).square().sum() + (of_cell - true).square().sum()) / n_masked
        out = {"loss": self.values_weight * values, "values": values}
        if self.heads.cls_decoder is not None:
            logits = self.heads.cls_decoder(cls)
            known = batch["types"] >= 0
            target = self.type_targets[batch["types"][known]]
            n_known = max(1, len(target))
            types = -(target * F.log_softmax(logits[known], dim=-1)).sum() / n_known
            right = logits[known].argmax(-1) == batch["types"][known]
            out |= {"loss": out["loss"] + types, "types": types, "accuracy": right.float().sum() / n_known}
        return out


@undisturbed()
def pretrain_encoder(
    encoder: ScGPTEncoder,
    cells: TokenizedCells,
    config: TrainConfig,
    *,
    types: np.ndarray | None = None,
    type_targets: np.ndarray | None = None,
    mask_share: tuple[float, float] = (0.0, 0.4),
    values_weight: float = 1.0,
    folder: str | Path | None = None,
) -> list[dict[str, float]]:
    """Train an encoder of cells, in place: masked values, and cell types where they are known.

    A new encoder is pretrained; one that was loaded is trained on, with the heads that came with it. The heads are kept
    in :attr:`~bioverse_sc.encoders.scgpt.ScGPTEncoder.head_weights`, and ``encoder.save(folder, format="official")``
    writes what the ``scgpt`` package loads.

    Source: the gene expression prediction objectives of scGPT (Cui et al., Nature Methods 2024), from the states of the
    genes and from the state of ``<cls>``, with mean squared error, plus cross entropy of the type.

    Parameters
    ----------
    encoder
        The encoder; all its weights train.
    cells
        Cells, from :meth:`~bioverse_sc.encoders.scgpt.ScGPTEncoder.tokenize`.
    config
        Steps, batch size, rates.
    types
        Type of each cell as an integer, shape (cells,); negative where unknown.
    type_targets
        Target distribution of each type, shape (types, types), rows sum to 1; the identity by default.
    mask_share
        Range of the share of a cell's values that is masked.
    values_weight
        Weight of the masked values beside the types.
    folder
        Folder of the checkpoint; training resumes from it.

    Returns
    -------
    The logged metrics.
    """
    shape = encoder.module.config
    if shape.input_emb_style == "category" and not 0 <= shape.mask_value < shape.n_values:
        msg = (
            f"mask_value is {shape.mask_value}, but with input_emb_style 'category' it is a row of the value "
            f"embedding, 0 to {shape.n_values - 1}; scGPT uses n_bins + 1, {shape.n_bins + 1}."
        )
        raise ValueError(msg)
    n_types = 0
    targets = None
    if types is not None:
        if len(types) != len(cells):
            msg = f"There are {len(cells)} cells but {len(types)} types."
            raise ValueError(msg)
        n_types = int(types.max()) + 1 if type_targets is None else len(type_targets)
        table = np.eye(n_types) if type_targets is None else type_targets
        targets = torch.from_numpy(np.asarray(table, dtype=np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        heads = Heads(shape, n_types)
    heads.load(encoder.head_weights)
    task = EncoderTask(
        encoder.module.requires_grad_(), heads.to(encoder.device), type_targets=targets, values_weight=values_weight
    )
    source = CellSource(
        cells,
        encoder.vocabulary,
        pad_value=shape.pad_value,
        mask_value=shape.mask_value,
        mask_share=mask_share,
        types=types,
    )
    history = fit(task, source, config, folder=folder, description="encoder")
    encoder.module.eval().requires_grad_(requires_grad=False)
    encoder.head_weights |= heads.official()
    encoder.fingerprint = fingerprint(encoder.module, encoder.vocabulary)
    return history
