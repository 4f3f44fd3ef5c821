"""Reference profiles, the gene vocabulary, and the simulated cells that the encoder and the stages train on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from bioverse_sc.datasets import SimulationConfig, simulate_counts

HERE = Path(__file__).parent

# Genes that differ by platform, dissociation, sex or dying cells more than by type.
_TECHNICAL = re.compile(
    r"^(RP[LS]\d|RPLP\d|RPSA$|MT-|MTRNR|MRP[LS]|MALAT1$|NEAT1$|XIST$|TSIX$|RPS4Y|DDX3Y|UTY$|KDM5D|EIF1AY|USP9Y|ZFY$|HSP[ABDEH]|DNAJ"
    r"|FOS|JUN|EGR1$|IER|ATF3$|DUSP1$|RP\d+-|A[CLPF]\d{5,}|CT[ABCD]-|LINC|FAM|EEF|EIF|NDUF|ATP5|COX\d|UQCR|SNOR|C\d+orf)"
)


@dataclass(frozen=True)
class Profiles:
    """Mean profiles with their terms; ``usable`` marks those whose name is one type and not a mixture."""

    mean: np.ndarray
    """Shape (profiles, genes + 1), rows sum to 1; the last column holds all genes that are not in the vocabulary."""
    genes: list[str]
    terms: np.ndarray
    sets: np.ndarray
    usable: np.ndarray


def read_profiles(shared: Path, *, n_genes: int) -> Profiles:
    """Read the profiles and choose the vocabulary: the genes that vary most inside the profile sets."""
    adata = ad.read_h5ad(shared / "data/profiles/cellprofilelibrary_human.h5ad")
    labels = pd.read_csv(HERE / "profile_labels.csv").set_index("profile").loc[adata.obs_names]
    sets = (adata.obs["tissue"].astype(str) + "|" + adata.obs["stage"].astype(str)).to_numpy()
    mean = np.asarray(adata.X.todense(), dtype=np.float64)
    mean /= mean.sum(axis=1, keepdims=True)
    log = np.log1p(mean * 1e4)
    within = np.mean([log[sets == s].var(axis=0) for s in np.unique(sets) if (sets == s).sum() > 4], axis=0)
    technical = np.array([bool(_TECHNICAL.match(g)) for g in adata.var_names])
    markers = pd.read_csv(shared / "data/knowledge/cellmarker_accordion_human.tsv.gz", sep="\t", low_memory=False)
    evidence = markers[markers["marker_type"] == "positive"].groupby("marker")["ECs_global"].max()
    strong = adata.var_names.isin(evidence.index[evidence >= 5])
    rank = np.where(technical, -1.0, within * np.where(strong, 3.0, 1.0))
    kept = np.sort(np.argsort(-rank, kind="stable")[:n_genes])
    rest = 1.0 - mean[:, kept].sum(axis=1, keepdims=True)
    return Profiles(
        mean=np.hstack([mean[:, kept], rest]),
        genes=list(adata.var_names[kept]),
        terms=labels["cl_id"].to_numpy(),
        sets=sets,
        usable=(labels["use"] == "label").to_numpy(),
    )


@dataclass(frozen=True)
class Cells:
    """Simulated counts over the vocabulary and the profile that each cell came from."""

    counts: csr_matrix
    profile: np.ndarray


def simulate(
    profiles: Profiles, n_cells: int, *, seed: int, balance: float, config: SimulationConfig | None = None
) -> Cells:
    """Draw cells. A type with ``n`` profiles is drawn in proportion to ``n ** balance``: 0 is equally often."""
    rng = np.random.default_rng(seed)
    index = np.arange(len(profiles.terms))
    weight = np.zeros(len(index))
    for term in np.unique(profiles.terms):
        same = (profiles.terms == term) & profiles.usable
        if same.any():
            weight[same] = same.sum() ** (balance - 1)
    weight[~profiles.usable] = 0.1
    chosen = rng.choice(index, size=n_cells, p=weight / weight.sum())
    # a profile that is no clean example of its type is mixed with no other
    types = np.where(profiles.usable, profiles.terms, [f"profile {i}" for i in index])
    counts = simulate_counts(profiles.mean, types, profiles.sets, chosen, config=config, seed=seed)
    return Cells(counts=counts[:, :-1].tocsr(), profile=chosen)


def simulate_strangers(profiles: Profiles, n_cells: int, *, seed: int, n_profiles: int = 2000) -> csr_matrix:
    """Draw cells of types that do not exist, for the label "unknown": counts over the vocabulary.

    Each is simulated from a made-up profile: a true one whose genes, all or at least half of them, have changed places; noise; the
    mean of all profiles; or the log mean of three or four profiles of any types, as a culture that has lost its type looks.
    """
    rng = np.random.default_rng(seed)
    usable = np.flatnonzero(profiles.usable)
    n_genes = profiles.mean.shape[1] - 1
    made = np.empty((n_profiles, n_genes + 1))
    for row, kind in zip(made, rng.choice(5, size=n_profiles, p=[0.25, 0.2, 0.25, 0.05, 0.25]), strict=True):
        row[:] = profiles.mean[rng.choice(usable)]
        if kind < 2:
            share = 1.0 if kind == 0 else rng.uniform(0.5, 1)
            moved = np.flatnonzero(rng.random(n_genes) < share)
            row[moved] = row[rng.permutation(moved)]
        elif kind == 2:
            noise = np.exp(rng.standard_normal(n_genes) * rng.uniform(0, 3))
            row[:-1] = noise / noise.sum() * row[:-1].sum()
        elif kind == 3:
            row[:] = profiles.mean[usable].mean(axis=0)
        else:
            drawn = rng.choice(usable, size=rng.integers(3, 5), replace=False)
            row[:] = np.exp(np.log(profiles.mean[drawn] + 1e-7).mean(axis=0))
    chosen = rng.integers(n_profiles, size=n_cells)
    one_set = np.zeros(n_profiles, dtype=int)
    return simulate_counts(made, np.arange(n_profiles), one_set, chosen, seed=seed)[:, :-1].tocsr()
