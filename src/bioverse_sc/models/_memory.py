"""Known entities and their texts: what ``retrieve=True`` shows to the language model."""

from __future__ import annotations

import lzma
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bioverse_sc._modality import known_modalities, modality_of
from bioverse_sc._optional import require
from bioverse_sc.encoders.esm2 import bare_sequence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

LETTERS = 4
"""Residues in a word of a protein."""
RADIUS, BITS = 2, 2048
"""Of Morgan fingerprints."""


class Memory:
    """Known entities with a text each, and which of them are nearest to others.

    Proteins are compared by the words of four residues that they share, weighted by how rare a word is (TF-IDF,
    cosine); molecules by the Tanimoto similarity of their Morgan fingerprints of radius 2. Those of another modality
    are compared as its entry says; see :class:`bioverse_sc.encoders.Modality`.

    Parameters
    ----------
    mod
        Modality that has texts, such as ``"protein"``.
    source
        Table with the columns ``entity`` (sequence or SMILES) and ``text``, or a file that :meth:`write` wrote; a file
        is read when it is first needed.
    """

    def __init__(self, mod: str, source: pd.DataFrame | Path) -> None:
        if not modality_of(mod).has_text:
            known = [repr(name) for name in known_modalities() if modality_of(name).has_text]
            msg = f"A memory is of {' or '.join(known)}; found {mod!r}."
            raise ValueError(msg)
        self.mod = mod
        self._source = source

    @cached_property
    def table(self) -> pd.DataFrame:
        """Known entities and their texts."""
        table = self._source
        if not isinstance(table, pd.DataFrame):
            table = pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False)
        if not {"entity", "text"} <= set(table.columns) or not len(table):
            msg = (
                f"A memory needs the columns 'entity' and 'text' and one row at least; found {len(table)} rows of "
                f"{list(table.columns)}."
            )
            raise ValueError(msg)
        return table[["entity", "text"]].reset_index(drop=True)

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def _similarity(self) -> Callable[[Sequence[str]], np.ndarray]:
        return _SIMILARITY[modality_of(self.mod).similarity](self.table["entity"].tolist())

    def nearest(self, entities: Sequence[str], n: int = 3, *, themselves: bool = True) -> list[list[str]]:
        """Find the texts of the nearest known entities, the nearest first, each text once.

        Parameters
        ----------
        entities
            Sequences or SMILES.
        n
            Texts at most; entities that have nothing in common with any known one get fewer.
        themselves
            Whether an entity that is known counts; not when a model learns to use what is near.
        """
        nearest = []
        known, known_texts = self.table["entity"], self.table["text"].to_numpy()
        index = {entity: i for i, entity in enumerate(known)}
        for start in range(0, len(entities), 256):
            asked = entities[start : start + 256]
            for entity, row in zip(asked, self._similarity(asked), strict=True):
                if not themselves and entity in index:
                    row[index[entity]] = 0
                # many of the nearest may have one text
                order = np.argsort(-row, kind="stable")[: 16 * n]
                texts = dict.fromkeys(known_texts[order[row[order] > 0]])
                nearest.append(list(texts)[:n])
        return nearest

    def write(self, path: Path) -> None:
        """Write the table as a compressed text file."""
        text = self.table.to_csv(sep="\t", index=False).encode()
        path.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


def _by_words(known: Sequence[str]) -> Callable[[Sequence[str]], np.ndarray]:
    """Cosine of TF-IDF vectors of words of residues, shape (asked, known)."""
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    # counts of words, by a hash of each, as there are many different ones
    words = HashingVectorizer(
        analyzer="char",
        ngram_range=(LETTERS, LETTERS),
        n_features=2**20,
        alternate_sign=False,
        norm=None,
        lowercase=False,
    )
    weights = TfidfTransformer(sublinear_tf=True)
    items = (
        weights.fit_transform(words.transform([bare_sequence(sequence) for sequence in known]))
        .astype(np.float32)
        .T.tocsr()
    )
    return lambda asked: (
        weights.transform(words.transform([bare_sequence(sequence) for sequence in asked])).astype(np.float32) @ items
    ).toarray()


def _by_fingerprints(known: Sequence[str]) -> Callable[[Sequence[str]], np.ndarray]:
    """Tanimoto similarity of Morgan fingerprints, shape (asked, known); zero for what is no molecule."""
    chem = require("rdkit.Chem", "chem")
    base = require("rdkit.rdBase", "chem")
    generators = require("rdkit.Chem.rdFingerprintGenerator", "chem")
    generator = generators.GetMorganGenerator(radius=RADIUS, fpSize=BITS)

    def fingerprints(smiles: Sequence[str]) -> np.ndarray:
        # RDKit writes what it thinks of a molecule to the error stream
        with base.BlockLogs():
            molecules = [chem.MolFromSmiles(text) for text in smiles]
            rows = [np.zeros(BITS) if m is None else generator.GetFingerprintAsNumPy(m) for m in molecules]
        return np.array(rows, dtype=np.float32).reshape(-1, BITS)

    items = fingerprints(known)

    def similarity(asked: Sequence[str]) -> np.ndarray:
        queries = fingerprints(asked)
        shared = queries @ items.T
        return np.asarray(shared / np.maximum(queries.sum(axis=1)[:, None] + items.sum(axis=1) - shared, 1e-9))

    return similarity


_SIMILARITY = {"letters": _by_words, "structure": _by_fingerprints}
