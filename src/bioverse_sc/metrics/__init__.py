"""How well two sets of vectors are aligned. Plain functions over arrays."""

from bioverse_sc.metrics._alignment import alignment_metrics, knn_agreement, modality_gap, retrieval_at_k

__all__ = ["alignment_metrics", "knn_agreement", "modality_gap", "retrieval_at_k"]
