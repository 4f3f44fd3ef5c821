"""Embed, align, annotate, describe and ask."""

from bioverse_sc.tl._align import align
from bioverse_sc.tl._alignment_umap import alignment_umap
from bioverse_sc.tl._annotate import annotate
from bioverse_sc.tl._ask import ask
from bioverse_sc.tl._chat import Chat as Chat
from bioverse_sc.tl._controls import controls
from bioverse_sc.tl._describe import describe
from bioverse_sc.tl._embed import embed
from bioverse_sc.tl._evidence import evidence
from bioverse_sc.tl._score import score

__all__ = ["align", "alignment_umap", "annotate", "ask", "controls", "describe", "embed", "evidence", "score"]
