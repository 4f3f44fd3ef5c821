from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from bioverse_sc.ontology import gene_table
from bioverse_sc.pp import map_genes

VOCABULARY = ["CD3E", "MS4A1", "CD19", "NKG7", "LYZ"]


def test_symbols_are_found_as_they_are():
    found = map_genes(["LYZ", "nothing", "CD3E"], VOCABULARY)
    assert found.genes == ["CD3E", "LYZ"]
    assert found.columns.tolist() == [0, 2]
    assert found.target.tolist() == [1, 0]
    assert (found.kind, found.renamed, found.summed, found.n_vocabulary) == ("symbols", 0, 0, 5)


@pytest.mark.parametrize("version", ["", ".17"])
def test_ensembl_ids_are_found_with_and_without_version(version):
    # ids from Ensembl, not from the package's table
    ids = ["ENSG00000198851", "ENSG00000156738", "ENSG00000177455", "ENSG00000105374", "ENSG00000090382"]
    found = map_genes([i + version for i in ids], VOCABULARY)
    assert found.genes == VOCABULARY
    assert found.target.tolist() == [0, 1, 2, 3, 4]
    assert found.kind == "Ensembl ids"
    assert found.renamed == 5


def test_previous_symbols_are_found_on_either_side():
    # NKG2A was renamed KLRC1, and CD20 is an alias of MS4A1
    assert map_genes(["CD20"], VOCABULARY).genes == ["MS4A1"]
    assert map_genes(["MS4A1"], ["CD20", "LYZ"]).genes == ["CD20"]
    assert map_genes(["CD20"], VOCABULARY).renamed == 1


def test_repeats_that_were_made_unique_are_summed():
    found = map_genes(["LYZ", "LYZ-1", "CD3E", "NKX2-1"], [*VOCABULARY, "NKX2-1"])
    assert found.genes == ["CD3E", "LYZ", "NKX2-1"]
    assert found.target.tolist() == [1, 1, 0, 2]


def test_ensembl_vocabularies_are_found_too():
    ids = ["ENSG00000198851", "ENSG00000156738"]
    assert map_genes(["MS4A1", "CD3E"], ids).genes == ids
    assert map_genes([f"{i}.5" for i in ids], ids).genes == ids
    # an id that no symbol belongs to
    assert map_genes(["ENSG99999999999.2"], ["ENSG99999999999"]).genes == ["ENSG99999999999"]
    assert map_genes(["ENSG00000198851.9_PAR_Y", "CD3E"], VOCABULARY).summed == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, bool, np.float64])
def test_small_integers_do_not_overflow_in_a_sum(dtype):
    found = map_genes(["ENSG00000156738", "MS4A1"], VOCABULARY)
    chunk = csr_matrix(np.array([[200, 100]]).astype(dtype))
    assert found.gather(chunk).toarray().tolist() == [[float(np.array([200, 100]).astype(dtype).astype(float).sum())]]


def test_columns_of_one_gene_are_summed():
    found = map_genes(["ENSG00000156738", "LYZ", "MS4A1"], VOCABULARY)
    assert found.genes == ["MS4A1", "LYZ"]
    assert found.summed == 1
    chunk = csr_matrix(np.array([[1.0, 10.0, 2.0], [0.0, 5.0, 3.0]])[:, found.columns])
    np.testing.assert_array_equal(found.gather(chunk).toarray(), [[3, 10], [3, 5]])


def test_gather_leaves_a_plain_map_alone():
    found = map_genes(["LYZ", "CD3E"], VOCABULARY)
    chunk = csr_matrix(np.array([[1.0, 2.0]])[:, found.columns])
    gathered = found.gather(chunk)
    by_gene = dict(zip(found.genes, gathered.toarray()[0], strict=True))
    assert by_gene == {"LYZ": 1.0, "CD3E": 2.0}


def test_nothing_found_is_an_empty_map():
    found = map_genes(["Cd3e", "x", "ENSG99999999999"], VOCABULARY)
    assert found.genes == []
    assert len(found.columns) == 0


def test_an_alias_of_two_genes_is_not_used():
    _, names = gene_table()
    approved = {name for name, symbol in names.items() if name == symbol}
    assert len(approved) > 15_000
    assert all(names[symbol] == symbol for symbol in list(approved)[:500])
    assert "" not in names


@pytest.mark.parametrize(
    "name",
    [
        "GRCh38_CD3E",
        "hg19_CD3E",
        "GRCh38______CD3E",
        "GRCh38_ENSG00000198851",
        " CD3E ",
        "CD3E_ENSG00000198851",
        "ENSG00000198851_CD3E",
        "ENSG00000198851.4|CD3E",
    ],
)
def test_what_is_written_around_a_gene_is_taken_off(name):
    found = map_genes([name, "LYZ"], VOCABULARY)
    assert found.genes == ["CD3E", "LYZ"]
    assert found.renamed == 1


@pytest.mark.parametrize(
    ("name", "gene"),
    [
        ("HLA.DRA", "HLA-DRA"),
        ("MT.CO1", "MT-CO1"),
        ("HLA_DRA", "HLA-DRA"),
        ("NKX2.1", "NKX2-1"),
        ("RP11.2B6.2", "RP11-2B6.2"),
    ],
)
def test_dots_for_dashes_as_r_writes_them(name, gene):
    found = map_genes([name, "LYZ"], [*VOCABULARY, gene])
    assert found.genes == ["LYZ", gene]
    assert found.renamed == 1
    # the name itself goes first
    assert map_genes([name], [name, gene]).genes == [name]


def test_a_repeat_of_r_is_summed_and_a_clone_is_none():
    assert map_genes(["LYZ", "LYZ.1", "AC004.1"], VOCABULARY).target.tolist() == [0, 0]
    assert map_genes(["LYZ.1"], VOCABULARY).genes == []


def test_the_mouse_genes_of_a_mixture_are_left_out():
    found = map_genes(["GRCh38_CD3E", "GRCh38_LYZ", "mm10___Cd3e", "mm10___Lyz2", "mm10_CD19"], VOCABULARY)
    assert found.genes == ["CD3E", "LYZ"]
    assert (found.of_mouse, found.renamed) == (3, 2)
    assert map_genes(["mm10___Cd3e", "mm10___Lyz2"], VOCABULARY).mouse


def test_a_feature_without_a_name_is_none():
    assert map_genes(["", "CD3E", ""], VOCABULARY).columns.tolist() == [1]


def test_a_cell_with_too_few_genes_has_none():
    found = replace(map_genes(VOCABULARY, VOCABULARY), min_genes=3)
    chunk = csr_matrix(np.array([[1.0, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]))
    assert found.gather(chunk).toarray().sum(axis=1).tolist() == [0, 3, 0]
    assert chunk.sum() == 5
