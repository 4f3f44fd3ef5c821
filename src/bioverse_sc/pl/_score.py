"""Scores of observations by texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc._keys import Keys
from bioverse_sc._modality import CELLS
from bioverse_sc.metrics import rank_of_true
from bioverse_sc.pl._show import shown_or_axes
from bioverse_sc.read import observations

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from mudata import MuData

LETTERS_SHOWN = 32


def score(
    data: AnnData | MuData,
    *,
    mod: str | None = None,
    texts_key: str | None = None,
    n: int = 30,
    key: str = "bioverse",
    ax: Axes | None = None,
    show: bool | None = None,
) -> Axes | None:
    """Draw the cosines of observations with texts that :func:`bioverse_sc.tl.score` wrote, own pairs on the diagonal.

    An observation's own text has a dot. The title says for how many observations it is the nearest of all texts, or
    among the nearest five: of all observations with a text among those scored, also of those that are not drawn.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData.
    mod
        Modality of a MuData; by default what the results are of.
    texts_key
        Column of ``.obs`` with each observation's own text, as it was scored. Without it there are no dots and no
        retrieval.
    n
        Rows at most, and columns at most; they are taken evenly.
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
        When there are no scores, or no column ``texts_key``.
    ValueError
        When several modalities have scores, ``n`` is not positive, or no observation's own text was scored.
    """
    import matplotlib.pyplot as plt

    if n < 1:
        msg = f"n is {n}; expected a positive number."
        raise ValueError(msg)
    adata = _scored(data, mod, Keys(key))
    scores: pd.DataFrame = adata.obsm[Keys(key).scores]
    of_mod = next((name for name, part in getattr(data, "mod", {}).items() if part is adata), None)
    # (observations,), the column of each one's own text
    true_column = np.full(adata.n_obs, -1) if texts_key is None else _own_columns(adata, scores, texts_key, of_mod)
    rows, columns = _drawn(true_column, scores.shape[1], n)
    created = ax is None
    if ax is None:
        size = (4.2 + 0.24 * len(columns), 2.8 + 0.24 * len(rows))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    image = ax.imshow(scores.to_numpy()[np.ix_(rows, columns)], cmap="viridis", aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="cosine", shrink=0.6)
    texts = scores.columns[columns]
    # a text may hold a dollar, which is no formula
    ax.set_xticks(range(len(columns)), [_short(text) for text in texts], rotation=90, fontsize=7, parse_math=False)
    names = [_short(str(name)) for name in adata.obs_names[rows]]
    ax.set_yticks(range(len(rows)), names, fontsize=7, parse_math=False)
    ax.set_xlabel(f"{len(columns)} of {scores.shape[1]} texts")
    ax.set_ylabel(f"{len(rows)} of {adata.n_obs} observations")
    known = true_column >= 0
    if known.any():
        y, x = np.nonzero(true_column[rows][:, None] == columns)
        ax.scatter(x, y, s=14, c="white", edgecolors="black", linewidths=0.7, label="own text")
        rank = rank_of_true(scores.to_numpy()[known], true_column[known])
        counts = f"{known.sum()} observations, {scores.shape[1]} texts"
        ax.set_title(f"retrieval@1 {(rank < 1).mean():.0%}, @5 {(rank < 5).mean():.0%}\n{counts}; dots: own text")
    return shown_or_axes(ax, created=created, show=show)


def _scored(data: AnnData | MuData, mod: str | None, keys: Keys) -> AnnData:
    """The modality with scores."""
    mods = getattr(data, "mod", None) or {}
    scored = [name for name, part in mods.items() if keys.scores in part.obsm]
    if mod is None and len(scored) > 1:
        msg = f"The modalities {scored} have scores; expected one, such as mod={scored[0]!r}."
        raise ValueError(msg)
    adata = observations(data, mod or next(iter([*scored, *mods]), CELLS))
    if keys.scores not in adata.obsm:
        arguments = "" if mod is None else f", mod={mod!r}"
        arguments += "" if keys.stem == "bioverse" else f", key_added={keys.stem!r}"
        msg = f"There are no scores in .obsm[{keys.scores!r}]. Run bsc.tl.score(data, texts{arguments}) first."
        raise KeyError(msg)
    return adata


def _own_columns(adata: AnnData, scores: pd.DataFrame, texts_key: str, mod: str | None) -> np.ndarray:
    """Column of each observation's own text; -1 where it was not scored."""
    if texts_key not in adata.obs:
        msg = f"There is no column {texts_key!r} in .obs; there are {list(adata.obs.columns)}."
        raise KeyError(msg)
    place = {column: i for i, column in enumerate(scores.columns)}
    columns = [place.get(Keys.score_column(str(text)), -1) for text in adata.obs[texts_key]]
    if max(columns) < 0:
        msg = (
            f"None of the texts in .obs[{texts_key!r}] was scored. Run bsc.tl.score(data, "
            f"list(data{'' if mod is None else f'[{mod!r}]'}.obs[{texts_key!r}].dropna().unique())"
            f"{'' if mod is None else f', mod={mod!r}'}) first."
        )
        raise ValueError(msg)
    return np.array(columns)


def _drawn(true_column: np.ndarray, n_texts: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns to draw: texts with own observations, these in the same order, then others if there is room."""
    paired, others = np.unique(true_column[true_column >= 0]), np.setdiff1d(np.arange(n_texts), true_column)
    paired = _evenly(paired, n)
    columns = np.concatenate([paired, _evenly(others, n - len(paired))])
    each = max(1, n // max(len(paired), 1))
    of_texts = [_evenly(np.flatnonzero(true_column == column), each) for column in paired]
    rows = np.concatenate([*of_texts, _evenly(np.flatnonzero(true_column < 0), n - sum(map(len, of_texts)))])
    return rows.astype(int), columns.astype(int)


def _evenly(items: np.ndarray, n: int) -> np.ndarray:
    """At most ``n`` of the items, the first and the last among them."""
    return items[np.linspace(0, len(items) - 1, min(n, len(items))).round().astype(int)]


def _short(text: str) -> str:
    """A text in one line, without its middle where it is long: texts often begin alike."""
    text = " ".join(text.split())
    half = LETTERS_SHOWN // 2
    return text if len(text) <= LETTERS_SHOWN else f"{text[:half].rstrip()}…{text[1 - half :].lstrip()}"
