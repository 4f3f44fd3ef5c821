"""Whether a figure is shown, or its axes are given."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def shown_or_axes(ax: T, *, created: bool, show: bool | None) -> T | None:
    """Show a figure and give nothing, or give its axes.

    By default it is shown when it was made here and a display is there.
    """
    import matplotlib.pyplot as plt

    if show is None:
        show = created and plt.get_backend().lower() not in ("agg", "pdf", "svg", "ps", "cairo")
    if show:
        plt.show()
        return None
    return ax
