import os
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from typer.testing import CliRunner

import bioverse_sc as bsc
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
    asked = {"by": "cluster", "groupby": "sample", "smooth": True, "max_cells_to_generate": 3, "reasoning": "cell"}
    assert asked.items() <= found.uns["bioverse"]["annotate"].items()
    assert found.obs.groupby("sample", observed=True)["bioverse_label"].nunique().eq(1).all()
    assert found.obs["bioverse_reasoning_of"].nunique() <= 3
    assert found.obsm["bioverse_runner_up"].shape == (adata.n_obs, 4)


def test_the_figure_is_drawn(file, tmp_path):
    result = run("annotate", file, "-o", tmp_path / "o.h5ad", "--reasoning", "none", "--plot", tmp_path / "f.png")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"
    assert "X_bioverse_umap_after" in ad.read_h5ad(tmp_path / "o.h5ad").obsm


def test_labels_are_written_though_the_figure_fails(file, tmp_path):
    result = run("annotate", file, "-o", tmp_path / "o.h5ad", "--reasoning", "none", "--plot", tmp_path / "f.nonsense")
    assert result.exit_code != 0
    assert "bioverse_label" in ad.read_h5ad(tmp_path / "o.h5ad").obs


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "maxi"], "no model 'maxi'"),
        (["--layer", "gone"], "no layer 'gone'"),
        (["--labels", "B cell", "--labels", "B cell"], "more than once"),
        (["--gene-symbols", "gone"], "no column 'gone'"),
        (["--by", "cluster"], "no column 'leiden'"),
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
