"""Data in files: the format goes by the ending of the name, and a file is replaced only by one that is whole."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

READ = (".h5ad", ".h5mu", ".zarr", ".h5")
TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
WRITTEN = (".h5ad", ".h5mu", ".zarr", *TABLES)


def ending(path: Path, known: Sequence[str], named: str) -> str:
    """Ending of a name, in lower case.

    Raises
    ------
    ValueError
        When it is none of the known ones.
    """
    for one in sorted(known, key=len, reverse=True):
        if path.name.lower().endswith(one) and len(path.name) > len(one):
            return one
    msg = f"{named} {str(path)!r} ends with none of {', '.join(known)}, by which its format goes. Give it one of these."
    raise ValueError(msg)


def read(path: Path) -> AnnData | MuData:
    """Read ``.h5ad``, ``.h5mu``, ``.zarr`` of either, or the ``.h5`` of 10x Genomics.

    Raises
    ------
    FileNotFoundError
        When it is not there.
    ValueError
        For another ending, or a file that is not what it says.
    """
    kind = ending(path, READ, "The input")
    if not path.exists():
        msg = f"There is no file {str(path)!r}."
        raise FileNotFoundError(msg)
    try:
        return _READERS[kind](path)
    except PermissionError:
        raise
    except Exception as error:
        # libraries raise errors of many kinds, some of them bare
        msg = f"{str(path)!r} cannot be read as {kind}: {' '.join(str(error).split()) or type(error).__name__:.300}"
        raise ValueError(msg) from error


def _read_h5ad(path: Path) -> AnnData:
    import anndata

    return anndata.read_h5ad(path)


def _read_h5mu(path: Path) -> MuData:
    import mudata

    return mudata.read_h5mu(path)


def _read_zarr(path: Path) -> AnnData | MuData:
    import anndata
    import mudata

    return mudata.read_zarr(path) if (path / "mod").is_dir() else anndata.read_zarr(path)


def _read_10x(path: Path) -> AnnData:
    import scanpy as sc

    with warnings.catch_warnings():
        # they are, below
        warnings.filterwarnings("ignore", message="Variable names are not unique", category=UserWarning)
        # antibodies and others stay in the file
        adata = sc.read_10x_h5(path, gex_only=False)
    adata.var_names_make_unique()
    return adata


_READERS: dict[str, Any] = {".h5ad": _read_h5ad, ".h5mu": _read_h5mu, ".zarr": _read_zarr, ".h5": _read_10x}


def check_output(path: Path, known: Sequence[str], named: str) -> str:
    """Raise when a file could not be written in the end; gives its ending.

    Raises
    ------
    ValueError
        For an unknown ending, or a folder in the place of a file.
    FileNotFoundError
        When its folder is not there.
    PermissionError
        When its folder, or the file that is there, cannot be written to.
    """
    kind = ending(path, known, named)
    folder = path.resolve().parent
    if not folder.is_dir():
        state = "a file" if folder.exists() else "not there"
        msg = (
            f"{named} {str(path)!r} cannot be written: the folder {str(folder)!r} is {state}. Make it first: mkdir -p "
            f"'{folder}'"
        )
        raise FileNotFoundError(msg)
    if kind == ".zarr":
        is_store = path.is_dir() and any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zattrs"))
        if path.exists() and not is_store and not (path.is_dir() and not any(path.iterdir())):
            msg = f"{named} {str(path)!r} is there and is no zarr store, so it is not replaced. Give another name."
            raise ValueError(msg)
    elif path.is_dir():
        msg = f"{named} {str(path)!r} is a folder; give the name of a file."
        raise ValueError(msg)
    if path.exists() and not os.access(path, os.W_OK):
        msg = f"{named} {str(path)!r} is there and may not be written to. Give another name."
        raise PermissionError(msg)
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        msg = f"{named} {str(path)!r} cannot be written: {error.strerror} in the folder {str(folder)!r}."
        raise PermissionError(msg) from error
    return kind


def check_fits(data: AnnData | MuData, kind: str, named: str) -> None:
    """Raise when a format cannot hold what was read."""
    is_mudata = hasattr(data, "mod")
    if is_mudata and kind == ".h5ad":
        msg = (
            f"{named} ends with .h5ad, and the input is MuData; name it .h5mu or .zarr, or .csv for a table of the "
            "results."
        )
        raise ValueError(msg)
    if not is_mudata and kind == ".h5mu":
        msg = (
            f"{named} ends with .h5mu, and the input is AnnData; name it .h5ad or .zarr, or .csv for a table of the "
            "results."
        )
        raise ValueError(msg)


def write(data: AnnData | MuData, path: Path, *, stem: str, cells: AnnData | None = None) -> None:
    """Write data, or the table of the results of their ``cells`` under a stem, by the ending of the name.

    It is written beside its place and moved there when it is whole, so that what was there before is there until then.
    """
    kind = ending(path, WRITTEN, "The output")
    with beside(path) as fresh:
        if kind in TABLES:
            separator = "\t" if kind.startswith(".tsv") else ","
            results(data if cells is None else cells, stem).to_csv(
                fresh, sep=separator, compression="gzip" if kind.endswith(".gz") else None
            )
        elif kind == ".zarr":
            if hasattr(data, "mod"):
                # mudata 0.4 reads it as a number of numpy, which zarr cannot write
                data._axis = int(data.axis)
            with warnings.catch_warnings():
                # the format is the default of the version that is installed
                warnings.filterwarnings("ignore", message="Writing zarr v2 data", category=UserWarning)
                data.write_zarr(fresh)
        elif kind == ".h5mu":
            import mudata

            mudata.write_h5mu(fresh, data)
        else:
            data.write_h5ad(fresh)


def results(adata: AnnData, stem: str) -> pd.DataFrame:
    """What is stored of each cell under a stem, without vectors; the index is called ``barcode``."""
    table = adata.obs[[column for column in adata.obs if str(column).startswith(f"{stem}_")]]
    frames = {slot: frame for slot, frame in adata.obsm.items() if isinstance(frame, pd.DataFrame)}
    more = [frame.add_prefix(f"{slot}_") for slot, frame in frames.items() if slot.startswith(f"{stem}_")]
    return pd.concat([table, *more], axis=1).rename_axis("barcode")


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give a name in the same folder to write to; it takes its place at the end, and is gone after an error.

    What a process that was killed has left there of the same file is removed.
    """
    path = path.resolve()
    for old in path.parent.glob(f".{path.name}.*.new"):
        if not _is_running(old.name.split(".")[-2]):
            _remove(old)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    with _ended_properly():
        try:
            yield fresh
            _flush(fresh)
            if path.exists():
                shutil.copymode(path, fresh)
            if fresh.is_dir() and path.exists():
                _exchange(fresh, path)
            else:
                fresh.replace(path)
        finally:
            _remove(fresh)


def _exchange(fresh: Path, path: Path) -> None:
    """Put a folder in the place of another one."""
    before = fresh.with_suffix(".old")
    path.rename(before)
    try:
        fresh.rename(path)
    except BaseException:
        before.rename(path)
        raise
    _remove(before)


def _flush(path: Path) -> None:
    """Have it on the disk before it takes the place of another one."""
    for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_running(process: str) -> bool:
    """Whether a process is there; one that cannot be asked about counts as running."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):
        return True
    return True


@contextmanager
def _ended_properly() -> Iterator[None]:
    """Let a request to end be an exception, so that what is half written is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
