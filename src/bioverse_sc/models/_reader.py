"""The language model, as decoding reads on with it."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_CACHE_NAMES = ("cache", "past_key_values", "cache_params")
"""What transformers call the keys and values of what was read: now, before 5.24, and of state-space models before 5.24."""


def read_on(language_model: nn.Module, cache: Any = None, **inputs: Any) -> tuple[Any, Any]:
    """Run a language model after what it has read.

    The name that its ``forward`` gives to the cache is asked of ``forward`` itself: versions of transformers, and models whose
    code comes with their weights, have different ones.

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
            f"{type(language_model).__name__} of transformers {version('transformers')} gives back no cache of what it has read, "
            "without which an answer cannot go on. Use another language model, or a newer transformers."
        )
        raise TypeError(msg)
    return out, read
