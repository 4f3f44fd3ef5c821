"""Save and load a model as a folder of safetensors and JSON; ``_folder`` says what is in it."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from bioverse_sc._quiet import undisturbed
from bioverse_sc.encoders import StoredEncoder, restore
from bioverse_sc.facts import Memory
from bioverse_sc.models._bioverse import BioVerse, ready
from bioverse_sc.models._config import FORMAT_VERSION, ModelConfig
from bioverse_sc.models._folder import (
    ADAPTER,
    CHECKSUMS,
    CONFIG,
    ENCODERS,
    INSIDE,
    MEMORY,
    PROJECTORS,
    REFERENCE,
    check_files,
    model_folder,
    write_checksums,
)
from bioverse_sc.models._language_model import (
    base_fingerprint,
    base_tensors,
    contract_of,
    embedding_width,
    is_quantized,
    known_commit,
    load_language_model,
    with_adapter,
)
from bioverse_sc.models._projector import Projector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import PreTrainedTokenizerBase

    from bioverse_sc.encoders import Encoder


@undisturbed()
def load(
    model: str | Path = "mini",
    *,
    revision: str | None = None,
    language_model: str | Path | None = None,
    device: str | None = None,
    merge_adapter: bool = True,
    load_in_4bit: bool = False,
) -> BioVerse:
    """Load a model.

    That its parts fit together is checked: widths, encoders, the tokenizer's vocabulary, samples of the language
    model's weights.

    Parameters
    ----------
    model
        Name of a bundled model, path of a saved one, or a hub repository ``"owner/name"``. A folder wins over a
        repository.
    revision
        Branch, tag or commit of the hub repository.
    language_model
        Hub id or folder of the base language model, where it is not where the model has it from: a copy on a machine
        without access to the hub. A saved copy of the model still names the first place.
    device
        Torch device; ``bsc.settings.device`` by default.
    merge_adapter
        Add the LoRA weights into the language model, which is faster. Keep them apart to train on. An adapter of a
        language model in 4 bits always stays apart, since the sum would be rounded to 4 bits.
    load_in_4bit
        Read the language model in 4 bits (NF4 with double quantisation, Dettmers et al. 2023, QLoRA), computing in
        bfloat16; it needs about a quarter of the memory. Its weights are not compared with those of training.

    Raises
    ------
    ValueError
        For an unknown name, an altered file, or parts that do not fit together; all that differs is listed.
    FileNotFoundError
        For a missing file, or a repository that cannot be fetched.
    OSError
        When the base language model cannot be loaded.
    ImportError
        When ``load_in_4bit`` lacks its package.
    """
    folder = model_folder(model, revision)
    check_files(folder)
    config = ModelConfig.read(folder / CONFIG)
    if language_model is not None:
        source, commit = language_model, None
    elif config.language_model == INSIDE:
        source, commit = folder / INSIDE, None
    else:
        source, commit = config.language_model, config.language_model_revision
    base, tokenizer = load_language_model(
        source,
        revision=commit,
        dtype=config.dtype,
        load_in_4bit=load_in_4bit,
        device=device,
        instead=f"bsc.models.load({str(model)!r}, language_model=FOLDER)",
    )
    if language_model is None and config.language_model != INSIDE:
        config = replace(config, language_model_revision=known_commit(config.language_model, commit) or commit)
    part = _parts(folder, config.shared_with)
    encoders: dict[str, Encoder] = {}
    for mod, shape in config.projectors.items():
        encoder = restore(shape.encoder, part(f"{ENCODERS}/{mod}"))
        if encoder is not None:
            encoders[mod] = encoder
    projectors = load_file(folder / PROJECTORS)
    _check_contract(config, base, tokenizer, encoders, projectors, folder)
    reference = json.loads(part(REFERENCE).read_text(encoding="utf-8")) if part(REFERENCE).is_file() else {}
    genes = {gene: (mean, weight) for gene, (mean, weight) in reference.items()}
    paths = {mod: part(f"{MEMORY}/{mod}.tsv.xz") for mod in config.projectors}
    memory = {mod: Memory(mod, path) for mod, path in paths.items() if path.is_file()}
    loaded = BioVerse(config, base, tokenizer, encoders, genes, memory)
    # the untrained projector takes its size from the base model's embeddings, so it comes before the adapter
    loaded.projectors.load_state_dict(projectors)
    if (folder / ADAPTER).is_dir():
        merge = merge_adapter and not is_quantized(base)
        loaded.language_model = with_adapter(base, folder / ADAPTER, merge=merge)
        loaded.has_merged_adapter = merge
    loaded.fingerprint = hashlib.sha256((folder / CHECKSUMS).read_bytes()).hexdigest()[:16]
    return ready(loaded, device)


def _parts(folder: Path, shared_with: str) -> Callable[[str], Path]:
    """Where a part of a model lies: in its own folder, or in that of the bundled model that it shares parts with."""
    other = model_folder(shared_with) if shared_with else folder
    return lambda name: folder / name if (folder / name).exists() else other / name


def _check_contract(
    config: ModelConfig,
    language_model: Any,
    tokenizer: PreTrainedTokenizerBase,
    encoders: Mapping[str, Encoder],
    projectors: Mapping[str, torch.Tensor],
    folder: Path,
) -> None:
    """Raise when the trained parts were trained on something else, with everything that differs."""
    of_language_model, of_encoders, of_projectors = [], [], []
    contract = contract_of(language_model, tokenizer)
    for named, expected, present in (
        ("the tokenizer's vocabulary", config.contract.vocabulary, contract.vocabulary),
        ("the language model's weights", config.contract.weights, contract.weights),
    ):
        if expected and present and expected != present:
            of_language_model.append(f"{named}: expected {expected}, found {present}")
    width = embedding_width(language_model)
    shapes: dict[str, tuple[int, ...]] = {}
    for mod, shape in config.projectors.items():
        if shape.out_width != width:
            of_language_model.append(
                f"width of the language model, for the {mod} projector: expected {shape.out_width}, found {width}"
            )
        if encoder := encoders.get(mod):
            if encoder.width != shape.in_width:
                of_encoders.append(f"width of the {mod} encoder: expected {shape.in_width}, found {encoder.width}")
            if shape.encoder_fingerprint not in ("", encoder.fingerprint):
                of_encoders.append(
                    f"the {mod} projector was trained for encoder {shape.encoder!r} {shape.encoder_fingerprint}, found "
                    f"{encoder.fingerprint}"
                )
        with torch.device("meta"):
            for name, tensor in Projector(shape).state_dict().items():
                shapes[f"{mod}.{name}"] = tuple(tensor.shape)
    for name in sorted(shapes.keys() | projectors.keys()):
        wanted = shapes.get(name, "no such tensor")
        got = tuple(projectors[name].shape) if name in projectors else "none"
        if wanted != got:
            of_projectors.append(f"{name} in {PROJECTORS}: expected {wanted}, found {got}")
    pinned = f" at revision {config.language_model_revision}" if config.language_model_revision else ""
    advice = {
        f"Use the language model and the tokenizer that it was trained with, {config.language_model!r}{pinned}: "
        "download that revision, and pass its folder as language_model.": of_language_model,
        "Register the encoder that it was trained with: bsc.encoders.register().": of_encoders,
        "Copy the whole folder again.": of_projectors,
    }
    if any(advice.values()):
        listed = "\n".join(f"- {line}" for lines in advice.values() for line in lines)
        msg = f"The model in {folder} does not fit what it stands on:\n{listed}\n" + " ".join(
            remedy for remedy, lines in advice.items() if lines
        )
        raise ValueError(msg)


@undisturbed()
def save(
    model: BioVerse,
    folder: str | Path,
    *,
    include_language_model: bool | None = None,
    shared_with: str | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Save what was trained, and on request what it stands on.

    A model is written beside its place and moved there when it is whole.

    Parameters
    ----------
    model
        The model.
    folder
        New or empty folder.
    include_language_model
        Whether the base language model and its tokenizer go into the folder; by default when it has no hub id or path.
    shared_with
        Bundled model whose encoders, gene reference and memories this one has: they are not written again, so that the
        folder needs this package beside it.
    dtype
        Number format of all weights in the folder; by default the language model keeps its own, and the others are
        written as float32.

    Raises
    ------
    FileExistsError
        When the folder is not empty.
    ValueError
        For weights that are NaN or infinite, for a model that could not be loaded again from what would be written, and
        when it has an encoder that ``shared_with`` has not.
    """
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"{folder} is not empty; save to a new folder."
        raise FileExistsError(msg)
    inside = model.config.language_model == INSIDE if include_language_model is None else include_language_model
    _check_can_be_saved(model, inside=inside)
    fresh = folder.with_name(f".{folder.name}.new")
    # left by a save that was killed
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        _write(model, fresh, inside=inside, shared_with=shared_with or "", dtype=dtype)
        if folder.exists():
            folder.rmdir()
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _check_can_be_saved(model: BioVerse, *, inside: bool) -> None:
    """Raise when the language model would be missing from what is saved, or cannot be written."""
    config = model.config
    if inside and is_quantized(model.language_model):
        msg = (
            "The language model is loaded in 4 bits, which cannot be saved. Load it without load_in_4bit, or make the "
            "model from a language model with a hub id or a folder of its own, and save with "
            "include_language_model=False."
        )
        raise ValueError(msg)
    if inside:
        return
    if config.language_model == INSIDE:
        msg = "The language model has no hub id or folder of its own; save with include_language_model=True."
        raise ValueError(msg)
    if model.has_merged_adapter:
        msg = (
            "The adapter of this model is merged into its language model, which would not be saved. Load it with "
            "merge_adapter=False, or save with include_language_model=True."
        )
        raise ValueError(msg)
    now = base_fingerprint(model.language_model, getattr(torch, config.dtype))
    if config.contract.weights and now not in ("", config.contract.weights):
        msg = (
            f"The language model's own weights are no longer those of {config.language_model!r}, and would not be "
            "saved. Save with include_language_model=True."
        )
        raise ValueError(msg)


def _write(model: BioVerse, folder: Path, *, inside: bool, shared_with: str, dtype: torch.dtype | None) -> None:
    from peft import PeftModel

    language_model = model.language_model
    read_as = getattr(torch, model.config.dtype)
    if inside:
        config = replace(model.config, language_model=INSIDE, language_model_revision=None)
        _save_base(language_model, model.tokenizer, folder / INSIDE, dtype)
        contract = contract_of(language_model, model.tokenizer, *([dtype] if dtype else []), read_as)
    else:
        config = model.config
        contract = contract_of(language_model, model.tokenizer, read_as)
    # a language model in 4 bits does not know its weights, but what it was loaded for does
    contract = replace(contract, weights=contract.weights or config.contract.weights)
    config = replace(
        config,
        contract=contract,
        shared_with=shared_with,
        package_version=version("bioverse-sc"),
        format_version=FORMAT_VERSION,
    )
    if isinstance(language_model, PeftModel):
        _save_adapter(language_model, folder / ADAPTER, config.language_model, dtype)
    for mod, encoder in model.encoders.items():
        fingerprint = encoder.fingerprint
        if shared_with:
            _check_shared(shared_with, mod, fingerprint)
        elif isinstance(encoder, StoredEncoder):
            encoder.save(folder / ENCODERS / mod, dtype=dtype or torch.float32)
            fingerprint = type(encoder).from_folder(folder / ENCODERS / mod).fingerprint
        shape = replace(config.projectors[mod], encoder=encoder.name, encoder_fingerprint=fingerprint)
        config = replace(config, projectors={**config.projectors, mod: shape})
    config.write(folder / CONFIG)
    projectors = {k: v.to(dtype or v.dtype).contiguous().cpu() for k, v in model.projectors.state_dict().items()}
    _check_finite(projectors)
    save_file(projectors, folder / PROJECTORS)
    if model.gene_reference and not shared_with:
        rounded = {gene: [float(f"{v:.4g}") for v in values] for gene, values in model.gene_reference.items()}
        (folder / REFERENCE).write_text(json.dumps(rounded, indent=0) + "\n", encoding="utf-8")
    for mod, memory in ({} if shared_with else model.memory).items():
        (folder / MEMORY).mkdir(exist_ok=True)
        memory.write(folder / MEMORY / f"{mod}.tsv.xz")
    write_checksums(folder)


def _check_shared(shared_with: str, mod: str, fingerprint: str) -> None:
    """Raise when another model has not the encoder that a model was trained for."""
    shapes = ModelConfig.read(model_folder(shared_with) / CONFIG).projectors
    there = shapes[mod].encoder_fingerprint if mod in shapes else "none"
    if there != fingerprint:
        msg = (
            f"The {mod} encoder {fingerprint} is not that of {shared_with!r}, which is {there}; save without "
            "shared_with."
        )
        raise ValueError(msg)


def _check_finite(weights: Mapping[str, torch.Tensor]) -> None:
    bad = [name for name, v in weights.items() if v.is_floating_point() and not bool(v.isfinite().all())]
    if bad:
        msg = (
            f"{len(bad)} weights hold NaN or infinite values, the first is {bad[0]}; nothing was saved. Train again "
            "with a lower learning rate, or save in a number format of a wider range than the one asked for."
        )
        raise ValueError(msg)


def _save_base(
    language_model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype | None
) -> None:
    """Write the language model without the adapter that may be wrapped around its layers."""
    from peft import PeftModel

    base: Any = language_model.get_base_model() if isinstance(language_model, PeftModel) else language_model
    weights: dict[str, torch.Tensor] = {}
    written = set()
    for name, tensor in base_tensors(base.state_dict().items()):
        # tied weights are written once, and tied again by the configuration
        if (place := (tensor.data_ptr(), tensor.shape)) not in written:
            written.add(place)
            stored = tensor.detach().to(dtype) if dtype and tensor.is_floating_point() else tensor.detach()
            weights[name] = stored.contiguous().cpu()
    _check_finite(weights)
    folder.mkdir(parents=True)
    base.config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(str(folder))


def _save_adapter(language_model: Any, folder: Path, base: str, dtype: torch.dtype | None) -> None:
    """Write the LoRA weights, with the name of the language model that they are for."""
    _check_finite({n: p for n, p in language_model.named_parameters() if "lora_" in n})
    # the vocabulary is never changed, so peft need not ask the hub whether it was
    language_model.save_pretrained(str(folder), save_embedding_layers=False)
    # an empty form that peft adds
    (folder / "README.md").unlink(missing_ok=True)
    if dtype:
        weights = folder / "adapter_model.safetensors"
        save_file({k: v.to(dtype) for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    # peft puts a path of this machine into its configuration
    config = folder / "adapter_config.json"
    stored = json.loads(config.read_text(encoding="utf-8"))
    stored["base_model_name_or_path"] = base
    config.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")
