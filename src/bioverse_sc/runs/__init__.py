"""A training run from a configuration file; what ``bioverse-sc train`` does."""

from bioverse_sc.runs._config import AlignRun, InstructRun, NewModel, TrainingData, read_config
from bioverse_sc.runs._cost import timed
from bioverse_sc.runs._dry_run import DryRun, dry_run
from bioverse_sc.runs._run import metrics_table, run_align, run_instruct

__all__ = [
    "AlignRun",
    "DryRun",
    "InstructRun",
    "NewModel",
    "TrainingData",
    "dry_run",
    "metrics_table",
    "read_config",
    "run_align",
    "run_instruct",
    "timed",
]
