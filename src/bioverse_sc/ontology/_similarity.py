"""How alike the texts of two Cell Ontology terms are."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import cache

from bioverse_sc.ontology._cell_ontology import cell_ontology

NAME_WEIGHT = 3
"""Weight of a word of a name or synonym, beside 1 of one of the definition and of a marker."""
N_MARKERS = 20
"""Best markers of a term that count."""


def similarity(one: str, other: str) -> float:
    """Cosine of the words of two terms (names, synonyms, definitions, markers), weighted by tf-idf, 0 to 1."""
    weights, others = _vector(one), _vector(other)
    # in a fixed order, so that the last digit is the same in each run
    return sum(weights[word] * others[word] for word in sorted(weights.keys() & others.keys()))


def contradict(one: str, other: str) -> bool:
    """Whether one name says what the other denies.

    "CD16-positive" and "CD16-negative", "classical" and "non-classical".
    """
    words, others = (set(_words(cell_ontology().names[term])) for term in (one, other))
    return any(_denied(word) in b for a, b in ((words, others), (others, words)) for word in a)


def _denied(word: str) -> str:
    return f"{word[:-1]}-" if word.endswith("+") else f"non{word}"


@cache
def _vector(term: str) -> dict[str, float]:
    """Weight of each word, of length one."""
    texts = _texts()
    weights = {word: n * math.log(len(texts) / _n_terms()[word]) for word, n in texts[term].items()}
    length = math.sqrt(sum(weight**2 for weight in weights.values()))
    return {word: weight / length for word, weight in weights.items()} if length else {}


@cache
def _n_terms() -> Counter[str]:
    """In how many terms each word is."""
    return Counter(word for words in _texts().values() for word in words)


@cache
def _texts() -> dict[str, Counter[str]]:
    """Words of each term."""
    ontology = cell_ontology()
    texts = {}
    for term, name in ontology.names.items():
        words = Counter(_words(ontology.definitions[term]))
        words.update(f"gene {gene}" for gene in list(ontology.markers.get(term, ()))[:N_MARKERS])
        for word in {word for text in (name, *ontology.synonyms[term]) for word in _words(text)}:
            words[word] += NAME_WEIGHT
        texts[term] = words
    return texts


def _words(text: str) -> list[str]:
    """Words, with a sign behind a marker and before what is denied.

    >>> _words("CD14-positive, CD16-negative non-classical monocytes")
    ['cd14+', 'cd16-', 'nonclassical', 'monocyte']
    """
    text = re.sub(r"[- ]positive\b", "+", text.casefold())
    text = re.sub(r"[- ]negative\b", "-", text)
    text = re.sub(r"\bnon[- ]", "non", text)
    return [re.sub(r"(?<=[^su])s$", "", word) for word in re.findall(r"[^\W_]+(?:\+|-(?!\w))?", text)]
