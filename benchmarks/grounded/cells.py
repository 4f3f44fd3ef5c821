"""Real cells, what is measured in them, and how the slots of a question are filled for one of them.

Everything is read from the matrix, the ontology, the marker table and what ``bsc.tl.annotate`` wrote: nothing from
``bioverse_sc.facts``, whose answers it is to judge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from evaluate import read

import bioverse_sc as bsc
from bioverse_sc.ontology import LINEAGES, approved_symbol, cell_ontology, gene_table
from grounded.tables import bearers
from grounded.words import ROOTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData

    from bioverse_sc.models import BioVerse

SETS = ("pbmc3k", "symphony_pbmc_3tech", "scp1884_gut", "baron_pancreas_175", "he_liver_20", "pbmc68k_reduced")
STRANGERS = (
    *("neuron", "hepatocyte", "keratinocyte", "erythrocyte", "oligodendrocyte", "melanocyte", "podocyte", "osteoblast"),
    *("Sertoli cell", "adipocyte", "type II pneumocyte", "plasma cell", "mast cell", "platelet"),
)
"""Types that most cells are not."""
INVENTED = ("ABCDE1", "GZMQ9", "CD3Z7", "FOXZ12", "ILX44", "KRTL7", "BRCX3", "MS4B9", "LYZQ2", "XPR77")
"""What looks like the symbol of a gene and is none."""
ALIASES = {
    **{"CD20": "MS4A1", "CD45": "PTPRC", "CD56": "NCAM1", "CD11c": "ITGAX", "CD11b": "ITGAM", "CD62L": "SELL"},
    **{"CD16a": "FCGR3A", "CD64": "FCGR1A", "CD123": "IL3RA", "CD127": "IL7R", "CD10": "MME"},
    **{"CD21": "CR2", "CD31": "PECAM1", "CD49f": "ITGA6", "CD90": "THY1", "CD103": "ITGAE", "CD161": "KLRB1"},
    **{"PD-1": "PDCD1", "RANTES": "CCL5", "CD29": "ITGB1", "CD18": "ITGB2", "CD54": "ICAM1"},
}
"""What a protein of a gene is called at the bench."""


@dataclass(frozen=True)
class Panel:
    """The genes of a data set."""

    columns: Mapping[str, Sequence[int]]
    """Columns of each approved symbol; of what has none, by its name in the data."""
    symbols: Sequence[str]
    """Approved symbol of each column."""
    is_counts: bool

    @classmethod
    def of(cls, names: Sequence[str], *, is_counts: bool) -> Panel:
        symbols = [approved_symbol(str(name)) or str(name) for name in names]
        columns: dict[str, list[int]] = {}
        for j, symbol in enumerate(symbols):
            columns.setdefault(symbol, []).append(j)
        return cls(columns, symbols, is_counts)


@dataclass(frozen=True)
class Cell:
    """A real cell."""

    dataset: str
    name: str
    adata: AnnData
    """The cells of its data set that questions are asked about, labelled."""
    panel: Panel
    values: np.ndarray
    """The row of the matrix, shape (genes,)."""
    label: str
    term: str
    """Cell Ontology id of the label; ``""`` for unknown."""
    sure: tuple[float, float]
    """Calibrated confidence of the label, and its probability."""
    runners: tuple[str, ...]
    """Terms that may be called the runner-up."""
    p_runner: float
    """Probability of the first of them."""

    def value(self, gene: str) -> float | None:
        """What is measured of a gene, by any of its names; ``None`` where it is not among the genes."""
        columns = self.panel.columns.get(approved_symbol(gene) or gene)
        return float(self.values[list(columns)].sum()) if columns else None

    @cached_property
    def expressed(self) -> frozenset[str]:
        """Approved symbols of the genes with a value above zero."""
        return frozenset(self.panel.symbols[j] for j in np.flatnonzero(self.values > 0))

    @cached_property
    def markers(self) -> dict[str, str]:
        """Markers of the label and of wider types, each with the most specific term that it marks."""
        known = cell_ontology().known_markers(self.term) if self.term else {}
        return {gene: term for gene, term in known.items() if term in bearers(self.term)}

    @property
    def n_counts(self) -> float:
        return float(self.values.sum())

    @property
    def n_genes(self) -> int:
        return int((self.values > 0).sum())

    @property
    def mitochondrial(self) -> float | None:
        """Percent of the counts, of the measured genes; ``None`` where no mitochondrial gene is among them."""
        columns = [j for j, symbol in enumerate(self.panel.symbols) if symbol.startswith("MT-")]
        counts = self.values if self.panel.is_counts else np.expm1(self.values)
        return float(100 * counts[columns].sum() / max(counts.sum(), 1e-9)) if columns else None


def matrix_of(adata: AnnData) -> tuple[np.ndarray, Sequence[str], bool]:
    """Rows, names of the genes, and whether these are counts; ``.raw`` where ``.X`` is scaled."""
    if (adata.X.min() if adata.n_obs else 0) < 0:
        rows, names = adata.raw.X, adata.raw.var_names
    else:
        rows, names = adata.X, adata.var_names
    rows = np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows)
    return rows, list(names), bool(np.equal(np.mod(rows, 1), 0).all())


def drawn(adata: AnnData, n: int, rng: np.random.Generator) -> AnnData:
    """Some cells, as many of each type as there are, by the author's labels."""
    table = pd.DataFrame({"type": adata.obs["cell_type"].astype(str).to_numpy(), "row": rng.permutation(adata.n_obs)})
    turn = table.sort_values("row").groupby("type").cumcount()
    rows = table.assign(turn=turn).sort_values(["turn", "row"]).index[:n]
    return adata[np.sort(rows.to_numpy())].copy()


def labelled(dataset: str, adata: AnnData, model: str | BioVerse) -> list[Cell]:
    """Cells with what ``bsc.tl.annotate`` says of them."""
    bsc.tl.annotate(adata, model=model, reasoning=None, n_runner_up=3, probabilities=True)
    rows, names, is_counts = matrix_of(adata)
    panel = Panel.of(names, is_counts=is_counts)
    p, labels = adata.obsm["bioverse_probabilities"].toarray(), adata.uns["bioverse"]["annotate"]["labels"]
    ontology = cell_ontology()
    terms = [ontology.find(str(label)) or "" for label in labels]
    cells = []
    for i, name in enumerate(adata.obs_names):
        label, term = str(adata.obs["bioverse_label"].iloc[i]), str(adata.obs["bioverse_label_id"].iloc[i])
        below = [bool(term) and term in ontology.ancestors(t) for t in terms]
        others = adata.obsm["bioverse_runner_up"].iloc[i]
        ranked = [ontology.find(str(others[f"label_{k}"])) or "" for k in (1, 2, 3)]
        # a label that gave way to a wider one leaves its narrower ones behind as the next likely
        beside = [t for t in ranked if t and not (term and term in ontology.ancestors(t))]
        runners = tuple(dict.fromkeys([*ranked[:1], *beside[:1]]))
        sure = (float(adata.obs["bioverse_confidence"].iloc[i]), float(p[i, : len(terms)][below].sum()))
        p_runner = float(others["probability_1"])
        cells.append(Cell(dataset, str(name), adata, panel, rows[i], label, term, sure, runners, p_runner))
    return cells


def real_cells(shared: Path, sets: Sequence[str], n: int, model: str | BioVerse, seed: int) -> list[Cell]:
    """``n`` cells or more, the sets in turn, in an order that the seed alone decides."""
    rng = np.random.default_rng([seed, 20])
    per_set = [labelled(name, drawn(read(shared, name), n, rng), model) for name in sets]
    order = [[cells[i] for i in rng.permutation(len(cells))] for cells in per_set]
    longest = max(map(len, order))
    return [cells[turn] for turn in range(longest) for cells in order if turn < len(cells)][: 3 * n]


def relabelled(cell: Cell, other: Cell) -> Cell:
    """The cell with another one's label, as facts that contradict its genes would have it."""
    return replace(
        cell, label=other.label, term=other.term, sure=other.sure, runners=other.runners, p_runner=other.p_runner
    )


def filled(slots: Mapping[str, str], cell: Cell, rng: np.random.Generator) -> dict[str, str] | None:
    """The slots of a question for a cell, ``None`` where the cell has nothing to fill one with.

    ``name`` becomes the id of a term, ``gene`` the name of a gene, ``pathway`` stays as it is.
    """
    full: dict[str, str] = {}
    for slot, rule in slots.items():
        choose = {"name": type_for, "gene": gene_for}.get(slot)
        value = choose(rule, cell, rng) if choose else rule
        if not value:
            return None
        full[slot] = value
    return full


def type_for(rule: str, cell: Cell, rng: np.random.Generator) -> str | None:
    """Id of a term: the label, an ancestor, a sibling, an unrelated or narrower one, or the runner-up."""
    ontology = cell_ontology()
    if rule not in ("label", "ancestor", "sibling", "unrelated", "narrower", "runner_up"):
        # a type by its name
        return ontology.find(rule)
    if not cell.term:
        return None
    above = ontology.ancestors(cell.term)
    related = lambda t: t in above or cell.term in ontology.ancestors(t)
    if rule == "label":
        choices = [cell.term]
    elif rule == "ancestor":
        named = set(LINEAGES) | set(ontology.markers)
        choices = sorted((above & named) - {cell.term} - ROOTS)
    elif rule == "runner_up":
        choices = [t for t in cell.runners if not related(t)][:1]
    elif rule == "narrower":
        choices = sorted(t for t in ontology.markers if t != cell.term and cell.term in ontology.ancestors(t))
    elif rule == "unrelated":
        terms = [ontology.find(name) for name in STRANGERS]
        choices = [
            t for t in terms if not related(t) and not cell.markers.keys() & set(list(ontology.markers.get(t, ()))[:2])
        ]
    else:
        labels = [ontology.find(str(label)) for label in cell.adata.uns["bioverse"]["annotate"]["labels"]]
        near = sorted({t for t in labels if t in ontology.markers and not related(t)})
        best = max((len(above & ontology.ancestors(t)) for t in near), default=0)
        choices = [t for t in near if len(above & ontology.ancestors(t)) == best]
    return str(rng.choice(choices)) if choices else None


def gene_for(rule: str, cell: Cell, rng: np.random.Generator) -> str | None:
    """Name of a gene, by what is measured of it in the cell; a rule that is no rule is a name itself."""
    ontology = cell_ontology()
    first = list(ontology.markers.get(cell.term, cell.markers))
    if rule == "expressed_marker":
        choices = [g for g in first[:40] if cell.value(g)][:6] or [g for g in cell.markers if cell.value(g)][:6]
    elif rule == "absent_marker":
        choices = [g for g in first[:40] if cell.value(g) == 0][:6]
    elif rule == "foreign":
        above = ontology.known_markers(cell.term).keys() if cell.term else set()
        below = {g for t, genes in ontology.markers.items() if cell.term in ontology.ancestors(t) for g in genes}
        marks = {g for t in ontology.markers for g in list(ontology.markers[t])[:20]}
        choices = sorted(marks & (cell.expressed - above - below)) if cell.term else []
    elif rule == "unmeasured":
        known = [g for t in sorted(ontology.markers) for g in list(ontology.markers[t])[:5]]
        choices = sorted({g for g in known if cell.value(g) is None and approved_symbol(g) == g})
    elif rule == "invented":
        choices = [name for name in INVENTED if name not in gene_table()[1]]
    elif rule in ("expressed_alias", "absent_alias"):
        wanted = rule == "expressed_alias"
        values = {alias: cell.value(gene) for alias, gene in ALIASES.items() if approved_symbol(alias) == gene}
        choices = [alias for alias, value in values.items() if value is not None and (value > 0) == wanted]
    else:
        choices = [rule]
    return str(rng.choice(choices)) if choices else None


def shown_name(term: str) -> str:
    """Name of a type as a person would type it."""
    return cell_ontology().names[term].removesuffix(", human")


def worded(text: str, slots: Mapping[str, str]) -> str:
    """A question with its slots written out: ``{name}``, ``{a_name}`` with its article, ``{names}`` for several."""
    words = dict(slots)
    if "name" in slots:
        name = shown_name(slots["name"])
        vowel = name[0] in "aeioAEIO" or name.startswith("unc")
        words |= {"name": name, "a_name": f"{'an' if vowel else 'a'} {name}", "names": f"{name}s"}
    return text.format(**words)
