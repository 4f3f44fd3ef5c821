"""Probabilities of labels, under a trie of their tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bioverse_sc.models._inject import inject
from bioverse_sc.models.decode._reader import Reader, selected

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bioverse_sc.models import BioVerse
    from bioverse_sc.models._prompt import Segment

PRUNED_BELOW = -7.0
"""A prefix this far (in log-probability) below a cell's best one is dropped: less than a thousandth of its mass."""
CACHE_BYTES = 2**30
"""Keys and values of the prefixes that are read at once, at most; those of one cell stay together."""


@dataclass(frozen=True)
class Trie:
    """Prefixes of token sequences, numbered by length and then by tokens: those that extend one follow each other.

    A sequence goes on only until no other has its prefix: what comes then is no choice.
    """

    tokens: np.ndarray
    """Last token of each prefix; -1 of the empty one, which is the first."""
    labels: np.ndarray
    """The only sequence with this prefix, -1 where there are several."""
    first_child: np.ndarray
    """Number of the first prefix that is one token longer."""
    n_children: np.ndarray

    def expand(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Children of each prefix, as the place of their parent in ``nodes`` and their number."""
        counts = self.n_children[nodes]
        parents = np.repeat(np.arange(len(nodes)), counts)
        place = np.arange(len(parents)) - np.repeat(np.cumsum(counts) - counts, counts)
        return parents, self.first_child[nodes][parents] + place


def build_trie(sequences: Sequence[Sequence[int]]) -> Trie:
    """Make a trie of token sequences, none of which may begin another one."""
    prefixes = [[tuple(sequence[:k]) for k in range(len(sequence) + 1)] for sequence in sequences]
    n_with = Counter(prefix for those in prefixes for prefix in those)
    if any(n_with[those[-1]] > 1 for those in prefixes):
        msg = "Two labels are spelled with the same tokens."
        raise ValueError(msg)
    # one after the last that is shared with others
    telling = [those[: max(2, 1 + sum(n_with[prefix] > 1 for prefix in those))] for those in prefixes]
    ordered = sorted({prefix for those in telling for prefix in those}, key=lambda prefix: (len(prefix), prefix))
    number = {prefix: i for i, prefix in enumerate(ordered)}
    labels = np.full(len(ordered), -1)
    labels[[number[those[-1]] for those in telling]] = np.arange(len(sequences))
    parents = [number[prefix[:-1]] for prefix in ordered[1:]]
    n_children = np.bincount(parents, minlength=len(ordered))
    tokens = np.array([-1, *(prefix[-1] for prefix in ordered[1:])])
    return Trie(tokens, labels, 1 + np.cumsum(n_children) - n_children, n_children)


def _rows_at_once(cache: Any, n_rows: int) -> int:
    """How many rows of the cache :data:`CACHE_BYTES` hold."""
    parts = [part for layer in cache.layers for part in vars(layer).values()]
    tensors = [each for part in parts for each in (part.values() if isinstance(part, dict) else [part])]
    stored = sum(each.nbytes for each in tensors if isinstance(each, torch.Tensor))
    return max(1, CACHE_BYTES * n_rows // max(stored, 1))


def _whole_cells(cells: np.ndarray, limit: int) -> Iterator[np.ndarray]:
    """Parts of about ``limit`` rows; rows of one cell, which are compared with each other, stay in one part."""
    n_parts = -(-len(cells) // limit)
    for part in np.array_split(np.unique(cells), n_parts) if n_parts else ():
        if len(part):
            yield np.flatnonzero((cells >= part[0]) & (cells <= part[-1]))


@dataclass(frozen=True)
class _Branch:
    """Prefixes of labels that are still to be read, of some cells."""

    cells: np.ndarray
    nodes: np.ndarray
    scores: np.ndarray
    cache: Any
    """Of the prefixes without their last token."""
    rows: np.ndarray
    """Their rows in the cache."""


@torch.inference_mode()
def label_log_probabilities(
    model: BioVerse,
    prompt: Sequence[Segment],
    soft_tokens: torch.Tensor,
    labels: Sequence[str],
    *,
    pruned_below: float = PRUNED_BELOW,
) -> np.ndarray:
    """Log-probability of each label when the language model writes the answer and may write nothing but a label.

    The labels make a trie of their tokens. Wherever it branches, the model's probabilities of the tokens that go on are
    scaled to sum to one, as in constrained decoding; the probability of a label is their product. Prefixes are read
    level by level; one ``pruned_below`` of the best one of that cell is dropped, and what is left is scaled to sum to
    one.

    Parameters
    ----------
    model
        The model.
    prompt
        Ends with an open answer; has one entity.
    soft_tokens
        Shape (cells, n_tokens, width).
    labels
        The label set.
    pruned_below
        Log-probability, less than 0; ``-inf`` drops no label.

    Returns
    -------
    Log-probabilities, shape (cells, labels); ``-inf`` for dropped labels.
    """
    trie = build_trie([model.answer_ids(label) for label in labels])
    reader = Reader(model.language_model)
    n_cells = len(soft_tokens)
    tokens = model.tokenize(prompt)
    ids = torch.tensor(tokens.ids, device=model.device).repeat(n_cells, 1)  # (cells, positions)
    embedded = inject(model.embeddings, ids, soft_tokens.flatten(0, 1))  # (cells, positions, width)
    # all prompts are the same but for the soft token, so there is no padding and no mask
    cache = reader.read(None, None, embedded)
    scored = np.full((n_cells, len(labels)), -np.inf)  # (cells, labels)
    # of the prefixes that were read last
    cells, nodes, scores = np.arange(n_cells), np.zeros(n_cells, dtype=np.int64), np.zeros(n_cells)  # (prefixes,)
    waiting: list[_Branch] = []
    while True:
        # 1. score all tokens that go on
        parents, children = trie.expand(nodes)  # (longer prefixes,)
        scores = scores[parents] + reader.log_probabilities(parents, trie.tokens[children])
        cell = cells[parents]
        # 2. prune what is far below the best of that cell
        best = scored.max(axis=1)  # (cells,)
        np.maximum.at(best, cell, scores)
        is_near = scores >= best[cell] + pruned_below
        # 3. note the labels that are told apart here
        ended = is_near & (trie.labels[children] >= 0)
        scored[cell[ended], trie.labels[children[ended]]] = scores[ended]
        # 4. put off the others, in parts that the memory holds
        longer = np.flatnonzero(is_near & (trie.n_children[children] > 0))
        for part in _whole_cells(cell[longer], _rows_at_once(cache, len(cells))):
            i = longer[part]
            waiting.append(_Branch(cell[i], children[i], scores[i], cache, parents[i]))
        if not waiting:
            break
        # 5. read on with the last that was put off
        branch = waiting.pop()
        cells, nodes, scores = branch.cells, branch.nodes, branch.scores
        last = torch.from_numpy(trie.tokens[nodes]).to(model.device)
        cache = selected(branch.cache, torch.from_numpy(branch.rows).to(model.device))
        cache = reader.read(cache, None, model.embeddings(last[:, None]))
    return scored - np.logaddexp.reduce(scored, axis=1, keepdims=True)
