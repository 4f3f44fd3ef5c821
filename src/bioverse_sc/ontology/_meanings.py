"""What a user's labels take of the probability that a model gives to labels of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bioverse_sc.ontology._back_off import LINEAGES, lineage_terms
from bioverse_sc.ontology._cell_ontology import cell_ontology
from bioverse_sc.ontology._label_set import nearest_labels
from bioverse_sc.ontology._match import match_labels
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


@dataclass
class _Division:
    """Which label takes what, so far: the steps of :func:`meanings_of` change it."""

    terms: dict[str, str]
    """Of each label, the user's and the model's; ``""`` where there is none."""
    model_terms: dict[str, str]
    """Of the model's labels that have one."""
    home: dict[str, str]
    """By label of the model, the user's label that takes all of it."""
    named: set[str]
    """The model's labels that the user names too, in any words."""
    shares: dict[str, dict[str, float]]
    relation: dict[str, Relation]
    firsts: list[str]
    """The user's labels with a term, the first of those with the same one."""

    is_own_set: bool
    """Whether the user's list names most of the model's labels."""


def meanings_of(model_labels: Sequence[str], labels: Sequence[str]) -> dict[str, Meaning]:
    """What each of a user's labels takes of what a model gives to its own.

    A label of the model goes to the user's label that is the same or the nearest above (:func:`nearest_labels`), or to
    a parent that takes nothing else. A label that may mean several terms takes what is at or below any of them, and is
    right in either case.

    A label with a term that takes nothing so is one that the model does not know, and what it takes is a guess: the
    labels of the model that it is a kind of, and where there are none, those that have a parent in common with it, when
    that says more than the lineage (``LINEAGES``) or their texts are alike. It takes nothing that the list names
    too, and nothing that denies it in words ("classical", "non-classical"). It has to be a good guess where a wider
    label of the list would be right. Where several labels are equally near, they share by their texts. A label that is
    above some of the model's takes that of its parent too, where nothing else does.

    A list that names most of the model's labels speaks the model's words: a label that it has beside them stands for
    one that it lacks, whatever their texts.

    Parameters
    ----------
    model_labels
        The model's labels.
    labels
        The user's labels, in any words.

    Returns
    -------
    Each of ``labels`` with its :class:`Meaning`.
    """
    division = _divided(model_labels, labels)
    unknown = [label for label in division.firsts if division.relation[label] == "nothing"]
    _give_to_parents(unknown, division)
    claims = _all_claims(unknown, division)
    for k in model_labels:
        _share(k, claims, division)
    meanings = {}
    for label, taken in division.shares.items():
        if not taken and division.terms[label]:
            division.relation[label] = "nothing"
        relation = division.relation[label]
        alike = [claims[label][k].similarity for k in taken if k in claims.get(label, ())] or [1.0]
        near = _nearest(division.terms[label], division.model_terms) if relation == "nothing" else ()
        meanings[label] = Meaning(relation, taken, float(np.mean(alike)), near)
    return meanings


def _divided(model_labels: Sequence[str], labels: Sequence[str]) -> _Division:
    """What is no guess: labels go to what is the same or the nearest above, or to what may mean something above."""
    ontology = cell_ontology()
    matches = match_labels([*model_labels, *labels])
    terms = {label: match.term or "" for label, match in matches.items()}
    home = {k: labels[j] for k, j in zip(model_labels, nearest_labels(model_labels, labels), strict=True) if j >= 0}
    readings = {label: set(matches[label].candidates) for label in labels if matches[label].candidates}
    for label, candidates in readings.items():
        for k in model_labels:
            if k not in home and terms[k] and candidates & ontology.ancestors(terms[k]):
                home[k] = label
    named = {k for k, label in home.items() if k == label or (terms[k] and terms[k] == terms[label])}
    shares = {label: {k: 1.0 for k, taker in home.items() if taker == label} for label in labels}
    relation: dict[str, Relation] = {}
    for label, taken in shares.items():
        if taken:
            relation[label] = "same" if named & taken.keys() else "wider" if terms[label] else "ambiguous"
        else:
            relation[label] = "nothing" if terms[label] else "text"
    first = {terms[label]: label for label in reversed(labels)}
    return _Division(
        terms=terms,
        model_terms={k: terms[k] for k in model_labels if terms[k]},
        home=home,
        named=named,
        shares=shares,
        relation=relation,
        firsts=[label for label in labels if terms[label] and first[terms[label]] == label],
        is_own_set=2 * len(named) > len(model_labels),
    )


def _give_to_parents(unknown: Sequence[str], division: _Division) -> None:
    """Of two wider labels the one that takes nothing else gets a label, when it is a parent of it."""
    ontology = cell_ontology()
    terms, home, shares = division.terms, division.home, division.shares
    for label in sorted(unknown, key=lambda label: (-len(ontology.ancestors(terms[label])), label)):
        for k, term in division.model_terms.items():
            is_parent = terms[label] in ontology.parents[term]
            if is_parent and k in home and k not in division.named and len(shares[home[k]]) > 1:
                del shares[home[k]][k]
                home[k], shares[label][k], division.relation[label] = label, 1.0, "wider"


def _all_claims(unknown: Sequence[str], division: _Division) -> dict[str, dict[str, _Claim]]:
    """Guesses, by label of the user and label of the model."""
    ontology = cell_ontology()
    terms, model_terms = division.terms, division.model_terms
    # what lies below a label is all that it means, though the list names it
    known = set().union(*(ontology.ancestors(term) for term in model_terms.values()))
    claims = {
        label: _claims(terms[label], model_terms, division.named, is_own_set=division.is_own_set)
        for label in unknown
        if division.relation[label] == "nothing" and (division.is_own_set or terms[label] not in known)
    }
    # what is called by the parent of a label may well be of its kind
    for label in division.firsts:
        if division.relation[label] == "wider":
            parents = set(ontology.parents[terms[label]])
            above = [k for k, term in model_terms.items() if term in parents and k not in division.home]
            claims[label] = _weighed("narrower", {k: similarity(terms[label], model_terms[k]) for k in above})
    return claims


def _share(k: str, claims: Mapping[str, Mapping[str, _Claim]], division: _Division) -> None:
    """Give a label of the model to those that claim it, the nearest relation first."""
    wanted = {label: by_label[k] for label, by_label in claims.items() if k in by_label}
    if k in division.home:
        # a wider label of the list is right for certain
        wanted = {label: claim for label, claim in wanted.items() if claim.is_good or division.is_own_set}
    nearest: Relation = "narrower" if any(claim.relation == "narrower" for claim in wanted.values()) else "sibling"
    wanted = {label: claim for label, claim in wanted.items() if claim.relation == nearest}
    weights = {label: ((claim.similarity + FLOOR) * claim.share) ** SHARPNESS for label, claim in wanted.items()}
    if weights and k in division.home:
        del division.shares[division.home[k]][k]
    for label, weight in weights.items():
        division.relation[label] = nearest
        division.shares[label][k] = weight / sum(weights.values())


def _claims(term: str, model_terms: Mapping[str, str], named: set[str], *, is_own_set: bool) -> dict[str, _Claim]:
    """Labels of the model that a term, which the model does not know, is near to."""
    ontology = cell_ontology()
    above = ontology.ancestors(term)
    parents = set(ontology.parents[term])
    wider = {k for k, model_term in model_terms.items() if model_term in above}
    # its parents, and the nearest of those farther above
    wider = {
        k
        for k in wider
        if model_terms[k] in parents
        or not any(model_terms[k] in ontology.ancestors(model_terms[other]) for other in wider - {k})
    }
    if wider - named:
        return _weighed("narrower", {k: similarity(term, model_terms[k]) for k in sorted(wider - named)})
    common = {
        k: parents & set(ontology.parents[model_term])
        for k, model_term in model_terms.items()
        if not contradict(term, model_term)
    }
    alike = {k: similarity(term, model_terms[k]) for k in sorted(common) if common[k] and k not in named}
    siblings = _weighed("sibling", alike)
    if is_own_set:
        return siblings
    lineage = lineage_terms(term) - LINEAGES.keys()

    def is_near(k: str, claim: _Claim) -> bool:
        # what is a kind of something that the list names is hardly something else
        if wider:
            return claim.similarity >= ALIKE
        return claim.similarity >= SIMILAR or bool(common[k] & lineage)

    return {k: claim for k, claim in siblings.items() if is_near(k, claim)}


def _weighed(relation: Relation, alike: Mapping[str, float]) -> dict[str, _Claim]:
    total = sum(s + FLOOR for s in alike.values())
    return {k: _Claim(relation, s, (s + FLOOR) / total) for k, s in alike.items()}


def _nearest(term: str, model_terms: Mapping[str, str]) -> tuple[str, ...]:
    """The model's labels that share most of a term's ancestors, the more similar texts first."""
    ontology = cell_ontology()
    above = ontology.ancestors(term)

    def nearness(label: str) -> tuple[float, float, str]:
        others = ontology.ancestors(model_terms[label])
        return (-len(above & others) / len(above | others), -similarity(term, model_terms[label]), label)

    return tuple(sorted(model_terms, key=nearness)[:N_NEAREST])
