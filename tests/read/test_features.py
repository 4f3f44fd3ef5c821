"""Antibodies, hashtags, guides and peaks are never read as genes."""

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import bioverse_sc as bsc
from bioverse_sc.ontology import gene_table
from bioverse_sc.pp import map_genes
from bioverse_sc.read._features import other_features

SURFACE = ["CD8A", "MS4A1", "PTPRC", "NCAM1", "CD4", "CD14", "CD3E", "FCGR3A"]
GENES = [*SURFACE, *sorted(symbol for name, symbol in gene_table()[1].items() if name == symbol)[12000:12100]]
ANTIBODIES = ["CD3", "CD8a", "CD20", "CD45", "CD56", "CD45RA", "CD16", "PD-1"]


def make(names, *, types=None, column="feature_types", seed=0):
    counts = np.random.default_rng(seed).poisson(1.5, size=(6, len(names))).astype(np.float32)
    adata = ad.AnnData(csr_matrix(counts), var=pd.DataFrame(index=pd.Index(names, dtype=str)))
    if types is not None:
        adata.var[column] = types
    return adata


def read(adata, **kwargs):
    """Values of the genes that are read, by name."""
    found = bsc.pp.profile(adata, vocabulary=GENES, **kwargs)
    matrix = adata.raw.X if found.source == "raw" else adata.X
    values = found.gene_map.gather(matrix[:, found.gene_map.columns].tocsr()).toarray()
    return found, dict(zip(found.gene_map.genes, values.T.tolist(), strict=True))


def expected(names=GENES):
    return read(make(names))[1]


def with_features(others, **kwargs):
    """The same genes with other features behind them."""
    adata = make([*GENES, *others], **kwargs)
    counts = adata.X.toarray()
    counts[:, : len(GENES)] = make(GENES).X.toarray()
    adata.X = csr_matrix(counts)
    return adata


@pytest.mark.parametrize("column", ["feature_types", "modality"])
@pytest.mark.parametrize(
    ("gene", "kind"),
    [
        ("Gene Expression", "Antibody Capture"),
        ("Gene Expression", "CRISPR Guide Capture"),
        ("Gene Expression", "Multiplexing Capture"),
        ("Gene Expression", "Custom"),
        ("Gene Expression", "something new"),
        ("gene_expression", "Peaks"),
        ("rna", "prot"),
        ("GEX", "ADT"),
    ],
)
def test_only_gene_expression_is_read(column, gene, kind):
    types = pd.Categorical([gene] * len(GENES) + [kind] * len(ANTIBODIES))
    found, values = read(with_features(ANTIBODIES, types=types, column=column))
    assert values == expected()
    assert found.other_features == tuple(ANTIBODIES)
    assert found.n_genes == len(GENES)
    assert f"{len(ANTIBODIES)} features are no genes (CD3, CD8a, CD20, ...) and left out" in str(found)


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_an_antibody_with_the_very_name_of_a_gene_is_no_repeat():
    types = ["Gene Expression"] * len(GENES) + ["Antibody Capture"] * 2
    adata = with_features(["x", "y"], types=types)
    adata.var_names = [*GENES, "CD4", "CD14"]
    assert read(adata)[1] == expected()
    adata.var_names_make_unique()
    assert read(adata)[1] == expected()


@pytest.mark.parametrize("kind", ["Antibody Capture", "protein", "ADT", "ATAC peaks"])
def test_types_that_name_no_gene_still_tell(kind):
    found, values = read(with_features(ANTIBODIES, types=[None] * len(GENES) + [kind] * len(ANTIBODIES)))
    assert values == expected()
    assert found.other_features == tuple(ANTIBODIES)


@pytest.mark.parametrize("biotype", ["protein_coding", "lncRNA", "IG_C_gene", "1", ""])
def test_what_says_something_else_about_genes_leaves_none_out(biotype):
    found, values = read(make(GENES, types=[biotype] * len(GENES), column="feature_type"))
    assert (values, found.other_features) == (expected(), ())


def test_raw_with_antibodies_is_read_without_them():
    adata = with_features(ANTIBODIES, types=["Gene Expression"] * len(GENES) + ["Antibody Capture"] * len(ANTIBODIES))
    adata.raw = adata.copy()
    part = adata[:, :60].copy()
    found, values = read(part)
    assert found.source == "raw"
    assert values == expected()
    # the column may be in .var alone
    del part.raw.var["feature_types"]
    whole = adata.copy()
    whole.raw = part.raw.to_adata()
    assert read(whole, layer="raw")[1] == expected()


@pytest.mark.parametrize(
    "others",
    [
        ANTIBODIES,
        ["CD8a_TotalSeqB", "CD20_TotalSeqB", "CD45-TotalSeqC", "IgG1_control_TotalSeqB"],
        ["ADT_CD4", "adt:CD19", "AB_CD20", "prot_CD45", "anti-human_CD4"],
        ["CD45RA_prot", "CD4-ADT", "CD20 antibody"],
        ["Hashtag1", "Hashtag_2", "HTO_A", "hto1", "CMO301"],
        ["CD4:SK3|CD4|AHS0032|pAbO", "IgG2a", "mouse_IgG1"],
        ["chr1:1000-2000", "chrX-100-200", "1:5-10", "GL000194.1:100-200"],
        ["CD4-1", "CD14-1", "CD3", "CD20", "CD45RO", "TIGIT-1", "HLA-DR"],
        ["CD86", "CD28", "CD3", "CD45RA", "CD11c", "CD19"],
    ],
)
def test_names_tell_where_there_is_no_column(others):
    found, values = read(with_features(others))
    assert values == expected()
    assert found.other_features == tuple(others)


def test_names_of_genes_are_none_of_antibodies():
    names = [
        *GENES,
        *[
            "CD3D",
            "CD3G",
            "CD79A",
            "CD19",
            "CD68",
            "CD2AP",
            "IGHG1",
            "IGHM",
            "HLA-DRA",
            "TRAC",
            "FCER1A",
            "PDCD1",
            "CD274",
            "TAGLN",
        ],
        *["CD97", "CD177P1", "CD24P4", "CD20L", "LYZ-1", "LYZ", "NKX2-1", "RP11-206L10.2", "AB015752.3", "Cd3e"],
    ]
    assert not other_features(names).any()
    approved = sorted(symbol for name, symbol in gene_table()[1].items() if name == symbol)
    assert not other_features(approved).any()


def test_an_alias_beside_the_gene_itself_is_left_out():
    found = map_genes(["CD20", "MS4A1", "ptprc", "PTPRC", "B220"], ["MS4A1", "PTPRC", "LYZ"])
    assert found.columns.tolist() == [1, 3]
    assert found.left_out >= 2
    assert map_genes(["CD20", "ENSG00000156738"], ["MS4A1"]).columns.tolist() == [1]


def test_antibodies_alone_are_refused_with_their_place():
    names = [f"{name}-{i}" if i else name for i in range(8) for name in ANTIBODIES]
    for adata in (make(names, types=["Antibody Capture"] * len(names)), make(ANTIBODIES)):
        with pytest.raises(
            ValueError, match=r"features are no genes .*Antibodies are read as proteins, .*mudata\.MuData"
        ):
            bsc.pp.profile(adata, vocabulary=GENES)


def test_mudata_from_one_matrix_of_10x():
    types = ["Gene Expression"] * len(GENES) + ["Antibody Capture"] * len(ANTIBODIES)
    found = bsc.pp.profile(md.MuData({"rna": with_features(ANTIBODIES, types=types)}), vocabulary=GENES)
    assert len(found.other_features) == len(ANTIBODIES)


def test_labels_do_not_depend_on_the_antibodies(pbmc):
    cells = pbmc.raw.to_adata()[::60].copy()
    abundances = np.random.default_rng(0).poisson(200, size=(cells.n_obs, len(ANTIBODIES)))
    both = ad.AnnData(
        csr_matrix(np.hstack([cells.X.toarray(), np.log1p(abundances)]).astype(np.float32)),
        obs=cells.obs[[]],
        var=pd.DataFrame(index=[*cells.var_names, *ANTIBODIES]),
    )
    bsc.tl.embed(cells)
    bsc.tl.embed(both)
    np.testing.assert_allclose(both.obsm["X_scgpt"], cells.obsm["X_scgpt"], atol=1e-6)
