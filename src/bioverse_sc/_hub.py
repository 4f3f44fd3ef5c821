"""The hub: a folder or a file of a repository, and what to do on a machine without access to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(text: str) -> bool:
    """Whether a text may name a repository, as ``"owner/name"``."""
    return _ID.fullmatch(text) is not None


def fetch_folder(
    repository: str, revision: str | None, *, patterns: Sequence[str] | None = None, instead: str | None = None
) -> Path:
    """Folder with the files of a repository, fetched where they are not on this machine yet.

    Parameters
    ----------
    repository
        ``"owner/name"``.
    revision
        Branch, tag or commit; the main branch by default.
    patterns
        Names of the files that are needed; all by default.
    instead
        What to do without access to the hub, to end the message of an error; by default to download the repository
        elsewhere.

    Raises
    ------
    FileNotFoundError
        When it cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    chosen = None if patterns is None else list(patterns)
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=chosen))
    except hub_errors() as error:
        raise FileNotFoundError(_not_fetched(repository, revision, error, instead)) from error


def fetch_file(repository: str, name: str, revision: str | None, *, instead: str | None = None) -> Path | None:
    """One file of a repository, as :func:`fetch_folder`; ``None`` where the repository has no such file.

    Parameters
    ----------
    repository
        ``"owner/name"``.
    revision
        Branch, tag or commit; the main branch by default.
    instead
        What to do without access to the hub, to end the message of an error.
    name
        Of the file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except hub_errors() as error:
        # one that is not on this machine may well be in the repository
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        raise FileNotFoundError(_not_fetched(repository, revision, error, instead)) from error


def hub_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises.

    It lets errors of its HTTP library through, which is another one in each major version.
    """
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    http = [base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError" and issubclass(base, Exception)]
    return (OSError, EntryNotFoundError, HFValidationError, *http)


def without_access(instead: str) -> str:
    """What to do about something that the hub did not give."""
    return f"If its name is right and this machine has no access to the hub, {instead}"


def _not_fetched(repository: str, revision: str | None, error: Exception, instead: str | None) -> str:
    at = f" at {revision}" if revision else ""
    download = f"hf download {repository}{f' --revision {revision}' if revision else ''} --local-dir FOLDER"
    return (
        f"The hub repository {repository!r}{at} could not be fetched ({type(error).__name__}), and there is no folder "
        f"of that name. {without_access(instead or f'download it elsewhere ({download}), and pass the folder.')}"
    )
