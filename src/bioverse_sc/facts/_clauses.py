"""Takes sentences apart: what a clause names, its numbers, its other words, and whether it denies."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from bioverse_sc.facts._mentions import Span, named_spans
from bioverse_sc.facts._paraphrases import joined_up, plain

_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])|\n+")
_TOKEN = re.compile(r"<(\d+)>|CL:\d+|\d+(?:,\d{3})+|\d+(?:\.\d+)?|[A-Za-z]+(?:['-][A-Za-z]+)*|[;:,()%]")
_VERBS = "is|are|has|have|does|do|expresses|express|shows|encodes|can|will|may|takes|belongs|lacks|cannot"
_NEW_CLAUSE = frozenset({"but", "because", "although", "though", "while", "whereas", "so", "however", ";"})
_DENIES = frozenset(
    "not no none cannot never neither nor without lack lacks lacking absent absence missing undetected nothing isn't "
    "doesn't aren't don't wasn't can't unlikely negative".split()
)
_SAYS_NOTHING = frozenset(
    "a an the is are was were be been being it its they their this that these those of in on at to by with from for as "
    "and or also than then there which who whom has have had having do does did can could may might would will shall "
    "cell cells cluster sample yes indeed well here very quite about such one ones probably possibly perhaps most "
    "likely likelier therefore thus hence too both each all named called known label labelled labeled type types gene "
    "genes true only means mean says say said i we you our your if whether consist consists so because but".split()
)
_SAME = {
    "detect": "express",
    "found": "express",
    "find": "express",
    "seen": "express",
    "show": "express",
    "present": "express",
    "contain": "express",
    "positive": "express",
    "expression": "express",
    "absent": "express",
    "absence": "express",
    "missing": "express",
    "lack": "express",
    "undetect": "express",
    "certain": "sure",
    "confident": "sure",
    "confidence": "sure",
    "reliable": "sure",
    "chance": "probability",
    "likelihood": "probability",
    "subtype": "kind",
    "subset": "kind",
    "umi": "count",
    "read": "count",
    "transcript": "count",
    "mitochondria": "mitochondrial",
    "dividing": "prolifer",
    "divid": "prolifer",
    "proliferat": "prolifer",
    "cycl": "prolifer",
    "percentage": "share",
    "fraction": "share",
    "proportion": "share",
}
_UNITS = {"count": "count", "umi": "count", "read": "count", "percent": "percent", "%": "percent", "source": "source"}
_OF_TYPE = re.compile(
    r"^(?:(?:yes|no|well|indeed|so|then|therefore)\W+)?(?:the |this |that |each |cell |its |it )?(?:\w+ )??"
    r"(?:cell|cells|cluster|it|they|this|these|label|type)?(?: \d+)? ?"
    r"(?:is|are|was|consists?|does not consist|do not consist|labell?ed|called|must be|could be|looks like)\b"
    r"(?: (?:not|no|most|likely|probably|indeed|also|clearly|definitely|certainly|then|labell?ed|called|as|of|a|an|the|"
    r"one|typical|kind|type|group))* <\d+>"
)
_OF_RELATIVE = re.compile(
    r"\bknown \w+ that is (?:\w+ )?similar\b|\bmember of the same family as\b|\bbuilt like this known\b", re.IGNORECASE
)
"""What a fact says of a relative of what is asked about."""
_AS_OF_RELATIVE = re.compile(
    r"\b(similar|similarity|family|like|near|nearest|closest|relatives?|related|resembles?|probably|perhaps|possibly|likely|"
    r"may|might|could)\b",
    re.IGNORECASE,
)
"""What says that no more than that is meant."""
_DIRECTED = re.compile(r"\b(kinds? of|type of|among|are|than|rather|subtype|subset)\b")


@dataclass(frozen=True)
class Number:
    """A number of a clause."""

    value: float
    unit: str
    """What is counted, ``""`` for none."""
    of: str
    """Name that it stands by, ``""`` for none."""


@dataclass(frozen=True)
class Clause:
    """A part of a sentence that asserts one thing."""

    fact: int
    """Index of the fact that it is part of."""
    ordered: tuple[str, ...]
    """Names in their order: genes, types, pathways, and what is written like a gene."""
    genes: frozenset[str]
    types: frozenset[str]
    numbers: frozenset[Number]
    words: frozenset[str]
    denies: bool
    says_type: bool
    """Whether it says that a cell is of a type, or is not."""
    says_label: bool
    """Whether it says only how a cell is labelled."""
    is_directed: bool
    """Whether the order of its types matters."""
    is_of_relative: bool
    """Whether it is said of a relative of what is asked about."""
    is_hedged: bool
    """Whether it says of what is asked about no more than that it is near to something, or may be so."""

    @property
    def names(self) -> frozenset[str]:
        """All that it names."""
        return frozenset(self.ordered)

    @property
    def is_empty(self) -> bool:
        """Whether it asserts nothing."""
        return not (self.ordered or self.numbers or self.words)

    @property
    def pairs(self) -> list[frozenset[str]]:
        """Each gene with each type."""
        return [frozenset({gene, term}) for gene in self.genes for term in self.types]

    def has_number(self, number: Number) -> bool:
        """Whether it has a number with its unit, for the same name."""
        return any(_equal(mine.value, number.value) and _fits(mine, number) for mine in self.numbers)

    def has_other_number(self, number: Number, clause: Clause) -> bool:
        """Whether it gives another number for the same quantity of the same thing."""
        if not self.numbers or self.has_number(number) or not (number.unit or clause.words & self.words):
            return False
        words = clause.words - {number.unit}
        same = clause.names <= self.names and len(words & self.words) >= 0.8 * len(words)
        return same and any(
            mine.unit == number.unit and (mine.of == number.of or not number.of) for mine in self.numbers
        )

    def is_reversed(self, other: Clause) -> bool:
        """Whether two types of another clause stand here in the other order, and the order matters."""
        mine = [name for name in self.ordered if name in other.types & self.types]
        theirs = [name for name in other.ordered if name in other.types & self.types]
        return len(theirs) > 1 and (self.is_directed or other.is_directed) and mine[0] != theirs[0]


def sentences_of(text: str) -> list[str]:
    """Sentences of a text.

    Parameters
    ----------
    text
        A sentence ends where a capital, a digit, a quotation or a bracket follows.
    """
    return [sentence.strip() for sentence in _SENTENCE_ENDS.split(text.strip()) if sentence.strip()]


@lru_cache(maxsize=20_000)
def clauses_of(text: str, fact: int) -> tuple[Clause, ...]:
    """Clauses of all sentences of a text.

    Parameters
    ----------
    text
        One or more sentences.
    fact
        Index to note with them.
    """
    clauses: list[Clause] = []
    for sentence in sentences_of(joined_up(text)):
        of_relative, hedged = (bool(pattern.search(sentence)) for pattern in (_OF_RELATIVE, _AS_OF_RELATIVE))
        parts = (clause for part in sentences_of(plain(sentence)) for clause in _of_sentence(part, fact))
        clauses += (replace(clause, is_of_relative=of_relative, is_hedged=hedged) for clause in parts)
    return tuple(clauses)


def _of_sentence(sentence: str, fact: int) -> list[Clause]:
    spans = named_spans(sentence)
    masked, at = "", 0
    for i, span in enumerate(spans):
        masked += f"{sentence[at : span.start]} <{i}> "
        at = span.stop
    masked = re.sub(r"\s+", " ", masked + sentence[at:]).strip()
    masked = re.sub(r"^(Yes|No|Indeed|Well)[,.;:]? ", "", masked)
    named = {f"<{i}>": span for i, span in enumerate(spans)}
    clauses: list[Clause] = []
    before = ""
    for start, part in _split(masked):
        # "..., which is specific to" speaks of the gene before, "... and is" of the subject
        names = re.findall(r"<\d+>", before)
        if re.match(r"which|who", start):
            part = " ".join([*names, part])
        elif re.match(rf"(?:it )?(?:{_VERBS})\b", part) and before.startswith("<"):
            part = f"{names[0]} {part}"
        clauses.append(_clause(part, [match[0] for match in _TOKEN.finditer(part)], named, fact))
        before = part
    return clauses


def _split(masked: str) -> list[tuple[str, str]]:
    """Parts of a sentence that assert one thing each, with the word before each."""
    words = "|".join(word for word in _NEW_CLAUSE if word != ";")
    # "and" begins a clause before a subject with a verb, or before a verb
    subjects = r"it|they|this|these|the \w+|its \w+|no \w+|<\d+>"
    pattern = (
        rf"([;:]\s+(?=(?:it|they|the|this|these|none|no)\b)|,?\s+(?:{words})\s+|,\s+(?:which|who)\s+|"
        rf",?\s+and\s+(?=(?:(?:{subjects})\s+)?(?:{_VERBS})\b))"
    )
    parts = re.split(pattern, masked)
    starts = ["", *(start.strip(" ,") for start in parts[1::2])]
    return [(start, part) for start, part in zip(starts, parts[::2], strict=True) if part.strip(" .,!?")]


def _clause(part: str, tokens: list[str], named: dict[str, Span], fact: int) -> Clause:
    lower = [token.lower() for token in tokens]
    ordered = tuple(named[token].name for token in tokens if token in named)
    kinds = {span.name: span.kind for span in named.values()}
    is_word = [token[0].isalpha() and not token.startswith("cl:") for token in lower]
    stems = {stem(word) for word, is_w in zip(lower, is_word, strict=True) if is_w and word not in _SAYS_NOTHING}
    denies = any(word in _DENIES or word.endswith("n't") for word in lower)
    words = {s for s in stems if s not in _DENIES} | {t for t in lower if t.startswith("cl:")}
    words |= {"express"} & {_SAME.get(stem(word), "") for word in lower if word in _DENIES}
    if not ordered:
        # a hedge beside a name, and what is said of the label where there is none
        words |= {"likely"} & set(lower)
    types = frozenset(name for name in ordered if kinds[name] == "types")
    says_type = bool(types) and bool(_OF_TYPE.match(re.sub(r"[,.]", "", part).lower().strip()))
    # "A plasma cell." answers what the cell is
    says_type |= fact < 0 and len(ordered) == 1 and bool(types) and not words and not _numbers(lower, named)
    says_label = bool(types) and re.search(r"\blabell?ed\b", part.lower()) is not None
    # a label is not yet what the cell is, where the facts have another type that is more likely
    says_type = says_type and not (says_label and fact >= 0)
    says_type = says_type and "whether" not in lower and "possible" not in lower
    return Clause(
        fact=fact,
        ordered=ordered,
        genes=frozenset(name for name in ordered if kinds[name] in ("genes", "unknown")),
        types=types,
        numbers=frozenset(_numbers(lower, named)),
        words=frozenset(words - {""}),
        denies=denies,
        says_type=says_type,
        says_label=says_label,
        is_directed=bool(_DIRECTED.search(part.lower())) and len(types) > 1,
        is_of_relative=False,
        is_hedged=False,
    )


def _numbers(lower: list[str], named: dict[str, Span]) -> list[Number]:
    """Numbers with the unit behind them, or the quantity before, and the nearest gene."""
    numbers = []
    genes = {i: named[token].name for i, token in enumerate(lower) if token in named and named[token].kind != "types"}
    for i, token in enumerate(lower):
        if not token[0].isdigit():
            continue
        behind = lower[i + 1] if i + 1 < len(lower) else ""
        unit = _UNITS.get(behind, _UNITS.get(behind.rstrip("s"), ""))
        if not unit and behind.rstrip("s") == "gene":
            unit = "gene"
        if not unit and any(word in {"probability", "chance", "likelihood"} for word in lower[max(0, i - 6) : i]):
            unit = "probability"
        # "CD3D with 2 counts", "CD3D (2 counts)", "2 counts of CD3D"
        before = [j for j in genes if j < i]
        after = [j for j in genes if j > i]
        is_of_next = bool(after) and "of" in lower[i : after[0]] and after[0] - i <= 3
        nearest = genes[after[0]] if is_of_next or (after and not before) else genes[before[-1]] if before else ""
        numbers.append(Number(float(token.replace(",", "")), unit, nearest))
    return numbers


def _equal(mine: float, other: float) -> bool:
    return abs(mine - other) < 1e-9 or abs(mine - other * 100) < 1e-6 or abs(mine * 100 - other) < 1e-6


def _fits(mine: Number, other: Number) -> bool:
    same_unit = mine.unit == other.unit or not other.unit or {mine.unit, other.unit} == {"percent", "probability"}
    return same_unit and (mine.of == other.of or not other.of)


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """A word without its ending, and the same for words that mean the same in an answer."""
    word = word.removesuffix("'s")
    if word in _SAME:
        return _SAME[word]
    for end in ("ations", "ation", "ings", "ing", "ions", "ion", "ies", "es", "ed", "s", "ly", "e"):
        if word.endswith(end) and len(word) - len(end) >= 4 and not (end == "s" and word.endswith("ss")):
            word = word.removesuffix(end)
            break
    return _SAME.get(word, word)
