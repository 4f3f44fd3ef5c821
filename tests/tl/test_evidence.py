import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import bioverse_sc as bsc
from tests.same import differences


def table(adata, key="bioverse"):
    return adata.uns[key]["evidence"]["claims"]


@pytest.fixture(scope="module")
def checked(annotated):
    adata = annotated.copy()
    bsc.tl.evidence(adata)
    return adata


def test_it_writes_its_slot_and_nothing_else(annotated):
    adata = annotated.copy()
    assert bsc.tl.evidence(adata) is None
    assert differences(annotated, adata) == {"uns['bioverse']"}
    assert set(adata.uns["bioverse"]) - set(annotated.uns["bioverse"]) == {"evidence"}
    result = bsc.tl.evidence(annotated, copy=True)
    assert table(result).equals(table(adata))
    assert "evidence" not in annotated.uns["bioverse"]


def test_every_gene_of_every_text_is_looked_up_in_its_cell(checked):
    claims = table(checked)
    assert claims["cell"].nunique() == checked.n_obs
    counts = checked.X.toarray() if hasattr(checked.X, "toarray") else checked.X
    for claim in claims.itertuples():
        assert claim.gene in checked.obs.loc[claim.cell, "bioverse_reasoning"]
        assert claim.label == checked.obs.loc[claim.cell, "bioverse_label"]
        if claim.gene in checked.var_names:
            value = counts[checked.obs_names.get_loc(claim.cell), checked.var_names.get_loc(claim.gene)]
            assert claim.expressed == (value > 0)
    assert claims["supported"].mean() > 0.5


def test_it_is_written_and_read_back(checked, tmp_path):
    checked.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(table(back), table(checked), check_index_type=False, check_column_type=False)
    stored = back.uns["bioverse"]["evidence"]
    assert (stored["version"], stored["model"], stored["source"]) == (bsc.__version__, "mini", "X")


def test_a_text_without_genes_makes_no_claim(annotated, tmp_path):
    adata = annotated.copy()
    adata.obs["bioverse_reasoning"] = "Nothing stands out."
    bsc.tl.evidence(adata)
    assert len(table(adata)) == 0
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert len(table(ad.read_h5ad(tmp_path / "a.h5ad"))) == 0


def test_texts_of_groups_are_looked_up_in_the_groups(annotated):
    adata = annotated.copy()
    adata.obs["group"] = pd.Categorical(["a", "b"] * 4)
    adata.obs.loc[adata.obs_names[:2], "group"] = np.nan
    gene = adata.var_names[0]
    adata.obs["bioverse_reasoning"] = f"{gene} is high."
    adata.obs["bioverse_label"] = "T cell"
    adata.obs["bioverse_label_id"] = "CL:0000084"
    bsc.tl.evidence(adata, groupby="group")
    claims = table(adata)
    assert claims["cell"].tolist() == ["a", "b"]
    value = np.asarray(csr_matrix(adata.X)[:, 0].todense()).ravel() > 0
    np.testing.assert_allclose(claims["expressed"], [value[2::2].mean(), value[3::2].mean()])


def test_of_a_mudata_the_cells_are_checked(checked, annotated):
    mdata = md.MuData({"rna": annotated.copy()})
    bsc.tl.evidence(mdata)
    assert table(mdata["rna"]).equals(table(checked))


def test_another_stem(annotated):
    adata = annotated.copy()
    adata.obs = adata.obs.rename(columns=lambda name: name.replace("bioverse_", "mine_"))
    before = adata.copy()
    bsc.tl.evidence(adata, key_added="mine")
    assert differences(before, adata) == {"uns['mine']"}
    assert len(table(adata, "mine"))


def test_errors_say_what_to_type(cells, annotated):
    with pytest.raises(KeyError, match=r"no column 'bioverse_reasoning'.*Run bsc\.tl\.annotate\(data\) first"):
        bsc.tl.evidence(cells)
    with pytest.raises(KeyError, match="no column 'gone' in"):
        bsc.tl.evidence(annotated.copy(), groupby="gone")
