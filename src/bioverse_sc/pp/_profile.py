"""What is this matrix? Looks before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, issparse

from bioverse_sc._modalities import CHUNK, layer_names, modality, readable
from bioverse_sc.pp._features import TYPE_COLUMNS, other_features
from bioverse_sc.pp._genes import GeneMap, map_genes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData
    from mudata import MuData

    Kind = Literal["counts", "normalised", "log-normalised", "scaled", "NaN", "empty", "absent"]

MIN_GENES = 50
"""Fewer genes of the vocabulary than this say too little about a cell; half of a vocabulary that is smaller than
twice this."""

MIN_GENES_OF_A_CELL = 15
"""Fewer genes of the vocabulary than this tell no type of cell."""

_USABLE = ("counts", "log-normalised", "normalised")
_LARGEST_LOG = 30.0
_VALUES = 1 << 22
_ROWS = 2000
_JUDGED_GENES = 20


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
        found = len(self.gene_map.genes)
        text = (
            f"{_shown(self.source)}: {self.n_cells} cells, {self.n_genes} genes, {self.kind}; {found} of the encoder's "
            f"{self.gene_map.n_vocabulary} genes are there, by {self.gene_map.kind}"
        )
        if self.gene_map.renamed:
            text += f", {self.gene_map.renamed} of them by Ensembl id, alias, previous symbol or another spelling"
        if self.gene_map.cased:
            text += f", {self.gene_map.cased} of them only when upper and lower case are taken as the same"
        if self.gene_map.summed:
            text += f"; {self.gene_map.summed} columns are summed with another of the same gene"
        if self.gene_map.left_out:
            text += (
                f"; {self.gene_map.left_out} columns differ from another one in case alone, or are an alias of it, and "
                "are left out"
            )
        if self.gene_map.of_mouse:
            text += f"; {self.gene_map.of_mouse} columns are marked as mouse genes and left out"
        if self.other_features:
            text += f"; {len(self.other_features)} features are no genes ({_few(self.other_features)}) and left out"
        if self.gene_map.mouse:
            text += "; most of its names look like mouse genes, which are not read as human ones: see bsc.pp.to_human"
        text += f"; a cell needs {self.min_genes} of them" if self.min_genes > 1 else ""
        return ". ".join([text + (f" ({self.passed_over})" if self.passed_over else ""), *self.hints])


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
        When no matrix is usable, gene names are duplicated, or fewer than 50 genes are known. The message names the
        remedy. A matrix whose genes were scaled is not usable, with or without centring.
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
    kinds = {source: matrix_kind(get_matrix(adata, source)) for source in sources}
    usable = [s for s in sources if kinds[s] in _USABLE]
    if not usable:
        raise ValueError(_remedy(kinds) + _elsewhere(adata, sources))
    named, maps, failed = {}, {}, {}
    for s in usable:
        try:
            named[s] = features(adata, s, gene_symbols)
            maps[s] = map_genes(_genes(*named[s]), vocabulary)
        except (ValueError, KeyError) as error:
            failed[s] = error
    if not maps:
        raise next(iter(failed.values()))
    chosen = max(maps, key=lambda s: (len(maps[s].genes), kinds[s] == "counts"))
    found, (names, other) = maps[chosen], named[chosen]
    needed = min(MIN_GENES, (len(vocabulary) + 1) // 2)
    if len(found.genes) < needed:
        raise ValueError(_too_few(adata, chosen, names, other, found, vocabulary, needed))
    skipped = [f"{_shown(s)} is {kinds[s]}" for s in sources if s not in usable]
    for s, problem in failed.items():
        no_column = f"no column {gene_symbols!r} for its genes"
        skipped.append(
            f"{_shown(s)} has {no_column if isinstance(problem, KeyError) else 'gene names that stand twice'}"
        )
    matrix = get_matrix(adata, chosen)
    return MatrixProfile(
        source=chosen,
        kind=kinds[chosen],
        n_cells=adata.n_obs,
        n_genes=matrix.shape[1] - int(other.sum()),
        gene_map=replace(found, min_genes=fewest_genes(len(found.genes))),
        passed_over="; ".join(skipped),
        other_features=tuple(np.array(names, dtype=object)[other]),
        hints=() if kinds[chosen] == "counts" else _imputed(matrix, found),
    )


def fewest_genes(n_genes: int) -> int:
    """How many genes a cell has to express, of those that the data set and the encoder share, to be told apart."""
    return max(1, min(MIN_GENES_OF_A_CELL, n_genes // 30))


def _imputed(matrix: Any, found: GeneMap) -> tuple[str, ...]:
    """Warn of values that are all above zero."""
    expressed = np.diff(_some_rows(matrix)[:, found.columns].indptr)
    if len(found.columns) < MIN_GENES or np.median(expressed) < 0.95 * len(found.columns):
        return ()
    return (
        "Nearly every gene is above zero in nearly every cell, as in imputed or denoised values: each counts as "
        "expressed. Counts, or their "
        "logarithm, are read better: name their layer, layer='...'",
    )


def _too_few(
    adata: AnnData,
    source: str,
    names: list[str],
    other: np.ndarray,
    found: GeneMap,
    vocabulary: Sequence[str],
    needed: int,
) -> str:
    """Say what the names are instead of genes that the encoder knows, and what to do."""
    genes = [name for name, no_gene in zip(names, other, strict=True) if not no_gene]
    msg = (
        f"Only {len(found.genes)} of the encoder's {len(vocabulary)} genes are in this data set, fewer than {needed}. "
    )
    if other.any():
        msg += (
            f"{int(other.sum())} of its {len(names)} features are no genes "
            f"({_few(np.array(names, dtype=object)[other])}). "
        )
        if not genes:
            return msg + (
                "Antibodies are read as proteins, with their sequences in .var['sequence']: mudata.MuData({'rna': "
                "genes, 'protein': adata}); "
                "give the genes of the same cells here."
            )
    msg += (
        f"Its gene names look like {genes[:4]}; expected human symbols such as {list(vocabulary[:4])} or Ensembl ids "
        "such "
        "as 'ENSG00000167286'. "
    )
    if found.mouse:
        return msg + (
            "They look like mouse genes, and a mouse gene is not read as the human one. Map them to human orthologues "
            "first: "
            "adata = bsc.pp.to_human(adata), with pip install 'bioverse-sc[mouse]'."
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


def _few(names: Sequence[str]) -> str:
    """The first names of many."""
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


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
        f"There is no layer {source!r}; there are "
        f"{[*layer_names(adata), 'X', *(['raw'] if adata.raw is not None else [])]}."
    )
    raise KeyError(msg)


def gene_names(adata: AnnData, source: str, gene_symbols: str | None) -> list[str]:
    """Gene names of a matrix, ``""`` for a feature that is no gene; a name that stands twice is an error."""
    return _genes(*features(adata, source, gene_symbols))


def _genes(names: list[str], other: np.ndarray) -> list[str]:
    return ["" if no_gene else name for name, no_gene in zip(names, other, strict=True)]


def variables(adata: AnnData, source: str) -> pd.DataFrame:
    """Table of the features of a matrix."""
    return adata.raw.var if source == "raw" and source not in adata.layers else adata.var


def _column(adata: AnnData, source: str, name: str) -> pd.Series | None:
    """A column about the features of a matrix.

    Its own, or that of the other of ``.var`` and ``.raw.var`` where names are shared.
    """
    own = variables(adata, source)
    if name in own:
        return own[name]
    for other in [adata.var, *([adata.raw.var] if adata.raw is not None else [])]:
        if name in other and other.index.is_unique and own.index.isin(other.index).any():
            return other[name].astype(object).reindex(own.index)
    return None


def features(adata: AnnData, source: str, gene_symbols: str | None) -> tuple[list[str], np.ndarray]:
    """Names of the features of a matrix, and which of them are no genes."""
    index = variables(adata, source).index
    if gene_symbols is None:
        names = index.astype(str)
    elif (column := _column(adata, source, gene_symbols)) is not None:
        # a gene without a symbol keeps its name
        given = column.notna() & (column.astype(str).str.strip() != "")
        names = pd.Index(np.where(given, column.astype(object), index).astype(str))
    else:
        beside = "" if adata.raw is None else f", and in .raw.var there are {list(adata.raw.var.columns)}"
        msg = f"There is no column {gene_symbols!r} in .var; there are {list(adata.var.columns)}{beside}."
        raise KeyError(msg)
    types = (_column(adata, source, name) for name in TYPE_COLUMNS)
    other = other_features(list(names), next((column for column in types if column is not None), None))
    genes = names[~other]
    if (repeated := genes[genes.duplicated()].unique()).size:
        where, remedy = ".var_names", "adata.var_names_make_unique()"
        if gene_symbols:
            where = f".var[{gene_symbols!r}]"
            remedy = f"adata.var_names = adata.var[{gene_symbols!r}].astype(str); {remedy}, without gene_symbols"
        elif source == "raw":
            where, remedy = ".raw.var_names", f"adata = adata.raw.to_adata(); {remedy}"
        msg = (
            f"{len(repeated)} gene names stand more than once in {where}, e.g. {list(repeated[:5])}. Which one is "
            "meant cannot be known; "
            f"make them unique first, {remedy}; the columns of one gene are then summed"
        )
        raise ValueError(msg)
    return list(names), other


def matrix_kind(matrix: Any) -> Kind:
    """Tell counts from normalised, log-normalised and scaled values: by all of them, and by the genes of some rows."""
    if matrix is None:
        return "absent"
    largest, smallest, integers = 0.0, 0.0, True
    for values in _value_chunks(matrix):
        if not values.size:
            continue
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            return "NaN"
        largest, smallest = max(largest, high), min(smallest, low)
        integers = integers and (values.dtype.kind in "biu" or bool((values == np.round(values)).all()))
    if smallest < 0:
        return "scaled"
    if largest == 0:
        return "empty"
    if integers:
        return "counts"
    if scaled_by_gene(_some_rows(matrix)):
        return "scaled"
    return "log-normalised" if largest < _LARGEST_LOG else "normalised"


def _value_chunks(matrix: Any) -> Iterator[np.ndarray]:
    """All values, but for zeros that are not stored, some millions at a time."""
    if issparse(matrix):
        # in memory they lie in one array, and no row has to be cut out
        values = readable(matrix).data
        yield from (values[start : start + _VALUES] for start in range(0, len(values), _VALUES))
        return
    for start in range(0, matrix.shape[0], CHUNK):
        chunk = matrix[start : start + CHUNK]
        yield readable(chunk).data if issparse(chunk) else readable(np.asanyarray(chunk)).ravel()


def _some_rows(matrix: Any) -> csr_matrix:
    """Take rows at even distances, all of them where there are few."""
    size = matrix.nnz if issparse(matrix) else matrix.shape[0] * matrix.shape[1]
    step = max(1, matrix.shape[0] // _ROWS, size // _VALUES)
    rows = readable(matrix)[::step] if issparse(matrix) else matrix[::step]
    if not issparse(rows):
        rows = np.asanyarray(rows)
    rows = csr_matrix(readable(rows), dtype=np.float64)
    rows.eliminate_zeros()
    return rows


def scaled_by_gene(rows: csr_matrix) -> bool:
    """Whether each gene was multiplied by a number of its own, so that values within a cell cannot be compared.

    ``sc.pp.scale(zero_center=False)``, division by the largest value, TF-IDF, z-scores that were shifted. It shows in
    several ways:

    - What a gene is where it is found falls with the share of cells that have it; in expression it rises, whatever the
      normalisation, also when counts were divided by the lengths of genes.
    - Genes have the same standard deviation, largest value or, where no value is zero, mean.

    The last are only asked when no two genes of a cell have the same value, as most of one count have until genes are
    scaled.

    Parameters
    ----------
    rows
        Cells by genes, values of zero and above, without stored zeros.
    """
    from scipy.stats import rankdata

    n = rows.shape[0]
    n_with = np.bincount(rows.indices, minlength=rows.shape[1])
    judged = n_with >= max(3, 0.005 * n)
    if judged.sum() < _JUDGED_GENES:
        return False
    mean = np.bincount(rows.indices, rows.data, rows.shape[1])[judged] / n
    square = np.bincount(rows.indices, rows.data**2, rows.shape[1])[judged] / n
    share = n_with[judged] / n
    if share.min() < share.max():
        r = float(np.corrcoef(rankdata(share), rankdata(mean / share))[0, 1])
        if r < -0.1 and r * np.sqrt(len(share)) < -4:
            return True
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    varies = deviation > 1e-4 * mean
    if varies.sum() < _JUDGED_GENES or _tied(rows[:, np.flatnonzero(judged)[varies]]) > 0.5:
        return False
    spread = float(np.subtract(*np.percentile(np.log(deviation[varies]), [95, 5])))
    # the deviation of few cells is never the same by chance, nor that of many cells about the same
    if spread < 0.01 or (n >= 50 and spread < 0.25):
        return True
    if np.median(share) == 1 and np.subtract(*np.percentile(mean[varies], [90, 10])) < np.median(deviation[varies]):
        return True
    largest = rows.max(axis=0).toarray().ravel()
    top = largest.max()
    return bool(
        np.mean(largest[judged] > top * (1 - 1e-5)) > 0.05 or (top <= 1 and np.mean(largest[judged] > 0.5) > 0.3)
    )


def _tied(rows: csr_matrix) -> float:
    """Share of the values of a cell that another gene of it has as well, over some cells."""
    rows = rows[:: max(1, rows.nnz // 500_000)]
    values = rows.data
    cell = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    ordered = values[np.lexsort((values, cell))]
    same = (np.diff(cell) == 0) & (np.diff(ordered) <= 1e-5 * ordered[1:])
    return float(same.sum() / max(len(values), 1))


def _remedy(kinds: dict[str, Kind]) -> str:
    """Say what is wrong with every matrix, and the line that mends it."""
    found = ", ".join(f"{_shown(source)} is {kind}" for source, kind in kinds.items())
    if "NaN" in kinds.values():
        return (
            f"No usable matrix ({found}, or infinite). That is no measurement: remove those cells or genes, or set "
            "what was not "
            "measured to zero: adata.X = np.nan_to_num(adata.X, posinf=0, neginf=0)"
        )
    if "scaled" in kinds.values():
        return (
            f"No usable matrix ({found}; it holds negative values, or each gene was scaled by a number of its own). "
            "Expected counts or "
            "log-normalised values, before sc.pp.scale. Keep them next time with adata.layers['counts'] = "
            "adata.X.copy() or adata.raw = adata.copy() "
            "before scaling (adata.raw = adata shares the values, which are then scaled too), and give them here: "
            "adata.layers['counts'] = counts"
        )
    if set(kinds.values()) == {"absent"}:
        return f"No usable matrix ({found})."
    return f"No usable matrix ({found}): there is no value above zero. Read the data again."


def _elsewhere(adata: AnnData, tried: Sequence[str]) -> str:
    """Name the matrices beside those that were tried that would do."""
    others = [s for s in (*layer_names(adata), "X", *(["raw"] if adata.raw is not None else [])) if s not in tried]
    kinds = {s: matrix_kind(get_matrix(adata, s)) for s in others}
    good = [s for s in sorted(kinds, key=lambda s: kinds[s] != "counts") if kinds[s] in _USABLE]
    if not good:
        return ""
    return f" {', '.join(f'{_shown(s)} is {kinds[s]}' for s in good)}: give layer={good[0]!r}."
