import anndata as ad
import matplotlib as mpl
import numpy as np
import pytest

import bioverse_sc as bsc
from bioverse_sc.tl._label import own_labels
from tests.same import differences

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def points(axes):
    """Number of points by legend entry."""
    return {c.get_label(): len(c.get_offsets()) for c in axes.collections}


def test_two_axes_show_cells_and_both_kinds_of_texts(compared, mini):
    axes = bsc.pl.alignment_umap(compared)
    assert len(axes) == 2
    assert [ax.get_title().split()[0] for ax in axes] == ["before", "after"]
    n_unrelated = len(compared.uns["bioverse"]["alignment_umap"]["texts"]) - len(own_labels(mini))
    for ax in axes:
        drawn = points(ax)
        assert drawn.pop("biological text") == len(own_labels(mini))
        assert drawn.pop("everyday text") == n_unrelated
        assert sum(drawn.values()) == compared.n_obs
    legend = [text.get_text() for text in axes[1].get_legend().get_texts()]
    assert {"biological text", "everyday text"} <= set(legend)
    assert any(text.startswith(str(compared.obs["bioverse_label"].iloc[0])) for text in legend)


def test_cells_are_drawn_where_they_lie(compared):
    axes = bsc.pl.alignment_umap(compared)
    for ax, when in zip(axes, ("before", "after"), strict=True):
        cells = [c.get_offsets() for c in ax.collections if "text" not in c.get_label()]
        drawn = np.sort(np.concatenate(cells), axis=0)
        np.testing.assert_allclose(drawn, np.sort(compared.obsm[f"X_bioverse_umap_{when}"], axis=0), atol=1e-5)


def test_the_object_is_not_changed(compared):
    before = compared.copy()
    bsc.pl.alignment_umap(compared, color="louvain")
    assert differences(before, compared) == set()


@pytest.mark.parametrize("color", ["louvain", "n_counts", "bioverse_confidence"])
def test_any_column_colours_the_cells(color, compared):
    axes = bsc.pl.alignment_umap(compared, color=color)
    drawn = sum(n for label, n in points(axes[1]).items() if "text" not in label)
    assert drawn == compared.n_obs


def test_beyond_twelve_labels_the_rest_is_grey(compared):
    many = ad.concat([compared] * 4, index_unique="-")
    many.uns["bioverse"] = compared.uns["bioverse"]
    many.obs["many"] = [f"type {i % 16}" for i in range(32)]
    drawn = points(bsc.pl.alignment_umap(many, color="many")[0])
    assert drawn["other cells (8)"] == 8
    assert sum(label.startswith("type") for label in drawn) == 12


def test_a_wrong_column_is_an_error_and_changes_nothing(cells):
    before = cells.copy()
    with pytest.raises(KeyError, match=r"no column 'gone' in \.obs; there are \["):
        bsc.pl.alignment_umap(cells, color="gone")
    assert differences(before, cells) == set()


def test_what_has_not_been_run_is_run(cells):
    some = cells[:6].copy()
    assert len(bsc.pl.alignment_umap(some)) == 2
    assert {"X_bioverse_umap_before", "X_bioverse_umap_after"} <= set(some.obsm)


def test_cells_of_another_model_are_not_mixed_with_mini(compared):
    other = compared.copy()
    other.uns["bioverse"]["align"] = dict(other.uns["bioverse"]["align"], model_fingerprint="another")
    with pytest.raises(KeyError, match=r"bsc\.tl\.alignment_umap\(data, model="):
        bsc.pl.alignment_umap(other)


def test_axes_of_the_user_are_drawn_into(compared):
    import matplotlib.pyplot as plt

    figure, pair = plt.subplots(1, 2)
    axes = bsc.pl.alignment_umap(compared, ax=tuple(pair), show=False)
    assert axes[0] is pair[0]
    assert axes[1] is pair[1]
    assert plt.get_fignums() == [figure.number]


def test_a_shown_figure_returns_nothing(compared, monkeypatch):
    import matplotlib.pyplot as plt

    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert bsc.pl.alignment_umap(compared, show=True) is None
    assert shown == [1]


def test_the_figure_can_be_written(compared, tmp_path):
    axes = bsc.pl.alignment_umap(compared)
    axes[0].figure.savefig(tmp_path / "f.png")
    assert (tmp_path / "f.png").stat().st_size > 10_000


def test_a_layout_of_soft_tokens_that_changed_since_is_not_drawn(compared, log):
    adata = compared.copy()
    bsc.pl.alignment_umap(adata[[5, 0, 2]].copy(), show=False)
    assert not log, "cells that are left out change nothing"
    adata.X = adata.X[::-1].copy()
    bsc.tl.align(adata)
    with bsc.settings.override(verbosity="info"):
        bsc.pl.alignment_umap(adata, show=False)
    assert any("bsc.tl.alignment_umap has not been run" in record.getMessage() for record in log)
