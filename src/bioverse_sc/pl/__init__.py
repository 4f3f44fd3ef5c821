"""Figures: ``pl.x`` draws what ``tl.x`` wrote."""

from bioverse_sc.pl._alignment_umap import alignment_umap
from bioverse_sc.pl._evidence import evidence
from bioverse_sc.pl._score import score

__all__ = ["alignment_umap", "evidence", "score"]
