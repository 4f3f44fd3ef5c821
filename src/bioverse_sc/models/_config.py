"""What a saved model says about itself; JSON, with a version."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ProjectorConfig:
    """Shape of a projector and the encoder that it was trained for."""

    encoder: str
    """Name of the encoder, e.g. ``"scgpt"``."""
    encoder_fingerprint: str
    """Hash of the encoder's weights and vocabulary; ``""`` when any encoder of that width may be used."""
    in_width: int
    hidden_width: int
    out_width: int
    n_tokens: int = 1
    """Soft tokens per entity."""
    dropout: float = 0.1
    seed: int = 0
    """Seed of the untrained projector, which is the 'before' of alignment figures."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything but the weights."""

    name: str
    language_model: str
    """Folder inside the model's folder, a path, or a hub id."""
    language_model_revision: str | None = None
    projectors: dict[str, ProjectorConfig] = field(default_factory=dict)
    """By modality: ``"rna"``, ``"protein"``, ``"molecule"``."""
    labels: tuple[str, ...] = ()
    """Label set of annotation: Cell Ontology names."""
    temperature: float = 1.0
    """Divides the log-probabilities of labels before they become confidences."""
    format_version: int = FORMAT_VERSION

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> ModelConfig:
        """Read; an unknown version or key is an error."""
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if (version := stored.get("format_version")) != FORMAT_VERSION:
            msg = f"{path}: format version {version}; this package reads version {FORMAT_VERSION}. Update bioverse-sc."
            raise ValueError(msg)
        stored["projectors"] = {mod: ProjectorConfig(**values) for mod, values in stored["projectors"].items()}
        stored["labels"] = tuple(stored["labels"])
        return cls(**stored)
