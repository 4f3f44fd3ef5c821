"""Stages from configuration files, on tiny models and data that are written to disk."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from mudata import MuData
from safetensors.torch import load_file
from typer.testing import CliRunner

import bioverse_sc as bsc
from bioverse_sc import _files, train
from bioverse_sc.cli import app
from bioverse_sc.encoders.scgpt import ScGPTEncoder
from bioverse_sc.runs import AlignRun, InstructRun, _processes, metrics_table, read_config, run_align, run_instruct
from tests.tiny import GENES, make_encoder, make_model

ROOT = Path(__file__).parents[2]
TYPES = ("B cell", "T cell", "monocyte")
DONORS = ("d1", "d2", "d3", "d4")
STEPS = {
    "steps": 6,
    "batch_size": 8,
    "warmup_steps": 1,
    "learning_rate": 0.01,
    "checkpoint_every": 2,
    "max_tokens": 256,
}


def make_cells(*, n=48):
    """Cells of three types from four donors; each type has genes of its own."""
    rng = np.random.default_rng(0)
    kind = np.arange(n) % 3
    means = np.full((n, len(GENES)), 0.5)
    for i in range(3):
        means[kind == i, i * 20 : i * 20 + 20] = 8
    obs = {
        "cell_type": np.array(TYPES)[kind],
        "donor_id": np.array(DONORS)[np.arange(n) // 3 % 4],
        "tissue": np.where(np.arange(n) % 2, "blood", "spleen"),
    }
    adata = ad.AnnData(
        rng.poisson(means).astype(np.float32),
        obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(n)]),
        var=pd.DataFrame(index=GENES),
    )
    adata.obsm["X_rep"] = (np.eye(10)[kind] + rng.normal(scale=0.1, size=(n, 10))).astype(np.float32)
    return adata


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with cells, and with a language model, an encoder and a model to start from."""
    folder = tmp_path_factory.mktemp("made")
    make_cells().write_h5ad(folder / "cells.h5ad")
    model = make_model(dropout=0.0, encoders={"rna": make_encoder()}, labels=("old",))
    bsc.models.save(model, folder / "base", include_language_model=True)
    return folder


@pytest.fixture
def here(made, tmp_path):
    """The same in a folder of its own, by links."""
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def align_config(**changes):
    config = {
        "output": "out",
        "model": {
            "name": "mine",
            "language_model": "base",
            "encoders": {"rna": "base/encoders/rna"},
            "projectors": {"rna": {"hidden_width": 24, "n_layers": 2}},
        },
        "data": {"file": "cells.h5ad", "validation": 0.25},
        "description": "A {name}.",
        "train": STEPS,
    }
    return merged(config, changes)


def instruct_config(**changes):
    config = {
        "output": "tuned",
        "start": "base",
        "data": {"file": "cells.h5ad", "validation": 0.25},
        "description": "A {name}.",
        "train": STEPS,
        "lora": {"rank": 2, "alpha": 4},
        "keep_alignment": True,
    }
    return merged(config, changes)


def merged(config, changes):
    """Nested changes; ``...`` takes a key away."""
    out = dict(config)
    for key, value in changes.items():
        if value is ...:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merged(out[key], value)
        else:
            out[key] = value
    return out


def write(folder, config, name="run.yaml"):
    (folder / name).write_text(yaml.safe_dump(config, sort_keys=False))
    return folder / name


def aligned(folder, **changes):
    return run_align(read_config(write(folder, align_config(**changes)), AlignRun))


def tuned(folder, **changes):
    return run_instruct(read_config(write(folder, instruct_config(**changes)), InstructRun))


def cli(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


def refused(file, stage="align"):
    """The message of a command that ends with an error."""
    result = cli("train", stage, "--config", file)
    assert result.exit_code == 1, result.output
    assert result.output.count("error: ") == 1
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    return result.output


@pytest.fixture
def spied(monkeypatch):
    """What reaches :func:`align` and :func:`instruct`."""
    seen = {}
    for name in ("align", "instruct"):
        real = getattr(train, name)

        def spy(*args, _real=real, _name=name, **kwargs):
            seen[_name] = (args, kwargs)
            return _real(*args, **kwargs)

        monkeypatch.setattr(train, name, spy)
    return seen


def donors_of(rows):
    return set(make_cells().obs["donor_id"].iloc[list(rows)])


# ------------------------------------------------------------------ what the stages do


def test_align_then_instruct_then_annotate(here, spied):
    found = aligned(here)
    folder = here / "out"
    assert {path.name for path in folder.iterdir()} == {"model", "training", "embeddings", "metrics.json", "run.json"}
    assert json.loads((folder / "metrics.json").read_text()) == found
    assert found["stage"] == "stage 1, contrastive"
    assert found["validation_entities"] == 12
    assert found["before"].keys() == found["after"].keys() >= {"loss", "retrieval_at_1", "modality_gap"}
    assert found["after"]["loss"] < found["before"]["loss"]
    assert found["after"]["modality_gap"] < found["before"]["modality_gap"]
    held_out = spied["align"][1]["validation"]
    assert len(donors_of(held_out)) == 1
    assert donors_of(set(range(48)) - set(held_out)) == set(DONORS) - donors_of(held_out)

    after = tuned(here, start="out/model", train={"steps": 30})
    (_, trained, vectors, _), kwargs = spied["instruct"]
    rows = {example.rows[0] for example in trained}
    assert donors_of(rows) == set(DONORS) - donors_of(held_out), "the stages hold out the same donor"
    assert {example.rows[0] for example in kwargs["validation"]} == set(held_out.tolist())
    assert kwargs["descriptions"]["rna"].texts[0] == "A B cell."
    assert vectors["rna"].shape == (48, 16)
    assert after["before"]["retrieval_at_1"] == pytest.approx(found["after"]["retrieval_at_1"])
    assert after["after"]["answer_accuracy"] >= after["before"]["answer_accuracy"]
    assert after["after"]["loss"] < after["before"]["loss"]

    assert not (here / "tuned" / "model" / "language_model").exists(), "its language model has a folder of its own"
    adata = make_cells()
    bsc.tl.annotate(adata, model=here / "tuned" / "model", reasoning=None)
    assert set(adata.obs["bioverse_label"]) <= set(bsc.models.load(here / "tuned" / "model").config.labels)
    assert set(bsc.models.load(here / "tuned" / "model").config.labels) == {"B cell", "T cell", "monocyte"}

    lines = metrics_table([here / "out", here / "tuned"]).splitlines()
    assert len(lines) == 6
    assert lines[2].startswith("| out | stage 1, contrastive | before |")
    assert lines[5].startswith("| tuned | stage 2 | after |")
    assert len({line.count("|") for line in lines}) == 1
    result = cli("train", "table", here / "out", here / "tuned")
    assert result.output.splitlines() == lines


def test_autoregressive_alignment(here, spied):
    found = aligned(here, objective="autoregressive", train={"micro_batch_size": 4})
    assert found["stage"] == "stage 1, autoregressive"
    assert {"token_accuracy", "answer_accuracy", "retrieval_at_1"} <= found["after"].keys()
    assert found["after"]["loss"] < found["before"]["loss"]
    saved = bsc.models.load(here / "out" / "model")
    assert saved.config.name == "mine"
    assert not torch.equal(
        next(saved.projectors.parameters()).detach(), next(saved.untrained_projector("rna").parameters()).detach()
    )


def test_only_the_encoder_of_the_first_run_is_called(here, monkeypatch):
    first = aligned(here, data={"embeddings": "kept"})
    monkeypatch.setattr(ScGPTEncoder, "encode_tokens", lambda *_, **__: pytest.fail("the encoder ran again"))
    second = aligned(here, output="again", data={"embeddings": "kept"})
    assert second == first
    assert not (here / "again" / "embeddings").exists()


def test_a_finished_run_is_refused_before_anything_is_read(here, monkeypatch):
    (here / "out" / "model").mkdir(parents=True)
    monkeypatch.setattr(_files, "read", lambda _: pytest.fail("the data were read"))
    with pytest.raises(FileExistsError, match="this run is done"):
        aligned(here)


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_an_interrupted_run_goes_on_to_the_same_weights(stage, here, monkeypatch):
    do, source = (aligned, "PairSource") if stage == "align" else (tuned, "PromptSource")
    whole = do(here, output="whole")
    real, calls = getattr(train, source).batch, []

    def batch(self, indices, rng):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return real(self, indices, rng)

    with monkeypatch.context() as patched:
        patched.setattr(getattr(train, source), "batch", batch)
        with pytest.raises(KeyboardInterrupt):
            do(here, output="broken")
    assert not (here / "broken" / "model").exists()
    assert not (here / "broken" / "metrics.json").exists()
    with pytest.raises(ValueError, match=r"begun with another data\.balance, description"):
        do(here, output="broken", data={"balance": 1.0}, description="{name}")
    assert do(here, output="broken", data={"batch_size": 7}) == whole
    for file in (here / "whole" / "model").rglob("*.safetensors"):
        other = load_file(here / "broken" / file.relative_to(here / "whole"))
        assert all(torch.equal(tensor, other[name]) for name, tensor in load_file(file).items())


def test_what_was_mended_before_the_first_step_is_no_other_run(here):
    with pytest.raises(KeyError, match="celltype"):
        aligned(here, data={"labels_key": "celltype"})
    aligned(here)


def test_vectors_that_are_there_already(here):
    model = {"encoders": ..., "projectors": ...}
    aligned(here, model=model, data={"use_rep": {"rna": "X_rep"}})
    saved = bsc.models.load(here / "out" / "model")
    assert saved.encoders == {}
    assert saved.config.projectors["rna"].in_width == 10
    tuned(here, start="out/model", data={"use_rep": {"rna": "X_rep"}})
    adata = make_cells()
    bsc.tl.embed(adata, encoder="precomputed", use_rep="X_rep")
    bsc.tl.annotate(adata, model=here / "tuned" / "model", reasoning=None)
    assert set(adata.obs["bioverse_label"]) <= set(TYPES)
    # another representation, even of the same width, is not what the projector reads
    other = make_cells()
    other.obsm["X_other"] = other.obsm["X_rep"]
    other.write_h5ad(here / "other.h5ad")
    with pytest.raises(ValueError, match=r"data.use_rep, .*other.h5ad: 'X_other' has width 10.*made for other vectors"):
        tuned(here, output="t2", start="out/model", data={"file": "other.h5ad", "use_rep": {"rna": "X_other"}})
    with pytest.raises(ValueError, match="no encoder of 'rna'"):
        tuned(here, output="t3", start="out/model")


@pytest.fixture
def multimodal(here):
    """Two modalities with vectors; labels and donors stand beside them, and a few cells lack proteins."""
    rna, protein = make_cells(), make_cells()[:, :5].copy()
    protein = protein[3:].copy()
    protein.var_names = [f"P{i}" for i in range(5)]
    protein.obsm["X_prot"] = np.random.default_rng(1).normal(size=(protein.n_obs, 6)).astype(np.float32)
    obs = rna.obs.copy()
    rna.obs, protein.obs = rna.obs[[]], protein.obs[[]]
    mdata = MuData({"rna": rna, "protein": protein})
    for name in obs:
        mdata.obs[name] = obs.loc[mdata.obs_names, name]
    mdata.write(here / "cells.h5mu")
    return here


def test_two_modalities_in_one_prompt(multimodal, spied):
    data = {"file": "cells.h5mu", "use_rep": {"rna": "X_rep", "protein": "X_prot"}}
    aligned(multimodal, model={"encoders": ..., "projectors": {"protein": {"n_tokens": 2}, "rna": ...}}, data=data)
    tuned(
        multimodal,
        start="out/model",
        data=data,
        prompt="A cell of {tissue}: [BIO] with [BIO:protein]?",
        answer="{name}",
        keep_alignment=False,
    )
    (_, trained, vectors, _), kwargs = spied["instruct"]
    assert {mod: of.shape for mod, of in vectors.items()} == {"rna": (48, 10), "protein": (45, 6)}
    assert kwargs["descriptions"] is None
    # the rows of a prompt are of one cell, in each modality's own order
    assert all(example.rows[1] == example.rows[0] - 3 for example in trained)
    held_out = spied["align"][1]["validation"]
    assert not {example.rows[0] for example in trained} & set(held_out.tolist())
    saved = bsc.models.load(multimodal / "tuned" / "model")
    assert saved.config.projectors["protein"].n_tokens == 2


def test_records_with_prompts_of_their_own(here, spied):
    records = [{"rna": f"c{i}", "prompt": "Which {type} is [BIO]?", "answer": TYPES[i % 3]} for i in range(0, 48, 2)]
    records.append({"rna": ["c0", "c9"], "prompt": "Are [BIO:rna] and [BIO:rna] alike?", "answer": "yes"})
    (here / "r.jsonl").write_text("\n".join(map(json.dumps, records)))
    found = tuned(here, records="r.jsonl", data={"balance": 1.0, "labels_key": "cell_type"})
    (_, trained, _, _), kwargs = spied["instruct"]
    assert donors_of({row for e in trained for row in e.rows}).isdisjoint(
        donors_of({e.rows[0] for e in kwargs["validation"] if len(e.rows) == 1})
    )
    assert len(trained) + len(kwargs["validation"]) == len(records)
    assert found["validation_entities"] == len(kwargs["validation"])
    assert len(set(np.round(kwargs["weights"], 6))) > 1
    assert bsc.models.load(here / "tuned" / "model").config.labels == ("old",)
    # no labels are needed then
    tuned(here, output="t2", records="r.jsonl", data={"labels_key": None}, description=...)
    assert spied["instruct"][1]["descriptions"] is None
    # the texts that stage 1 aligned with may be those of any column
    tuned(here, output="t3", records="r.jsonl", data={"labels_key": None}, description="From {tissue}.")
    assert set(spied["instruct"][1]["descriptions"]["rna"].texts) == {
        f"From {tissue}." for tissue in make_cells().obs["tissue"]
    }


def test_records_of_one_side_only_are_an_error(here):
    adata = make_cells()
    own = adata.obs_names[adata.obs["donor_id"] == "d1"]
    (here / "r.jsonl").write_text(json.dumps({"rna": own[0], "prompt": "[BIO]?", "answer": "x"}))
    with pytest.raises(ValueError, match=r"There are [01] examples of donors to train on, and [01] of donors"):
        tuned(here, records="r.jsonl")
    (here / "r.jsonl").write_text(json.dumps({"rna": "gone", "prompt": "[BIO]?", "answer": "x"}))
    with pytest.raises(ValueError, match=r"records: .*record 1: there is no 'rna' entity named 'gone'"):
        tuned(here, records="r.jsonl")


def test_templates_balance_negatives_and_prompts(here, spied):
    (here / "no.txt").write_text("A bicycle.\n\n  \nThe sea.\n")
    prompts = {"label": "What is [BIO:rna]?"}
    aligned(
        here,
        description="{name} of {tissue}",
        negatives="no.txt",
        attraction=0.0,
        data={"balance": 0.5},
        model={"prompts": prompts, "chat": False},
    )
    (_, _, texts, _), kwargs = spied["align"]
    assert set(texts.texts) == {f"{t} of {o}" for t in TYPES for o in ("blood", "spleen")}
    assert kwargs["negatives"] == ["A bicycle.", "The sea."]
    assert kwargs["attraction"] == 0.0
    assert len(kwargs["weights"]) == 48
    saved = bsc.models.load(here / "out" / "model")
    assert saved.config.prompts["label"] == prompts["label"]
    assert saved.config.chat is None
    tuned(here, start="out/model", train_projectors=False, keep_alignment=False, train={"micro_batch_size": 4})
    assert spied["instruct"][0][1][0].segments[0].text == "What is "
    stored = [load_file(here / run / "model" / "projectors.safetensors") for run in ("out", "tuned")]
    assert all(torch.equal(tensor, stored[1][name]) for name, tensor in stored[0].items())


def test_the_bundled_model_can_be_the_start(here, cells, log):
    cells.obs["cell_type"] = np.array(TYPES)[np.arange(12) % 3]
    cells.obs["donor_id"] = np.array(DONORS)[np.arange(12) // 3]
    cells.write_h5ad(here / "few.h5ad")
    steps = {"steps": 2, "batch_size": 4}
    tuned(here, start="mini", data={"file": "few.h5ad"}, train=steps)
    assert bsc.models.load(here / "tuned" / "model").config.labels == TYPES
    assert any("mini has an adapter already" in record.getMessage() for record in log)


def test_settings_of_the_device_hold(here):
    with bsc.settings.override(device="cpu"):
        assert _processes.device() == _processes.model_device() == "cpu"


def test_no_warning_of_other_packages_reaches_the_user(here):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        tuned(here)
    assert [str(w.message) for w in shown if issubclass(w.category, FutureWarning)] == []


# ------------------------------------------------------------------ what a user may type wrong


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trian": {}}, "trian: there is no such key; did you mean 'train'?"),
        ({"train": {"step": 3}}, "train.step: there is no such key; did you mean 'steps'?"),
        ({"model": {"projectors": {"rna": {"hidden": 3}}}}, "model.projectors.rna.hidden: there is no such key"),
        ({"output": ...}, "output: is missing"),
        ({"train": {"steps": ...}}, "train.steps: is missing"),
        ({"train": {"steps": "many"}}, "train.steps: found 'many'. Input should be a valid integer"),
        ({"train": {"steps": -1}}, "steps is -1; expected a positive number"),
        ({"objective": "CT"}, "objective: found 'CT'. Input should be 'contrastive' or 'autoregressive'"),
        ({"data": {"validation": 10}}, "validation is 10.0; expected a share between 0 and 1"),
        ({"data": {"balance": 2}}, "balance is 2.0; expected 0 to 1"),
        ({"data": {"batch_size": 0}}, "batch_size is 0"),
        ({"model": ...}, "AlignRun: give either 'model'"),
        ({"start": "base"}, "AlignRun: give either 'model'"),
        ({"data": {"use_rep": {"rna": "X_rep"}}}, "both name ['rna']"),
        ({"mod": "protein"}, "mod is 'protein', but model.encoders and data.use_rep name ['rna']"),
    ],
)
def test_a_configuration_that_does_not_fit(changes, message, here):
    file = write(here, align_config(**changes))
    said = refused(file)
    assert message in said
    assert str(file) in said
    assert not (here / "out").exists()


def test_all_faults_are_named_at_once(here):
    said = refused(write(here, align_config(train={"steps": "x", "rate": 1}, outptu="o")))
    assert all(key in said for key in ("train.steps", "train.rate", "outptu"))


def test_the_file_of_the_other_stage_gets_no_hint(here):
    said = refused(write(here, align_config()), "instruct")
    assert "start: is missing" in said
    assert "model: there is no such key\n" in said


@pytest.mark.parametrize("text", ["a: [", "\x00", "- 1", ""])
def test_files_that_are_no_configuration(text, here):
    (here / "bad.yaml").write_text(text)
    assert "bad.yaml" in refused(here / "bad.yaml")
    assert "cells.h5ad is not YAML" in refused(here / "cells.h5ad")
    assert "There is no file" in refused(here / "gone.yaml", "instruct")


def test_numbers_and_words_as_yaml_writes_them(here):
    text = yaml.safe_dump(instruct_config(train={"learning_rate": 123})).replace("123", "1e-3")
    text = text.replace("  steps:", "  mixed_precision: no\n  tensorboard: off\n  steps:") + "keep_alignment: no\n"
    (here / "run.yaml").write_text(text)
    config = read_config(here / "run.yaml", InstructRun)
    assert config.train.learning_rate == 1e-3
    assert config.train.mixed_precision == "no"
    assert config.train.tensorboard is False
    assert config.keep_alignment is False


def test_relative_paths_are_relative_to_the_file(here, monkeypatch):
    (here / "sub").mkdir()
    (here / "sub" / "mini").mkdir()
    changes = {"model": {"language_model": "../base", "encoders": {"rna": "mini"}}, "negatives": "no.txt"}
    write(here / "sub", align_config(**changes))
    monkeypatch.chdir(here)
    config = read_config("sub/run.yaml", AlignRun)
    assert config.output == here / "sub" / "out"
    assert config.data.file == here / "sub" / "cells.h5ad"
    assert config.negatives == here / "sub" / "no.txt"
    assert config.model.language_model == str(here / "base")
    assert config.model.encoders["rna"] == "mini", "a name of the package is never a folder"
    later = write(here, instruct_config(start="./later/model"))
    assert read_config(later, InstructRun).start == str(here / "later" / "model")
    hub = write(here, align_config(model={"language_model": "owner/name"}))
    assert read_config(hub, AlignRun).model.language_model == "owner/name"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"file": "gone.h5ad"}}, r"data.file: There is no file .*gone.h5ad"),
        ({"data": {"file": "run.yaml"}}, r"data.file: .*run.yaml' ends with none of .h5ad, .h5mu"),
        ({"data": {"file": "broken.h5ad"}}, r"data.file: .*broken.h5ad' cannot be read as .h5ad"),
        ({"data": {"labels_key": "celltype"}}, r"data.labels_key, .*cells.h5ad: There is no column 'celltype'"),
        (
            {"data": {"labels_key": "patchy"}},
            r"data.labels_key: 5 of 48 rows of .* have no label in 'patchy', the first",
        ),
        ({"data": {"donor_key": "donor"}}, r"data.donor_key, .*cells.h5ad: There is no column 'donor'"),
        ({"data": {"donor_key": "one"}}, r"data.donor_key: the column 'one' of .* names 1 donors; two are needed"),
        ({"data": {"layer": "raw_counts"}}, r"data, .*cells.h5ad: There is no layer 'raw_counts'"),
        ({"data": {"gene_symbols": "symbol"}}, r"data, .*cells.h5ad: There is no column 'symbol' in .var"),
        ({"description": "{name} of {organ}"}, r"description: There is no column 'organ'"),
        ({"negatives": "gone.txt"}, r"negatives: There is no file .*gone.txt"),
        ({"train": {"micro_batch_size": 4}}, r"train.micro_batch_size: the contrastive loss compares all examples"),
        ({"model": {"encoders": {"rna": "unheard"}}}, r"model.encoders: There is no encoder 'unheard'"),
        ({"model": {"prompts": {"labels": "x"}}}, r"model: prompts holds \['labels'\]"),
        (
            {"model": {"encoders": {"protein": "base/encoders/rna"}}, "mod": "protein"},
            "esm2 expects one of type 'esm'",
        ),
        ({"model": ..., "start": "base", "data": {"use_rep": {"RNA": "X_rep"}}}, r"has no modality 'RNA'"),
        ({"model": {"encoders": ..., "projectors": ...}, "data": {"use_rep": {"rna": "X_no"}}}, r"no slot 'X_no'"),
        ({"model": ..., "start": "./gone"}, r"start: There is no model .*gone"),
    ],
)
def test_data_that_do_not_fit(changes, message, here):
    adata = make_cells()
    adata.obs["patchy"] = adata.obs["cell_type"].where(np.arange(48) >= 5, "")
    adata.obs["one"] = "d1"
    (here / "cells.h5ad").unlink()
    adata.write_h5ad(here / "cells.h5ad")
    (here / "broken.h5ad").write_text("no HDF5")
    config = align_config(**changes)
    said = refused(write(here, config))
    assert re.search(message, said), said
    assert not (here / "out" / "model").exists()


def test_instructions_that_do_not_fit(here):
    for changes, message in (
        ({"prompt": "[BIO:protein]?"}, "prompt and answer: The prompt has entities of ['protein']"),
        ({"prompt": "[BIO:rna] {organ}?"}, "prompt and answer: There is no column 'organ'"),
        ({"records": "gone.jsonl"}, "records: There is no file"),
        ({"train": {"micro_batch_size": 4}}, "keep_alignment: false"),
        ({"start": ...}, "start: is missing"),
    ):
        assert message in refused(write(here, instruct_config(**changes)), "instruct")


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_observations_are_held_out_where_there_is_no_donor(here, log):
    adata = make_cells()
    del adata.obs["donor_id"]
    # names that come twice, as after concatenation, are no obstacle
    adata.obs_names = [f"c{i % 24}" for i in range(48)]
    adata.write_h5ad(here / "plain.h5ad")
    found = aligned(here, data={"file": "plain.h5ad"})
    assert found["validation_entities"] == 12
    assert any("Observations are split at random" in record.getMessage() for record in log)


def test_a_fault_of_the_package_keeps_its_traceback(here, monkeypatch):
    file = write(here, align_config())
    for fault in (TypeError("f() got an argument"), KeyError("rna"), AttributeError("no x"), RuntimeError("torch")):

        def broken(_config, _fault=fault):
            raise _fault

        monkeypatch.setattr("bioverse_sc.runs.run_align", broken)
        result = cli("train", "align", "--config", file)
        assert result.exception is fault
        assert "error: " not in result.output


def test_a_table_of_a_folder_without_a_run(here):
    result = cli("train", "table", here)
    assert result.exit_code == 1
    assert result.output.startswith(f"error: There is no finished run in {here}")


def test_help_reads_well():
    for args, words in (
        (["train", "--help"], ("align", "instruct", "table", "accelerate launch")),
        (["train", "align", "--help"], ("--config", "--dry-run", "--shape", "interrupted run")),
        (["train", "instruct", "--help"], ("--config", "LoRA")),
    ):
        said = cli(*args).output
        assert all(word in said for word in words), said


@pytest.mark.slow
def test_two_processes_equal_one(here):
    file = write(here, align_config(output="two", model={"projectors": {"rna": {"dropout": 0.0}}}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "bioverse_sc.cli", "train", "align", "--config", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "BIOVERSE_SC_DEVICE": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("| two | stage 1, contrastive | after |") == 1
    assert done.stderr.count("saved ") == 1
    two = json.loads((here / "two" / "metrics.json").read_text())
    one = aligned(here, output="one", model={"projectors": {"rna": {"dropout": 0.0}}})
    for when in ("before", "after"):
        assert two[when] == pytest.approx(one[when], rel=1e-3, abs=1e-4)
    bsc.models.load(here / "two" / "model")


# ------------------------------------------------------------------ what a model is asked, and what is left out


def test_a_prompt_becomes_the_model_s_own_question(here, log):
    tuned(here, prompt="Look: [BIO] What is it?")
    assert bsc.models.load(here / "tuned" / "model").config.prompts["label"] == "Look: [BIO:rna] What is it?"
    tuned(here, output="by tissue", prompt="From {tissue}: [BIO] What?")
    saved = bsc.models.load(here / "by tissue" / "model")
    assert saved.config.prompts["label"] == "Cell:[BIO:rna] Type:"
    assert any("has the fields ['tissue']" in record.getMessage() for record in log)


def test_records_give_the_texts_of_stage_one(here, spied):
    rows = [{"rna": f"c{i}", "text": f"Text number {i % 4}."} for i in range(0, 48, 2)]
    (here / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    aligned(here, records="texts.jsonl", description=...)
    (_, vectors, texts, _), kwargs = spied["align"]
    assert len(vectors) == 24
    assert sorted(texts.texts) == ["Text number 0.", "Text number 2."]
    assert len(donors_of(2 * np.asarray(kwargs["validation"]))) == 1
    assert (kwargs["weights"][kwargs["validation"]] == 0).all()


@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_cells_without_a_known_gene_are_left_out_and_counted(stage, here, spied, log):
    adata = make_cells()
    adata.X[[0, 7, 20]] = 0
    (here / "cells.h5ad").unlink()
    adata.write_h5ad(here / "cells.h5ad")
    (aligned if stage == "align" else tuned)(here)
    args, kwargs = spied[stage]
    if stage == "align":
        assert (kwargs["weights"][[0, 7, 20]] == 0).all()
        assert not set(kwargs["validation"]) & {0, 7, 20}
    else:
        assert not {e.rows[0] for e in [*args[1], *kwargs["validation"]]} & {0, 7, 20}
    assert any("3 of 48 entities have no vector" in record.getMessage() for record in log)


def test_only_some_of_the_held_out_are_measured_and_none_is_trained_on(here, spied):
    found = aligned(here, data={"measured": 5})
    kwargs = spied["align"][1]
    assert found["validation_entities"] == len(kwargs["validation"]) == 5
    assert (kwargs["weights"] == 0).sum() == 12
