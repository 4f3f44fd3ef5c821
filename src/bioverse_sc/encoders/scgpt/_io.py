"""Read and write scGPT checkpoint folders: ``args.json``, ``vocab.json``, ``best_model.pt`` or ``model.safetensors``."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from bioverse_sc.encoders.scgpt._config import ScGPTConfig
from bioverse_sc.encoders.scgpt._module import ScGPT
from bioverse_sc.encoders.scgpt._vocabulary import GeneVocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping

WEIGHT_FILES = ("model.safetensors", "best_model.pt")

# Heads and options of training that an encoder does not need. Anything else that is not ours is an error.
_IGNORED = re.compile(
    r"^(decoder|cls_decoder|mvc_decoder|grad_reverse_discriminator|batch_encoder|flag_encoder|dsbn|bn|sim|pert_encoder)\."
)


def read_folder(folder: Path) -> tuple[ScGPT, GeneVocabulary, str]:
    """Read a checkpoint folder.

    Returns
    -------
    The network in evaluation mode, its vocabulary, and a fingerprint of both.
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
    if weights.suffix == ".safetensors":
        stored = load_file(weights)
    else:
        stored = torch.load(weights, map_location="cpu", weights_only=True)
    module = ScGPT(config, len(vocabulary), vocabulary.pad_id)
    load_weights(module, stored)
    digest = hashlib.sha256(vocabulary.fingerprint.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return module.eval().requires_grad_(requires_grad=False), vocabulary, digest.hexdigest()[:16]


def load_weights(module: ScGPT, stored: Mapping[str, torch.Tensor]) -> None:
    """Load published weights: both namings of attention, heads left out, every other difference an error."""
    renamed = {}
    for name, tensor in stored.items():
        ours = name.replace(".self_attn._impl.", ".self_attn.").replace(".self_attn.Wqkv.", ".self_attn.in_proj_")
        if not _IGNORED.match(ours):
            renamed[ours] = tensor.float()
    expected = module.state_dict()
    problems = [f"missing: {name} {tuple(t.shape)}" for name, t in expected.items() if name not in renamed]
    problems += [f"unknown: {name} {tuple(t.shape)}" for name, t in renamed.items() if name not in expected]
    problems += [
        f"shape of {name}: {tuple(tensor.shape)} in the file, {tuple(expected[name].shape)} by args.json and vocab.json"
        for name, tensor in renamed.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if problems:
        msg = "The scGPT weights do not fit args.json and vocab.json:\n  " + "\n  ".join(problems)
        raise ValueError(msg)
    module.load_state_dict(renamed)


def write_folder(
    folder: Path, module: ScGPT, vocabulary: GeneVocabulary, *, dtype: torch.dtype = torch.float32
) -> None:
    """Write an encoder as a checkpoint folder with ``model.safetensors``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    module.config.write(folder / "args.json")
    vocabulary.write(folder / "vocab.json")
    save_file({k: v.to(dtype).contiguous() for k, v in module.state_dict().items()}, folder / "model.safetensors")
