import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix

import bioverse_sc as bsc
from bioverse_sc.ontology import gene_table
from bioverse_sc.read._map import row_chunks
from bioverse_sc.read._matrix import fewest_genes
from tests.same import differences

VOCABULARY = sorted(symbol for name, symbol in gene_table()[1].items() if name == symbol)[1000:1120]
FORMATS = {"csr": csr_matrix, "csc": csc_matrix, "dense": np.asarray}


def counts(n=12, *, seed=0):
    return np.random.default_rng(seed).poisson(1.5, size=(n, len(VOCABULARY))).astype(np.float32)


def logged(values):
    return np.log1p(values / values.sum(axis=1, keepdims=True) * 1e4).astype(np.float32)


def scaled(values):
    return ((values - values.mean(axis=0)) / (values.std(axis=0) + 1)).astype(np.float32)


def make(matrix, *, names=VOCABULARY, **slots):
    return ad.AnnData(matrix, var=pd.DataFrame(index=pd.Index(names, dtype=str)), **slots)


def profile(adata, **kwargs):
    return bsc.pp.profile(adata, **({"vocabulary": VOCABULARY} | kwargs))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("make_values", "kind"),
    [
        (lambda v: v, "counts"),
        (logged, "log-normalised"),
        (lambda v: (v / v.sum(axis=1, keepdims=True) * 1e4).astype(np.float32), "normalised"),
    ],
)
def test_usable_values_are_told_apart(form, make_values, kind):
    found = profile(make(FORMATS[form](make_values(counts()))))
    assert (found.source, found.kind, found.passed_over) == ("X", kind, "")
    assert (found.n_cells, found.n_genes) == (12, len(VOCABULARY))
    assert found.gene_map.genes == VOCABULARY


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.float64])
def test_counts_of_any_number_type_are_counts(dtype):
    assert profile(make(csr_matrix(counts().astype(dtype)))).kind == "counts"


def test_a_layer_of_counts_goes_before_normalised_x():
    found = profile(make(logged(counts()), layers={"counts": csr_matrix(counts())}))
    assert (found.source, found.kind) == ("counts", "counts")


def test_counts_in_raw_go_before_normalised_x():
    adata = make(counts())
    adata.raw = adata
    adata.X = logged(counts())
    found = profile(adata)
    assert (found.source, found.kind) == ("raw", "counts")


def test_raw_with_more_genes_is_taken():
    adata = make(logged(counts()))
    adata.raw = adata
    adata = adata[:, :60].copy()
    found = profile(adata)
    assert (found.source, found.n_genes) == ("raw", len(VOCABULARY))


def test_scaled_x_falls_back_to_raw_and_says_so():
    adata = make(logged(counts()))
    adata.raw = adata
    adata.X = scaled(logged(counts()))
    found = profile(adata)
    assert (found.source, found.kind) == ("raw", "log-normalised")
    assert found.passed_over == "X is scaled"
    assert "X is scaled" in str(found)


def test_the_scaled_blood_cells_of_scanpy_fall_back_to_raw(pbmc):
    found = bsc.pp.profile(pbmc)
    assert (found.source, found.kind, found.passed_over) == ("raw", "log-normalised", "X is scaled")
    assert len(found.gene_map.genes) > 400


def test_ensembl_ids_in_a_column():
    ensembl = {symbol: identifier for identifier, symbol in gene_table()[0].items()}
    known = [gene for gene in VOCABULARY if gene in ensembl]
    adata = make(counts()[:, : len(known)], names=[f"row{i}" for i in range(len(known))])
    adata.var["ids"] = [f"{ensembl[gene]}.3" for gene in known]
    found = profile(adata, gene_symbols="ids")
    assert found.gene_map.genes == known
    assert found.gene_map.kind == "Ensembl ids"
    assert found.gene_map.renamed == len(known)


def test_symbols_in_a_categorical_column():
    adata = make(counts(), names=[f"row{i}" for i in range(len(VOCABULARY))])
    adata.var["symbol"] = pd.Categorical(VOCABULARY)
    assert profile(adata, gene_symbols="symbol").gene_map.genes == VOCABULARY


def test_a_layer_is_taken_when_it_is_named():
    adata = make(counts(), layers={"mine": logged(counts()), "counts": counts()})
    adata.raw = adata
    for layer, source, kind in [
        ("mine", "mine", "log-normalised"),
        ("X", "X", "counts"),
        ("raw", "raw", "counts"),
    ]:
        found = profile(adata, layer=layer)
        assert (found.source, found.kind) == (source, kind)


@pytest.mark.parametrize("name", ["it's", "a]b", "X "])
def test_any_name_of_a_layer_works(name, mini):
    genes = mini.encoders["rna"].genes[:200]
    values = np.random.default_rng(0).poisson(2, size=(3, 200)).astype(np.float32)
    adata = make(values * 0, names=genes, layers={name: values})
    bsc.tl.embed(adata, layer=name)
    assert adata.obsm["X_scgpt"].any(axis=1).all()


def test_mudata_is_profiled_by_its_rna():
    adata = make(counts())
    assert profile(md.MuData({"rna": adata})).gene_map.genes == VOCABULARY
    with pytest.raises(KeyError, match=r"no modality 'rna'; it has \['atac'\]"):
        profile(md.MuData({"atac": adata}))


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_gene_names_that_stand_twice_in_raw_do_not_stop_x():
    adata = make(logged(counts()))
    adata.raw = make(logged(counts()), names=[*VOCABULARY[:-1], VOCABULARY[0]])
    found = profile(adata)
    assert found.source == "X"
    assert "raw has gene names that stand twice" in found.passed_over


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("where", ["raw", "column"])
def test_what_the_error_about_names_says_works_when_typed(where):
    twice = [*VOCABULARY[:-1], VOCABULARY[0]]
    adata = make(counts())
    kwargs = {}
    if where == "raw":
        adata.raw = make(counts(), names=twice)
        kwargs["layer"] = "raw"
    else:
        adata.var["symbol"] = twice
        kwargs["gene_symbols"] = "symbol"
    with pytest.raises(ValueError, match="stand more than once") as caught:
        profile(adata, **kwargs)
    scope = {"adata": adata}
    exec(
        str(caught.value)
        .split("make them unique first, ")[1]
        .split(", without gene_symbols")[0]
        .split("; the columns")[0],
        scope,
    )
    assert profile(scope["adata"]).n_genes == len(VOCABULARY)


def test_a_gene_without_a_symbol_keeps_its_name():
    adata = make(counts())
    adata.var["symbol"] = [*VOCABULARY[:-2], None, np.nan]
    assert profile(adata, gene_symbols="symbol").gene_map.genes == profile(adata).gene_map.genes


# --- what cannot be used ---------------------------------------------------------------------------------------------


def with_value(value):
    values = logged(counts())
    values[3, 5] = value
    return values


BAD = {
    "NaN": (lambda: make(with_value(np.nan)), ValueError, r"no measurement.*np\.nan_to_num"),
    "sparse NaN": (lambda: make(csr_matrix(with_value(np.nan))), ValueError, "no measurement"),
    "infinite": (lambda: make(with_value(np.inf)), ValueError, "(?i)inf|finite"),
    "negative": (lambda: make(with_value(-0.5)), ValueError, r"negative values.*before sc\.pp\.scale"),
    "negative counts": (lambda: make(csr_matrix(with_value(-1.0))), ValueError, "negative values"),
    "scaled": (lambda: make(scaled(counts())), ValueError, r"adata\.layers\['counts'\]"),
    "all zero": (lambda: make(counts() * 0), ValueError, "no value above zero"),
    "no overlap": (
        lambda: make(counts(), names=[f"gene{i}" for i in range(len(VOCABULARY))]),
        ValueError,
        r"Only 0 of .*\['gene0'.*gene_symbols=",
    ),
    "mouse": (lambda: make(counts(), names=[g.capitalize() for g in VOCABULARY]), ValueError, "expected human symbols"),
    "duplicates": (
        lambda: make(counts(), names=[*VOCABULARY[:-1], VOCABULARY[0]]),
        ValueError,
        rf"\['{VOCABULARY[0]}'\].*var_names_make_unique",
    ),
    "no cells": (lambda: make(counts()[:0]), ValueError, "no cells"),
    "a view": (lambda: make(counts())[:5], ValueError, r"adata = adata\.copy\(\)"),
    "not AnnData": (lambda: counts(), TypeError, "Expected AnnData or MuData, found ndarray"),
}


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_an_error_that_names_the_remedy_and_changes_nothing(case):
    build, error, message = BAD[case]
    adata = build()
    before = adata.copy()
    with pytest.raises(error, match=message):
        profile(adata)
    if isinstance(adata, ad.AnnData) and not adata.is_view:
        assert differences(before, adata) == set()


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("function", [bsc.tl.embed, bsc.tl.align, bsc.tl.annotate])
def test_the_tools_refuse_bad_input_and_change_nothing(function, case):
    build, error, _ = BAD[case]
    adata = build()
    before = adata.copy()
    with pytest.raises(error):
        function(adata)
    if isinstance(adata, ad.AnnData):
        assert adata.is_view == (case == "a view")
        if not adata.is_view:
            assert differences(before, adata) == set()


def test_duplicates_in_a_column_name_the_column():
    adata = make(counts())
    adata.var["symbol"] = [VOCABULARY[0], *VOCABULARY[:-1]]
    with pytest.raises(ValueError, match=r"\.var\['symbol'\]"):
        profile(adata, gene_symbols="symbol")


@pytest.mark.parametrize(
    ("name", "match"), [("layer", r"no layer 'gone'"), ("gene_symbols", r"no column 'gone' in \.var")]
)
def test_a_missing_slot_is_named(name, match):
    with pytest.raises(KeyError, match=match):
        profile(make(counts()), **{name: "gone"})


def test_scaled_values_are_refused_even_when_they_are_named():
    adata = make(scaled(counts()), layers={"counts": counts()})
    with pytest.raises(ValueError, match="X is scaled"):
        profile(adata, layer="X")


def test_negative_zero_and_stored_zeros_are_counts():
    values = csr_matrix(counts())
    values.data[::2] = -0.0
    assert profile(make(values)).kind == "counts"


def test_a_good_object_is_not_changed():
    adata = make(csc_matrix(counts()), layers={"counts": counts()})
    before = adata.copy()
    profile(adata)
    assert differences(before, adata) == set()


def test_without_a_vocabulary_it_is_that_of_the_bundled_model(mini):
    genes = mini.encoders["rna"].genes
    adata = make(counts(5)[:, :100], names=genes[:100])
    assert bsc.pp.profile(adata).gene_map.n_vocabulary == len(genes)


# --- columns of symbols beside raw -----------------------------------------------------------------------------------


def with_rows(values, n=len(VOCABULARY)):
    """The genes under the names of rows, and their symbols."""
    return make(values, names=[f"row{i}" for i in range(n)]), VOCABULARY[:n]


def test_symbols_in_var_are_found_for_raw_too():
    adata, symbols = with_rows(counts())
    adata.raw = adata.copy()
    adata.X = logged(counts())
    adata.var["symbol"] = symbols
    found = profile(adata, gene_symbols="symbol")
    assert (found.source, found.gene_map.genes) == ("raw", VOCABULARY)
    assert profile(adata, gene_symbols="symbol", layer="raw").gene_map.genes == VOCABULARY


def test_symbols_in_raw_var_are_found_for_x_too():
    adata, symbols = with_rows(counts())
    adata.var["symbol"] = symbols
    adata.raw = adata.copy()
    del adata.var["symbol"]
    for layer in (None, "X", "raw"):
        assert profile(adata, gene_symbols="symbol", layer=layer).gene_map.genes == VOCABULARY


def test_raw_without_the_column_and_with_other_names_is_passed_over():
    adata, symbols = with_rows(counts())
    adata.raw = make(counts(), names=[f"other{i}" for i in range(len(VOCABULARY))])
    adata.var["symbol"] = symbols
    found = profile(adata, gene_symbols="symbol")
    assert found.source == "X"
    assert found.passed_over == "raw has no column 'symbol' for its genes"
    with pytest.raises(
        KeyError, match=r"no column 'gone' in \.var; there are \['symbol'\], and in \.raw\.var there are \[\]"
    ):
        profile(adata, gene_symbols="gone")


def test_genes_of_raw_that_var_does_not_know_keep_their_names():
    adata, symbols = with_rows(counts())
    adata.raw = make(counts(), names=[*adata.var_names[:-5], *VOCABULARY[-5:]])
    adata.var["symbol"] = symbols
    assert profile(adata, gene_symbols="symbol", layer="raw").gene_map.genes == VOCABULARY


def test_an_empty_symbol_is_none():
    adata = make(counts())
    adata.var["symbol"] = [*VOCABULARY[:-2], "", " "]
    assert profile(adata, gene_symbols="symbol").gene_map.genes == VOCABULARY


# --- number types and missing matrices -------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["X", "layer", "raw"])
@pytest.mark.parametrize(
    "dtype", ["float16", "longdouble", ">f4", ">f8", "bool", "int8", "uint16", ">i4", "int64", "object"]
)
def test_any_number_type_is_read(dtype, where, mini):
    genes = mini.encoders["rna"].genes[:60]
    values = np.random.default_rng(0).poisson(2, size=(4, 60))
    if dtype == "bool":
        values = values > 1
    plain = make(values.astype(np.float32), names=genes)
    typed = make(values.astype(dtype), names=genes)
    adata = typed.copy()
    if where == "layer":
        adata.layers["mine"] = adata.X
    elif where == "raw":
        adata.raw = typed
    layer = {"X": "X", "layer": "mine", "raw": "raw"}[where]
    bsc.tl.embed(adata, layer=layer)
    bsc.tl.embed(plain)
    np.testing.assert_array_equal(adata.obsm["X_scgpt"], plain.obsm["X_scgpt"])
    assert profile(adata, vocabulary=genes, layer=layer).kind == "counts"


@pytest.mark.parametrize("form", [csr_matrix, csc_matrix])
def test_sparse_half_precision_is_read(form):
    adata = make(form(counts()))
    # scipy refuses to make one, but older files and versions hold them
    adata.X.data = adata.X.data.astype(np.float16)
    found = profile(adata)
    assert found.kind == "counts"
    values = [chunk.toarray() for _, chunk in row_chunks(adata.X, found.gene_map.columns, size=5)]
    np.testing.assert_array_equal(np.concatenate(values), counts()[:, found.gene_map.columns])


def test_half_precision_in_a_file_is_read(tmp_path):
    make(counts().astype(np.float16)).write_h5ad(tmp_path / "half.h5ad")
    backed = ad.read_h5ad(tmp_path / "half.h5ad", backed="r")
    assert profile(backed).kind == "counts"


def test_masked_values_are_no_measurement():
    adata = make(counts())
    adata.layers["counts"] = np.ma.masked_less(counts(), 1)
    with pytest.raises(ValueError, match=r"layers\['counts'\] is NaN"):
        profile(adata, layer="counts")


def test_words_are_no_values():
    adata = make(counts())
    adata.layers["counts"] = np.full(adata.shape, "a", dtype="U1")
    with pytest.raises(TypeError, match="holds values of type <U1; expected numbers"):
        profile(adata, layer="counts")


def test_without_x_the_layer_that_would_do_is_named():
    adata = ad.AnnData(
        obs=pd.DataFrame(index=[f"c{i}" for i in range(12)]),
        var=pd.DataFrame(index=VOCABULARY),
        layers={"lognorm": logged(counts()), "umi": counts(), "z": scaled(counts())},
    )
    with pytest.raises(
        ValueError,
        match=r"X is absent\)\. layers\['umi'\] is counts, layers\['lognorm'\] is log-normalised: give layer='umi'",
    ):
        profile(adata)
    assert profile(adata, layer="umi").kind == "counts"
    with pytest.raises(ValueError, match=r"X is absent.*give layer='umi'"):
        profile(adata, layer="X")
    adata.layers["counts"] = counts()
    assert profile(adata).source == "counts"


# --- hints -----------------------------------------------------------------------------------------------------------


def test_a_matrix_that_lies_the_wrong_way_round_is_turned():
    adata = make(counts(60)).T.copy()
    adata.var_names = [f"cell{i}" for i in range(60)]
    with pytest.raises(ValueError, match=r"the wrong way round: adata = adata\.T$"):
        profile(adata)
    assert profile(adata.T.copy()).n_genes == len(VOCABULARY)


def test_the_column_with_the_symbols_is_named():
    adata, symbols = with_rows(counts())
    adata.var["feature_name"] = pd.Categorical(symbols)
    with pytest.raises(ValueError, match=r"They stand in \.var\['feature_name'\]: give gene_symbols='feature_name'"):
        profile(adata)


def test_numbers_are_told_from_symbols():
    with pytest.raises(ValueError, match="Entrez ids, which are not read"):
        profile(make(counts(), names=[str(5000 + i) for i in range(len(VOCABULARY))]))


def test_other_spellings_are_counted():
    found = profile(make(counts(), names=[f"GRCh38_{gene}" for gene in VOCABULARY]))
    assert found.gene_map.genes == VOCABULARY
    assert found.gene_map.renamed == len(VOCABULARY)


# --- cells of which too little is known ------------------------------------------------------------------------------


def test_the_fewest_genes_of_a_cell_are_named(pbmc):
    assert bsc.pp.profile(pbmc).min_genes == 15
    assert "; a cell needs 15 of them" in str(bsc.pp.profile(pbmc))
    # a small panel has few genes in any cell
    assert profile(make(counts())).min_genes == len(VOCABULARY) // 30
    assert [fewest_genes(n) for n in (1, 40, 300, 5000)] == [1, 1, 10, 15]


def test_a_near_empty_cell_is_unknown_and_the_number_is_said(pbmc, log):
    cells = pbmc.raw.to_adata()[:6].copy()
    matrix = cells.X.toarray()
    known = np.isin(cells.var_names, bsc.models.get_model("mini").encoders["rna"].genes)
    for row, n in ((1, 1), (2, 5), (3, 14), (4, 15)):
        expressed = np.flatnonzero((matrix[row] > 0) & known)
        matrix[row] = np.where(np.isin(np.arange(matrix.shape[1]), expressed[:n]), matrix[row], 0)
    cells.X = csr_matrix(matrix)
    with bsc.settings.override(verbosity="warning"):
        bsc.tl.annotate(cells, reasoning=None)
    assert [r.getMessage()[:48] for r in log] == ["3 of 6 cells have fewer than 15 genes that the e"]
    unknown = (cells.obs["bioverse_label"] == "unknown").to_numpy()
    assert unknown[[1, 2, 3]].all()
    assert cells.obs["bioverse_confidence"].to_numpy()[[1, 2, 3]].tolist() == [0, 0, 0]
    assert cells.obsm["X_scgpt"].any(axis=1).tolist() == [True, False, False, False, True, True]


def test_messages_name_layers_and_nothing_else():
    adata = make(counts())
    adata.layers["spliced"] = adata.X.copy()
    with pytest.raises(KeyError, match=r"no layer 'gone'; there are \['spliced', 'X'\]"):
        profile(adata, layer="gone")
    adata.X = None
    with pytest.raises(ValueError, match=r"layers\['spliced'\] is counts: give layer='spliced'"):
        profile(adata)
