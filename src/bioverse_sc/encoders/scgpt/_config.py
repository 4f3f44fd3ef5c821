"""The part of scGPT's ``args.json`` that decides the shape of the network and of its input."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_LEAST = {"embsize": 1, "nheads": 1, "d_hid": 1, "nlayers": 1, "n_layers_cls": 1, "n_bins": 3, "max_seq_len": 2}
_STYLES = ("continuous", "category", "scaling")


def read_json(path: Path) -> Any:
    """Read a JSON file; the error names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is not JSON ({error}); fetch it again."
        raise ValueError(msg) from error


@dataclass(frozen=True)
class ScGPTConfig:
    """Shape of an scGPT encoder, with the names that scGPT's own ``args.json`` uses.

    Keys of ``args.json`` that concern training only are ignored.
    """

    embsize: int
    nheads: int
    d_hid: int
    nlayers: int
    n_layers_cls: int = 3
    dropout: float = 0.2
    pad_token: str = "<pad>"
    pad_value: int = -2
    mask_value: int = -1
    n_bins: int = 51
    input_emb_style: str = "continuous"
    max_seq_len: int = 1200
    pre_norm: bool = False
    n_input_bins: int | None = None
    """Rows of the value embedding of the category style, ``n_bins + 2`` by default; a checkpoint's own number is
    used."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                msg = f"args.json: {name} is {value!r}; expected a whole number, at least {least}."
                raise ValueError(msg)
        if self.input_emb_style not in _STYLES:
            msg = f"args.json: input_emb_style is {self.input_emb_style!r}; expected one of {', '.join(_STYLES)}."
            raise ValueError(msg)
        if self.embsize % self.nheads:
            msg = f"args.json: embsize {self.embsize} is not a multiple of nheads {self.nheads}."
            raise ValueError(msg)
        if self.input_emb_style == "category" and not 0 <= self.pad_value < self.n_values:
            msg = (
                f"args.json: pad_value is {self.pad_value}, but with input_emb_style 'category' it is a row of the "
                f"value embedding, 0 to {self.n_values - 1}; scGPT uses n_bins, {self.n_bins}."
            )
            raise ValueError(msg)

    @property
    def n_values(self) -> int:
        """Rows of the value embedding of the category style: the bins, padding and mask."""
        return self.n_bins + 2 if self.n_input_bins is None else self.n_input_bins

    @classmethod
    def from_args(cls, args: dict[str, Any]) -> ScGPTConfig:
        """Take what matters from a parsed ``args.json``."""
        if not isinstance(args, dict):
            msg = f"args.json holds a {type(args).__name__}; expected a mapping of names to settings."
            raise ValueError(msg)
        known = {f.name for f in fields(cls)}
        required = {"embsize", "nheads", "d_hid", "nlayers"}
        if missing := sorted(required - args.keys()):
            msg = f"args.json lacks {', '.join(missing)}; it is not the args.json of an scGPT checkpoint."
            raise ValueError(msg)
        return cls(**{k: v for k, v in args.items() if k in known})

    @classmethod
    def read(cls, path: Path) -> ScGPTConfig:
        """Read ``args.json``."""
        return cls.from_args(read_json(path))

    def write(self, path: Path) -> None:
        """Write ``args.json`` as scGPT reads it."""
        stored = {k: v for k, v in asdict(self).items() if v is not None}
        path.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
