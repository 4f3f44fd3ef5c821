"""The reasoning that the language model writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc._modality import CELLS
from bioverse_sc.facts import About, facts_about, shown_answer
from bioverse_sc.ontology import cell_ontology
from bioverse_sc.reasoning._cases import ABSENCE_WORDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.facts import CellFacts
    from bioverse_sc.models import BioVerse
    from bioverse_sc.reasoning._cases import Case

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
    import torch

    from bioverse_sc.models import Decoding, ShownGenes, TypeNames, generate_text, reasoning_prompt

    texts = np.full(len(cases), "", dtype=object)
    names = TypeNames(model, list(cell_ontology().names.values()))
    # prompts of about one length need little padding
    real = sorted(
        np.flatnonzero(vectors.any(axis=1)).tolist(), key=lambda i: (len(cases[i].genes) + len(cases[i].missing), i)
    )
    for start in range(0, len(real), batch_size):
        rows = np.array(real[start : start + batch_size])
        batch = [cases[i] for i in rows.tolist()]
        prompts = [
            reasoning_prompt(case.label, case.genes, parts=case.parts, prompts=model.config.prompts) for case in batch
        ]
        with torch.inference_mode():
            soft_tokens = model.project(CELLS, torch.from_numpy(vectors[rows]).to(model.device))
        allowed = ShownGenes(
            model,
            symbols,
            [case.genes for case in batch],
            [case.missing for case in batch],
            again=[[case.role[0]] for case in batch],
            absence_words=ABSENCE_WORDS,
        )
        texts[rows] = generate_text(
            model,
            prompts,
            soft_tokens,
            Decoding(max_new_tokens=REASONING_TOKENS),
            constraint=allowed,
            names=names.of([case.types for case in batch]),
        )
    return texts
