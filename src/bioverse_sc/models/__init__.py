"""The BioVERSE model: projector, soft tokens, language model, and their folder on disk."""

from bioverse_sc.models._bioverse import BioVerse
from bioverse_sc.models._chat_format import ChatFormat
from bioverse_sc.models._config import Contract, DtypeName, ModelConfig, ProjectorConfig
from bioverse_sc.models._create import create
from bioverse_sc.models._folder import CONFIG, INSIDE, bundled_models, is_model, model_folder, write_checksums
from bioverse_sc.models._inject import (
    IGNORED,
    SLOT,
    PromptBatch,
    RememberingTokenizer,
    TokenizedPrompt,
    inject,
    pad_prompts,
    tokenize_prompt,
)
from bioverse_sc.models._io import load, save
from bioverse_sc.models._label_probabilities import label_probabilities, tempered_probabilities
from bioverse_sc.models._projector import Projector, mean_soft_tokens
from bioverse_sc.models._prompt import (
    PROMPT_ID,
    PROMPTS,
    Answer,
    Entity,
    Segment,
    Text,
    description_prompt,
    entity_names,
    fill_template,
    filled_prompt,
    label_prompt,
    parse_template,
    question_prompt,
    reasoning_prompt,
    template_fields,
    with_modality,
)
from bioverse_sc.models._publish import push_to_hub
from bioverse_sc.models._shared import get_model
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
    "CONFIG",
    "IGNORED",
    "INSIDE",
    "PROMPTS",
    "PROMPT_ID",
    "PRUNED_BELOW",
    "SLOT",
    "Answer",
    "BioVerse",
    "ChatFormat",
    "Contract",
    "Decoding",
    "DtypeName",
    "Entity",
    "ModelConfig",
    "Projector",
    "ProjectorConfig",
    "PromptBatch",
    "Read",
    "RememberingTokenizer",
    "Segment",
    "ShownGenes",
    "ShownTypes",
    "Text",
    "TokenizedPrompt",
    "TypeNames",
    "bundled_models",
    "create",
    "description_prompt",
    "entity_names",
    "fill_template",
    "filled_prompt",
    "generate_text",
    "get_model",
    "inject",
    "is_model",
    "label_log_probabilities",
    "label_probabilities",
    "label_prompt",
    "load",
    "mean_soft_tokens",
    "model_folder",
    "pad_prompts",
    "parse_template",
    "push_to_hub",
    "question_prompt",
    "reasoning_prompt",
    "save",
    "tempered_probabilities",
    "template_fields",
    "tokenize_prompt",
    "with_modality",
    "write_checksums",
    "write_on",
]
