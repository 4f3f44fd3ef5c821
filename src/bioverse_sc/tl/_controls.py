"""How much of the answer comes from the cell: labels when the cell is hidden, changed for another, or talked over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger
from bioverse_sc._modalities import modality
from bioverse_sc._models import get_model
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Results
from bioverse_sc._validation import check_batch_size
from bioverse_sc.ontology import cell_ontology, match_labels
from bioverse_sc.tl._align import ensure_alignment
from bioverse_sc.tl._embed import embedding_slot
from bioverse_sc.tl._label import calibrated

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
    truth: str | None = None,
    model: str | Path | BioVerse = "mini",
    n_cells: int = 200,
    seed: int = 0,
    layer: str | None = None,
    gene_symbols: str | None = None,
    batch_size: int = 64,
    key_added: str | None = None,
    copy: bool = False,
) -> pd.DataFrame:
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

    Parameters
    ----------
    data
        AnnData, or MuData with an ``"rna"`` modality.
    truth
        Column of ``.obs`` with the true labels, for the accuracy.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    n_cells
        Cells at most, drawn at random among those with a known gene.
    seed
        Of the draw and of what is shuffled.
    layer, gene_symbols, batch_size
        As for :func:`bioverse_sc.tl.embed`, when the cells are not embedded yet; ``batch_size`` also of the labelling.
    key_added
        Stem of the slots' names instead of ``"bioverse"``.
    copy
        Whether to leave ``data`` as it is; what is missing is then made in a copy, which is not kept.

    Returns
    -------
    DataFrame with a row for each condition, which is also logged. Columns:

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
        Ontology, where :func:`bioverse_sc.ontology.match_labels` says what the true ones mean. Only with ``truth``;
        cells without a true label, or with one that means no term and is none of the model's labels, are left out of
        it, and counted in the log.

    Sets what :func:`bioverse_sc.tl.align` sets, if missing, and nothing else: ``.obsm["X_scgpt"]``,
    ``.obsm["X_bioverse"]`` and the provenance in ``.uns["bioverse"]``.

    Raises
    ------
    KeyError
        When there is no column ``truth``.
    ValueError
        When the model has no label set of its own, fewer than two cells have a known gene, or ``n_cells`` is less than
        two.
    """
    keys = Keys.of(key_added)
    import torch

    check_batch_size(batch_size)
    if n_cells < 2:
        msg = f"n_cells is {n_cells}; expected 2 or more, as cells are exchanged with each other."
        raise ValueError(msg)
    if copy:
        data = data.copy()
    adata = modality(data)
    if truth is not None and truth not in adata.obs:
        msg = f"There is no column {truth!r} in .obs; there are {list(adata.obs.columns)}."
        raise KeyError(msg)
    loaded = get_model(model)
    labels = np.array(loaded.config.labels, dtype=object)
    if len(labels) < 2:
        msg = (
            f"The model {loaded.config.name!r} has no label set of its own, among which the controls could choose. "
            "Create it with "
            "one: bsc.models.create(..., labels=['B cell', 'T cell', ...])."
        )
        raise ValueError(msg)
    results = Results(adata, keys)
    ensure_alignment(results, loaded, layer=layer, gene_symbols=gene_symbols, batch_size=batch_size)
    vectors = np.asarray(adata.obsm[embedding_slot(results, loaded)], dtype=np.float32)
    real = np.flatnonzero(vectors.any(axis=1))
    if len(real) < 2:
        msg = (
            f"{len(real)} of {adata.n_obs} cells have a gene that the model knows; expected 2 or more, to exchange "
            "them."
        )
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.choice(real, min(n_cells, len(real)), replace=False))
    vectors = vectors[drawn]
    with finish_log(f"controls of {loaded.config.name!r} on {len(drawn)} cells"):
        with torch.inference_mode():
            own = loaded.project("rna", torch.from_numpy(vectors).to(loaded.device))
            mixed = loaded.project("rna", torch.from_numpy(rng.permuted(vectors, axis=0)).to(loaded.device))
        answers = {"cell": _probabilities(loaded, own, batch_size=batch_size)}
        said = answers["cell"].argmax(axis=1)
        # round in a circle, so that no cell keeps its own
        order = rng.permutation(len(drawn))
        other = np.empty_like(order)
        other[order] = np.roll(order, 1)
        blank = _probabilities(loaded, torch.zeros_like(own[:1]), batch_size=1)
        answers["blank"] = np.repeat(blank, len(drawn), axis=0)
        answers["shuffled"] = _probabilities(loaded, own[torch.from_numpy(other)], batch_size=batch_size)
        answers["decoy"] = _probabilities(loaded, mixed, batch_size=batch_size)
        first, second = np.argsort(-answers["cell"].mean(axis=0), kind="stable")[:2]
        answers["decoy metadata"] = np.empty_like(answers["cell"])
        for wrong, cells in ((first, np.flatnonzero(said != first)), (second, np.flatnonzero(said == first))):
            before = METADATA.format(label=labels[wrong])
            part = own[torch.from_numpy(cells)]
            answers["decoy metadata"][cells] = _probabilities(loaded, part, batch_size=batch_size, before=before)
        true = None if truth is None else _known_truth(adata.obs[truth].iloc[drawn], labels)
        rows = {name: _row(found, said, labels, true) for name, found in answers.items()}
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("condition")
        logger.info("%s", table.round(3).to_string())
    return table


def _probabilities(model: BioVerse, soft_tokens: torch.Tensor, *, batch_size: int, before: str = "") -> np.ndarray:
    """Probability of each of the model's labels, shape (cells, labels), with words before the cell."""
    labels = list(model.config.labels)
    found = [
        calibrated(model, soft_tokens[start : start + batch_size], labels, before=before)
        for start in range(0, len(soft_tokens), batch_size)
    ]
    return np.concatenate([np.empty((0, len(labels))), *found])


def _row(found: np.ndarray, said: np.ndarray, labels: np.ndarray, true: np.ndarray | None) -> dict[str, float]:
    """What the table says of one condition."""
    best = found.argmax(axis=1)
    cells = np.arange(len(best))
    shares = np.bincount(best) / len(best)
    shares = shares[shares > 0]
    row = {
        "agreement": float((best == said).mean()),
        "confidence": float(found[cells, best].mean()),
        "probability": float(found[cells, said].mean()),
        # not -0
        "entropy": float(abs((shares * np.log2(shares)).sum())),
    }
    if true is not None:
        known = ~pd.isna(true)
        right = [_is_kind_of(label, of) for label, of in zip(labels[best[known]], true[known], strict=True)]
        row["accuracy"] = float(np.mean(right)) if right else np.nan
    return row


def _known_truth(column: pd.Series, labels: np.ndarray) -> np.ndarray:
    """The true label of each cell: one of the model's, or a Cell Ontology id; missing where it means neither."""
    written = [str(value) for value in column.dropna().unique()]
    matches, own = match_labels(written), set(labels)
    meaning = {value: value if value in own else matches[value].term for value in written}
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
