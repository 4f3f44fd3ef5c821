"""Look at a matrix before it is used."""

from bioverse_sc.pp._genes import GeneMap, map_genes
from bioverse_sc.pp._profile import MatrixProfile, profile

__all__ = ["GeneMap", "MatrixProfile", "map_genes", "profile"]
