"""Save and load a model as a folder of safetensors and JSON.

The folder::

    bioverse.json         shapes, label set, temperature, format version
    projectors.safetensors
    encoders/rna/         an encoder's checkpoint, when it travels with the model
    language_model/       a language model with its tokenizer, when it travels with the model
    adapter/              LoRA weights, when there are any
    gene_reference.json   mean expression of each gene over many cell types, and its weight
    checksums.json        SHA-256 of every other file
"""

from __future__ import annotations

import hashlib
import json
import warnings
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from bioverse_sc.encoders import StoredEncoder
from bioverse_sc.models._bioverse import BioVerse
from bioverse_sc.models._config import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bioverse_sc.encoders import CellEncoder

CONFIG = "bioverse.json"
PROJECTORS = "projectors.safetensors"
CHECKSUMS = "checksums.json"
REFERENCE = "gene_reference.json"
INSIDE = "language_model"


def bundled_models() -> list[str]:
    """Names of the models that ship in the package."""
    folder = Path(str(files("bioverse_sc") / "bundled"))
    return sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))


def model_folder(model: str | Path) -> Path:
    """Resolve a bundled name or a path to a model's folder."""
    path = Path(model)
    if isinstance(model, str) and model in bundled_models():
        return Path(str(files("bioverse_sc") / "bundled" / model))
    if not path.is_dir():
        msg = (
            f"There is no model {str(model)!r}: it is neither one that ships with the package ({', '.join(bundled_models())}) "
            "nor a folder that bsc.models.save() wrote."
        )
        raise ValueError(msg)
    return path


def load(model: str | Path = "mini", *, device: str | None = None, merge_adapter: bool = True) -> BioVerse:
    """Load a model.

    Parameters
    ----------
    model
        Name of a bundled model, or the path of a saved one.
    device
        Torch device; ``bsc.settings.device`` by default.
    merge_adapter
        Add the LoRA weights into the language model, which is faster. Keep them apart to train on.

    Raises
    ------
    ValueError
        For an unknown name, an altered file, or parts that do not fit together.
    FileNotFoundError
        For a missing file.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from bioverse_sc._settings import settings
    from bioverse_sc.encoders._registry import restore

    folder = model_folder(model)
    check_files(folder)
    config = ModelConfig.read(folder / CONFIG)
    source = str(folder / INSIDE) if config.language_model == INSIDE else config.language_model
    try:
        revision = config.language_model_revision or "main"
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        with _no_loading_bar():
            language_model = AutoModelForCausalLM.from_pretrained(source, revision=revision, dtype=torch.float32)
    except OSError as error:
        msg = (
            f"The language model {source!r} of {folder.name!r} could not be loaded. Without access to the hub, download it "
            f"elsewhere and set 'language_model' in {folder / CONFIG} to its folder (config.json, *.safetensors, tokenizer.json)."
        )
        raise OSError(msg) from error
    encoders: dict[str, CellEncoder] = {}
    for modality, shape in config.projectors.items():
        encoder_folder = folder / "encoders" / modality
        encoder = restore(shape.encoder, encoder_folder)
        if encoder is None:
            continue
        if shape.encoder_fingerprint not in ("", encoder.fingerprint):
            msg = (
                f"The {modality} projector was trained for encoder {shape.encoder_fingerprint}, but "
                f"{'the folder holds' if encoder_folder.is_dir() else f'{shape.encoder!r} is now'} {encoder.fingerprint}."
            )
            raise ValueError(msg)
        encoders[modality] = encoder
    reference = json.loads((folder / REFERENCE).read_text(encoding="utf-8")) if (folder / REFERENCE).is_file() else {}
    genes = {gene: (mean, weight) for gene, (mean, weight) in reference.items()}
    loaded = BioVerse(config, language_model, tokenizer, encoders, genes)
    # the untrained projector takes its size from the base model's embeddings, so it comes before the adapter
    loaded.projectors.load_state_dict(load_file(folder / PROJECTORS))
    if (folder / "adapter").is_dir():
        loaded.language_model = _with_adapter(loaded.language_model, folder / "adapter", merge=merge_adapter)
        loaded.has_merged_adapter = merge_adapter
    loaded.fingerprint = hashlib.sha256((folder / CHECKSUMS).read_bytes()).hexdigest()[:16]
    device = device or settings.torch_device()
    loaded.to(device)
    for encoder in loaded.encoders.values():
        encoder.to(device)
    return loaded.eval().requires_grad_(requires_grad=False)


@contextmanager
def _no_loading_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar for weights that load in a moment."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _with_adapter(language_model: PreTrainedModel, folder: Path, *, merge: bool) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        # peft asks transformers 5 for an attribute by its old name
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        wrapped = PeftModel.from_pretrained(language_model, str(folder))
    return wrapped.merge_and_unload() if merge else wrapped


def save(
    model: BioVerse,
    folder: str | Path,
    *,
    include_language_model: bool | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Save what was trained, and on request what it stands on.

    Parameters
    ----------
    model
        The model.
    folder
        New or empty folder.
    include_language_model
        Whether the base language model and its tokenizer go into the folder; by default when it has no hub id or path.
    dtype
        Number format of the language model and of the encoders in the folder.
    """
    from peft import PeftModel

    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        msg = f"{folder} is not empty; save to a new folder."
        raise FileExistsError(msg)
    inside = model.config.language_model == INSIDE if include_language_model is None else include_language_model
    if model.has_merged_adapter and not inside:
        msg = (
            "The adapter of this model is merged into its language model, which would not be saved. Load it with "
            "merge_adapter=False, or save with include_language_model=True."
        )
        raise ValueError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(model.config, language_model=INSIDE) if inside else model.config
    language_model = model.language_model
    if isinstance(language_model, PeftModel):
        language_model.save_pretrained(str(folder / "adapter"))
        base_name = INSIDE if inside else model.config.language_model
        # an empty form that peft adds
        (folder / "adapter" / "README.md").unlink(missing_ok=True)
        _set_base(folder / "adapter" / "adapter_config.json", base_name)
    if inside:
        _save_base(language_model, model.tokenizer, folder / INSIDE, dtype)
    for modality, encoder in model.encoders.items():
        fingerprint = encoder.fingerprint
        if isinstance(encoder, StoredEncoder):
            encoder.save(folder / "encoders" / modality, dtype=dtype)
            fingerprint = type(encoder).from_folder(folder / "encoders" / modality).fingerprint
        shape = replace(config.projectors[modality], encoder=encoder.name, encoder_fingerprint=fingerprint)
        config = replace(config, projectors={**config.projectors, modality: shape})
    config.write(folder / CONFIG)
    save_file({k: v.contiguous().cpu() for k, v in model.projectors.state_dict().items()}, folder / PROJECTORS)
    if model.gene_reference:
        rounded = {gene: [float(f"{v:.4g}") for v in values] for gene, values in model.gene_reference.items()}
        (folder / REFERENCE).write_text(json.dumps(rounded, indent=0) + "\n", encoding="utf-8")
    write_checksums(folder)


def _save_base(
    language_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype
) -> None:
    """Write the language model without the adapter that may be wrapped around its layers."""
    from peft import PeftModel

    base = language_model.get_base_model() if isinstance(language_model, PeftModel) else language_model
    weights = {}
    for name, tensor in base.state_dict().items():
        if "lora_" not in name:
            weights[name.replace(".base_layer.", ".")] = tensor
    folder.mkdir(parents=True)
    base.config.save_pretrained(folder)
    if base.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    save_file(
        {k: v.detach().to(dtype).contiguous().cpu() for k, v in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    tokenizer.save_pretrained(str(folder))


def _set_base(path: Path, name: str) -> None:
    """Put the base model's name, and no path of this machine, into peft's configuration."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    stored["base_model_name_or_path"] = name
    path.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a model's folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (CHECKSUMS, "README.md")
    }


def write_checksums(folder: Path) -> None:
    """Record the hashes of all files."""
    (folder / CHECKSUMS).write_text(json.dumps(file_hashes(folder), indent=1) + "\n", encoding="utf-8")


def check_files(folder: Path) -> None:
    """Raise when a file of a saved model is missing or altered."""
    if not (folder / CHECKSUMS).is_file():
        msg = f"{folder} is not a saved model: it lacks {CHECKSUMS}. Save one with bsc.models.save(model, folder)."
        raise FileNotFoundError(msg)
    recorded: dict[str, str] = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    if missing := [name for name in recorded if not (folder / name).is_file()]:
        msg = f"The model in {folder} is incomplete: it lacks {', '.join(missing)}. Copy the whole folder again."
        raise FileNotFoundError(msg)
    present = file_hashes(folder)
    if altered := [name for name, value in recorded.items() if present[name] != value]:
        msg = f"The model in {folder} is damaged: {', '.join(altered)} differ from {CHECKSUMS}. Copy the whole folder again."
        raise ValueError(msg)
