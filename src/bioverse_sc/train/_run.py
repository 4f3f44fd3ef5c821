"""A stage from a configuration file.

Read, embed, split, train, measure, save. The command line is a shell over this.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

import numpy as np
import pandas as pd
from pydantic import with_config

from bioverse_sc import _files
from bioverse_sc._keys import Keys
from bioverse_sc._logging import logger
from bioverse_sc._quiet import undisturbed
from bioverse_sc._settings import settings
from bioverse_sc._validation import check_positive
from bioverse_sc.models import DtypeName, Entity, ProjectorConfig, template_fields, with_modality
from bioverse_sc.train._checkpoint import FREE as RUN_ON
from bioverse_sc.train._config import STRICT, LoraSettings, TrainConfig
from bioverse_sc.train._tasks import ATTRACTION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from accelerate import PartialState
    from anndata import AnnData

    from bioverse_sc.models import Answer, BioVerse
    from bioverse_sc.train._sources import Descriptions, Example

T = TypeVar("T", "AlignRun", "InstructRun")
MODEL, TRAINING, CONFIG, METRICS, EMBEDDINGS = "model", "training", "run.json", "metrics.json", "embeddings"
FREE = {"output", "data.embeddings", "data.batch_size"} | {f"train.{name}" for name in RUN_ON}
"""What may change when an interrupted run goes on: it changes no number."""


@with_config(STRICT)
@dataclass(frozen=True)
class NewModel:
    """A model to be made; see :func:`bioverse_sc.models.create`."""

    name: str
    language_model: str
    revision: str | None = None
    encoders: dict[str, str] = field(default_factory=dict)
    """By modality: what :func:`bioverse_sc.encoders.get_encoder` takes, or a bundled model, whose encoder is meant."""
    projectors: dict[str, ProjectorConfig] = field(default_factory=dict)
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
    """Share of the donors that is held out. Give the stages of one model the same one, so that the same donors stay
    out."""
    measured: int = 5000
    """Entities or examples of these donors that are measured at most, drawn evenly."""
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

    def __post_init__(self) -> None:
        if not 0 < self.validation < 1:
            msg = f"validation is {self.validation}; expected a share between 0 and 1."
            raise ValueError(msg)
        if not 0 <= self.balance <= 1:
            msg = f"balance is {self.balance}; expected 0 to 1."
            raise ValueError(msg)
        check_positive(self, "batch_size", "measured")


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
    records: Path | None = None
    """JSON lines, Arrow or Parquet with a text for each entity, in the place of columns; see :func:`read_pairs`."""
    objective: Literal["contrastive", "autoregressive"] = "contrastive"
    description: str | None = None
    """Template of the texts; ``{description}`` by default, and ``{text}`` of records. See :func:`descriptions`."""
    negatives: Path | None = None
    """Text file with an unrelated sentence in each line; the package's own by default."""
    attraction: float = ATTRACTION

    def __post_init__(self) -> None:
        if (self.model is None) == (self.start is None):
            msg = "give either 'model', for a new one, or 'start', for one to go on from."
            raise ValueError(msg)
        if self.model is not None:
            encoded, stored = set(self.model.encoders), set(self.data.use_rep)
            if both := sorted(encoded & stored):
                msg = f"model.encoders and data.use_rep both name {both}; vectors come from one of them."
                raise ValueError(msg)
            if self.modality not in encoded | stored:
                msg = (
                    f"modality is {self.modality!r}, but model.encoders and data.use_rep name "
                    f"{sorted(encoded | stored)}."
                )
                raise ValueError(msg)


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
    answer: str | None = None
    """Template; ``{name}`` by default, and ``{answer}`` of records. With ``{name}`` of columns, the names that it was
    trained on become the model's label set."""
    records: Path | None = None
    """JSON lines, Arrow or Parquet in the place of columns; see :func:`read_examples`."""
    train_projectors: bool = True
    keep_alignment: bool = False
    """Whether stage 1's contrastive loss goes on beside, where there are labels; it takes no ``micro_batch_size``."""
    description: str = "{description}"
    """Template of the texts that stage 1 aligned with."""
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
    FileNotFoundError
        When it is not there.
    ValueError
        For unknown or missing keys and bad values, all of them at once.
    """
    import yaml
    from pydantic import TypeAdapter, ValidationError

    class Loader(yaml.SafeLoader):
        """Words stay words.

        In YAML 1.1 ``no``, a value of mixed_precision, is a boolean. Booleans are read where one is meant.
        """

        yaml_implicit_resolvers: ClassVar = {
            start: [(tag, form) for tag, form in known if not tag.endswith(":bool")]
            for start, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    path = _there(Path(file))
    try:
        stored = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"{path} is not YAML: {error}"
        raise ValueError(msg) from error
    try:
        config = TypeAdapter(kind).validate_python(stored)
    except ValidationError as error:
        found = [f"  {'.'.join(map(str, e['loc'])) or kind.__name__}: {_in_words(e)}" for e in error.errors()]
        msg = f"{path} does not fit:\n" + "\n".join(found)
        raise ValueError(msg) from error
    return _from_here(config, path.absolute().parent)


def _in_words(error: Any) -> str:
    """What pydantic found, for somebody who does not know Python."""
    if error["type"] == "unexpected_keyword_argument":
        kinds: tuple[Any, ...] = (
            AlignRun,
            InstructRun,
            NewModel,
            TrainingData,
            TrainConfig,
            LoraSettings,
            ProjectorConfig,
        )
        known = {name for kind in kinds for name in kind.__dataclass_fields__} - {*ProjectorConfig.ENDS}
        name = str(error["loc"][-1])
        close = [] if name in known else get_close_matches(name, sorted(known), n=1)
        return f"there is no such key{f'; did you mean {close[0]!r}?' if close else ''}"
    if error["type"] in ("missing", "missing_argument"):
        return "is missing"
    what = f"found {error['input']!r}. " if isinstance(error["input"], str | int | float) else ""
    return what + error["msg"].removeprefix("Value error, ")


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
    """Name, or folder when there is one; a name that the package knows is never one."""
    from bioverse_sc.encoders import known_encoders
    from bioverse_sc.models import bundled_models

    if name in bundled_models() or name in known_encoders():
        return name
    here = Path(os.path.normpath(folder / Path(name).expanduser()))
    return str(here) if name.startswith((".", "~")) or here.is_dir() else name


@undisturbed()
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
    from bioverse_sc.train._data import balanced_weights, read_pairs
    from bioverse_sc.train._stages import align

    _begin(config, compares=config.objective == "contrastive")
    negatives = None
    if config.negatives is not None:
        lines = _there(config.negatives, "negatives").read_text(encoding="utf-8").splitlines()
        negatives = [line for line in lines if line.strip()]
    entities = _Entities(config)
    model = _loaded(str(config.start)) if config.model is None else _created(config.model, entities)
    vectors = entities.vectors(model, [config.modality])[config.modality]
    held_out = entities.held_out_rows[config.modality]
    if config.records is None:
        texts = entities.descriptions(config.description or "{description}")
    else:
        names = list(entities.mods[config.modality].obs_names)
        with _about("records"):
            rows, texts = read_pairs(config.records, names, mod=config.modality, text=config.description or "{text}")
        vectors, held_out = vectors[rows], np.flatnonzero(np.isin(rows, held_out))
    empty = _empty(vectors)
    measured = _evenly(np.setdiff1d(held_out, empty), config.data.measured)
    if not len(measured):
        msg = "None of the donors that are held out has an entity to measure; change data.validation."
        raise ValueError(msg)
    weights = balanced_weights(texts.text_of, strength=config.data.balance)
    weights[held_out] = weights[empty] = 0
    before = _alignment(model, config.modality, vectors, texts, measured)
    history = align(
        model,
        vectors,
        texts,
        config.train,
        modality=config.modality,
        objective=config.objective,
        negatives=negatives,
        attraction=config.attraction,
        validation=measured,
        weights=weights,
        folder=config.output / TRAINING,
    )
    after = _alignment(model, config.modality, vectors, texts, measured)
    return _finish(config.output, model, f"stage 1, {config.objective}", len(measured), history, before, after)


@undisturbed()
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

    mod, has_texts = config.modality, config.data.labels_key is not None
    _begin(config, compares=config.keep_alignment and has_texts)
    if config.records is not None:
        _there(config.records, "records")
    entities = _Entities(config)
    model = _loaded(config.start, load_in_4bit=config.load_in_4bit)
    if hasattr(model.language_model, "peft_config"):
        logger.warning("%s has an adapter already: it is trained on, and 'lora' is not used", config.start)
    vectors = entities.vectors(model, sorted(model.config.projectors))
    texts = entities.descriptions(config.description) if has_texts else None
    if config.records is None:
        prompt, answer = config.prompt or model.config.prompts["label"], config.answer or "{name}"
        with _about("prompt and answer"):
            trained = examples(entities.data, prompt=prompt, answer=answer, mod=mod, rows=entities.trained)
            rows = _evenly(entities.held_out, config.data.measured)
            measured = examples(entities.data, prompt=prompt, answer=answer, mod=mod, rows=rows)
        if has_texts and answer == "{name}":
            labels = tuple(sorted({_answer(example) for example in trained}))
            # what the new labels' probabilities mean is not known yet
            model.config = replace(model.config, labels=labels, temperature=1.0)
            if template_fields(prompt):
                logger.warning(
                    "The prompt has the fields %s, so it cannot become the model's own question: bsc.tl.annotate will "
                    "ask %r.",
                    template_fields(prompt),
                    model.config.prompts["label"],
                )
            else:
                prompts = {**model.config.prompts, "label": with_modality(prompt, mod)}
                model.config = replace(model.config, prompts=prompts)
    else:
        names = {name: list(entities.mods[name].obs_names) for name in vectors}
        with _about("records"):
            read = read_examples(
                config.records, names, prompt=config.prompt, answer=config.answer or "{answer}", mod=mod
            )
        is_held_out = [entities.is_held_out(example) for example in read]
        trained = [example for example, held_out in zip(read, is_held_out, strict=True) if not held_out]
        rows = _evenly(np.flatnonzero(is_held_out), config.data.measured)
        measured = [read[row] for row in rows]
    empty = {name: _empty(of) for name, of in vectors.items()}
    left_out = {name: set(rows.tolist()) for name, rows in empty.items()}
    trained, measured = (
        [e for e in chosen if not any(row in left_out[name] for name, row in entities_of(e))]
        for chosen in (trained, measured)
    )
    if not trained or not measured:
        msg = (
            f"There are {len(trained)} examples of donors to train on, and {len(measured)} of donors that are held "
            "out; each "
            "needs one at least. Change data.validation, or the examples."
        )
        raise ValueError(msg)
    weights = None
    if config.data.balance:
        weights = balanced_weights([_answer(example) for example in trained], strength=config.data.balance)
    held_out = _evenly(np.setdiff1d(entities.held_out_rows[mod], empty[mod]), config.data.measured)
    before = {} if texts is None else _alignment(model, mod, vectors[mod], texts, held_out)
    history = instruct(
        model,
        trained,
        vectors,
        config.train,
        lora=config.lora,
        train_projectors=config.train_projectors,
        descriptions={mod: texts} if config.keep_alignment and texts is not None else None,
        validation=measured,
        weights=weights,
        folder=config.output / TRAINING,
    )
    after = {} if texts is None else _alignment(model, mod, vectors[mod], texts, held_out)
    return _finish(config.output, model, "stage 2", len(measured), history, before, after)


def _empty(vectors: np.ndarray) -> np.ndarray:
    """Rows of entities that the encoder knew nothing of, such as cells without any known gene."""
    empty = np.flatnonzero(~vectors.any(axis=1))
    if len(empty):
        logger.warning("%d of %d entities have no vector, only zeros; they are left out", len(empty), len(vectors))
    return empty


def entities_of(example: Example) -> list[tuple[str, int]]:
    """Modality and row of each entity of an example."""
    mods = [s.mod for s in example.segments if isinstance(s, Entity)]
    return list(zip(mods, example.rows, strict=True))


def _evenly(rows: np.ndarray, n: int) -> np.ndarray:
    """Draw at most ``n`` rows, the same ones each time."""
    return rows if len(rows) <= n else np.sort(np.random.default_rng(0).choice(rows, size=n, replace=False))


def _answer(example: Example) -> str:
    return str(cast("Answer", example.segments[-1]).text)


def _begin(config: AlignRun | InstructRun, *, compares: bool) -> None:
    """Raise, before anything is read, when a run cannot start or go on; note its configuration.

    Parameters
    ----------
    config
        The configuration.
    compares
        Whether its loss compares the entities of a step, so that it has no parts.
    """
    from pydantic import TypeAdapter

    from bioverse_sc.train._checkpoint import Checkpoints

    _there(config.data.file, "data.file")
    if (config.output / MODEL).exists():
        msg = (
            f"{config.output / MODEL} is there already: this run is done. Choose another output, or delete "
            f"{config.output}."
        )
        raise FileExistsError(msg)
    n_processes = _processes().num_processes
    if config.train.micro_batches(n_processes) > 1 and compares:
        msg = (
            "train.micro_batch_size: the contrastive loss compares all examples of a step, so that these cannot be "
            "computed in parts. "
            f"Leave it out, or give each process its share: with {n_processes} of them, batch_size is at most "
            f"{n_processes * (config.train.micro_batch_size or 1)}. Stage 2 can also do without: keep_alignment: false."
        )
        raise ValueError(msg)
    now = TypeAdapter(type(config)).dump_python(config, mode="json")
    noted = config.output / CONFIG
    if Checkpoints(config.output / TRAINING).names() and noted.is_file():
        asked, done = _flat(now), _flat(json.loads(noted.read_text(encoding="utf-8")))
        if changed := sorted(key for key in (asked.keys() | done.keys()) - FREE if asked.get(key) != done.get(key)):
            msg = (
                f"{config.output} holds a run that was begun with another {', '.join(changed)}. Choose another "
                "output, or delete it "
                "to begin anew."
            )
            raise ValueError(msg)
    elif _processes().is_main_process:
        config.output.mkdir(parents=True, exist_ok=True)
        noted.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    _processes().wait_for_everyone()


def _flat(values: dict[str, Any], within: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{within}{key}.") if isinstance(value, dict) else {f"{within}{key}": value}
    return flat


def _there(file: Path, key: str = "") -> Path:
    """Give the path of a file back that is there."""
    if not file.is_file():
        msg = f"{f'{key}: ' if key else ''}There is no file {file}."
        raise FileNotFoundError(msg)
    return file


@contextmanager
def _about(what: str) -> Iterator[None]:
    """Say which key of the configuration an error is about."""
    try:
        yield
    except (KeyError, ValueError) as error:
        kind = KeyError if isinstance(error, KeyError) else ValueError
        msg = f"{what}: {error.args[0]}"
        raise kind(msg) from error


class _Entities:
    """What the data of a run hold: modalities, columns with the ontology's words beside, and who is held out."""

    def __init__(self, config: AlignRun | InstructRun) -> None:
        from mudata import MuData

        from bioverse_sc.train._data import _rows_of, split, with_ontology

        source, mod = config.data, config.modality
        self.source, self.modality = source, mod
        self.embeddings = source.embeddings or config.output / EMBEDDINGS
        with _about("data.file"):
            self.data = _files.read(source.file)
        self.mods: dict[str, AnnData] = dict(self.data.mod) if isinstance(self.data, MuData) else {mod: self.data}
        if unknown := sorted(({mod} | set(source.use_rep)) - set(self.mods)):
            msg = (
                f"{source.file} has no modality {', '.join(map(repr, unknown))}, which modality or data.use_rep names; "
                f"it has {list(self.mods)}."
            )
            raise KeyError(msg)
        rows_of = {name: _rows_of(self.data, name) for name in self.mods}
        of = self.mods[mod]
        if isinstance(self.data, MuData):
            # labels may stand beside the modalities
            shared = self.data.obs.loc[of.obs_names]
            of.obs = of.obs.join(shared[[name for name in shared if name not in of.obs]])
        if source.labels_key is not None:
            with _about(f"data.labels_key, {source.file}"):
                of.obs = with_ontology(of.obs, source.labels_key)
            if (missing := of.obs["name"].isna()).any():
                msg = (
                    f"data.labels_key: {missing.sum()} of {len(missing)} rows of {source.file} have no label in "
                    f"{source.labels_key!r}, the first is {missing.idxmax()!r}. Leave them out, or fill the column."
                )
                raise ValueError(msg)
        self._check_donors()
        self.trained, self.held_out = split(self.data, validation=source.validation, donor_key=source.donor_key)
        held_out = {name: rows[self.held_out] for name, rows in rows_of.items()}
        # an observation that a modality lacks is -1
        self.held_out_rows = {name: rows[rows >= 0] for name, rows in held_out.items()}
        n_held_out = len(self.held_out_rows[mod])
        if not 0 < n_held_out < of.n_obs:
            msg = (
                f"data.validation: {n_held_out} of {of.n_obs} entities of {mod!r} are held out; change data.validation."
            )
            raise ValueError(msg)

    def _check_donors(self) -> None:
        """Raise when donors are asked for and cannot be held out."""
        from bioverse_sc.train._data import _donors

        key = self.source.donor_key
        if key is None:
            return
        with _about(f"data.donor_key, {self.source.file}"):
            donors = pd.unique(_donors(self.data, key)[0])
        if len(named := [donor for donor in donors if donor is not None]) < 2:
            msg = (
                f"data.donor_key: the column {key!r} of {self.source.file} names {len(named)} donors; two are needed "
                "at least to hold "
                "one out. Name another column; without any, observations are held out."
            )
            raise ValueError(msg)

    def is_held_out(self, example: Example) -> bool:
        """Whether any entity of an example is of a donor that is held out."""
        return any(row in self._held_out_sets[mod] for mod, row in entities_of(example))

    @cached_property
    def _held_out_sets(self) -> dict[str, set[int]]:
        return {mod: set(rows.tolist()) for mod, rows in self.held_out_rows.items()}

    def descriptions(self, template: str) -> Descriptions:
        from bioverse_sc.train._data import descriptions

        with _about("description"):
            return descriptions(self.mods[self.modality].obs, labels_key=None, template=template)

    def stored(self, mod: str) -> np.ndarray:
        """Vectors that the data have."""
        key, of = self.source.use_rep[mod], self.mods[mod]
        if key not in of.obsm:
            msg = (
                f"data.use_rep: there is no slot {key!r} in .obsm of {mod!r} in {self.source.file}; there are "
                f"{list(of.obsm)}."
            )
            raise KeyError(msg)
        return of.obsm[key]

    def vectors(self, model: BioVerse, mods: Iterable[str]) -> dict[str, np.ndarray]:
        """Vectors of those modalities that are there, by the model's encoder or from the data."""
        reads = model.config.projectors
        if unread := sorted(({self.modality} | set(self.source.use_rep)) - set(reads)):
            msg = (
                f"The model {model.config.name!r} reads {sorted(reads)}, and not {unread}, which modality or "
                "data.use_rep names."
            )
            raise KeyError(msg)
        return {mod: self._vectors(model, mod) for mod in mods if mod in self.mods}

    def _vectors(self, model: BioVerse, mod: str) -> np.ndarray:
        from bioverse_sc.encoders import Precomputed
        from bioverse_sc.tl import embed

        expected = model.config.projectors[mod]
        if mod in self.source.use_rep:
            key = self.source.use_rep[mod]
            with _about(f"data.use_rep, {self.source.file}"):
                found = Precomputed.of(key, self.stored(mod))
                if expected.encoder_fingerprint not in ("", found.fingerprint) or expected.in_width != found.width:
                    msg = (
                        f"{key!r} has width {found.width}, and the {mod} projector of {model.config.name!r} was made "
                        "for other vectors: of "
                        f"{expected.encoder!r}, width {expected.in_width}."
                    )
                    raise ValueError(msg)
                return found.vectors(self.stored(mod))
        if mod not in model.encoders:
            msg = f"The model has no encoder of {mod!r}; name the vectors to use, data: {{use_rep: {{{mod}: X_key}}}}."
            raise ValueError(msg)
        encoder = model.encoders[mod].to(_device())
        # one process computes, the others read
        with _processes().main_process_first(), _about(f"data, {self.source.file}"):
            embed(
                self.mods[mod],
                encoder=encoder,
                layer=self.source.layer,
                gene_symbols=self.source.gene_symbols,
                batch_size=self.source.batch_size,
                cache=self.embeddings,
            )
        return np.asarray(self.mods[mod].obsm[Keys().embedding(encoder.name)])


def _processes() -> PartialState:
    """The processes of this run."""
    from accelerate import PartialState

    # one process embeds while the others wait, for longer than processes wait for each other by default
    return PartialState(cpu=settings.device == "cpu", timeout=timedelta(days=1))


def _device() -> str:
    """Device of this process."""
    return str(_processes().device) if settings.device == "auto" else settings.torch_device()


def _model_device() -> str:
    """Device of the model. FSDP shards from the CPU."""
    return "cpu" if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" else _device()


def _loaded(name: str, *, load_in_4bit: bool = False) -> BioVerse:
    from bioverse_sc.models import load

    with _about("start"):
        return load(name, merge_adapter=False, load_in_4bit=load_in_4bit, device=_model_device())


def _created(new: NewModel, entities: _Entities) -> BioVerse:
    from bioverse_sc.encoders import Precomputed, get_encoder
    from bioverse_sc.models import bundled_models, create, model_folder

    encoders: dict[str, Any] = {}
    with _about("model.encoders"):
        for mod, name in new.encoders.items():
            # of a bundled model, its encoder
            named = model_folder(name) / "encoders" / mod if name in bundled_models() else name
            encoders[mod] = get_encoder(named, modality=mod, device=_device())
    with _about("data.use_rep"):
        for mod, key in entities.source.use_rep.items():
            encoders[mod] = Precomputed.of(key, entities.stored(mod))
    with _about("model"):
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
            device=_model_device(),
        )


def _alignment(
    model: BioVerse, modality: str, vectors: np.ndarray, texts: Descriptions, rows: np.ndarray
) -> dict[str, float]:
    """How well entities meet their texts, with the projector as it is now."""
    from bioverse_sc.metrics import alignment_metrics
    from bioverse_sc.tl._align import projected
    from bioverse_sc.train._stages import general_domain_texts

    soft_tokens = projected(model.projectors[modality], vectors[rows])
    related = model.text_vectors(list(texts.texts)).float().cpu().numpy()
    unrelated = model.text_vectors(general_domain_texts()).float().cpu().numpy()
    return alignment_metrics(soft_tokens, related, texts.text_of[rows], unrelated)


def _finish(
    output: Path,
    model: BioVerse,
    stage: str,
    n_validated: int,
    history: list[dict[str, float]],
    before: dict[str, float],
    after: dict[str, float],
) -> dict[str, Any]:
    """Save the metrics and the model, on one process."""
    from bioverse_sc.models import save

    validated = [
        {key.removeprefix("validation_"): value for key, value in row.items()}
        for row in history
        if "validation_loss" in row
    ]
    # training ends with the weights of the lowest loss
    best = min(validated, key=lambda row: row["loss"])
    found = {
        "stage": stage,
        "validation_entities": n_validated,
        "steps": int(best["step"]),
        "before": {key: value for key, value in validated[0].items() if key != "step"} | before,
        "after": {key: value for key, value in best.items() if key != "step"} | after,
    }
    if _processes().is_main_process:
        (output / METRICS).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        save(model, output / MODEL)
        logger.info("saved %s", output / MODEL)
    _processes().wait_for_everyone()
    return found


def metrics_table(folders: list[Path]) -> str:
    """Validation metrics of runs, before and after, as a Markdown table.

    Parameters
    ----------
    folders
        Output folders of runs that are done.

    Raises
    ------
    FileNotFoundError
        For a folder that is none.
    """
    runs = []
    for folder in folders:
        if not (folder / METRICS).is_file():
            msg = f"There is no finished run in {folder}: it has no {METRICS}."
            raise FileNotFoundError(msg)
        runs.append((folder.resolve().name, json.loads((folder / METRICS).read_text(encoding="utf-8"))))
    names = list(dict.fromkeys(key for _, run in runs for key in run["after"]))
    lines = ["| run | stage | |" + "".join(f" {name.replace('_', ' ')} |" for name in names)]
    lines.append("| --- | --- | --- |" + " ---: |" * len(names))
    for label, run in runs:
        for when in ("before", "after"):
            cells = [f" {run[when][name]:.3f} |" if name in run[when] else " |" for name in names]
            lines.append(f"| {label} | {run['stage']} | {when} |" + "".join(cells))
    return "\n".join(lines)
