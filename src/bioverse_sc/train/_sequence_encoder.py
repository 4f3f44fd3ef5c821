"""Pretraining of an encoder of proteins or molecules: masked tokens, and what is known of each entity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bioverse_sc._quiet import undisturbed
from bioverse_sc.encoders.esm2 import inner_mean
from bioverse_sc.train._loop import Task, fit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from bioverse_sc.encoders.chemberta import ChembertaEncoder
    from bioverse_sc.encoders.esm2 import Esm2Encoder
    from bioverse_sc.train._config import TrainConfig

MASK_SHARE = 0.15


class SequenceSource:
    """Token sequences with targets. Of a longer one a random stretch is read; a share of the tokens is masked.

    Of the chosen tokens 80 % are masked, 10 % another token, 10 % themselves (BERT; ESM-2 does the same).
    """

    def __init__(
        self,
        tokens: Sequence[np.ndarray],
        targets: np.ndarray | None,
        *,
        max_tokens: int,
        pad_id: int,
        mask_id: int,
        ordinary: np.ndarray,
    ) -> None:
        self.tokens = tokens
        self.targets = targets
        self.max_tokens = max_tokens
        self.pad_id = pad_id
        self.mask_id = mask_id
        self.ordinary = ordinary
        self.lengths: np.ndarray | None = np.minimum([len(t) for t in tokens], max_tokens)
        self.weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        rows = [self._stretch(self.tokens[i], rng) for i in indices]
        ids = np.full((len(rows), max(map(len, rows))), self.pad_id)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
        chosen = (rng.random(ids.shape) < MASK_SHARE) & np.isin(ids, self.ordinary)
        kind = rng.random(ids.shape)
        shown = np.where(chosen & (kind < 0.8), self.mask_id, ids)
        shown = np.where(chosen & (kind >= 0.9), rng.choice(self.ordinary, size=ids.shape), shown)
        batch = {"ids": torch.from_numpy(shown), "mask": torch.from_numpy(ids != self.pad_id)}
        batch |= {"chosen": torch.from_numpy(chosen), "true": torch.from_numpy(ids)}
        if self.targets is not None:
            batch["targets"] = torch.from_numpy(self.targets[indices])
        return batch

    def _stretch(self, tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The whole, or a random part of it between its first and last token."""
        if len(tokens) <= self.max_tokens:
            return tokens
        inside = self.max_tokens - 2
        start = 1 + rng.integers(len(tokens) - 1 - inside)
        return np.concatenate([tokens[:1], tokens[start : start + inside], tokens[-1:]])


class SequenceEncoderTask(Task):
    """Masked tokens from their states, and the targets from the mean of the states, as the encoder pools them."""

    def __init__(self, module: PreTrainedModel, n_targets: int, *, classes: bool, tokens_weight: float) -> None:
        super().__init__()
        width = module.config.hidden_size
        self.module: Any = module
        self.classes = classes
        self.tokens_weight = tokens_weight
        self.token_head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.token_bias = nn.Parameter(torch.zeros(module.config.vocab_size))
        self.target_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_targets)) if n_targets else None

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        states = self.module(input_ids=batch["ids"], attention_mask=batch["mask"]).last_hidden_state
        chosen = batch["chosen"]
        logits = F.linear(
            self.token_head(states[chosen]), self.module.get_input_embeddings().weight, self.token_bias
        ).float()
        true = batch["true"][chosen]
        n = max(1, len(true))
        tokens = F.cross_entropy(logits, true, reduction="sum") / n
        out = {"loss": self.tokens_weight * tokens, "tokens": tokens}
        out["token_accuracy"] = (logits.argmax(-1) == true).float().sum() / n
        if self.target_head is not None:
            predicted = self.target_head(inner_mean(states, batch["mask"])).float()
            targets = batch["targets"]
            if self.classes:
                known = targets >= 0
                loss = F.cross_entropy(predicted[known], targets[known], reduction="sum") / max(1, int(known.sum()))
                out["accuracy"] = (predicted[known].argmax(-1) == targets[known]).float().sum() / max(
                    1, int(known.sum())
                )
            else:
                loss = F.binary_cross_entropy_with_logits(predicted, targets.float()) * targets.shape[1]
            out |= {"loss": out["loss"] + loss, "targets": loss}
        return out


@undisturbed()
def pretrain_sequence_encoder(
    encoder: Esm2Encoder | ChembertaEncoder,
    texts: Sequence[str],
    config: TrainConfig,
    *,
    targets: np.ndarray | None = None,
    tokens_weight: float = 1.0,
    folder: str | Path | None = None,
) -> list[dict[str, float]]:
    """Train an encoder of proteins or molecules, in place: masked tokens, and targets where they are known.

    Source: masked language modelling as in ESM-2 (Lin et al., Science 2023) and ChemBERTa (Chithrananda et al., 2020),
    with a head on the mean of the states beside; the heads are not kept.

    Parameters
    ----------
    encoder
        The encoder; all its weights train.
    texts
        Sequences or SMILES, as its tokenizer reads them. Of one longer than ``config.max_tokens`` a random stretch is
        read, another one each time.
    config
        Steps, batch size, rates.
    targets
        Integers of shape (texts,), the class of each text (negative: unknown), for cross entropy; or zeros and ones of
        shape (texts, properties), for binary cross entropy, summed over the properties.
    tokens_weight
        Weight of the masked tokens beside the targets.
    folder
        Folder of the checkpoint; training resumes from it.

    Returns
    -------
    The logged metrics.

    Raises
    ------
    ValueError
        When there are not as many targets as texts.
    """
    if targets is not None and len(targets) != len(texts):
        msg = f"There are {len(texts)} texts but {len(targets)} targets."
        raise ValueError(msg)
    classes = targets is not None and targets.ndim == 1
    n_targets = 0 if targets is None else int(targets.max()) + 1 if classes else targets.shape[1]
    tokenizer = encoder.tokenizer
    tokens = [np.array(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]]
    ordinary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
    source = SequenceSource(
        tokens,
        targets,
        max_tokens=config.max_tokens,
        pad_id=tokenizer.pad_token_id,
        mask_id=tokenizer.mask_token_id,
        ordinary=ordinary,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        task = SequenceEncoderTask(encoder.module, n_targets, classes=classes, tokens_weight=tokens_weight)
    encoder.module.train().requires_grad_()
    history = fit(task.to(encoder.device), source, config, folder=folder, description=f"{encoder.name} encoder")
    encoder.module.eval().requires_grad_(requires_grad=False)
    encoder.fingerprint = encoder.fingerprint_of_weights()
    return history
