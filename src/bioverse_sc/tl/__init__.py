"""Embed, align and annotate."""

from bioverse_sc.tl._align import align
from bioverse_sc.tl._alignment import alignment
from bioverse_sc.tl._annotate import annotate
from bioverse_sc.tl._embed import embed

__all__ = ["align", "alignment", "annotate", "embed"]
