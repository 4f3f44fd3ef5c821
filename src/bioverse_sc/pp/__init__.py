"""Look at a matrix before it is used, and make it readable."""

from bioverse_sc.pp._genes import GeneMap, map_genes
from bioverse_sc.pp._orthologs import to_human
from bioverse_sc.pp._profile import MatrixProfile, profile

__all__ = ["GeneMap", "MatrixProfile", "map_genes", "profile", "to_human"]
