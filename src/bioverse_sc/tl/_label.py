"""Probabilities of cell-type labels by the language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc._logging import logger, progress
from bioverse_sc.ontology import UNKNOWN, match_labels, meanings_of, means_unknown, terms_of_tissue

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from bioverse_sc.models import BioVerse
    from bioverse_sc.ontology import LabelMatch, Meaning

ELSEWHERE = 0.02
"""Weight of labels that do not occur in the tissue of the data, beside 1 of those that do."""

MOST = 0.5
"""Share of the cells above which those that are ``"unknown"`` are said, with what the model calls them itself."""
N_NAMED = 3
"""Labels that a message names."""
N_ASKED = 500
"""Unknown cells, at most, that the model is asked about for that message."""


def own_labels(model: BioVerse) -> list[str]:
    """The model's label set, without ``unknown``."""
    labels = [label for label in model.config.labels if label != UNKNOWN]
    if not labels:
        msg = (
            f"The model {model.config.name!r} has no label set of its own; name the labels, labels=['B cell', 'T "
            "cell', ...]."
        )
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
    chosen = own_labels(model) if labels is None else [label for label in labels if not means_unknown(label)]
    if not chosen:
        msg = (
            f"labels is {list(labels or ())}, which says nothing but {UNKNOWN!r}; expected at least one type of cells, "
            "such as 'B cell'."
        )
        raise ValueError(msg)
    matches = match_labels(chosen)
    if tissue is not None:
        there = terms_of_tissue(tissue)
        chosen = [label for label in chosen if matches[label].term is None or matches[label].term in there]
        if not chosen:
            msg = f"None of the labels occurs in the tissue {tissue!r}; leave out labels or tissue."
            raise ValueError(msg)
    if labels is not None:
        for label in labels:
            if label != UNKNOWN and means_unknown(label):
                logger.info("    label %r means %r", label, UNKNOWN)
        _report(meanings_of(model.config.labels, chosen), matches, has_own=bool(model.config.labels))
    return [*chosen, UNKNOWN]


def _report(meanings: Mapping[str, Meaning], matches: Mapping[str, LabelMatch], *, has_own: bool) -> None:
    """Say what the user's labels were taken for."""
    if all(meaning.relation == "text" for meaning in meanings.values()):
        logger.warning(
            "None of the labels %s is a term of the Cell Ontology. They mean nothing to the model, which can only "
            "compare their texts: "
            "every cell gets the likeliest one, with a confidence of NaN. Write types of cells; what labels are taken "
            "for says "
            "bsc.ontology.match_labels(labels).",
            _listed(list(meanings)),
        )
        return
    for label, meaning in meanings.items():
        taken = _listed(list(meaning.shares))
        if several := matches[label].candidates:
            logger.warning(
                "label %r may mean %s: %s. Write the name or the id.",
                label,
                " or ".join(several),
                f"it takes what the model calls {taken}" if taken else "it is scored by its text alone",
            )
        elif meaning.relation == "text":
            logger.warning(
                "label %r is no term of the Cell Ontology and means nothing to the model: it is scored by its text "
                "alone, and a cell "
                "that gets it has a confidence of NaN.",
                label,
            )
        elif meaning.is_guess:
            logger.warning(
                "label %r is not among the model's: it takes what the model calls %s, %s (similarity of the texts: "
                "%.2f). That is a guess, "
                "and its confidence is lowered to %.0f %%.",
                label,
                taken,
                "of which it is a kind"
                if meaning.relation == "narrower"
                else "which has a wider type in common with it",
                meaning.similarity,
                100 * meaning.trust,
            )
        elif meaning.relation == "nothing" and has_own:
            logger.warning(
                "label %r takes nothing: the model knows no such cells, or the list names them otherwise. Its nearest "
                "labels are %s.",
                label,
                _listed(list(meaning.nearest)),
            )
        elif label not in meaning.shares and has_own:
            logger.info("    label %r (%s) takes what the model calls %s", label, matches[label].term, taken)


def _listed(labels: Sequence[str]) -> str:
    """The first of some labels, in quotes, and how many there are."""
    shown = ", ".join(repr(label) for label in labels[:N_NAMED])
    return shown if len(labels) <= N_NAMED else f"{shown} and {len(labels) - N_NAMED} more"


def vouched(confidence: np.ndarray, names: np.ndarray, meanings: Mapping[str, Meaning]) -> np.ndarray:
    """Confidence of labels, NaN where one is only a text: nothing was ever calibrated on it."""
    texts = [label for label, meaning in meanings.items() if meaning.relation == "text" and label != UNKNOWN]
    return np.where(np.isin(np.asarray(names, dtype=str), texts), np.nan, confidence)


def report_unknown(model: BioVerse, vectors: np.ndarray, names: np.ndarray, labels: Sequence[str]) -> None:
    """Say when most cells are ``"unknown"`` among the labels, and what the model would call them.

    Parameters
    ----------
    model
        Its own labels are those that it would call them.
    vectors
        Encoder vectors of cells.
    names
        Their labels.
    labels
        The labels that there were to choose from.
    """
    import torch

    known = vectors.any(axis=1)
    rows = np.flatnonzero(known & (np.asarray(names) == UNKNOWN))
    if not model.config.labels or len(rows) <= MOST * known.sum():
        return
    # evenly spread, so that no seed is needed
    asked = rows[np.linspace(0, len(rows) - 1, min(len(rows), N_ASKED)).astype(int)]
    with torch.inference_mode():
        soft_tokens = model.project("rna", torch.from_numpy(vectors[asked]).to(model.device))
    best = calibrated(model, soft_tokens, model.config.labels).argmax(axis=1)
    counts = np.bincount(best, minlength=len(model.config.labels))
    would = [
        f"{model.config.labels[k]!r} ({counts[k] / len(asked):.0%})"
        for k in np.argsort(-counts, kind="stable")[:N_NAMED]
        if counts[k] and model.config.labels[k] != UNKNOWN
    ]
    logger.warning(
        "%d of %d cells are %r: the model takes them for none of the %d labels%s.",
        len(rows),
        known.sum(),
        UNKNOWN,
        len(labels) - 1,
        f", or is not sure enough. Labels that would take most of them: {', '.join(would)}" if would else "",
    )


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
        Only :data:`ELSEWHERE` of what the model gave to others of its own labels goes to ``"unknown"``, and the rest is
        scaled to sum to one: the labels are those that can be expected.
    whole
        Also score what is so unlikely that it is left out otherwise, which takes longer: for comparing labels of which
        none is likely.

    Where all asked labels are only texts, they share all that ``"unknown"`` does not have: how such texts compare with
    the labels that the model was trained on says little, how they compare with each other is what can be had. A cell
    for which they have nothing is scored over them alone.
    """
    import torch

    own = list(model.config.labels)
    asked = own + [label for label in labels if label not in own and label != UNKNOWN]
    into = np.zeros((len(asked), len(labels)))
    meanings = meanings_of(own, labels)
    for j, (label, meaning) in enumerate(meanings.items()):
        for k, share in meaning.shares.items():
            into[own.index(k), j] = share
        if label in asked[len(own) :]:
            into[asked.index(label, len(own)), j] = 1
    is_open = any(meaning.relation != "text" for label, meaning in meanings.items() if label != UNKNOWN)
    found = np.zeros((len(vectors), len(labels)), dtype=np.float32)
    real = np.flatnonzero(vectors.any(axis=1))
    with progress(total=len(vectors), description="label", unit="cell") as bar:
        for start in range(0, len(real), batch_size):
            rows = real[start : start + batch_size]
            with torch.inference_mode():
                soft_tokens = model.project("rna", torch.from_numpy(vectors[rows]).to(model.device))
            collected = calibrated(model, soft_tokens, asked, whole=whole) @ into
            if is_open:
                of_others = np.clip(1 - collected.sum(axis=1), 0, 1)
                collected[:, -1] += of_others * (ELSEWHERE if closed else 1)
                collected /= collected.sum(axis=1, keepdims=True)
            else:
                left_out = np.flatnonzero(collected[:, :-1].sum(axis=1) == 0)
                if left_out.size:
                    collected[left_out, :-1] = calibrated(model, soft_tokens[left_out], labels[:-1])
                collected[:, :-1] *= (1 - collected[:, -1:]) / collected[:, :-1].sum(axis=1, keepdims=True)
            found[rows] = collected
            bar.update(len(rows))
    return found


def calibrated(
    model: BioVerse, soft_tokens: torch.Tensor, labels: Sequence[str], *, before: str = "", whole: bool = False
) -> np.ndarray:
    """Probabilities of labels at the model's temperature, rows sum to one.

    ``before`` stands before the cell in the prompt; with ``whole`` the least likely labels are scored too.
    """
    from bioverse_sc.models import PRUNED_BELOW, Text, label_log_probabilities, label_prompt

    prompt = [*([Text(before)] if before else []), *label_prompt(prompts=model.config.prompts)]
    below = -np.inf if whole else PRUNED_BELOW
    scaled = label_log_probabilities(model, prompt, soft_tokens, labels, pruned_below=below) / model.config.temperature
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
