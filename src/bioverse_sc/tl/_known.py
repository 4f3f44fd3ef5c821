"""What is known of observations, as the facts that a question about them is answered from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from bioverse_sc._modality import CELLS
from bioverse_sc.facts import (
    ASKED,
    SUPPORTED,
    About,
    cell_facts,
    facts_about,
    refusal_about,
    shown_answer,
)
from bioverse_sc.ontology import UNKNOWN, back_off
from bioverse_sc.read import whole_matrix
from bioverse_sc.reasoning import detected
from bioverse_sc.tl._label import LABELLED_AT_ONCE, calibration, own_labels
from bioverse_sc.tl._nearest import texts_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.facts import CellFacts, CheckedSentence, Fact
    from bioverse_sc.models import BioVerse
    from bioverse_sc.tl._prompts import Shown
    from bioverse_sc.tl._subject import Subject

CONVERSING = "smollm2-135m"
"""Bundled model that answers questions in free words."""


class Grounded(NamedTuple):
    """An answer, what it was written from, and whether it holds to that."""

    answer: str
    facts: list[Fact]
    sentences: list[CheckedSentence]


def check_obs_keys(subject: Subject, obs_keys: Sequence[str]) -> None:
    """Raise when a column is not there."""
    columns = list(subject.adata.obs.columns)
    if missing := [key for key in obs_keys if key not in columns]:
        msg = f"obs_keys names {missing}, which are no columns of .obs; there are {columns}."
        raise KeyError(msg)


def abouts_of(place: Shown, name: str, *, obs_keys: Sequence[str] = ()) -> list[About]:
    """What is known of observations of one modality.

    Parameters
    ----------
    place
        Those that are asked about, in the order of the prompts; one may stand more than once.
    name
        What the prompts call them, such as ``"Protein 1"``.
    obs_keys
        Columns of ``.obs`` whose values are facts too.
    """
    subject = place.subject
    if subject.mod == CELLS:
        unique, inverse = np.unique(place.rows, return_inverse=True)
        cells = _known_cells(subject, unique, obs_keys)
        return [About(name, CELLS, cells[i]) for i in inverse]
    texts = texts_of(subject, place.rows)
    return [About(name, subject.mod, None, text, near) for text, near in zip(texts, place.nearest, strict=True)]


def _known_cells(subject: Subject, rows: np.ndarray, obs_keys: Sequence[str]) -> list[CellFacts]:
    """What is known of some cells, by the labels that the model gives them."""
    from bioverse_sc.models import label_probabilities

    model = subject.model
    labels = [*own_labels(model), UNKNOWN]
    probabilities = label_probabilities(
        model,
        subject.vectors[rows],
        labels,
        batch_size=LABELLED_AT_ONCE * subject.reading.batch_size,
        closed=True,
    )  # (rows, labels)
    threshold = model.config.min_confidence
    names, _, confidence = back_off(probabilities, labels, threshold, calibrate=calibration(model, threshold))
    matrix = whole_matrix(subject.adata, subject.matrix.source, gene_symbols=subject.matrix.gene_symbols)
    facts: list[CellFacts] = []
    for span, chunk in matrix.chunks():
        part = np.flatnonzero((rows >= span.start) & (rows < span.stop))  # places in `rows`
        if not len(part):
            continue
        expression = chunk[rows[part] - span.start]  # (part, genes)
        columns = {key: subject.adata.obs[key].iloc[rows[part]].astype(str).to_numpy() for key in obs_keys}
        facts += cell_facts(
            expression,
            detected(expression),
            matrix.genes,
            labels,
            names[part],
            probabilities[part],
            logged=matrix.is_logged,
            columns=columns,
        )
    return [replace(cell, probability=float(p)) for cell, p in zip(facts, confidence, strict=True)]


def grounded(model: BioVerse, question: str, written: str, facts: Sequence[Fact], abouts: Sequence[About]) -> Grounded:
    """Hold an answer to the facts: what these do not support is left out, and where nothing remains it is a refusal.

    So is an answer from facts that the question does not ask for. Of a model that is not shown the facts an answer is
    refused as a whole, where any of it is not supported.

    Parameters
    ----------
    model
        That wrote it.
    question
        That it answers.
    written
        The answer as it was written.
    facts
        That it was to be written from.
    abouts
        What the question is about.
    """
    refusal = refusal_about(abouts)
    answer, sentences = shown_answer(written, facts, refusal=refusal)
    is_beside = _is_beside(sentences, facts)
    if model.config.grounding == "checked":
        # a model that does not read the facts has not understood a question where it strays from them
        if is_beside or not all(s.verdict in SUPPORTED for s in sentences):
            answer = f"{model.config.name!r} cannot put this into words.{_other_model()}"
    elif is_beside:
        answer = refusal
    return Grounded(answer, list(facts), sentences)


def _is_beside(sentences: Sequence[CheckedSentence], facts: Sequence[Fact]) -> bool:
    """Whether an answer says only what the question does not ask for."""
    told = [facts[s.fact].relevance for s in sentences if s.verdict == "supported" and s.fact is not None]
    return bool(told) and max(told) < ASKED


def held_answers(
    model: BioVerse, question: str, texts: np.ndarray, facts: Sequence[list[Fact]], abouts: Sequence[Sequence[About]]
) -> list[Grounded]:
    """Answers to a question held to the facts of each prompt, an empty one as it is.

    ``abouts`` are by place, then by prompt.
    """
    return [
        grounded(model, question, text, known, things) if text else Grounded("", known, [])
        for text, known, things in zip(texts, facts, zip(*abouts, strict=True), strict=True)
    ]


def _other_model() -> str:
    """The model that can, where it is there."""
    from bioverse_sc.models import bundled_models

    return f" Ask model={CONVERSING!r}, which answers free questions." if CONVERSING in bundled_models() else ""


def facts_of_prompts(question: str, abouts: Sequence[Sequence[About]]) -> list[list[Fact]]:
    """The facts of each prompt; ``abouts`` are by place of the prompt, then by prompt."""
    return [facts_about(question, things) for things in zip(*abouts, strict=True)]


def tables(names: pd.Index, answers: Sequence[Grounded]) -> dict[str, pd.DataFrame]:
    """The facts of each observation, and the sentences that the model wrote with their verdicts."""
    facts = [
        (name, fact.topic, fact.about, fact.text, fact.source)
        for name, answer in zip(names, answers, strict=True)
        for fact in answer.facts
    ]
    sentences = [
        (name, sentence.text, sentence.verdict, "" if sentence.fact is None else answer.facts[sentence.fact].text)
        for name, answer in zip(names, answers, strict=True)
        for sentence in answer.sentences
    ]
    return {
        "facts": pd.DataFrame(facts, columns=["observation", "topic", "about", "fact", "source"], dtype=object),
        "sentences": pd.DataFrame(sentences, columns=["observation", "sentence", "verdict", "fact"], dtype=object),
    }
