from itertools import pairwise

import anndata as ad
import matplotlib as mpl
import mudata as md
import numpy as np
import pandas as pd
import pytest

import bioverse_sc as bsc
from tests.same import differences

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _close():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def make(n=40, n_texts=50, *, seed=0):
    """Scores as they are stored, own texts in another order than the columns, one missing and one not scored."""
    rng = np.random.default_rng(seed)
    texts = [f"this is the long description/of molecule number {i} of all" for i in range(n_texts)]
    own = rng.permutation(n_texts)[:n]
    scores = rng.normal(size=(n, n_texts)) * 0.1
    scores[np.arange(n), own] += 0.2
    adata = ad.AnnData(obs=pd.DataFrame({"text": [texts[i] for i in own]}, index=[f"m{i}" for i in range(n)]))
    adata.obs.loc["m0", "text"] = None
    adata.obs.loc["m1", "text"] = "another one"
    adata.obsm["bioverse_scores"] = pd.DataFrame(
        scores.astype(np.float32), index=adata.obs_names, columns=[t.replace("/", "|") for t in texts]
    )
    return adata, np.where(np.arange(n) < 2, -1, own)


def shown(axes):
    """Rows and columns that the picture shows, found by their scores."""
    return np.asarray(axes.images[0].get_array())


def naive(adata, own, k):
    scores = adata.obsm["bioverse_scores"].to_numpy()
    return np.mean([o in np.argsort(-row)[:k] for row, o in zip(scores, own, strict=True) if o >= 0])


def test_own_pairs_lie_on_the_diagonal():
    adata, own = make()
    axes = bsc.pl.score(adata, texts_key="text")
    image, scores = shown(axes), adata.obsm["bioverse_scores"].to_numpy()
    assert image.shape == (30, 30)
    rows = [adata.obs_names.get_loc(tick.get_text()) for tick in axes.get_yticklabels()]
    np.testing.assert_array_equal(image.diagonal(), scores[rows, own[rows]])
    assert sorted(map(tuple, axes.collections[0].get_offsets().tolist())) == [(i, i) for i in range(30)]
    columns = [int(np.flatnonzero((scores[rows] == column[:, None]).all(axis=0))[0]) for column in image.T]
    assert columns == own[rows].tolist() == sorted(columns)


def test_the_title_counts_all_observations_and_texts():
    adata, own = make()
    title = bsc.pl.score(adata, texts_key="text", n=5).get_title()
    assert title.startswith(f"retrieval@1 {naive(adata, own, 1):.0%}, @5 {naive(adata, own, 5):.0%}\n")
    assert "38 observations, 50 texts" in title
    assert 0 < naive(adata, own, 1) < naive(adata, own, 5) < 1


def test_what_is_as_close_and_what_has_no_score_is_not_found():
    adata, _ = make()
    adata.obsm["bioverse_scores"][:] = np.float32(0.5)
    assert "retrieval@1 0%, @5 0%" in bsc.pl.score(adata, texts_key="text").get_title()
    adata.obsm["bioverse_scores"][:] = np.nan
    assert "retrieval@1 0%, @5 0%" in bsc.pl.score(adata, texts_key="text").get_title()


def test_fewer_texts_than_observations_are_steps():
    adata, _ = make()
    few = adata.copy()
    few.obsm["bioverse_scores"] = adata.obsm["bioverse_scores"].iloc[:, :3]
    few.obs["text"] = [few.obsm["bioverse_scores"].columns[i % 2] for i in range(40)]
    axes = bsc.pl.score(few, texts_key="text", n=10)
    assert shown(axes).shape == (10, 3)
    assert sorted(map(tuple, axes.collections[0].get_offsets().tolist())) == [
        *((0, i) for i in range(5)),
        *((1, i) for i in range(5, 10)),
    ]


def test_observations_without_a_text_come_last():
    adata, _ = make()
    axes = bsc.pl.score(adata, texts_key="text", n=100)
    assert shown(axes).shape == (40, 50)
    assert [tick.get_text() for tick in axes.get_yticklabels()][-2:] == ["m0", "m1"]
    assert len(axes.collections[0].get_offsets()) == 38


def test_without_own_texts_rows_and_columns_are_taken_evenly():
    adata, _ = make()
    axes = bsc.pl.score(adata, n=3)
    np.testing.assert_array_equal(shown(axes), adata.obsm["bioverse_scores"].to_numpy()[[0, 20, 39]][:, [0, 24, 49]])
    assert axes.get_title() == ""
    assert len(axes.collections) == 0


def test_labels_are_short_and_tell_texts_apart():
    adata, _ = make()
    adata.obsm["bioverse_scores"].columns = [f"$x_{i} {c}\n{i}" for i, c in enumerate(adata.obsm["bioverse_scores"])]
    axes = bsc.pl.score(adata)
    labels = [tick.get_text() for tick in axes.get_xticklabels()]
    assert max(map(len, labels)) <= 32
    assert len(set(labels)) == 30
    axes.figure.canvas.draw()
    boxes = [tick.get_window_extent() for tick in axes.get_xticklabels()]
    assert all(one.x1 <= two.x0 for one, two in pairwise(boxes))


def test_scores_of_the_package_are_drawn(cells):
    bsc.tl.score(cells, ["a B cell", "a CD4/CD8 T cell"], key_added="k")
    cells.obs["own"] = ["a CD4/CD8 T cell"] * 6 + ["a B cell"] * 6
    before = cells.copy()
    axes = bsc.pl.score(cells, texts_key="own", key="k", show=False)
    assert len(axes.collections[0].get_offsets()) == 12
    assert differences(before, cells) == set()


def test_of_a_mudata_the_modality_with_scores_is_drawn(tmp_path):
    adata, _ = make()
    other = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
    mdata = md.MuData({"rna": other, "molecule": adata})
    mdata.write_h5mu(tmp_path / "x.h5mu")
    for data in (mdata, md.read_h5mu(tmp_path / "x.h5mu")):
        assert shown(bsc.pl.score(data, texts_key="text")).shape == (30, 30)
    with pytest.raises(KeyError, match=r"Run bsc\.tl\.score\(data, texts, mod='rna'\) first"):
        bsc.pl.score(mdata, mod="rna")
    both = md.MuData({"protein": adata.copy(), "molecule": adata.copy()})
    with pytest.raises(ValueError, match=r"\['protein', 'molecule'\] have scores; expected one, such as mod='protein'"):
        bsc.pl.score(both)
    assert bsc.pl.score(both, mod="molecule").images


def test_axes_of_the_user_are_drawn_into_and_a_shown_figure_gives_nothing(monkeypatch):
    import matplotlib.pyplot as plt

    adata, _ = make()
    figure, panel = plt.subplots()
    assert bsc.pl.score(adata, ax=panel) is panel
    assert plt.get_fignums() == [figure.number]
    monkeypatch.setattr(plt, "show", lambda: None)
    assert bsc.pl.score(adata, show=True) is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"key": "k"},
            KeyError,
            r"no scores in \.obsm\['k_scores'\]. Run bsc\.tl\.score\(data, texts, key_added='k'\)",
        ),
        ({"texts_key": "gone"}, KeyError, "no column 'gone'"),
        ({"texts_key": "none"}, ValueError, r"None of the texts in \.obs\['none'\] was scored. Run bsc\.tl\.score"),
        ({"n": 0}, ValueError, "n is 0; expected a positive number"),
    ],
)
def test_errors_say_what_to_type(arguments, error, message):
    adata, _ = make()
    adata.obs["none"] = "not scored"
    with pytest.raises(error, match=message):
        bsc.pl.score(adata, **arguments)
