"""The BioVERSE model: projector, soft tokens, language model, and their folder on disk."""

from bioverse_sc.models._bioverse import BioVerse
from bioverse_sc.models._config import ModelConfig, ProjectorConfig
from bioverse_sc.models._generate import generate_text, label_log_probabilities
from bioverse_sc.models._io import bundled_models, load, save
from bioverse_sc.models._prompt import Answer, Entity, Text, label_prompt, reasoning_prompt

__all__ = [
    "Answer",
    "BioVerse",
    "Entity",
    "ModelConfig",
    "ProjectorConfig",
    "Text",
    "bundled_models",
    "generate_text",
    "label_log_probabilities",
    "label_prompt",
    "load",
    "reasoning_prompt",
    "save",
]
