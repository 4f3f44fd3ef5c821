"""Look at a matrix before it is used, and make it readable."""

from bioverse_sc.pp._orthologs import to_human
from bioverse_sc.pp._profile import profile
from bioverse_sc.read import GeneMap, MatrixProfile, map_genes

__all__ = ["GeneMap", "MatrixProfile", "map_genes", "profile", "to_human"]
