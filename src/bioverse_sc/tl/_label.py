"""Probabilities of cell-type labels by the language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc._logging import logger, progress
from bioverse_sc.ontology import UNKNOWN, match_labels, nearest_labels, terms_of_tissue

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from bioverse_sc.models import BioVerse
    from bioverse_sc.ontology import LabelMatch

ELSEWHERE = 0.02
"""Weight of labels that do not occur in the tissue of the data, beside 1 of those that do."""


def own_labels(model: BioVerse) -> list[str]:
    """The model's label set, without ``unknown``."""
    labels = [label for label in model.config.labels if label != UNKNOWN]
    if not labels:
        msg = f"The model {model.config.name!r} has no label set of its own; name the labels, labels=['B cell', 'T cell', ...]."
        raise ValueError(msg)
    return labels


def chosen_labels(model: BioVerse, labels: Sequence[str] | None, tissue: str | None) -> list[str]:
    """The labels to choose from, ``unknown`` last.

    Parameters
    ----------
    model
        Its own label set is the default.
    labels
        The user's labels.
    tissue
        Labels whose term does not occur there are left out; see :func:`bioverse_sc.ontology.terms_of_tissue`.
    """
    chosen = own_labels(model) if labels is None else [label for label in labels if label != UNKNOWN]
    matches = match_labels(chosen)
    if labels is not None:
        _report(matches)
    if tissue is not None:
        there = terms_of_tissue(tissue)
        chosen = [label for label in chosen if matches[label].term is None or matches[label].term in there]
        if not chosen:
            msg = f"None of the labels occurs in the tissue {tissue!r}; leave out labels or tissue."
            raise ValueError(msg)
    return [*chosen, UNKNOWN]


def _report(matches: dict[str, LabelMatch]) -> None:
    """Say which of the user's labels have no term."""
    for label, match in matches.items():
        if several := match.candidates:
            logger.info(
                "    label %r may mean %s; it is scored by its text. Write the name or the id.",
                label,
                " or ".join(several),
            )
        elif match.term is None:
            logger.info("    label %r is no term of the Cell Ontology; it is scored by its text", label)


def label_probabilities(
    model: BioVerse, vectors: np.ndarray, labels: Sequence[str], *, batch_size: int = 64, closed: bool = False
) -> np.ndarray:
    """Probability of each label, shape (cells, labels).

    The model scores its own label set and the asked labels that are not in it, in one trie. An asked label that the Cell Ontology
    knows then takes over what the model gave to labels of its own at or below that term; the nearest of the asked terms takes it
    where several would. What the model gave to others of its own labels goes to ``"unknown"``: a cell that is none of these.

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
        Only :data:`ELSEWHERE` of what the model gave to others of its own labels goes to ``"unknown"``, and the rest is scaled to sum to
        one: the labels are those that can be expected.

    Where an asked label has no term, the asked ones share all that ``"unknown"`` does not have: how such a text compares with the labels
    that the model was trained on says little, how it compares with the other asked ones is what can be had. A cell for which they have
    nothing is scored over them alone.
    """
    import torch

    own = list(model.config.labels)
    asked = own + [label for label in labels if label not in own and label != UNKNOWN]
    into = np.zeros((len(asked), len(labels)))
    target = nearest_labels(asked, labels)
    into[np.flatnonzero(target >= 0), target[target >= 0]] = 1
    matches = match_labels(labels)
    has_unknown_words = any(matches[label].term is None for label in labels[:-1])
    found = np.zeros((len(vectors), len(labels)), dtype=np.float32)
    real = np.flatnonzero(vectors.any(axis=1))
    with progress(total=len(vectors), description="label", unit="cell") as bar:
        for start in range(0, len(real), batch_size):
            rows = real[start : start + batch_size]
            with torch.inference_mode():
                soft_tokens = model.project("rna", torch.from_numpy(vectors[rows]).to(model.device))
            collected = calibrated(model, soft_tokens, asked) @ into
            if has_unknown_words:
                left_out = np.flatnonzero(collected[:, :-1].sum(axis=1) == 0)
                if left_out.size:
                    collected[left_out, :-1] = calibrated(model, soft_tokens[left_out], labels[:-1])
                collected[:, :-1] *= (1 - collected[:, -1:]) / collected[:, :-1].sum(axis=1, keepdims=True)
            else:
                of_others = np.clip(1 - collected.sum(axis=1), 0, 1)
                collected[:, -1] += of_others * (ELSEWHERE if closed else 1)
                collected /= collected.sum(axis=1, keepdims=True)
            found[rows] = collected
            bar.update(len(rows))
    return found


def calibrated(model: BioVerse, soft_tokens: torch.Tensor, labels: Sequence[str], *, before: str = "") -> np.ndarray:
    """Probabilities of labels at the model's temperature, rows sum to one; ``before`` stands before the cell in the prompt."""
    from bioverse_sc.models._generate import label_log_probabilities
    from bioverse_sc.models._prompt import Text, label_prompt

    prompt = [*([Text(before)] if before else []), *label_prompt(prompts=model.config.prompts)]
    scaled = label_log_probabilities(model, prompt, soft_tokens, labels) / model.config.temperature
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
