"""Labels and reasoning by the language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger
from bioverse_sc._modality import CELLS
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Slot
from bioverse_sc._validation import check_batch_size, check_labels
from bioverse_sc.ontology import runner_up
from bioverse_sc.read import neighbors_graph
from bioverse_sc.tl._choices import Choices
from bioverse_sc.tl._label import chosen_labels, label_cells
from bioverse_sc.tl._prompts import prompt_id
from bioverse_sc.tl._reason import reason
from bioverse_sc.tl._subject import Reading, known_genes, subjects

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse
    from bioverse_sc.tl._label import Labels
    from bioverse_sc.tl._reason import Reasoning


@undisturbed()
def annotate(
    data: AnnData | MuData,
    *,
    model: str | Path | BioVerse = "mini",
    labels: Sequence[str] | None = None,
    tissue: str | None = None,
    levels: Sequence[Literal["fine", "coarse"]] = ("fine",),
    by: Literal["cell", "cluster"] = "cell",
    unique: bool = False,
    reasoning: Literal["representative", "cell", "cluster"] | None = "representative",
    groupby: str = "leiden",
    min_confidence: float | None = None,
    n_runner_up: int = 0,
    probabilities: bool = False,
    smooth: bool = False,
    max_cells_to_generate: int | None = None,
    layer: str | None = None,
    gene_symbols: str | None = None,
    batch_size: int = 128,
    key_added: str | None = None,
    overwrite: bool = False,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Label cells and say why: embeds, aligns and annotates, each step only when its result is not there yet.

    The language model reads a cell through its soft token alone and gives every label of the set a probability, over a
    trie of the labels (BioVERSE, arXiv 2510.01428, with constrained decoding). A label that is not certain enough gives
    way to a wider one, by the Cell Ontology, and in the end to ``"unknown"``; that is a rule, see
    :func:`bioverse_sc.ontology.back_off`.

    Then the language model is shown what is known of the cell, which rules choose (expressed markers of the label, what
    one of them does, the next likely type and what speaks against it, what is unusual, how certain the label is; see
    :class:`bioverse_sc.reasoning.Case`), and writes the reasoning greedily. A constraint of decoding keeps it from
    naming a gene that it was not shown, or one twice, and has it name one that is left where it would name another, as
    far as the tokenizer has a token for the symbol, as that of ``mini`` has. It also keeps a name that begins as the
    label's, or a wider type's, from going on as that of a look-alike. Sentences that what it was shown does not bear
    out are left out, after up to two tries in other forms. Its claims about genes are then looked up; see
    :func:`bioverse_sc.tl.evidence`. A model with ``grounding="shown"`` reads the facts themselves and writes without a
    constraint.

    Of MuData the cells (``"rna"``) are labelled. ``groupby`` is for ``by="cluster"`` and ``reasoning="cluster"``, and,
    if the column is there, for representatives. Labels are scored four times ``batch_size`` at a time, which takes a
    few tokens. A language model of billions of parameters keeps some 50 MB for each cell that it writes about: take
    fewer where memory is short. Labels that were corrected by hand are written over with ``overwrite`` alone.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData; :func:`bioverse_sc.tl.embed` says what it holds.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    labels
        Labels to choose from, in your own words; the model's label set (Cell Ontology names) by default. A label that
        means a term (see :func:`bioverse_sc.ontology.match_labels`) collects the probability of the model's own labels
        at and below it; one that the model does not know takes that of its nearest relatives, which is a guess (see
        :func:`bioverse_sc.ontology.meanings_of`). A message says what each was taken for. What belongs to none of them
        goes to ``"unknown"``, which words such as "Unassigned" and "other" mean too. A label that means no term is
        scored by its text, against all that the model knows; where no label means one, the texts share all of the
        probability between them.
    tissue
        Choose among the labels that occur in this tissue, such as ``"blood"``; see
        :func:`bioverse_sc.ontology.known_tissues`. A fiftieth of the probability of the others counts as ``"unknown"``,
        so that a cell that surely is of elsewhere gets no label of here.
    levels
        ``("fine", "coarse")`` writes the broad type of each cell as well (T cell, monocyte, epithelial cell and so on),
        by the same probabilities, summed over the labels below it.
    by
        Label each cell, or each cluster by the mean of its cells' probabilities.
    unique
        With ``by="cluster"``: give each label to one cluster at most, by the assignment whose probabilities have the
        largest product. No label gives way to a wider one then, unless ``min_confidence`` is given.
    reasoning
        Texts about cells that speak for others (``"representative"``): one of each label, in each cluster where there
        are clusters, first, and then those that are least like these, up to ``max_cells_to_generate``. Every other cell
        gets the text of the cell with its label that is nearest over the neighbours graph, or by its vector where there
        is none. Or a text about each ``"cell"``, which takes some fifteen times as long as its label; or about each
        ``"cluster"`` of ``groupby``, and there about each label; or ``None``.
    groupby
        Column of ``.obs`` with groups of cells, such as clusters.
    min_confidence
        Probability, 0 to 1, below which a label gives way to a wider one; 0 never does. The model's own by default.
    n_runner_up
        How many of the next likely labels to write as well.
    probabilities
        Whether to write the probabilities of all labels as well.
    smooth
        Spread the probabilities over the neighbours graph ``.obsp["connectivities"]`` first (label spreading, Zhou et
        al. 2003, in closed form, half of the weight on the neighbours). The confidence is then that of the
        neighbourhood.
    max_cells_to_generate
        For ``reasoning="representative"``: how many cells to write about, at most; 256 by default. A label that came
        too late for the budget has no text.
    layer
        Matrix to read: ``"X"``, ``"raw"`` or a key of ``.layers``. By default what was read when the observations were
        embedded, or what :func:`bioverse_sc.pp.profile` finds.
    gene_symbols
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` by default.
    batch_size
        Observations per forward pass at most. It does not change the result beyond rounding.
    key_added
        Stem of the slots' names instead of ``"bioverse"``.
    overwrite
        Whether a slot that this package did not write, or that was changed since, may be written over; it is an error
        otherwise.
    copy
        Whether to return a copy instead of writing to ``data``.

    Returns
    -------
    ``None``, or a copy when ``copy=True``. Sets what :func:`bioverse_sc.tl.embed` and :func:`bioverse_sc.tl.align` set,
    if missing, and:

    ``.obs["bioverse_label"]``
        Label, categorical; ``"unknown"`` when none is certain enough, and for a cell without any known gene.
    ``.obs["bioverse_label_id"]``
        Cell Ontology id, categorical; ``""`` when there is none.
    ``.obs["bioverse_confidence"]``
        How likely the label is right, 0 to 1: its probability, which of a wider label is the sum over those below it,
        on the model's calibration curve. 0 for a cell that ended at ``"unknown"`` because no wider label was certain
        enough. For a label that is a guess it is lowered, by how little the texts are alike. NaN for a label that is
        only a text, as nothing is known of how often such a label is right.
    ``.obs["bioverse_label_coarse"]``, ``.obs["bioverse_label_coarse_id"]``, ``.obs["bioverse_confidence_coarse"]``
        The same of the broad type. Only with ``levels=("fine", "coarse")``.
    ``.obsm["bioverse_probabilities"]``
        Sparse, shape (cells, labels), float32: the probability of each label, in the order of
        ``.uns["bioverse"]["annotate"]["labels"]``, ``"unknown"`` last. Not calibrated. Only with
        ``probabilities=True``.
    ``.obsm["bioverse_runner_up"]``
        DataFrame with the columns ``label_1``, ``probability_1``, ...: the likeliest of the labels that the cell does
        not have, which begin with the best one where that gave way to a wider label. Not calibrated. Only with
        ``n_runner_up``.
    ``.obs["bioverse_reasoning"]``
        Generated text. Only with ``reasoning``, as the next two.
    ``.obs["bioverse_genes_supported"]``
        Number of claims of the text about genes, present or absent, that hold in the cell; in the cluster, if it is
        about one.
    ``.obs["bioverse_genes_unsupported"]``
        Number of those that do not.
    ``.obs["bioverse_reasoning_of"]``
        Name of the cell or cluster that the text was written about. Only where that is not each cell itself.
    ``.uns["bioverse"]["annotate"]``
        Provenance.

    Raises
    ------
    KeyError
        When the clusters or the neighbours graph are asked for and not there.
    ValueError
        When the data are unusable (see :func:`bioverse_sc.pp.profile`), ``labels`` is empty or has duplicates, the
        tissue or the model is unknown, a number is out of its range, or a slot holds what this package did not write.
    """
    keys = Keys.of(key_added)
    check_labels(labels)
    check_batch_size(batch_size)
    choices = Choices(
        levels=levels,
        by=by,
        unique=unique,
        reasoning=reasoning,
        groupby=groupby,
        min_confidence=min_confidence,
        n_runner_up=n_runner_up,
        max_cells_to_generate=max_cells_to_generate,
    )
    if copy:
        data = data.copy()
    reading = Reading(layer, gene_symbols, batch_size)
    (subject,) = subjects(data, model, keys, mod=CELLS, reading=reading, overwrite=overwrite)
    adata, results, loaded = subject.adata, subject.results, subject.model
    label_set = chosen_labels(loaded, labels, tissue)
    choices.check_labels(label_set)
    clusters = choices.clusters(adata)
    choices.check_clusters(clusters, label_set)
    results.check([*_all_slots(keys), subject.soft_tokens_slot])
    graph = neighbors_graph(adata) if smooth else None
    if reasoning:
        _check_genes(loaded)
    subject.align()
    if reasoning:
        # what cannot be read is said before the work begins
        _ = subject.matrix
    threshold = choices.threshold(loaded)
    with finish_log(
        f"annotating {adata.n_obs} cells with {loaded.config.name!r} among {len(label_set) - 1} labels"
    ) as lines:
        cell_labels = label_cells(
            subject,
            label_set,
            are_users=labels is not None,
            has_coarse="coarse" in levels,
            unique=unique,
            threshold=threshold,
            clusters=clusters if by == "cluster" else None,
            graph=graph,
        )
        columns = _label_columns(adata, keys, cell_labels)
        if reasoning:
            texts = reason(
                subject, cell_labels, label_set, about=reasoning, budget=max_cells_to_generate, clusters=clusters
            )
            columns |= _reasoning_columns(adata, keys, texts)
        if n_runner_up:
            columns[Slot("obsm", keys.runner_up)] = _runner_up(adata, cell_labels, label_set, n_runner_up)
        if probabilities:
            columns[Slot("obsm", keys.probabilities)] = csr_matrix(cell_labels.probabilities, dtype=np.float32)
        results.remove(slot for slot in _all_slots(keys) if slot not in columns)
        params = {
            "model": loaded.config.name,
            "model_fingerprint": loaded.fingerprint,
            "prompt": prompt_id(loaded),
            "labels": label_set,
            "tissue": tissue or "",
            "levels": list(levels),
            "by": by,
            "unique": unique,
            "reasoning": reasoning or "",
            "groupby": groupby if clusters is not None else "",
            "min_confidence": float(threshold),
            "smooth": smooth,
            "max_cells_to_generate": max_cells_to_generate or 0,
            "temperature": loaded.config.temperature,
            "device": str(loaded.device),
        }
        lines += results.write("annotate", columns, params)
    return data if copy else None


def _check_genes(model: BioVerse) -> None:
    """Raise when the model knows no genes, as one that reads vectors from elsewhere may not; warn of no reference."""
    known_genes(model)
    if not model.gene_reference:
        logger.warning(
            "The model %r has no reference of the genes' means, so its reasoning is shown the highest expressed genes, "
            "not the informative ones.",
            model.config.name,
        )


def _all_slots(keys: Keys) -> list[Slot]:
    """All that annotate may write, and removes when it does not."""
    columns = [keys.label, keys.label_id, keys.confidence, *keys.coarse]
    columns += [keys.reasoning, keys.genes_supported, keys.genes_unsupported, keys.reasoning_of]
    return [Slot("obs", key) for key in columns] + [Slot("obsm", key) for key in (keys.runner_up, keys.probabilities)]


def _label_columns(adata: AnnData, keys: Keys, cell_labels: Labels) -> dict[Slot, Any]:
    """Columns of the labels of each level."""
    columns: dict[Slot, Any] = {}
    levels = (((keys.label, keys.label_id, keys.confidence), cell_labels.fine), (keys.coarse, cell_labels.coarse))
    for (name, term, confidence), level in levels:
        if level is None:
            continue
        columns[Slot("obs", name)] = _categorical(level.names, adata)
        columns[Slot("obs", term)] = _categorical(level.terms, adata)
        columns[Slot("obs", confidence)] = pd.Series(level.confidence.astype(np.float32), index=adata.obs_names)
    return columns


def _reasoning_columns(adata: AnnData, keys: Keys, reasoning: Reasoning) -> dict[Slot, Any]:
    texts = np.asarray(reasoning.texts, dtype=object)
    columns: dict[Slot, Any] = {
        Slot("obs", keys.reasoning): pd.Series(texts, index=adata.obs_names, dtype=object),
        Slot("obs", keys.genes_supported): pd.Series(reasoning.supported, index=adata.obs_names),
        Slot("obs", keys.genes_unsupported): pd.Series(reasoning.unsupported, index=adata.obs_names),
    }
    if reasoning.written_about is not None:
        columns[Slot("obs", keys.reasoning_of)] = _categorical(reasoning.written_about, adata)
    return columns


def _runner_up(adata: AnnData, cell_labels: Labels, label_set: Sequence[str], n: int) -> pd.DataFrame:
    """The likeliest labels that the cell does not have."""
    names, p = runner_up(cell_labels.probabilities, label_set, n, given=cell_labels.fine.names)  # both (cells, n)
    table = pd.DataFrame(index=adata.obs_names)
    for k in range(n):
        table[f"label_{k + 1}"] = _categorical(names[:, k], adata)
        table[f"probability_{k + 1}"] = p[:, k].astype(np.float32)
    return table


def _categorical(values: np.ndarray, adata: AnnData) -> pd.Series:
    return pd.Series(pd.Categorical(values, categories=sorted(set(values))), index=adata.obs_names)
