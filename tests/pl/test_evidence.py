import matplotlib as mpl
import mudata as md
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

import bioverse_sc as bsc
from bioverse_sc._keys import Keys
from bioverse_sc._results import Results
from bioverse_sc._row_hash import bound_hashes, hash_texts
from tests.same import differences

mpl.use("Agg")

GENES = ["CD3E", "IL7R", "MS4A1", "CD79A", "LYZ"]


@pytest.fixture(autouse=True)
def _close():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def make(n=10):
    """T cells and B cells, counts, and claims as they are stored."""
    labels = ["T cell", "B cell"]
    counts = np.zeros((2 * n, len(GENES)), dtype=np.float32)
    counts[:n, :2], counts[n:, 2:4] = 1, 1
    counts[: n // 2, 1] = 0
    adata = AnnData(
        csr_matrix(counts),
        obs=pd.DataFrame(
            {"bioverse_label": np.repeat(labels, n), "bioverse_reasoning": "..."}, index=[f"c{i}" for i in range(2 * n)]
        ),
        var=pd.DataFrame(index=GENES),
    )
    rows = [(f"c{i}", "T cell", "CD3E", "present", True) for i in range(n)]
    rows += [(f"c{i}", "T cell", "IL7R", "present", i >= n // 2) for i in range(n)]
    rows += [(f"c{i}", "T cell", "MS4A1", "absent", True) for i in range(3)]
    rows += [(f"c{i}", "B cell", "MS4A1", "present", True) for i in range(n, 2 * n - 1)]
    rows += [("c19", "B cell", "INS", "present", False)]
    claims = pd.DataFrame(rows, columns=["cell", "label", "gene", "claim", "supported"])
    claims = claims.astype(dict.fromkeys(("cell", "label", "gene", "claim"), "category"))
    content = bound_hashes(hash_texts(adata.obs["bioverse_label"]), hash_texts(adata.obs["bioverse_reasoning"]))
    entries = {"claims": claims, "content": content, "source": "X", "gene_symbols": "", "groupby": ""}
    Results(adata, Keys()).write("evidence", {}, entries)
    return adata


def drawn(axes):
    """Gene, place, row, area and colour of each dot, with how it was claimed."""
    names = {(a.xy[0], a.xy[1]): a.get_text() for a in axes.texts if hasattr(a, "xy")}
    found = {}
    for dots in axes.collections:
        if not len(dots.get_offsets()):
            continue
        n = len(dots.get_offsets())
        colors = np.broadcast_to(dots.get_edgecolors(), (n, 4))
        for (x, y), size, color in zip(dots.get_offsets().tolist(), dots.get_sizes(), colors, strict=True):
            found[names[x, y], y] = (float(size), mpl.colors.to_hex(color), bool(len(dots.get_facecolors())))
    return found


def test_genes_of_each_label_with_their_support():
    found = drawn(bsc.pl.evidence(make()))
    assert set(found) == {("CD3E", 0), ("IL7R", 0), ("no MS4A1", 0), ("MS4A1", 1), ("INS", 1)}
    shades = {name: np.array(mpl.colors.to_rgb(color)) for name, (_, color, _) in found.items()}
    blue, vermilion, grey = (np.array(mpl.colors.to_rgb(color)) for color in ("#0072b2", "#d55e00", "#cccccc"))
    for name, shade in zip(
        [("CD3E", 0), ("IL7R", 0), ("no MS4A1", 0), ("MS4A1", 1), ("INS", 1)],
        (blue, grey, blue, blue, vermilion),
        strict=True,
    ):
        np.testing.assert_allclose(shades[name], shade, atol=0.01)
    assert {name for name, (_, _, filled) in found.items() if not filled} == {("no MS4A1", 0)}


def test_the_size_of_a_dot_is_the_share_of_the_cells_that_express_the_gene():
    size = {name: area for name, (area, _, _) in drawn(bsc.pl.evidence(make())).items()}
    assert size["CD3E", 0] == size["MS4A1", 1] > size["IL7R", 0] > size["no MS4A1", 0] == size["INS", 1]
    np.testing.assert_allclose(size["IL7R", 0], (size["CD3E", 0] + size["INS", 1]) / 2)


def test_the_right_column_is_the_share_of_all_claims():
    adata = make()
    shares = [text.get_text() for text in bsc.pl.evidence(adata, n=1).texts if text.get_text().endswith("%")]
    by_label = adata.uns["bioverse"]["evidence"]["claims"].groupby("label", observed=True)["supported"].mean()
    assert shares == [f"{by_label['T cell']:.0%}", f"{by_label['B cell']:.0%}"]


def test_the_genes_that_are_named_most_are_drawn_at_most_n_of_them():
    assert [name for name, _ in drawn(bsc.pl.evidence(make(), n=1))] == ["CD3E", "MS4A1"]


def test_rows_are_groups_the_commonest_first():
    adata = make()
    adata.obs["group"] = ["x"] * 5 + ["$y_1$"] * 14 + [None]
    axes = bsc.pl.evidence(adata, groupby="group")
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["$y_1$ (14)", "x (5)"]
    assert ("CD3E", 0) in drawn(axes)
    # half of x's T cells do not express it, and none of them is in the second half
    assert drawn(axes)["IL7R", 1][0] == min(area for area, *_ in drawn(axes).values())


def test_only_the_commonest_groups_are_drawn(log):
    adata = make(20)
    claims = adata.uns["bioverse"]["evidence"]["claims"]
    adata.obs["group"] = [f"g{i:02d}" for i in range(40)]
    assert claims["cell"].nunique() > 20
    with bsc.settings.override(verbosity="info"):
        axes = bsc.pl.evidence(adata, groupby="group")
    assert len(axes.get_yticks()) == 20
    assert "20 of" in log[-1].getMessage()


def test_claims_of_groups_are_drawn_by_the_group_or_the_label():
    adata = make()
    stored = adata.uns["bioverse"]["evidence"]
    adata.obs["leiden"] = pd.Categorical(np.repeat([0, 1], 10))
    stored["claims"] = stored["claims"].iloc[[0, 12, -1]].assign(cell=["0", "0", "1"])
    stored["groupby"] = "leiden"
    rows = dict(list(drawn(bsc.pl.evidence(adata, groupby="leiden"))))
    assert rows == {"CD3E": 0, "IL7R": 0, "INS": 1}
    assert set(drawn(bsc.pl.evidence(adata))) == {("CD3E", 0), ("IL7R", 0), ("INS", 1)}
    adata.obs["other"] = "x"
    with pytest.raises(ValueError, match=r"in groups of 'leiden'; expected groupby='leiden' or 'bioverse_label'"):
        bsc.pl.evidence(adata, groupby="other")


def test_the_data_stay_as_they_are():
    adata = make()
    before = adata.copy()
    bsc.pl.evidence(adata)
    assert differences(before, adata) == set()


def test_evidence_is_checked_first_when_it_has_not_been(annotated):
    adata = annotated.copy()
    axes = bsc.pl.evidence(md.MuData({"rna": adata}))
    assert len(drawn(axes)) > 3
    claims = adata.uns["bioverse"]["evidence"]["claims"]
    assert {name.removeprefix("no ") for name, _ in drawn(axes)} <= set(claims["gene"])
    assert drawn(bsc.pl.evidence(adata)) == drawn(axes)


def test_names_do_not_run_into_each_other(annotated):
    axes = bsc.pl.evidence(annotated.copy())
    axes.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in [*axes.texts, *axes.get_yticklabels()]]
    legend = axes.get_legend().get_window_extent()
    assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    inside = axes.figure.bbox
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in [*boxes, legend])


def test_axes_of_the_user_are_drawn_into_and_a_shown_figure_gives_nothing(monkeypatch):
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots()
    assert bsc.pl.evidence(make(), ax=panel) is panel
    assert plt.get_fignums() == [figure.number]
    monkeypatch.setattr(plt, "show", lambda: None)
    assert bsc.pl.evidence(make(), show=True) is None


def test_errors_say_what_to_type(cells):
    with pytest.raises(KeyError, match=r"Run bsc\.tl\.annotate\(data, key_added='k'\) first"):
        bsc.pl.evidence(cells, key="k")
    with pytest.raises(KeyError, match="no column 'gone' in"):
        bsc.pl.evidence(make(), groupby="gone")
    with pytest.raises(ValueError, match="n is 0; expected a positive number"):
        bsc.pl.evidence(make(), n=0)
    adata = make()
    adata.uns["bioverse"]["evidence"]["claims"] = adata.uns["bioverse"]["evidence"]["claims"][:0]
    with pytest.raises(ValueError, match=r"name no gene that could be looked up"):
        bsc.pl.evidence(adata)


def test_claims_of_texts_that_were_changed_since_are_looked_up_again(annotated):
    adata = annotated.copy()
    bsc.tl.evidence(adata)
    bsc.pl.evidence(adata, show=False)
    before = adata.uns["bioverse"]["evidence"]["claims"]
    adata.obs["bioverse_reasoning"] = adata.obs["bioverse_reasoning"].iloc[::-1].to_numpy()
    bsc.pl.evidence(adata, show=False)
    assert not before.equals(adata.uns["bioverse"]["evidence"]["claims"])
