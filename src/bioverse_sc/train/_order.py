"""Which examples a step sees: computed from its number and the seed alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

GROUPED_BATCHES = 32
"""Batches over which examples are sorted by length: enough for little padding, few enough to stay well mixed."""


def batch_indices(
    n_examples: int,
    batch_size: int,
    step: int,
    seed: int,
    lengths: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Indices of a step. Epochs are drawn with a seed of their number, so any step can be computed on its own.

    With ``lengths``, the examples of 32 consecutive batches are shared out among these by length, so that a batch needs
    little padding. With ``weights``, an epoch holds each example as often as its weight says.

    Parameters
    ----------
    n_examples
        How many examples there are.
    batch_size
        Examples of a step.
    step
        Its number, from 0.
    seed
        Of the draw.
    lengths
        Tokens of each example, shape (examples,); ``None`` when all are alike.
    weights
        How often each example is drawn relative to the others, shape (examples,).

    Returns
    -------
    Indices of the examples, shape (batch_size,).
    """
    if lengths is None:
        return _drawn(n_examples, np.arange(step * batch_size, (step + 1) * batch_size), seed, weights)
    group, place = divmod(step, GROUPED_BATCHES)
    size = GROUPED_BATCHES * batch_size
    together = _drawn(n_examples, np.arange(group * size, (group + 1) * size), seed, weights)
    together = together[np.argsort(lengths[together], kind="stable")].reshape(GROUPED_BATCHES, batch_size)
    return together[np.random.default_rng([seed, 4, group]).permutation(GROUPED_BATCHES)[place]]


def _drawn(n_examples: int, positions: np.ndarray, seed: int, weights: np.ndarray | None) -> np.ndarray:
    """Example at each position of an endless series of epochs."""
    indices = np.empty(len(positions), dtype=np.int64)
    # by value, as an array may be changed
    key = ("", None) if weights is None else (weights.dtype.str, weights.tobytes())
    for epoch in np.unique(positions // n_examples):
        order = _epoch_order(n_examples, int(epoch), seed, *key)
        within = positions // n_examples == epoch
        indices[within] = order[positions[within] % n_examples]
    return indices


@lru_cache(maxsize=2)
def _epoch_order(n_examples: int, epoch: int, seed: int, dtype: str, weights: bytes | None) -> np.ndarray:
    """Examples of an epoch, in order. Steps follow each other, so the last epochs are remembered."""
    rng = np.random.default_rng([seed, 1, epoch])
    order = rng.permutation(n_examples)
    if weights is not None:
        # evenly spaced points on the cumulated weights of the shuffled examples: as even as a draw can be
        cumulated = np.cumsum(np.frombuffer(weights, dtype)[order])
        points = (np.arange(n_examples) + rng.random()) * cumulated[-1] / n_examples
        order = order[np.minimum(np.searchsorted(cumulated, points, side="right"), n_examples - 1)]
        order = rng.permutation(order)
    return order
