"""The reasoning that the language model writes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc._modality import CELLS
from bioverse_sc.facts import About, facts_about, sentences_of, shown_answer
from bioverse_sc.ontology import cell_ontology
from bioverse_sc.reasoning._cases import ABSENCE_WORDS
from bioverse_sc.reasoning._held import held

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.facts import CellFacts
    from bioverse_sc.models import BioVerse, TypeNames
    from bioverse_sc.reasoning._cases import Case

ATTEMPTS = 3
"""How often a text is written, in other forms each time and at last from less, as long as sentences do not hold."""
REASONING_TOKENS = 220
"""Of a text at most."""
EXPLANATION_TOKENS = 220
"""Of a text at most that a model writes from facts: its tokens are pieces of words."""


def why_labelled(cell: CellFacts) -> str:
    """The question that a reasoning answers, of a model that is shown facts.

    Parameters
    ----------
    cell
        What is known of the cell or group of cells.
    """
    return f"Why is this {'cluster' if cell.is_group else 'cell'} labelled {cell.label}?"


def explain(
    model: BioVerse, vectors: np.ndarray, cells: Sequence[CellFacts], *, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Let a model that is shown facts write why cells have their labels.

    Parameters
    ----------
    model
        The model.
    vectors
        Encoder vectors, shape (cells, width).
    cells
        What is known of each.
    batch_size
        Texts that are written at a time.

    Returns
    -------
    The texts, ``""`` where the vector is zeros, and how they were written, before sentences that the facts do not
    support were left out.
    """
    import torch

    from bioverse_sc.models import Decoding, generate_text, question_prompt

    texts, written = np.full(len(cells), "", dtype=object), np.full(len(cells), "", dtype=object)
    facts = [facts_about(why_labelled(cell), [About("Cell", cell=cell)]) for cell in cells]
    # prompts of about one length need little padding
    real = sorted(
        np.flatnonzero(vectors.any(axis=1)).tolist(), key=lambda i: (sum(len(fact.text) for fact in facts[i]), i)
    )
    for start in range(0, len(real), batch_size):
        rows = np.array(real[start : start + batch_size])
        prompts = [
            question_prompt(
                [CELLS],
                [(why_labelled(cells[i]), None)],
                facts=[[fact.text for fact in facts[i]]],
                prompts=model.config.prompts,
            )
            for i in rows.tolist()
        ]
        with torch.inference_mode():
            soft_tokens = model.project(CELLS, torch.from_numpy(vectors[rows]).to(model.device))
        written[rows] = generate_text(model, prompts, soft_tokens, Decoding(max_new_tokens=EXPLANATION_TOKENS))
    for i in real:
        texts[i], _ = shown_answer(written[i], facts[i], refusal="")
    return texts, written


def write_reasoning(
    model: BioVerse, vectors: np.ndarray, cases: Sequence[Case], symbols: Sequence[str], *, batch_size: int
) -> np.ndarray:
    """Let the language model write its reasoning about each case; ``""`` where the vector is zeros.

    Of a model whose answers are held to facts, sentences that the prompt does not bear out are left out. Before that, a
    text that has some, or that does not say all that the prompt holds, is written again, in other forms; the one is
    taken that says most.

    Parameters
    ----------
    model
        The model.
    vectors
        Encoder vectors, shape (cases, width).
    cases
        What it is shown of each.
    symbols
        What counts as a gene, of which a text may name only those that it is shown.
    batch_size
        Texts that are written at a time.
    """
    from bioverse_sc.models import TypeNames

    texts = np.full(len(cases), "", dtype=object)
    least = np.full(len(cases), np.inf)  # parts of the prompt that are not said, or are said wrongly
    names = TypeNames(model, list(cell_ontology().names.values()))
    to_write = np.flatnonzero(vectors.any(axis=1))
    for attempt in range(ATTEMPTS):
        tried = {i: replace(cases[i], draw=cases[i].draw + attempt) for i in to_write.tolist()}
        if attempt == ATTEMPTS - 1:
            tried = {i: case.briefer for i, case in tried.items()}
        # prompts of about one length need little padding
        order = sorted(tried, key=lambda i: (len(cases[i].genes) + len(cases[i].missing), i))
        for start in range(0, len(order), batch_size):
            rows = np.array(order[start : start + batch_size])
            batch = [tried[i] for i in rows.tolist()]
            for i, case, text in zip(rows, batch, _write(model, vectors[rows], batch, symbols, names), strict=True):
                borne_out, n_unsaid = _held(text, case, cases[i].n_parts) if model.config.grounding else (text, 0)
                if n_unsaid < least[i] and borne_out:
                    texts[i], least[i] = borne_out, n_unsaid
        to_write = to_write[least[to_write] > 0]
    return texts


def _held(text: str, case: Case, n_parts: int) -> tuple[str, int]:
    """The sentences that the prompt bears out, and how many of the parts they do not say, or others say wrongly."""
    borne_out, n_left_out = held(text, case)
    return borne_out, max(n_left_out, n_parts - len(sentences_of(borne_out)))


def _write(
    model: BioVerse, vectors: np.ndarray, cases: Sequence[Case], symbols: Sequence[str], names: TypeNames
) -> list[str]:
    """What the language model writes about some cases, under the constraints of decoding."""
    import torch

    from bioverse_sc.models import Decoding, ShownGenes, generate_text, reasoning_prompt

    prompts = [
        reasoning_prompt(case.label, case.genes, parts=case.parts, prompts=model.config.prompts) for case in cases
    ]
    with torch.inference_mode():
        soft_tokens = model.project(CELLS, torch.from_numpy(vectors).to(model.device))
    allowed = ShownGenes(
        model,
        symbols,
        [case.genes for case in cases],
        [case.missing for case in cases],
        again=[[case.role[0]] for case in cases],
        absence_words=ABSENCE_WORDS,
    )
    return generate_text(
        model,
        prompts,
        soft_tokens,
        Decoding(max_new_tokens=REASONING_TOKENS),
        constraint=allowed,
        names=names.of([case.types for case in cases]),
    )
