"""The language model, as decoding reads on with it."""

from __future__ import annotations

import copy
import inspect
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

_CACHE_NAMES = ("cache", "past_key_values", "cache_params")
"""What transformers call the keys and values of what was read: now, before 5.24, and of state-space models before
5.24."""


def read_on(language_model: nn.Module, cache: Any = None, **inputs: Any) -> tuple[Any, Any]:
    """Run a language model after what it has read.

    The name that its ``forward`` gives to the cache is asked of ``forward`` itself: versions of transformers, and
    models whose code comes with their weights, have different ones.

    Parameters
    ----------
    language_model
        From transformers, with its head or without.
    cache
        Of what comes before ``inputs``; nothing by default.
    inputs
        All others of its ``forward``.

    Returns
    -------
    Its output, and the cache with the inputs in it.

    Raises
    ------
    TypeError
        When it keeps nothing of what it reads.
    """
    accepted = inspect.signature(language_model.forward).parameters
    given = next((name for name in _CACHE_NAMES if name in accepted), None)
    out = None if given is None else language_model(**{given: cache}, use_cache=True, **inputs)
    read = next((getattr(out, name) for name in _CACHE_NAMES if hasattr(out, name)), None)
    if read is None:
        msg = (
            f"{type(language_model).__name__} of transformers {version('transformers')} gives back no cache of what it "
            "has read, without which an answer cannot go on. Use another language model, or a newer transformers."
        )
        raise TypeError(msg)
    return out, read


class Reader:
    """The language model, asked about the next token alone.

    Where its head is a plain matrix, only the tokens that are asked for are multiplied. Any other head (one that bends
    the logits, as that of Gemma 2, or has an adapter or four bits) computes all logits itself.
    """

    def __init__(self, language_model: Any) -> None:
        # adapters are in the layers of the base model, which peft only wraps
        self.base = language_model.get_base_model() if hasattr(language_model, "get_base_model") else language_model
        self.head = _plain_head(self.base)
        self.weight: torch.Tensor | None = None if self.head is None else self.head.weight  # (tokens, width)
        self.bias: torch.Tensor | None = None if self.head is None else self.head.bias  # (tokens,)
        self.divisor = getattr(self.base.config, "logits_scaling", 1.0)
        self.tokens: torch.Tensor | None = None
        """Tokens that it scores; all by default."""
        self.state: torch.Tensor = torch.empty(0)
        """What the head is given after the last token of each row, shape (rows, width); its logits where it is no plain
        matrix."""
        self.takes_positions = "position_ids" in inspect.signature(self.base.forward).parameters

    def among(self, tokens: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """What gives the logits of these tokens in some rows, shape (rows, tokens), however the reader is narrowed."""
        if self.weight is None:
            return lambda rows: self.state[rows.to(self.state.device)][:, tokens].float()
        weight = self.weight[tokens]
        bias = None if self.bias is None else self.bias[tokens]
        return lambda rows: self._product(self.state[rows.to(self.state.device)], weight, bias)

    def narrow(self, tokens: torch.Tensor) -> None:
        """Score these tokens alone from now on, in this order, where the head is a plain matrix."""
        if self.weight is not None:
            self.tokens = tokens
            self.weight = self.weight[tokens]
            self.bias = None if self.bias is None else self.bias[tokens]

    def read(
        self, cache: Any, positions: torch.Tensor | None, embedded: torch.Tensor, mask: torch.Tensor | None = None
    ) -> Any:
        """Read on. Gives the cache of keys and values.

        Parameters
        ----------
        cache
            Of what was read before; ``None`` at the start.
        positions
            Of each token, shape (rows, tokens); by default they go on from the cache.
        embedded
            What is read, shape (rows, tokens, width).
        mask
            0 where it is padding, shape (rows, all tokens so far).
        """
        inputs: dict[str, Any] = {"inputs_embeds": embedded, "attention_mask": mask}
        if positions is not None and self.takes_positions:
            inputs["position_ids"] = positions
        if self.weight is None:
            out, cache = read_on(self.base, cache, logits_to_keep=1, **inputs)
            self.state = out.logits[:, -1]
        else:
            out, cache = read_on(self.base.base_model, cache, **inputs)
            self.state = out.last_hidden_state[:, -1].to(self.weight.device)
        return cache

    def logits(self, which: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Logits of the tokens that it scores, or of some of them, in float32, shape (rows, tokens)."""
        if self.weight is None:
            return self.state[:, which].float()
        return self._product(self.state, self.weight[which], None if self.bias is None else self.bias[which])

    def _product(self, state: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        logits = nn.functional.linear(state, weight, bias)
        return (logits if self.divisor == 1 else logits / self.divisor).float()

    def log_probabilities(self, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Log-probability of ``tokens[i]`` after row ``rows[i]``, among the tokens that are given for that row.

        ``rows`` have to ascend.
        """
        asked, column = np.unique(tokens, return_inverse=True)
        of_asked = self.logits(torch.from_numpy(asked).to(self.state.device))  # (rows, asked)
        logits = of_asked.cpu().double().numpy()[rows, column]  # (tokens,)
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        return logits - np.repeat(np.logaddexp.reduceat(logits, first), np.diff(first, append=len(rows)))


_PLAIN_HEADS: WeakKeyDictionary[PreTrainedModel, nn.Linear | None] = WeakKeyDictionary()


def _plain_head(language_model: PreTrainedModel) -> nn.Linear | None:
    """The head, when the logits are its product with the last hidden state and nothing else."""
    if language_model not in _PLAIN_HEADS:
        head: Any = language_model.get_output_embeddings()
        if type(head) is not nn.Linear or head.weight.is_meta:
            _PLAIN_HEADS[language_model] = None
            return None
        # tried on a token rather than known by name: a model that does more than that is found out
        seen: dict[str, torch.Tensor] = {}
        hook = head.register_forward_hook(lambda _, given, made: seen.update(given=given[0], made=made))
        embeddings: Any = language_model.get_input_embeddings()
        token = torch.zeros((1, 1), dtype=torch.long, device=embeddings.weight.device)
        logits = language_model(input_ids=token, use_cache=False).logits
        hook.remove()
        states = language_model.base_model(input_ids=token, use_cache=False).last_hidden_state.to(head.weight.device)
        made = seen["made"] / getattr(language_model.config, "logits_scaling", 1.0)
        is_plain = torch.equal(made.to(logits), logits) and torch.allclose(seen["given"], states, rtol=0.01, atol=0.01)
        _PLAIN_HEADS[language_model] = head if is_plain else None
    return _PLAIN_HEADS[language_model]


def selected(cache: Any, rows: torch.Tensor) -> Any:
    """A cache of some rows.

    The one that it is taken from stays as it is, as tensors are replaced and not written to.
    """
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in chosen.layers:
        # states of layers without keys and values are by number
        vars(layer).update({name: dict(part) for name, part in vars(layer).items() if isinstance(part, dict)})
    chosen.reorder_cache(rows)
    return chosen
