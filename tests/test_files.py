import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from scipy.sparse import csc_matrix

from bioverse_sc import _files


@pytest.fixture
def small():
    return ad.AnnData(np.arange(6, dtype=np.float32).reshape(3, 2))


def write_10x(path, names=("CD3D", "TBCE", "TBCE", "CD8A")):
    """What Cell Ranger writes: a column for each barcode, a symbol twice, an antibody."""
    counts = csc_matrix(np.arange(12).reshape(4, 3) % 5)
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = np.array([f"ACGT{i}-1" for i in range(3)], dtype="S")
        for name in ("data", "indices", "indptr"):
            matrix[name] = getattr(counts, name)
        matrix["shape"] = np.array(counts.shape)
        features = matrix.create_group("features")
        features["id"] = np.array([f"ENSG{i:011d}" for i in range(4)], dtype="S")
        features["name"] = np.array(names, dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * 3 + ["Antibody Capture"], dtype="S")
        features["genome"] = np.array(["GRCh38"] * 3 + [""], dtype="S")


def test_a_matrix_of_10x_is_read_with_all_its_features(tmp_path):
    write_10x(tmp_path / "filtered.h5")
    adata = _files.read(tmp_path / "filtered.h5")
    assert adata.shape == (3, 4)
    assert adata.var_names.is_unique
    assert adata.var["gene_ids"].is_unique
    assert adata.var["feature_types"].tolist() == ["Gene Expression"] * 3 + ["Antibody Capture"]


@pytest.mark.parametrize("name", ["a.h5ad", "a.h5mu", "a.h5", "a.zarr"])
def test_what_is_not_what_it_says_is_an_error_in_one_line(name, tmp_path):
    (tmp_path / name).write_text("no data")
    with pytest.raises(ValueError, match=rf"{name}' cannot be read as \.") as raised:
        _files.read(tmp_path / name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a.loom", "a", "a.h5ad.gz", ".h5ad", "a.csv"])
def test_other_endings_are_an_error_that_lists_them(name, tmp_path):
    (tmp_path / name).write_text("no data")
    with pytest.raises(ValueError, match=r"ends with none of \.h5ad, \.h5mu, \.zarr, \.h5,"):
        _files.read(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*gone\.h5ad"):
        _files.read(tmp_path / "gone.h5ad")


def test_a_file_that_may_not_be_written_is_an_error(tmp_path, small):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    small.write_h5ad(tmp_path / "a.h5ad")
    (tmp_path / "a.h5ad").chmod(0o444)
    with pytest.raises(PermissionError, match="may not be written to"):
        _files.check_output(tmp_path / "a.h5ad", _files.WRITTEN, "The output")
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(PermissionError, match="cannot be written"):
            _files.check_output(tmp_path / "b.h5ad", _files.WRITTEN, "The output")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr", "a.csv", "a.csv.gz"])
def test_a_failed_write_leaves_what_was_there(name, tmp_path, small, monkeypatch):
    small.obs["bioverse_label"] = ["a", "b", "c"]
    path = tmp_path / name
    _files.write(small, path, stem="bioverse")

    def snapshot():
        return {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    before = snapshot()

    def fail(file):
        msg = "no space is left"
        raise OSError(msg)

    monkeypatch.setattr(_files, "_flush", fail)
    with pytest.raises(OSError, match="no space"):
        _files.write(small, path, stem="bioverse")
    assert snapshot() == before
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_link_stays_one_and_so_do_permissions(tmp_path, small):
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "a.h5ad"
    small.write_h5ad(target)
    target.chmod(0o640)
    (tmp_path / "a.h5ad").symlink_to(target)
    small.obs["new"] = [1, 2, 3]
    _files.write(small, tmp_path / "a.h5ad", stem="bioverse")
    assert (tmp_path / "a.h5ad").is_symlink()
    assert "new" in ad.read_h5ad(target).obs
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


CHILD = """
import signal, sys, time, anndata, numpy as np
from pathlib import Path
from bioverse_sc import _files
# what runs in the background of a shell has it ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
with _files.beside(Path(sys.argv[1])) as fresh:
    fresh.write_bytes(b"half")
    time.sleep(300)
"""


@pytest.mark.parametrize(("number", "left"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, 1)])
def test_a_signal_while_it_is_written_leaves_the_old_file(number, left, tmp_path):
    path = tmp_path / "a.h5ad"
    path.write_bytes(b"old")
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stderr=subprocess.DEVNULL)
    for _ in range(1200):
        if any(file.read_bytes() for file in tmp_path.glob(".a.h5ad.*.new")):
            break
        assert child.poll() is None
        time.sleep(0.1)
    child.send_signal(number)
    assert child.wait(60) != 0
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.glob(".*"))) == left
    with _files.beside(path) as fresh:
        fresh.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5ad"]


def test_what_a_running_process_writes_is_left_alone(tmp_path):
    other = tmp_path / f".a.h5ad.{os.getppid()}.new"
    other.write_bytes(b"half")
    with _files.beside(tmp_path / "a.h5ad") as fresh:
        fresh.write_bytes(b"new")
    assert other.exists()


def test_signals_go_where_they_went_before(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with _files.beside(Path(tmp_path / "a.csv")) as fresh:
        assert signal.getsignal(signal.SIGTERM) != before
        fresh.write_text("a")
    assert signal.getsignal(signal.SIGTERM) == before
