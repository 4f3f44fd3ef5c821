"""Reference profiles, the gene vocabulary, and the simulated cells that the encoder and the stages train on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from bioverse_sc.datasets import SimulationConfig, simulate_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
MIN_GENES = 20
"""Cells that show fewer are left out of training."""

# Genes that differ by platform, dissociation, sex or dying cells more than by type.
_TECHNICAL = re.compile(
    r"^(RP[LS]\d|RPLP\d|RPSA$|MT-|MTRNR|MRP[LS]|MALAT1$|NEAT1$|XIST$|TSIX$|RPS4Y|DDX3Y|UTY$|KDM5D|EIF1AY|USP9Y|ZFY$|HSP[ABDEH]|DNAJ"
    r"|FOS|JUN|EGR1$|IER|ATF3$|DUSP1$|RP\d+-|A[CLPF]\d{5,}|CT[ABCD]-|LINC|FAM|EEF|EIF|NDUF|ATP5|COX\d|UQCR|SNOR|C\d+orf)"
)

# Genes that interferons raise in most cells, and those that they raise only where they are expressed at all.
_INTERFERON = (
    "ISG15 ISG20 IFI6 IFI27 IFI35 IFI44 IFI44L IFIT1 IFIT2 IFIT3 IFIT5 IFITM1 IFITM2 IFITM3 IFIH1 MX1 MX2 OAS1 OAS2 "
    "OAS3 OASL "
    "LY6E RSAD2 HERC5 HERC6 USP18 EPSTI1 CMPK2 DDX58 DDX60 DDX60L PARP9 PARP14 SAMD9 SAMD9L XAF1 STAT1 STAT2 IRF1 "
    "IRF7 IRF9 "
    "EIF2AK2 BST2 TRIM22 SP100 SP110 PLSCR1 TNFSF10 GBP1 GBP2 GBP4 GBP5 PSMB8 PSMB9 PSME1 PSME2 TAP1 LAP3 NMI UBE2L6 "
    "NT5C3A"
).split()
_INTERFERON_WHERE_EXPRESSED = (
    "CXCL9 CXCL10 CXCL11 CCL2 CCL7 CCL8 APOBEC3A IDO1 SERPING1 SIGLEC1 FCGR1A FCGR1B TNFSF13B WARS LGALS9 CD38 VAMP5"
).split()


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
    # in the order of their rank: of genes with equal counts a cell shows the encoder the first
    chosen = np.argsort(-rank, kind="stable")[:n_genes]
    rest = 1.0 - mean[:, chosen].sum(axis=1, keepdims=True)
    return Profiles(
        mean=np.hstack([mean[:, chosen], rest]),
        genes=list(adata.var_names[chosen]),
        terms=labels["cl_id"].to_numpy(),
        sets=sets,
        usable=(labels["use"] == "label").to_numpy(),
    )


@dataclass(frozen=True)
class Cells:
    """Simulated counts over the vocabulary and the profile that each cell came from."""

    counts: csr_matrix
    profile: np.ndarray


def stimulated(profiles: Profiles, rng: np.random.Generator) -> np.ndarray:
    """Each profile as interferon changes it, by two to ten times a gene, and more from next to nothing.

    Shape as ``profiles.mean``.
    """
    genes = np.array(profiles.genes)
    everywhere, somewhere = np.isin(genes, _INTERFERON), np.isin(genes, _INTERFERON_WHERE_EXPRESSED)
    mean = profiles.mean.copy()
    strength = rng.uniform(0.3, 1, size=(len(mean), 1))
    fold = np.exp(strength * rng.normal(2.3, 0.7, size=(len(mean), len(genes))))
    raised = (mean[:, :-1] + np.where(everywhere, 1e-5, 0.0)) * fold
    mean[:, :-1] = np.where(everywhere | somewhere, raised, mean[:, :-1])
    return mean / mean.sum(axis=1, keepdims=True)


def simulate(
    profiles: Profiles, n_cells: int, *, seed: int, balance: float, config: SimulationConfig | None = None
) -> Cells:
    """Draw cells. A type with ``n`` profiles is drawn in proportion to ``n ** balance``: 0 is equally often.

    An eighth of the cells has met interferon.
    """
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
    # cells that met interferon are mixed only with their like
    mean = np.vstack([profiles.mean, stimulated(profiles, rng)])
    types = np.concatenate([types, [f"{t}, stimulated" for t in types]])
    drawn = chosen + len(index) * (rng.random(n_cells) < 1 / 8)
    counts = simulate_counts(mean, types, np.tile(profiles.sets, 2), drawn, config=config, seed=seed)
    return Cells(counts=counts[:, :-1].tocsr(), profile=chosen)


def simulate_strangers(
    profiles: Profiles,
    n_cells: int,
    *,
    seed: int,
    n_profiles: int = 2000,
    shares: Sequence[float] = (0.25, 0.2, 0.25, 0.05, 0.25, 0.0, 0.0),
) -> csr_matrix:
    """Draw cells of types that do not exist, for the label "unknown": counts over the vocabulary.

    Each is simulated from a made-up profile of one of seven kinds, by their shares: a true one whose genes have changed
    places, all of them or at least half; noise; the mean of all profiles; the log mean of three or four profiles of any
    types, as a culture that has lost its type looks; a true one drawn towards the log mean of all, with every gene
    changed; a patchwork of four profiles, each gene as in one of them, as a cell line looks that expresses what no type
    has together.
    """
    rng = np.random.default_rng(seed)
    usable = np.flatnonzero(profiles.usable)
    n_genes = profiles.mean.shape[1] - 1
    made = np.empty((n_profiles, n_genes + 1))
    log_mean = np.log(profiles.mean[usable] + 1e-7).mean(axis=0)
    for row, kind in zip(made, rng.choice(len(shares), size=n_profiles, p=shares), strict=True):
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
        elif kind == 4:
            drawn = rng.choice(usable, size=rng.integers(3, 5), replace=False)
            row[:] = np.exp(np.log(profiles.mean[drawn] + 1e-7).mean(axis=0))
        elif kind == 5:
            towards = rng.uniform(0.3, 0.7)
            changed = rng.standard_normal(n_genes + 1) * rng.uniform(0.5, 1.2)
            row[:] = np.exp((1 - towards) * np.log(row + 1e-7) + towards * log_mean + changed)
        else:
            drawn = rng.choice(usable, size=4, replace=False)
            source = rng.choice(4, size=n_genes + 1, p=rng.dirichlet([1.5] * 4))
            row[:] = profiles.mean[drawn[source], np.arange(n_genes + 1)]
    chosen = rng.integers(n_profiles, size=n_cells)
    one_set = np.zeros(n_profiles, dtype=int)
    return simulate_counts(made, np.arange(n_profiles), one_set, chosen, seed=seed)[:, :-1].tocsr()


def gene_vectors(profiles: Profiles, width: int) -> np.ndarray:
    """Vectors of genes from a singular value decomposition of the log profiles, shape (genes, width), spread 1."""
    log = np.log1p(profiles.mean[:, :-1] * 1e4)
    log = (log - log.mean(axis=0)) / (log.std(axis=0) + 0.1)
    _, values, right = np.linalg.svd(log, full_matrices=False)
    vectors = right[:width].T * np.sqrt(values[:width])
    return (vectors / vectors.std()).astype(np.float32)
