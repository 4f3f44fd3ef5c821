"""The language model: any causal one of transformers, with its tokenizer, and what it is recognised by."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bioverse_sc._optional import require
from bioverse_sc._quiet import quiet_loading
from bioverse_sc._settings import settings
from bioverse_sc.models._config import Contract, ModelConfig
from bioverse_sc.models._folder import CONFIG, INSIDE, check_files, is_bundled, is_model, model_folder
from bioverse_sc.models._places import how_to_get, place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bioverse_sc.models._config import DtypeName

_SAMPLE = 64
"""Values of each weight that go into the fingerprint: enough to tell models apart, and read in no time."""


def embedding_width(language_model: Any) -> int:
    """Width of what a language model, with or without adapter, reads."""
    return int(language_model.get_input_embeddings().weight.shape[1])


def known_commit(source: str, revision: str | None) -> str | None:
    """Commit that a revision of a language model's hub repository stood for when it was loaded.

    ``None`` for a folder.
    """
    from huggingface_hub import try_to_load_from_cache

    if is_bundled(source) or Path(source).exists():
        return None
    config = try_to_load_from_cache(source, "config.json", revision=revision or "main")
    # the cache keeps a folder for each commit
    return Path(config).parent.name if isinstance(config, str) else None


def load_language_model(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: DtypeName = "float32",
    load_in_4bit: bool = False,
    device: str | None = None,
    instead: str,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model of transformers with its tokenizer; no code of a repository is run.

    Parameters
    ----------
    source
        Hub id, folder, GGUF file, or a model of this package whose own folder holds its language model.
    revision
        Branch, tag or commit of the hub repository.
    dtype
        Number format of the weights.
    load_in_4bit
        Quantise to NF4 while loading.
    device
        Where 4-bit weights are made; others stay on the CPU.
    instead
        The call to make with a downloaded copy; for the error message.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PretrainedConfig

    place = place_of(_base_folder(source), revision)
    where = place.where
    if place.gguf and load_in_4bit:
        msg = (
            f"The language model {str(source)!r} is the GGUF file {place.gguf}, which has few bits as it is; leave "
            "load_in_4bit out."
        )
        raise ValueError(msg)
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), **place.options}
    if load_in_4bit:
        options = _four_bits(device or settings.torch_device())
    # transformers may take another class of tokenizer, with more tokens, for an architecture; what we saved stays as it
    # was
    as_saved = {"config": PretrainedConfig()} if (Path(where).parent / CONFIG).is_file() else {}
    at = {"revision": revision or "main", "trust_remote_code": False}
    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(where, **at, **place.options, **as_saved)
            loaded: Any = AutoModelForCausalLM.from_pretrained(where, **at, output_loading_info=True, **options)
    except OSError as error:
        msg = (
            f"The language model {str(source)!r}{f' at {revision}' if revision else ''} could not be loaded. "
            + how_to_get(source, instead)
        )
        raise OSError(msg) from error
    language_model, report = loaded
    # transformers would leave them at random
    if missing := sorted(report["missing_keys"]):
        msg = (
            f"The checkpoint of the language model {str(source)!r} lacks {len(missing)} weights, the first is "
            f"{missing[0]}. Use a checkpoint of a causal language model."
        )
        raise ValueError(msg)
    if place.gguf:
        _forget_gguf(language_model)
    # answers are decoded greedily; a checkpoint's own penalties and sampling would be lost on saving, and change
    # answers
    language_model.generation_config = GenerationConfig.from_model_config(language_model.config)
    return language_model, tokenizer


def _forget_gguf(language_model: Any) -> None:
    """The weights were made float on loading, but transformers goes on taking them for quantised ones."""
    language_model.is_quantized = False
    language_model.hf_quantizer = None
    for config in (language_model.config, language_model.config.get_text_config()):
        if hasattr(config, "quantization_config"):
            del config.quantization_config


def _base_folder(source: str | Path) -> str:
    """What transformers is given: a model of this package stands for the language model in its folder."""
    if not is_model(source):
        return str(source)
    folder = model_folder(source)
    check_files(folder)
    if (elsewhere := ModelConfig.read(folder / CONFIG).language_model) != INSIDE:
        msg = f"The model in {folder} does not hold its language model; pass {elsewhere!r} itself."
        raise ValueError(msg)
    return str(folder / INSIDE)


def _four_bits(device: str) -> dict[str, Any]:
    """Options of ``from_pretrained``.

    The norms and embeddings that stay as they are take the format of the computation.
    """
    from transformers import BitsAndBytesConfig

    require("bitsandbytes", "quantized")
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"dtype": torch.bfloat16, "quantization_config": quantization, "device_map": {"": device}}


def is_quantized(language_model: Any) -> bool:
    """Whether a language model, with or without adapter, holds its weights in fewer bits."""
    return bool(getattr(language_model, "is_quantized", False))


def with_adapter(language_model: PreTrainedModel, folder: Path, *, merge: bool) -> Any:
    """A language model with the LoRA weights of a folder around its layers, or merged into them."""
    from peft import PeftModel

    with quiet_loading():
        wrapped = PeftModel.from_pretrained(language_model, str(folder))
    return wrapped.merge_and_unload() if merge else wrapped


def contract_of(language_model: Any, tokenizer: PreTrainedTokenizerBase, *formats: torch.dtype) -> Contract:
    """What a model stands on, as hashes; ``formats`` as in :func:`base_fingerprint`."""
    return Contract(vocabulary_hash(tokenizer), base_fingerprint(language_model, *formats))


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of all tokens with their ids."""
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:16]


def base_fingerprint(language_model: Any, *formats: torch.dtype) -> str:
    """Hash of names, shapes and first values of the base language model's parameters; ``""`` for a quantised one.

    It is the same with and without an adapter around it, and for a checkpoint loaded as float32 and as bfloat16.

    Parameters
    ----------
    language_model
        A model of transformers, or of peft.
    formats
        Number formats that the weights go through before they are loaded again.
    """
    if is_quantized(language_model):
        return ""
    digest = hashlib.sha256()
    for name, parameter in sorted(base_tensors(language_model.named_parameters())):
        if parameter.is_floating_point():
            sample = parameter.detach().flatten()[:_SAMPLE]
            for dtype in (*formats, torch.bfloat16):
                sample = sample.to(dtype)
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            # numpy has no bfloat16
            digest.update(sample.cpu().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def base_tensors(named: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of the base language model under its own names, without those of an adapter around its layers."""
    for name, tensor in named:
        if "lora_" not in name and ".modules_to_save." not in name:
            bare = name.removeprefix("base_model.model.")
            yield bare.replace(".base_layer.", ".").replace(".original_module.", "."), tensor
