"""Training: encoders, and the two stages of BioVERSE."""

from bioverse_sc.train._config import LoraSettings, TrainConfig
from bioverse_sc.train._data import (
    balanced_weights,
    descriptions,
    examples,
    read_examples,
    read_pairs,
    read_table,
    split,
)
from bioverse_sc.train._dry_run import DryRun, dry_run
from bioverse_sc.train._encoder import pretrain_encoder
from bioverse_sc.train._run import (
    AlignRun,
    InstructRun,
    NewModel,
    TrainingData,
    metrics_table,
    read_config,
    run_align,
    run_instruct,
)
from bioverse_sc.train._sequence_encoder import pretrain_sequence_encoder
from bioverse_sc.train._sources import Descriptions, Example
from bioverse_sc.train._stages import align, instruct, pretrain_language_model

__all__ = [
    "AlignRun",
    "Descriptions",
    "DryRun",
    "Example",
    "InstructRun",
    "LoraSettings",
    "NewModel",
    "TrainConfig",
    "TrainingData",
    "align",
    "balanced_weights",
    "descriptions",
    "dry_run",
    "examples",
    "instruct",
    "metrics_table",
    "pretrain_encoder",
    "pretrain_language_model",
    "pretrain_sequence_encoder",
    "read_config",
    "read_examples",
    "read_pairs",
    "read_table",
    "run_align",
    "run_instruct",
    "split",
]
