"""Labels and reasoning by the language model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger, progress
from bioverse_sc._modalities import modality, row_chunks
from bioverse_sc._models import get_model
from bioverse_sc._record import record
from bioverse_sc._validation import check_batch_size, check_labels
from bioverse_sc.ontology import UNKNOWN, cell_ontology
from bioverse_sc.pp._genes import gene_table
from bioverse_sc.pp._profile import get_matrix, profile
from bioverse_sc.tl._align import ensure_alignment
from bioverse_sc.tl._embed import embedding_slot
from bioverse_sc.tl._prompts import prompt_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from scipy.sparse import csr_matrix

    from bioverse_sc.models import BioVerse
    from bioverse_sc.pp._profile import MatrixProfile

GENES_SHOWN = 12
"""Informative genes of a cell that the reasoning prompt lists."""
REASONING_TOKENS = 96
SYMBOL = re.compile(r"[A-Za-z0-9]+(?:[-.][A-Za-z0-9]+)*(?![+])\b")


def annotate(
    data: AnnData | MuData,
    *,
    model: str | Path | BioVerse = "mini",
    labels: Sequence[str] | None = None,
    reasoning: Literal["cell"] | None = "cell",
    layer: str | None = None,
    gene_symbols: str | None = None,
    batch_size: int = 64,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Label cells and say why: embeds, aligns and annotates, each step only when its result is not there yet.

    The language model reads a cell through its soft token alone and gives every label of the set a probability, over a
    trie of the labels (BioVERSE, arXiv 2510.01428, with constrained decoding). Then it is shown its label and the cell's
    informative genes, those that exceed the average profile most, and writes the reasoning greedily. A constraint of
    decoding keeps it from naming a gene that it was not shown, or one twice; the words, and which of the shown genes it
    names, are its own. The genes that it names are then looked up in the cell.

    Parameters
    ----------
    data
        AnnData, or MuData with an ``"rna"`` modality.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    labels
        Labels to choose from; the model's label set (Cell Ontology names) by default. A label that the Cell Ontology
        knows by name or exact synonym also collects the probability of the model's own labels below it.
    reasoning
        ``"cell"`` for a text per cell, ``None`` for none.
    layer, gene_symbols
        As for :func:`bioverse_sc.tl.embed`.
    batch_size
        Cells per forward pass. It does not change the result beyond rounding.
    key_added
        Stem of the slots' names instead of ``"bioverse"``.
    copy
        Whether to return a copy instead of writing to ``data``.

    Returns
    -------
    ``None``, or a copy when ``copy=True``. Sets what :func:`bioverse_sc.tl.embed` and :func:`bioverse_sc.tl.align` set, if
    missing, and:

    ``.obs["bioverse_label"]``
        Label, categorical; ``"unknown"`` for a cell without any known gene.
    ``.obs["bioverse_label_id"]``
        Cell Ontology id, categorical; ``""`` when there is none.
    ``.obs["bioverse_confidence"]``
        Probability of the label among the labels, 0 to 1.
    ``.obs["bioverse_reasoning"]``
        Generated text. Only with ``reasoning="cell"``, as the next two.
    ``.obs["bioverse_genes_supported"]``
        Number of different genes that the text names and the cell expresses.
    ``.obs["bioverse_genes_unsupported"]``
        Number of different genes that the text names and the cell does not express.
    ``.uns["bioverse"]["annotate"]``
        Provenance.

    Raises
    ------
    ValueError
        When the data are unusable (see :func:`bioverse_sc.pp.profile`), ``labels`` is empty or has duplicates, or the model is unknown.
    """
    check_labels(labels)
    check_batch_size(batch_size)
    if reasoning not in ("cell", None):
        msg = f"reasoning is {reasoning!r}; expected 'cell' or None."
        raise ValueError(msg)
    if copy:
        data = data.copy()
    adata = modality(data)
    loaded = get_model(model)
    chosen = list(labels) if labels is not None else own_labels(loaded)
    keys = Keys(key_added or "bioverse")
    # without reasoning the genes are not needed, which a model that reads vectors from elsewhere may not have
    matrix = None
    if reasoning == "cell" or "rna" in loaded.encoders:
        matrix = profile(adata, vocabulary=known_genes(loaded), layer=layer, gene_symbols=gene_symbols)
    if reasoning == "cell" and not loaded.gene_reference:
        logger.warning(
            "The model %r has no reference of the genes' means, so its reasoning is shown the highest expressed genes, not the "
            "informative ones.",
            loaded.config.name,
        )
    ensure_alignment(adata, loaded, keys, layer=layer, gene_symbols=gene_symbols, batch_size=batch_size)
    vectors = np.asarray(adata.obsm[embedding_slot(adata, loaded, keys)], dtype=np.float32)
    with finish_log(f"annotating {adata.n_obs} cells with {loaded.config.name!r} among {len(chosen)} labels") as slots:
        names, confidence = label_cells(loaded, vectors, chosen, batch_size=batch_size)
        ids = {name: cell_ontology().find(name) or "" for name in chosen} | {UNKNOWN: ""}
        results: dict[str, pd.Series] = {
            keys.label: _categorical(names, adata),
            keys.label_id: _categorical(np.array([ids[name] for name in names], dtype=object), adata),
            keys.confidence: pd.Series(confidence, index=adata.obs_names),
        }
        if reasoning == "cell" and matrix is not None:
            texts, supported, unsupported = reason_about_cells(
                adata, loaded, matrix, vectors, names, gene_symbols=gene_symbols, batch_size=batch_size
            )
            results[keys.reasoning] = pd.Series(texts, index=adata.obs_names, dtype=object)
            results[keys.genes_supported] = pd.Series(supported, index=adata.obs_names)
            results[keys.genes_unsupported] = pd.Series(unsupported, index=adata.obs_names)
        else:
            for stale in (keys.reasoning, keys.genes_supported, keys.genes_unsupported):
                if stale in adata.obs:
                    del adata.obs[stale]
        for slot, column in results.items():
            adata.obs[slot] = column
            slots.append(f"'{slot}' (adata.obs)")
        params = {
            "model": loaded.config.name,
            "model_fingerprint": loaded.fingerprint,
            "prompt": prompt_id(loaded),
            "labels": chosen,
            "reasoning": reasoning or "",
            "temperature": loaded.config.temperature,
            "device": str(loaded.device),
        }
        slots.append(record(adata, keys, "annotate", params))
    return data if copy else None


def own_labels(model: BioVerse) -> list[str]:
    """The model's label set."""
    if not model.config.labels:
        msg = f"The model {model.config.name!r} has no label set of its own; name the labels, labels=['B cell', 'T cell', ...]."
        raise ValueError(msg)
    return list(model.config.labels)


def known_genes(model: BioVerse) -> list[str]:
    """Genes that the reasoning may show: those of the encoder, or of the model's reference when it has no encoder."""
    genes = list(model.encoders["rna"].genes) if "rna" in model.encoders else list(model.gene_reference)
    if not genes:
        msg = (
            f"The model {model.config.name!r} knows no genes, which the reasoning names; annotate with reasoning=None."
        )
        raise ValueError(msg)
    return genes


def _categorical(values: np.ndarray, adata: AnnData) -> pd.Series:
    return pd.Series(pd.Categorical(values, categories=sorted(set(values))), index=adata.obs_names)


def label_cells(
    model: BioVerse, vectors: np.ndarray, labels: Sequence[str], *, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Best label of each cell and its probability; ``unknown`` and 0 for a vector of zeros."""
    names = np.full(len(vectors), UNKNOWN, dtype=object)
    confidence = np.zeros(len(vectors), dtype=np.float32)
    real = np.flatnonzero(vectors.any(axis=1))
    with progress(total=len(vectors), description="label", unit="cell") as bar:
        for start in range(0, len(real), batch_size):
            rows = real[start : start + batch_size]
            probabilities = label_probabilities(model, vectors[rows], labels)
            best = probabilities.argmax(axis=1)
            names[rows] = np.array(labels, dtype=object)[best]
            confidence[rows] = probabilities[np.arange(len(rows)), best]
            bar.update(len(rows))
    return names, confidence


def label_probabilities(model: BioVerse, vectors: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """Probability of each label, shape (cells, labels), rows sum to 1.

    The model scores its own label set and the user's labels that are not in it, in one trie. A user's label that the Cell
    Ontology knows then takes over what the model gave to labels of its own at or below that term; the nearest of the
    user's terms takes it where several would. A cell for which that leaves nothing is scored over the user's labels alone.
    """
    import torch

    from bioverse_sc.models._generate import label_log_probabilities
    from bioverse_sc.models._prompt import label_prompt

    prompt = label_prompt(prompts=model.config.prompts)
    own = list(model.config.labels)
    asked = own + [label for label in labels if label not in own]
    with torch.inference_mode():
        soft_tokens = model.project("rna", torch.from_numpy(vectors).to(model.device))
    log_p = label_log_probabilities(model, prompt, soft_tokens, asked) / model.config.temperature
    into = np.zeros((len(asked), len(labels)))
    for i, label in enumerate(asked):
        target = _collector(label, labels)
        if target is not None:
            into[i, target] = 1
    collected = np.exp(log_p - log_p.max(axis=1, keepdims=True)) @ into
    if (left_out := np.flatnonzero(collected.sum(axis=1) == 0)).size:
        alone = label_log_probabilities(model, prompt, soft_tokens[left_out], labels)
        collected[left_out] = np.exp(alone / model.config.temperature)
    return collected / collected.sum(axis=1, keepdims=True)


def _collector(label: str, labels: Sequence[str]) -> int | None:
    """Index of the asked label that takes the probability of ``label``: itself, or the nearest term above it."""
    if label in labels:
        return list(labels).index(label)
    ontology = cell_ontology()
    term = ontology.find(label)
    if term is None:
        return None
    above = ontology.ancestors(term)
    terms = [(ontology.find(asked), i) for i, asked in enumerate(labels)]
    candidates = [(len(ontology.ancestors(t)), -i) for t, i in terms if t in above]
    return -max(candidates)[1] if candidates else None


def informative_genes(model: BioVerse, chunk: csr_matrix, genes: Sequence[str], *, logged: bool) -> list[list[str]]:
    """Genes that exceed the average profile most in each cell, at most :data:`GENES_SHOWN`.

    A cell and the average profile are scaled to 10,000 over the genes that both have; the excess is the difference of
    ``log1p``, times the gene's weight in the model's reference. So the choice does not depend on the other cells.
    """
    reference = np.array([model.gene_reference.get(gene, (0.0, 1.0)) for gene in genes])
    mean, weight = reference[:, 0], reference[:, 1]
    mean = np.log1p(mean / max(mean.sum(), 1e-12) * 1e4)
    values = chunk.copy()
    if logged:
        values.data = np.expm1(values.data)
    totals = np.asarray(values.sum(axis=1)).ravel()
    shown = []
    for i in range(values.shape[0]):
        span = slice(values.indptr[i], values.indptr[i + 1])
        columns = values.indices[span]
        excess = np.log1p(values.data[span] / max(totals[i], 1e-12) * 1e4) - mean[columns]
        score = excess * weight[columns]
        best = np.lexsort((columns, -score))[:GENES_SHOWN]
        shown.append([genes[columns[j]] for j in best if score[j] > 0])
    return shown


def reason_about_cells(
    adata: AnnData,
    model: BioVerse,
    matrix: MatrixProfile,
    vectors: np.ndarray,
    names: np.ndarray,
    *,
    gene_symbols: str | None,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reasoning of each cell, and how many of the genes that it names the cell expresses and does not."""
    import torch

    from bioverse_sc.models._generate import Decoding, ShownGenes, generate_text
    from bioverse_sc.models._prompt import reasoning_prompt

    texts = np.full(len(vectors), "", dtype=object)
    supported = np.zeros(len(vectors), dtype=np.int64)
    unsupported = np.zeros(len(vectors), dtype=np.int64)
    source = get_matrix(adata, matrix.source)
    genes = matrix.gene_map.genes
    symbols = known_symbols(genes)
    with progress(total=len(vectors), description="reason", unit="cell") as bar:
        for rows, raw_chunk in row_chunks(source, matrix.gene_map.columns):
            chunk = matrix.gene_map.gather(raw_chunk)
            shown = informative_genes(model, chunk, genes, logged=matrix.kind == "log-normalised")
            real = [i for i in range(chunk.shape[0]) if vectors[rows.start + i].any()]
            # prompts of one length need no padding
            real.sort(key=lambda i: (len(shown[i]), i))
            for start in range(0, len(real), batch_size):
                part = real[start : start + batch_size]
                cells = np.array(part) + rows.start
                prompts = [
                    reasoning_prompt(names[cell], shown[i], prompts=model.config.prompts)
                    for cell, i in zip(cells, part, strict=True)
                ]
                with torch.inference_mode():
                    soft_tokens = model.project("rna", torch.from_numpy(vectors[cells]).to(model.device))
                allowed = ShownGenes(model, symbols, [shown[i] for i in part])
                texts[cells] = generate_text(
                    model, prompts, soft_tokens, Decoding(max_new_tokens=REASONING_TOKENS), constraint=allowed
                )
                bar.update(len(part))
            _check_named_genes(texts, supported, unsupported, chunk, genes, symbols, rows.start)
    return texts, supported, unsupported


def known_symbols(genes: Sequence[str]) -> list[str]:
    """What counts as a gene in a text: the data's genes and the approved symbols; an alias may be a word, as ``T`` is."""
    return sorted({*gene_table()[0].values(), *genes})


def _check_named_genes(
    texts: np.ndarray,
    supported: np.ndarray,
    unsupported: np.ndarray,
    chunk: csr_matrix,
    genes: Sequence[str],
    symbols: Sequence[str],
    start: int,
) -> None:
    """Look up the genes that each text names."""
    known = set(symbols)
    column = {gene: j for j, gene in enumerate(genes)}
    for i in range(chunk.shape[0]):
        expressed = set(chunk.indices[chunk.indptr[i] : chunk.indptr[i + 1]])
        named = named_genes(texts[start + i], known)
        supported[start + i] = sum(column.get(gene) in expressed for gene in named)
        unsupported[start + i] = len(named) - supported[start + i]


def named_genes(text: str, known: set[str]) -> set[str]:
    """Gene symbols that stand in a text as words of their own."""
    return {word for word in SYMBOL.findall(text) if word in known}
