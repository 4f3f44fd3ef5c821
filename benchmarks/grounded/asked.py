"""A question with its cell, and what keys of all kinds share.

A key says ``right``, ``wrong`` (it contradicts the key), ``refused`` (it says that this cannot be told where it can) or
``beside`` (it neither refuses nor says anything that the key can judge).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grounded.tables import Tables, kin, marked_by
from grounded.words import asserted, genes_in, is_general, refuses, types_in

if TYPE_CHECKING:
    from grounded.cells import Cell

MARKING = re.compile(r"\bmark(?:s|er|ers|ing)?\b|typical|characteristic|specific", re.I)

IN_THE_CELL = re.compile(
    r"\b(?:express(?:es|ed|ing)?|detect(?:s|ed)?|counts?|(?<!-)positive|present|transcripts?|missing|absent|lack\w*)\b",
    re.I,
)
"""A clause about what is on in the cell."""
BARE_LIST = re.compile(
    r"\W*(?:(?:[A-Z0-9][\w.-]*|and|or|because|of|due|to|the|genes?|markers?|yes|such|as|like|by|its|expression)\b\W*)*"
)
"""Symbols and nothing that says anything of them."""


@dataclass(frozen=True)
class Question:
    """A question with its slots filled for a cell."""

    kind: str
    text: str
    slots: Mapping[str, str]
    cell: Cell
    asserted: str = ""
    """Of a question that cannot be answered, a pattern of what would be an answer all the same."""
    obs_keys: tuple[str, ...] = ()
    """Columns that the user named, so that the facts hold them."""
    alone: bool = False
    """Asked without showing the cell: about a gene, a type or a pathway."""


@dataclass(frozen=True)
class Score:
    """What a key says of an answer."""

    verdict: str
    hedged: bool

    @property
    def wrong_and_sure(self) -> bool:
        return self.verdict == "wrong" and not self.hedged


Key = Callable[[str, Question, Tables], str]


def by_polarity(said: set[str], accepted: set[str]) -> str:
    """Yes, no and "cannot be told" beside those that are right; an answer that says both is wrong."""
    if {"yes", "no"} <= said:
        return "wrong"
    if said & accepted:
        return "wrong" if said - accepted - {"cannot"} else "right"
    if said == {"cannot"}:
        return "refused"
    return "wrong" if said else "beside"


def closed(key: Key) -> Key:
    """Of a question that has an answer: nothing but a refusal is a refusal."""

    def judged(answer: str, question: Question, tables: Tables) -> str:
        if refuses(answer) and not asserted(answer):
            return "refused"
        return key(answer, question, tables)

    return judged


def false_genes(answer: str, cell: Cell) -> list[str]:
    """Genes of an answer that are said to be on and are not, or to be off and are on.

    A bare list of genes says that they are on; of a clause about a gene in general nothing is checked.
    """
    wrong = []
    for part in asserted(answer):
        if is_general(part, cell.term) or not (IN_THE_CELL.search(part) or BARE_LIST.fullmatch(part)):
            continue
        wrong += [m.name for m in genes_in(part) if bool(cell.value(m.name)) == m.denied]
    return wrong


def false_markers(answer: str, cell: Cell) -> list[str]:
    """Genes that an answer calls markers, and that mark neither the label or a wider type nor a type named beside."""
    wrong = []
    for part in asserted(answer):
        if MARKING.search(part) and not re.search(r"\bnot specific", part):
            named = {t for m in types_in(part) for t in kin(m.name)}
            genes = [m.name for m in genes_in(part) if not m.denied]
            wrong += [g for g in genes if g not in cell.markers and not marked_by(g) & named]
    return wrong
