import anndata as ad
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

import bioverse_sc as bsc
from bioverse_sc.ontology import gene_table
from bioverse_sc.pp import map_genes
from bioverse_sc.read._genes import looks_like_mouse

VOCABULARY = sorted(symbol for name, symbol in gene_table()[1].items() if name == symbol)[2000:2080]
SMALL = ["CD3E", "MS4A1", "CD19", "NKG7", "LYZ"]


def make(names, *, seed=0):
    counts = np.random.default_rng(seed).poisson(1.5, size=(5, len(names))).astype(np.float32)
    adata = ad.AnnData(csr_matrix(counts))
    adata.var_names = names
    return adata


def test_case_is_the_last_resort():
    found = map_genes(["cd3e", "LYZ", "nKg7"], SMALL)
    assert (found.genes, found.cased, found.renamed) == (["CD3E", "NKG7", "LYZ"], 2, 0)
    assert map_genes(["cd20", "LYZ"], SMALL).genes == ["MS4A1", "LYZ"]
    # the name itself goes before one in another case
    assert map_genes(["cd3e", "CD3E", "LYZ"], SMALL).columns.tolist() == [1, 2]


def test_a_vocabulary_that_tells_case_apart_is_not_guessed_at():
    assert map_genes(["abca"], ["ABCa", "ABcA"]).genes == []


def test_the_profile_says_that_case_was_ignored():
    text = str(bsc.pp.profile(make([gene.lower() for gene in VOCABULARY]), vocabulary=VOCABULARY))
    assert f"{len(VOCABULARY)} of them only when upper and lower case are taken as the same" in text


@pytest.mark.parametrize(
    ("names", "mouse"),
    [
        (["Cd3e", "Lyz2", "mt-Co1"], True),
        (["ENSMUSG00000032093", "ENSMUSG00000024673.4"], True),
        (["CD3E", "LYZ", "C1orf112"], False),
        (["cd3e", "lyz"], False),
        (["ENSG00000198851"], False),
        (["A1", "7SK"], False),
        ([], False),
    ],
)
def test_mouse_names_are_told_by_their_case(names, mouse):
    assert looks_like_mouse(names) is mouse


def test_mouse_genes_are_never_read_as_human():
    found = map_genes(["Cd3e", "Ms4a1", "Cd19", "Lyz"], SMALL)
    assert (found.genes, found.mouse) == ([], True)
    with pytest.raises(ValueError, match=r"look like mouse genes.*orthologues"):
        bsc.pp.profile(make([gene.capitalize() for gene in VOCABULARY]), vocabulary=VOCABULARY)


def test_human_genes_among_mouse_ones_are_read_and_the_profile_says_so():
    names = [*VOCABULARY, *(f"Abcd{i}" for i in range(100))]
    profile = bsc.pp.profile(make(names), vocabulary=VOCABULARY)
    assert profile.gene_map.genes == VOCABULARY
    assert "look like mouse genes, which are not read as human ones" in str(profile)


def test_mouse_genes_beside_the_human_ones_are_not_added():
    names = [*SMALL, "Cd3e", "Lyz"]
    found = map_genes(names, SMALL)
    assert found.columns.tolist() == [0, 1, 2, 3, 4]
    assert found.left_out == 2


def test_the_genes_are_gathered_in_the_order_that_is_named():
    found = map_genes(["LYZ", "CD3E", "MS4A1"], SMALL)
    gathered = found.gather(csr_matrix(np.array([[1.0, 2.0, 3.0]])[:, found.columns])).toarray()[0]
    assert dict(zip(found.genes, gathered, strict=True)) == {"LYZ": 1.0, "CD3E": 2.0, "MS4A1": 3.0}


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_columns_of_one_gene_are_summed_whatever_their_order(seed):
    """Symbols, ids and ids with a version of the same genes, mixed."""
    rng = np.random.default_rng(seed)
    ensembl = {symbol: identifier for identifier, symbol in gene_table()[0].items()}
    names, genes = [], []
    for gene in [g for g in VOCABULARY if g in ensembl]:
        forms = [gene, ensembl[gene], f"{ensembl[gene]}.{rng.integers(1, 9)}"]
        chosen = rng.choice(3, size=rng.integers(1, 4), replace=False)
        names += [forms[i] for i in chosen]
        genes += [gene] * len(chosen)
    order = rng.permutation(len(names))
    names, genes = [names[i] for i in order], [genes[i] for i in order]
    counts = rng.poisson(2, size=(4, len(names))).astype(np.float32)
    found = map_genes(names, VOCABULARY)
    gathered = found.gather(csr_matrix(counts[:, found.columns])).toarray()
    assert found.summed == len(names) - len(set(genes))
    for column, gene in enumerate(found.genes):
        expected = counts[:, [i for i, g in enumerate(genes) if g == gene]].sum(axis=1)
        np.testing.assert_array_equal(gathered[:, column], expected)


def test_the_profile_says_that_columns_were_summed():
    ensembl = {symbol: identifier for identifier, symbol in gene_table()[0].items()}
    twice = [ensembl[gene] for gene in VOCABULARY if gene in ensembl][:3]
    profile = bsc.pp.profile(make([*VOCABULARY, *twice]), vocabulary=VOCABULARY)
    assert "3 columns are summed with another of the same gene" in str(profile)


def test_the_profile_says_what_was_left_out():
    names = [*VOCABULARY, *(gene.lower() for gene in VOCABULARY[:4])]
    assert "4 columns differ from another one in case alone" in str(bsc.pp.profile(make(names), vocabulary=VOCABULARY))


def test_a_small_vocabulary_needs_half_of_its_genes():
    assert len(bsc.pp.profile(make(VOCABULARY[:5]), vocabulary=VOCABULARY[:9]).gene_map.genes) == 5
    with pytest.raises(ValueError, match="fewer than 5"):
        bsc.pp.profile(make(VOCABULARY[:4]), vocabulary=VOCABULARY[:9])


def test_too_little_overlap_shows_examples_of_both():
    with pytest.raises(
        ValueError, match=rf"Only 3 of the encoder's 80 genes.*\['{VOCABULARY[0]}'.*expected human symbols"
    ):
        bsc.pp.profile(make([*VOCABULARY[:3], "x1", "x2"]), vocabulary=VOCABULARY)
