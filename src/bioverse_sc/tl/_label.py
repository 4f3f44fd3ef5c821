"""Labels of cells: which there are to choose from, and which each cell gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc._logging import logger
from bioverse_sc._modality import CELLS
from bioverse_sc.groups import mean_by_cluster, one_label_each, smooth_probabilities
from bioverse_sc.metrics import apply_calibration
from bioverse_sc.ontology import (
    UNKNOWN,
    back_off,
    coarse_probabilities,
    match_labels,
    meanings_of,
    means_unknown,
    terms_of_tissue,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    from scipy.sparse import csr_matrix

    from bioverse_sc.models import BioVerse
    from bioverse_sc.ontology import LabelMatch, Meaning
    from bioverse_sc.tl._subject import Subject

LABELLED_AT_ONCE = 4
"""Batches of cells that are labelled together: a prompt and a label are a few tokens, of which two cores read 1,900
cells a second so, and 960 by single batches of 128."""
UNKNOWN_SHARE = 0.5
"""Share of the cells above which those that are ``"unknown"`` are said, with what the model calls them itself."""
N_NAMED = 3
"""Labels that a message names."""
N_UNKNOWN_ASKED = 500
"""Unknown cells, at most, that the model is asked about for that message."""


@dataclass(frozen=True)
class Level:
    """Labels of one level, each of shape (cells,)."""

    names: np.ndarray
    terms: np.ndarray
    """Cell Ontology ids, ``""`` for none."""
    confidence: np.ndarray


@dataclass(frozen=True)
class Labels:
    """Labels of cells, and what they were chosen by."""

    fine: Level
    coarse: Level | None
    probabilities: np.ndarray
    """Of all labels, shape (cells, labels)."""


def label_cells(
    subject: Subject,
    labels: Sequence[str],
    *,
    are_users: bool,
    has_coarse: bool,
    unique: bool,
    threshold: float,
    clusters: pd.Categorical | None,
    graph: csr_matrix | None,
) -> Labels:
    """Labels by the language model's probabilities, which may be spread over the graph and averaged in clusters.

    Parameters
    ----------
    subject
        The cells.
    labels
        The labels to choose from, ``"unknown"`` last.
    are_users
        Whether these are the user's own.
    has_coarse
        Whether the broad types are asked for as well.
    unique
        Whether each label goes to one cluster at most.
    threshold
        Probability below which a label gives way to a wider one.
    clusters
        Of the cells, where clusters are labelled.
    graph
        Of neighbours, where the probabilities are spread.
    """
    from bioverse_sc.models import label_probabilities

    model, vectors = subject.model, subject.vectors
    meanings = meanings_of(model.config.labels, labels) if are_users else None
    probabilities = label_probabilities(
        model,
        vectors,
        labels,
        batch_size=LABELLED_AT_ONCE * subject.reading.batch_size,
        closed=not are_users,
        whole=unique,
    )  # (cells, labels)
    if graph is not None:
        probabilities = smooth_probabilities(probabilities, graph)
    calibrate = calibration(model, threshold)
    if clusters is not None:
        probabilities = mean_by_cluster(probabilities, clusters)[clusters.codes]
        # a cell of which nothing is known stays so
        probabilities[~subject.is_known] = 0
    given = one_label_each(probabilities, clusters) if unique and clusters is not None else None
    names, terms, confidence = back_off(
        probabilities, labels, threshold, calibrate=calibrate, meanings=meanings, given=given
    )
    if meanings is not None:
        confidence = vouched(confidence, names, meanings)
        report_unknown(model, vectors, names, labels)
    coarse = None
    if has_coarse:
        summed, broad, counted_in = coarse_probabilities(probabilities, labels)
        given = None if given is None else counted_in[given]
        coarse = Level(*back_off(summed, broad, threshold, calibrate=calibrate, given=given))
    return Labels(Level(names, terms, confidence), coarse, probabilities)


def calibration(model: BioVerse, threshold: float) -> Callable[[np.ndarray], np.ndarray] | None:
    """What makes of a probability how often it is right; warns of a threshold that is never reached."""
    curve = model.config.calibration
    if curve is None:
        return None
    if threshold > curve[1][-1]:
        logger.warning(
            "min_confidence is %.2f, and %r is never surer than %.2f: every cell is 'unknown'. Give a lower one.",
            threshold,
            model.config.name,
            curve[1][-1],
        )
    return lambda raw: apply_calibration(raw, *curve)


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
        terms_there = terms_of_tissue(tissue)
        chosen = [label for label in chosen if matches[label].term is None or matches[label].term in terms_there]
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
            "compare their texts: every cell gets the likeliest one, with a confidence of NaN. Write types of cells; "
            "what labels are taken for says bsc.ontology.match_labels(labels).",
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
                "alone, and a cell that gets it has a confidence of NaN.",
                label,
            )
        elif meaning.is_guess:
            logger.warning(
                "label %r is not among the model's: it takes what the model calls %s, %s (similarity of the texts: "
                "%.2f). That is a guess, and its confidence is lowered to %.0f %%.",
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

    from bioverse_sc.models import tempered_probabilities

    known = vectors.any(axis=1)
    rows = np.flatnonzero(known & (np.asarray(names) == UNKNOWN))
    if not model.config.labels or len(rows) <= UNKNOWN_SHARE * known.sum():
        return
    # evenly spread, so that no seed is needed
    asked = rows[np.linspace(0, len(rows) - 1, min(len(rows), N_UNKNOWN_ASKED)).astype(int)]
    with torch.inference_mode():
        soft_tokens = model.project(CELLS, torch.from_numpy(vectors[asked]).to(model.device))
    best = tempered_probabilities(model, soft_tokens, model.config.labels).argmax(axis=1)
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
