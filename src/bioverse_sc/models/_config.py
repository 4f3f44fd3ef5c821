"""What a saved model says about itself; JSON, with a version."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, with_config

from bioverse_sc._validation import check_dropout, check_positive
from bioverse_sc.models._chat_format import ChatFormat
from bioverse_sc.models._prompt import PROMPTS

if TYPE_CHECKING:
    from pathlib import Path

    from bioverse_sc.encoders import Encoder, Precomputed

FORMAT_VERSION = 2
"""Version 1 had no prompts, no chat format and no contract of the language model; it is still read."""

DtypeName = Literal["float32", "bfloat16", "float16"]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class ProjectorConfig:
    """Shape of a projector and the encoder that it was trained for.

    The encoder and the widths at both ends follow from what a new model is made of: :func:`create` fills them in, and
    is given the shape alone.
    """

    ENDS: ClassVar[tuple[str, ...]] = ("encoder", "encoder_fingerprint", "in_width", "out_width")
    """What follows from the encoder and the language model."""

    encoder: str = ""
    """Name of the encoder, e.g. ``"scgpt"``."""
    encoder_fingerprint: str = ""
    """Hash of the encoder's weights and vocabulary; ``""`` when any encoder of that width may be used."""
    in_width: int = 0
    """Of the encoder's vectors."""
    hidden_width: int | None = None
    """The language model's width by default."""
    out_width: int = 0
    """Of the language model."""
    n_tokens: int = 1
    """Soft tokens per vector of an entity."""
    n_layers: int = 3
    layer_norm: bool = True
    dropout: float = 0.1
    seed: int = 0
    """Seed of the untrained projector, which is the 'before' of alignment figures."""

    def __post_init__(self) -> None:
        check_positive(self, "hidden_width", "n_tokens", "n_layers")
        check_dropout(self.dropout)

    def for_encoder(self, encoder: Encoder | Precomputed, out_width: int) -> ProjectorConfig:
        """The same shape, between an encoder and a language model of that width."""
        return replace(
            self,
            encoder=encoder.name,
            encoder_fingerprint=encoder.fingerprint,
            in_width=encoder.width,
            hidden_width=self.hidden_width or out_width,
            out_width=out_width,
        )


@dataclass(frozen=True)
class Contract:
    """What the trained parts were trained on; checked when a model is loaded. ``""`` is not checked."""

    vocabulary: str = ""
    """Hash of the tokenizer's vocabulary."""
    weights: str = ""
    """Hash of samples of the base language model's weights, without adapters."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything but the weights."""

    name: str
    language_model: str
    """Folder inside the model's folder, a path, or a hub id."""
    language_model_revision: str | None = None
    """Commit of the hub repository."""
    dtype: DtypeName = "float32"
    """Number format that the language model computes in."""
    contract: Contract = field(default_factory=Contract)
    projectors: dict[str, ProjectorConfig] = field(default_factory=dict)
    """By modality: ``"rna"``, ``"protein"``, ``"molecule"``."""
    labels: tuple[str, ...] = ()
    """Label set of annotation: Cell Ontology names."""
    temperature: float = 1.0
    """Calibration: divides the log-probabilities of labels before they become confidences."""
    calibration: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Curve from the probability of a label to how often it is right; see
    :func:`bioverse_sc.metrics.apply_calibration`."""
    min_confidence: float = 0.0
    """Below this probability a label backs off to a wider one; see :func:`bioverse_sc.ontology.back_off`."""
    no_repeat_ngram_size: int = 0
    """Of descriptions and answers, unless the caller chooses; keeps a small language model from going round in
    circles."""
    grounding: Literal["", "checked", "shown"] = ""
    """Whether answers are held to facts (see ``bioverse_sc.facts``): ``"shown"`` to the model, which was trained on
    such prompts, or only ``"checked"`` afterwards; ``""`` gives answers as they were written."""
    prompts: dict[str, str] = field(default_factory=lambda: dict(PROMPTS))
    """Templates; see ``bioverse_sc.models.PROMPTS``."""
    chat: ChatFormat | None = None
    """What the language model's chat template puts around turns; ``None`` for a model of plain text."""
    shared_with: str = ""
    """Bundled model that holds the encoders, the gene reference and the memories that this one's folder has not."""
    package_version: str = ""
    """Version of bioverse-sc that saved the model."""
    format_version: int = FORMAT_VERSION

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> ModelConfig:
        """Read; an unknown version or key is an error."""
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if (version := stored.pop("format_version", None)) not in range(1, FORMAT_VERSION + 1):
            msg = (
                f"{path}: format version {version}; this package reads up to version {FORMAT_VERSION}. Update "
                "bioverse-sc."
            )
            raise ValueError(msg)
        stored["projectors"] = {mod: ProjectorConfig(**values) for mod, values in stored["projectors"].items()}
        stored["labels"] = tuple(stored["labels"])
        if (curve := stored.get("calibration")) is not None:
            stored["calibration"] = (tuple(curve[0]), tuple(curve[1]))
        # templates that came later
        stored["prompts"] = PROMPTS | stored.get("prompts", {})
        stored["contract"] = Contract(**stored.get("contract", {}))
        if stored.get("chat") is not None:
            stored["chat"] = ChatFormat(**stored["chat"])
        return cls(**stored)
