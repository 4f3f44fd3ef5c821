"""Proteins and molecules per second of the ESM-2 and ChemBERTa encoders, against a plain loop of transformers.

    python benchmarks/encode.py              made-up proteins and molecules of mixed lengths
    python benchmarks/encode.py --sequences PROTEINS.txt --smiles MOLECULES.txt --device cuda      yours, one on a line
    python benchmarks/encode.py --esm2 FOLDER --chemberta FOLDER            checkpoints of yours

The plain loop takes the input in its order, 32 at a time, padded to the longest of them, and pools in the same way.
Without checkpoints the networks have the shapes of ESM-2 8M and of ChemBERTa-77M-MLM and random weights, on which speed
does not depend. The comparison leaves out what the plain loop would cut (proteins beyond 1,022 residues), which the
encoder reads in windows; those have a line of their own. Both start from text; ours is also checked, and made canonical
by RDKit.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import EsmConfig, EsmModel, EsmTokenizer, RobertaConfig, RobertaModel, RobertaTokenizerFast

from bioverse_sc.encoders.chemberta import ChembertaEncoder, canonical_smiles
from bioverse_sc.encoders.esm2 import WINDOW, Esm2Encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ESM_TOKENS = "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>".split()
SMILES_LETTERS = "#%()+-./0123456789:=@ABCFHIKLMNOPSVZ[\\]abcdegilnorstu"
PIECES = [
    *("C", "CC", "CCC", "C(C)", "C(=O)N", "C(=O)O", "NC", "OC", "SC", "C(F)(F)", "C=C", "C#C", "S(=O)(=O)N", "C(Cl)"),
    *("c1ccc(cc1)", "c1cnc(nc1)", "C1CCC(CC1)", "N1CCN(CC1)", "c1cc(ccc1F)", "[C@@H](O)", "[C@H](N)", "c1csc(n1)"),
]
"""Parts that give a valid molecule in any order."""


def random_proteins(n: int, rng: np.random.Generator) -> list[str]:
    """Proteins with about the lengths of a proteome: log-normal, median 290, some beyond 1,022."""
    lengths = np.clip(rng.lognormal(np.log(290), 0.8, size=n).round().astype(int), 20, 5000)
    return ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), size=k)) for k in lengths]


def random_smiles(n: int, rng: np.random.Generator) -> list[str]:
    """Chains of parts, with lengths from fragments to peptides: log-normal, median 45 characters."""
    molecules = []
    for length in np.clip(rng.lognormal(np.log(45), 0.55, size=n), 3, 400):
        text = "C"
        while len(text) < length:
            text += str(rng.choice(PIECES))
        molecules.append(text)
    return canonical_smiles(molecules)


def write_esm2(folder: Path) -> Path:
    """Random weights of ESM-2 8M's shape."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(ESM_TOKENS))
    EsmTokenizer(str(folder / "vocab.txt"), model_max_length=1024).save_pretrained(folder)
    config = EsmConfig(
        vocab_size=len(ESM_TOKENS),
        mask_token_id=ESM_TOKENS.index("<mask>"),
        pad_token_id=ESM_TOKENS.index("<pad>"),
        hidden_size=320,
        num_hidden_layers=6,
        num_attention_heads=20,
        intermediate_size=1280,
        max_position_embeddings=1026,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
    )
    EsmModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def write_chemberta(folder: Path) -> Path:
    """Random weights of ChemBERTa-77M-MLM's shape."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *SMILES_LETTERS]
    RobertaTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}, merges=[]).save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=600,
        hidden_size=384,
        num_hidden_layers=3,
        num_attention_heads=12,
        intermediate_size=464,
        max_position_embeddings=515,
        type_vocab_size=1,
    )
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def plain(encoder: Esm2Encoder | ChembertaEncoder, texts: Sequence[str], batch_size: int) -> np.ndarray:
    """Mean hidden states, as one writes it at first."""
    vectors = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch_size):
            inputs = encoder.tokenizer(
                list(texts[start : start + batch_size]),
                padding=True,
                return_tensors="pt",
                return_special_tokens_mask=True,
                return_token_type_ids=False,
            ).to(encoder.device)
            inside = (1 - inputs.pop("special_tokens_mask")).unsqueeze(-1)
            states = encoder.module(**inputs).last_hidden_state
            vectors.append(((states * inside).sum(dim=1) / inside.sum(dim=1)).cpu().numpy())
    return np.concatenate(vectors)


def timed(calls: Sequence[Callable[[], np.ndarray]], repeats: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Seconds, shape (calls, repeats), and what the calls give; in turns, as other work slows all of them.

    Results lie on the CPU, so nothing is left to wait for.
    """
    seconds = np.zeros((len(calls), repeats))
    for repeat in range(repeats):
        results = []
        for i, call in enumerate(calls):
            began = time.perf_counter()
            results.append(call())
            seconds[i, repeat] = time.perf_counter() - began
    return seconds, results


def compare(encoder: Esm2Encoder | ChembertaEncoder, texts: list[str], options: argparse.Namespace) -> str:
    """Time both on the same texts."""
    few = sorted(texts, key=len)[-2:]
    plain(encoder, few, 2)
    encoder.encode(few)
    calls = [lambda: plain(encoder, texts, options.batch_size), lambda: encoder.encode(texts)]
    (theirs, mine), (expected, vectors) = timed(calls, options.repeats)
    difference = np.abs(vectors - expected).max()
    if difference > 1e-4:
        sys.exit(f"The vectors of {encoder.name} differ by {difference:.1e}.")
    n = len(texts)
    lengths = [len(text) for text in texts]
    return (
        f"{encoder.name:10}{n:6}{np.median(lengths):8.0f}{max(lengths):9}"
        f"{n / np.median(theirs):10.1f}{n / np.median(mine):10.1f}{np.median(theirs / mine):8.2f}{difference:12.1e}"
    )


def read(path: Path | None) -> list[str]:
    return [] if path is None else path.read_text(encoding="utf-8").split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", type=int, default=128, help="how many to make up")
    parser.add_argument("--molecules", type=int, default=512, help="how many to make up")
    parser.add_argument("--sequences", type=Path, help="file of proteins, instead")
    parser.add_argument("--smiles", type=Path, help="file of molecules, instead")
    parser.add_argument("--esm2", help="checkpoint: folder or hub repository")
    parser.add_argument("--chemberta", help="checkpoint: folder or hub repository")
    parser.add_argument("--longest", type=int, default=35_000, help="residues of the protein that is timed alone")
    parser.add_argument("--batch-size", type=int, default=32, help="of the plain loop")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    proteins = read(options.sequences) or random_proteins(options.proteins, rng)
    molecules = canonical_smiles(read(options.smiles)) or random_smiles(options.molecules, rng)
    with tempfile.TemporaryDirectory() as temporary:
        esm2 = Esm2Encoder.from_pretrained(options.esm2 or write_esm2(Path(temporary) / "esm2"))
        chemberta = ChembertaEncoder.from_pretrained(
            options.chemberta or write_chemberta(Path(temporary) / "chemberta")
        )
    esm2.to(options.device)
    chemberta.to(options.device)
    cores = f"{len(os.sched_getaffinity(0))} CPU cores, {torch.get_num_threads()} threads"
    where = cores if options.device == "cpu" else torch.cuda.get_device_name()
    print(f"{where}, torch {torch.__version__}; plain loop of {options.batch_size} in the order of the input")
    print(f"{'':10}{'n':>6}{'median':>8}{'longest':>9}{'plain/s':>10}{'ours/s':>10}{'ratio':>8}{'difference':>12}")
    print(compare(esm2, [p for p in proteins if len(p) <= WINDOW], options), flush=True)
    print(compare(chemberta, molecules, options), flush=True)
    if long := [p for p in proteins if len(p) > WINDOW]:
        seconds, _ = timed([lambda: esm2.encode(long)], options.repeats)
        print(
            f"esm2, {len(long)} proteins beyond {WINDOW} residues, in windows: {len(long) / np.median(seconds):.1f}/s"
        )
    titin = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), size=options.longest))
    seconds, _ = timed([lambda: esm2.encode([titin])], options.repeats)
    print(f"esm2, one protein of {options.longest} residues: {np.median(seconds):.1f} s")


if __name__ == "__main__":
    main()
