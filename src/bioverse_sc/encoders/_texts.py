"""Texts that encoders are given: one that cannot be read is an error that names its row."""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING

import pandas as pd

from bioverse_sc._validation import check_batch_size
from bioverse_sc.encoders._words import is_missing

if TYPE_CHECKING:
    from collections.abc import Sequence

_CAPITALS = str.maketrans(string.ascii_lowercase + "Jj", string.ascii_uppercase + "XX")


class UnreadableError(ValueError):
    """A text that is no sequence, or no SMILES.

    Parameters
    ----------
    noun
        What one of them is called.
    row
        Where it is.
    problem
        What is wrong, and what to do about it.
    """

    def __init__(self, noun: str, row: int, problem: str) -> None:
        super().__init__(f"The {noun} in row {row} {problem}")
        self.noun, self.row, self.problem = noun, row, problem


def check_texts(
    texts: Sequence[str], noun: str, batch_size: int | None, placeholders: frozenset[str] = frozenset()
) -> None:
    """Raise for what is no list of texts, for a text that says nothing, and for a batch size that is not positive.

    Parameters
    ----------
    texts
        Sequences or SMILES.
    noun
        What one of them is called in a message.
    batch_size
        Texts per forward pass at most.
    placeholders
        More words, in lower case, that say nothing.
    """
    if isinstance(texts, str):
        msg = f"One {noun} was given as a text; expected a list of them: [{texts!r:.40}]"
        raise TypeError(msg)
    check_batch_size(batch_size)
    for row, text in enumerate(texts):
        if isinstance(text, str):
            empty = not text.strip()
        elif not (empty := pd.isna(text) is True):
            raise UnreadableError(noun, row, f"is {text!r:.40} ({type(text).__name__}); expected text.")
        if empty:
            raise UnreadableError(noun, row, "is empty; leave it out, or fill it in.")
        if is_missing(text, placeholders):
            raise UnreadableError(noun, row, f"is {text!r:.60}, a word; leave it out, or fill in the {noun}.")


def bare_sequence(sequence: str) -> str:
    """Give a sequence in capitals, without gaps, white space and the stop at its end.

    Parameters
    ----------
    sequence
        Residues as somebody typed them.
    """
    # not upper(), which makes amino acids of other letters
    return re.sub(r"[\s.-]", "", sequence).translate(_CAPITALS).rstrip("*")
