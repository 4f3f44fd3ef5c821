"""The stages as functions: text for a new language model, alignment (stage 1), instructions (stage 2)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from bioverse_sc._modality import CELLS
from bioverse_sc._quiet import quiet_loading, undisturbed
from bioverse_sc.datasets import everyday_texts
from bioverse_sc.train._checkpoint import unshard
from bioverse_sc.train._config import LoraSettings, TrainConfig
from bioverse_sc.train._loop import fit, seeded
from bioverse_sc.train._sources import Descriptions, EntityVectors, Example, PairSource, PromptSource, checked_weights
from bioverse_sc.train._tasks import ATTRACTION, ContrastiveTask, PromptTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from bioverse_sc.models import BioVerse


@undisturbed()
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
        Folder of the checkpoints; training resumes from it.

    Returns
    -------
    The logged metrics.
    """
    with training_only(model, config, lambda name: name.startswith("language_model.")):
        return fit(PromptTask(model), _prompts(model, examples, {}, config), config, folder=folder, description="text")


@undisturbed()
def align(
    model: BioVerse,
    vectors: np.ndarray | Sequence[np.ndarray],
    descriptions: Descriptions,
    config: TrainConfig,
    *,
    mod: str = CELLS,
    objective: Literal["contrastive", "autoregressive"] = "contrastive",
    negatives: Sequence[str] | None = None,
    attraction: float = ATTRACTION,
    validation: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    folder: str | Path | None = None,
) -> list[dict[str, float]]:
    """Stage 1 of BioVERSE (arXiv 2510.01428): train a projector, in place; encoder and language model are frozen.

    Parameters
    ----------
    model
        The model.
    vectors
        Encoder vectors of the entities, shape (entities, width of the encoder); of an encoder that does not pool, one
        array of shape (length, width) for each entity.
    descriptions
        Texts of the entities.
    config
        Steps, batch size, rates.
    mod
        Whose projector.
    objective
        ``"contrastive"`` (CT): InfoNCE in both directions against the mean input-token embedding of the description;
        the language model does not run. ``"autoregressive"`` (AR): next-token loss of the language model on the
        description.
    negatives
        Unrelated texts, for ``"contrastive"``; the package's own sentences by default.
    attraction
        Weight of one minus the cosine between an entity and its own text, beside InfoNCE, which alone leaves a gap
        between all entities and all texts. 0 is the loss of the paper.
    validation
        Rows of the entities that are measured and not trained on; see :func:`split`.
    weights
        How often each entity is drawn relative to the others, shape (entities,); see :func:`balanced_weights`.
    folder
        Folder of the checkpoints; training resumes from it.

    Returns
    -------
    The logged metrics. Of the validation entities there are, with ``"contrastive"``, ``validation_retrieval_at_1``,
    ``_5`` and ``_10``, ``validation_modality_gap`` and ``validation_knn_agreement``; with ``"autoregressive"``,
    ``validation_loss`` per token, ``validation_token_accuracy`` and ``validation_answer_accuracy``.

    Raises
    ------
    ValueError
        When vectors, texts and model do not fit, or there is nothing to train on.
    """
    n_entities = len(descriptions.text_of)
    held_out = np.unique(np.asarray([] if validation is None else validation, dtype=np.int64))
    rows = np.setdiff1d(np.arange(n_entities), held_out)
    drawn = checked_weights(weights, n_entities)
    drawn = None if drawn is None else drawn[rows]
    with training_only(model, config, lambda name: name.startswith(f"projectors.{mod}.")):
        if objective == "contrastive":
            pairs = PairSource(vectors, descriptions.text_of, rows=rows, weights=drawn)
            measured = PairSource(pairs.vectors, descriptions.text_of, rows=held_out) if len(held_out) else None
            task = contrastive_task(model, mod, descriptions, negatives=negatives, attraction=attraction)
            return fit(task, pairs, config, validation=measured, folder=folder, description="stage 1, contrastive")
        if objective != "autoregressive":
            msg = f"objective is {objective!r}; expected 'contrastive' or 'autoregressive'."
            raise ValueError(msg)
        from bioverse_sc.models import description_prompt

        def asked(chosen: np.ndarray) -> list[Example]:
            texts = [descriptions.texts[t] for t in descriptions.text_of[chosen]]
            prompts = [description_prompt(mod, text, prompts=model.config.prompts) for text in texts]
            return [Example(prompt, (int(row),)) for prompt, row in zip(prompts, chosen, strict=True)]

        checked = {mod: EntityVectors.of(mod, vectors)}
        return fit(
            PromptTask(model),
            _prompts(model, asked(rows), checked, config, weights=drawn),
            config,
            validation=_prompts(model, asked(held_out), checked, config) if len(held_out) else None,
            folder=folder,
            description="stage 1, autoregressive",
        )


def contrastive_task(
    model: BioVerse,
    mod: str,
    descriptions: Descriptions,
    *,
    negatives: Sequence[str] | None = None,
    attraction: float = ATTRACTION,
) -> ContrastiveTask:
    """Contrast of a projector's soft tokens with the model's own embeddings of texts.

    Parameters
    ----------
    model
        The model.
    mod
        Whose projector.
    descriptions
        Texts of the entities.
    negatives
        Unrelated texts; the package's own sentences by default.
    attraction
        Weight of one minus the cosine between an entity and its own text, beside InfoNCE.
    """
    unrelated = list(everyday_texts() if negatives is None else negatives)
    bank = model.text_vectors(unrelated) if unrelated else None
    return ContrastiveTask(model, mod, model.text_vectors(list(descriptions.texts)), bank, attraction=attraction)


def _prompts(
    model: BioVerse, examples: Sequence[Example], vectors: Any, config: TrainConfig, **kwargs: Any
) -> PromptSource:
    return PromptSource(model, examples, vectors, max_tokens=config.max_tokens, too_long=config.too_long, **kwargs)


@undisturbed()
def instruct(
    model: BioVerse,
    examples: Sequence[Example],
    vectors: Mapping[str, np.ndarray | Sequence[np.ndarray]],
    config: TrainConfig,
    *,
    lora: LoraSettings | None = None,
    train_projectors: bool | Sequence[str] = True,
    descriptions: Mapping[str, Descriptions] | None = None,
    validation: Sequence[Example] | None = None,
    weights: np.ndarray | None = None,
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
        Encoder vectors by modality, shape (entities, width), or an array of shape (length, width) for each entity; the
        examples' rows point into them.
    config
        Steps, batch size, rates.
    lora
        Shape of the adapter.
    train_projectors
        Whether the projectors train too, as in the paper, or the modalities whose projectors do.
    descriptions
        By modality, the texts of the entities that stage 1 aligned them with. Then the contrastive loss of stage 1 goes
        on beside the next-token loss, and the projectors do not forget where the texts lie. ``None`` is the loss of the
        paper.
    validation
        Examples that are measured and not trained on.
    weights
        How often each example is drawn relative to the others; see :func:`balanced_weights`.
    folder
        Folder of the checkpoints; training resumes from it.

    Returns
    -------
    The logged metrics; of the validation examples ``validation_loss`` per token, ``validation_token_accuracy``, and
    ``validation_answer_accuracy``: the share of first answers, labels for instance, that greedy decoding writes
    exactly.
    """
    from peft import PeftModel

    if not isinstance(model.language_model, PeftModel):
        with seeded(config.seed):
            add_adapter(model, lora or LoraSettings())
    # the projector of a modality that the examples do not have would get no gradient
    chosen = (list(vectors) if train_projectors else []) if isinstance(train_projectors, bool) else train_projectors
    if unknown := sorted(set(chosen) - set(vectors)):
        msg = f"train_projectors names {unknown}, but there are vectors of {sorted(vectors)} only."
        raise ValueError(msg)
    trains = tuple(f"projectors.{mod}." for mod in chosen)
    descriptions = descriptions or {}
    with training_only(model, config, lambda name: "lora_" in name or name.startswith(trains)):
        task = PromptTask(model, {mod: contrastive_task(model, mod, texts) for mod, texts in descriptions.items()})
        text_of = {mod: texts.text_of for mod, texts in descriptions.items()}
        checked = {mod: EntityVectors.of(mod, given) for mod, given in vectors.items()}
        return fit(
            task,
            _prompts(model, examples, checked, config, text_of=text_of, weights=weights),
            config,
            validation=_prompts(model, validation, checked, config) if validation else None,
            folder=folder,
            description="stage 2",
        )


def add_adapter(model: BioVerse, lora: LoraSettings) -> None:
    """Put untrained low-rank adapters around the language model's linear layers.

    Parameters
    ----------
    model
        The model, which is changed.
    lora
        Shape of the adapters.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    targets: str | list[str] = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    modules = model.language_model.named_modules()
    linear = [name for name, module in modules if isinstance(module, torch.nn.Linear | Conv1D)]
    if targets == "attention":
        in_attention = (name for name in linear if "attn" in name or "attention" in name)
        targets = sorted({".".join(name.split(".")[-2:]) for name in in_attention})
    elif isinstance(targets, str) and targets != "all-linear":
        msg = f"targets is {targets!r}; expected 'all-linear', 'attention' or a list of module names."
        raise ValueError(msg)
    if lora.last_layers is not None:
        within = _in_last_layers(model, linear, lora.last_layers)
        targets = [n for n in within if targets == "all-linear" or any(f".{n}".endswith(f".{t}") for t in targets)]
    shape = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        # GPT-2 keeps its weights transposed
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.language_model.modules()),
        task_type="CAUSAL_LM",
    )
    with quiet_loading():
        model.language_model = get_peft_model(model.language_model, shape)


def _in_last_layers(model: BioVerse, names: Sequence[str], n: int) -> list[str]:
    """Those modules that are in the last layers of a language model, whose names hold the layer's number."""
    n_layers = model.language_model.config.get_text_config().num_hidden_layers
    if n > n_layers:
        msg = f"lora.last_layers is {n}; the language model of {model.config.name!r} has {n_layers} layers."
        raise ValueError(msg)
    last = {str(i) for i in range(n_layers - n, n_layers)}
    return [name for name in names if next((part for part in name.split(".") if part.isdigit()), "") in last]


@contextmanager
def training_only(model: BioVerse, config: TrainConfig, trains: Callable[[str], bool]) -> Iterator[None]:
    """Train the parameters whose names are chosen and nothing else; at the end, check that no other one had a gradient.

    Encoders are outside of the model's parameters and never train here.

    Parameters
    ----------
    model
        The model; all of it is frozen again at the end.
    config
        Whether activations are computed again.
    trains
        Whether the parameter of a name trains.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trains(name) and parameter.is_floating_point())
    if not any(p.requires_grad for p in model.parameters()):
        msg = (
            f"The model {model.config.name!r} has nothing that this stage trains; it has {sorted(model.projectors)} "
            "projectors."
        )
        raise ValueError(msg)
    if config.gradient_checkpointing:
        model.checkpoint_gradients(enabled=True)
    try:
        yield
    finally:
        if config.gradient_checkpointing:
            model.checkpoint_gradients(enabled=False)
        reached = [name for name, p in model.named_parameters() if p.grad is not None and not trains(name)]
        model.requires_grad_(requires_grad=False)
        model.zero_grad()
        model.eval()
        model.fingerprint = ""
    # not after a failure, which another process may not share: putting shards together waits for all
    unshard(model)
    if reached:
        msg = (
            f"Parameters that are frozen had gradients: {', '.join(reached[:5])}. This is a fault of the package; "
            "report it."
        )
        raise RuntimeError(msg)
