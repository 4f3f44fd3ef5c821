"""Probabilities of labels in any words, by what the language model gives to its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from bioverse_sc._logging import progress
from bioverse_sc._modality import CELLS
from bioverse_sc.models._prompt import Text, label_prompt
from bioverse_sc.models.decode import PRUNED_BELOW, label_log_probabilities
from bioverse_sc.ontology import UNKNOWN, meanings_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.models._bioverse import BioVerse

ELSEWHERE = 0.02
"""Weight of labels that do not occur in the tissue of the data, beside 1 of those that do."""


def label_probabilities(
    model: BioVerse,
    vectors: np.ndarray,
    labels: Sequence[str],
    *,
    batch_size: int = 64,
    closed: bool = False,
    whole: bool = False,
) -> np.ndarray:
    """Probability of each label, shape (cells, labels).

    The model scores its own label set and the asked labels that are not in it, in one trie. An asked label with a term
    then takes over what the model gave to labels of its own, as :func:`bioverse_sc.ontology.meanings_of` says, and what
    the model gave to others of its own goes to ``"unknown"``: a cell that is none of these.

    Parameters
    ----------
    model
        The model.
    vectors
        Encoder vectors of cells; a row of zeros gets zeros.
    labels
        Labels in any words; the last is ``"unknown"``.
    batch_size
        Cells per forward pass.
    closed
        Only ``ELSEWHERE`` of what the model gave to others of its own labels goes to ``"unknown"``, and the rest is
        scaled to sum to one: the labels are those that can be expected.
    whole
        Also score what is so unlikely that it is left out otherwise, which takes longer: for comparing labels of which
        none is likely.

    Notes
    -----
    Where all asked labels are only texts, they share all that ``"unknown"`` does not have: how such texts compare with
    the labels that the model was trained on says little, how they compare with each other is what can be had. A cell
    for which they have nothing is scored over them alone.
    """
    own_labels = list(model.config.labels)
    asked = own_labels + [label for label in labels if label not in own_labels and label != UNKNOWN]
    into = np.zeros((len(asked), len(labels)))
    meanings = meanings_of(own_labels, labels)
    for j, (label, meaning) in enumerate(meanings.items()):
        for k, share in meaning.shares.items():
            into[own_labels.index(k), j] = share
        if label in asked[len(own_labels) :]:
            into[asked.index(label, len(own_labels)), j] = 1
    is_open = any(meaning.relation != "text" for label, meaning in meanings.items() if label != UNKNOWN)
    probabilities = np.zeros((len(vectors), len(labels)), dtype=np.float32)
    real = np.flatnonzero(vectors.any(axis=1))
    with progress(total=len(vectors), description="label", unit="cell") as bar:
        for start in range(0, len(real), batch_size):
            rows = real[start : start + batch_size]
            with torch.inference_mode():
                soft_tokens = model.project(CELLS, torch.from_numpy(vectors[rows]).to(model.device))
            # (rows, asked) by (asked, labels)
            collected = tempered_probabilities(model, soft_tokens, asked, whole=whole) @ into
            if is_open:
                to_others = np.clip(1 - collected.sum(axis=1), 0, 1)
                collected[:, -1] += to_others * (ELSEWHERE if closed else 1)
                collected /= collected.sum(axis=1, keepdims=True)
            else:
                left_out = np.flatnonzero(collected[:, :-1].sum(axis=1) == 0)
                if left_out.size:
                    collected[left_out, :-1] = tempered_probabilities(model, soft_tokens[left_out], labels[:-1])
                collected[:, :-1] *= (1 - collected[:, -1:]) / collected[:, :-1].sum(axis=1, keepdims=True)
            probabilities[rows] = collected
            bar.update(len(rows))
    return probabilities


def tempered_probabilities(
    model: BioVerse, soft_tokens: torch.Tensor, labels: Sequence[str], *, before: str = "", whole: bool = False
) -> np.ndarray:
    """Probabilities of labels at the model's temperature, shape (cells, labels); rows sum to one.

    Parameters
    ----------
    model
        The model.
    soft_tokens
        Of cells, shape (cells, n_tokens, width).
    labels
        Labels to choose from.
    before
        Words that stand before the cell in the prompt.
    whole
        Whether the least likely labels are scored too.
    """
    prompt = [*([Text(before)] if before else []), *label_prompt(prompts=model.config.prompts)]
    below = -np.inf if whole else PRUNED_BELOW
    scaled = label_log_probabilities(model, prompt, soft_tokens, labels, pruned_below=below) / model.config.temperature
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
