"""What ESM-2 and ChemBERTa share.

A frozen transformer of transformers over token sequences, read in batches of a token budget.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
import torch

from bioverse_sc._quiet import quiet_loading, undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENS = {"cpu": 1024, "other": 65_536}
"""Positions per forward pass at most, padding included; few on a CPU, where they fill the cores already and stay in
the caches."""


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
    mod: ClassVar[str]
    model_type: ClassVar[str]
    """Architecture, as transformers names it."""
    letters: ClassVar[str]
    """What a tokenizer of this modality reads at least."""

    def __init__(self, module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.module = module.eval().requires_grad_(requires_grad=False)
        self.tokenizer = tokenizer
        self.fingerprint = self.fingerprint_of_weights()

    @classmethod
    @undisturbed()
    def from_pretrained(cls, name_or_path: str | Path, *, revision: str | None = None) -> Self:
        """Load a hub repository or a folder in the format of transformers.

        Raises
        ------
        FileNotFoundError
            When it, or a file of it, is not there and cannot be fetched.
        ValueError
            When it is of another architecture, when weights are missing or damaged, or when its tokenizer does not read
            the letters of this modality; for a folder with a revision.
        """
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        path = Path(name_or_path).expanduser()
        source = str(path) if path.is_dir() else str(name_or_path)
        if path.is_dir() and revision is not None:
            msg = f"{source!r} is a folder, which has no revision {revision!r}; leave revision out."
            raise ValueError(msg)
        try:
            with quiet_loading():
                try:
                    config = AutoConfig.from_pretrained(source, revision=revision)
                except ValueError as error:
                    msg = (
                        f"{source!r} is no checkpoint of transformers; {cls.name} expects one of type "
                        f"{cls.model_type!r}. {error}"
                    )
                    raise ValueError(msg) from error
                if config.model_type != cls.model_type:
                    msg = (
                        f"The checkpoint {source!r} is of type {config.model_type!r}; {cls.name} expects "
                        f"{cls.model_type!r}."
                    )
                    raise ValueError(msg)
                tokenizer = _tokenizer(AutoTokenizer, source, revision, cls.letters)
                module, report = AutoModel.from_pretrained(
                    source, revision=revision, dtype=torch.float32, add_pooling_layer=False, output_loading_info=True
                )
        except OSError as error:
            raise FileNotFoundError(_not_there(cls.name, source, revision, error, folder=path.is_dir())) from error
        except (RuntimeError, SafetensorError) as error:
            msg = f"The weights of {source!r} are damaged, or do not fit its config.json: {error}"
            raise ValueError(msg) from error
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

    def fingerprint_of_weights(self) -> str:
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

        Sequences of about one length are computed together. ``pool`` gets the hidden states, shape (batch, positions,
        width), and a mask of what is no padding.
        """
        vectors = np.zeros((len(tokens), self.width), dtype=np.float32)
        budget = TOKENS["cpu" if self.device.type == "cpu" else "other"]
        # the mask hides it, so any token will do where there is none for this
        pad = self.tokenizer.pad_token_id or 0
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
                vectors[rows] = pool(states, mask).float().cpu().numpy()
        return vectors


def _tokenizer(auto: Any, source: str, revision: str | None, letters: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Where its files are missing, transformers fails in many ways, or gives one that reads nothing.
    """
    try:
        tokenizer = auto.from_pretrained(source, revision=revision)
        unread = unread_letters(tokenizer, letters)
    except (TypeError, ValueError) as error:
        msg = f"The tokenizer's files of {source!r} are missing or damaged (tokenizer.json, or vocab.txt): {error}"
        raise ValueError(msg) from error
    if unread:
        msg = (
            f"The tokenizer of {source!r} does not read {', '.join(map(repr, unread))}: its files are missing "
            "(tokenizer.json, or vocab.txt), or it is not of this modality."
        )
        raise ValueError(msg)
    return tokenizer


def unread_letters(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Different letters of a text that a tokenizer, each alone, has no token for."""
    read = {letter: tokenizer.encode(letter, add_special_tokens=False) for letter in dict.fromkeys(text)}
    return [letter for letter, ids in read.items() if not ids or tokenizer.unk_token_id in ids]


def _not_there(name: str, source: str, revision: str | None, error: OSError, *, folder: bool) -> str:
    """What to do about a checkpoint that cannot be read."""
    files = "config.json, model.safetensors and the tokenizer's files"
    if folder:
        return f"The folder {source!r} is no complete {name} checkpoint, with {files}: {error}"
    return (
        f"The {name} checkpoint {source!r}{f' at {revision}' if revision else ''} is neither a folder nor to be "
        f"fetched. Without access to the hub, download it elsewhere (hf download {source} --local-dir FOLDER) and pass "
        f"the folder: {files}."
    )


def token_batches(lengths: Sequence[int], budget: int, batch_size: int | None = None) -> Iterator[list[int]]:
    """Yield indices of sequences, the longest first; a batch with its padding has no more than ``budget`` positions.

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
    is_inner = mask.clone()
    is_inner[:, 0] = False
    is_inner[torch.arange(len(mask), device=mask.device), mask.sum(dim=1) - 1] = False
    weights = is_inner.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
