"""The BioVERSE model: projector, soft tokens, language model, and their folder on disk."""

from bioverse_sc.models._bioverse import BioVerse
from bioverse_sc.models._config import Contract, ModelConfig, ProjectorConfig, ProjectorShape
from bioverse_sc.models._create import create
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
from bioverse_sc.models.decode import (
    PRUNED_BELOW,
    Decoding,
    Read,
    ShownGenes,
    ShownTypes,
    TypeNames,
    generate_text,
    label_log_probabilities,
    write_on,
)

__all__ = [
    "PRUNED_BELOW",
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
    "Read",
    "ShownGenes",
    "ShownTypes",
    "Text",
    "TypeNames",
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
    "write_on",
]
