"""Every slot that is written is the same after h5ad, h5mu and zarr, with names and texts of many kinds."""

import warnings

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

import bioverse_sc as bsc
from tests.same import same

NASTY = ["B cell", "T/NK cell", "monocyte (CD14+) [blood]", "zell é☃", "a\nb", " lead", "a\\b"]
TEXTS = ["a/b", "é☃ cell", "x" * 300, "x" * 299 + "y", "what: a * b?", "a\nb", "..."]
STEMS = [None, "my run: v1.2 é☃"]


def plain(value):
    """Files keep lists as arrays, and numpy's own scalars as Python's."""
    if hasattr(value, "items") and not isinstance(value, pd.DataFrame):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "OUST":
        return [plain(each) for each in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value


def frame(value):
    """Categories and their order count; how strings are held does not."""
    value = value.copy()
    for column in value:
        if isinstance(value[column].dtype, pd.CategoricalDtype):
            kept = value[column].cat
            value[column] = kept.rename_categories(kept.categories.astype(object))
        elif value[column].dtype.kind in "OT" or isinstance(value[column].dtype, pd.StringDtype):
            value[column] = value[column].astype(object)
    value.index = value.index.astype(object)
    return value


def assert_same(one, two):
    """Compares what is stored in two AnnData, or the containers of two MuData."""
    for name in ("obs", "var"):
        pd.testing.assert_frame_equal(frame(getattr(one, name)), frame(getattr(two, name)), check_exact=True)
    assert set(one.obsm) == set(two.obsm)
    for slot, value in one.obsm.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(frame(value), frame(two.obsm[slot]), check_exact=True)
        else:
            assert same(value, two.obsm[slot]), slot
    assert_same_uns(plain(dict(one.uns)), plain(dict(two.uns)))


def assert_same_uns(one, two, where="uns"):
    assert set(one) == set(two), where
    for name, value in one.items():
        place = f"{where}[{name!r}]"
        if isinstance(value, dict):
            assert_same_uns(value, two[name], place)
        elif isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(frame(value), frame(two[name]), check_exact=True)
        else:
            assert same(value, two[name]), (place, value, two[name])


def through(data, path):
    """Write and read, with the writers of anndata and mudata themselves."""
    with warnings.catch_warnings():
        # of anndata and mudata, about what will be the default
        warnings.simplefilter("ignore")
        if path.suffix == ".h5ad":
            data.write_h5ad(path)
            return ad.read_h5ad(path)
        if path.suffix == ".h5mu":
            data.write_h5mu(path)
            return md.read_h5mu(path)
        data.write_zarr(path)
        return (md if isinstance(data, md.MuData) else ad).read_zarr(path)


@pytest.fixture(scope="module", params=STEMS, ids=["default stem", "nasty stem"])
def used(request, _pbmc):
    """Cells, proteins and molecules with everything that the functions write."""
    stem = request.param
    cells = _pbmc.raw.to_adata()[::83][:6].copy()
    cells.obs = pd.DataFrame({"cluster": pd.Categorical(["a/b", "é", "a/b", "é", "c d", ""])}, index=cells.obs_names)
    cells.uns = {}
    proteins = ad.AnnData(
        obs=pd.DataFrame({"sequence": ["CYIQNCPLG", "MKTAYIAKQRQISFVKSHFS"]}, index=cells.obs_names[:2])
    )
    molecules = ad.AnnData(obs=pd.DataFrame({"smiles": ["CCO", "C/C=C/C"]}, index=cells.obs_names[:2]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        mdata = md.MuData({"rna": cells, "protein": proteins, "molecule": molecules})
    few = {"max_new_tokens": 3, "key_added": stem}
    bsc.tl.annotate(
        mdata,
        labels=NASTY,
        by="cell",
        reasoning="cluster",
        groupby="cluster",
        n_runner_up=2,
        min_confidence=0,
        key_added=stem,
    )
    bsc.tl.evidence(mdata["rna"], groupby="cluster", key_added=stem)
    bsc.tl.score(mdata, TEXTS, key_added=stem)
    bsc.tl.describe(mdata, retrieve=True, **few)
    bsc.tl.ask(mdata, "What / is 'it' é☃?\n", mod=["molecule", "rna"], beside={"protein": [cells.obs_names[0]]}, **few)
    bsc.tl.ask(mdata["protein"], "What is it?", mod="protein", **few)
    bsc.tl.alignment_umap(mdata, texts=TEXTS[:2], key_added=stem)
    bsc.tl.alignment_umap(mdata["rna"], labels_key=None, n_neighbors=3, key_added=stem)
    return mdata, stem or "bioverse"


@pytest.mark.parametrize("name", ["a.h5mu", "a.zarr"])
def test_a_mudata_is_the_same_after_a_file(name, used, tmp_path):
    mdata, stem = used
    read = through(mdata, tmp_path / name)
    assert {"ask", "alignment_umap"} <= set(read.uns[stem])
    for mod in mdata.mod:
        assert_same(mdata[mod], read[mod])
        assert f"{stem}_description" in read[mod].obs
    assert_same_uns(plain(dict(mdata.uns)), plain(dict(read.uns)))
    assert mdata.obs[f"{stem}_answer"].tolist() == read.obs[f"{stem}_answer"].tolist()


@pytest.mark.parametrize("mod", ["rna", "protein", "molecule"])
@pytest.mark.parametrize("kind", ["h5ad", "zarr", "zarr 3"])
def test_an_anndata_is_the_same_after_a_file(kind, mod, used, tmp_path):
    mdata, stem = used
    adata = mdata[mod].copy()
    if kind == "zarr 3" and not hasattr(ad.settings, "zarr_write_format"):
        pytest.skip("this anndata writes version 2 alone")
    version = {"zarr_write_format": 3} if kind == "zarr 3" else {}
    with ad.settings.override(**version):
        read = through(adata, tmp_path / f"a.{kind.split()[0]}")
    assert_same(adata, read)
    steps = {"rna": ("annotate", "evidence", "alignment_umap"), "protein": ("ask",), "molecule": ()}[mod]
    assert {"embed", "align", "score", "describe", *steps} <= set(read.uns[stem])
    if mod == "rna":
        assert set(read.obs[f"{stem}_label"]) <= {*NASTY, "unknown"}
        assert read.uns[stem]["score"]["texts"].tolist() == TEXTS
    # and once more, from what was read
    again = through(read, tmp_path / "again.h5ad")
    assert_same(adata, again)


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
def test_nothing_is_computed_again_after_a_file(name, used, tmp_path, monkeypatch):
    mdata, stem = used
    for mod in mdata.mod:
        read = through(mdata[mod].copy(), tmp_path / f"{mod}_{name}")
        before = read.obsm["X_bioverse" if stem == "bioverse" else f"X_{stem}"].copy()
        for function in ("embed_cells", "embed_entities"):
            monkeypatch.setattr(
                f"bioverse_sc.tl._current.{function}", lambda *_, **__: pytest.fail("it was computed again")
            )
        bsc.tl.align(read, mod=mod, key_added=stem)
        np.testing.assert_allclose(read.obsm[f"X_{stem}"], before, atol=1e-6)


def test_a_key_with_a_slash_writes_nothing(cells):
    before = set(cells.obs), set(cells.obsm), set(cells.uns)
    with pytest.raises(ValueError, match="Try 'v1_mini'"):
        bsc.tl.annotate(cells, key_added="v1/mini")
    assert (set(cells.obs), set(cells.obsm), set(cells.uns)) == before
