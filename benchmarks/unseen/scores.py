"""How well types are found: scores of all labels for each cell, and what is counted of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.metrics.pairwise import cosine_similarity
from torch.nn import functional as F

from bioverse_sc.models import label_log_probabilities, label_prompt
from bioverse_sc.ontology import cell_ontology

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.models import BioVerse
    from unseen.cells import Typed, Unseen

NEIGHBOURS = 10
"""Nearest training cells of a label, by which its scores are made comparable."""
DRAWS = 1000
COLUMNS = ("among unseen @1", "of all @1", "of all @5", "seen types @1")


def soft(model: BioVerse, vectors: np.ndarray) -> torch.Tensor:
    """Mean soft token of each cell as a unit vector, shape (cells, width)."""
    with torch.inference_mode():
        return F.normalize(model.project("rna", torch.from_numpy(vectors)).float().mean(dim=1), dim=-1)


def cosine(model: BioVerse, vectors: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Cosine between soft token and text, shape (cells, texts)."""
    return (soft(model, vectors) @ F.normalize(model.text_vectors(list(texts)), dim=-1).T).numpy()


def evened(scores: np.ndarray, of_training: np.ndarray) -> np.ndarray:
    """Scores of each label less half of what its nearest training cells have (CSLS; Conneau et al., ICLR 2018).

    Labels that were trained are near to all cells of their region, and would win everywhere.
    """
    near = np.sort(of_training, axis=0)[-NEIGHBOURS:].mean(axis=0)  # (labels,)
    return scores - near / 2


def likelihood(model: BioVerse, vectors: np.ndarray, names: Sequence[str], mean: np.ndarray) -> np.ndarray:
    """Log-probability of each name behind the cell, less that behind a mean cell, shape (cells, names)."""
    prompt = label_prompt(prompts=model.config.prompts)
    with torch.inference_mode():
        tokens = model.project("rna", torch.from_numpy(np.concatenate([mean[None], vectors])))
    of_all = label_log_probabilities(model, prompt, tokens, list(names), pruned_below=-np.inf)
    return of_all[1:] - of_all[:1]


def joined(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Sum of two kinds of scores, each scaled to the spread that it has over the labels of a cell."""
    return sum((s - s.mean(axis=1, keepdims=True)) / s.std(axis=1, keepdims=True) for s in (one, other))


def by_text(scores: np.ndarray, texts: torch.Tensor, unseen: Unseen) -> np.ndarray:
    """No more than texts: the likeliest seen type, and how alike its text is to each label's."""
    nearest = unseen.seen[scores[:, unseen.seen].argmax(axis=1)]
    centred = F.normalize(texts - texts.mean(dim=0), dim=-1)
    return (centred @ centred.T).numpy()[nearest]


def by_ontology(train: Typed, cells: Typed, unseen: Unseen) -> np.ndarray:
    """No language at all: the seen type with the nearest mean vector, and the ancestors that it shares with each."""
    centres = np.stack([train.vectors[train.types == j].mean(axis=0) for j in unseen.seen])
    nearest = unseen.seen[cosine_similarity(cells.vectors, centres).argmax(axis=1)]
    above = [cell_ontology().ancestors(term) for term in unseen.terms]
    alike = np.array([[len(a & b) / len(a | b) for b in above] for a in above])
    return alike[nearest]


def counted(scores: np.ndarray, cells: Typed, unseen: Unseen) -> np.ndarray:
    """What the columns say of each cell, shape (cells, columns); NaN where a column is not about it."""
    is_unseen = np.isin(cells.types, unseen.held_out)
    own = np.take_along_axis(scores, cells.types[:, None], axis=1)
    # of equal scores half are before, as a drawn order would have it
    before = (scores > own).sum(axis=1) + 0.5 * ((scores == own).sum(axis=1) - 1)
    others = scores[:, unseen.held_out]
    before_unseen = (others > own).sum(axis=1) + 0.5 * ((others == own).sum(axis=1) - 1)
    right = np.column_stack([before_unseen < 1, before < 1, before < 5, before < 1]).astype(float)
    right[~is_unseen, :3] = np.nan
    right[is_unseen, 3] = np.nan
    return right


def with_intervals(right: np.ndarray, types: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean over types of each column, and its 95 % interval over draws of types, shapes (columns,) and (2, columns)."""
    by_type = np.array([right[types == j].mean(axis=0) for j in np.unique(types)])  # (types, columns)
    rng, means, bounds = np.random.default_rng(seed), [], []
    for column in by_type.T:
        values = column[~np.isnan(column)]
        if not len(values):
            means.append(np.nan)
            bounds.append(np.full(2, np.nan))
            continue
        drawn = values[rng.integers(len(values), size=(DRAWS, len(values)))].mean(axis=1)
        means.append(values.mean())
        bounds.append(np.quantile(drawn, [0.025, 0.975]))
    return np.array(means), np.array(bounds).T


def shown(mean: float, low: float, high: float) -> str:
    """A mean with its interval; ``"-"`` where nothing was counted."""
    return "-" if np.isnan(mean) else f"{mean:.3f} [{low:.3f}, {high:.3f}]"
