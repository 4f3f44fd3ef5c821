import os
import re
import subprocess
import sys
import time

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from typer.testing import CliRunner

import bioverse_sc as bsc
from bioverse_sc import _files
from bioverse_sc.cli import app
from tests.same import differences

runner = CliRunner()


@pytest.fixture
def file(cells, tmp_path):
    cells[:4].copy().write_h5ad(tmp_path / "in.h5ad")
    return tmp_path / "in.h5ad"


def run(*args):
    return runner.invoke(app, [str(a) for a in args])


def test_the_command_annotates_a_file(file, tmp_path):
    """The installed command, as a process of its own."""
    out = tmp_path / "out.h5ad"
    command = [sys.executable, "-m", "bioverse_sc.cli", "annotate", str(file), "-o", str(out), "--reasoning", "none"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1", "BIOVERSE_SC_DEVICE": "cpu"}
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    adata = ad.read_h5ad(out)
    assert {"bioverse_label", "bioverse_label_id", "bioverse_confidence"} <= set(adata.obs)
    assert str(adata.obs["bioverse_label"].iloc[0]) in done.stdout


def test_it_does_what_the_function_does(file, tmp_path):
    result = run("annotate", file, "-o", tmp_path / "o.h5ad")
    assert result.exit_code == 0, result.output
    adata = ad.read_h5ad(file)
    bsc.tl.annotate(adata)
    adata.write_h5ad(tmp_path / "expected.h5ad")
    assert differences(ad.read_h5ad(tmp_path / "expected.h5ad"), ad.read_h5ad(tmp_path / "o.h5ad")) == set()


def test_labels_stem_and_layer_are_passed_on(file, tmp_path):
    args = [
        "--labels",
        "B cell",
        "--labels",
        "T cell",
        "--reasoning",
        "none",
        "--key-added",
        "mine",
        "--layer",
        "twice",
    ]
    result = run("annotate", file, "-o", tmp_path / "o.h5ad", *args)
    assert result.exit_code == 0, result.output
    adata = ad.read_h5ad(tmp_path / "o.h5ad")
    assert set(adata.obs["mine_label"]) <= {"B cell", "T cell", "unknown"}
    assert adata.uns["mine"]["embed"]["source"] == "twice"
    assert "mine_reasoning" not in adata.obs


def test_what_makes_it_cheaper_is_passed_on(file, tmp_path):
    adata = ad.read_h5ad(file)
    sc.pp.pca(adata, n_comps=2)
    sc.pp.neighbors(adata, n_neighbors=3)
    adata.obs["sample"] = pd.Categorical(["a", "b"] * (adata.n_obs // 2) + ["a"] * (adata.n_obs % 2))
    adata.write_h5ad(file)
    args = ["--by", "cluster", "--groupby", "sample", "--smooth", "--n-runner-up", 2, "--max-cells-to-generate", 3]
    result = run("annotate", file, "-o", tmp_path / "o.h5ad", *args)
    assert result.exit_code == 0, result.output
    found = ad.read_h5ad(tmp_path / "o.h5ad")
    asked = {"by": "cluster", "groupby": "sample", "smooth": True, "max_cells_to_generate": 3}
    assert asked.items() <= found.uns["bioverse"]["annotate"].items()
    assert found.obs.groupby("sample", observed=True)["bioverse_label"].nunique().eq(1).all()
    assert found.obs["bioverse_reasoning_of"].nunique() <= 3
    assert found.obsm["bioverse_runner_up"].shape == (adata.n_obs, 4)


def test_the_figure_is_drawn(file, tmp_path):
    result = run("annotate", file, "-o", tmp_path / "o.h5ad", "--reasoning", "none", "--plot", tmp_path / "f.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"
    assert "X_bioverse_umap_after" in ad.read_h5ad(tmp_path / "o.h5ad").obsm


def test_labels_are_written_though_the_figure_fails(file, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        msg = "There is no figure."
        raise ValueError(msg)

    monkeypatch.setattr(bsc.pl, "alignment_umap", fail)
    result = run("annotate", file, "-o", tmp_path / "o.h5ad", "--reasoning", "none", "--plot", tmp_path / "f.png")
    assert result.exit_code == 1
    assert "bioverse_label" in ad.read_h5ad(tmp_path / "o.h5ad").obs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.h5ad", "o.h5ad"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-o", "missing/out.h5ad"], "the folder .*missing' is not there. Make it first: mkdir -p"),
        (["-o", "in.h5ad/out.h5ad"], "is a file"),
        (["-o", "out.csb"], "ends with none of .h5ad, .h5mu, .zarr, .csv, .tsv, .csv.gz, .tsv.gz"),
        (["-o", "out"], "ends with none of"),
        (["-o", "out.loom"], "ends with none of"),
        (["-o", "out.h5mu"], "the input is AnnData; name it .h5ad"),
        (["-o", "folder.h5ad"], "is a folder"),
        (["-o", "folder.zarr"], "is no zarr store"),
        (["-o", "out.h5ad", "--plot", "missing/f.png"], "The figure .*is not there"),
        (["-o", "out.h5ad", "--plot", "f.nonsense"], "The figure .*ends with none of"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(args, message, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("folder.h5ad", "folder.zarr"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.txt").write_text("mine")
    monkeypatch.setattr(bsc.tl, "annotate", lambda *_, **__: pytest.fail("the work has begun"))
    result = run("annotate", "in.h5ad", *args)
    assert result.exit_code == 1, result.output
    assert re.search(message, result.output.replace("\n", " "))
    assert result.output.count("error: ") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.h5ad", "folder.zarr", "in.h5ad"]


@pytest.mark.parametrize(("name", "separator"), [("o.csv", ","), ("o.TSV", "\t"), ("o.csv.gz", ",")])
def test_a_table_holds_the_results(name, separator, file, tmp_path):
    result = run("annotate", file, "-o", tmp_path / name, "--reasoning", "none", "--n-runner-up", 1)
    assert result.exit_code == 0, result.output
    compression = "gzip" if name.endswith("gz") else None
    table = pd.read_csv(tmp_path / name, sep=separator, compression=compression, keep_default_na=False)
    adata = ad.read_h5ad(file)
    bsc.tl.annotate(adata, reasoning=None, n_runner_up=1)
    assert table.columns[0] == "barcode"
    assert table["barcode"].tolist() == adata.obs_names.tolist()
    for column in ("bioverse_label", "bioverse_label_id"):
        assert table[column].tolist() == adata.obs[column].astype(str).tolist()
    np.testing.assert_allclose(table["bioverse_confidence"], adata.obs["bioverse_confidence"], atol=1e-5)
    assert table["bioverse_runner_up_label_1"].tolist() == adata.obsm["bioverse_runner_up"]["label_1"].tolist()
    assert "bulk_labels" not in table


def test_zarr_and_mudata_are_read_and_written(file, tmp_path):
    adata = ad.read_h5ad(file)
    _files.write(adata, tmp_path / "in.zarr", stem="")
    mudata.MuData({"rna": adata}).write_h5mu(tmp_path / "in.h5mu")
    args = ["--reasoning", "none"]
    for given, out in (("in.zarr", "o.zarr"), ("in.h5mu", "o.h5mu"), ("in.h5mu", "mu.zarr")):
        # once more, over what is there
        for _ in range(2):
            result = run("annotate", tmp_path / given, "-o", tmp_path / out, *args)
            assert result.exit_code == 0, result.output
    labels = _files.read(tmp_path / "o.zarr").obs["bioverse_label"].tolist()
    assert _files.read(tmp_path / "o.h5mu")["rna"].obs["bioverse_label"].tolist() == labels
    assert _files.read(tmp_path / "mu.zarr")["rna"].obs["bioverse_label"].tolist() == labels
    result = run("annotate", tmp_path / "in.h5mu", "-o", tmp_path / "o.h5ad", *args)
    assert result.exit_code == 1
    assert "the input is MuData; name it .h5mu" in result.output
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


KILLED = """
import sys, time, anndata
from bioverse_sc.cli import app
real = anndata.AnnData.write_h5ad
def slow(self, path, *args, **kwargs):
    real(self, path, *args, **kwargs)
    # half of it
    open(path, "r+b").truncate(1000)
    time.sleep(300)
anndata.AnnData.write_h5ad = slow
app()
"""


def test_a_process_that_is_killed_leaves_the_input(file):
    before = file.read_bytes()
    command = [sys.executable, "-c", KILLED, "annotate", str(file), "-o", str(file), "--reasoning", "none"]
    child = subprocess.Popen(command, env=os.environ | {"BIOVERSE_SC_DEVICE": "cpu"}, stderr=subprocess.PIPE)
    try:
        for _ in range(2400):
            if any(path.stat().st_size == 1000 for path in file.parent.glob(".in.h5ad.*.new")):
                break
            assert child.poll() is None, child.stderr.read()
            time.sleep(0.1)
        else:
            pytest.fail("it was never written")
    finally:
        child.kill()
        child.communicate()
    assert file.read_bytes() == before
    # what it left goes with the next one
    result = run("annotate", file, "-o", file, "--reasoning", "none")
    assert result.exit_code == 0, result.output
    assert "bioverse_label" in ad.read_h5ad(file).obs
    assert [path.name for path in file.parent.iterdir()] == ["in.h5ad"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "maxi"], "no model 'maxi'"),
        (["--layer", "gone"], "no layer 'gone'"),
        (["--labels", "B cell", "--labels", "B cell"], "more than once"),
        (["--gene-symbols", "gone"], "no column 'gone'"),
        (["--by", "cluster"], "no column 'leiden'"),
        (["--unique"], "unique is True with by='cell'"),
    ],
)
def test_an_error_is_one_line_and_nothing_is_written(args, message, file, tmp_path):
    result = run("annotate", file, "-o", tmp_path / "o.h5ad", *args)
    assert result.exit_code == 1
    assert message in result.output
    assert result.output.count("error: ") == 1
    assert "Traceback" not in result.output
    assert not (tmp_path / "o.h5ad").exists()


def test_unusable_data_are_an_error(cells, tmp_path):
    cells.X = np.full(cells.shape, -1.0, dtype=np.float32)
    del cells.layers["twice"]
    cells.write_h5ad(tmp_path / "bad.h5ad")
    result = run("annotate", tmp_path / "bad.h5ad", "-o", tmp_path / "o.h5ad")
    assert result.exit_code == 1
    assert "negative values" in result.output


def test_a_missing_file_is_an_error(tmp_path):
    result = run("annotate", tmp_path / "gone.h5ad", "-o", tmp_path / "o.h5ad")
    assert result.exit_code != 0
    assert "gone.h5ad" in result.output
    assert "Traceback" not in result.output


def test_no_batch_is_smaller_than_one(file, tmp_path):
    assert run("annotate", file, "-o", tmp_path / "o.h5ad", "--batch-size", "0").exit_code == 2


def test_info_names_versions_and_models(mini):
    result = run("info")
    assert result.exit_code == 0
    assert f"bioverse-sc {bsc.__version__}" in result.output
    assert "model mini" in result.output
    assert f"{len(mini.config.labels)} labels" in result.output
    assert mini.fingerprint in result.output


def test_help_names_the_commands():
    result = run("--help")
    assert result.exit_code == 0
    assert all(command in result.output for command in ("annotate", "train", "info"))


def test_broad_types_are_written_and_corrections_stay_without_overwrite(file, tmp_path):
    out = tmp_path / "o.h5ad"
    assert run("annotate", file, "-o", out, "--reasoning", "none", "--coarse").exit_code == 0
    adata = ad.read_h5ad(out)
    assert adata.obs["bioverse_label_coarse"].notna().all()
    adata.obs["bioverse_label"] = "corrected"
    adata.write_h5ad(out)
    result = run("annotate", out, "-o", tmp_path / "again.h5ad", "--reasoning", "none")
    assert result.exit_code == 1
    assert "overwrite" in result.output
    assert run("annotate", out, "-o", tmp_path / "again.h5ad", "--reasoning", "none", "--overwrite").exit_code == 0
