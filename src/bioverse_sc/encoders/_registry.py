"""Encoders by name: known checkpoints, hub repositories, folders, and what a user registered. No torch at import."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from bioverse_sc._keys import check_name
from bioverse_sc._modality import CELLS
from bioverse_sc._quiet import undisturbed
from bioverse_sc._settings import settings
from bioverse_sc.encoders._base import Encoder, missing_members
from bioverse_sc.encoders._checkpoints import checkpoint_folder, published

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bioverse_sc.encoders._base import StoredEncoder

_CLASSES = {"scgpt": "scgpt:ScGPTEncoder", "esm2": "esm2:Esm2Encoder", "chemberta": "chemberta:ChembertaEncoder"}
"""Module and class of this package's own encoders."""
_OF_MODALITY = {CELLS: "scgpt", "protein": "esm2", "molecule": "chemberta"}
"""Which of them reads what a name of no registered encoder stands for."""
_factories: dict[str, Callable[[], Encoder]] = {}


def known_encoders() -> dict[str, str]:
    """Names of registered encoders and of published scGPT checkpoints, each with a description."""
    checkpoints = {name: f"scGPT: {entry['description']}" for name, entry in published()["checkpoints"].items()}
    return {**dict.fromkeys(_factories, "registered"), **checkpoints}


def register(name: str, factory: Callable[[], Encoder], *, overwrite: bool = False) -> None:
    """Make an encoder of your own usable by name, as in ``bsc.tl.embed(adata, encoder="mine")``.

    Parameters
    ----------
    name
        What :func:`get_encoder` is called with.
    factory
        Called without arguments when the encoder is asked for; gives a :class:`Encoder`. A class is one.
    overwrite
        Whether an encoder that was registered under this name before may be replaced.

    Raises
    ------
    ValueError
        When the name is taken, or could be a path.
    TypeError
        When ``factory`` cannot be called.
    """
    if not name or "/" in name or "\\" in name:
        msg = f"{name!r} cannot be the name of an encoder: a name with a slash is a folder or a hub repository."
        raise ValueError(msg)
    if name in ("precomputed", "scgpt") or name in published()["checkpoints"] or (name in _factories and not overwrite):
        msg = f"There is an encoder {name!r} already; choose another name" + (
            ", or pass overwrite=True." if name in _factories else "."
        )
        raise ValueError(msg)
    check_name(name, "name", example="mine")
    if not callable(factory):
        msg = (
            f"factory is {type(factory).__name__}; expected a function or class that gives the encoder when it is "
            "called."
        )
        raise TypeError(msg)
    _factories[name] = factory


def restore(name: str, folder: Path) -> Encoder | None:
    """Make the encoder of a saved model again, by the encoder's own name: from its folder where it was stored, or anew.

    ``None`` when it was not stored and nothing of that name is registered.

    Parameters
    ----------
    name
        The encoder's own.
    folder
        Where a model stores it.

    Raises
    ------
    ValueError
        When it was stored, but its class is none of this package and is not registered.
    """
    if name in _CLASSES and folder.is_dir():
        return _class(name).from_folder(folder)
    # it may have been registered under another name than its own
    named = [_factories[name]] if name in _factories else list(_factories.values())
    for factory in named:
        if folder.is_dir():
            if getattr(factory, "name", None) == name and hasattr(factory, "from_folder"):
                return cast("Encoder", cast("type[StoredEncoder]", factory).from_folder(folder))
        elif (encoder := factory()).name == name:
            return encoder
    if folder.is_dir():
        msg = (
            f"The model's encoder {name!r} is none of this package. Register its class, which has from_folder(), "
            f"before the model is loaded: bsc.encoders.register({name!r}, TheClass)"
        )
        raise ValueError(msg)
    return None


def _class(name: str) -> Any:
    """Class of an encoder of this package."""
    module, kind = _CLASSES[name].split(":")
    return getattr(import_module(f"bioverse_sc.encoders.{module}"), kind)


@undisturbed()
def get_encoder(
    name_or_path: str | Path,
    *,
    mod: str = CELLS,
    revision: str | None = None,
    device: str | None = None,
) -> Any:
    """Load an encoder of cells, proteins or molecules.

    Parameters
    ----------
    name_or_path
        A registered name, the name of a published scGPT checkpoint such as ``"whole-human"``, a folder with
        ``args.json``, ``vocab.json`` and ``best_model.pt`` or ``model.safetensors``, or a hub repository
        ``"owner/name"`` with these files. Of proteins an ESM-2 checkpoint, and of molecules a ChemBERTa one, in the
        format of transformers: a folder, or a hub repository such as ``"facebook/esm2_t12_35M_UR50D"`` or
        ``"DeepChem/ChemBERTa-77M-MLM"``.
    mod
        Modality that the encoder reads, where its name does not say it: ``"rna"``, ``"protein"`` or ``"molecule"``.
    revision
        Branch, tag or commit of the hub repository.
    device
        Torch device; ``bsc.settings.device`` by default.

    Raises
    ------
    ValueError
        For a name that is nothing of these, or weights that do not fit together.
    FileNotFoundError
        When files are not there and cannot be fetched. The message says which files to put where.
    TypeError
        When a registered factory gives something that is no encoder.
    """
    name = str(name_or_path)
    if isinstance(name_or_path, str) and name in _factories:
        encoder = _factories[name]()
        check_encoder(encoder, f"The encoder {name!r}")
    elif mod == CELLS:
        encoder = _class(_OF_MODALITY[mod]).from_folder(checkpoint_folder(name_or_path, revision, known_encoders()))
    elif mod in _OF_MODALITY:
        encoder = _class(_OF_MODALITY[mod]).from_pretrained(name_or_path, revision=revision)
    else:
        expected = " or ".join([", ".join(map(repr, list(_OF_MODALITY)[:-1])), repr(list(_OF_MODALITY)[-1])])
        msg = f"mod is {mod!r}; expected {expected}, or the name of an encoder that was registered."
        raise ValueError(msg)
    moved = encoder.to(device or settings.torch_device())
    check_encoder(moved, f"What to() of the encoder {name!r} returns")
    return moved


def check_encoder(encoder: Any, named: str) -> None:
    """Raise when something is no encoder.

    Parameters
    ----------
    encoder
        What may be one.
    named
        What the error calls it.
    """
    if missing := missing_members(encoder):
        msg = f"{named} is a {type(encoder).__name__}, which lacks {', '.join(missing)}; see bsc.encoders.Encoder."
        raise TypeError(msg)
    # it becomes a slot
    check_name(encoder.name, f"{named}: its name", example="mine")
