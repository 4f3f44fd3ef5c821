"""How well vectors are aligned, and how good labels, their confidence and texts are.

Plain functions over arrays and lists.
"""

from bioverse_sc.metrics._alignment import (
    alignment_metrics,
    cosines,
    knn_agreement,
    modality_gap,
    rank_of_true,
    retrieval_at_k,
    text_retrieval,
)
from bioverse_sc.metrics._calibration import apply_calibration, fit_isotonic, fit_temperature, reliability_table
from bioverse_sc.metrics._labels import (
    accuracy,
    expected_calibration_error,
    macro_f1,
    popv_agreement,
    sctab_accuracy,
    sctab_macro_f1,
)
from bioverse_sc.metrics._text import bleu, meteor, rouge, text_metrics, words

__all__ = [
    "accuracy",
    "alignment_metrics",
    "apply_calibration",
    "bleu",
    "cosines",
    "expected_calibration_error",
    "fit_isotonic",
    "fit_temperature",
    "knn_agreement",
    "macro_f1",
    "meteor",
    "modality_gap",
    "popv_agreement",
    "rank_of_true",
    "reliability_table",
    "retrieval_at_k",
    "rouge",
    "sctab_accuracy",
    "sctab_macro_f1",
    "text_metrics",
    "text_retrieval",
    "words",
]
