"""Settings of the package, from code or from environment variables ``BIOVERSE_SC_*``."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from collections.abc import Iterator


def _cache_dir() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bioverse-sc"


class Settings(BaseSettings):
    """Settings; an assignment is checked. ``with bsc.settings.override(progress=False): ...`` sets them for a while."""

    model_config = SettingsConfigDict(env_prefix="BIOVERSE_SC_", validate_assignment=True, extra="forbid")

    device: str = "auto"
    """``"auto"`` (CUDA, then MPS, then CPU), or a torch device."""
    cache_dir: Path = Field(default_factory=_cache_dir)
    """Where checkpoints are looked for that cannot be fetched. It is never made or written to by itself."""
    verbosity: Literal["error", "warning", "info", "debug"] = "info"
    """Messages that are shown."""
    progress: bool = True
    """Whether to show progress bars."""

    @contextmanager
    def override(self, **values: Any) -> Iterator[None]:
        """Set some settings inside a ``with`` block."""
        before = {name: getattr(self, name) for name in values}
        try:
            for name, value in values.items():
                setattr(self, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)

    def torch_device(self) -> str:
        """Resolve ``"auto"``."""
        if self.device != "auto":
            return self.device
        import torch

        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"


settings = Settings()
