"""What a configuration file of a stage holds."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, with_config

from bioverse_sc._modality import CELLS
from bioverse_sc._validation import check_positive
from bioverse_sc.encoders import known_encoders
from bioverse_sc.models import DtypeName, ProjectorConfig, bundled_models
from bioverse_sc.train import ATTRACTION, LoraSettings, TrainConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T", "AlignRun", "InstructRun")
STRICT = ConfigDict(extra="forbid")
"""A key that is misspelled is an error."""


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
    """Whole donors are held out; see :func:`bioverse_sc.train.split`."""
    validation: float = 0.1
    """Share of the donors that is held out. Give the stages of one model the same one, so that the same donors stay
    out."""
    measured: int = 5000
    """Entities or examples of these donors that are measured at most, drawn at random, the same ones each time."""
    balance: float = 0.0
    """0 draws observations equally often, 1 classes; see :func:`bioverse_sc.train.balanced_weights`."""
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
    mod: str = CELLS
    records: Path | None = None
    """JSON lines, Arrow or Parquet with a text for each entity, in the place of columns; see
    :func:`bioverse_sc.train.read_pairs`."""
    objective: Literal["contrastive", "autoregressive"] = "contrastive"
    description: str | None = None
    """Template of the texts; ``{description}`` by default, and ``{text}`` of records. See
    :func:`bioverse_sc.train.descriptions`."""
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
            if self.mod not in encoded | stored:
                msg = f"mod is {self.mod!r}, but model.encoders and data.use_rep name {sorted(encoded | stored)}."
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
    mod: str = CELLS
    """What a bare ``[BIO]`` means, and the modality whose alignment is measured."""
    prompt: str | None = None
    """Template; the model's own question for the label by default."""
    answer: str | None = None
    """Template; ``{name}`` by default, and ``{answer}`` of records. With ``{name}`` of columns, the names that it was
    trained on become the model's label set."""
    records: Path | None = None
    """JSON lines, Arrow or Parquet in the place of columns; see :func:`bioverse_sc.train.read_examples`."""
    train_projectors: bool = True
    keep_alignment: bool = False
    """Whether stage 1's contrastive loss goes on beside, where there are texts; it takes no ``micro_batch_size``."""
    description: str | None = None
    """Template of the texts that stage 1 aligned with; ``{description}`` by default, where there are labels."""
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

    path = existing(Path(file))
    try:
        stored = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"{path} is not YAML: {error}"
        raise ValueError(msg) from error
    try:
        config = TypeAdapter(kind).validate_python(stored)
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, e['loc'])) or kind.__name__}: {_in_words(e)}" for e in error.errors()]
        msg = f"{path} does not fit:\n" + "\n".join(faults)
        raise ValueError(msg) from error
    return _relative_to(config, path.absolute().parent)


def _in_words(error: Any) -> str:
    """What pydantic found, for somebody who does not know Python."""
    if error["type"] == "unexpected_keyword_argument":
        kinds: list[Any] = [AlignRun, InstructRun, NewModel, TrainingData, TrainConfig, LoraSettings, ProjectorConfig]
        known = {name for kind in kinds for name in kind.__dataclass_fields__} - {*ProjectorConfig.ENDS}
        name = str(error["loc"][-1])
        close = [] if name in known else get_close_matches(name, sorted(known), n=1)
        return f"there is no such key{f'; did you mean {close[0]!r}?' if close else ''}"
    if error["type"] in ("missing", "missing_argument"):
        return "is missing"
    value = f"found {error['input']!r}. " if isinstance(error["input"], str | int | float) else ""
    return value + error["msg"].removeprefix("Value error, ")


def _relative_to(config: Any, folder: Path) -> Any:
    """Make relative paths relative to a folder; names of models and encoders too, where such a folder is there."""
    changes: dict[str, Any] = {}
    for name in config.__dataclass_fields__:
        value = getattr(config, name)
        if isinstance(value, Path):
            changes[name] = Path(os.path.normpath(folder / value.expanduser()))
        elif hasattr(value, "__dataclass_fields__"):
            changes[name] = _relative_to(value, folder)
        elif name in ("start", "language_model") and value is not None:
            changes[name] = _place(value, folder)
        elif name == "encoders":
            changes[name] = {mod: _place(encoder, folder) for mod, encoder in value.items()}
    return replace(config, **changes)


def _place(name: str, folder: Path) -> str:
    """Name, or path when there is something; a name that the package knows is never one."""
    if name in bundled_models() or name in known_encoders():
        return name
    path = Path(os.path.normpath(folder / Path(name).expanduser()))
    return str(path) if name.startswith((".", "~")) or path.exists() else name


def existing(file: Path, key: str = "") -> Path:
    """Give the path of a file back that is there."""
    if not file.is_file():
        msg = f"{f'{key}: ' if key else ''}There is no file {file}."
        raise FileNotFoundError(msg)
    return file


@contextmanager
def about(key: str) -> Iterator[None]:
    """Say which key of the configuration an error is about."""
    try:
        yield
    except (KeyError, ValueError) as error:
        kind = KeyError if isinstance(error, KeyError) else ValueError
        msg = f"{key}: {error.args[0]}"
        raise kind(msg) from error
