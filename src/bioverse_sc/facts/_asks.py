"""What a question asks for: a linear classifier of its words, fitted to many wordings of each kind of question.

The wordings are those of the conversations of ``recipes/smollm2``. Of 140 questions worded apart from them, words and
letters give 89 % the right kind; the mean of a layer of the language model, with the same classifier, at most 84 %.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from bioverse_sc.facts._mentions import Mentions, named_spans

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from sklearn.pipeline import Pipeline

    from bioverse_sc.facts._fact import Fact

OF_CELLS = ("cell", "gene", "type", "pathway", "refused")
"""Groups of wordings that are told apart; of proteins and molecules few facts are known, and all are shown."""
NAMED = {"genes": "xgene", "unknown": "xgene", "types": "xtype", "pathways": "xpathway"}
"""What stands for a name, by what it names."""
BACKWARD = {
    "{gene}": ("it", "that gene", "this one"),
    "{a} {name}": ("it", "one"),
    "{names}": ("they", "those cells", "them"),
    "{pathway}": ("it",),
}
"""What points back to a name, by its slot."""
ELLIPTIC = 2
"""Words at most of a question that goes on with the one before."""
NEEDS = {
    "genes": ("cell.expresses", "cell.is_marker", "gene."),
    "types": ("cell.is_type", "type."),
    "pathways": ("cell.pathway", "pathway."),
}
"""What a kind of question has to name."""
ANSWERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("label", "^The Cell Ontology id", ("cell.ontology_id",)),
    ("label", "", ("cell.identity", "cell.summary", "cell.why")),
    ("certainty", "", ("cell.certainty", "cell.summary", "cell.why")),
    ("runner-up", "", ("cell.runner_up", "cell.certainty", "cell.against", "cell.why")),
    ("markers", "known marker of|is highest in|is low in all", ("gene.marks",)),
    ("markers", "^The best known markers of", ("type.markers",)),
    ("markers", "", ("cell.markers", "cell.summary", "cell.why", "type.markers", "gene.marks")),
    ("absence", "", ("cell.against", "cell.why")),
    ("unusual", "", ("cell.unusual", "cell.quality", "cell.summary", "cell.why")),
    ("state", "", ("cell.state", "cell.summary", "cell.why")),
    ("numbers", "mitochondrial", ("cell.mitochondrial", "cell.quality")),
    ("numbers", "", ("cell.counts", "cell.genes_detected", "cell.quality", "cell.summary")),
    ("study", "", ("cell.study", "cell.summary", "refused")),
    ("type", " kinds? of ", ("cell.wider", "type.wider", "type.definition")),
    ("type", " occur in ", ("type.tissue", "type.definition")),
    ("type", "", ("type.definition",)),
    ("gene", "^The full name", ("gene.name", "gene.function")),
    ("gene", " takes part in ", ("gene.process", "gene.function")),
    ("gene", " is located in ", ("gene.location", "gene.function")),
    ("gene", "", ("gene.function", "cell.why")),
    ("pathway", "", ("pathway.genes", "pathway.number", "pathway.about")),
)
"""Kinds of questions that a fact answers, by its topic and its words; the first line that fits counts."""


@cache
def wordings() -> dict[str, Any]:
    """How questions are worded, by kind: ``{gene}``, ``{name}`` and ``{pathway}`` stand for names."""
    import yaml

    text = (files("bioverse_sc.facts") / "wordings.yaml").read_text(encoding="utf-8")
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def kinds_asked(question: str, *, earlier: Sequence[str] = ()) -> dict[str, float]:
    """The probability of each kind of question, such as ``"cell.identity"`` or ``"refused"``.

    Parameters
    ----------
    question
        In any words.
    earlier
        The questions before in the conversation, oldest first. One of a word or two, as "Why?" or "And CD8A?", is half
        of the kind of the last.
    """
    text = _masked(question)
    asked = _read(text)
    if earlier and len(re.findall(r"\w+", text)) <= ELLIPTIC:
        asked = (asked + _read(_masked(earlier[-1]))) / 2
    return {str(kind): float(p) for kind, p in zip(_reader().classes_, asked, strict=True)}


@lru_cache(maxsize=1000)
def _read(text: str) -> np.ndarray:
    """Probabilities of the kinds, shape (kinds,); one question may be asked of many cells."""
    return _reader().predict_proba([text])[0]


def possible_kinds(kinds: dict[str, float], named: Mentions, *, has_cell: bool) -> dict[str, float]:
    """The kinds that are possible where these things are named, with probabilities that sum to one.

    Parameters
    ----------
    kinds
        Kinds with their probabilities.
    named
        What the question names, or one before it.
    has_cell
        Whether there is a cell to ask about.
    """
    is_named = {"genes": named.genes or named.unknown, "types": named.types, "pathways": named.pathways}
    missing = [start for names, starts in NEEDS.items() if not is_named[names] for start in starts]
    missing += [] if has_cell else ["cell."]
    possible = {kind: p for kind, p in kinds.items() if not kind.startswith(tuple(missing))}
    total = sum(possible.values())
    return {kind: p / total for kind, p in possible.items()}


def needs_name(kind: str) -> bool:
    """Whether questions of a kind name something."""
    return kind.startswith(tuple(start for starts in NEEDS.values() for start in starts))


def answered_by(fact: Fact) -> tuple[str, ...]:
    """Kinds of questions that a fact answers."""
    return next((kinds for topic, words, kinds in ANSWERS if topic == fact.topic and re.search(words, fact.text)), ())


@cache
def _reader() -> Pipeline:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    kinds, texts = zip(*_examples(), strict=True)
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b", ngram_range=(1, 2))
    letters = TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 5))
    classifier = LogisticRegression(C=10, class_weight="balanced", tol=1e-3, max_iter=200)
    return make_pipeline(make_union(words, letters), classifier).fit(texts, kinds)


def _examples() -> Iterator[tuple[str, str]]:
    """Kinds and wordings, also with what points back to a name instead of it."""
    for group in OF_CELLS:
        known = wordings()[group]
        for name, texts in (known if isinstance(known, dict) else {"": known}).items():
            for text in texts:
                for worded in _worded(text):
                    yield f"{group}.{name}".rstrip("."), _masked(worded)


def _worded(text: str) -> Iterator[str]:
    for slot, words in BACKWARD.items():
        if slot in text:
            yield from (_filled(text.replace(slot, word)) for word in words)
    yield _filled(text)


def _filled(text: str) -> str:
    """The wording with something in place of its slots."""
    for slot, word in {
        "{a} {name}": "xtype",
        "{names}": "xtype",
        "{name}": "xtype",
        "{a}": "a",
        "{gene}": "xgene",
        "{pathway}": "xpathway",
        "{column}": "xcolumn",
    }.items():
        text = text.replace(slot, word)
    return text


def _masked(question: str) -> str:
    """The question with one word for whatever it names; the words of a process tell something themselves."""
    for span in reversed(named_spans(question)):
        words = question[span.start : span.stop] + " " if span.kind == "pathways" else ""
        question = question[: span.start] + words + NAMED[span.kind] + question[span.stop :]
    return question
