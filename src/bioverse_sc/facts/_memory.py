"""Known entities and their texts: what is near to a protein or a molecule, and how near."""

from __future__ import annotations

import lzma
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from bioverse_sc._modality import known_modalities, modality_of
from bioverse_sc._optional import require
from bioverse_sc.encoders import bare_sequence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Similarity = Callable[[Sequence[str]], np.ndarray]

LETTERS = 4
"""Residues in a word of a protein."""
WORDS = 2**20
"""Columns of words: up to 32 different letters make no two words one."""
RADIUS, BITS = 2, 2048
"""Of Morgan fingerprints."""
CHUNK = 256
"""Entities that are compared at a time with all known ones."""
COLUMNS = ("name", "gene", "organism", "ec")
"""What a table may also say of an entity."""


@dataclass(frozen=True)
class Known:
    """A known entity that is near to another one."""

    entity: str
    """Sequence or SMILES."""
    text: str
    """What is known of it."""
    similarity: float
    """Cosine of words, or Tanimoto similarity, between 0 and 1."""
    is_same: bool
    """Whether it is the other one itself: the same residues, or the same molecule with its stereochemistry."""
    name: str = ""
    """Its name; ``""``, as below, where that is not known."""
    gene: str = ""
    """Symbol of its gene."""
    organism: str = ""
    """Where it is from, such as ``"human"``."""
    ec: str = ""
    """EC number of an enzyme."""


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
        Table with the columns ``entity`` (sequence or SMILES) and ``text``, and, where they are known, ``name``,
        ``gene``, ``organism`` and ``ec``; or a file that :meth:`write` wrote, which is read when it is first needed.
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
        """Known entities and their texts, and what else is known of some; ``""`` where it is not."""
        table = self._source
        if not isinstance(table, pd.DataFrame):
            table = pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False)
        if not {"entity", "text"} <= set(table.columns) or not len(table):
            msg = (
                f"A memory needs the columns 'entity' and 'text' and one row at least; found {len(table)} rows of "
                f"{list(table.columns)}."
            )
            raise ValueError(msg)
        columns = ["entity", "text", *(name for name in COLUMNS if name in table)]
        return table[columns].fillna("").reset_index(drop=True)

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def _columns(self) -> dict[str, list[str]]:
        return {str(name): values.tolist() for name, values in self.table.items()}

    @cached_property
    def _kind(self) -> str:
        return modality_of(self.mod).similarity

    @cached_property
    def _similarity(self) -> Similarity:
        return _SIMILARITY[self._kind](self.table["entity"].tolist())

    def nearest(self, entities: Sequence[str], n: int = 3, *, themselves: bool = True) -> list[list[Known]]:
        """Find the nearest known entities of each, the nearest first, each text once.

        Parameters
        ----------
        entities
            Sequences or SMILES.
        n
            Known entities at most; what has nothing in common with any known one gets fewer.
        themselves
            Whether an entity that is known counts; not when a model learns to use what is near.
        """
        nearest = []
        for start in range(0, len(entities), CHUNK):
            asked = entities[start : start + CHUNK]
            for entity, row in zip(asked, self._similarity(asked), strict=True):
                # many of the nearest may have one text
                n_most = min(16 * n, len(row))
                most = np.sort(np.argpartition(-row, n_most - 1)[:n_most])
                order = most[np.argsort(-row[most], kind="stable")]
                nearest.append(self._chosen(entity, row, order, n, themselves=themselves))
        return nearest

    def _chosen(self, entity: str, row: np.ndarray, order: np.ndarray, n: int, *, themselves: bool) -> list[Known]:
        """The first of them with different texts, the entity itself before others that are as similar."""
        identity, columns = _IDENTITY[self._kind], self._columns
        both = []
        for i in order[row[order] > 0].tolist():
            # what is not as similar as can be is another one
            is_alike = row[i] > 1 - 1e-4
            is_same = is_alike and bool(same := identity(entity)) and same == identity(columns["entity"][i])
            if themselves or not is_same:
                both.append((not is_same, i))
        of_text: dict[str, Known] = {}
        for is_other, i in sorted(both, key=lambda each: each[0]):
            if len(of_text) == n:
                break
            if columns["text"][i] not in of_text:
                similarity = min(float(row[i]), 1.0) if is_other else 1.0
                record = {name: values[i] for name, values in columns.items()}
                of_text[record["text"]] = Known(similarity=similarity, is_same=not is_other, **record)
        return list(of_text.values())

    def write(self, path: Path) -> None:
        """Write the table as a compressed text file."""
        text = self.table.to_csv(sep="\t", index=False).encode()
        path.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


def _by_words(known: Sequence[str]) -> Similarity:
    """Cosine of TF-IDF vectors of words of residues, shape (asked, known)."""
    from sklearn.feature_extraction.text import TfidfTransformer

    bare = [bare_sequence(sequence) for sequence in known]
    letters = np.unique(_code_points("A".join(["", *bare])))
    weights = TfidfTransformer(sublinear_tf=True)
    items = weights.fit_transform(_word_counts(bare, letters)).astype(np.float32).T.tocsr()

    def similarity(asked: Sequence[str]) -> np.ndarray:
        counts = _word_counts([bare_sequence(sequence) for sequence in asked], letters)
        return (weights.transform(counts).astype(np.float32) @ items).toarray()

    return similarity


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "replace"), dtype="<u4")


def _word_counts(texts: Sequence[str], letters: np.ndarray) -> sparse.csr_matrix:
    """How often each word of letters stands in each text, shape (texts, words); words of other letters are left out."""
    points = _code_points("\0".join([*texts, "\0" * LETTERS]))
    index = np.searchsorted(letters, points).clip(max=len(letters) - 1)
    is_letter = letters[index] == points
    n_words = len(points) - LETTERS
    code, is_word = np.zeros(n_words, dtype=np.int64), np.ones(n_words, dtype=bool)
    for i in range(LETTERS):
        code = code * 32 + index[i : i + n_words]
        is_word &= is_letter[i : i + n_words]
    rows = np.repeat(np.arange(len(texts)), [len(text) + 1 for text in texts])[is_word]
    # more than 32 different letters may make one column of two words
    columns = (code[is_word] % WORDS).astype(np.int32)
    ones = np.ones(len(rows), dtype=np.float32)
    return sparse.coo_matrix((ones, (rows.astype(np.int32), columns)), shape=(len(texts), WORDS)).tocsr()


def _by_fingerprints(known: Sequence[str]) -> Similarity:
    """Tanimoto similarity of Morgan fingerprints, shape (asked, known); zero for what is no molecule."""
    chem = require("rdkit.Chem", "chem")
    base = require("rdkit.rdBase", "chem")
    generators = require("rdkit.Chem.rdFingerprintGenerator", "chem")
    generator = generators.GetMorganGenerator(radius=RADIUS, fpSize=BITS)

    def fingerprints(smiles: Sequence[str]) -> sparse.csr_matrix:
        # RDKit writes what it thinks of a molecule to the error stream
        with base.BlockLogs():
            molecules = [chem.MolFromSmiles(text) for text in smiles]
            bits = [() if m is None else list(generator.GetFingerprint(m).GetOnBits()) for m in molecules]
        starts = np.cumsum([0, *map(len, bits)])
        columns = np.concatenate([np.asarray(b, dtype=np.int32) for b in bits]) if bits else np.zeros(0, np.int32)
        ones = np.ones(len(columns), dtype=np.float32)
        return sparse.csr_matrix((ones, columns, starts), shape=(len(smiles), BITS))

    items = fingerprints(known)
    n_bits = np.asarray(items.sum(axis=1)).ravel()
    by_bit = items.T.tocsr()

    def similarity(asked: Sequence[str]) -> np.ndarray:
        queries = fingerprints(asked)
        shared = (queries @ by_bit).toarray()
        return np.asarray(shared / np.maximum(np.asarray(queries.sum(axis=1)) + n_bits - shared, 1e-9))

    return similarity


def _canonical(smiles: str) -> str:
    """A molecule in RDKit's form; ``""`` for what is none."""
    chem = require("rdkit.Chem", "chem")
    with require("rdkit.rdBase", "chem").BlockLogs():
        molecule = chem.MolFromSmiles(smiles)
        return "" if molecule is None else str(chem.MolToSmiles(molecule))


_SIMILARITY = {"letters": _by_words, "structure": _by_fingerprints}
_IDENTITY = {"letters": bare_sequence, "structure": _canonical}
