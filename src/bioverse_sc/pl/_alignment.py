"""The picture of alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc._keys import Keys
from bioverse_sc._logging import logger
from bioverse_sc._modalities import modality
from bioverse_sc._record import recorded

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from mudata import MuData

LABELS_SHOWN = 12
_OTHER = "#c9c9c9"


def alignment_umap(
    data: AnnData | MuData,
    *,
    color: str | None = None,
    key: str = "bioverse",
    ax: tuple[Axes, Axes] | None = None,
    show: bool | None = None,
) -> tuple[Axes, Axes] | None:
    """Draw cells and texts in the language model's embedding space, before and after alignment, side by side.

    Cells are coloured dots, biological texts black triangles, everyday texts grey crosses, as in figure 2 of BioVERSE
    (arXiv 2510.01428). When :func:`bioverse_sc.tl.alignment` has not been run, it is run first, with its defaults.

    Parameters
    ----------
    data
        AnnData, or MuData with an ``"rna"`` modality.
    color
        Column of ``.obs``; the label that :func:`bioverse_sc.tl.annotate` wrote by default. The commonest twelve values
        of a categorical column have a colour of their own.
    key
        Stem of the slots, the ``key_added`` of the functions that wrote them.
    ax
        Two axes to draw into; a new figure by default.
    show
        Whether to show the figure; by default when no ``ax`` was given and a display is there.

    Returns
    -------
    The two axes, or ``None`` when the figure is shown.

    Raises
    ------
    KeyError
        When ``color`` is not in ``.obs``, or the cells were aligned with another model than the bundled one and
        :func:`bioverse_sc.tl.alignment` has not been run.
    """
    import matplotlib.pyplot as plt

    adata = modality(data)
    keys = Keys(key)
    if color is not None and color not in adata.obs:
        msg = f"There is no column {color!r} in .obs; there are {list(adata.obs.columns)}."
        raise KeyError(msg)
    aligned, compared = recorded(adata, keys, "align"), recorded(adata, keys, "alignment")
    if keys.umap_after not in adata.obsm or compared.get("model_fingerprint") != aligned.get("model_fingerprint"):
        _run_alignment(data, adata, keys)
    stored = recorded(adata, keys, "alignment")
    column = color or (keys.label if keys.label in adata.obs else None)
    created = ax is None
    if ax is None:
        _, pair = plt.subplots(1, 2, figsize=(13, 5.6), layout="constrained")
        ax = (pair[0], pair[1])
    related = np.asarray(stored["texts_related"]).astype(bool)
    for panel, when, slot in zip(ax, ("before", "after"), (keys.umap_before, keys.umap_after), strict=True):
        _draw_cells(panel, np.asarray(adata.obsm[slot]), adata, column)
        texts = np.asarray(stored[f"texts_{when}"])
        panel.scatter(
            texts[~related][:, 0],
            texts[~related][:, 1],
            s=22,
            marker="x",
            c="#7f7f7f",
            linewidths=0.9,
            label="everyday text",
        )
        panel.scatter(
            texts[related][:, 0],
            texts[related][:, 1],
            s=30,
            marker="^",
            c="black",
            edgecolors="white",
            linewidths=0.5,
            label="biological text",
        )
        metrics = stored.get(when)
        gap = (
            f"\nmodality gap {metrics['modality_gap']:.2f}, own text first {metrics['retrieval_at_1']:.0%}"
            if metrics
            else ""
        )
        panel.set(title=f"{when} alignment{gap}", xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
    handles, names = ax[1].get_legend_handles_labels()
    ax[1].legend(
        handles, names, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8, markerscale=1.4
    )
    if show is None:
        show = created and plt.get_backend().lower() not in ("agg", "pdf", "svg", "ps", "cairo")
    if show:
        plt.show()
        return None
    return ax


def _run_alignment(data: AnnData | MuData, adata: AnnData, keys: Keys) -> None:
    """Run it with the bundled model, unless the cells were aligned with another one."""
    from bioverse_sc._models import get_model
    from bioverse_sc.tl import alignment

    made_by = recorded(adata, keys, "align").get("model_fingerprint")
    if made_by not in (None, get_model("mini").fingerprint):
        msg = (
            "The cells were aligned with another model than 'mini'. Run bsc.tl.alignment(data, model=that_model) first."
        )
        raise KeyError(msg)
    logger.info("bsc.tl.alignment has not been run; running it with its defaults.")
    alignment(data, key_added=keys.stem)


def _draw_cells(panel: Axes, coordinates: np.ndarray, adata: AnnData, column: str | None) -> None:
    """Dots, in the colours of a category or of a number."""
    import matplotlib.pyplot as plt
    from pandas.api.types import is_numeric_dtype

    size = float(np.clip(24000 / max(len(coordinates), 1), 3, 26))
    if column is None:
        panel.scatter(
            coordinates[:, 0], coordinates[:, 1], s=size, c="#1f77b4", linewidths=0, label="cells", rasterized=True
        )
        return
    values = adata.obs[column]
    if is_numeric_dtype(values):
        dots = panel.scatter(
            coordinates[:, 0], coordinates[:, 1], s=size, c=values.to_numpy(), linewidths=0, rasterized=True
        )
        panel.figure.colorbar(dots, ax=panel, label=column, shrink=0.6)
        return
    values = values.astype(str)
    common = values.value_counts().index[:LABELS_SHOWN]
    rest = ~values.isin(common).to_numpy()
    if rest.any():
        panel.scatter(
            coordinates[rest][:, 0],
            coordinates[rest][:, 1],
            s=size,
            c=_OTHER,
            linewidths=0,
            label=f"other cells ({rest.sum()})",
            rasterized=True,
        )
    palette = [plt.get_cmap("tab20")(i) for i in [0, 2, 4, 6, 8, 10, 12, 16, 18, 1, 3, 5]]
    for name, shade in zip(common, palette, strict=False):
        here = (values == name).to_numpy()
        panel.scatter(
            coordinates[here][:, 0],
            coordinates[here][:, 1],
            s=size,
            color=shade,
            linewidths=0,
            label=f"{name} ({here.sum()})",
            rasterized=True,
        )
