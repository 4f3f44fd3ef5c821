"""The BioVERSE model: projector, soft tokens, language model, and their folder on disk."""

from bioverse_sc.models._bioverse import BioVerse
from bioverse_sc.models._config import Contract, ModelConfig, ProjectorConfig, ProjectorShape
from bioverse_sc.models._create import create
from bioverse_sc.models._generate import (
    Decoding,
    ShownGenes,
    ShownTypes,
    TypeNames,
    generate_text,
    label_log_probabilities,
)
from bioverse_sc.models._io import bundled_models, load, push_to_hub, save
from bioverse_sc.models._label_probabilities import calibrated_probabilities, label_probabilities
from bioverse_sc.models._memory import Memory
from bioverse_sc.models._project import mean_soft_tokens
from bioverse_sc.models._prompt import (
    PROMPT_ID,
    PROMPTS,
    Answer,
    ChatFormat,
    Entity,
    Segment,
    Text,
    description_prompt,
    entity_names,
    label_prompt,
    question_prompt,
    reasoning_prompt,
)
from bioverse_sc.models._shared import get_model

__all__ = [
    "PROMPTS",
    "PROMPT_ID",
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
    "Segment",
    "ShownGenes",
    "ShownTypes",
    "Text",
    "TypeNames",
    "bundled_models",
    "calibrated_probabilities",
    "create",
    "description_prompt",
    "entity_names",
    "generate_text",
    "get_model",
    "label_log_probabilities",
    "label_probabilities",
    "label_prompt",
    "load",
    "mean_soft_tokens",
    "push_to_hub",
    "question_prompt",
    "reasoning_prompt",
    "save",
]
