"""The processes of a run, and where each computes."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from bioverse_sc._settings import settings

if TYPE_CHECKING:
    from accelerate import PartialState


def processes() -> PartialState:
    """The processes of this run."""
    from accelerate import PartialState

    # one process embeds while the others wait, for longer than processes wait for each other by default
    return PartialState(cpu=settings.device == "cpu", timeout=timedelta(days=1))


def device() -> str:
    """Device of this process."""
    return str(processes().device) if settings.device == "auto" else settings.torch_device()


def model_device() -> str:
    """Device of the model. FSDP shards from the CPU."""
    return "cpu" if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" else device()
