"""The stages as functions: text for a new language model, alignment (stage 1), instructions (stage 2)."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Literal

import torch

from bioverse_sc.train._config import LoraSettings, TrainConfig
from bioverse_sc.train._data import Descriptions, Example, PairSource, PromptSource
from bioverse_sc.train._loop import fit
from bioverse_sc.train._tasks import ATTRACTION, ContrastiveTask, PromptTask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from bioverse_sc.models import BioVerse
    from bioverse_sc.models._prompt import Segment


def general_domain_texts() -> list[str]:
    """Sentences about everyday things: unrelated negatives of contrastive training, and of the alignment figure."""
    text = files("bioverse_sc.train").joinpath("general_domain.txt").read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def pretrain_language_model(
    model: BioVerse, examples: Sequence[Example], config: TrainConfig, *, folder: str | Path | None = None
) -> list[dict[str, float]]:
    """Train all weights of the language model on text, in place; for a model made from scratch.

    Parameters
    ----------
    model
        The model; its projectors stay as they are.
    examples
        Prompts without entities. Only answers are in the loss: ``Example([Answer(text)])`` is plain text.
    config
        Steps, batch size, rates.
    folder
        Folder of the checkpoint; training resumes from it.

    Returns
    -------
    The logged metrics.
    """
    model.requires_grad_(requires_grad=False)
    model.language_model.requires_grad_()
    history = fit(PromptTask(model), PromptSource(model, examples, {}), config, folder=folder, description="text")
    model.requires_grad_(requires_grad=False)
    model.fingerprint = ""
    return history


def align(
    model: BioVerse,
    vectors: np.ndarray,
    descriptions: Descriptions,
    config: TrainConfig,
    *,
    modality: str = "rna",
    objective: Literal["contrastive", "autoregressive"] = "contrastive",
    negatives: Sequence[str] | None = None,
    attraction: float = ATTRACTION,
    folder: str | Path | None = None,
) -> list[dict[str, float]]:
    """Stage 1 of BioVERSE (arXiv 2510.01428): train a projector, in place; encoder and language model are frozen.

    Parameters
    ----------
    model
        The model.
    vectors
        Encoder vectors of the entities, shape (entities, width of the encoder).
    descriptions
        Texts of the entities.
    config
        Steps, batch size, rates.
    modality
        Whose projector.
    objective
        ``"contrastive"`` (CT): InfoNCE in both directions against the mean input-token embedding of the description; the
        language model does not run. ``"autoregressive"`` (AR): next-token loss of the language model on the description.
    negatives
        Unrelated texts, for ``"contrastive"``; the package's own sentences by default.
    attraction
        Weight of one minus the cosine between an entity and its own text, beside InfoNCE, which alone leaves a gap between
        all entities and all texts. 0 is the loss of the paper.
    folder
        Folder of the checkpoint; training resumes from it.

    Returns
    -------
    The logged metrics.
    """
    from bioverse_sc.models._prompt import Answer, Entity, Text

    model.requires_grad_(requires_grad=False)
    model.projectors[modality].requires_grad_()
    torch.manual_seed(config.seed)
    if objective == "contrastive":
        task: ContrastiveTask | PromptTask = _contrast(model, modality, descriptions, negatives, attraction)
        source: PairSource | PromptSource = PairSource(vectors, descriptions.text_of)
    elif objective == "autoregressive":
        before: list[Segment] = [Text(_NAMES[modality] + ":"), Entity(modality), Text(" Description:")]
        examples = [Example([*before, Answer(descriptions.texts[t])], (i,)) for i, t in enumerate(descriptions.text_of)]
        task, source = PromptTask(model), PromptSource(model, examples, {modality: vectors})
    else:
        msg = f"objective is {objective!r}; expected 'contrastive' or 'autoregressive'."
        raise ValueError(msg)
    history = fit(task, source, config, folder=folder, description=f"stage 1, {objective}")
    model.requires_grad_(requires_grad=False)
    model.fingerprint = ""
    return history


def _contrast(
    model: BioVerse, modality: str, descriptions: Descriptions, negatives: Sequence[str] | None, attraction: float
) -> ContrastiveTask:
    unrelated = list(general_domain_texts() if negatives is None else negatives)
    bank = model.text_vectors(unrelated) if unrelated else None
    return ContrastiveTask(model, modality, model.text_vectors(list(descriptions.texts)), bank, attraction=attraction)


_NAMES = {"rna": "Cell", "protein": "Protein", "molecule": "Molecule"}


def instruct(
    model: BioVerse,
    examples: Sequence[Example],
    vectors: Mapping[str, np.ndarray],
    config: TrainConfig,
    *,
    lora: LoraSettings | None = None,
    train_projectors: bool = True,
    descriptions: Mapping[str, Descriptions] | None = None,
    folder: str | Path | None = None,
) -> list[dict[str, float]]:
    """Stage 2 of BioVERSE: instruction tuning with LoRA, in place.

    Parameters
    ----------
    model
        The model; an adapter is added when the language model has none yet.
    examples
        Prompts with written answers.
    vectors
        Encoder vectors by modality, shape (entities, width); the examples' rows point into them.
    config
        Steps, batch size, rates.
    lora
        Shape of the adapter.
    train_projectors
        Whether the projectors train too, as in the paper.
    descriptions
        By modality, the texts of the entities that stage 1 aligned them with. Then the contrastive loss of stage 1 goes on
        beside the next-token loss, and the projectors do not forget where the texts lie. ``None`` is the loss of the paper.
    folder
        Folder of the checkpoint; training resumes from it.

    Returns
    -------
    The logged metrics.
    """
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers.pytorch_utils import Conv1D

    lora = lora or LoraSettings()
    model.requires_grad_(requires_grad=False)
    torch.manual_seed(config.seed)
    if not isinstance(model.language_model, PeftModel):
        targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
        shape = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=targets,
            # GPT-2 keeps its weights transposed
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.language_model.modules()),
            task_type="CAUSAL_LM",
        )
        model.language_model = get_peft_model(model.language_model, shape)
    for name, parameter in model.language_model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    model.projectors.requires_grad_(train_projectors)
    descriptions = descriptions or {}
    task = PromptTask(model, {mod: _contrast(model, mod, of, None, ATTRACTION) for mod, of in descriptions.items()})
    source = PromptSource(model, examples, vectors, text_of={mod: of.text_of for mod, of in descriptions.items()})
    history = fit(task, source, config, folder=folder, description="stage 2")
    model.requires_grad_(requires_grad=False)
    model.fingerprint = ""
    return history
