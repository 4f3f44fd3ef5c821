"""Training: encoders, and the two stages of BioVERSE."""

from bioverse_sc.train._config import LoraSettings, TrainConfig
from bioverse_sc.train._data import balanced_weights, descriptions, examples, read_examples, read_pairs, split
from bioverse_sc.train._encoder import pretrain_encoder
from bioverse_sc.train._sources import Descriptions, Example
from bioverse_sc.train._stages import align, general_domain_texts, instruct, pretrain_language_model

__all__ = [
    "Descriptions",
    "Example",
    "LoraSettings",
    "TrainConfig",
    "align",
    "balanced_weights",
    "descriptions",
    "examples",
    "general_domain_texts",
    "instruct",
    "pretrain_encoder",
    "pretrain_language_model",
    "read_examples",
    "read_pairs",
    "split",
]
