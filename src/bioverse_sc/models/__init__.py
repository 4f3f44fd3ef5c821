"""The BioVERSE model: projector, soft tokens, language model, and their folder on disk."""

from bioverse_sc.models._bioverse import BioVerse
from bioverse_sc.models._config import Contract, ModelConfig, ProjectorConfig, ProjectorShape
from bioverse_sc.models._create import create
from bioverse_sc.models._generate import Decoding, generate_text, label_log_probabilities
from bioverse_sc.models._io import bundled_models, load, push_to_hub, save
from bioverse_sc.models._memory import Memory
from bioverse_sc.models._prompt import (
    Answer,
    ChatFormat,
    Entity,
    Text,
    description_prompt,
    entity_names,
    label_prompt,
    question_prompt,
    reasoning_prompt,
)

__all__ = [
    "Answer",
    "BioVerse",
    "ChatFormat",
    "Contract",
    "Decoding",
    "Entity",
    "Memory",
    "ModelConfig",
    "ProjectorConfig",
    "ProjectorShape",
    "Text",
    "bundled_models",
    "create",
    "description_prompt",
    "entity_names",
    "generate_text",
    "label_log_probabilities",
    "label_prompt",
    "load",
    "push_to_hub",
    "question_prompt",
    "reasoning_prompt",
    "save",
]
