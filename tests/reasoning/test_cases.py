import numpy as np
from scipy.sparse import csr_matrix

from bioverse_sc.ontology import cell_ontology
from bioverse_sc.reasoning import _cases, absent_markers, informative_genes


def test_informative_genes_exceed_the_average_most(tiny):
    genes = ["HIGH", "USUAL", "LOW", "NEW"]
    tiny.gene_reference = {"HIGH": (10.0, 1.0), "USUAL": (1000.0, 1.0), "LOW": (100.0, 1.0), "NEW": (10.0, 0.1)}
    chunk = csr_matrix(np.array([[50.0, 100.0, 1.0, 50.0]]))
    mean = np.log1p(np.array([10, 1000, 100, 10]) / 1120 * 1e4)
    excess = (np.log1p(chunk.toarray()[0] / 201 * 1e4) - mean) * [1, 1, 1, 0.1]
    expected = [genes[i] for i in np.argsort(-excess) if excess[i] > 0]
    assert expected == ["HIGH", "NEW"]
    assert informative_genes(tiny, chunk, genes, logged=False) == [expected]
    logged = chunk.copy()
    logged.data = np.log1p(logged.data)
    assert informative_genes(tiny, logged, genes, logged=True) == [expected]


def test_informative_genes_do_not_depend_on_the_other_cells(mini):
    genes = mini.encoders["rna"].genes[:300]
    chunk = csr_matrix(np.random.default_rng(0).poisson(0.8, size=(9, 300)).astype(np.float32))
    before = chunk.copy()
    together = informative_genes(mini, chunk, genes, logged=False)
    alone = [informative_genes(mini, chunk[i], genes, logged=False)[0] for i in range(9)]
    assert together == alone
    assert all(0 < len(shown) <= _cases.GENES_SHOWN for shown in together)
    assert (chunk != before).nnz == 0


def test_informative_genes_are_expressed(mini):
    genes = mini.encoders["rna"].genes[:300]
    chunk = csr_matrix(np.random.default_rng(1).poisson(0.3, size=(5, 300)).astype(np.float32))
    for row, shown in zip(chunk.toarray(), informative_genes(mini, chunk, genes, logged=False), strict=True):
        assert all(row[genes.index(gene)] > 0 for gene in shown)


def test_absent_markers_are_of_the_other_type_alone_and_not_in_the_cell():
    ontology = cell_ontology()
    b_cell, t_cell = "CL:0000236", "CL:0000084"
    of_t = [g for g in ontology.known_markers(t_cell) if g not in ontology.known_markers(b_cell)]
    genes = [*of_t, *ontology.known_markers(b_cell)]
    column = {gene: j for j, gene in enumerate(genes)}
    first = absent_markers(b_cell, {"T cell": t_cell}, column, set())["T cell"]
    assert len(first) == _cases.ABSENT_SHOWN
    assert set(first) <= set(of_t)
    # a gene that is there, or that the data do not measure, is not listed
    without = {gene: j for gene, j in column.items() if gene != first[1]}
    second = absent_markers(b_cell, {"T cell": t_cell}, without, {column[first[0]]})["T cell"]
    assert not set(first) & set(second)
    assert absent_markers("", {"T cell": t_cell}, column, set()) == {}
