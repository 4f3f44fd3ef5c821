"""The baselines of ``accuracy.py``: each gives cells the Cell Ontology id of one of the reference profiles' types."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack
from scipy.stats import rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes/mini"))

from cells import MIN_GENES, Profiles, simulate
from recipe import Recipe

import bioverse_sc as bsc
from bioverse_sc.ontology import UNKNOWN, cell_ontology
from bioverse_sc.read import gene_matrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bioverse_sc.models import BioVerse

PROBE = "probe"


@dataclass(frozen=True)
class Query:
    """Cells to label, as the baselines read them."""

    log: csr_matrix
    """``log1p`` of 10,000 over ``genes``."""
    genes: list[str]
    """Those of the vocabulary that the cells have."""
    vectors: list[np.ndarray]
    """Embedding by each model."""
    log_seconds: float
    vector_seconds: float

    def over(self, genes: Sequence[str]) -> csr_matrix:
        """Other columns: a gene that the cells do not have is zero."""
        place = {gene: j for j, gene in enumerate(genes)}
        at = np.array([place[gene] for gene in self.genes])
        return csr_matrix((self.log.data, at[self.log.indices], self.log.indptr), shape=(self.log.shape[0], len(genes)))


Labeller = Callable[[Query], np.ndarray]
"""Gives the Cell Ontology id of each cell."""


def log_normalise(values: csr_matrix) -> csr_matrix:
    log = values.astype(np.float32)
    totals = np.asarray(log.sum(axis=1)).ravel()
    log.data *= np.repeat(1e4 / np.maximum(totals, 1e-9), np.diff(log.indptr)).astype(np.float32)
    return log.log1p()


def prepare(adata: ad.AnnData, vocabulary: Sequence[str], models: Iterable[BioVerse]) -> Query:
    """Find the matrix as ``bsc.tl.annotate`` does, and embed."""
    began = time.perf_counter()
    matrix = gene_matrix(adata, vocabulary)
    values = vstack([chunk for _, chunk in matrix.chunks()], format="csr")  # (cells, genes)
    if matrix.is_logged:
        values.data = np.expm1(values.data)
    log = log_normalise(values)
    logged = time.perf_counter()
    vectors = []
    for model in models:
        embedded = bsc.tl.embed(adata, model=model, mod="rna", copy=True)
        vectors.append(embedded.obsm[f"X_{model.encoders['rna'].name}"])
    seconds = (time.perf_counter() - logged) / max(1, len(vectors))
    return Query(log, list(matrix.genes), vectors, logged - began, seconds)


def by_profile(profiles: Profiles) -> Labeller:
    """Type of the reference profile with the highest Spearman correlation."""
    terms = profiles.terms[profiles.usable]
    place = {gene: j for j, gene in enumerate(profiles.genes)}

    def label(query: Query) -> np.ndarray:
        columns = [place[gene] for gene in query.genes]
        reference = rankdata(profiles.mean[profiles.usable][:, columns], axis=1)
        reference = (reference - reference.mean(axis=1, keepdims=True)) / reference.std(axis=1, keepdims=True)
        likest = []
        for start in range(0, query.log.shape[0], 1000):
            ranks = rankdata(query.log[start : start + 1000].toarray(), axis=1)
            ranks -= ranks.mean(axis=1, keepdims=True)
            likest.append(terms[(ranks @ reference.T).argmax(axis=1)])
        return np.concatenate(likest)

    return label


def by_markers(terms: Sequence[str]) -> Labeller:
    """Term whose markers decoupler scores best, of those with five markers in the data.

    ``unknown`` for a cell without any gene.
    """
    import decoupler

    markers = cell_ontology().markers
    rows = [(term, gene, np.log1p(sources)) for term in terms for gene, sources in markers.get(term, {}).items()]
    net = pd.DataFrame(rows, columns=["source", "target", "weight"])
    # its first call compiles, which is no part of labelling
    genes = net["target"].unique()
    decoupler.mt.ulm([np.eye(2, len(genes)) + 1, ["0", "1"], genes], net)

    def label(query: Query) -> np.ndarray:
        cells = np.array([str(i) for i in range(query.log.shape[0])])
        scores, _ = decoupler.mt.ulm([query.log.toarray(), cells, query.genes], net)
        return scores.idxmax(axis=1).reindex(cells).fillna(UNKNOWN).to_numpy()

    return label


def by_celltypist(log: csr_matrix, terms: np.ndarray, genes: Sequence[str], *, seed: int, threads: int) -> Labeller:
    import celltypist

    celltypist.logger.set_level(40)
    with warnings.catch_warnings():
        # five passes are what its tutorial takes
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = celltypist.train(
            log, terms, list(genes), use_SGD=True, alpha=0.01, max_iter=5, n_jobs=threads, random_state=seed
        )

    def label(query: Query) -> np.ndarray:
        adata = ad.AnnData(query.log.toarray(), var=pd.DataFrame(index=query.genes))
        adata.obs_names = adata.obs_names.astype(str)
        labels = celltypist.annotate(adata, model).predicted_labels["predicted_labels"]
        return labels.astype(str).to_numpy()

    return label


def by_probe(vectors: np.ndarray, terms: np.ndarray, *, seed: int, model: int) -> Labeller:
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, random_state=seed)).fit(vectors, terms)
    return lambda query: probe.predict(query.vectors[model])


def by_expression(log: csr_matrix, terms: np.ndarray, genes: Sequence[str], *, seed: int) -> Labeller:
    classifier = LogisticRegression(max_iter=200, random_state=seed).fit(log, terms)
    return lambda query: classifier.predict(query.over(genes))


def labelled_cells(profiles: Profiles, n_cells: int, *, seed: int, balance: float) -> tuple[csr_matrix, np.ndarray]:
    """Counts and types of simulated cells, without the mixed profiles and nearly empty cells."""
    cells = simulate(profiles, n_cells, seed=seed, balance=balance)
    rows = np.flatnonzero(profiles.usable[cells.profile] & (np.diff(cells.counts.indptr) >= MIN_GENES))
    return cells.counts[rows], profiles.terms[cells.profile[rows]].astype(str)


def train(
    profiles: Profiles, n_cells: int, models: Sequence[BioVerse], *, seed: int, turn: int, threads: int
) -> tuple[dict[str, Labeller], dict[str, float]]:
    """Simulate cells and train on them; the probe's model is the ``turn``-th. Labellers, and seconds of training."""
    began = time.perf_counter()
    counts, terms = labelled_cells(profiles, n_cells, seed=seed, balance=Recipe().balance)
    log, seconds = log_normalise(counts), {"simulating cells": time.perf_counter() - began}
    which = turn % len(models)

    def probe() -> Labeller:
        vectors = models[which].encoders["rna"].encode(counts, profiles.genes, batch_size=128)
        return by_probe(vectors, terms, seed=seed, model=which)

    calls = {
        "CellTypist": lambda: by_celltypist(log, terms, profiles.genes, seed=seed, threads=threads),
        PROBE: probe,
        "LogisticRegression": lambda: by_expression(log, terms, profiles.genes, seed=seed),
    }
    labellers = {}
    for name, call in calls.items():
        began = time.perf_counter()
        labellers[name] = call()
        seconds[name] = time.perf_counter() - began
    return labellers, seconds
