"""The picture of alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from bioverse_sc._keys import Keys
from bioverse_sc._logging import logger
from bioverse_sc._modality import CELLS, modality_of
from bioverse_sc._results import Results
from bioverse_sc._row_hash import bound_hashes, hash_rows
from bioverse_sc.pl._show import shown_or_axes
from bioverse_sc.read import observations

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from mudata import MuData

T = TypeVar("T")

LABELS_SHOWN = 12
_OTHER = "#c9c9c9"


def alignment_umap(
    data: AnnData | MuData,
    *,
    mod: str | None = None,
    color: str | None = None,
    key: str = "bioverse",
    ax: tuple[Axes, Axes] | None = None,
    show: bool | None = None,
) -> tuple[Axes, Axes] | None:
    """Draw observations and texts in the language model's embedding space, before and after alignment, side by side.

    Cells, proteins and molecules are coloured dots, biological texts black triangles, everyday texts grey crosses, as
    in figure 2 of BioVERSE (arXiv 2510.01428). All modalities that were laid out together have a colour each; ``mod``
    draws one of them alone with its texts. When :func:`bioverse_sc.tl.alignment_umap` has not been run, it is run
    first, with its defaults.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData.
    mod
        Modality of a MuData; by default what the results are of.
    color
        Column of ``.obs`` of one modality, of a MuData that of ``mod`` or ``"rna"``; the label that
        :func:`bioverse_sc.tl.annotate` wrote by default. The commonest twelve values of a categorical column have a
        colour of their own.
    key
        Stem of the slots, the ``key_added`` of the function that wrote them.
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
        When ``color`` is not in ``.obs``, or the observations were aligned with another model than the bundled one and
        :func:`bioverse_sc.tl.alignment_umap` has not been run.
    """
    import matplotlib.pyplot as plt

    keys = Keys(key)
    if color is not None:
        mod = mod or CELLS
        columns = observations(data, mod).obs.columns
        if color not in columns:
            msg = f"There is no column {color!r} in .obs; there are {list(columns)}."
            raise KeyError(msg)
    if _compared(data, mod, keys) is None:
        _run_alignment(data, mod, keys)
    compared = _compared(data, mod, keys)
    if compared is None:
        msg = f"There is no layout under the stem {key!r}. Run bsc.tl.alignment_umap(data) first."
        raise KeyError(msg)
    parts, stored = compared
    created = ax is None
    if ax is None:
        _, pair = plt.subplots(1, 2, figsize=(13, 5.6), layout="constrained")
        ax = (pair[0], pair[1])
    related = np.asarray(stored["texts_related"]).astype(bool)
    shown = np.isin(stored["texts_modality"], [*parts, ""]) if "texts_modality" in stored else np.ones_like(related)
    for panel, when, slot in zip(ax, ("before", "after"), (keys.umap_before, keys.umap_after), strict=True):
        for name, adata in parts.items():
            coordinates = np.asarray(adata.obsm[slot])
            if len(parts) > 1:
                _draw_dots(panel, coordinates, *_look(name, len(coordinates)))
            else:
                label = keys.label if keys.label in adata.obs else None
                _draw_observations(panel, coordinates, adata, color or label, _look(name))
        texts = np.asarray(stored[f"texts_{when}"])
        _draw_texts(panel, texts[~related], "everyday text", s=22, marker="x", c="#7f7f7f", linewidths=0.9)
        biological = texts[related & shown]
        if len(biological):
            look = {"marker": "^", "c": "black", "edgecolors": "white", "linewidths": 0.5}
            _draw_texts(panel, biological, "biological text", s=30, **look)
        panel.set_title(_title(when, stored, list(parts)), fontsize="medium" if len(parts) > 1 else None)
        panel.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
    handles, names = ax[1].get_legend_handles_labels()
    ax[1].legend(
        handles, names, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8, markerscale=1.4
    )
    return shown_or_axes(ax, created=created, show=show)


def _compared(data: AnnData | MuData, mod: str | None, keys: Keys) -> tuple[dict[str, AnnData], dict[str, Any]] | None:
    """Modalities to draw, and what was stored of their layout.

    ``None`` when there is none of the present soft tokens.
    """
    mods = getattr(data, "mod", None)
    names = [mod or CELLS] if mods is None or mod is not None else sorted(mods, key=lambda name: name != CELLS)
    parts = {name: observations(data, name) for name in names}
    together = Results(data, keys).made_by("alignment_umap") if mods is not None else {}
    of_layout = [str(name) for name in together.get("modalities", [])]
    if set(of_layout) <= set(mods or {}):
        wanted = {name: observations(data, name) for name in of_layout if mod in (None, name)}
        # one that was laid out alone since then has a record of its own
        if wanted and all(
            _is_of(together, name, adata, keys) and not Results(adata, keys).made_by("alignment_umap")
            for name, adata in wanted.items()
        ):
            return wanted, together
    for name, adata in parts.items():
        alone = Results(adata, keys).made_by("alignment_umap")
        # an AnnData does not know of what it is
        name = str(next(iter(alone.get("modalities", [name]))))
        if alone and _is_of(alone, name, adata, keys):
            return {name: adata}, alone
    return None


def _is_of(stored: dict[str, Any], name: str, adata: AnnData, keys: Keys) -> bool:
    """Whether a layout is of the soft tokens that are there."""
    if keys.umap_after not in adata.obsm or keys.soft_token not in adata.obsm:
        return False
    made_by = Results(adata, keys).made_by("align").get("model_fingerprint")
    content = bound_hashes(hash_rows(adata.obsm[keys.soft_token]), hash_rows(adata.obsm[keys.umap_after]))
    is_same = np.isin(content, stored.get("content", {}).get(name, [])).all()
    return bool(is_same) and stored.get("model_fingerprint") == made_by


def _run_alignment(data: AnnData | MuData, mod: str | None, keys: Keys) -> None:
    """Run it with the bundled model, unless the observations were aligned with another one."""
    from bioverse_sc.models import get_model
    from bioverse_sc.tl import alignment_umap as lay_out

    mods = getattr(data, "mod", None)
    for name in [mod or CELLS] if mods is None or mod is not None else list(mods):
        made_by = Results(observations(data, name), keys).made_by("align").get("model_fingerprint")
        if made_by not in (None, get_model("mini").fingerprint):
            msg = (
                f"The {_look(name)[0]} were aligned with another model than 'mini'. Run bsc.tl.alignment_umap(data, "
                "model=that_model) first."
            )
            raise KeyError(msg)
    logger.info("bsc.tl.alignment_umap has not been run; running it with its defaults.")
    lay_out(data, mod=mod, key_added=keys.stem)


def _look(mod: str, n: int | None = None) -> tuple[str, str]:
    """Name of a modality's observations, with their number if it is given, and their colour."""
    modality = modality_of(mod)
    return (modality.plural if n is None else f"{modality.plural} ({n})"), modality.colour


def _title(when: str, stored: dict[str, Any], mods: list[str]) -> str:
    """Gap and retrieval of each modality that has them."""
    metrics = stored.get(when, {})
    by_mod = metrics if len(stored.get("modalities", [])) > 1 else {mods[0]: metrics}
    lines = [f"{when} alignment"]
    for name in mods:
        if by_mod.get(name):
            whose = f"{_look(name)[0]}: " if len(mods) > 1 else "modality "
            gap, first = by_mod[name]["modality_gap"], by_mod[name]["retrieval_at_1"]
            lines.append(f"{whose}gap {gap:.2f}, own text first {first:.0%}")
    return "\n".join(lines)


def _draw_texts(panel: Axes, coordinates: np.ndarray, label: str, **look: Any) -> None:
    panel.scatter(coordinates[:, 0], coordinates[:, 1], label=label, **look)


def _draw_dots(panel: Axes, coordinates: np.ndarray, label: str, shade: Any, n: int | None = None) -> None:
    """Dots of one colour, whose size goes with how many there are in all."""
    size = _size(len(coordinates) if n is None else n)
    panel.scatter(coordinates[:, 0], coordinates[:, 1], s=size, color=shade, linewidths=0, label=label, rasterized=True)


def _size(n: int) -> float:
    return float(np.clip(24000 / max(n, 1), 3, 26))


def _draw_observations(
    panel: Axes, coordinates: np.ndarray, adata: AnnData, column: str | None, look: tuple[str, str]
) -> None:
    """Dots, in the colours of a category or of a number."""
    import matplotlib.pyplot as plt
    from pandas.api.types import is_numeric_dtype

    n = len(coordinates)
    if column is None:
        _draw_dots(panel, coordinates, *look)
        return
    values = adata.obs[column]
    if is_numeric_dtype(values):
        dots = panel.scatter(
            coordinates[:, 0], coordinates[:, 1], s=_size(n), c=values.to_numpy(), linewidths=0, rasterized=True
        )
        panel.figure.colorbar(dots, ax=panel, label=column, shrink=0.6)
        return
    values = values.astype(str)
    common = values.value_counts().index[:LABELS_SHOWN]
    rest = ~values.isin(common).to_numpy()
    if rest.any():
        _draw_dots(panel, coordinates[rest], f"other {look[0]} ({rest.sum()})", _OTHER, n)
    palette = [plt.get_cmap("tab20")(i) for i in [0, 2, 4, 6, 8, 10, 12, 16, 18, 1, 3, 5]]
    for name, shade in zip(common, palette, strict=False):
        has_name = (values == name).to_numpy()
        _draw_dots(panel, coordinates[has_name], f"{name} ({has_name.sum()})", shade, n)
