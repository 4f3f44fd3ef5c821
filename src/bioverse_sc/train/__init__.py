"""Training: encoders, and the two stages of BioVERSE."""

from bioverse_sc.train._checkpoint import MAY_CHANGE, has_checkpoint
from bioverse_sc.train._config import LoraSettings, TrainConfig
from bioverse_sc.train._data import balanced_weights, descriptions, donors_of, examples, rows_of, split, with_ontology
from bioverse_sc.train._encoder import CellSource, EncoderTask, pretrain_encoder
from bioverse_sc.train._loop import BatchSource, Task, fit
from bioverse_sc.train._order import batch_indices
from bioverse_sc.train._records import read_examples, read_pairs, read_table
from bioverse_sc.train._sequence_encoder import pretrain_sequence_encoder
from bioverse_sc.train._sources import Descriptions, EntityVectors, Example, PairSource, PromptSource
from bioverse_sc.train._stages import (
    add_adapter,
    align,
    contrastive_task,
    instruct,
    pretrain_language_model,
    training_only,
)
from bioverse_sc.train._tasks import ATTRACTION, ContrastiveTask, PromptTask

__all__ = [
    "ATTRACTION",
    "MAY_CHANGE",
    "BatchSource",
    "CellSource",
    "ContrastiveTask",
    "Descriptions",
    "EncoderTask",
    "EntityVectors",
    "Example",
    "LoraSettings",
    "PairSource",
    "PromptSource",
    "PromptTask",
    "Task",
    "TrainConfig",
    "add_adapter",
    "align",
    "balanced_weights",
    "batch_indices",
    "contrastive_task",
    "descriptions",
    "donors_of",
    "examples",
    "fit",
    "has_checkpoint",
    "instruct",
    "pretrain_encoder",
    "pretrain_language_model",
    "pretrain_sequence_encoder",
    "read_examples",
    "read_pairs",
    "read_table",
    "rows_of",
    "split",
    "training_only",
    "with_ontology",
]
