"""Which Cell Ontology terms labels in a user's own words mean."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

from bioverse_sc.ontology._cell_ontology import _key, cell_ontology

if TYPE_CHECKING:
    from collections.abc import Iterable

Words = frozenset[str]

ABBREVIATIONS = {
    "cdc": "conventional dendritic",
    "ctl": "cytotoxic t",
    "dc": "dendritic",
    "fibro": "fibroblast",
    "gammadelta": "gamma delta",
    "gd": "gamma delta",
    "gdt": "gamma delta t",
    "ilc": "innate lymphoid",
    "mac": "macrophage",
    "mk": "megakaryocyte",
    "mono": "monocyte",
    "pdc": "plasmacytoid dendritic",
    "reg": "regulatory",
    "tcm": "central memory t",
    "tem": "effector memory t",
    "treg": "regulatory t",
    "i": "1",
    "ii": "2",
    "iii": "3",
}
"""Words of a label that stand for other words, in labels and in the ontology alike."""
UNSAID = {"cell", "of", "the"}
"""Words that do not tell terms apart."""
UNSAID_OF_T_CELLS = {"alpha", "beta", "thymus", "derived"}
"""What the ontology says of CD4 and CD8 T cells, and nobody else does."""

IN_USE = {
    "alpha": ["CL:0000171"],
    "beta": ["CL:0000169"],
    "delta": ["CL:0000173"],
    "epsilon": ["CL:0005019"],
    "pancreatic alpha": ["CL:0000171"],
    "pancreatic beta": ["CL:0000169"],
    "pancreatic delta": ["CL:0000173"],
    "pancreatic epsilon": ["CL:0005019"],
    "at1": ["CL:0002062"],
    "at2": ["CL:0002063"],
    "b": ["CL:0000236"],
    "t": ["CL:0000084"],
    "cd20+ b": ["CL:0000236"],
    "cd3+ t": ["CL:0000084"],
    "cd4+": ["CL:0000624"],
    "cd4+ naive": ["CL:0000895"],
    "cd4+ memory": ["CL:0000897"],
    "cd8+": ["CL:0000625"],
    "cd8+ naive": ["CL:0000900"],
    "cd8+ memory": ["CL:0000909"],
    # a synonym of a thymocyte, which these are in the thymus alone
    "cd4- cd8- t": ["CL:0000084"],
    "double- t": ["CL:0000084"],
    "cd56+ nk": ["CL:0000623"],
    "cd56bright nk": ["CL:0000938"],
    "cd56dim nk": ["CL:0000939"],
    "cd14+ cd16- monocyte": ["CL:0002057"],
    # the ontology has this as a synonym of the monocytes with both, but by itself it means those without CD14
    "cd16+ monocyte": ["CL:0000875"],
    "cdc1": ["CL:0002394"],
    "cdc2": ["CL:0002399"],
    "hspc": ["CL:0008001"],
    "mait": ["CL:0000940"],
    "nkt": ["CL:0000814"],
    "opc": ["CL:0002453"],
    "pre b": ["CL:0000817"],
    "thrombocyte": ["CL:0000233"],
    # several readings: hematopoietic or hepatic, stem or stromal, today's cDC1 and cDC2 or yesterday's myeloid and
    # plasmacytoid
    "hsc": ["CL:0000037", "CL:0000632"],
    "msc": ["CL:0000134", "CL:0000499"],
    "dc1": ["CL:0000990", "CL:0002394"],
    "dc2": ["CL:0000784", "CL:0002399"],
    "type 1 dendritic": ["CL:0000990", "CL:0002394"],
    "type 2 dendritic": ["CL:0000784", "CL:0002399"],
    "ipc": ["CL:0000784", "CL:0011020"],
    "stellate": ["CL:0000632", "CL:0002410"],
    "ductal": ["CL:0000068", "CL:0002079"],
}
"""What single-cell papers call a term, where the ontology has no such synonym or means another cell by it; in the words
that :func:`_words` makes. More than one term: ambiguous."""


@dataclass(frozen=True)
class LabelMatch:
    """What a label means in the Cell Ontology."""

    term: str | None = None
    """Id of the term; ``None`` when the label is only text."""
    candidates: tuple[str, ...] = ()
    """Ids of the terms that an ambiguous label may mean, sorted; empty when it is not ambiguous."""


def match_labels(labels: Iterable[str]) -> dict[str, LabelMatch]:
    """Cell Ontology terms of labels in a user's own words.

    A label means the term whose name, exact synonym or id it is; case, hyphens, plurals, the order of words, the word
    "cell", and how the presence of a marker is written ("CD14+", "CD14-positive", "CD14") do not matter, and common
    abbreviations are known. A word of six letters or more that the ontology does not use may be one letter off one that
    it does (:mod:`rapidfuzz`). All words have to be met: similar names, such as "osteoblast" and "osteoclast", or "NK
    cell" and "NK T cell", are different cells, so a label that is only similar to a name matches nothing.

    Parameters
    ----------
    labels
        Any words, such as ``["CD14+ Mono", "Tregs", "my cluster"]``.

    Returns
    -------
    Each label with its :class:`LabelMatch`.
    """
    return {label: _match(label) for label in labels}


def _match(label: str) -> LabelMatch:
    names, synonyms = _exact()
    if terms := names.get(_key(label)):
        return _one_of(terms)
    words = _words(label)
    if terms := _in_use().get(words) or synonyms.get(_key(label)):
        return _one_of(terms)
    # one letter is the name of a cluster
    if not words or (len(words) == 1 and len(min(words)) == 1):
        return LabelMatch()
    by_words, vocabulary = _by_words()
    readings = [words]
    if words not in by_words:
        readings = [
            frozenset(reading) for reading in product(*(_spellings(word, vocabulary) for word in sorted(words)))
        ]
    return _one_of(set().union(*(_in_use().get(reading) or by_words.get(reading, set()) for reading in readings)))


def _one_of(terms: Iterable[str]) -> LabelMatch:
    """The term that all others are a kind of, if there is one."""
    candidates = tuple(sorted(terms))
    ontology = cell_ontology()
    for term in candidates:
        if all(term in ontology.ancestors(other) for other in candidates):
            return LabelMatch(term)
    return LabelMatch(None, candidates)


@cache
def _in_use() -> dict[Words, set[str]]:
    return {frozenset(words.split()): set(terms) for words, terms in IN_USE.items()}


@cache
def _exact() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Terms by name or id, and by exact synonym."""
    ontology = cell_ontology()
    names: dict[str, set[str]] = defaultdict(set)
    synonyms: dict[str, set[str]] = defaultdict(set)
    for term, name in _current().items():
        names[_key(name)].add(term)
        names[_key(term)].add(term)
        for synonym in ontology.synonyms[term]:
            synonyms[_key(synonym)].add(term)
    return dict(names), dict(synonyms)


@cache
def _by_words() -> tuple[dict[Words, set[str]], tuple[str, ...]]:
    """Terms by the words of a name or synonym, and the words that can be misspelt."""
    ontology = cell_ontology()
    by_words: dict[Words, set[str]] = defaultdict(set)
    for term, name in _current().items():
        for text in (name, *ontology.synonyms[term]):
            by_words[_words(text)].add(term)
    vocabulary = sorted({w for words in by_words for w in words if w.isalpha() and len(w) > 4})
    return dict(by_words), tuple(vocabulary)


def _current() -> dict[str, str]:
    """Names of the terms that are not obsolete."""
    return {term: name for term, name in cell_ontology().names.items() if not name.startswith("obsolete ")}


def _spellings(word: str, vocabulary: tuple[str, ...]) -> list[str]:
    """The word, or the words of the ontology that it may be a misspelling of."""
    from rapidfuzz import process
    from rapidfuzz.distance import OSA

    if len(word) < 6 or not word.isalpha():
        return [word]
    near = process.extract(word, vocabulary, scorer=OSA.distance, score_cutoff=1, limit=None)
    exact = [w for w, distance, _ in near if distance == 0]
    return exact or sorted(w for w, _, _ in near) or [word]


def _words(label: str) -> Words:
    """Words of a label that tell it from others, in one spelling.

    >>> sorted(_words("CD14-positive, CD16-negative Monocytes"))
    ['cd14+', 'cd16-', 'monocyte']
    """
    text = unicodedata.normalize("NFKC", label)
    text = re.sub(r"[‐‑–—−]", "-", text)
    # B-2 is a kind of B cell, "B cell 2" a cluster of them
    text = re.sub(r"(?<=\w)-(?=\d)", "", text)
    for letter, name in zip("αβγδε", ("alpha", "beta", "gamma", "delta", "epsilon"), strict=True):
        text = text.replace(letter, name)
    # plural of an abbreviation: DCs, ILC2s
    text = re.sub(r"([A-Z]{2}\d?)s\b", r"\1", text).casefold()
    text = text.replace("haem", "hem").replace("oeso", "eso").replace("fcgr3a", "cd16").replace("ncam1", "cd56")
    text = re.sub(r"\b(nk|natural killer)[ -]?t\b", "nkt", text).replace("natural killer", "nk")
    text = re.sub(r"(?<=\w)[- ]positive\b", "+", text)
    # a minus is behind a marker and not between words
    text = re.sub(r"(?<=\w)[- ]negative\b|(?<=\w)-(?=[\s/,;)]|$)", "~", text)
    text = re.sub(r"\b(cd\d+[a-z]{0,2})-(?=cd\d)", r"\1~", text)
    text = re.sub(r"\b(cd\d+[a-z]{0,2}?)[- ]?(bright|dim|high|low)\b", r"\1\2 ", text)
    text = re.sub(r"(?<=[+~])/", " ", re.sub(r" [+&] ", "/", text))
    words: set[str] = set()
    for word in re.findall(r"[^\W_]+[+~]?|/", text):
        if re.fullmatch(r"cd\d+[a-z]{0,2}", word):
            word += "+"
        if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us")):
            word = word[:-1]
        words |= set(ABBREVIATIONS.get(word, word).split())
    if words & {"cd4+", "cd8+"} and {"alpha", "beta"} <= words:
        words -= UNSAID_OF_T_CELLS
    return frozenset(word.replace("~", "-") for word in words - UNSAID)
