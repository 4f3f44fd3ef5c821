"""Score a model on the validation sets, which it was never trained on, and print a table.

    python recipes/mini/evaluate.py --shared ../shared [--model mini]

fine and coarse: agreement with the author labels by the Cell Ontology (``shared/tools/score_labels.py``). blank: coarse
agreement when every soft token is replaced by zeros. commonest: coarse agreement of always giving one label, the best
of the model's eight commonest. profile: coarse agreement of the type of the reference profile with the highest Spearman
correlation. supported: share of the claims about genes, in the reasoning of at most 200 random cells, that hold
(``tl.evidence``); free: the same when decoding is not bound to the genes that the prompt shows; markers: share of the
genes said to be present that the marker table has for the label or for a wider type; best: share of the texts that name
the three best-evidenced expressed markers of the label; forms: number of sentence forms (a sentence with its types,
genes and numbers left out), and share of the commonest one; borne out: share of the sentences that
``facts.check_answer`` finds supported by what is known of the cell. Of a model that is shown the facts, all of these
are of what it wrote, before the sentences that the facts do not support were left out. ECE: expected calibration error
of the confidence, where a label is right that equals the truth or is below or above it in the Cell Ontology.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import reasoned
import scanpy as sc
import torch
from cells import read_profiles
from scipy.sparse import csr_matrix, vstack
from scipy.stats import rankdata

import bioverse_sc as bsc
from bioverse_sc.facts import cell_facts
from bioverse_sc.metrics import expected_calibration_error
from bioverse_sc.models import (
    BioVerse,
    Decoding,
    generate_text,
    label_log_probabilities,
    label_probabilities,
    label_prompt,
    reasoning_prompt,
)
from bioverse_sc.ontology import UNKNOWN, cell_ontology
from bioverse_sc.read import gene_matrix
from bioverse_sc.reasoning import (
    REASONING_TOKENS,
    CaseMaker,
    check_reasoning,
    claims_of,
    detected,
    explain,
    informative_genes,
    known_symbols,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.facts import CellFacts
    from bioverse_sc.read import GeneMatrix
    from bioverse_sc.reasoning import Case

SETS = (
    "pbmc3k",
    "kang_pbmc_1287g",
    "symphony_pbmc_3tech",
    "pbmc68k_reduced",
    "scp1884_gut",
    "baron_pancreas_175",
    "he_liver_20",
)


def read(shared: Path, name: str) -> ad.AnnData:
    """Read a validation set; author labels in ``.obs["cell_type"]``."""
    if name != "pbmc68k_reduced":
        return ad.read_h5ad(shared / f"data/cells/{name}.h5ad")
    adata = sc.datasets.pbmc68k_reduced()
    adata.obs["cell_type"] = adata.obs["bulk_labels"].astype(str)
    return adata


def score(shared: Path, adata: ad.AnnData, name: str, column: str) -> dict[str, float]:
    """Run the project's scorer on a column of Cell Ontology ids."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scored.h5ad"
        ad.AnnData(obs=adata.obs[["cell_type", column]].astype(str)).write_h5ad(file)
        tool = shared / "tools/score_labels.py"
        out = subprocess.run(
            [sys.executable, tool, file, name, "--column", column, "--json"], check=True, capture_output=True, text=True
        )
    return json.loads(out.stdout)


def nearest_profile(adata: ad.AnnData, shared: Path) -> np.ndarray:
    """Type of the reference profile with the highest Spearman correlation: the plain baseline."""
    profiles = read_profiles(shared, n_genes=7000)
    source = adata.raw.to_adata() if adata.raw is not None else adata
    genes = [g for g in profiles.genes if g in source.var_names]
    columns = [profiles.genes.index(g) for g in genes]
    reference = rankdata(profiles.mean[profiles.usable][:, columns], axis=1)
    reference = (reference - reference.mean(axis=1, keepdims=True)) / reference.std(axis=1, keepdims=True)
    terms = profiles.terms[profiles.usable]
    matrix = source[:, genes].X
    likest = []
    for start in range(0, adata.n_obs, 1000):
        rows = matrix[start : start + 1000]
        ranks = rankdata(rows.toarray() if hasattr(rows, "toarray") else rows, axis=1)
        ranks -= ranks.mean(axis=1, keepdims=True)
        likest.append(terms[(ranks @ reference.T).argmax(axis=1)])
    return np.concatenate(likest)


def free_reasoning(
    model: BioVerse, vectors: np.ndarray, cells: Sequence[CellFacts], cases: Sequence[Case]
) -> list[str]:
    """What the model writes without a constraint, and before anything is left out."""
    if model.config.grounding == "shown":
        return list(explain(model, vectors, cells, batch_size=16)[1])
    prompts = [reasoning_prompt(c.label, c.genes, parts=c.parts, prompts=model.config.prompts) for c in cases]
    soft_tokens = model.project("rna", torch.from_numpy(vectors))
    texts = []
    for start in range(0, len(prompts), 50):
        span = slice(start, start + 50)
        texts += generate_text(model, prompts[span], soft_tokens[span], Decoding(max_new_tokens=REASONING_TOKENS))
    return texts


def whole(matrix: GeneMatrix) -> csr_matrix:
    """All cells of a matrix, shape (cells, genes)."""
    expression = csr_matrix(vstack([chunk for _, chunk in matrix.chunks()], format="csr"))
    expression.eliminate_zeros()
    return expression


def known_and_shown(model: BioVerse, adata: ad.AnnData) -> tuple[list[CellFacts], list[Case]]:
    """What is known of labelled cells, and what the reasoning is shown of them."""
    matrix = gene_matrix(adata, model.encoders["rna"].genes)
    expression, labels = whole(matrix), [*(label for label in model.config.labels if label != UNKNOWN), UNKNOWN]
    p = label_probabilities(model, adata.obsm["X_scgpt"], labels, batch_size=256, closed=True)
    names = adata.obs["bioverse_label"].astype(str).to_numpy()
    cells = cell_facts(expression, detected(expression), matrix.genes, labels, names, p, logged=matrix.is_logged)
    confidence = adata.obs["bioverse_confidence"]
    cells = [replace(cell, probability=float(p)) for cell, p in zip(cells, confidence, strict=True)]
    informative = informative_genes(model, expression, matrix.genes, logged=matrix.is_logged)
    maker = CaseMaker(model, matrix.genes, labels)
    return cells, [maker.case(cell, genes) for cell, genes in zip(cells, informative, strict=True)]


def correct_cells(shared: Path, adata: ad.AnnData, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Cells whose author label has a term, and which have a label at or below it, or, backed off, at or above it."""
    table = pd.read_csv(shared / "data/labels_to_cl.csv").query("dataset == @name").set_index("label")["cl_ids"]
    truth = adata.obs["cell_type"].astype(str).map(table)
    known = np.flatnonzero(truth.notna() & (adata.obs["bioverse_label_id"] != ""))
    ancestors = cell_ontology().ancestors
    right = []
    for term, true in zip(adata.obs["bioverse_label_id"].iloc[known], truth.iloc[known], strict=True):
        terms = true.split("|")
        right.append(any(t in ancestors(term) or term in ancestors(t) for t in terms))
    return known, np.array(right)


def calibration_error(shared: Path, adata: ad.AnnData, name: str) -> float:
    """Expected calibration error of the labelled cells' confidence."""
    known, right = correct_cells(shared, adata, name)
    return expected_calibration_error(adata.obs["bioverse_confidence"].iloc[known], right)


def marker_share(texts: Sequence[str], terms: Sequence[str]) -> float:
    """Share of the named genes that the marker table has for the label or for a wider type."""
    ontology = cell_ontology()
    known = known_symbols([gene for genes in ontology.markers.values() for gene in genes])
    right = total = 0
    for text, term in zip(texts, terms, strict=True):
        named = {claim.gene for claim in claims_of(text, known) if not claim.absent}
        right += len(named & set(ontology.known_markers(term)))
        total += len(named)
    return right / max(1, total)


def texts_row(model: BioVerse, adata: ad.AnnData) -> str:
    """Columns of the reasoning about some cells."""
    bsc.tl.annotate(adata, model=model, reasoning="cell")
    matrix, genes = gene_matrix(adata, model.encoders["rna"].genes), known_symbols([])
    cells, cases = known_and_shown(model, adata)
    shown = adata.obs["bioverse_reasoning"].tolist()
    free = free_reasoning(model, adata.obsm["X_scgpt"], cells, cases)
    # of a model that is shown the facts all is of what it wrote before it was held to them
    texts = free if model.config.grounding == "shown" else shown

    def supported(some: Sequence[str]) -> float:
        claims = check_reasoning(some, [cell.label for cell in cells], detected(whole(matrix)), matrix.genes)
        return float(claims["supported"].mean())

    counted = reasoned.forms(texts, list(cell_ontology().names.values()), genes)
    commonest = max(counted.values(), default=0) / max(1, counted.total())
    return (
        f"{supported(texts):.3f} | {supported(free):.3f} | "
        f"{marker_share(texts, adata.obs['bioverse_label_id'].tolist()):.3f} | "
        f"{reasoned.names_best_markers(texts, cells, genes):.3f} | {len(counted)}, {commonest:.3f} | "
        f"{reasoned.supported_share(texts, cells, cases):.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--sets", nargs="*", default=SETS)
    a = parser.parse_args()
    model = bsc.models.load(a.model)
    labels = list(model.config.labels)
    ids = np.array([cell_ontology().find(label) or "" for label in labels])
    zeros = torch.zeros((1, model.n_tokens["rna"], model.embeddings.weight.shape[1]), device=model.device)
    blank_id = ids[label_log_probabilities(model, label_prompt(), zeros, labels)[0].argmax()]
    print(f"blank token gives: {cell_ontology().names.get(blank_id, UNKNOWN)}")
    print(
        "| set | cells | coarse | fine | macro-F1 | blank | commonest | profile | ECE | unknown | supported | free | "
        "markers | best | forms | borne out | labelled cells/s |"
    )
    print("| --- |" + " ---: |" * 16)
    for name in a.sets:
        adata = read(a.shared, name)
        began = time.perf_counter()
        bsc.tl.annotate(adata, model=model, reasoning=None)
        speed = adata.n_obs / (time.perf_counter() - began)
        ours = score(a.shared, adata, name, "bioverse_label_id")
        adata.obs["blank"] = blank_id
        blank = score(a.shared, adata, name, "blank")
        always = []
        for term in adata.obs["bioverse_label_id"].value_counts().index[:8]:
            adata.obs["one"] = str(term)
            always.append(score(a.shared, adata, name, "one")["coarse"])
        adata.obs["profile"] = nearest_profile(adata, a.shared)
        baseline = score(a.shared, adata, name, "profile")
        some = np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:200])
        error = calibration_error(a.shared, adata, name)
        unknown = (adata.obs["bioverse_label"] == "unknown").mean()
        print(
            f"| {name} | {adata.n_obs} | {ours['coarse']:.3f} | {ours['fine']:.3f} | {ours['coarse_macro_f1']:.3f} "
            f"| {blank['coarse']:.3f} "
            f"| {max(always):.3f} | {baseline['coarse']:.3f} | {error:.3f} | {unknown:.3f} | "
            f"{texts_row(model, adata[some].copy())} | {speed:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
