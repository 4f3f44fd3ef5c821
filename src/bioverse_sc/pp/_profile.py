"""What is this matrix? Looks before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from bioverse_sc._modalities import CHUNK, modality
from bioverse_sc.pp._genes import GeneMap, map_genes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData
    from mudata import MuData

    Kind = Literal["counts", "normalised", "log-normalised", "scaled", "NaN", "empty"]

MIN_GENES = 50
"""Fewer genes of the vocabulary than this say too little about a cell; half of a vocabulary that is smaller than twice this."""

_USABLE = ("counts", "log-normalised", "normalised")
_LARGEST_LOG = 30.0
_VALUES = 1 << 22


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

    def __str__(self) -> str:
        found = len(self.gene_map.genes)
        text = (
            f"{_shown(self.source)}: {self.n_cells} cells, {self.n_genes} genes, {self.kind}; {found} of the encoder's "
            f"{self.gene_map.n_vocabulary} genes are there, by {self.gene_map.kind}"
        )
        if self.gene_map.renamed:
            text += f", {self.gene_map.renamed} of them by Ensembl id, alias or previous symbol"
        if self.gene_map.cased:
            text += f", {self.gene_map.cased} of them only when upper and lower case are taken as the same"
        if self.gene_map.summed:
            text += f"; {self.gene_map.summed} columns are summed with another of the same gene"
        if self.gene_map.left_out:
            text += f"; {self.gene_map.left_out} columns differ from another one in case alone and are left out"
        if self.gene_map.mouse:
            text += "; most of its names look like mouse genes, which are not read as human ones"
        return text + (f" ({self.passed_over})" if self.passed_over else "")


def profile(
    data: AnnData | MuData,
    *,
    vocabulary: Sequence[str] | None = None,
    layer: str | None = None,
    gene_symbols: str | None = None,
) -> MatrixProfile:
    """Find the matrix to read and say what it is.

    Counts, normalised and log-normalised values will do, as scGPT bins values by their rank inside a cell; scaled
    values will not. Without ``layer``, the usable one among ``layers["counts"]``, ``X`` and ``raw`` with the most genes
    of the vocabulary is taken, counts first.

    Parameters
    ----------
    data
        AnnData, or MuData with an ``"rna"`` modality. It is not changed.
    vocabulary
        Gene symbols of the encoder; those of the bundled model by default.
    layer
        ``"X"``, ``"raw"`` or a key of ``.layers``, to take that one.
    gene_symbols
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` by default.

    Raises
    ------
    ValueError
        When no matrix is usable, gene names are duplicated, or fewer than 50 genes are known. The message names the remedy.
    KeyError
        When ``layer`` or ``gene_symbols`` is not there.
    """
    adata = modality(data)
    if vocabulary is None:
        from bioverse_sc._models import get_model

        vocabulary = get_model("mini").encoders["rna"].genes
    if layer is not None:
        sources = [layer]
    else:
        sources = [s for s in ("counts",) if s in adata.layers] + ["X"] + (["raw"] if adata.raw is not None else [])
        if adata.X is None:
            sources.remove("X")
    kinds = {source: matrix_kind(get_matrix(adata, source)) for source in sources}
    usable = [s for s in sources if kinds[s] in _USABLE]
    if not usable:
        raise ValueError(_remedy(kinds))
    maps, repeated = {}, {}
    for s in usable:
        try:
            maps[s] = map_genes(gene_names(adata, s, gene_symbols), vocabulary)
        except ValueError as error:
            repeated[s] = error
    if not maps:
        raise next(iter(repeated.values()))
    chosen = max(maps, key=lambda s: (len(maps[s].genes), kinds[s] == "counts"))
    found = maps[chosen]
    needed = min(MIN_GENES, (len(vocabulary) + 1) // 2)
    if len(found.genes) < needed:
        names = list(gene_names(adata, chosen, gene_symbols)[:4])
        mouse = (
            " They look like mouse genes, and a mouse gene is not read as the human one: map them to human orthologues first."
            if found.mouse
            else ""
        )
        msg = (
            f"Only {len(found.genes)} of the encoder's {len(vocabulary)} genes are in this data set, fewer than {needed}. Its gene "
            f"names look like {names}; expected human symbols such as {list(vocabulary[:4])} or Ensembl ids such as 'ENSG00000167286'. "
            f"If they stand in a column of .var, pass gene_symbols='that column'.{mouse}"
        )
        raise ValueError(msg)
    skipped = [f"{_shown(s)} is {kinds[s]}" for s in sources if s not in usable]
    skipped += [f"{_shown(s)} has gene names that stand twice" for s in repeated]
    return MatrixProfile(
        source=chosen,
        kind=kinds[chosen],
        n_cells=adata.n_obs,
        n_genes=get_matrix(adata, chosen).shape[1],
        gene_map=found,
        passed_over="; ".join(skipped),
    )


def _shown(source: str) -> str:
    """Name a matrix as a user writes it."""
    return source if source in ("X", "raw") else f"layers[{source!r}]"


def get_matrix(adata: AnnData, source: str) -> Any:
    """Take ``layers[source]``, ``X`` or ``raw.X``."""
    if source in adata.layers:
        return adata.layers[source]
    if source == "X":
        return adata.X
    if source == "raw" and adata.raw is not None:
        return adata.raw.X
    msg = (
        f"There is no layer {source!r}; there are {[*adata.layers, 'X', *(['raw'] if adata.raw is not None else [])]}."
    )
    raise KeyError(msg)


def gene_names(adata: AnnData, source: str, gene_symbols: str | None) -> list[str]:
    """Gene names of a matrix; a name that stands twice is an error."""
    var = adata.raw.var if source == "raw" and source not in adata.layers else adata.var
    if gene_symbols is None:
        names = var.index.astype(str)
    elif gene_symbols in var:
        # a gene without a symbol keeps its name
        names = pd.Index(var[gene_symbols].astype(object).where(var[gene_symbols].notna(), var.index).astype(str))
    else:
        msg = f"There is no column {gene_symbols!r} in .var; there are {list(var.columns)}."
        raise KeyError(msg)
    if (repeated := names[names.duplicated()].unique()).size:
        where, remedy = ".var_names", "adata.var_names_make_unique()"
        if gene_symbols:
            where = f".var[{gene_symbols!r}]"
            remedy = f"adata.var_names = adata.var[{gene_symbols!r}].astype(str); {remedy}, without gene_symbols"
        elif source == "raw":
            where, remedy = ".raw.var_names", f"adata = adata.raw.to_adata(); {remedy}"
        msg = (
            f"{len(repeated)} gene names stand more than once in {where}, e.g. {list(repeated[:5])}. Which one is meant cannot be known; "
            f"make them unique first, {remedy}; the columns of one gene are then summed"
        )
        raise ValueError(msg)
    return list(names)


def matrix_kind(matrix: Any) -> Kind:
    """Tell counts from normalised, log-normalised and scaled values, by all of them."""
    largest, smallest, integers = 0.0, 0.0, True
    for values in _value_chunks(matrix):
        if not values.size:
            continue
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            return "NaN"
        largest, smallest = max(largest, high), min(smallest, low)
        integers = integers and bool((values == np.round(values)).all())
    if smallest < 0:
        return "scaled"
    if largest == 0:
        return "empty"
    if integers:
        return "counts"
    return "log-normalised" if largest < _LARGEST_LOG else "normalised"


def _value_chunks(matrix: Any) -> Iterator[np.ndarray]:
    """All values, but for zeros that are not stored, some millions at a time."""
    if issparse(matrix) and matrix.format in ("csr", "csc"):
        # in memory they lie in one array, and no row has to be cut out
        yield from (matrix.data[start : start + _VALUES] for start in range(0, len(matrix.data), _VALUES))
        return
    for start in range(0, matrix.shape[0], CHUNK):
        chunk = matrix[start : start + CHUNK]
        yield chunk.data if issparse(chunk) else np.asarray(chunk).ravel()


def _remedy(kinds: dict[str, Kind]) -> str:
    """Say what is wrong with every matrix, and the line that mends it."""
    found = ", ".join(f"{source} is {kind}" for source, kind in kinds.items())
    if "NaN" in kinds.values():
        return (
            f"No usable matrix ({found}, or infinite). That is no measurement: remove those cells or genes, or set what was not "
            "measured to zero: adata.X = np.nan_to_num(adata.X, posinf=0, neginf=0)"
        )
    if "scaled" in kinds.values():
        return (
            f"No usable matrix ({found}; it holds negative values). Expected counts or log-normalised values, before sc.pp.scale. "
            "Keep them next time with adata.layers['counts'] = adata.X.copy() or adata.raw = adata before scaling, and give them here: "
            "adata.layers['counts'] = counts"
        )
    return f"No usable matrix ({found}): there is no value above zero. Read the data again."
