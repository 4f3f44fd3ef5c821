"""What a user's labels are beside those of a model: none of them, or the nearest."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc.ontology._cell_ontology import cell_ontology
from bioverse_sc.ontology._match import match_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

NONE_OF_THESE = frozenset(
    "ambiguous indeterminate misc miscellaneous na nan nd neither none null other remainder remaining rest unannotated "
    "unassigned uncertain unclassifiable unclassified unclear undecided undefined undetermined unidentified unk "
    "unknown unlabeled unlabelled "
    "unlisted unmatched unresolved unspecified unsure untyped".split()
)
"""Words for cells that are none of the other labels."""
NONE_OF_THESE_PHRASES = frozenset(
    [
        "anything else",
        "everything else",
        "something else",
        "n a",
        "n d",
        "not any",
        "not applicable",
        "not available",
        "not sure",
    ]
    + [f"no {word}" for word in ("annotation", "call", "label", "match", "type")]
    + [
        f"not {word}"
        for word in ("annotated", "assigned", "classified", "determined", "known", "labeled", "labelled", "listed")
    ]
)
_BESIDE_NONE = frozenset(
    "above all cell celltype cluster group identity kind label of or origin population the these type".split()
)
"""Words that change nothing beside :data:`NONE_OF_THESE`: "unknown cell type", "none of the above"."""


def means_unknown(label: str) -> bool:
    """Whether a label says that a cell is none of the others: "Unassigned", "other cells", "NA", "?".

    Doublets, debris and cells of low quality are something else, which is not told from their types.

    Parameters
    ----------
    label
        Any words.
    """
    text = re.sub(r"\b(un|non)[- ]", r"\1", unicodedata.normalize("NFKC", label).casefold())
    words = [re.sub(r"(?<=[^su]{3})s$", "", word) for word in re.findall(r"[^\W\d_]+", text)]
    if not words:
        return not re.search(r"[^\W_]", text)
    said = [word for word in words if word not in _BESIDE_NONE]
    return (
        " ".join(words) in NONE_OF_THESE_PHRASES
        or " ".join(said) in NONE_OF_THESE_PHRASES
        or bool(said and NONE_OF_THESE.issuperset(said))
    )


def nearest_labels(model_labels: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Which of a user's labels takes what a model gave to each of its own.

    A model's own label goes to itself where the user names it too, else to the user's label whose term is the same or
    the nearest above, the first of those that are equally near.

    Parameters
    ----------
    model_labels
        The model's labels.
    labels
        The user's labels, in any words.

    Returns
    -------
    Index into ``labels`` for each of ``model_labels``, -1 where there is none.
    """
    ontology = cell_ontology()
    index = {label: i for i, label in reversed(list(enumerate(labels)))}
    matches = match_labels([*model_labels, *labels])
    of_term: dict[str, int] = {}
    for i, label in enumerate(labels):
        if term := matches[label].term:
            of_term.setdefault(term, i)
    nearest = np.full(len(model_labels), -1)
    for k, label in enumerate(model_labels):
        term = matches[label].term
        if label in index:
            nearest[k] = index[label]
        elif term and (above := ontology.ancestors(term) & of_term.keys()):
            nearest[k] = of_term[max(above, key=lambda t: (len(ontology.ancestors(t)), -of_term[t]))]
    return nearest
