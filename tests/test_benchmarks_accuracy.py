"""What ``benchmarks/accuracy.py`` computes of its own, and its tables on simulated cells."""

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import bioverse_sc as bsc

for module in ("celltypist", "decoupler", "rdkit"):
    pytest.importorskip(module)

# celltypist and decoupler come with warnings of their own
pytestmark = pytest.mark.filterwarnings("ignore")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
B, T, MONOCYTE = "CL:0000236", "CL:0000084", "CL:0000576"
CD4_T, LYMPHOCYTE = "CL:0000624", "CL:0000542"
SCORER = """
import json, sys
from pathlib import Path
import anndata as ad

def main():
    obs = ad.read_h5ad(sys.argv[1]).obs
    assert sys.argv[2:] == ["simulated", "--column", "term", "--json"]
    right = float((obs["cell_type"].astype(str) == obs["term"].astype(str)).mean())
    print(json.dumps({"coarse": right, "fine": right, "coarse_macro_f1": right}))
"""


@pytest.fixture(scope="module")
def accuracy():
    path, before = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("benchmarks_accuracy", BENCHMARKS / "accuracy.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path
    # names of the recipe's modules are common words
    ours = {spec.name, "baselines", "cells", "evaluate", "language", "questions", "recipe", "sequences"}
    for name in ours - before:
        sys.modules.pop(name, None)


def test_it_needs_no_extra_but_its_own():
    file = str(BENCHMARKS / "accuracy.py")
    code = (
        f"import runpy, sys; sys.modules['rdkit'] = None; sys.argv = [{file!r}, '--help']; runpy.run_path({file!r}, "
        "run_name='__main__')"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS)},
    )
    assert found.returncode == 0, found.stderr
    assert "--leave-out" in found.stdout


@pytest.fixture(scope="module")
def profiles(accuracy, mini):
    """Three types in two sets: each type has 40 genes of its own, its markers among them, and a set has some."""
    markers = bsc.ontology.cell_ontology().markers
    vocabulary = mini.encoders["rna"].genes
    known = set(vocabulary)
    own = {t: [gene for gene in markers[t] if gene in known][:20] for t in (B, T, MONOCYTE)}
    named = [gene for genes in own.values() for gene in genes]
    genes = list(dict.fromkeys([*named, *vocabulary]))[:300]
    rng = np.random.default_rng(0)
    base = rng.gamma(1.0, 1.0, size=301)
    rows, terms, sets = [], [], []
    for name in ("one", "two"):
        effect = np.exp(0.3 * rng.standard_normal(301))
        for i, term in enumerate(own):
            row = base * effect
            row[[genes.index(gene) for gene in own[term]]] *= 20
            row[100 + 20 * i : 120 + 20 * i] *= 20
            rows.append(row / row.sum())
            terms.append(term)
            sets.append(name)
    return accuracy.Profiles(np.array(rows), genes, np.array(terms), np.array(sets), np.ones(6, dtype=bool))


@pytest.fixture
def shared(tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "tools/score_labels.py").write_text(SCORER)
    table = pd.DataFrame({"coarse_cl_ids": [B, f"{T}|{LYMPHOCYTE}", MONOCYTE]})
    table.to_csv(tmp_path / "data/labels_to_cl.csv")
    return tmp_path


def test_cells_as_the_baselines_read_them(accuracy):
    genes = [f"G{i}" for i in range(200)]
    counts = np.random.default_rng(0).poisson(2.0, size=(3, 100)).astype(np.float32)
    log = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 500)
    # a column that is no gene of the vocabulary takes no part in the total
    more = csr_matrix(np.hstack([log, np.ones((3, 1), np.float32)]))
    names = pd.DataFrame(index=[*genes[50:150], "elsewhere"])
    for values in (more, csr_matrix(np.hstack([counts, np.ones((3, 1), np.float32)]))):
        query = accuracy.prepare(ad.AnnData(values, var=names), genes, [])
        assert query.genes == genes[50:150]
        np.testing.assert_allclose(np.expm1(query.log.toarray()).sum(axis=1), 1e4, rtol=1e-4)
        wanted = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
        np.testing.assert_allclose(query.log.toarray(), wanted, atol=2e-3)
        over = query.over(genes[::-1]).toarray()[:, ::-1]
        np.testing.assert_array_equal(over[:, 50:150], query.log.toarray())
        assert over.sum() == pytest.approx(query.log.sum())


def test_means_and_ranges(accuracy):
    assert accuracy.shown([0.5]) == "0.500"
    assert accuracy.shown([0.5, 0.6]) == "0.550 [0.500, 0.600]"
    assert accuracy.shown([]) == accuracy.shown([np.nan]) == "–"


def test_best_is_bold_and_winners_are_named(accuracy):
    rows = {
        "mini": {"fine": [0.8], "seconds": [3.0]},
        "a": {"fine": [0.7, 0.95], "seconds": [1.0, 1.0]},
        "b": {"fine": [0.81, 0.82], "seconds": [2.0, 2.0]},
        "c": {"seconds": [0.5]},
        "d": {"fine": [0.8], "seconds": [4.0]},
    }
    lines = accuracy.table(rows, {"fine": "fine", "seconds": "s"}, digits={"seconds": 1}, unmarked=["c"]).splitlines()
    assert lines[0] == "| | fine | s |"
    assert lines[3] == "| a | **0.825 [0.700, 0.950]** | **1.0 [1.0, 1.0]** |"
    assert lines[5] == "| c | – | 0.5 |"
    assert sum("**" in line for line in lines) == 1
    assert accuracy.beaten(rows, {"fine": "fine"}) == ["fine (mini 0.800): a 0.825*, b 0.815"]
    assert accuracy.beaten({"mini": {"fine": [0.9]}, "a": {"fine": [0.9]}}, {"fine": "fine"}) == []


def test_mean_of_sets_is_by_seed(accuracy):
    results = {
        "x": {"a": {"fine": [0.0, 1.0], "seconds": [1.0, 2.0]}},
        "y": {"a": {"fine": [1.0, 1.0], "seconds": [3.0, 4.0]}},
    }
    assert accuracy.mean_of_sets(results, ["fine", "seconds"]) == {"a": {"fine": [0.5, 1.0], "seconds": [4.0, 6.0]}}


def test_scores_by_the_ontology(accuracy):
    among = {T, LYMPHOCYTE, MONOCYTE}
    assert accuracy.lineage(CD4_T, among) == {T}
    assert accuracy.lineage(B, among) == {LYMPHOCYTE}
    assert accuracy.lineage("CL:0000232", among) == set()
    # an erythrocyte has no lineage; the other sets have a kind of T cell, and no monocyte
    truth = [T, T, MONOCYTE, "CL:0000232"]
    found = accuracy.ontology_scores(truth, [CD4_T, LYMPHOCYTE, MONOCYTE, T], {CD4_T}, among)
    assert found == {"coarse": pytest.approx(2 / 3), "fine": 0.5}
    none = accuracy.ontology_scores(["CL:0000232"], [T], set(), among)
    assert np.isnan(none["coarse"])
    assert np.isnan(none["fine"])


def test_every_method_names_the_types(accuracy, profiles, mini):
    counts, truth = accuracy.labelled_cells(profiles, 60, seed=5, balance=0.0)
    kept = np.arange(counts.shape[1]) % 5 > 0
    genes = pd.DataFrame(index=np.array(profiles.genes)[kept])
    query = accuracy.prepare(ad.AnnData(counts[:, kept], var=genes), profiles.genes, [mini])
    labellers, seconds = accuracy.train(profiles, 400, [mini], seed=0, turn=1, threads=1)
    labellers |= {"Spearman": accuracy.by_profile(profiles), "decoupler": accuracy.by_markers([B, T, MONOCYTE])}
    assert set(seconds) == {"simulating cells", "CellTypist", "probe", "LogisticRegression"}
    right = {}
    for name, labeller in labellers.items():
        terms, taken = accuracy.label(name, labeller, query)
        assert taken > (query.vector_seconds if name == "probe" else query.log_seconds)
        right[name] = (terms == truth).mean()
    # simulated panels may keep a few dozen genes of 300
    assert min(right.values()) > 0.7, right


@pytest.mark.slow
def test_tables(accuracy, profiles, mini, shared, monkeypatch, capsys):
    counts, truth = accuracy.labelled_cells(profiles, 30, seed=6, balance=0.0)
    adata = ad.AnnData(counts, pd.DataFrame({"cell_type": truth}, [f"c{i}" for i in range(len(truth))]))
    adata.var_names = profiles.genes
    monkeypatch.setattr(accuracy, "read", lambda shared, name: adata)
    monkeypatch.setattr(accuracy, "LEFT_OUT_CELLS", 20)
    options = argparse.Namespace(sets=["simulated"], seeds=[0, 1], cells=200, leave_out=["one"])
    options.threads, options.leave_out_cells = 1, 200
    accuracy.compare(shared, [mini], profiles, options)
    printed = capsys.readouterr().out
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")][2:]
    assert [row[0] for row in rows] == [
        "| mini",
        "| Spearman",
        "| decoupler",
        "| CellTypist",
        "| probe",
        "| LogisticRegression",
    ]
    # a range where there are seeds
    assert ["[" in row[1] for row in rows] == [False, False, False, True, True, True]
    assert "beats mini" in printed
    # the object that was read is as it was
    assert not adata.obsm
    assert list(adata.obs) == ["cell_type"]

    accuracy.leave_out(shared, [mini], profiles, options)
    printed = capsys.readouterr().out
    rows = {line.split(" | ")[0].strip("| "): line for line in printed.splitlines() if line.startswith("| ")}
    # mini has seen the set, and so has the embedding
    assert rows["mini"].endswith("| – | – |")
    assert rows["probe"].endswith("| – | – |")
    assert rows["probe, whose embedding has seen the set"].startswith(
        "| probe, whose embedding has seen the set | – | – | "
    )
    assert "**" not in rows["probe, whose embedding has seen the set"]
    assert "–" not in rows["Spearman"]
    assert "one" in rows
    options.leave_out = ["three"]
    with pytest.raises(SystemExit, match=r"no set 'three'.*'one', 'two'"):
        accuracy.leave_out(shared, [mini], profiles, options)
