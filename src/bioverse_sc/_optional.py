"""Packages that come with an extra."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an extra when it is needed.

    Parameters
    ----------
    module
        What to import, such as ``"nltk"`` or ``"nltk.translate.bleu_score"``.
    extra
        Name of the extra in ``pyproject.toml`` that installs it.

    Raises
    ------
    ImportError
        With the command that installs the extra; the original error is its cause.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        # a package that is there and breaks must not be called absent
        absent = isinstance(error, ModuleNotFoundError) and error.name == package
        state = "is not installed" if absent else f"does not import ({error})"
        msg = f"This needs {package}, which {state}: pip install 'bioverse-sc[{extra}]'"
        raise ImportError(msg, name=module) from error
