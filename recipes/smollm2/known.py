"""Cells that conversations are about, and what is known of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

sys.path.insert(0, str(Path(__file__).parents[1] / "mini"))

import real_cells

import bioverse_sc as bsc
from bioverse_sc.facts import CellFacts, cell_facts
from bioverse_sc.models import PROMPTS, label_probabilities
from bioverse_sc.ontology import UNKNOWN
from bioverse_sc.read import whole_matrix
from bioverse_sc.reasoning import detected

HELD_OUT_TYPES = (
    "mast cell",
    "hepatocyte",
    "type B pancreatic cell",
    "plasmacytoid dendritic cell",
    "mature NK T cell",
    "endothelial cell of lymphatic vessel",
    "paneth cell",
    "erythroblast",
    "plasmablast",
    "smooth muscle cell",
)
"""Types of which no conversation tells, so that questions about them measure what carries over."""
TEMPLATES = PROMPTS | {"facts": "Facts:\n{facts}\n", "ask": "Question: {question}"}
"""Those of ``align_cells.yaml``."""
REAL_SHARE = 0.3
"""Of the cells, those that are real, with all their genes."""
GROUP_SHARE = 0.1
"""Of the cells, those that stand for a group of their like, as a cluster."""
STUDY = {
    "tissue": ["blood", "lung", "liver", "bone marrow", "ileum", "kidney", "pancreas", "skin", "spleen", "brain"],
    "disease": ["healthy", "COVID-19", "lupus", "Crohn disease", "none"],
    "donor": ["D1", "D17", "P03", "H2"],
    "condition": ["control", "stimulated", "day 3", "treated"],
}


def real_and_simulated(
    shared: Path, adata: ad.AnnData, genes: list[str], n: int, rng: np.random.Generator
) -> tuple[ad.AnnData, list[CellFacts]]:
    """Cells with what is known of them: simulated ones, and real ones with all genes that they were measured with."""
    n_real = int(n * REAL_SHARE)
    labels = adata.obs["label"].to_numpy()
    allowed = (adata.obs["kind"] == "simulated").to_numpy() & ~np.isin(labels, HELD_OUT_TYPES)
    size = pd.Series(labels[allowed]).map(pd.Series(labels[allowed]).value_counts()).to_numpy()
    rows = np.flatnonzero(allowed)
    rows = rng.choice(rows, size=n - n_real, replace=False, p=size**-0.6 / (size**-0.6).sum())
    simulated = adata[np.sort(rows)].copy()
    parts, facts = [simulated], known_cells(simulated, rng)
    of_vocabulary = dict(zip(real_cells.SETS, real_cells.read_unlabelled(shared, genes), strict=True))
    for name, counts in of_vocabulary.items():
        whole = ad.read_h5ad(shared / f"data/cells/unlabelled_{name}.h5ad")
        chosen = np.sort(rng.choice(whole.n_obs, size=min(whole.n_obs, n_real // len(of_vocabulary)), replace=False))
        part = ad.AnnData(csr_matrix(counts[chosen]), var=pd.DataFrame(index=genes))
        part.obs_names = [f"{name}{i}" for i in chosen]
        parts.append(part)
        facts += known_cells(whole[chosen].copy(), rng)
    joined = ad.concat(parts)
    groups = rng.choice(simulated.n_obs, size=int(n * GROUP_SHARE), replace=False)
    for i, group in zip(groups.tolist(), groups_like(simulated, adata, groups, rng), strict=True):
        facts[i] = group
    keep = [i for i, cell in enumerate(facts) if cell.label not in HELD_OUT_TYPES]
    return joined[keep].copy(), [facts[i] for i in keep]


def groups_like(some: ad.AnnData, adata: ad.AnnData, rows: np.ndarray, rng: np.random.Generator) -> list[CellFacts]:
    """What is known of groups of cells that have the labels of some cells, as of clusters."""
    labels = adata.obs["label"].astype(str).to_numpy()
    made = []
    for label in some.obs["label"].astype(str).iloc[rows]:
        alike = np.flatnonzero(labels == label)
        counts = csr_matrix(adata.X[rng.choice(alike, size=min(len(alike), int(rng.integers(8, 60))), replace=False)])
        others = rng.choice(np.unique(labels), size=2, replace=False)
        likely = [label, *(other for other in others if other != label)]
        probabilities = rng.dirichlet([rng.choice([60.0, 8.0]), *[1.0] * (len(likely) - 1)])[None]
        total, shares = csr_matrix(counts.sum(axis=0)), csr_matrix(detected(counts).mean(axis=0))
        made += cell_facts(total, shares, list(adata.var_names), likely, [label], probabilities, logged=False)
    return made


def known_cells(adata: ad.AnnData, rng: np.random.Generator) -> list[CellFacts]:
    """What is known of cells, by the labels of ``mini``, of a third made less certain, of a few exchanged."""
    model = bsc.models.load("mini")
    bsc.tl.embed(adata)
    labels = [*(label for label in model.config.labels if label != UNKNOWN), UNKNOWN]
    probabilities = label_probabilities(model, adata.obsm["X_scgpt"], labels, closed=True)
    doubt = rng.random(len(probabilities)) < 0.35
    power = np.where(doubt, rng.uniform(0.15, 0.5, size=len(probabilities)), 1.0)[:, None]
    probabilities = np.maximum(probabilities, 1e-6) ** power
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    # the label of another cell: the markers then speak against it
    other = rng.random(len(probabilities)) < 0.05
    probabilities[other] = probabilities[rng.permutation(np.flatnonzero(other))]
    names = np.array(labels)[probabilities.argmax(axis=1)]
    matrix = whole_matrix(adata, adata.uns["bioverse"]["embed"]["source"])
    columns = {key: rng.choice(values, size=adata.n_obs) for key, values in STUDY.items() if rng.random() < 0.8}
    facts: list[CellFacts] = []
    for span, chunk in matrix.chunks():
        facts += cell_facts(
            chunk,
            detected(chunk),
            matrix.genes,
            labels,
            names[span],
            probabilities[span],
            logged=matrix.is_logged,
            columns={key: values[span] for key, values in columns.items()},
        )
    return [replace(cell, study=cell.study if rng.random() < 0.4 else {}) for cell in facts]


def with_labelled(
    cells: ad.AnnData, more: ad.AnnData, n: int, rng: np.random.Generator
) -> tuple[ad.AnnData, list[dict[str, Any]]]:
    """Further cells, and the question for their labels, so that what the stage before taught is kept."""
    more = more[~more.obs_names.isin(cells.obs_names)]
    chosen = more[np.sort(rng.choice(more.n_obs, size=min(n, more.n_obs), replace=False))].copy()
    joined = ad.concat([ad.AnnData(cells.X, obs=cells.obs[[]], var=cells.var[[]]), chosen])
    labels = zip(chosen.obs_names, chosen.obs["label"].astype(str), strict=True)
    question = TEMPLATES["label"]
    return joined, [{"rna": [name], "prompt": [question], "answer": label} for name, label in labels]
