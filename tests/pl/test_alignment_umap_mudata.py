import matplotlib as mpl
import mudata as md
import numpy as np
import pytest

import bioverse_sc as bsc
from tests.pl.three import make_mdata, make_three
from tests.same import differences

pytest.importorskip("rdkit")
mpl.use("Agg")

NAMES = {"rna": "cells (8)", "protein": "proteins (7)", "molecule": "molecules (5)"}


@pytest.fixture(autouse=True)
def _close():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return make_three(tmp_path_factory.mktemp("three"))


@pytest.fixture(scope="module")
def _compared(three):
    mdata = make_mdata()
    bsc.tl.alignment_umap(mdata, model=three, labels_key="truth", texts_key="description")
    return mdata


@pytest.fixture
def mdata(_compared):
    return _compared.copy()


def drawn(panel):
    """Points by legend entry."""
    return {c.get_label(): np.asarray(c.get_offsets()) for c in panel.collections}


def test_each_modality_has_its_colour_and_place(mdata):
    axes = bsc.pl.alignment_umap(mdata)
    texts = mdata.uns["bioverse"]["alignment_umap"]
    for panel, when in zip(axes, ("before", "after"), strict=True):
        points = drawn(panel)
        for mod, name in NAMES.items():
            np.testing.assert_allclose(points[name], mdata[mod].obsm[f"X_bioverse_umap_{when}"], atol=1e-5)
        np.testing.assert_allclose(points["biological text"], texts[f"texts_{when}"][:13], atol=1e-5)
        assert len(points["everyday text"]) == len(texts["texts"]) - 13
        assert len(points) == 5
        dots = [c for c in panel.collections if c.get_label() in NAMES.values()]
        assert len({tuple(c.get_facecolor()[0]) for c in dots}) == 3
    legend = [text.get_text() for text in axes[1].get_legend().get_texts()]
    assert legend == [*NAMES.values(), "everyday text", "biological text"]


def test_the_title_has_the_metrics_of_each_modality(mdata):
    metrics = mdata.uns["bioverse"]["alignment_umap"]["after"]
    del metrics["molecule"]
    lines = bsc.pl.alignment_umap(mdata)[1].get_title().split("\n")
    assert lines == [
        "after alignment",
        *(
            f"{what}: gap {metrics[mod]['modality_gap']:.2f}, own text first {metrics[mod]['retrieval_at_1']:.0%}"
            for mod, what in (("rna", "cells"), ("protein", "proteins"))
        ),
    ]


def test_titles_do_not_overlap(mdata):
    axes = bsc.pl.alignment_umap(mdata)
    axes[0].figure.canvas.draw()
    one, two = (panel.title.get_window_extent() for panel in axes)
    assert one.x1 < two.x0
    assert one.y1 <= axes[0].figure.bbox.y1


def test_one_modality_is_drawn_with_its_texts_and_a_column(mdata):
    axes = bsc.pl.alignment_umap(mdata, mod="protein")
    assert {name: len(points) for name, points in drawn(axes[1]).items() if name != "everyday text"} == {
        "proteins": 7,
        "biological text": 4,
    }
    assert axes[1].get_title().split("\n")[1].startswith("modality gap ")
    np.testing.assert_allclose(
        drawn(axes[1])["biological text"], mdata.uns["bioverse"]["alignment_umap"]["texts_after"][4:8], atol=1e-5
    )
    coloured = drawn(bsc.pl.alignment_umap(mdata, mod="protein", color="description")[0])
    assert len(coloured["binds zinc (2)"]) == 2
    # without mod a column is one of cells
    assert len(drawn(bsc.pl.alignment_umap(mdata, color="truth")[0])["B cell (2)"]) == 2
    with pytest.raises(KeyError, match="no column 'truth'"):
        bsc.pl.alignment_umap(mdata, mod="protein", color="truth")


def test_the_object_is_not_changed(mdata):
    before = mdata.copy()
    bsc.pl.alignment_umap(mdata)
    assert all(differences(before[mod], mdata[mod]) == set() for mod in NAMES)


def test_what_was_read_from_a_file_is_drawn(mdata, tmp_path):
    mdata.write_h5mu(tmp_path / "x.h5mu")
    one = bsc.pl.alignment_umap(mdata)
    two = bsc.pl.alignment_umap(md.read_h5mu(tmp_path / "x.h5mu"))
    for a, b in zip(one, two, strict=True):
        assert a.get_title() == b.get_title()
        assert {k: len(v) for k, v in drawn(a).items()} == {k: len(v) for k, v in drawn(b).items()}


def test_a_modality_that_was_laid_out_alone_since_then_is_not_mixed_in(mdata, three):
    bsc.tl.alignment_umap(mdata["protein"], mod="protein", model=three, texts_key="description")
    points = drawn(bsc.pl.alignment_umap(mdata)[1])
    assert set(points) == {"proteins", "everyday text", "biological text"}


def test_proteins_alone_are_called_so(mdata, three):
    adata = mdata["protein"]
    bsc.tl.alignment_umap(adata, mod="protein", model=three)
    assert set(drawn(bsc.pl.alignment_umap(adata)[1])) == {"proteins", "everyday text"}


def test_soft_tokens_of_another_model_are_an_error(mdata):
    mdata["molecule"].uns["bioverse"]["align"]["model_fingerprint"] = "another"
    with pytest.raises(
        KeyError, match=r"aligned with another model than 'mini'. Run bsc\.tl\.alignment_umap\(data, model="
    ):
        bsc.pl.alignment_umap(mdata)


def test_what_has_not_been_run_is_run(cells):
    mdata = md.MuData({"rna": cells[:6].copy()})
    assert len(bsc.pl.alignment_umap(mdata)) == 2
    assert "alignment_umap" in mdata["rna"].uns["bioverse"]
