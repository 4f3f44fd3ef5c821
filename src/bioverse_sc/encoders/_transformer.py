"""What ESM-2 and ChemBERTa share: a frozen transformer of transformers over token sequences, read in batches of a token budget."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENS = {"cpu": 4096, "other": 65_536}
"""Positions per forward pass at most, padding included."""


class TransformerEncoder:
    """A frozen checkpoint of transformers: hidden states of the last layer, pooled.

    Parameters
    ----------
    module
        The network, without heads.
    tokenizer
        Its tokenizer.
    """

    name: ClassVar[str]
    modality: ClassVar[str]
    column: ClassVar[str]
    """Column of ``.obs`` that holds what it reads."""

    def __init__(self, module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.module = module.eval().requires_grad_(requires_grad=False)
        self.tokenizer = tokenizer
        self.fingerprint = self._fingerprint()

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, *, revision: str | None = None) -> Self:
        """Load a hub repository or a folder in the format of transformers.

        Raises
        ------
        FileNotFoundError
            When it is not there and cannot be fetched.
        ValueError
            When weights are missing.
        """
        from transformers import AutoModel, AutoTokenizer

        source = str(name_or_path)
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
            module, report = AutoModel.from_pretrained(
                source, revision=revision, dtype=torch.float32, add_pooling_layer=False, output_loading_info=True
            )
        except OSError as error:
            at = f" at {revision}" if revision else ""
            msg = (
                f"The {cls.name} checkpoint {source!r}{at} is neither a folder nor to be fetched. Without access to the hub, download it "
                f"elsewhere (hf download {source} --local-dir FOLDER) and pass the folder: config.json, model.safetensors and the "
                "tokenizer's files."
            )
            raise FileNotFoundError(msg) from error
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            msg = (
                f"The checkpoint {source!r} lacks {len(missing)} weights, {missing[0]} among them; it is not complete."
            )
            raise ValueError(msg)
        return cls(module, tokenizer)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Load what :meth:`save` wrote."""
        return cls.from_pretrained(folder)

    def save(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write a folder in the format of transformers, in a number format."""
        import copy

        folder = Path(folder)
        copy.deepcopy(self.module).to(dtype).save_pretrained(folder)
        self.tokenizer.save_pretrained(str(folder))

    @property
    def width(self) -> int:
        """Length of a vector."""
        return int(self.module.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    def to(self, device: str | torch.device) -> Self:
        """Move the weights."""
        cast("Any", self.module).to(device)
        return self

    def _fingerprint(self) -> str:
        """Hash of the weights, of the settings that change them, and of the vocabulary."""
        digest = hashlib.sha256(self.name.encode())
        vocabulary = self.tokenizer.get_vocab()
        digest.update(repr(sorted(vocabulary.items(), key=lambda item: item[1])).encode())
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.float().cpu().numpy()).data)
        return digest.hexdigest()[:16]

    def _pooled(
        self,
        tokens: Sequence[list[int]],
        pool: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        *,
        batch_size: int | None,
    ) -> np.ndarray:
        """Pool the hidden states of token sequences, shape (sequences, width).

        Sequences of about one length are computed together. ``pool`` gets the hidden states, shape (batch, positions, width), and
        a mask of what is no padding.
        """
        found = np.zeros((len(tokens), self.width), dtype=np.float32)
        budget = TOKENS["cpu" if self.device.type == "cpu" else "other"]
        pad = self.tokenizer.pad_token_id
        with torch.inference_mode():
            for rows in token_batches([len(t) for t in tokens], budget, batch_size):
                longest = max(len(tokens[i]) for i in rows)
                ids = torch.full((len(rows), longest), pad)
                for place, i in enumerate(rows):
                    ids[place, : len(tokens[i])] = torch.tensor(tokens[i])
                mask = torch.zeros_like(ids, dtype=torch.bool)
                for place, i in enumerate(rows):
                    mask[place, : len(tokens[i])] = True
                ids, mask = ids.to(self.device), mask.to(self.device)
                states = self.module(input_ids=ids, attention_mask=mask).last_hidden_state
                found[rows] = pool(states, mask).float().cpu().numpy()
        return found


def token_batches(lengths: Sequence[int], budget: int, batch_size: int | None = None) -> Iterator[list[int]]:
    """Yield indices of sequences, the longest first, so that a batch with its padding has no more than ``budget`` positions.

    Parameters
    ----------
    lengths
        Tokens of each sequence; one that is longer than the budget is a batch of its own.
    budget
        Positions.
    batch_size
        Sequences in a batch at most.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batch: list[int] = []
    for i in order:
        full = batch and (len(batch) + 1) * lengths[batch[0]] > budget
        if full or len(batch) == batch_size:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def inner_mean(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the states between the first and the last token of each row, shape (batch, width)."""
    kept = mask.clone()
    kept[:, 0] = False
    kept[torch.arange(len(mask), device=mask.device), mask.sum(dim=1) - 1] = False
    weights = kept.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
