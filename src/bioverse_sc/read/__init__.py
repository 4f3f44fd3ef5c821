"""AnnData or MuData in, chunks of rows out: what every tool reads data through."""

from bioverse_sc.read._entities import Entities
from bioverse_sc.read._genes import MOUSE_PREFIX, GeneMap, map_genes
from bioverse_sc.read._graph import CONNECTIVITIES, clusters_of, neighbors_graph
from bioverse_sc.read._map import ahead
from bioverse_sc.read._matrix import GeneMatrix, MatrixProfile, gene_matrix, matrix_of_genes, whole_matrix
from bioverse_sc.read._sources import features, get_matrix, is_there, layer_names
from bioverse_sc.read._view import observations

__all__ = [
    "CONNECTIVITIES",
    "MOUSE_PREFIX",
    "Entities",
    "GeneMap",
    "GeneMatrix",
    "MatrixProfile",
    "ahead",
    "clusters_of",
    "features",
    "gene_matrix",
    "get_matrix",
    "is_there",
    "layer_names",
    "map_genes",
    "matrix_of_genes",
    "neighbors_graph",
    "observations",
    "whole_matrix",
]
