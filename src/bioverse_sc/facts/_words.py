"""Small parts of sentences."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# where the noun that is counted ends: "T cell | of the thymus", "natural killer cell|, human"
_BEHIND_NOUN = re.compile(r"((?<=cell), | \(| of | with | in | from | derived | tethered | expressing ).*$")
_CLAUSES = (", which ", ", where ", ", including ", ", such as ", ", with ", ", and it ", "; ", " which ", " that are ")
"""What begins a part that a sentence can do without."""
_SPELLED_WITH_VOWEL = re.compile(r"^[AEFHILMNORSX](?=\d|[-/ ]|[A-Z]?\d|[A-Z][- ]|$)")
_SOUNDS_LIKE_CONSONANT = re.compile(r"^(uni|ure|eu|one|use|ut)", re.IGNORECASE)


@cache
def with_article(noun: str) -> str:
    """The noun with its article, ``"an erythroblast"``.

    Parameters
    ----------
    noun
        Such as the name of a cell type.
    """
    starts_with_vowel = noun[:1].lower() in "aeiou" and not _SOUNDS_LIKE_CONSONANT.match(noun)
    return f"{'an' if starts_with_vowel or _SPELLED_WITH_VOWEL.match(noun) else 'a'} {noun}"


@cache
def in_plural(noun: str) -> str:
    """The plural of a cell type: ``"T cells"``, ``"endothelial cells of hepatic sinusoid"``.

    Parameters
    ----------
    noun
        Name of the type.
    """
    behind = match[0] if (match := _BEHIND_NOUN.search(noun)) else ""
    head = noun.removesuffix(behind) if behind else noun
    if head.endswith(("s", "sperm", "ae", "ia")):
        return noun
    for end, many in (("gonium", "gonia"), ("y", "ies"), ("ch", "ches")):
        if head.endswith(end) and not head.endswith(("ay", "ey")):
            return head.removesuffix(end) + many + behind
    return f"{head}s{behind}"


def listed(items: Iterable[str], last: str = "and") -> str:
    """Items as in ``"CD3D, CD3E and IL7R"``; between items that hold commas stands a semicolon.

    Parameters
    ----------
    items
        Texts.
    last
        Word before the last one.
    """
    items = list(items)
    comma = "; " if any("," in item for item in items) else ", "
    if len(items) < 2:
        return "".join(items)
    return f"{comma.join(items[:-1])} {last} {items[-1]}"


def shown_probability(value: float) -> str:
    """A probability with two digits, never rounded to certainty.

    Parameters
    ----------
    value
        Of 0 to 1.
    """
    return "more than 0.99" if value > 0.995 else "less than 0.01" if value < 0.005 else f"{value:.2f}"


def percent(share: float) -> str:
    """A share as ``"94 percent"``; a small one is not rounded to nothing."""
    return "less than 1 percent" if 0 < share < 0.005 else f"{100 * share:.0f} percent"


def counted(n: float, noun: str) -> str:
    """A number with its noun, ``"1 count"``, ``"12 counts"``."""
    n = round(float(n), 1)
    return f"{n:g} {noun}{'' if n == 1 else 's'}" if n < 1e5 else f"{n:.0f} {noun}s"


def capital(text: str) -> str:
    """The text with a capital in front."""
    return text[:1].upper() + text[1:]


def brief(text: str, most: int) -> str:
    """The first sentences of a text, at most so many letters; a first one that is longer loses its last clauses."""
    sentences = re.split(r"(?<=[a-z0-9)\"])\.\s+(?=[A-Z])", text.strip().rstrip("."))
    said = sentences[0]
    while len(said) > most:
        at = max(said.rfind(mark, 30) for mark in _CLAUSES)
        if at < 0:
            break
        said = said[:at]
    for sentence in sentences[1:]:
        if len(said) + len(sentence) + 2 > most:
            break
        said += f". {sentence}"
    return said + "."
