"""Save and load a model as a folder of safetensors and JSON.

The folder::

    bioverse.json         shapes, label set, prompts, temperature, what the parts were trained on, format version
    projectors.safetensors
    encoders/rna/         an encoder's checkpoint, when it travels with the model
    language_model/       a language model with its tokenizer, when it travels with the model
    adapter/              LoRA weights, when there are any
    gene_reference.json   mean expression of each gene over many cell types, and its weight
    memory/               known proteins and molecules with their texts, for retrieve=True
    checksums.json        SHA-256 of every other file
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from bioverse_sc._cache import file_hash
from bioverse_sc._optional import require
from bioverse_sc._quiet import quiet_loading, undisturbed
from bioverse_sc._settings import settings
from bioverse_sc.encoders import StoredEncoder
from bioverse_sc.encoders._registry import restore
from bioverse_sc.models._bioverse import BioVerse
from bioverse_sc.models._config import FORMAT_VERSION, Contract, ModelConfig
from bioverse_sc.models._memory import Memory
from bioverse_sc.models._projector import Projector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bioverse_sc.encoders import CellEncoder
    from bioverse_sc.models._config import DtypeName

CONFIG = "bioverse.json"
PROJECTORS = "projectors.safetensors"
CHECKSUMS = "checksums.json"
REFERENCE = "gene_reference.json"
MEMORY = "memory"
INSIDE = "language_model"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SAMPLE = 64
"""Values of each weight that go into the fingerprint: enough to tell models apart, and read in no time."""


def bundled_models() -> list[str]:
    """Names of the models that ship in the package."""
    folder = Path(str(files("bioverse_sc") / "bundled"))
    return sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))


def model_folder(model: str | Path, revision: str | None = None) -> Path:
    """Resolve a bundled name, a path or a hub id to a model's folder; what is not on this machine yet is fetched.

    Parameters
    ----------
    model
        Name of a bundled model, path of a saved one, or its repository on the hub.
    revision
        Branch, tag or commit there.
    """
    path = Path(model)
    here = Path(str(files("bioverse_sc") / "bundled" / model)) if _is_bundled(model) else path
    if here.is_dir():
        if revision is not None:
            msg = f"{str(model)!r} is a folder, which has no revision {revision!r}; leave revision out."
            raise ValueError(msg)
        return here
    if isinstance(model, str) and _HUB_ID.fullmatch(model):
        return _fetch(model, revision)
    msg = (
        f"There is no model {str(model)!r}: it is neither one that ships with the package "
        f"({', '.join(bundled_models())}), "
        "nor a folder that bsc.models.save() wrote, nor a hub repository such as 'owner/name'."
    )
    raise ValueError(msg)


def _is_bundled(model: str | Path) -> bool:
    return isinstance(model, str) and model in bundled_models()


def _fetch(repository: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    at = f" at {revision}" if revision else ""
    try:
        # asked for first, so that a language model's many gigabytes are not fetched in vain
        hf_hub_download(repository, CHECKSUMS, revision=revision)
        return Path(snapshot_download(repository, revision=revision))
    except _hub_errors() as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            msg = (
                f"The hub repository {repository!r}{at} holds no model of bioverse-sc: it lacks {CHECKSUMS}. "
                f"bsc.models.create({repository!r}, ...) makes a new model from a language model."
            )
        else:
            msg = (
                f"The hub repository {repository!r}{at} could not be fetched ({type(error).__name__}), and there is "
                "no folder "
                "of that name. If its name is right and this machine has no access to the hub, download it elsewhere "
                f"(hf download {repository}{f' --revision {revision}' if revision else ''} --local-dir FOLDER), and "
                "pass the "
                "folder."
            )
        raise FileNotFoundError(msg) from error


def _hub_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises.

    It lets errors of its HTTP library through, which is another one in each major version.
    """
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    http = [base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError" and issubclass(base, Exception)]
    return (OSError, EntryNotFoundError, HFValidationError, *http)


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
    encoders: dict[str, CellEncoder] = {}
    for modality, shape in config.projectors.items():
        encoder = restore(shape.encoder, folder / "encoders" / modality)
        if encoder is not None:
            encoders[modality] = encoder
    projectors = load_file(folder / PROJECTORS)
    _check_contract(config, base, tokenizer, encoders, projectors, folder)
    reference = json.loads((folder / REFERENCE).read_text(encoding="utf-8")) if (folder / REFERENCE).is_file() else {}
    genes = {gene: (mean, weight) for gene, (mean, weight) in reference.items()}
    paths = {modality: folder / MEMORY / f"{modality}.tsv.xz" for modality in config.projectors}
    memory = {modality: Memory(modality, path) for modality, path in paths.items() if path.is_file()}
    loaded = BioVerse(config, base, tokenizer, encoders, genes, memory)
    # the untrained projector takes its size from the base model's embeddings, so it comes before the adapter
    loaded.projectors.load_state_dict(projectors)
    if (folder / "adapter").is_dir():
        merge = merge_adapter and not is_quantized(base)
        loaded.language_model = _with_adapter(base, folder / "adapter", merge=merge)
        loaded.has_merged_adapter = merge
    loaded.fingerprint = hashlib.sha256((folder / CHECKSUMS).read_bytes()).hexdigest()[:16]
    return ready(loaded, device)


def ready(model: BioVerse, device: str | None) -> BioVerse:
    """Put a new model and its encoders on the device, frozen and in evaluation mode."""
    device = device or settings.torch_device()
    model.to(device)
    for encoder in model.encoders.values():
        encoder.to(device)
    return model.eval().requires_grad_(requires_grad=False)


def known_commit(source: str, revision: str | None) -> str | None:
    """Commit that a revision of a language model's hub repository stood for when it was loaded.

    ``None`` for a folder.
    """
    from huggingface_hub import try_to_load_from_cache

    if _is_bundled(source) or Path(source).exists():
        return None
    found = try_to_load_from_cache(source, "config.json", revision=revision or "main")
    # the cache keeps a folder for each commit
    return Path(found).parent.name if isinstance(found, str) else None


def embedding_width(language_model: Any) -> int:
    """Width of what a language model, with or without adapter, reads."""
    return int(language_model.get_input_embeddings().weight.shape[1])


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
        Hub id, folder, or a model of this package whose own folder holds its language model.
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

    where = _base_folder(source)
    options: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if load_in_4bit:
        options = _four_bits(device or settings.torch_device())
    # transformers may take another class of tokenizer, with more tokens, for an architecture; what we saved stays as it
    # was
    as_saved = {"config": PretrainedConfig()} if (Path(where).parent / CONFIG).is_file() else {}
    at = revision or "main"
    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(where, revision=at, trust_remote_code=False, **as_saved)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                where, revision=at, trust_remote_code=False, output_loading_info=True, **options
            )
    except OSError as error:
        msg = (
            f"The language model {str(source)!r}{f' at {revision}' if revision else ''} could not be loaded. If its "
            "name is right "
            "and this machine has no access to the hub, download it elsewhere (config.json, *.safetensors, "
            "tokenizer.json), and "
            f"pass its folder: {instead}"
        )
        raise OSError(msg) from error
    language_model, report = loaded
    # transformers would leave them at random
    if missing := sorted(report["missing_keys"]):
        msg = (
            f"The checkpoint of the language model {str(source)!r} lacks {len(missing)} weights, the first is "
            f"{missing[0]}. "
            "Use a checkpoint of a causal language model."
        )
        raise ValueError(msg)
    # answers are decoded greedily; a checkpoint's own penalties and sampling would be lost on saving, and change
    # answers
    language_model.generation_config = GenerationConfig.from_model_config(language_model.config)
    return language_model, tokenizer


def is_model(source: str | Path) -> bool:
    """Whether this is a model of this package, and here.

    Parameters
    ----------
    source
        Name of a bundled model, or a folder.
    """
    return _is_bundled(source) or (Path(source) / CONFIG).is_file()


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


def _with_adapter(language_model: PreTrainedModel, folder: Path, *, merge: bool) -> Any:
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
    for name, parameter in sorted(_base_tensors(language_model.named_parameters())):
        if parameter.is_floating_point():
            sample = parameter.detach().flatten()[:_SAMPLE]
            for dtype in (*formats, torch.bfloat16):
                sample = sample.to(dtype)
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            # numpy has no bfloat16
            digest.update(sample.cpu().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def _base_tensors(named: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of the base language model under its own names, without those of an adapter around its layers."""
    for name, tensor in named:
        if "lora_" not in name and ".modules_to_save." not in name:
            bare = name.removeprefix("base_model.model.")
            yield bare.replace(".base_layer.", ".").replace(".original_module.", "."), tensor


def _check_contract(
    config: ModelConfig,
    language_model: Any,
    tokenizer: PreTrainedTokenizerBase,
    encoders: Mapping[str, CellEncoder],
    projectors: Mapping[str, torch.Tensor],
    folder: Path,
) -> None:
    """Raise when the trained parts were trained on something else, with everything that differs."""
    of_language_model, of_encoders, of_projectors = [], [], []
    found = contract_of(language_model, tokenizer)
    for what, expected, here in (
        ("the tokenizer's vocabulary", config.contract.vocabulary, found.vocabulary),
        ("the language model's weights", config.contract.weights, found.weights),
    ):
        if expected and here and expected != here:
            of_language_model.append(f"{what}: expected {expected}, found {here}")
    width = embedding_width(language_model)
    shapes: dict[str, tuple[int, ...]] = {}
    for modality, shape in config.projectors.items():
        if shape.out_width != width:
            of_language_model.append(
                f"width of the language model, for the {modality} projector: expected {shape.out_width}, found {width}"
            )
        if encoder := encoders.get(modality):
            if encoder.width != shape.in_width:
                of_encoders.append(f"width of the {modality} encoder: expected {shape.in_width}, found {encoder.width}")
            if shape.encoder_fingerprint not in ("", encoder.fingerprint):
                of_encoders.append(
                    f"the {modality} projector was trained for encoder {shape.encoder!r} {shape.encoder_fingerprint}, "
                    f"found {encoder.fingerprint}"
                )
        with torch.device("meta"):
            for name, tensor in Projector(shape).state_dict().items():
                shapes[f"{modality}.{name}"] = tuple(tensor.shape)
    for name in sorted(shapes.keys() | projectors.keys()):
        wanted = shapes.get(name, "no such tensor")
        got = tuple(projectors[name].shape) if name in projectors else "none"
        if wanted != got:
            of_projectors.append(f"{name} in {PROJECTORS}: expected {wanted}, found {got}")
    pinned = f" at revision {config.language_model_revision}" if config.language_model_revision else ""
    advice = {
        f"Use the language model and the tokenizer that it was trained with, {config.language_model!r}{pinned}: "
        "download that "
        "revision, and pass its folder as language_model.": of_language_model,
        "Register the encoder that it was trained with: bsc.encoders.register().": of_encoders,
        "Copy the whole folder again.": of_projectors,
    }
    if any(advice.values()):
        listed = "\n".join(f"- {line}" for lines in advice.values() for line in lines)
        msg = f"The model in {folder} does not fit what it stands on:\n{listed}\n" + " ".join(
            what for what, lines in advice.items() if lines
        )
        raise ValueError(msg)


@undisturbed()
def save(
    model: BioVerse,
    folder: str | Path,
    *,
    include_language_model: bool | None = None,
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
    dtype
        Number format of all weights in the folder; by default the language model keeps its own, and the others are
        written as float32.

    Raises
    ------
    FileExistsError
        When the folder is not empty.
    ValueError
        For weights that are NaN or infinite, and for a model that could not be loaded again from what would be written.
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
        _write(model, fresh, inside=inside, dtype=dtype)
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
            "model from "
            "a language model with a hub id or a folder of its own, and save with include_language_model=False."
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
            "saved. Save "
            "with include_language_model=True."
        )
        raise ValueError(msg)


def _write(model: BioVerse, folder: Path, *, inside: bool, dtype: torch.dtype | None) -> None:
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
    config = replace(config, contract=contract, package_version=version("bioverse-sc"), format_version=FORMAT_VERSION)
    if isinstance(language_model, PeftModel):
        _check_finite({n: p for n, p in language_model.named_parameters() if "lora_" in n})
        # the vocabulary is never changed, so peft need not ask the hub whether it was
        language_model.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
        # an empty form that peft adds
        (folder / "adapter" / "README.md").unlink(missing_ok=True)
        if dtype:
            weights = folder / "adapter" / "adapter_model.safetensors"
            save_file({k: v.to(dtype) for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
        _set_base(folder / "adapter" / "adapter_config.json", config.language_model)
    for modality, encoder in model.encoders.items():
        fingerprint = encoder.fingerprint
        if isinstance(encoder, StoredEncoder):
            encoder.save(folder / "encoders" / modality, dtype=dtype or torch.float32)
            fingerprint = type(encoder).from_folder(folder / "encoders" / modality).fingerprint
        shape = replace(config.projectors[modality], encoder=encoder.name, encoder_fingerprint=fingerprint)
        config = replace(config, projectors={**config.projectors, modality: shape})
    config.write(folder / CONFIG)
    projectors = {k: v.to(dtype or v.dtype).contiguous().cpu() for k, v in model.projectors.state_dict().items()}
    _check_finite(projectors)
    save_file(projectors, folder / PROJECTORS)
    if model.gene_reference:
        rounded = {gene: [float(f"{v:.4g}") for v in values] for gene, values in model.gene_reference.items()}
        (folder / REFERENCE).write_text(json.dumps(rounded, indent=0) + "\n", encoding="utf-8")
    for modality, memory in model.memory.items():
        (folder / MEMORY).mkdir(exist_ok=True)
        memory.write(folder / MEMORY / f"{modality}.tsv.xz")
    write_checksums(folder)


def _check_finite(weights: Mapping[str, torch.Tensor]) -> None:
    bad = [name for name, v in weights.items() if v.is_floating_point() and not bool(v.isfinite().all())]
    if bad:
        msg = (
            f"{len(bad)} weights hold NaN or infinite values, the first is {bad[0]}; nothing was saved. Train again "
            "with a lower "
            "learning rate, or save in a number format of a wider range than the one asked for."
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
    for name, tensor in _base_tensors(base.state_dict().items()):
        # tied weights are written once, and tied again by the configuration
        if (place := (tensor.data_ptr(), tensor.shape)) not in written:
            written.add(place)
            kept = tensor.detach().to(dtype) if dtype and tensor.is_floating_point() else tensor.detach()
            weights[name] = kept.contiguous().cpu()
    _check_finite(weights)
    folder.mkdir(parents=True)
    base.config.save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(str(folder))


def _set_base(path: Path, name: str) -> None:
    """Put the base model's name, and no path of this machine, into peft's configuration."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    stored["base_model_name_or_path"] = name
    path.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")


@undisturbed()
def push_to_hub(
    model: BioVerse,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    token: str | None = None,
    commit_message: str = "Model saved by bioverse-sc",
    include_language_model: bool | None = None,
    dtype: torch.dtype | None = None,
) -> str:
    """Save a model to a hub repository, from where ``bsc.models.load(repo_id)`` has it.

    Parameters
    ----------
    model
        The model.
    repo_id
        ``"owner/name"``; made when it does not exist.
    private
        Whether a new repository is private.
    revision
        Branch, made when it does not exist; the main one by default.
    token
        Of the hub; by default the one of ``hf auth login``.
    commit_message
        Of the one commit.
    include_language_model, dtype
        As in :func:`save`.

    Returns
    -------
    Address of the repository.

    Raises
    ------
    ValueError
        When :func:`save` would refuse, or the language model is a folder of this machine.
    OSError
        When the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    if (
        not include_language_model
        and model.config.language_model != INSIDE
        and Path(model.config.language_model).exists()
    ):
        msg = (
            f"The language model is the folder {model.config.language_model!r} of this machine, which others do not "
            "have. Push "
            "with include_language_model=True."
        )
        raise ValueError(msg)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "model"
        save(model, folder, include_language_model=include_language_model, dtype=dtype)
        card = folder / "README.md"
        if not card.exists():
            card.write_text(_model_card(ModelConfig.read(folder / CONFIG), repo_id), encoding="utf-8")
        api = HfApi(token=token)
        try:
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message)
        except _hub_errors() as error:
            msg = (
                f"The model could not be pushed to {repo_id!r} ({type(error).__name__}: {error}). Sign in with 'hf "
                "auth login', or "
                "pass a token. On a machine without access to the hub, call bsc.models.save(model, FOLDER), and "
                "upload the folder "
                f"from another one: hf upload {repo_id} FOLDER"
            )
            raise OSError(msg) from error
    return str(url)


def _model_card(config: ModelConfig, repo_id: str) -> str:
    """A short page; the licence is the author's to add."""
    inside = config.language_model == INSIDE
    is_id = not inside and _HUB_ID.fullmatch(config.language_model)
    base = "in this repository" if inside else f"{config.language_model} {config.language_model_revision or ''}".strip()
    lines = [
        "---",
        "library_name: bioverse-sc",
        *([f"base_model: {config.language_model}"] if is_id else []),
        "---",
        "",
        f"# {config.name}",
        "",
        "A [BioVERSE](https://arxiv.org/abs/2510.01428) model: a language model that reads the vectors of biological "
        "encoders.",
        "",
        f"- language model: {base}",
        *[
            f"- {modality}: encoder {p.encoder}, width {p.in_width} to {p.n_tokens} soft tokens of width {p.out_width}"
            for modality, p in config.projectors.items()
        ],
        f"- labels: {len(config.labels)}",
        "",
        "```python",
        "import bioverse_sc as bsc",
        "",
        f'model = bsc.models.load("{repo_id}")',
        "```",
    ]
    return "\n".join(lines) + "\n"


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a model's folder."""
    return {
        path.relative_to(folder).as_posix(): file_hash(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (CHECKSUMS, "README.md")
    }


def write_checksums(folder: Path) -> None:
    """Record the hashes of all files.

    Parameters
    ----------
    folder
        Folder of a saved model.
    """
    (folder / CHECKSUMS).write_text(json.dumps(file_hashes(folder), indent=1) + "\n", encoding="utf-8")


def check_files(folder: Path) -> None:
    """Raise when a file of a saved model is missing or altered."""
    if not (folder / CHECKSUMS).is_file():
        msg = f"{folder} is not a saved model: it lacks {CHECKSUMS}. Save one with bsc.models.save(model, folder)."
        raise FileNotFoundError(msg)
    try:
        recorded: dict[str, str] = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"The model in {folder} is damaged: {CHECKSUMS} is not JSON. Copy the whole folder again."
        raise ValueError(msg) from error
    if missing := [name for name in recorded if not (folder / name).is_file()]:
        msg = f"The model in {folder} is incomplete: it lacks {', '.join(missing)}. Copy the whole folder again."
        raise FileNotFoundError(msg)
    present = file_hashes(folder)
    if altered := [name for name, value in recorded.items() if present[name] != value]:
        msg = (
            f"The model in {folder} is damaged: {', '.join(altered)} differ from {CHECKSUMS}. Copy the whole folder "
            "again."
        )
        raise ValueError(msg)
