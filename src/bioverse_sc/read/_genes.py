"""Gene names of a data set to the genes of an encoder's vocabulary."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from scipy.sparse import csr_matrix

from bioverse_sc.ontology import ENSEMBL, approved_symbol, gene_table

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

T = TypeVar("T")

MADE_UNIQUE = re.compile(r"^(.+)[-.]\d+$")
"""What ``var_names_make_unique``, or ``make.unique`` in R, makes of a repeat."""

_ENSEMBL_WITHIN = re.compile(r"(?<![A-Za-z0-9])ENSG\d{11}(?!\d)")
_HUMAN_PREFIX = re.compile(r"^(?:GRCh\d+|hg\d+|human|hs|homo_sapiens)[_-]+(?=.)", re.IGNORECASE)
MOUSE_PREFIX = re.compile(r"^(?:GRCm\d+|mm\d+|mouse|mus_musculus)[_-]+(?=.)", re.IGNORECASE)


@dataclass(frozen=True)
class GeneMap:
    """Which columns of a matrix are which genes of a vocabulary."""

    columns: np.ndarray
    """Columns that are used."""
    genes: list[str]
    """Genes of the vocabulary that are found, each once."""
    target: np.ndarray
    """Position in ``genes`` of each used column; columns of one gene are summed."""
    kind: str
    """``"symbols"`` or ``"Ensembl ids"``."""
    renamed: int
    """Columns found by Ensembl id, alias or previous symbol."""
    n_vocabulary: int
    """Genes of the vocabulary."""
    cased: int = 0
    """Columns found only when upper and lower case are taken as the same."""
    mouse: bool = False
    """Whether most names look like mouse genes."""
    left_out: int = 0
    """Columns that an alias, or upper and lower case taken as the same, would make a gene that is there under its
    own name."""
    of_mouse: int = 0
    """Columns that are marked as genes of the mouse (``mm10_Cd3e``) and left out."""
    min_genes: int = 0
    """A cell with fewer of ``genes`` counts as one without any: too little is known of it."""

    @property
    def summed(self) -> int:
        """Columns that were added to another one of the same gene."""
        return len(self.columns) - len(self.genes)

    def gather(self, chunk: csr_matrix) -> csr_matrix:
        """Turn the used columns, in order, into the found genes; a cell with fewer than ``min_genes`` has none."""
        genes = self._gathered(chunk)
        thin = np.flatnonzero((np.diff(genes.indptr) < self.min_genes) & (np.diff(genes.indptr) > 0))
        if not len(thin):
            return genes
        has_enough = np.ones(genes.shape[0], dtype=genes.dtype)
        has_enough[thin] = 0
        genes = csr_matrix(genes.multiply(has_enough[:, None]), dtype=genes.dtype)
        genes.eliminate_zeros()
        return genes

    def _gathered(self, chunk: csr_matrix) -> csr_matrix:
        if np.array_equal(self.target, np.arange(len(self.genes))):
            return chunk
        # small integers would overflow in the sum
        ones = np.ones(len(self.target), dtype=np.result_type(chunk.dtype, np.float32))
        into = csr_matrix((ones, (np.arange(len(self.target)), self.target)), (len(self.target), len(self.genes)))
        return (chunk @ into).tocsr()


@cache
def _folded_names() -> dict[str, str]:
    """The names of :func:`gene_table` in upper case, where that is the name of one gene."""
    return {name: symbol for name, symbol in _folded(gene_table()[1].items()).items() if symbol is not None}


def _folded(names: Iterable[tuple[str, T]]) -> dict[str, T | None]:
    """Put names into upper case; ``None`` where two of them then mean different things."""
    folded: dict[str, T | None] = {}
    for name, meaning in names:
        upper = name.upper()
        folded[upper] = meaning if folded.get(upper, meaning) == meaning else None
    return folded


def looks_like_mouse(names: Sequence[str]) -> bool:
    """Whether most names are written as mouse genes are: ``Cd3e`` in place of ``CD3E``, or ``ENSMUSG...``."""
    judged = mouse = 0
    for name in names:
        letters = [c for c in name if c.isalpha()]
        if ENSEMBL.match(name) or len(letters) < 2:
            continue
        judged += 1
        title = letters[0].isupper() and all(c.islower() for c in letters[1:])
        mouse += title or name.startswith("ENSMUSG")
    return mouse > judged / 2


def map_genes(names: Sequence[str], vocabulary: Sequence[str]) -> GeneMap:
    """Find the genes of a vocabulary among the names of a data set.

    A name is found as it is, by Ensembl id (with or without version, also within a name), by an alias or previous
    symbol of HGNC, all of these on either side, or by the name before the number that ``var_names_make_unique`` puts
    behind a repeat; with the name of a genome before it (``GRCh38_CD3E``), spaces around it, or dots for dashes, as R
    writes ``HLA.DRA``; and at last with upper and lower case taken as the same. Columns that are found to be one gene
    are summed. Only a column that differs in case alone from one that is there under its own name, or is an alias of
    it, is left out: it is another species' gene, or an antibody.

    Where most names look like mouse genes (``Cd3e``), case matters: a mouse gene is never read as the human one.

    Parameters
    ----------
    names
        Gene symbols or Ensembl ids of the data set, without repeats; ``""`` for a feature that is no gene.
    vocabulary
        Gene symbols or Ensembl ids of an encoder.
    """
    exact = {gene: i for i, gene in enumerate(vocabulary)}
    by_approved: dict[str, int] = {}
    for gene, i in exact.items():
        by_approved.setdefault(approved_symbol(gene) or gene, i)
    plain = [plain_name(name, exact) for name in names]
    of_mouse = sum(bool(MOUSE_PREFIX.match(name)) for name in names)
    mouse = looks_like_mouse([name for name in plain if name]) or of_mouse > len(names) / 2
    folded = {} if mouse else _folded((gene, i) for gene, i in exact.items())
    present = set(plain)
    taken = _taken(present, exact, by_approved)
    positions: list[int] = []
    columns, renamed, cased, left_out, n_ensembl = [], 0, 0, 0, 0
    for column, (written, name) in enumerate(zip(names, plain, strict=True)):
        if not name:
            continue
        is_id = bool(ENSEMBL.match(name))
        n_ensembl += is_id
        position = exact.get(name)
        if position is not None:
            renamed += name != written
        else:
            symbol, repeat = approved_symbol(name), False
            if symbol is None and (unique := MADE_UNIQUE.match(name)) and unique[1] in present:
                symbol, repeat = approved_symbol(unique[1]) or unique[1], True
            if symbol is not None:
                position = exact.get(symbol, by_approved.get(symbol))
                if position in taken and not (is_id or repeat or symbol == name):
                    left_out += 1
                    continue
                renamed += position is not None
            elif not mouse and not is_id:
                position = folded.get(name.upper())
                if position is None and (resembled := _folded_names().get(name.upper())):
                    position = exact.get(resembled, by_approved.get(resembled))
                if position in taken:
                    left_out += 1
                    continue
                cased += position is not None
            if position is None:
                continue
        columns.append(column)
        positions.append(position)
    used, target = np.unique(np.array(positions, dtype=np.int64), return_inverse=True)
    return GeneMap(
        columns=np.array(columns, dtype=np.int64),
        genes=[vocabulary[i] for i in used],
        target=target,
        kind="Ensembl ids" if n_ensembl > len(names) / 2 else "symbols",
        renamed=renamed,
        n_vocabulary=len(vocabulary),
        cased=cased,
        mouse=mouse,
        left_out=left_out,
        of_mouse=of_mouse,
    )


def _taken(present: set[str], exact: dict[str, int], by_approved: dict[str, int]) -> set[int | None]:
    """Positions in the vocabulary that a name has as it is, as an approved symbol, or as an Ensembl id."""
    symbol_of = {name: approved_symbol(name) or name for name in present if name}
    positions = {
        exact.get(name, by_approved.get(symbol))
        for name, symbol in symbol_of.items()
        if name in exact or symbol == name or ENSEMBL.match(name)
    }
    return positions - {None}


def plain_name(name: str, known: Container[str] = ()) -> str:
    """Take from a name what is not the gene's: a genome, spaces, another name beside an Ensembl id.

    A gene of the mouse, by its prefix, gives ``""``.

    Parameters
    ----------
    name
        As it is written.
    known
        Names that mean a gene, beside those of HGNC.
    """
    name = name.strip()
    if name in known or approved_symbol(name):
        return name
    if MOUSE_PREFIX.match(name):
        return ""
    name = _HUMAN_PREFIX.sub("", name)
    if within := _ENSEMBL_WITHIN.search(name):
        # _PAR_Y and versions are no other name
        return name if ENSEMBL.match(name) else within[0]
    for other in (name, name.replace(".", "-"), name.replace(".", "-", 1), name.replace("_", "-")):
        if other in known or approved_symbol(other) == other:
            return other
    return name
