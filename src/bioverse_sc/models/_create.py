"""A new model: any causal language model of transformers, frozen encoders, untrained projectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from bioverse_sc._keys import check_name
from bioverse_sc._modality import CELLS
from bioverse_sc._quiet import undisturbed
from bioverse_sc.models._bioverse import BioVerse, ready
from bioverse_sc.models._chat_format import ChatFormat
from bioverse_sc.models._config import DtypeName, ModelConfig, ProjectorConfig
from bioverse_sc.models._folder import bundled_models
from bioverse_sc.models._language_model import contract_of, embedding_width, known_commit, load_language_model
from bioverse_sc.models._prompt import PROMPTS, Entity, parse_template, template_fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from bioverse_sc.encoders import Encoder, Precomputed


@undisturbed()
def create(
    language_model: str | Path,
    encoders: Mapping[str, Encoder | Precomputed],
    *,
    name: str,
    revision: str | None = None,
    projectors: Mapping[str, ProjectorConfig] | None = None,
    labels: Sequence[str] = (),
    prompts: Mapping[str, str] | None = None,
    chat: bool | None = None,
    dtype: DtypeName = "float32",
    load_in_4bit: bool = False,
    device: str | None = None,
) -> BioVerse:
    """Make a model to be trained: a language model, encoders, and a new projector for each (arXiv 2510.01428).

    Parameters
    ----------
    language_model
        Any causal language model of transformers: a hub id, a folder, a GGUF file, or a model of this package, such as
        ``"mini"``, whose language model lies in its folder and is used without the adapter.
    encoders
        Frozen encoders by modality, such as ``{"rna": bsc.encoders.get_encoder("whole-human")}``.
        :class:`~bioverse_sc.encoders.Precomputed` stands for vectors from elsewhere.
    name
        Of the model; stored with every result.
    revision
        Branch, tag or commit of the hub repository; the commit that it stood for is recorded.
    projectors
        Shapes of projectors by modality, where the defaults are not meant; the encoder and the widths at their ends
        follow from the other arguments.
    labels
        Label set of annotation.
    prompts
        Templates in the place of some of the defaults: ``"label"``, ``"reason"``, ``"describe"``, ``"entity"``,
        ``"ask"``, ``"nearest"``, ``"facts"``.
    chat
        Whether prompts are put as turns of the language model's chat template; by default when it has one.
    dtype
        Number format that the language model computes in.
    load_in_4bit
        Read the language model in 4 bits, as :func:`load` does.
    device
        Torch device; ``bsc.settings.device`` by default.

    Returns
    -------
    The model, frozen and in evaluation mode.

    Raises
    ------
    ValueError
        For arguments that do not fit together, and for a tokenizer without an end-of-sequence token.
    TypeError
        For an encoder without name, fingerprint or width.
    OSError
        When the language model cannot be loaded.
    """
    shapes = dict(projectors or {})
    _check_encoders(encoders, shapes)
    label_set = _checked_labels(labels)
    templates = _checked_prompts(prompts or {})
    if dtype not in get_args(DtypeName):
        msg = f"dtype is {dtype!r}; expected one of {', '.join(get_args(DtypeName))}."
        raise ValueError(msg)
    base, tokenizer = load_language_model(
        language_model,
        revision=revision,
        dtype=dtype,
        load_in_4bit=load_in_4bit,
        device=device,
        instead="bsc.models.create(FOLDER, ...)",
    )
    if tokenizer.eos_token_id is None:
        msg = (
            f"The tokenizer of {str(language_model)!r} has no end-of-sequence token, so answers would not end. In a "
            "copy of the language model's folder, write the token that it ends with as 'eos_token' into "
            "tokenizer_config.json, and pass the folder."
        )
        raise ValueError(msg)
    width = embedding_width(base)
    config = ModelConfig(
        name=name,
        language_model=_place(language_model),
        language_model_revision=known_commit(str(language_model), revision) or revision,
        dtype=dtype,
        contract=contract_of(base, tokenizer),
        projectors={
            mod: shapes.get(mod, ProjectorConfig()).for_encoder(encoder, width) for mod, encoder in encoders.items()
        },
        labels=label_set,
        prompts=templates,
        chat=_chat_format(tokenizer, str(language_model), chat=chat),
    )
    # precomputed vectors have no encoder to run
    stored: dict[str, Any] = {mod: encoder for mod, encoder in encoders.items() if hasattr(encoder, "encode")}
    return ready(BioVerse(config, base, tokenizer, stored), device)


def _place(language_model: str | Path) -> str:
    """Where a saved model finds its base again, whatever folder it is loaded from."""
    folder = Path(language_model)
    is_path = folder.exists() and str(language_model) not in bundled_models()
    return str(folder.resolve()) if is_path else str(language_model)


def _check_encoders(encoders: Mapping[str, Any], shapes: Mapping[str, ProjectorConfig]) -> None:
    if not encoders:
        msg = "encoders is empty; expected at least one, as {'rna': encoder}."
        raise ValueError(msg)
    for mod, encoder in encoders.items():
        if not mod.isidentifier():
            msg = f"{mod!r} cannot be the name of a modality; expected letters, digits and underscores, such as 'rna'."
            raise ValueError(msg)
        if missing := [member for member in ("name", "fingerprint", "width") if not hasattr(encoder, member)]:
            msg = (
                f"The {mod} encoder is a {type(encoder).__name__}, which lacks {', '.join(missing)}; expected what "
                "bsc.encoders.get_encoder() gives, or bsc.encoders.Precomputed."
            )
            raise TypeError(msg)
        check_name(encoder.name, f"The name of the {mod} encoder", example="mine")
        if hasattr(encoder, "encode") and encoder.mod != mod:
            msg = f"The encoder {encoder.name!r} is given as {mod!r}, but reads {encoder.mod!r}; give it as that."
            raise ValueError(msg)
    if unknown := shapes.keys() - encoders.keys():
        msg = f"projectors names {sorted(unknown)}, which have no encoder; there are encoders of {sorted(encoders)}."
        raise ValueError(msg)
    for mod, shape in shapes.items():
        if given := [name for name in ProjectorConfig.ENDS if getattr(shape, name)]:
            msg = f"projectors[{mod!r}] has {', '.join(given)}; these follow from the encoder and the language model."
            raise ValueError(msg)


def _checked_labels(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str):
        msg = f"labels is the text {labels!r}; expected a list of labels."
        raise TypeError(msg)
    if repeated := sorted({label for label in labels if list(labels).count(label) > 1}):
        msg = f"labels repeats {', '.join(repeated)}; give each once."
        raise ValueError(msg)
    return tuple(labels)


def _checked_prompts(prompts: Mapping[str, str]) -> dict[str, str]:
    """All templates; each has the places of entities of the default one, and no field that would not be filled."""
    if unknown := prompts.keys() - PROMPTS.keys():
        msg = f"prompts holds {sorted(unknown)}; the templates are {sorted(PROMPTS)}."
        raise ValueError(msg)
    for key, template in prompts.items():
        # these are of any modality; the others say of which
        mod = CELLS if key in ("describe", "entity") else None
        fields = [*template_fields(PROMPTS[key]), *(["genes"] if key == "reason" else [])]
        if unfilled := set(template_fields(template)) - set(fields):
            known = ", ".join(f"{{{field}}}" for field in fields) or "no fields"
            msg = f"The prompt {key!r} has the fields {sorted(unfilled)}; it may have {known}."
            raise ValueError(msg)
        expected, n_places = (
            sum(isinstance(segment, Entity) for segment in parse_template(text, mod))
            for text in (PROMPTS[key], template)
        )
        if n_places != expected:
            msg = f"The prompt {key!r} has {n_places} places of entities ([BIO] or [BIO:rna]); expected {expected}."
            raise ValueError(msg)
    return PROMPTS | dict(prompts)


def _chat_format(tokenizer: PreTrainedTokenizerBase, source: str, *, chat: bool | None) -> ChatFormat | None:
    if chat is False:
        return None
    try:
        rendered = ChatFormat.of(tokenizer)
    except ValueError as error:
        msg = f"The chat template of {source!r} cannot be used: {error} Pass chat=False to put prompts as plain text."
        raise ValueError(msg) from error
    if chat and rendered is None:
        msg = f"The tokenizer of {source!r} has no chat template; leave chat out to put prompts as plain text."
        raise ValueError(msg)
    return rendered
