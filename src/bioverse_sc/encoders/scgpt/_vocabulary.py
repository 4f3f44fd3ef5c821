"""scGPT's gene vocabulary: gene symbol or special token to integer id."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING

from bioverse_sc.encoders.scgpt._config import read_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SPECIAL_TOKENS = ("<pad>", "<cls>", "<eoc>")


class GeneVocabulary:
    """Gene symbols and special tokens with their ids.

    Parameters
    ----------
    tokens
        Tokens in the order of their ids. ``<pad>``, ``<cls>`` and ``<eoc>`` are appended when absent, as scGPT does.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = list(tokens)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            msg = "The gene vocabulary names a token twice."
            raise ValueError(msg)
        self.appended = [token for token in SPECIAL_TOKENS if token not in self.ids]
        for token in self.appended:
            self.ids[token] = len(self.tokens)
            self.tokens.append(token)

    @classmethod
    def read(cls, path: Path) -> GeneVocabulary:
        """Read ``vocab.json``, a mapping of token to id."""
        mapping: dict[str, int] = read_json(path)
        if not isinstance(mapping, dict) or not all(type(i) is int for i in mapping.values()):
            msg = f"{path.name}: expected a mapping of each token to its id."
            raise ValueError(msg)
        ordered = sorted(mapping, key=mapping.__getitem__)
        if [mapping[token] for token in ordered] != list(range(len(ordered))):
            msg = f"{path.name}: the ids are not 0 to {len(ordered) - 1}, each once."
            raise ValueError(msg)
        return cls(ordered)

    def write(self, path: Path) -> None:
        """Write ``vocab.json``."""
        path.write_text(json.dumps(self.ids, indent=0) + "\n", encoding="utf-8")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def pad_id(self) -> int:
        return self.ids["<pad>"]

    @property
    def cls_id(self) -> int:
        return self.ids["<cls>"]

    @cached_property
    def genes(self) -> list[str]:
        """The tokens that are genes, in the order of their ids."""
        return [token for token in self.tokens if not (token.startswith("<") and token.endswith(">"))]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the tokens and their order, to tell one vocabulary from another."""
        return hashlib.sha256("\n".join(self.tokens).encode()).hexdigest()[:16]
