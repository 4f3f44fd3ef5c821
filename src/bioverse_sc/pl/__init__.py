"""Figures."""

from bioverse_sc.pl._alignment import alignment_umap
from bioverse_sc.pl._evidence import evidence
from bioverse_sc.pl._retrieval import retrieval

__all__ = ["alignment_umap", "evidence", "retrieval"]
