"""What a user's labels take of the probability that a model gives to labels of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bioverse_sc.ontology._cell_ontology import cell_ontology
from bioverse_sc.ontology._label_set import LINEAGES, lineage_terms, match_labels, nearest_labels
from bioverse_sc.ontology._similarity import contradict, similarity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Relation = Literal["same", "wider", "ambiguous", "narrower", "sibling", "text", "nothing"]

LEAST_TRUST = 0.65
"""Share of the confidence that is left to a guess whose text has nothing in common with what it takes."""
DECISIVE = 2 / 3
"""Share of the likeness that one label of the model needs to be what a neighbour means, where a wider label would be
right."""
SIMILAR, ALIKE = 0.15, 0.3
"""Similarity of texts that a sibling needs where the common parent does not say of which lineage it is; and to come
before what is right by the ontology."""
SHARPNESS = 4
"""Power of the likeness by which equally near labels share."""
FLOOR = 1e-3
"""Similarity of texts without a common word, so that shares can be had."""
N_NEAREST = 3
"""Labels of the model that are named where a label takes nothing."""


@dataclass(frozen=True)
class Meaning:
    """What a user's label takes."""

    relation: Relation
    """``"same"``: a label of the model, or its term. ``"wider"``: above labels of the model. ``"ambiguous"``: several
    terms, what is at or below any of them. ``"narrower"``: below one; ``"sibling"``: with a parent in common; these two
    are guesses. ``"text"``: no term, so scored by its text. ``"nothing"``: a term that takes nothing."""
    shares: dict[str, float]
    """By label of the model, the share of its probability that this one takes."""
    similarity: float = 1.0
    """Of a guess: how alike the texts are, 0 to 1; the mean over what it takes."""
    nearest: tuple[str, ...] = ()
    """Of a label that takes nothing: the labels of the model that are nearest to it."""

    @property
    def is_guess(self) -> bool:
        return self.relation in ("narrower", "sibling")

    @property
    def trust(self) -> float:
        """Factor of the confidence, 1 for what is no guess."""
        return LEAST_TRUST + (1 - LEAST_TRUST) * self.similarity if self.is_guess else 1.0


@dataclass(frozen=True)
class _Claim:
    relation: Relation
    similarity: float
    share: float
    """Of the likeness to all that the label is equally near to."""

    @property
    def is_good(self) -> bool:
        return self.share >= DECISIVE and self.similarity >= ALIKE


def meanings_of(own: Sequence[str], labels: Sequence[str]) -> dict[str, Meaning]:
    """What each of a user's labels takes of what a model gives to its own.

    A label of the model goes to the user's label that is the same or the nearest above (:func:`nearest_labels`), or to
    a parent that takes nothing else. A label that may mean several terms takes what is at or below any of them, and is
    right in either case.

    A label with a term that takes nothing so is one that the model does not know, and what it takes is a guess: the
    labels of the model that it is a kind of, and where there are none, those that have a parent in common with it, when
    that says more than the lineage (:data:`LINEAGES`) or their texts are alike. It takes nothing that the list names
    too, and nothing that denies it in words ("classical", "non-classical"). It has to be a good guess where a wider
    label of the list would be right. Where several labels are equally near, they share by their texts. A label that is
    above some of the model's takes that of its parent too, where nothing else does.

    A list that names most of the model's labels speaks the model's words: a label that it has beside them stands for
    one that it lacks, whatever their texts.

    Parameters
    ----------
    own
        The model's labels.
    labels
        The user's labels, in any words.

    Returns
    -------
    Each of ``labels`` with its :class:`Meaning`.
    """
    ontology = cell_ontology()
    matches = match_labels([*own, *labels])
    terms = {label: match.term or "" for label, match in matches.items()}
    shares: dict[str, dict[str, float]] = {label: {} for label in labels}
    home: dict[str, str] = {}
    for k, j in zip(own, nearest_labels(own, labels), strict=True):
        if j >= 0:
            home[k] = labels[j]
            shares[home[k]][k] = 1.0
    readings = {label: set(matches[label].candidates) for label in labels if matches[label].candidates}
    for label, terms_of in readings.items():
        for k in own:
            if k not in home and terms[k] and terms_of & ontology.ancestors(terms[k]):
                home[k] = label
                shares[label][k] = 1.0
    named = {k for k, label in home.items() if k == label or (terms[k] and terms[k] == terms[label])}
    relation: dict[str, Relation] = {}
    for label, of in shares.items():
        found: Relation = "wider" if terms[label] else "ambiguous"
        relation[label] = "same" if named & of.keys() else found if of else "nothing" if terms[label] else "text"
    of_model = {k: terms[k] for k in own if terms[k]}
    first = {terms[label]: label for label in reversed(labels)}
    idle = [label for label in labels if relation[label] == "nothing" and first[terms[label]] == label]
    for label in sorted(idle, key=lambda label: (-len(ontology.ancestors(terms[label])), label)):
        for k, term in of_model.items():
            # of two wider labels the one that takes nothing else, when it is a parent
            is_parent = terms[label] in ontology.parents[term]
            if is_parent and k in home and k not in named and len(shares[home[k]]) > 1:
                del shares[home[k]][k]
                home[k], shares[label][k], relation[label] = label, 1.0, "wider"
    is_own_set = 2 * len(named) > len(own)
    # what lies below a label is all that it means, though the list names it
    known = set().union(*(ontology.ancestors(term) for term in of_model.values()))
    claims = {
        label: _claims(terms[label], of_model, named, is_own_set=is_own_set)
        for label in idle
        if relation[label] == "nothing" and (is_own_set or terms[label] not in known)
    }
    # what is called by the parent of a label may well be of its kind
    for label in labels:
        if relation[label] == "wider" and first[terms[label]] == label:
            parents = set(ontology.parents[terms[label]])
            above = [k for k, term in of_model.items() if term in parents and k not in home]
            claims[label] = _weighed("narrower", {k: similarity(terms[label], of_model[k]) for k in above})
    for k in own:
        wanted = {label: of[k] for label, of in claims.items() if k in of}
        if k in home:
            # a wider label of the list is right for certain
            wanted = {label: claim for label, claim in wanted.items() if claim.is_good or is_own_set}
        nearest: Relation = "narrower" if any(claim.relation == "narrower" for claim in wanted.values()) else "sibling"
        wanted = {label: claim for label, claim in wanted.items() if claim.relation == nearest}
        weights = {label: ((claim.similarity + FLOOR) * claim.share) ** SHARPNESS for label, claim in wanted.items()}
        if weights and k in home:
            del shares[home[k]][k]
        for label, weight in weights.items():
            relation[label] = nearest
            shares[label][k] = weight / sum(weights.values())
    meanings = {}
    for label, of in shares.items():
        if not of and terms[label]:
            relation[label] = "nothing"
        alike = [claims[label][k].similarity for k in of if k in claims.get(label, ())] or [1.0]
        near = _nearest(terms[label], of_model) if relation[label] == "nothing" else ()
        meanings[label] = Meaning(relation[label], of, float(np.mean(alike)), near)
    return meanings


def _claims(term: str, own: Mapping[str, str], named: set[str], *, is_own_set: bool) -> dict[str, _Claim]:
    """Labels of the model that a term, which the model does not know, is near to."""
    ontology = cell_ontology()
    above = ontology.ancestors(term)
    parents = set(ontology.parents[term])
    wider = {k for k, of in own.items() if of in above}
    # its parents, and the nearest of those farther above
    wider = {
        k for k in wider if own[k] in parents or not any(own[k] in ontology.ancestors(own[o]) for o in wider - {k})
    }
    if wider - named:
        return _weighed("narrower", {k: similarity(term, own[k]) for k in sorted(wider - named)})
    common = {k: parents & set(ontology.parents[of]) for k, of in own.items() if not contradict(term, of)}
    alike = {k: similarity(term, own[k]) for k in sorted(common) if common[k] and k not in named}
    found = _weighed("sibling", alike)
    if is_own_set:
        return found
    of_lineage = lineage_terms(term) - LINEAGES.keys()

    def is_near(k: str, claim: _Claim) -> bool:
        # what is a kind of something that the list names is hardly something else
        if wider:
            return claim.similarity >= ALIKE
        return claim.similarity >= SIMILAR or bool(common[k] & of_lineage)

    return {k: claim for k, claim in found.items() if is_near(k, claim)}


def _weighed(relation: Relation, alike: Mapping[str, float]) -> dict[str, _Claim]:
    total = sum(s + FLOOR for s in alike.values())
    return {k: _Claim(relation, s, (s + FLOOR) / total) for k, s in alike.items()}


def _nearest(term: str, own: Mapping[str, str]) -> tuple[str, ...]:
    """The model's labels that share most of a term's ancestors, the more similar texts first."""
    ontology = cell_ontology()
    above = ontology.ancestors(term)

    def nearness(label: str) -> tuple[float, float, str]:
        of = ontology.ancestors(own[label])
        return (-len(above & of) / len(above | of), -similarity(term, own[label]), label)

    return tuple(sorted(own, key=nearness)[:N_NEAREST])
