"""A stage from a configuration file: read, embed, split, train, measure, save. The command line is a shell over this."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
import pandas as pd
from pydantic import with_config

from bioverse_sc._logging import logger
from bioverse_sc.models._config import DtypeName, ProjectorShape  # noqa: TC001 - read when configurations are checked
from bioverse_sc.train._config import STRICT, LoraSettings, TrainConfig
from bioverse_sc.train._tasks import ATTRACTION

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.encoders import CellEncoder
    from bioverse_sc.models import Answer, BioVerse
    from bioverse_sc.train._sources import Descriptions, Example

T = TypeVar("T", "AlignRun", "InstructRun")
MODEL, TRAINING, METRICS, EMBEDDINGS = "model", "training", "metrics.json", "embeddings"


@with_config(STRICT)
@dataclass(frozen=True)
class NewModel:
    """A model to be made; see :func:`bioverse_sc.models.create`."""

    name: str
    language_model: str
    revision: str | None = None
    encoders: dict[str, str] = field(default_factory=dict)
    """By modality: what :func:`bioverse_sc.encoders.get_encoder` takes, or a bundled model, whose encoder is meant."""
    projectors: dict[str, ProjectorShape] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    chat: bool | None = None
    dtype: DtypeName = "float32"
    load_in_4bit: bool = False


@with_config(STRICT)
@dataclass(frozen=True)
class TrainingData:
    """Where entities and their columns come from."""

    file: Path
    """``.h5ad`` or ``.h5mu``."""
    labels_key: str | None = "cell_type"
    """Column with Cell Ontology names, synonyms or ids. Templates then also have ``{name}`` and ``{description}``."""
    donor_key: str | None = None
    """Whole donors are held out; see :func:`split`."""
    validation: float = 0.1
    balance: float = 0.0
    """0 draws observations equally often, 1 classes; see :func:`balanced_weights`."""
    use_rep: dict[str, str] = field(default_factory=dict)
    """By modality, a key of ``.obsm`` with vectors that are there already; no encoder is needed then."""
    layer: str | None = None
    gene_symbols: str | None = None
    embeddings: Path | None = None
    """Folder that keeps vectors by content; ``embeddings`` beside the output by default."""
    batch_size: int = 64
    """Entities at a time when they are embedded."""


@with_config(STRICT)
@dataclass(frozen=True)
class AlignRun:
    """Stage 1: what ``bioverse-sc train align --config FILE`` reads."""

    output: Path
    data: TrainingData
    train: TrainConfig
    model: NewModel | None = None
    start: str | None = None
    """A saved or bundled model to go on from, in the place of a new one."""
    modality: str = "rna"
    objective: Literal["contrastive", "autoregressive"] = "contrastive"
    description: str = "{description}"
    """Template of the texts; see :func:`descriptions`."""
    negatives: Path | None = None
    """Text file with an unrelated sentence in each line; the package's own by default."""
    attraction: float = ATTRACTION


@with_config(STRICT)
@dataclass(frozen=True)
class InstructRun:
    """Stage 2: what ``bioverse-sc train instruct --config FILE`` reads."""

    output: Path
    start: str
    """An aligned model, saved or bundled."""
    data: TrainingData
    train: TrainConfig
    lora: LoraSettings = field(default_factory=LoraSettings)
    modality: str = "rna"
    """What a bare ``[BIO]`` means, and the modality whose alignment is measured."""
    prompt: str | None = None
    """Template; the model's own question for the label by default."""
    answer: str = "{name}"
    """Template. With ``{name}``, the names of the classes become the model's label set."""
    records: Path | None = None
    """JSON lines, Arrow or Parquet in the place of columns; see :func:`read_examples`."""
    train_projectors: bool = True
    keep_alignment: bool = True
    """Whether stage 1's contrastive loss goes on beside; false is the loss of the paper."""
    load_in_4bit: bool = False


def read_config(file: str | Path, kind: type[T]) -> T:
    """Read a YAML file; paths in it are relative to the file.

    Parameters
    ----------
    file
        The file.
    kind
        :class:`AlignRun` or :class:`InstructRun`.

    Raises
    ------
    ValueError
        For unknown or missing keys and bad values, all of them at once.
    """
    import yaml
    from pydantic import TypeAdapter, ValidationError

    path = Path(file)
    if not path.is_file():
        msg = f"There is no file {path}."
        raise FileNotFoundError(msg)
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        msg = f"{path} is not YAML: {error}"
        raise ValueError(msg) from error
    try:
        config = TypeAdapter(kind).validate_python(stored)
    except ValidationError as error:
        found = [f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        msg = f"{path} does not fit:\n" + "\n".join(found)
        raise ValueError(msg) from error
    return _from_here(config, path.parent)


def _from_here(config: Any, folder: Path) -> Any:
    """Make relative paths relative to a folder; names of models and encoders too, where such a folder is there."""
    changes: dict[str, Any] = {}
    for name in config.__dataclass_fields__:
        value = getattr(config, name)
        if isinstance(value, Path):
            changes[name] = Path(os.path.normpath(folder / value.expanduser()))
        elif hasattr(value, "__dataclass_fields__"):
            changes[name] = _from_here(value, folder)
        elif name in ("start", "language_model") and value is not None:
            changes[name] = _place(value, folder)
        elif name == "encoders":
            changes[name] = {mod: _place(of, folder) for mod, of in value.items()}
    return replace(config, **changes)


def _place(name: str, folder: Path) -> str:
    here = Path(os.path.normpath(folder / Path(name).expanduser()))
    return str(here) if name.startswith((".", "~")) or here.is_dir() else name


def run_align(config: AlignRun) -> dict[str, Any]:
    """Do stage 1 as a configuration says.

    Parameters
    ----------
    config
        The configuration.

    Returns
    -------
    What is in ``output/metrics.json``: the validation metrics before and after.
    """
    from bioverse_sc.train._data import balanced_weights
    from bioverse_sc.train._stages import align

    if (config.model is None) == (config.start is None):
        msg = "Give either 'model', for a new one, or 'start', for one to go on from."
        raise ValueError(msg)
    model = _created(config.model, config.data) if config.model else _loaded(str(config.start))
    stage = _Stage(config.output, config.data, model, config.modality)
    texts = stage.descriptions(config.description)
    weights = balanced_weights(texts.text_of, strength=config.data.balance) if config.data.balance else None
    vectors = stage.vectors[config.modality]
    before = stage.alignment(texts)
    negatives = None
    if config.negatives is not None:
        negatives = [line for line in config.negatives.read_text(encoding="utf-8").splitlines() if line.strip()]
    history = align(
        model,
        vectors,
        texts,
        config.train,
        modality=config.modality,
        objective=config.objective,
        negatives=negatives,
        attraction=config.attraction,
        validation=stage.held_out_rows[config.modality],
        weights=weights,
        folder=config.output / TRAINING,
    )
    return stage.finish(f"stage 1, {config.objective}", history, before, stage.alignment(texts))


def run_instruct(config: InstructRun) -> dict[str, Any]:
    """Do stage 2 as a configuration says.

    Parameters
    ----------
    config
        The configuration.

    Returns
    -------
    What is in ``output/metrics.json``: the validation metrics before and after.
    """
    from bioverse_sc.train._data import balanced_weights, examples, read_examples
    from bioverse_sc.train._stages import instruct

    model = _loaded(config.start, load_in_4bit=config.load_in_4bit)
    stage = _Stage(config.output, config.data, model, config.modality)
    texts = stage.descriptions("{description}") if config.data.labels_key else None
    mod = config.modality
    weights = None
    if config.records is None:
        prompt = config.prompt or model.config.prompts["label"]
        trained = examples(stage.data, prompt=prompt, answer=config.answer, mod=mod, rows=stage.trained)
        measured = examples(stage.data, prompt=prompt, answer=config.answer, mod=mod, rows=stage.held_out)
    else:
        names = {name: list(stage.of(name).obs_names) for name in stage.vectors}
        read = read_examples(config.records, names, prompt=config.prompt, answer=config.answer, mod=mod)
        trained = [example for example in read if not stage.is_held_out(example)]
        measured = [example for example in read if stage.is_held_out(example)]
    if config.data.balance:
        answers = [cast("Answer", example.segments[-1]).text for example in trained]
        weights = balanced_weights(answers, strength=config.data.balance)
    before = stage.alignment(texts)
    history = instruct(
        model,
        trained,
        stage.vectors,
        config.train,
        lora=config.lora,
        train_projectors=config.train_projectors,
        descriptions={mod: texts} if config.keep_alignment and texts is not None else None,
        validation=measured,
        weights=weights,
        folder=config.output / TRAINING,
    )
    if config.records is None and config.data.labels_key and config.answer == "{name}":
        labels = sorted(set(stage.of(mod).obs["name"]))
        model.config = replace(model.config, labels=tuple(labels))
    return stage.finish("stage 2", history, before, stage.alignment(texts))


class _Stage:
    """What both stages do around their training."""

    def __init__(self, output: Path, data: TrainingData, model: BioVerse, modality: str) -> None:
        from bioverse_sc.train._data import split, with_ontology

        if (output / MODEL).exists():
            msg = f"{output / MODEL} is there already: this run is done. Choose another output, or delete it."
            raise FileExistsError(msg)
        self.output = output
        self.model = model
        self.modality = modality
        self.data = _read(data.file)
        if data.labels_key is not None:
            self.of(modality).obs = with_ontology(self.of(modality).obs, data.labels_key)
        self.vectors = {
            mod: _vectors(self.of(mod), model, mod, data, data.embeddings or output / EMBEDDINGS)
            for mod in model.config.projectors
            if mod in self.modalities
        }
        if modality not in self.vectors:
            msg = f"{data.file} has no modality {modality!r} that the model reads; it has {list(self.modalities)}, the model {sorted(model.config.projectors)}."
            raise KeyError(msg)
        self.trained, self.held_out = split(self.data, validation=data.validation, donor_key=data.donor_key)
        self.held_out_rows = {
            mod: np.flatnonzero(pd.Index(self.of(mod).obs_names).isin(self.data.obs_names[self.held_out]))
            for mod in self.vectors
        }

    @property
    def modalities(self) -> list[str]:
        from mudata import MuData

        return list(self.data.mod) if isinstance(self.data, MuData) else [self.modality]

    def of(self, mod: str) -> AnnData:
        """The AnnData of a modality."""
        from mudata import MuData

        return self.data.mod[mod] if isinstance(self.data, MuData) else self.data

    def is_held_out(self, example: Example) -> bool:
        """Whether any entity of an example is of a donor that is held out."""
        from bioverse_sc.models._prompt import Entity

        mods = [s.modality for s in example.segments if isinstance(s, Entity)]
        return any(row in self.held_out_rows[mod] for mod, row in zip(mods, example.rows, strict=True))

    def descriptions(self, template: str) -> Descriptions:
        from bioverse_sc.train._data import descriptions

        return descriptions(self.of(self.modality).obs, labels_key=None, template=template)

    def alignment(self, texts: Descriptions | None) -> dict[str, float]:
        """How well the validation entities meet their texts, with the projector as it is now."""
        from bioverse_sc.metrics import alignment_metrics
        from bioverse_sc.tl._align import projected
        from bioverse_sc.train._stages import general_domain_texts

        if texts is None:
            return {}
        rows = self.held_out_rows[self.modality]
        soft_tokens = projected(self.model.projectors[self.modality], self.vectors[self.modality][rows])
        related = self.model.text_vectors(list(texts.texts)).float().cpu().numpy()
        unrelated = self.model.text_vectors(general_domain_texts()).float().cpu().numpy()
        return alignment_metrics(soft_tokens, related, texts.text_of[rows], unrelated)

    def finish(
        self, stage: str, history: list[dict[str, float]], before: dict[str, float], after: dict[str, float]
    ) -> dict[str, Any]:
        """Save the model and the metrics, on one process."""
        from accelerate import PartialState

        from bioverse_sc.models import save

        validated = [row for row in history if "validation_loss" in row]
        own = {key for row in validated for key in row} - {f"validation_{key}" for key in after} - {"step"}
        best = min(validated, key=lambda row: row["validation_loss"])
        trained = {key.removeprefix("validation_"): (validated[0][key], best[key]) for key in sorted(own)}
        found = {
            "stage": stage,
            "validation_entities": len(self.held_out),
            "steps": int(best["step"]),
            "before": before | {key: one for key, (one, _) in trained.items()},
            "after": after | {key: two for key, (_, two) in trained.items()},
        }
        if PartialState().is_main_process:
            (self.output / METRICS).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            save(self.model, self.output / MODEL)
            logger.info("saved %s", self.output / MODEL)
        PartialState().wait_for_everyone()
        return found


def _read(file: Path) -> AnnData | MuData:
    if not file.is_file():
        msg = f"There is no file {file}."
        raise FileNotFoundError(msg)
    if file.suffix == ".h5mu":
        import mudata

        return mudata.read_h5mu(file)
    import anndata

    return anndata.read_h5ad(file)


def _device() -> str:
    """Device of this process. FSDP shards from the CPU."""
    from accelerate import PartialState

    from bioverse_sc._settings import settings

    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return "cpu"
    return str(PartialState().device) if settings.device == "auto" else settings.torch_device()


def _loaded(name: str, *, load_in_4bit: bool = False) -> BioVerse:
    from bioverse_sc.models import load

    return load(name, merge_adapter=False, load_in_4bit=load_in_4bit, device=_device())


def _created(new: NewModel, data: TrainingData) -> BioVerse:
    from bioverse_sc.encoders import Precomputed
    from bioverse_sc.models import create

    encoders: dict[str, Any] = {mod: _encoder(name, mod) for mod, name in new.encoders.items()}
    if data.use_rep:
        read = _read(data.file)
        for mod, key in data.use_rep.items():
            of = read.mod[mod] if hasattr(read, "mod") else read
            if key not in of.obsm:
                msg = f"There is no slot {key!r} in .obsm of {data.file}; there are {list(of.obsm)}."
                raise KeyError(msg)
            encoders[mod] = Precomputed.of(key, of.obsm[key])
    return create(
        new.language_model,
        encoders,
        name=new.name,
        revision=new.revision,
        projectors=new.projectors,
        prompts=new.prompts,
        chat=new.chat,
        dtype=new.dtype,
        load_in_4bit=new.load_in_4bit,
        device=_device(),
    )


def _encoder(name: str, mod: str) -> CellEncoder:
    """Encoder by name; that of a bundled model by the model's name."""
    from bioverse_sc.encoders import get_encoder
    from bioverse_sc.models import bundled_models
    from bioverse_sc.models._io import model_folder

    return get_encoder(model_folder(name) / "encoders" / mod if name in bundled_models() else name)


def _vectors(adata: AnnData, model: BioVerse, mod: str, data: TrainingData, cache: Path) -> np.ndarray:
    """Vectors of a modality: those that are there, or the encoder's, kept by content. One process computes, the others read."""
    from accelerate import PartialState

    from bioverse_sc.encoders import Precomputed
    from bioverse_sc.tl import embed

    if mod in data.use_rep:
        key = data.use_rep[mod]
        return Precomputed(key, model.config.projectors[mod].in_width).vectors(adata.obsm[key])
    if mod not in model.encoders:
        msg = f"The model has no encoder of {mod!r}; name the vectors to use, data: {{use_rep: {{{mod}: X_key}}}}."
        raise ValueError(msg)
    with PartialState().main_process_first():
        embed(
            adata,
            encoder=model.encoders[mod],
            layer=data.layer,
            gene_symbols=data.gene_symbols,
            batch_size=data.batch_size,
            cache=cache,
        )
    return np.asarray(adata.obsm[f"X_{model.encoders[mod].name}"])


def metrics_table(folders: list[Path]) -> str:
    """Validation metrics of runs, before and after, as a Markdown table.

    Parameters
    ----------
    folders
        Output folders of runs that are done.
    """
    runs = [(folder.name, json.loads((folder / METRICS).read_text(encoding="utf-8"))) for folder in folders]
    names = list(dict.fromkeys(key for _, run in runs for key in run["after"]))
    lines = ["| run | stage | |" + "".join(f" {name.replace('_', ' ')} |" for name in names)]
    lines.append("| --- | --- | --- |" + " ---: |" * len(names))
    for label, run in runs:
        for when in ("before", "after"):
            cells = [f" {run[when][name]:.3f} |" if name in run[when] else " |" for name in names]
            lines.append(f"| {label} | {run['stage']} | {when} |" + "".join(cells))
    return "\n".join(lines)
