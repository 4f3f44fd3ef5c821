"""Real cells without labels: their likely types, and views that the encoder trains on beside simulated cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import scanpy as sc
from scipy.sparse import csr_matrix, vstack
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bioverse_sc.groups import smooth_probabilities
from bioverse_sc.read import gene_matrix

if TYPE_CHECKING:
    from pathlib import Path

    from bioverse_sc.encoders.scgpt import ScGPTEncoder

SETS = ("pbmc_frozenA", "bonemarrow_BM1", "citeseq_pbmc5k_200", "citeseq_pbmc10k_200")


def read_unlabelled(shared: Path, genes: list[str]) -> list[csr_matrix]:
    """Counts of each set over the vocabulary, shape (cells, genes)."""
    place = {gene: j for j, gene in enumerate(genes)}
    sets = []
    for name in SETS:
        adata = ad.read_h5ad(shared / f"data/cells/unlabelled_{name}.h5ad")
        matrix = gene_matrix(adata, genes)
        read = vstack([chunk for _, chunk in matrix.chunks()], format="csr")
        columns = np.array([place[gene] for gene in matrix.genes])
        counts = csr_matrix((read.data, columns[read.indices], read.indptr), shape=(read.shape[0], len(genes)))
        counts.sort_indices()
        sets.append(counts)
    return sets


def neighbors(counts: csr_matrix) -> csr_matrix:
    """The neighbours graph of the usual tutorial: log-normalised, variable genes, principal components."""
    adata = ad.AnnData(counts.astype(np.float32))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=1500)
    adata = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.scale(adata, max_value=10)
    sc.pp.pca(adata, n_comps=30)
    sc.pp.neighbors(adata, n_neighbors=15)
    return csr_matrix(adata.obsp["connectivities"])


def likely_types(
    encoder: ScGPTEncoder,
    real: list[csr_matrix],
    simulated: csr_matrix,
    types: np.ndarray,
    genes: list[str],
    *,
    alpha: float,
    at_least: float,
) -> np.ndarray:
    """Type of each real cell, or -1 where none is likely; shape (cells of all sets,).

    A logistic regression from encoder vectors of simulated cells to their types gives probabilities of the real cells,
    which are spread over their neighbours: what a shallow cell does not show, its neighbours do.
    """
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    classifier.fit(encoder.encode(simulated, genes, batch_size=128), types)
    types_of_sets = []
    for counts in real:
        alone = classifier.predict_proba(encoder.encode(counts, genes, batch_size=128))
        together = smooth_probabilities(alone, neighbors(counts), alpha=alpha)
        sure = together.max(axis=1) >= at_least
        types_of_sets.append(np.where(sure, classifier.classes_[together.argmax(axis=1)], -1))
    return np.concatenate(types_of_sets)


def draw(types: np.ndarray, n: int, *, seed: int, balance: float) -> np.ndarray:
    """Rows of cells that have a type. A type with ``n`` cells is drawn in proportion to ``n ** balance``."""
    known = np.flatnonzero(types >= 0)
    size = np.bincount(types[known])[types[known]].astype(float)
    weight = size ** (balance - 1)
    return np.random.default_rng(seed).choice(known, size=n, p=weight / weight.sum())


def views(
    counts: csr_matrix,
    rows: np.ndarray,
    *,
    seed: int,
    group: int = 64,
    panel_genes: tuple[int, int] = (400, 6000),
    gain_sd: tuple[float, float] = (0.2, 0.7),
    most_thinned: float = 0.2,
) -> csr_matrix:
    """Views of real cells as other laboratories might have them, shape (rows, genes).

    Molecules are lost at random, up to four fifths of a cell's, and more of some genes than of others, alike in each
    group of cells; half of the groups have a panel of genes, of which variable ones are more likely.
    """
    rng = np.random.default_rng(seed)
    n_genes = counts.shape[1]
    log = counts.copy()
    log.data = np.log1p(log.data)
    variance = np.asarray(log.multiply(log).mean(axis=0) - np.square(log.mean(axis=0))).ravel()
    chance = 0.5 * variance / variance.sum() + 0.5 / n_genes
    made = []
    for start in range(0, len(rows), group):
        view = csr_matrix(counts[rows[start : start + group]])
        gain = np.exp(rng.normal(size=n_genes) * rng.uniform(*gain_sd))
        share = np.exp(rng.uniform(np.log(most_thinned), 0, size=view.shape[0]))
        # nothing can be added: of the genes with a gain above one all molecules stay
        stays = np.repeat(share, np.diff(view.indptr)) * np.clip(gain, 0, 1)[view.indices]
        view.data = rng.binomial(view.data.astype(np.int64), stays).astype(np.float32)
        if rng.random() < 0.5:
            size = int(np.exp(rng.uniform(*np.log(panel_genes))))
            view.data[~np.isin(view.indices, rng.choice(n_genes, size=size, replace=False, p=chance))] = 0
        view.eliminate_zeros()
        made.append(view)
    return vstack(made, format="csr")
