"""Step 7: the bundle."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import torch

import bioverse_sc as bsc

if TYPE_CHECKING:
    from pathlib import Path

    from bioverse_sc.models import BioVerse


def save_model(model: BioVerse, out: Path) -> None:
    """Put a model where another may be, whose card stays."""
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    bsc.models.save(model, fresh, dtype=torch.float16)
    card = out / "README.md"
    if card.exists():
        shutil.copy(card, fresh / "README.md")
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(json.dumps({"out": str(out), "megabytes": round(size / 1e6, 1)}), flush=True)
