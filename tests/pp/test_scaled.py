"""Genes that were scaled one by one are told from every usable normalisation, on real cells."""

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy.sparse import csc_matrix, csr_matrix
from sklearn.neighbors import NearestNeighbors

import bioverse_sc as bsc

FORMATS = {"csr": csr_matrix, "csc": csc_matrix, "dense": np.asarray, "half": lambda x: np.asarray(x, dtype=np.float16)}


def deviation(x):
    return np.maximum(x.std(axis=0, ddof=1), 1e-9)


def shared_out(x):
    """The values of a cell in proportions of 10,000."""
    return x / x.sum(axis=1, keepdims=True) * 1e4


def by_length(x):
    """TPM, with lengths as genes have."""
    lengths = np.exp(np.random.default_rng(0).normal(np.log(2000), 0.8, x.shape[1]))
    return np.log1p(shared_out(np.expm1(x) / lengths) * 100)


def imputed(x):
    near = NearestNeighbors(n_neighbors=15).fit(x).kneighbors(x, return_distance=False)
    return x[near].mean(axis=1)


def denoised(x):
    """Nothing is zero, as after scVI or MAGIC."""
    left, size, right = np.linalg.svd(x, full_matrices=False)
    return np.maximum((left[:, :20] * size[:20]) @ right[:20], 1e-3)


def tf_idf(x):
    return np.log1p(shared_out(np.expm1(x)) * (len(x) / np.maximum((x > 0).sum(axis=0), 1)))


USABLE = {
    "log-normalised": lambda x: x,
    "normalised": np.expm1,
    "binary logarithm": lambda x: x / np.log(2),
    "square root": lambda x: np.sqrt(np.expm1(x)),
    "TPM": by_length,
    "ambient RNA removed": lambda x: np.log1p(np.maximum(np.expm1(x) - 0.1 * np.expm1(x).mean(axis=0), 0)),
    "imputed": imputed,
    "denoised": denoised,
}
SCALED = {
    "scale": lambda x: x / deviation(x),
    "scale, clipped": lambda x: np.minimum(x / deviation(x), 10),
    "scale, clipped low": lambda x: np.minimum(x / deviation(x), 3),
    "scale of values that are no logarithm": lambda x: np.expm1(x) / deviation(np.expm1(x)),
    "scale of TPM": lambda x: by_length(x) / deviation(by_length(x)),
    "scale of imputed values": lambda x: imputed(x) / deviation(imputed(x)),
    "largest value": lambda x: x / np.maximum(x.max(axis=0), 1e-9),
    "largest value, of 10": lambda x: 10 * x / np.maximum(x.max(axis=0), 1e-9),
    "z-scores, shifted": lambda x: (z := (x - x.mean(axis=0)) / deviation(x)) - z.min(),
    "z-scores, from each gene's lowest": lambda x: (z := (x - x.mean(axis=0)) / deviation(x)) - z.min(axis=0),
    "z-scores above zero": lambda x: np.maximum((x - x.mean(axis=0)) / deviation(x), 0),
    "TF-IDF": tf_idf,
}
PARTS = {
    "all": (slice(None), slice(None)),
    "200 cells": (slice(0, 600, 3), slice(None)),
    "60 cells": (slice(0, 600, 10), slice(None)),
    "400 genes": (slice(None), slice(0, 765)),
}


@pytest.fixture(scope="module")
def blood(_pbmc):
    adata = _pbmc.raw.to_adata()
    adata.X = adata.X.toarray()
    return adata


def made(blood, change, part=PARTS["all"], form=np.asarray):
    adata = blood.copy()
    adata.X = change(blood.X.astype(np.float64)).astype(np.float32)
    adata = adata[part].copy()
    adata.X = form(adata.X)
    return adata


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("change", SCALED)
def test_scaled_genes_are_refused(change, part, blood):
    if change == "scale of imputed values" and part == "60 cells":
        pytest.skip("so few cells do not tell these from imputed values")
    with pytest.raises(
        ValueError, match=r"X is scaled; .*each gene was scaled by a number of its own.*before sc\.pp\.scale"
    ):
        bsc.pp.profile(made(blood, SCALED[change], PARTS[part]))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("change", USABLE)
def test_usable_values_are_not_taken_for_scaled_ones(change, part, blood):
    assert bsc.pp.profile(made(blood, USABLE[change], PARTS[part])).kind in ("log-normalised", "normalised")


@pytest.mark.parametrize("of", ["CD14+ Monocyte", "CD19+ B"])
def test_cells_of_one_type_are_told_apart_as_well(of, blood):
    rows = np.flatnonzero((blood.obs["bulk_labels"] == of).to_numpy())
    assert bsc.pp.profile(made(blood, USABLE["TPM"], (rows, slice(None)))).kind == "log-normalised"
    with pytest.raises(ValueError, match="X is scaled"):
        bsc.pp.profile(made(blood, SCALED["scale"], (rows, slice(None))))


@pytest.mark.parametrize("form", FORMATS)
def test_the_form_of_the_matrix_does_not_matter(form, blood):
    assert bsc.pp.profile(made(blood, USABLE["log-normalised"], form=FORMATS[form])).kind == "log-normalised"
    with pytest.raises(ValueError, match="X is scaled"):
        bsc.pp.profile(made(blood, SCALED["scale"], form=FORMATS[form]))


def test_counts_that_are_scaled_are_no_counts(blood):
    counts = np.random.default_rng(0).poisson(np.expm1(blood.X.astype(np.float64)) / 8)
    adata = made(blood, lambda _: counts)
    assert bsc.pp.profile(adata).kind == "counts"
    sc.pp.scale(adata, zero_center=False)
    with pytest.raises(ValueError, match="X is scaled"):
        bsc.pp.profile(adata)


@pytest.mark.parametrize("where", ["raw", "layer"])
def test_what_was_kept_before_scaling_is_read(where, blood):
    adata = made(blood, USABLE["log-normalised"], form=csr_matrix)[::10].copy()
    expected = bsc.tl.embed(adata, copy=True).obsm["X_scgpt"]
    if where == "raw":
        adata.raw = adata.copy()
    else:
        adata.layers["counts"] = adata.X.copy()
    sc.pp.scale(adata, zero_center=False)
    assert bsc.pp.profile(adata).passed_over == "X is scaled"
    bsc.tl.embed(adata)
    np.testing.assert_allclose(adata.obsm["X_scgpt"], expected, atol=1e-6)


def test_raw_that_was_scaled_together_with_x_is_refused_as_well(blood):
    """``adata.raw = adata`` may share its values with X, and scaling in place changes both."""
    adata = made(blood, USABLE["log-normalised"], form=csr_matrix)
    adata.raw = adata
    sc.pp.scale(adata, zero_center=False)
    if np.shares_memory(adata.raw.X.data, adata.X.data):
        with pytest.raises(ValueError, match=r"X is scaled, raw is scaled.*adata\.raw = adata\.copy\(\)"):
            bsc.pp.profile(adata)
    else:
        assert bsc.pp.profile(adata).source == "raw"


def test_another_layer_that_would_do_is_named(blood):
    adata = made(blood, SCALED["scale"])
    adata.layers["lognorm"] = made(blood, USABLE["log-normalised"]).X
    with pytest.raises(ValueError, match=r"layers\['lognorm'\] is log-normalised: give layer='lognorm'\.") as caught:
        bsc.pp.profile(adata)
    assert bsc.pp.profile(adata, layer=str(caught.value).split("layer='")[1].split("'")[0]).source == "lognorm"


def test_the_order_of_the_cells_does_not_matter(blood):
    for change in (USABLE["TPM"], SCALED["scale, clipped low"]):
        adata = made(blood, change)
        rows = np.random.default_rng(1).permutation(adata.n_obs)
        kinds = []
        for each in (adata, adata[rows].copy()):
            try:
                kinds.append(bsc.pp.profile(each).kind)
            except ValueError:
                kinds.append("scaled")
        assert len(set(kinds)) == 1


def test_genes_that_are_alike_by_chance_are_not_scaled(mini):
    """Made-up values of one distribution for all genes have ties, as counts have."""
    genes = mini.encoders["rna"].genes[:100]
    counts = np.random.default_rng(0).poisson(1.5, size=(500, 100))
    adata = ad.AnnData(np.log1p(shared_out(counts + 1e-12)).astype(np.float32))
    adata.var_names = genes
    assert bsc.pp.profile(adata).kind == "log-normalised"


def test_imputed_values_are_read_with_a_warning(blood, log):
    adata = made(blood, USABLE["denoised"])[::20].copy()
    assert "as in imputed or denoised values" in str(bsc.pp.profile(adata))
    with bsc.settings.override(verbosity="warning"):
        bsc.tl.embed(adata)
    assert [r.getMessage()[:40] for r in log] == ["Nearly every gene is above zero in nearl"]
    assert bsc.pp.profile(made(blood, USABLE["log-normalised"])).hints == ()
