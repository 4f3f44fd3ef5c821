"""Single cells simulated from mean expression profiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, vstack


@dataclass(frozen=True)
class SimulationConfig:
    """How cells are drawn from profiles. Ranges are drawn uniformly per cell, or per group of cells where it says so.

    The defaults cover droplet and plate protocols: 10x v2 PBMC sit near 2,000 counts a cell, plates above 50,000.
    """

    depth: tuple[float, float] = (500.0, 20000.0)
    """Counts per cell over all genes, log-uniform."""
    ambient: tuple[float, float] = (0.0, 0.2)
    """Share of a cell's counts that come from the mean of its profile set."""
    gene_effect_sd: float = 0.35
    """Log-normal spread of each gene in each cell (biological variation; makes the counts gamma-Poisson-like)."""
    batch_effect_sd: tuple[float, float] = (0.2, 0.7)
    """Log-normal spread of each gene in each group of cells (platform and laboratory)."""
    style: tuple[float, float] = (0.0, 0.7)
    """Weight of the log ratio between two profiles of one random type, added to all cells of a group: what differs
    between sets in one type (platform, interferon, stress) may differ in every type."""
    batch_cells: int = 64
    """Cells that share a batch effect and a gene panel."""
    mix: tuple[float, float] = (0.0, 1.0)
    """Weight of a second profile of the same type, log-linear, where there is one: the types differ less by set."""
    panel_share: float = 0.5
    """Share of the groups whose matrix has a gene panel instead of all genes."""
    panel_genes: tuple[int, int] = (400, 6000)
    """Genes of a panel, log-uniform; variable genes are more likely to be on it, as in published reduced matrices."""


def simulate_counts(
    profiles: np.ndarray,
    types: np.ndarray,
    sets: np.ndarray,
    chosen: np.ndarray,
    *,
    config: SimulationConfig | None = None,
    seed: int = 0,
) -> csr_matrix:
    """Draw one cell for each chosen profile.

    Counts are Poisson around the profile times a log-normal gene effect (so over-dispersed, close to gamma-Poisson),
    scaled to the cell's depth, plus ambient counts from the mean of the profile's set.

    Parameters
    ----------
    profiles
        Mean expression, shape (profiles, genes), non-negative; rows are scaled to sum 1.
    types
        Type of each profile; profiles of one type are mixed with each other.
    sets
        Set (tissue, study) of each profile; its mean is the ambient RNA.
    chosen
        Index of the profile of each cell, shape (cells,). Cells of one group share a batch effect and a gene panel, so
        shuffle them first.
    config
        How to draw.
    seed
        Seed; equal seeds give equal counts.

    Returns
    -------
    Counts, shape (cells, genes), float32; genes that are not on a cell's panel are zero.
    """
    config = config or SimulationConfig()
    rng = np.random.default_rng(seed)
    mean = profiles / profiles.sum(axis=1, keepdims=True)
    ambient_of = {s: mean[sets == s].mean(axis=0) for s in np.unique(sets)}
    same_type = {t: np.flatnonzero(types == t) for t in np.unique(types)}
    log_mean = np.log(mean + 1e-7)
    variability = log_mean.std(axis=0)
    panel_weight = variability**2 / (variability**2).sum()
    several = [index for index in same_type.values() if len(index) > 1]
    blocks = []
    for start in range(0, len(chosen), config.batch_cells):
        index = chosen[start : start + config.batch_cells]
        n_cells, n_genes = len(index), mean.shape[1]
        other = np.array([rng.choice(same_type[types[i]]) for i in index])
        weight = _uniform(rng, config.mix, n_cells) * (other != index)[:, None]
        rate = np.exp((1 - weight) * log_mean[index] + weight * log_mean[other])
        log_shift = rng.standard_normal((1, n_genes), dtype=np.float32) * _uniform(rng, config.batch_effect_sd, 1)
        if several:
            one, two = rng.choice(several[rng.integers(len(several))], size=2, replace=False)
            log_shift += _uniform(rng, config.style, 1) * np.clip(log_mean[one] - log_mean[two], -2, 2)
        rate *= np.exp(log_shift)
        rate *= np.exp(rng.standard_normal((n_cells, n_genes), dtype=np.float32) * config.gene_effect_sd)
        rate /= rate.sum(axis=1, keepdims=True)
        share = _uniform(rng, config.ambient, n_cells)
        rate = (1 - share) * rate + share * np.stack([ambient_of[sets[i]] for i in index])
        rate *= np.exp(_uniform(rng, np.log(config.depth), n_cells))
        if rng.random() < config.panel_share:
            size = int(np.exp(_uniform(rng, np.log(config.panel_genes), 1)[0, 0]))
            # half of the panels follow variability, as selected genes do; the others are any genes
            weights = panel_weight if rng.random() < 0.5 else None
            size = min(size, int((panel_weight > 0).sum()))
            panel = rng.choice(n_genes, size=size, replace=False, p=weights)
            on_panel = np.zeros(n_genes, dtype=bool)
            on_panel[panel] = True
            rate[:, ~on_panel] = 0
        blocks.append(csr_matrix(rng.poisson(rate).astype(np.float32)))
    return vstack(blocks, format="csr")


def _uniform(rng: np.random.Generator, bounds: tuple[float, float] | np.ndarray, n: int) -> np.ndarray:
    """Draw a column of ``n`` numbers."""
    return rng.uniform(bounds[0], bounds[1], size=(n, 1))
