"""Checks of what a user passes. Each error says what was found and what to type."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_labels(labels: Sequence[str] | None) -> None:
    """Raise when a label set is a string, empty, or names a label twice."""
    if labels is None:
        return
    if isinstance(labels, str):
        msg = f"labels is the string {labels!r}; expected a list of strings, such as [{labels!r}, 'B cell']."
        raise TypeError(msg)
    if not all(isinstance(label, str) and label.strip() for label in labels):
        msg = f"labels holds something that is not a word: {list(labels)}. Expected strings such as 'B cell'."
        raise ValueError(msg)
    for label in labels:
        check_storable(label, "labels")
    if len(labels) == 0:
        msg = "labels is empty. Name the labels to choose from, or leave it out for the model's own label set."
        raise ValueError(msg)
    if repeated := [label for label, n in Counter(labels).items() if n > 1]:
        msg = (
            f"labels names {', '.join(map(repr, repeated))} more than once. Remove the repeats: "
            "list(dict.fromkeys(labels))"
        )
        raise ValueError(msg)


def check_storable(text: str, named: str) -> None:
    """Raise when files cannot keep a text: HDF5 ends one at NUL, and half a surrogate pair has no UTF-8."""
    for place, letter in enumerate(text):
        if letter == "\0" or "\ud800" <= letter <= "\udfff":
            msg = f"{named} holds {letter!r} (place {place}), which files cannot keep: {text!r:.80}. Remove it."
            raise ValueError(msg)


def check_positive(settings: Any, *names: str) -> None:
    """Raise when a number of some settings is not positive; one that is ``None`` is not set."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value <= 0:
            msg = f"{name} is {value}; expected a positive number."
            raise ValueError(msg)


def check_batch_size(batch_size: int | None) -> None:
    """Raise when there would be no batches."""
    if batch_size is not None and batch_size < 1:
        msg = f"batch_size is {batch_size}; expected 1 or more."
        raise ValueError(msg)


def check_dropout(dropout: float) -> None:
    """Raise when a share of dropout leaves nothing, or is negative."""
    if not 0 <= dropout < 1:
        msg = f"dropout is {dropout}; expected 0 or more, and less than 1."
        raise ValueError(msg)


def check_text_list(texts: Sequence[str]) -> None:
    """Raise when texts are a single string, none, or hold one that is empty or there twice."""
    if isinstance(texts, str):
        msg = f"texts is the string {texts!r}; expected a list of strings, such as [{texts!r}, 'a cell of the liver']."
        raise TypeError(msg)
    if len(texts) == 0:
        msg = "texts is empty; expected at least one, such as ['a cell of the liver']."
        raise ValueError(msg)
    for place, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            msg = (
                f"texts[{place}] is {text!r}; expected words, as an empty text has no place in the embedding space. "
                "Remove it from texts."
            )
            raise ValueError(msg)
        check_storable(text, f"texts[{place}]")
    if repeated := [text for text, n in Counter(texts).items() if n > 1]:
        msg = (
            f"texts holds {', '.join(map(repr, repeated))} more than once. Remove the repeats: "
            "list(dict.fromkeys(texts))"
        )
        raise ValueError(msg)
