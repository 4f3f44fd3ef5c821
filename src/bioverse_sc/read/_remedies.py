"""What is wrong with a matrix or its gene names, and the line of code that mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bioverse_sc.read._genes import GeneMap, map_genes
from bioverse_sc.read._kinds import USABLE, matrix_kind
from bioverse_sc.read._sources import get_matrix, shown, source_names, variables

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from bioverse_sc.read._kinds import Kind


def no_usable_matrix(adata: AnnData, kinds: Mapping[str, Kind]) -> str:
    """Say what is wrong with every matrix that was tried, the line that mends it, and which others would do."""
    return _remedy(kinds) + _elsewhere(adata, list(kinds))


def too_few_genes(
    adata: AnnData,
    source: str,
    names: list[str],
    is_other: np.ndarray,
    gene_map: GeneMap,
    vocabulary: Sequence[str],
    needed: int,
) -> str:
    """Say what the names are instead of genes that the encoder knows, and what to do."""
    genes = [name for name, no_gene in zip(names, is_other, strict=True) if not no_gene]
    msg = (
        f"Only {len(gene_map.genes)} of the encoder's {len(vocabulary)} genes are in this data set, fewer than "
        f"{needed}. "
    )
    if is_other.any():
        msg += (
            f"{int(is_other.sum())} of its {len(names)} features are no genes "
            f"({few(np.array(names, dtype=object)[is_other])}). "
        )
        if not genes:
            return msg + (
                "Antibodies are read as proteins, with their sequences in .var['sequence']: mudata.MuData({'rna': "
                "genes, 'protein': adata}); give the genes of the same cells here."
            )
    msg += (
        f"Its gene names look like {genes[:4]}; expected human symbols such as {list(vocabulary[:4])} or Ensembl ids "
        "such as 'ENSG00000167286'. "
    )
    if gene_map.mouse:
        return msg + (
            "They look like mouse genes, and a mouse gene is not read as the human one. Map them to human orthologues "
            "first: adata = bsc.pp.to_human(adata), with pip install 'bioverse-sc[mouse]'."
        )
    for column in variables(adata, source).columns:
        values = variables(adata, source)[column]
        if (
            not pd.api.types.is_numeric_dtype(values)
            and len(map_genes(list(values.astype(str)), vocabulary).genes) >= needed
        ):
            return msg + f"They stand in .var[{column!r}]: give gene_symbols={column!r}."
    if len(map_genes(list(adata.obs_names.astype(str)), vocabulary).genes) >= needed:
        return msg + "The cells have the names of genes, so the matrix lies the wrong way round: adata = adata.T"
    if genes and np.mean([name.strip().isdigit() for name in genes]) > 0.5:
        msg += (
            "Numbers may be the positions of genes or Entrez ids, which are not read: set adata.var_names to symbols "
            "or Ensembl ids. "
        )
    return msg + "If they stand in a column of .var, pass gene_symbols='that column'."


def few(names: Sequence[str]) -> str:
    """The first names of many."""
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


def _remedy(kinds: Mapping[str, Kind]) -> str:
    """Say what is wrong with every matrix, and the line that mends it."""
    listed = ", ".join(f"{shown(source)} is {kind}" for source, kind in kinds.items())
    if "NaN" in kinds.values():
        return (
            f"No usable matrix ({listed}, or infinite). That is no measurement: remove those cells or genes, or set "
            "what was not measured to zero: adata.X = np.nan_to_num(adata.X, posinf=0, neginf=0)"
        )
    if "scaled" in kinds.values():
        return (
            f"No usable matrix ({listed}; it holds negative values, or each gene was scaled by a number of its own). "
            "Expected counts or log-normalised values, before sc.pp.scale. Keep them next time with "
            "adata.layers['counts'] = adata.X.copy() or adata.raw = adata.copy() before scaling (adata.raw = adata "
            "shares the values, which are then scaled too), and give them here: adata.layers['counts'] = counts"
        )
    if set(kinds.values()) == {"absent"}:
        return f"No usable matrix ({listed})."
    return f"No usable matrix ({listed}): there is no value above zero. Read the data again."


def _elsewhere(adata: AnnData, tried: Sequence[str]) -> str:
    """Name the matrices beside those that were tried that would do."""
    others = [s for s in source_names(adata) if s not in tried]
    kinds = {s: matrix_kind(get_matrix(adata, s)) for s in others}
    good = [s for s in sorted(kinds, key=lambda s: kinds[s] != "counts") if kinds[s] in USABLE]
    if not good:
        return ""
    return f" {', '.join(f'{shown(s)} is {kinds[s]}' for s in good)}: give layer={good[0]!r}."
