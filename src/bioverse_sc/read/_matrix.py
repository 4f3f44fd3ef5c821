"""A matrix of genes, looked at once: what it is, which of its columns are read, and its rows in chunks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bioverse_sc._row_hash import hash_sparse_rows, hash_texts
from bioverse_sc.ontology import approved_symbol
from bioverse_sc.read._genes import GeneMap, map_genes
from bioverse_sc.read._kinds import LOGGED, USABLE, matrix_kind, some_rows
from bioverse_sc.read._map import row_chunks
from bioverse_sc.read._remedies import few, no_usable_matrix, too_few_genes
from bioverse_sc.read._sources import features, get_matrix, is_raw, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData
    from scipy.sparse import csr_matrix

MIN_GENES = 50
"""Fewer genes of the vocabulary than this say too little about a cell; half of a vocabulary that is smaller than twice
this."""
MIN_GENES_OF_A_CELL = 15
"""Fewer genes of the vocabulary than this tell no type of cell."""


@dataclass(frozen=True)
class MatrixProfile:
    """The matrix that will be read, and how it fits an encoder."""

    source: str
    """``"X"``, ``"raw"``, or the key of a layer."""
    kind: str
    """``"counts"``, ``"normalised"`` or ``"log-normalised"``."""
    n_cells: int
    n_genes: int
    gene_map: GeneMap
    passed_over: str
    """Why a matrix that comes first was not taken; empty when it was."""
    other_features: tuple[str, ...] = ()
    """Names of the features that are no genes, such as antibodies and peaks. They are left out, and not among
    ``n_genes``."""
    hints: tuple[str, ...] = ()
    """What should be known before the results are used."""

    @property
    def min_genes(self) -> int:
        """A cell with fewer genes of the encoder than this gets no vector and no label: too little is known of it."""
        return self.gene_map.min_genes

    def __str__(self) -> str:
        genes = self.gene_map
        text = (
            f"{shown(self.source)}: {self.n_cells} cells, {self.n_genes} genes, {self.kind}; {len(genes.genes)} of the "
            f"encoder's {genes.n_vocabulary} genes are there, by {genes.kind}"
        )
        if genes.renamed:
            text += f", {genes.renamed} of them by Ensembl id, alias, previous symbol or another spelling"
        if genes.cased:
            text += f", {genes.cased} of them only when upper and lower case are taken as the same"
        if genes.summed:
            text += f"; {genes.summed} columns are summed with another of the same gene"
        if genes.left_out:
            text += (
                f"; {genes.left_out} columns differ from another one in case alone, or are an alias of it, and are "
                "left out"
            )
        if genes.of_mouse:
            text += f"; {genes.of_mouse} columns are marked as mouse genes and left out"
        if self.other_features:
            text += f"; {len(self.other_features)} features are no genes ({few(self.other_features)}) and left out"
        if genes.mouse:
            text += "; most of its names look like mouse genes, which are not read as human ones: see bsc.pp.to_human"
        text += f"; a cell needs {self.min_genes} of them" if self.min_genes > 1 else ""
        return ". ".join([text + (f" ({self.passed_over})" if self.passed_over else ""), *self.hints])


@dataclass(frozen=True)
class GeneMatrix:
    """A matrix and what was learned of it; every tool reads cells through one."""

    values: Any
    """The matrix as it lies in the AnnData, cells by features."""
    profile: MatrixProfile
    gene_symbols: str | None = None
    """Column of the names of its genes, where these are not the index."""

    @property
    def genes(self) -> list[str]:
        """Genes of the vocabulary that are there: the columns of :meth:`chunks`."""
        return self.profile.gene_map.genes

    @property
    def source(self) -> str:
        """Name of the matrix, such as ``"X"``."""
        return self.profile.source

    @property
    def is_logged(self) -> bool:
        """Whether the values are logarithms."""
        return self.profile.kind == LOGGED

    def chunks(self) -> Iterator[tuple[slice, csr_matrix]]:
        """Yield slices of rows and the values of their genes, shape (rows, genes): few cells at a time."""
        gene_map = self.profile.gene_map
        for rows, chunk in row_chunks(self.values, gene_map.columns):
            yield rows, gene_map.gather(chunk)

    @cached_property
    def gene_hashes(self) -> np.ndarray:
        """Hash of each gene's name, shape (genes,), uint64."""
        return hash_texts(self.genes)

    @cached_property
    def hashes(self) -> np.ndarray:
        """Hash of what is read of each cell, the genes and their values in whatever order; shape (cells,), uint64."""
        return np.concatenate([hash_sparse_rows(chunk, self.gene_hashes) for _, chunk in self.chunks()])


def gene_matrix(
    adata: AnnData, vocabulary: Sequence[str], *, layer: str | None = None, gene_symbols: str | None = None
) -> GeneMatrix:
    """Find the matrix to read, by the rule of :func:`bioverse_sc.pp.profile`, which says what is raised."""
    if layer is not None:
        sources = [layer]
    else:
        sources = [s for s in ("counts",) if s in adata.layers] + ["X"] + (["raw"] if adata.raw is not None else [])
    kinds = {source: matrix_kind(get_matrix(adata, source)) for source in sources}
    usable = [source for source in sources if kinds[source] in USABLE]
    if not usable:
        raise ValueError(no_usable_matrix(adata, kinds))
    # .layers and .X have the same features, so each table of features is mapped once
    features_of, maps, failed = {}, {}, {}
    for in_raw in dict.fromkeys(is_raw(adata, source) for source in usable):
        first = next(source for source in usable if is_raw(adata, source) == in_raw)
        try:
            names, is_other = features(adata, first, gene_symbols)
            maps[in_raw] = map_genes(_gene_names(names, is_other), vocabulary)
            features_of[in_raw] = names, is_other
        except (ValueError, KeyError) as error:
            failed[in_raw] = error
    if not maps:
        raise next(iter(failed.values()))
    readable = [source for source in usable if is_raw(adata, source) in maps]
    chosen = max(readable, key=lambda source: (len(maps[is_raw(adata, source)].genes), kinds[source] == "counts"))
    gene_map, (names, is_other) = maps[is_raw(adata, chosen)], features_of[is_raw(adata, chosen)]
    needed = min(MIN_GENES, (len(vocabulary) + 1) // 2)
    if len(gene_map.genes) < needed:
        raise ValueError(too_few_genes(adata, chosen, names, is_other, gene_map, vocabulary, needed))
    passed_over = [f"{shown(source)} is {kinds[source]}" for source in sources if source not in usable]
    for source in usable:
        if failure := failed.get(is_raw(adata, source)):
            no_column = f"no column {gene_symbols!r} for its genes"
            problem = no_column if isinstance(failure, KeyError) else "gene names that stand twice"
            passed_over.append(f"{shown(source)} has {problem}")
    values = get_matrix(adata, chosen)
    profile = MatrixProfile(
        source=chosen,
        kind=kinds[chosen],
        n_cells=adata.n_obs,
        n_genes=values.shape[1] - int(is_other.sum()),
        gene_map=replace(gene_map, min_genes=fewest_genes(len(gene_map.genes))),
        passed_over="; ".join(passed_over),
        other_features=tuple(np.array(names, dtype=object)[is_other]),
        hints=() if kinds[chosen] == "counts" else _imputed(values, gene_map),
    )
    return GeneMatrix(values, profile, gene_symbols)


def matrix_of_genes(
    adata: AnnData, source: str, genes: Sequence[str], *, gene_symbols: str | None = None
) -> GeneMatrix:
    """Some genes of a matrix that was chosen before, however few are there."""
    names, is_other = features(adata, source, gene_symbols)
    values = get_matrix(adata, source)
    profile = MatrixProfile(
        source=source,
        kind=matrix_kind(values),
        n_cells=adata.n_obs,
        n_genes=len(names) - int(is_other.sum()),
        gene_map=map_genes(_gene_names(names, is_other), genes),
        passed_over="",
    )
    return GeneMatrix(values, profile, gene_symbols)


def whole_matrix(adata: AnnData, source: str, *, gene_symbols: str | None = None) -> GeneMatrix:
    """All genes of a matrix that was chosen before, under their approved symbols where they have one.

    Parameters
    ----------
    adata
        Cells.
    source
        Name of the matrix, such as ``"X"``.
    gene_symbols
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` by default.
    """
    names, is_other = features(adata, source, gene_symbols)
    genes = (name for name, no_gene in zip(names, is_other, strict=True) if not no_gene)
    vocabulary = list(dict.fromkeys(approved_symbol(name) or name for name in genes))
    return matrix_of_genes(adata, source, vocabulary, gene_symbols=gene_symbols)


def _gene_names(names: list[str], is_other: np.ndarray) -> list[str]:
    return ["" if no_gene else name for name, no_gene in zip(names, is_other, strict=True)]


def fewest_genes(n_genes: int) -> int:
    """How many genes a cell has to express, of those that the data set and the encoder share, to be told apart."""
    return max(1, min(MIN_GENES_OF_A_CELL, n_genes // 30))


def _imputed(values: Any, gene_map: GeneMap) -> tuple[str, ...]:
    """Warn of values that are all above zero."""
    expressed = np.diff(some_rows(values)[:, gene_map.columns].indptr)
    if len(gene_map.columns) < MIN_GENES or np.median(expressed) < 0.95 * len(gene_map.columns):
        return ()
    return (
        "Nearly every gene is above zero in nearly every cell, as in imputed or denoised values: each counts as "
        "expressed. Counts, or their logarithm, are read better: name their layer, layer='...'",
    )
