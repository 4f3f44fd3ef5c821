"""ESM-2: amino-acid sequences to vectors."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, cast

import numpy as np

from bioverse_sc._modality import modality_of
from bioverse_sc.encoders._texts import UnreadableError, bare_sequence, check_texts
from bioverse_sc.encoders._transformer import TransformerEncoder, inner_mean
from bioverse_sc.encoders._words import not_a_protein

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Esm2Encoder", "inner_mean"]

WINDOW = 1022
"""Residues that ESM-2 was trained to read at a time."""
RESIDUES = "ACDEFGHIKLMNPQRSTVWYBXZUO"
"""The twenty amino acids, ambiguous ones, selenocysteine and pyrrolysine; all of them are tokens of ESM-2."""


class Esm2Encoder(TransformerEncoder):
    """An ESM-2 checkpoint of any size: the mean of the residues' hidden states after the last layer.

    Source: Lin et al., Science 379, 1123-1130 (2023).

    Lower case is read as upper case; stops (``*``) at the end and gaps (``-``, ``.``) are left out; J (leucine or
    isoleucine) is read as X. A sequence beyond 1,022 residues is read in windows of about equal length, and their means
    are weighted by length.
    """

    name = "esm2"
    mod = "protein"
    model_type = "esm"
    letters = RESIDUES

    def encode(self, sequences: Sequence[str], *, batch_size: int | None = None) -> np.ndarray:
        """Embed proteins.

        Parameters
        ----------
        sequences
            Amino-acid sequences in one-letter codes.
        batch_size
            Windows per forward pass at most; a budget of tokens limits them in any case.

        Returns
        -------
        Array of shape (proteins, width), float32. Rows depend on their own sequence alone.

        Raises
        ------
        ValueError
            For a sequence that is empty, holds an illegal character, looks like nucleotides, or is a word, the symbol
            of a gene or an accession; the message gives its row. A stop at the end, as in ``"GAG*"``, says that a short
            one is meant.
        TypeError
            For one text instead of a list of them.
        """
        check_texts(sequences, "sequence", batch_size, modality_of(self.mod).placeholders)
        windows: list[str] = []
        owner: list[int] = []
        for row, sequence in enumerate(sequences):
            cut = split_windows(clean_sequence(sequence, row))
            windows += cut
            owner += [row] * len(cut)
        # each letter is a token, which the tokenizer itself finds out slowly
        first, *_, last = self.tokenizer.encode("A")
        ids = cast("list[int]", self.tokenizer.convert_tokens_to_ids(list(RESIDUES)))
        token = dict(zip(RESIDUES, ids, strict=True))
        tokens = [[first, *map(token.__getitem__, window), last] for window in windows]
        means = self._pooled(tokens, inner_mean, batch_size=batch_size)
        lengths = np.array([len(window) for window in windows], dtype=np.float64)
        total = np.zeros((len(sequences), self.width))
        np.add.at(total, owner, means * lengths[:, None])
        weight = np.bincount(owner, weights=lengths, minlength=len(sequences))
        return (total / np.maximum(weight, 1)[:, None]).astype(np.float32)


def clean_sequence(sequence: str, row: int) -> str:
    """Bring a sequence into the letters of ESM-2, or say what is wrong with it."""
    noun = "sequence"
    if problem := not_a_protein(sequence):
        raise UnreadableError(noun, row, f"is {sequence.strip()!r:.60}, which {problem}.")
    cleaned = bare_sequence(sequence)
    if illegal := sorted(set(cleaned) - set(RESIDUES)):
        place = next(i for i, letter in enumerate(cleaned) if letter in illegal)
        which = "a stop inside" if illegal == ["*"] else f"{', '.join(map(repr, illegal))}, which are no amino acids"
        raise UnreadableError(
            noun, row, f"holds {which}, first at residue {place + 1}: {cleaned!r:.60}. Expected letters of {RESIDUES}."
        )
    if not cleaned:
        raise UnreadableError(noun, row, "has no residues, only gaps or a stop.")
    if set(cleaned) == {"X"}:
        raise UnreadableError(noun, row, "has only X, unknown residues; leave it out, or fill it in.")
    if _like_nucleotides(cleaned):
        raise UnreadableError(
            noun, row, f"looks like nucleotides ({cleaned[:20]}...), not like a protein; translate it first."
        )
    return cleaned


def _like_nucleotides(sequence: str) -> bool:
    """Whether 30 letters or more are those of nucleotides, all four, with at most one in 20 for an ambiguous base.

    A repeat of one to three of them may be a protein: silk, or poly-alanine.
    """
    share = sum(map(sequence.count, "ACGTUN")) / len(sequence)
    return (
        len(sequence) >= 30 and share >= 0.95 and set(sequence) >= set("ACG") and ("T" in sequence or "U" in sequence)
    )


def split_windows(sequence: str) -> list[str]:
    """Windows of at most :data:`WINDOW` residues, of about equal length."""
    n = -(-len(sequence) // WINDOW)
    edges = np.linspace(0, len(sequence), n + 1).round().astype(int)
    return [sequence[start:stop] for start, stop in pairwise(edges)]
