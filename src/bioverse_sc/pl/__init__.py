"""Figures."""

from bioverse_sc.pl._alignment import alignment_umap

__all__ = ["alignment_umap"]
