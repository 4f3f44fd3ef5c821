"""Read and write scGPT checkpoint folders.

``args.json``, ``vocab.json``, ``best_model.pt`` or ``model.safetensors``.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bioverse_sc.encoders.scgpt._config import ScGPTConfig
from bioverse_sc.encoders.scgpt._heads import HEADS
from bioverse_sc.encoders.scgpt._module import ScGPT
from bioverse_sc.encoders.scgpt._vocabulary import GeneVocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_ONLY_TRAINING = ("dropout", "mask_value", "n_layers_cls")
WEIGHT_FILES = ("model.safetensors", "best_model.pt")

# What scGPT computes from the hidden states, and the generative flag, which embeddings do not use. Anything else that
# is not ours, such as domain-specific norms (dsbn), changes the hidden states and is an error.
_IGNORED = re.compile(r"^(decoder|cls_decoder|mvc_decoder|grad_reverse_discriminator|batch_encoder|flag_encoder)\.")


def read_folder(folder: Path) -> tuple[ScGPT, GeneVocabulary, str, dict[str, torch.Tensor]]:
    """Read a checkpoint folder.

    Returns
    -------
    The network in evaluation mode, its vocabulary, a fingerprint of both, and the tensors of the heads that come with
    it.
    """
    weights = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    missing = [name for name in ("args.json", "vocab.json") if not (folder / name).is_file()]
    if weights is None:
        missing.append(" or ".join(WEIGHT_FILES))
    if weights is None or missing:
        msg = f"{folder} is not an scGPT checkpoint: it lacks {', '.join(missing)}."
        raise FileNotFoundError(msg)
    config = ScGPTConfig.read(folder / "args.json")
    vocabulary = GeneVocabulary.read(folder / "vocab.json")
    stored = _load_safetensors(weights) if weights.suffix == ".safetensors" else _load_pickle(weights)
    values = stored.get("value_encoder.embedding.weight")
    if config.input_emb_style == "category" and config.n_input_bins is None and values is not None:
        # args.json does not hold the number that the model was made with
        if len(values) < config.n_bins:
            msg = f"args.json says {config.n_bins} bins, but value_encoder.embedding.weight has {len(values)} rows."
            raise ValueError(msg)
        config = replace(config, n_input_bins=len(values))
    module = ScGPT(config, len(vocabulary), vocabulary.pad_id)
    load_weights(module, stored, appended=vocabulary.appended)
    heads = {name: tensor for name, tensor in stored.items() if name.split(".")[0] in (*HEADS, "flag_encoder")}
    return module.eval().requires_grad_(requires_grad=False), vocabulary, fingerprint(module, vocabulary), heads


def fingerprint(module: ScGPT, vocabulary: GeneVocabulary) -> str:
    """Hash of the weights, of the vocabulary, and of what else decides an embedding."""
    shape = {k: v for k, v in asdict(module.config).items() if k not in _ONLY_TRAINING}
    digest = hashlib.sha256(f"{vocabulary.fingerprint} {sorted(shape.items())}".encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(_damaged(path)) from error


def _damaged(path: Path) -> str:
    """Say what a file is that holds no weights."""
    start = path.read_bytes()[:40] if path.stat().st_size < 1024 else b""
    if start.startswith(b"version https://git-lfs"):
        return f"{path} is a pointer of git-lfs and not the weights; fetch them with: git lfs pull"
    return f"{path} ({path.stat().st_size} bytes) is damaged or not complete; fetch it again."


def _load_pickle(path: Path) -> dict[str, torch.Tensor]:
    """Load a file of torch, tensors only: no code in it runs."""
    with path.open("rb") as file:
        # torch.save writes a zip file, before version 1.6 a pickle
        if file.read(2) not in (b"PK", b"\x80\x02"):
            raise ValueError(_damaged(path))
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        msg = (
            f"{path.name} holds more than tensors, which torch.load(weights_only=True) refuses, as loading it could "
            "run code. Ask for a file of the state_dict alone. If you trust this one, write it again where its classes "
            "can be imported: torch.save(torch.load(file, weights_only=False).state_dict(), file)"
        )
        raise ValueError(msg) from error
    except (OSError, EOFError, RuntimeError) as error:
        raise ValueError(_damaged(path)) from error
    if not isinstance(stored, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in stored.values()):
        holds = list(stored)[:5] if isinstance(stored, dict) else type(stored).__name__
        msg = (
            f"{path.name} is not a state_dict, a mapping of names to tensors; found {holds}. If the weights are under "
            "a key of it, save what is there: torch.save(torch.load(file)['that key'], file)"
        )
        raise ValueError(msg)
    return stored


def load_weights(module: ScGPT, stored: Mapping[str, torch.Tensor], *, appended: Sequence[str] = ()) -> None:
    """Load published weights: both namings of attention, heads left out, every other difference an error.

    ``appended`` are special tokens that ``vocab.json`` lacks, for the message.
    """
    renamed = {}
    problems = []
    for name, tensor in stored.items():
        ours = name.replace(".self_attn._impl.", ".self_attn.").replace(".self_attn.Wqkv.", ".self_attn.in_proj_")
        if _IGNORED.match(ours):
            continue
        if ours in renamed:
            problems.append(f"twice, under two names: {name} {tuple(tensor.shape)}")
        renamed[ours] = tensor.float()
    expected = module.state_dict()
    problems += [f"missing: {name} {tuple(t.shape)}" for name, t in expected.items() if name not in renamed]
    problems += [f"unknown: {name} {tuple(t.shape)}" for name, t in renamed.items() if name not in expected]
    problems += [
        f"not finite: {name}" for name, t in renamed.items() if t.is_floating_point() and not t.isfinite().all()
    ]
    problems += [
        f"shape of {name}: {tuple(tensor.shape)} in the file, {tuple(expected[name].shape)} by args.json and vocab.json"
        for name, tensor in renamed.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if problems and appended:
        problems.append(
            f"(vocab.json lacks {', '.join(appended)}; as in scGPT they were appended, and need rows of their own)"
        )
    if problems:
        msg = "The scGPT weights do not fit args.json and vocab.json:\n  " + "\n  ".join(problems)
        raise ValueError(msg)
    module.load_state_dict(renamed)


def write_folder(
    folder: Path, module: ScGPT, vocabulary: GeneVocabulary, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write an encoder as a checkpoint folder with ``model.safetensors``."""
    _write_shape(folder, module, vocabulary)
    (folder / "best_model.pt").unlink(missing_ok=True)
    save_file(
        {k: v.detach().to("cpu", dtype).contiguous() for k, v in module.state_dict().items()},
        folder / "model.safetensors",
    )


def write_official(
    folder: Path,
    module: ScGPT,
    vocabulary: GeneVocabulary,
    heads: Mapping[str, torch.Tensor],
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write an encoder and its heads as scGPT itself does, with ``best_model.pt``."""
    _write_shape(folder, module, vocabulary)
    state = {k.replace(".in_proj_", ".Wqkv."): v.detach() for k, v in module.state_dict().items()}
    state |= heads
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save({k: v.to("cpu", dtype).clone() for k, v in state.items()}, folder / "best_model.pt")


def _write_shape(folder: Path, module: ScGPT, vocabulary: GeneVocabulary) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    module.config.write(folder / "args.json")
    vocabulary.write(folder / "vocab.json")
