"""The genes that the reasoning names, beside what the cells express."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bioverse_sc._keys import Keys
from bioverse_sc._logging import logger
from bioverse_sc._results import Results
from bioverse_sc._row_hash import bound_hashes, hash_texts
from bioverse_sc.pl._show import shown_or_axes
from bioverse_sc.read import matrix_of_genes, observations

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from mudata import MuData

ROWS_SHOWN = 20
# blue and vermilion, which also the colour-blind tell apart
_SUPPORTED, _UNSUPPORTED, _GREY = "#0072b2", "#d55e00", "#6f6f6f"
_SMALLEST, _LARGEST = 8.0, 90.0


def evidence(
    data: AnnData | MuData,
    *,
    groupby: str = "bioverse_label",
    n: int = 8,
    key: str = "bioverse",
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Draw the genes that the reasoning names most, for each label, beside what its cells express.

    A dot is a gene; its size is the share of the group's cells that express it. It is blue as far as the claims about
    it are supported by the rule of :func:`bioverse_sc.tl.evidence`, vermilion as far as they are not, and grey between.
    A ring is a gene that the texts say is absent. On the right is the share of all claims of the group that are
    supported. Of a MuData it draws the cells. When :func:`bioverse_sc.tl.evidence` has not been run, it is run first,
    with its defaults.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData.
    groupby
        Column of ``.obs`` with the groups, the commonest twenty of which are drawn. With another stem and the default,
        its label.
    n
        Genes of each group at most.
    key
        Stem of the slots, the ``key_added`` of the function that wrote them.
    ax
        Axes to draw into; a new figure by default.
    show
        Whether to show the figure; by default when no ``ax`` was given and a display is there.

    Returns
    -------
    The axes, or ``None`` when the figure is shown.

    Raises
    ------
    KeyError
        When there is no reasoning, or no column ``groupby``.
    ValueError
        When the texts name no gene, when the claims are of other groups than ``groupby``, or ``n`` is not positive.
    """
    import matplotlib.pyplot as plt

    if n < 1:
        msg = f"n is {n}; expected a positive number."
        raise ValueError(msg)
    adata, keys = observations(data), Keys(key)
    column = keys.label if groupby == "bioverse_label" else groupby
    if not _is_checked(adata, keys):
        from bioverse_sc.tl import evidence as check

        logger.info("bsc.tl.evidence has not been run on these texts; running it with its defaults.")
        check(data, key_added=key)
    if column not in adata.obs:
        msg = f"There is no column {column!r} in .obs; there are {list(adata.obs.columns)}."
        raise KeyError(msg)
    claims = _grouped(adata, keys, column)
    sizes = adata.obs[column].value_counts()
    groups = [group for group in sizes.index if group in set(claims["group"])]
    if len(groups) > ROWS_SHOWN:
        logger.info("    drawing the commonest %d of %d groups", ROWS_SHOWN, len(groups))
    groups = groups[:ROWS_SHOWN]
    drawn = _most_named(claims, groups, n)
    drawn["expressing"] = _expressing(adata, keys, column, drawn)
    created = ax is None
    names = [textwrap.fill(f"{group} ({sizes[group]})", 34) for group in groups]
    if ax is None:
        size = (max(3.2 + 0.62 * drawn["place"].max(), 6.6), 0.9 + 0.42 * len(groups))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    _draw(ax, drawn)
    ax.set_yticks(range(len(groups)), names, fontsize=7, parse_math=False)
    ax.set_xticks([])
    ax.set_xlim(-0.6, drawn["place"].max() + 1.1)
    ax.set_ylim(len(groups) - 0.35, -0.6)
    return shown_or_axes(ax, created=created, show=show)


def _is_checked(adata: AnnData, keys: Keys) -> bool:
    """Whether the claims are of the labels and texts that are there."""
    results = Results(adata, keys)
    if "claims" not in results.made_by("evidence") or not {keys.label, keys.reasoning} <= set(adata.obs):
        return False
    content = bound_hashes(hash_texts(adata.obs[keys.label]), hash_texts(adata.obs[keys.reasoning]))
    return results.made_from("evidence", content)


def _grouped(adata: AnnData, keys: Keys, column: str) -> pd.DataFrame:
    """The claims, with the group of each; those of cells that are no longer there are left out."""
    stored = Results(adata, keys).made_by("evidence")
    claims, of_groups = stored["claims"], str(stored["groupby"])
    if not of_groups:
        cells = pd.Series(adata.obs[column].astype(object).to_numpy(), index=adata.obs_names.astype(str))
        group = claims["cell"].astype(object).map(cells[~cells.index.duplicated()])
    elif column == of_groups:
        group = claims["cell"].astype(object).map({str(value): value for value in adata.obs[column].unique()})
    elif column == keys.label:
        group = claims["label"].astype(object)
    else:
        msg = (
            f"The reasoning was checked in groups of {of_groups!r}; expected groupby={of_groups!r} or {keys.label!r}, "
            f"found {column!r}. To check it in each cell, run bsc.tl.evidence(data) first."
        )
        raise ValueError(msg)
    claims = claims.assign(group=group).dropna(subset="group")
    if claims.empty:
        msg = (
            f"The texts in .obs[{keys.reasoning!r}] name no gene that could be looked up, so there is nothing to draw."
        )
        raise ValueError(msg)
    return claims


def _most_named(claims: pd.DataFrame, groups: list[Any], n: int) -> pd.DataFrame:
    """The genes that the texts of each group name most, where to draw them, and how many of their claims hold."""
    rows = []
    for row, group in enumerate(groups):
        of_group = claims[claims["group"] == group].astype({"gene": object, "claim": object})
        counts = of_group.groupby(["gene", "claim"], as_index=False)["supported"].agg(["size", "mean"])
        counts = counts.sort_values(["size", "gene"], ascending=[False, True])[:n]
        counts = counts.sort_values("claim", ascending=False, kind="stable")
        rows.append(
            counts.assign(
                group=[group] * len(counts), row=row, place=range(len(counts)), total=of_group["supported"].mean()
            )
        )
    return pd.concat(rows, ignore_index=True)


def _expressing(adata: AnnData, keys: Keys, column: str, drawn: pd.DataFrame) -> np.ndarray:
    """Share of the cells of each group that express the gene; 0 when it is not measured."""
    stored = Results(adata, keys).made_by("evidence")
    genes, symbols = list(dict.fromkeys(drawn["gene"])), str(stored["gene_symbols"]) or None
    matrix = matrix_of_genes(adata, str(stored["source"]), genes, gene_symbols=symbols)
    codes, groups = pd.factorize(adata.obs[column])
    expressing = np.zeros((len(groups), len(matrix.genes)))  # (groups, genes)
    for rows, chunk in matrix.chunks():
        has_group = codes[rows] >= 0
        np.add.at(expressing, codes[rows][has_group], chunk.toarray()[has_group] > 0)
    shares = pd.DataFrame(
        expressing / np.bincount(codes[codes >= 0], minlength=len(groups))[:, None],
        index=groups,
        columns=matrix.genes,
    )
    return np.array(
        [
            shares.at[group, gene] if gene in shares else 0.0
            for group, gene in zip(drawn["group"], drawn["gene"], strict=True)
        ]
    )


def _draw(ax: Axes, drawn: pd.DataFrame) -> None:
    """Dots, rings, names, shares and the legend."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("support", [_UNSUPPORTED, "#cccccc", _SUPPORTED])
    for claim, part in drawn.groupby("claim", sort=False):
        colors = shades(part["mean"].to_numpy())
        look = {"facecolors": colors} if claim == "present" else {"facecolors": "none", "linewidths": 1.4}
        ax.scatter(part["place"], part["row"], s=_area(part["expressing"]), edgecolors=colors, **look)
    names = np.where(drawn["claim"] == "absent", "no ", "") + drawn["gene"].to_numpy(dtype=object)
    for name, place, row in zip(names, drawn["place"], drawn["row"], strict=True):
        ax.annotate(
            name,
            (place, row),
            xytext=(0, -7),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=6,
            fontstyle="italic",
            parse_math=False,
        )
    last = drawn["place"].max() + 0.8
    ax.text(last, -0.62, "claims\nsupported", ha="center", va="bottom", fontsize=6, color=_GREY)
    for row, total in enumerate(drawn.groupby("row")["total"].first()):
        ax.text(last, row, f"{total:.0%}", ha="center", va="center", fontsize=7)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    handles = [
        ax.scatter([], [], s=_area(share), color=color, linewidths=1.4, facecolors=face, label=name)
        for share, color, face, name in (
            (0.1, _GREY, _GREY, "10% of cells express it"),
            (1.0, _GREY, _GREY, "all do"),
            (0.5, _SUPPORTED, _SUPPORTED, "claims supported"),
            (0.5, _UNSUPPORTED, _UNSUPPORTED, "not supported"),
            (0.5, _GREY, "none", "said to be absent"),
        )
    ]
    ax.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.4, 0),
        ncols=5,
        frameon=False,
        fontsize=6.5,
        handletextpad=0.3,
        columnspacing=1.2,
    )


def _area(share: np.ndarray | pd.Series | float) -> np.ndarray:
    """Area of a dot in points squared."""
    return _SMALLEST + (_LARGEST - _SMALLEST) * np.asarray(share, dtype=float)
