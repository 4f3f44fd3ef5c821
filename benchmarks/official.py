"""scGPT's own code on a checkpoint folder, in an environment of its own. ``parity.py`` and ``embed.py`` call it.

    python official.py make FOLDER --width 64 ...      a random official model, as a checkpoint folder
    python official.py run FOLDER CELLS.npz OUT.npz    what the official code computes

``environment()`` makes the environment: ``scgpt`` 0.2.4 without its dependencies, which do not install beside a current
torch, over the packages of the calling interpreter, and with the stand-ins of this folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import resource
import subprocess
import sys
import sysconfig
import time
import types
import venv
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


def environment(folder: Path) -> Path:
    """Make the environment, unless it is there; gives its interpreter."""
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        install = [
            python,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "-qq",
            "--no-deps",
            "--require-hashes",
        ]
        subprocess.run([*install, "-r", HERE.parent / "locks" / "parity.txt"], check=True)
        code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
        target = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        # torch, numpy and the rest are those of the calling interpreter
        Path(target, "parent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        (folder / ".ready").touch()
    return python


def call(python: Path, *arguments: object, flash: bool = False) -> None:
    """Run this file in the environment."""
    paths = [HERE / "standins"] + ([HERE / "standins_flash"] if flash else [])
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONWARNINGS": "ignore"}
    subprocess.run([python, __file__, *map(str, arguments)], check=True, env=env)


@cache
def official_modules() -> tuple[types.ModuleType, types.ModuleType, types.ModuleType]:
    """Import what is needed of scGPT without its package files, which import all of its dependencies."""

    def bare(name: str, **members: object) -> types.ModuleType:
        spec = importlib.util.find_spec("scgpt")
        module = types.ModuleType(name)
        module.__path__ = [str(Path(spec.submodule_search_locations[0], *name.split(".")[1:]))]
        module.__dict__.update(members)
        return module

    logger = logging.getLogger("scGPT")
    logger.setLevel(logging.ERROR)
    packages = {name: bare(name) for name in ("scgpt", "scgpt.model", "scgpt.utils", "scgpt.tasks", "scgpt.tokenizer")}
    packages["scgpt"].logger = logger
    sys.modules.update(packages)
    from scgpt.model import model
    from scgpt.utils import util

    packages["scgpt.model"].TransformerModel = model.TransformerModel
    packages["scgpt.utils"].load_pretrained = util.load_pretrained
    from scgpt.tokenizer import gene_tokenizer

    packages["scgpt.tokenizer"].GeneVocab = gene_tokenizer.GeneVocab
    from scgpt.tasks import cell_emb

    return model, cell_emb, util


def build(args: dict, vocabulary, *, flash: bool):
    """Make the official model that an ``args.json`` describes."""
    model, _, _ = official_modules()
    return model.TransformerModel(
        ntoken=len(vocabulary),
        d_model=args["embsize"],
        nhead=args["nheads"],
        d_hid=args["d_hid"],
        nlayers=args["nlayers"],
        nlayers_cls=args["n_layers_cls"],
        n_cls=args.get("n_cls", 1),
        vocab=vocabulary,
        dropout=args["dropout"],
        pad_token=args["pad_token"],
        pad_value=args["pad_value"],
        do_mvc=True,
        input_emb_style=args["input_emb_style"],
        n_input_bins=args["n_bins"] + 2,
        use_fast_transformer=flash,
        pre_norm=args.get("pre_norm", False),
    )


def vocabulary_of(folder: Path):
    from scgpt.tokenizer import GeneVocab

    vocabulary = GeneVocab.from_file(folder / "vocab.json")
    for token in ("<pad>", "<cls>", "<eoc>"):
        if token not in vocabulary:
            vocabulary.append_token(token)
    vocabulary.set_default_index(vocabulary["<pad>"])
    return vocabulary


def make(options: argparse.Namespace) -> None:
    """Write a random official model."""
    import torch

    official_modules()
    category = options.style == "category"
    args = {
        "embsize": options.width,
        "nheads": options.heads,
        "d_hid": options.hidden,
        "nlayers": options.layers,
        "n_layers_cls": 3,
        "n_cls": 5,
        "dropout": 0.2,
        "pad_token": "<pad>",
        "pad_value": 51 if category else -2,
        "mask_value": 52 if category else -1,
        "n_bins": 51,
        "input_emb_style": options.style,
        "max_seq_len": options.max_length,
        "pre_norm": options.pre_norm,
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    tokens = [f"GENE{i}" for i in range(options.genes)] + (
        [] if options.bare_vocabulary else ["<pad>", "<cls>", "<eoc>"]
    )
    (options.folder / "args.json").write_text(json.dumps(args))
    (options.folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    torch.manual_seed(options.seed)
    network = build(args, vocabulary_of(options.folder), flash=options.flash)
    with torch.no_grad():
        # away from the start, where biases are zero and norms are one
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    torch.save(network.state_dict(), options.folder / "best_model.pt")


def run(options: argparse.Namespace) -> None:
    """Embed cells with the official code, and give what its heads predict."""
    import numpy as np
    import scipy.sparse
    import torch
    from anndata import AnnData

    _, cell_emb, util = official_modules()
    args = json.loads((options.folder / "args.json").read_text())
    vocabulary = vocabulary_of(options.folder)
    state = torch.load(options.folder / "best_model.pt", weights_only=True)
    out = state.get("cls_decoder.out_layer.bias")
    network = build(args | {"n_cls": 1 if out is None else len(out)}, vocabulary, flash=options.flash)
    util.load_pretrained(network, state, verbose=False)
    network.eval()
    cells = scipy.sparse.load_npz(options.cells)
    adata = AnnData(cells.toarray().astype(np.float32))
    gene_ids = np.arange(cells.shape[1])

    def embed(part: AnnData) -> np.ndarray:
        return cell_emb.get_batch_cell_embeddings(
            part,
            model=network,
            vocab=vocabulary,
            max_length=args["max_seq_len"],
            batch_size=options.batch_size,
            model_configs=args,
            gene_ids=gene_ids,
        )

    # the data loader's processes and the first products are no part of the time
    embed(adata[:2].copy())
    began = time.perf_counter()
    measured = {"cells": embed(adata)}
    measured["seconds"] = np.array(time.perf_counter() - began)
    measured["peak"] = np.array(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    if not options.time:
        ids = torch.from_numpy(np.load(options.tokens)["ids"])
        values = torch.from_numpy(np.load(options.tokens)["values"])
        padding = ids.eq(vocabulary["<pad>"])
        with torch.no_grad():
            measured["hidden"] = network._encode(ids, values, padding).numpy()
            predicted = network(ids, values, padding, CLS=out is not None and len(out) > 1, MVC=True)
        measured |= {k: v.numpy() for k, v in predicted.items() if k in ("mlm_output", "mvc_output", "cls_output")}
    np.savez(options.out, **measured)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make")
    maker.add_argument("folder", type=Path)
    for name, default in [
        ("width", 64),
        ("heads", 4),
        ("hidden", 96),
        ("layers", 3),
        ("genes", 500),
        ("max-length", 1200),
    ]:
        maker.add_argument(f"--{name}", type=int, default=default)
    maker.add_argument("--style", default="continuous")
    maker.add_argument("--seed", type=int, default=0)
    for flag in ("pre-norm", "flash", "bare-vocabulary"):
        maker.add_argument(f"--{flag}", action="store_true")
    runner = commands.add_parser("run")
    for name in ("folder", "cells", "out"):
        runner.add_argument(name, type=Path)
    runner.add_argument("--tokens", type=Path)
    runner.add_argument("--batch-size", type=int, default=64)
    runner.add_argument("--time", action="store_true")
    runner.add_argument("--flash", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    chosen = parse()
    {"make": make, "run": run}[chosen.command](chosen)
