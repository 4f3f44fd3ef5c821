"""The reasoning that the language model writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc._modality import CELLS
from bioverse_sc.ontology import cell_ontology

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.models import BioVerse
    from bioverse_sc.reasoning._cases import Case

REASONING_TOKENS = 128
"""Of a text at most."""


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
            reasoning_prompt(
                case.label,
                case.genes,
                absent=case.absent,
                confidence=case.confidence,
                runner_up=case.runner_up,
                prompts=model.config.prompts,
            )
            for case in batch
        ]
        with torch.inference_mode():
            soft_tokens = model.project(CELLS, torch.from_numpy(vectors[rows]).to(model.device))
        allowed = ShownGenes(model, symbols, [case.genes for case in batch], [case.missing for case in batch])
        texts[rows] = generate_text(
            model,
            prompts,
            soft_tokens,
            Decoding(max_new_tokens=REASONING_TOKENS),
            constraint=allowed,
            names=names.of([case.types for case in batch]),
        )
    return texts
