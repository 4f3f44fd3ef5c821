"""How much of the answer comes from the cell: labels when the cell is hidden, changed for another, or talked over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger
from bioverse_sc._modality import CELLS
from bioverse_sc._quiet import undisturbed
from bioverse_sc._validation import check_batch_size
from bioverse_sc.ontology import cell_ontology, match_labels
from bioverse_sc.read import observations
from bioverse_sc.tl._subject import Reading, subjects

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse

METADATA = "Metadata: cell type {label}. "


@undisturbed()
def controls(
    data: AnnData | MuData,
    *,
    labels_key: str | None = None,
    model: str | Path | BioVerse = "mini",
    n_cells: int = 200,
    seed: int = 0,
    layer: str | None = None,
    gene_symbols: str | None = None,
    batch_size: int = 64,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Say how much of the answer comes from the cell: label some cells again with soft tokens that are not theirs.

    ``"cell"``
        As the cell is: what :func:`bioverse_sc.tl.annotate` gives with ``min_confidence=0``, among the model's own
        labels; its probability is not calibrated.
    ``"blank"``
        The soft token is zeros: what the prompt alone makes the model say. All cells get one answer.
    ``"shuffled"``
        Each cell has the soft token of another one of the drawn cells. Labels agree as often as by chance.
    ``"decoy"``
        Each number of the encoder vectors is shuffled over the cells by itself, and the result projected: it looks like
        a cell number by number, and is none.
    ``"decoy metadata"``
        The soft token is the cell's own, but "Metadata: cell type X." stands before it, where X is a wrong label: the
        one that the model finds likeliest over all cells, or the next one for a cell that has that label.

    A model that reads the cell agrees with itself under decoy metadata, and falls to the answer of chance, with less
    confidence, under the three before it.

    Of MuData it reads the cells (``"rna"``).

    Parameters
    ----------
    data
        AnnData of one modality, or MuData; :func:`bioverse_sc.tl.embed` says what it holds.
    labels_key
        Column of ``.obs`` with the true label of each cell, for the metrics: a Cell Ontology name, synonym or id.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    n_cells
        Cells at most, drawn at random among those with a known gene.
    seed
        Of what is random: equal seeds give equal results.
    layer
        Matrix to read: ``"X"``, ``"raw"`` or a key of ``.layers``. By default what was read when the observations were
        embedded, or what :func:`bioverse_sc.pp.profile` finds.
    gene_symbols
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` by default.
    batch_size
        Observations per forward pass at most. It does not change the result beyond rounding.
    key_added
        Stem of the slots' names instead of ``"bioverse"``.
    copy
        Whether to return a copy instead of writing to ``data``.

    Returns
    -------
    ``None``, or a copy when ``copy=True``. Sets what :func:`bioverse_sc.tl.align` sets, if missing, and:

    ``.uns["bioverse"]["controls"]["table"]``
        DataFrame with a row for each condition, which is also logged, and the columns below.
    ``.uns["bioverse"]["controls"]``
        Provenance beside it.

    The columns of the table:

    ``agreement``
        Share of the cells whose label is that of ``"cell"``.
    ``confidence``
        Mean probability of the label.
    ``probability``
        Mean probability of the label that the cell has in ``"cell"``.
    ``entropy``
        Of the labels over the cells, in bits; 0 when all have one label.
    ``accuracy``
        Share of the cells whose label is the true one as it is written, or equal to it or below it in the Cell
        Ontology, where :func:`bioverse_sc.ontology.match_labels` says what the true ones mean. Only with
        ``labels_key``; cells without a true label, or with one that means no term and is none of the model's labels,
        are left out of it, and counted in the log.

    Raises
    ------
    KeyError
        When there is no column ``labels_key``.
    ValueError
        When the model has no label set of its own, fewer than two cells have a known gene, or ``n_cells`` is less than
        two.
    """
    keys = Keys.of(key_added)
    check_batch_size(batch_size)
    if n_cells < 2:
        msg = f"n_cells is {n_cells}; expected 2 or more, as cells are exchanged with each other."
        raise ValueError(msg)
    if copy:
        data = data.copy()
    adata = observations(data)
    if labels_key is not None and labels_key not in adata.obs:
        msg = f"There is no column {labels_key!r} in .obs; there are {list(adata.obs.columns)}."
        raise KeyError(msg)
    reading = Reading(layer, gene_symbols, batch_size)
    (subject,) = subjects(data, model, keys, mod=CELLS, reading=reading)
    loaded = subject.model
    _check_label_set(loaded)
    subject.results.check([subject.soft_tokens_slot])
    subject.align()
    known = np.flatnonzero(subject.is_known)
    if len(known) < 2:
        msg = (
            f"{len(known)} of {adata.n_obs} cells have a gene that the model knows; expected 2 or more, to exchange "
            "them."
        )
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(known, min(n_cells, len(known)), replace=False))
    with finish_log(f"controls of {loaded.config.name!r} on {len(drawn)} cells") as lines:
        answers = _answers(loaded, subject.vectors[drawn], rng, batch_size=batch_size)
        said, labels = answers["cell"].argmax(axis=1), np.array(loaded.config.labels, dtype=object)
        true = None if labels_key is None else _known_truth(adata.obs[labels_key].iloc[drawn], labels)
        rows = {name: _row(probabilities, said, labels, true) for name, probabilities in answers.items()}
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("condition")
        entries = {
            "table": table,
            "model": loaded.config.name,
            "model_fingerprint": loaded.fingerprint,
            "labels_key": labels_key or "",
            "n_cells": len(drawn),
            "seed": seed,
            "device": str(loaded.device),
        }
        lines += subject.results.write("controls", {}, entries)
        logger.info("%s", table.round(3).to_string())
    return data if copy else None


def _check_label_set(model: BioVerse) -> None:
    """Raise when there is nothing to choose among."""
    if len(model.config.labels) < 2:
        msg = (
            f"The model {model.config.name!r} has no label set of its own, among which the controls could choose. "
            "Create it with one: bsc.models.create(..., labels=['B cell', 'T cell', ...])."
        )
        raise ValueError(msg)


def _answers(
    model: BioVerse, vectors: np.ndarray, rng: np.random.Generator, *, batch_size: int
) -> dict[str, np.ndarray]:
    """Probabilities of the model's labels in each condition, shape (cells, labels)."""
    import torch

    with torch.inference_mode():
        soft_tokens = model.project(CELLS, torch.from_numpy(vectors).to(model.device))  # (cells, n_tokens, width)
        mixed = model.project(CELLS, torch.from_numpy(rng.permuted(vectors, axis=0)).to(model.device))  # as above
    answers = {"cell": _probabilities(model, soft_tokens, batch_size=batch_size)}
    said = answers["cell"].argmax(axis=1)  # (cells,)
    # round in a circle, so that no cell keeps its own
    order = rng.permutation(len(vectors))  # (cells,)
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)
    blank = _probabilities(model, torch.zeros_like(soft_tokens[:1]), batch_size=1)
    answers["blank"] = np.repeat(blank, len(vectors), axis=0)
    answers["shuffled"] = _probabilities(model, soft_tokens[torch.from_numpy(other)], batch_size=batch_size)
    answers["decoy"] = _probabilities(model, mixed, batch_size=batch_size)
    first, second = np.argsort(-answers["cell"].mean(axis=0), kind="stable")[:2]
    answers["decoy metadata"] = np.empty_like(answers["cell"])
    for wrong, cells in ((first, np.flatnonzero(said != first)), (second, np.flatnonzero(said == first))):
        before = METADATA.format(label=model.config.labels[wrong])
        part = soft_tokens[torch.from_numpy(cells)]
        answers["decoy metadata"][cells] = _probabilities(model, part, batch_size=batch_size, before=before)
    return answers


def _probabilities(model: BioVerse, soft_tokens: torch.Tensor, *, batch_size: int, before: str = "") -> np.ndarray:
    """Probability of each of the model's labels, shape (cells, labels), with words before the cell."""
    from bioverse_sc.models import tempered_probabilities

    labels = list(model.config.labels)
    batches = [
        tempered_probabilities(model, soft_tokens[start : start + batch_size], labels, before=before)
        for start in range(0, len(soft_tokens), batch_size)
    ]
    return np.concatenate([np.empty((0, len(labels))), *batches])


def _row(probabilities: np.ndarray, said: np.ndarray, labels: np.ndarray, true: np.ndarray | None) -> dict[str, float]:
    """What the table says of one condition."""
    best = probabilities.argmax(axis=1)  # (cells,)
    cells = np.arange(len(best))
    shares = np.bincount(best) / len(best)
    shares = shares[shares > 0]
    row = {
        "agreement": float((best == said).mean()),
        "confidence": float(probabilities[cells, best].mean()),
        "probability": float(probabilities[cells, said].mean()),
        # not -0
        "entropy": float(abs((shares * np.log2(shares)).sum())),
    }
    if true is not None:
        known = ~pd.isna(true)
        right = [_is_kind_of(label, meant) for label, meant in zip(labels[best[known]], true[known], strict=True)]
        row["accuracy"] = float(np.mean(right)) if right else np.nan
    return row


def _known_truth(column: pd.Series, labels: np.ndarray) -> np.ndarray:
    """The true label of each cell: one of the model's, or a Cell Ontology id; missing where it means neither."""
    written = [str(value) for value in column.dropna().unique()]
    matches, own_labels = match_labels(written), set(labels)
    meaning = {value: value if value in own_labels else matches[value].term for value in written}
    if lost := sorted(value for value, meant in meaning.items() if meant is None):
        n = int(column.astype(object).astype(str).isin(lost).sum())
        logger.info(
            "    %d cells have a true label that is no term, such as %r, and are left out of the accuracy", n, lost[0]
        )
    # not as categories, some of which no drawn cell may have
    return column.astype(object).map(lambda value: meaning[str(value)], na_action="ignore").to_numpy()


def _is_kind_of(label: str, true: str) -> bool:
    """Whether a label is the true one, or below it in the Cell Ontology; the true one is a label or an id."""
    ontology = cell_ontology()
    term = ontology.find(label)
    return label == true or (term is not None and (ontology.find(true) or true) in ontology.ancestors(term))
