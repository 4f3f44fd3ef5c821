"""Labels and reasoning by the language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger
from bioverse_sc._modalities import modality
from bioverse_sc._models import get_model
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Results, Slot
from bioverse_sc._validation import check_batch_size, check_labels
from bioverse_sc.metrics import apply_calibration
from bioverse_sc.ontology import back_off, coarse_probabilities, meanings_of, runner_up
from bioverse_sc.tl._align import ensure_alignment
from bioverse_sc.tl._economy import (
    CONNECTIVITIES,
    clusters_of,
    label_in_cluster,
    mean_by_cluster,
    neighbors_graph,
    one_label_each,
    propagate,
    representatives,
    smooth_probabilities,
)
from bioverse_sc.tl._embed import embedding_slot, matrix_to_read
from bioverse_sc.tl._evidence import known_genes
from bioverse_sc.tl._label import chosen_labels, label_probabilities, report_unknown, vouched
from bioverse_sc.tl._prompts import prompt_id
from bioverse_sc.tl._reason import CaseMaker, Labelled, check_cells, reason_about_cells, reason_about_groups

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse
    from bioverse_sc.pp._profile import MatrixProfile

LEVELS = ("fine", "coarse")
LABELLED_AT_ONCE = 4
"""Batches of cells that are labelled together: a prompt and a label are a few tokens, of which two cores read 1,900
cells a second so, and 960 by single batches of 128."""
REPRESENTATIVES = 256
"""Cells that texts are written about, unless the user says how many."""


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

    Then the language model is shown the label and, by rules, the cell's informative genes (those that exceed the
    average profile most) and, if its template asks for them, markers of the next likely types that the cell lacks and
    how certain the label is, and writes the reasoning greedily. A constraint of decoding keeps it from naming a gene
    that it was not shown, or one twice, and has it name one that is left where it would name another, as far as the
    tokenizer has a token for the symbol, as that of ``mini`` has. It also keeps a name that begins as the label's, or a
    wider type's, from going on as that of a look-alike. The words, and which of the shown genes it names, are its own.
    Its claims about genes are then looked up; see :func:`bioverse_sc.tl.evidence`.

    Parameters
    ----------
    data
        AnnData, or MuData with an ``"rna"`` modality.
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
        Column of ``.obs`` with the clusters, for ``by="cluster"`` and ``reasoning="cluster"``, and, if it is there, for
        representatives.
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
    layer, gene_symbols
        As for :func:`bioverse_sc.tl.embed`.
    batch_size
        Cells per forward pass; four times as many where labels are scored, which takes a few tokens. It does not change
        the result beyond rounding. A language model of billions of parameters keeps some 50 MB for each cell that it
        writes about: take fewer where memory is short.
    key_added
        Stem of the slots' names instead of ``"bioverse"``.
    overwrite
        As for :func:`bioverse_sc.tl.embed`; also of labels that were corrected by hand.
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
    _check_choices(levels, by, reasoning, min_confidence, max_cells_to_generate, unique=unique)
    if copy:
        data = data.copy()
    adata = modality(data)
    loaded = get_model(model)
    chosen = chosen_labels(loaded, labels, tissue)
    if not 0 <= n_runner_up < len(chosen):
        msg = f"n_runner_up is {n_runner_up}; expected 0 to {len(chosen) - 1}, for {len(chosen)} labels with 'unknown'."
        raise ValueError(msg)
    clusters = None
    # without them representatives go by their labels alone
    if "cluster" in (by, reasoning) or (groupby in adata.obs and adata.obs[groupby].notna().all()):
        clusters = clusters_of(adata, groupby)
    if unique and clusters is not None and len(clusters.categories) > len(chosen) - 1:
        msg = (
            f"There are {len(clusters.categories)} clusters in .obs[{groupby!r}] and {len(chosen) - 1} labels, so "
            "unique=True cannot give "
            "each cluster a label of its own. Give more labels, join clusters, or leave unique out."
        )
        raise ValueError(msg)
    results = Results(adata, keys, overwrite=overwrite)
    results.check(_all_slots(keys))
    graph = neighbors_graph(adata) if smooth else None
    # without reasoning the genes are not needed, which a model that reads vectors from elsewhere may not have
    genes = known_genes(loaded) if reasoning else []
    if reasoning and not loaded.gene_reference:
        logger.warning(
            "The model %r has no reference of the genes' means, so its reasoning is shown the highest expressed "
            "genes, not the "
            "informative ones.",
            loaded.config.name,
        )
    matrix = ensure_alignment(results, loaded, layer=layer, gene_symbols=gene_symbols, batch_size=batch_size)
    if reasoning and matrix is None:
        matrix, _ = matrix_to_read(results, genes, layer=layer, gene_symbols=gene_symbols)
    vectors = np.asarray(adata.obsm[embedding_slot(results, loaded)], dtype=np.float32)
    threshold = min_confidence
    if threshold is None:
        threshold = 0.0 if unique else loaded.config.min_confidence
    meanings = None if labels is None else meanings_of(loaded.config.labels, chosen)
    with finish_log(
        f"annotating {adata.n_obs} cells with {loaded.config.name!r} among {len(chosen) - 1} labels"
    ) as slots:
        p = label_probabilities(
            loaded,
            vectors,
            chosen,
            batch_size=LABELLED_AT_ONCE * batch_size,
            closed=labels is None,
            whole=unique,
        )
        if graph is not None:
            p = smooth_probabilities(p, graph)
        curve = loaded.config.calibration
        calibrate = None if curve is None else lambda raw: apply_calibration(raw, *curve)
        if curve is not None and threshold > curve[1][-1]:
            logger.warning(
                "min_confidence is %.2f, and %r is never surer than %.2f: every cell is 'unknown'. Give a lower one.",
                threshold,
                loaded.config.name,
                curve[1][-1],
            )
        if by == "cluster" and clusters is not None:
            p = mean_by_cluster(p, clusters)[clusters.codes]
            # a cell of which nothing is known stays so
            p[~vectors.any(axis=1)] = 0
        given = one_label_each(p, clusters) if unique and clusters is not None else None
        names, terms, confidence = back_off(p, chosen, threshold, calibrate=calibrate, meanings=meanings, given=given)
        if meanings is not None:
            confidence = vouched(confidence, names, meanings)
            report_unknown(loaded, vectors, names, chosen)
        columns = _label_columns(adata, (keys.label, keys.label_id, keys.confidence), names, terms, confidence)
        if "coarse" in levels:
            of_broad, broad, counted_in = coarse_probabilities(p, chosen)
            found = back_off(
                of_broad, broad, threshold, calibrate=calibrate, given=None if given is None else counted_in[given]
            )
            columns |= _label_columns(adata, keys.coarse, *found)
        if reasoning and matrix is not None:
            cells = Labelled(vectors, names, terms, confidence.astype(np.float32), p)
            budget = None
            if reasoning == "representative":
                budget = REPRESENTATIVES if max_cells_to_generate is None else max_cells_to_generate
            about = clusters if reasoning != "cell" else None
            columns |= _reasoned(
                adata, loaded, matrix, cells, chosen, keys, about, batch_size, budget, by_group=reasoning == "cluster"
            )
        if n_runner_up:
            columns[Slot("obsm", keys.runner_up)] = _runner_up(p, chosen, names, n_runner_up, adata)
        if probabilities:
            columns[Slot("obsm", keys.probabilities)] = csr_matrix(p, dtype=np.float32)
        results.remove(slot for slot in _all_slots(keys) if slot not in columns)
        params = {
            "model": loaded.config.name,
            "model_fingerprint": loaded.fingerprint,
            "prompt": prompt_id(loaded),
            "labels": chosen,
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
        slots += results.write("annotate", columns, params)
    return data if copy else None


def _all_slots(keys: Keys) -> list[Slot]:
    """All that annotate may write, and removes when it does not."""
    columns = [keys.label, keys.label_id, keys.confidence, *keys.coarse]
    columns += [keys.reasoning, keys.genes_supported, keys.genes_unsupported, keys.reasoning_of]
    return [Slot("obs", key) for key in columns] + [Slot("obsm", key) for key in (keys.runner_up, keys.probabilities)]


def _label_columns(
    adata: AnnData, slots: tuple[str, str, str], names: np.ndarray, terms: np.ndarray, confidence: np.ndarray
) -> dict[Slot, Any]:
    """Columns of the labels of one level."""
    values = (
        _categorical(names, adata),
        _categorical(terms, adata),
        pd.Series(confidence.astype(np.float32), index=adata.obs_names),
    )
    return {Slot("obs", key): value for key, value in zip(slots, values, strict=True)}


def _check_choices(
    levels: Sequence[str],
    by: str,
    reasoning: str | None,
    min_confidence: float | None,
    max_cells_to_generate: int | None,
    *,
    unique: bool,
) -> None:
    if isinstance(levels, str) or "fine" not in levels or not set(levels) <= set(LEVELS):
        msg = f"levels is {levels!r}; expected ('fine',) or ('fine', 'coarse')."
        raise ValueError(msg)
    if by not in ("cell", "cluster"):
        msg = f"by is {by!r}; expected 'cell' or 'cluster'."
        raise ValueError(msg)
    if unique and by != "cluster":
        msg = f"unique is True with by={by!r}; expected by='cluster', as it is clusters that get a label each."
        raise ValueError(msg)
    if reasoning not in ("representative", "cell", "cluster", None):
        msg = f"reasoning is {reasoning!r}; expected 'representative', 'cell', 'cluster' or None."
        raise ValueError(msg)
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        msg = f"min_confidence is {min_confidence}; expected a probability from 0 to 1, or None for the model's own."
        raise ValueError(msg)
    if max_cells_to_generate is not None and (max_cells_to_generate < 1 or reasoning != "representative"):
        msg = (
            f"max_cells_to_generate is {max_cells_to_generate} with reasoning={reasoning!r}; expected 1 or more, with "
            "reasoning='representative'."
        )
        raise ValueError(msg)


def _categorical(values: np.ndarray, adata: AnnData) -> pd.Series:
    return pd.Series(pd.Categorical(values, categories=sorted(set(values))), index=adata.obs_names)


def _runner_up(
    probabilities: np.ndarray, labels: Sequence[str], given: np.ndarray, n: int, adata: AnnData
) -> pd.DataFrame:
    names, p = runner_up(probabilities, labels, n, given=given)
    table = pd.DataFrame(index=adata.obs_names)
    for k in range(n):
        table[f"label_{k + 1}"] = _categorical(names[:, k], adata)
        table[f"probability_{k + 1}"] = p[:, k].astype(np.float32)
    return table


def _reasoned(
    adata: AnnData,
    model: BioVerse,
    matrix: MatrixProfile,
    cells: Labelled,
    labels: Sequence[str],
    keys: Keys,
    clusters: pd.Categorical | None,
    batch_size: int,
    budget: int | None,
    *,
    by_group: bool,
) -> dict[Slot, Any]:
    """Columns of the reasoning: about each cell, about ``budget`` cells that speak for others, or about groups."""
    maker = CaseMaker(model, matrix.gene_map.genes, labels)
    known = cells.vectors.any(axis=1)
    of: np.ndarray | None = None
    if by_group and clusters is not None:
        # a text is about a label, so cells of one cluster with two labels have two
        group = label_in_cluster(cells.names, clusters)
        written = reason_about_groups(adata, model, matrix, cells, group, maker, batch_size=batch_size)
        texts, supported, unsupported = (values[group.codes] for values in written)
        texts[~known], supported[~known], unsupported[~known] = "", 0, 0
        of = np.where(known, np.asarray(clusters, dtype=str), "").astype(object)
    else:
        rows = np.flatnonzero(known)
        if budget is not None and budget >= len(rows):
            # each cell speaks for itself
            budget = None
        if budget is not None:
            rows = np.sort(representatives(cells.vectors, cells.names, budget, clusters=clusters))
        texts = reason_about_cells(adata, model, matrix, cells, maker, rows, batch_size=batch_size)
        if budget is not None:
            graph = neighbors_graph(adata) if CONNECTIVITIES in adata.obsp else None
            source = propagate(rows, cells.vectors, cells.names, graph)
            texts = np.where(source >= 0, texts[source], "")
            of = np.where(source >= 0, np.asarray(adata.obs_names, dtype=object)[source], "")
            if missing := int(((source < 0) & known).sum()):
                logger.warning(
                    "%d cells have labels that max_cells_to_generate=%d left without a text", missing, budget
                )
        supported, unsupported = check_cells(adata, matrix, texts, cells)
    columns: dict[Slot, Any] = {
        Slot("obs", keys.reasoning): pd.Series(np.asarray(texts, dtype=object), index=adata.obs_names, dtype=object),
        Slot("obs", keys.genes_supported): pd.Series(supported, index=adata.obs_names),
        Slot("obs", keys.genes_unsupported): pd.Series(unsupported, index=adata.obs_names),
    }
    if of is not None:
        columns[Slot("obs", keys.reasoning_of)] = _categorical(of, adata)
    return columns
