"""Labels in a user's words as Cell Ontology terms, and labels that back off to a term above them."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc.ontology._cell_ontology import UNKNOWN, _key, cell_ontology

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike
    from scipy.sparse import csr_matrix

    from bioverse_sc.ontology._meanings import Meaning

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

NONE_OF_THESE = frozenset(
    "ambiguous indeterminate misc miscellaneous na nan nd neither none null other remainder remaining rest "
    "unannotated unassigned "
    "uncertain unclassifiable unclassified unclear undecided undefined undetermined unidentified unk unknown "
    "unlabeled unlabelled "
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

LINEAGES = {
    "CL:0000988": "hematopoietic cell",
    "CL:0000066": "epithelial cell",
    # the ontology has these beside epithelial cells: basal cells are below the first, BEST4+ cells below the second
    "CL:0000036": "epithelial fate stem cell",
    "CL:0000677": "gut absorptive cell",
    "CL:0000115": "endothelial cell",
    "CL:0002319": "neural cell",
    "CL:0002320": "connective tissue cell",
    "CL:0000499": "stromal cell",
    "CL:0000187": "muscle cell",
    "CL:0000188": "cell of skeletal muscle",
    "CL:0002494": "cardiocyte",
    "CL:0008034": "mural cell",
    "CL:0000147": "pigment cell",
    "CL:0000039": "germ line cell",
    "CL:0000349": "extraembryonic cell",
}
"""The widest terms that a label backs off to. What is neither one of them nor below one groups cells across lineages,
by what they do or look like ("motile cell", "secretory cell", "nucleate cell", "stem cell"): true, and no help."""


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


def nearest_labels(own: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Which of a user's labels takes what a model gave to each of its own.

    A model's own label goes to itself where the user names it too, else to the user's label whose term is the same or
    the nearest above, the first of those that are equally near.

    Parameters
    ----------
    own
        The model's labels.
    labels
        The user's labels.

    Returns
    -------
    Index into ``labels`` for each of ``own``, -1 where there is none.
    """
    ontology = cell_ontology()
    index = {label: i for i, label in reversed(list(enumerate(labels)))}
    matches = match_labels([*own, *labels])
    of_term: dict[str, int] = {}
    for i, label in enumerate(labels):
        if term := matches[label].term:
            of_term.setdefault(term, i)
    nearest = np.full(len(own), -1)
    for k, label in enumerate(own):
        term = matches[label].term
        if label in index:
            nearest[k] = index[label]
        elif term and (above := ontology.ancestors(term) & of_term.keys()):
            nearest[k] = of_term[max(above, key=lambda t: (len(ontology.ancestors(t)), -of_term[t]))]
    return nearest


def back_off(
    probabilities: ArrayLike,
    labels: Sequence[str],
    min_confidence: float | None = None,
    *,
    calibrate: Callable[[np.ndarray], np.ndarray] | None = None,
    meanings: Mapping[str, Meaning] | None = None,
    given: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label each cell with the most exact term that is certain enough.

    The probability of a term is the sum over the labels whose term it is or is above. From the best label of a cell the
    walk goes up the Cell Ontology until a term's probability reaches ``min_confidence``; of several parents it takes
    the one with the highest probability, of equal ones the first by name. It ends at ``"unknown"`` above the widest
    terms of the lineages (:data:`LINEAGES`), as it does at once for a label without a term, which has no parents.

    Parameters
    ----------
    probabilities
        Of each label, shape (cells, labels). A row of zeros is ``"unknown"``.
    labels
        Labels, in any words; see :func:`match_labels`.
    min_confidence
        From 0 to 1. ``None`` or 0 leaves every cell at its best label.
    calibrate
        Turns the probabilities of terms into how often such a label is right, before they are compared with
        ``min_confidence``; it must not fall, such as :func:`bioverse_sc.metrics.apply_calibration`.
    meanings
        Of :func:`meanings_of`. What is only a text is not calibrated. The certainty of a guess is lowered by its
        :attr:`Meaning.trust`, and that of terms above it which are not above what it takes. So a guess gives way to
        what it and the model's label have in common.
    given
        Number of the label from which each cell starts; by default its best one.

    Returns
    -------
    names
        Labels, shape (cells,): as they are in ``labels`` where a term has one there, else the term's name, or
        ``"unknown"``.
    ids
        Cell Ontology ids, shape (cells,); ``""`` where there is none.
    confidence
        Probability of the term, shape (cells,); that of the label itself where it has no term, 0 for ``"unknown"``.

    Raises
    ------
    ValueError
        When shapes do not fit, or a probability or ``min_confidence`` is out of its range.
    """
    p = _check_probabilities(probabilities, labels)
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        msg = f"min_confidence is {min_confidence}; expected a probability from 0 to 1, or None."
        raise ValueError(msg)
    graph = _graph(tuple(labels))
    below, trust = _trusted(graph, labels, meanings or {})
    # a sparse product adds up the same labels in the same order for every cell, so that equal sums are equal
    mass = np.asarray((below @ p.T).T)
    # nothing is the probability of a label that is not there
    certainty = mass if calibrate is None else np.where(mass > 0, calibrate(mass.clip(0, 1)), 0)
    is_text = [
        j
        for j, label in enumerate(labels)
        if meanings and label in meanings and meanings[label].relation == "text" and label != UNKNOWN
    ]
    # calibration is about types
    certainty[:, is_text] = mass[:, is_text]
    certainty = certainty * trust
    cells = np.arange(len(p))
    node = graph.of_label[p.argmax(axis=1) if given is None else np.asarray(given)]
    node[~p.any(axis=1)] = graph.root
    walking = cells[node != graph.root] if min_confidence else cells[:0]
    while walking.size:
        walking = walking[certainty[walking, node[walking]] < min_confidence]
        parents = graph.parents[node[walking]]
        # the root pads the lists of parents, and is nobody's choice where there is another
        chances = np.where(parents == graph.root, -1, mass[walking[:, None], parents])
        node[walking] = parents[np.arange(len(walking)), chances.argmax(axis=1)]
        walking = walking[node[walking] != graph.root]
    return graph.names[node], graph.ids[node], certainty[cells, node]


def runner_up(
    probabilities: ArrayLike, labels: Sequence[str], n: int, *, given: Sequence[str] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The ``n`` likeliest labels of each cell that it was not given.

    Parameters
    ----------
    probabilities
        Of each label, shape (cells, labels).
    labels
        Labels, in any words.
    n
        How many, at most one fewer than there are labels.
    given
        Label of each cell, such as :func:`back_off` gives; where it is not the likeliest one, that one comes first. By
        default all cells have their likeliest.

    Returns
    -------
    names
        Labels, shape (cells, n), the better ones first and equal ones by name; ``""`` for a row of zeros.
    confidence
        Their own probabilities, shape (cells, n).

    Raises
    ------
    ValueError
        When shapes do not fit, or there are not so many labels.
    """
    p = _check_probabilities(probabilities, labels)
    if not 0 < n < len(labels):
        msg = f"n is {n} for {len(labels)} labels; expected from 1 to {len(labels) - 1}, as one of them is the best."
        raise ValueError(msg)
    # the best one is the one that back_off starts from
    left = p.copy()
    best = left.argmax(axis=1)
    by_name = np.array(sorted(range(len(labels)), key=labels.__getitem__))
    cells = np.arange(len(p))
    order = np.empty((len(p), n), dtype=np.int64)
    has_best = (
        cells
        if given is None
        else np.flatnonzero(np.array(labels, dtype=object)[best] == np.asarray(given, dtype=object))
    )
    left[has_best, best[has_best]] = -1
    for k in range(n):
        best = order[:, k] = by_name[left[:, by_name].argmax(axis=1)]
        left[cells, best] = -1
    names = np.array(labels, dtype=object)[order]
    names[~p.any(axis=1)] = ""
    return names, np.take_along_axis(p, order, axis=1)


def _check_probabilities(probabilities: ArrayLike, labels: Sequence[str]) -> np.ndarray:
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != len(labels) or len(labels) == 0:
        msg = f"probabilities has the shape {p.shape}; expected (cells, {len(labels)}), one column for each label."
        raise ValueError(msg)
    # written so that NaN fails as well
    if not ((p >= 0) & (p.sum(axis=1, keepdims=True) <= 1 + 1e-4)).all():
        msg = (
            "probabilities holds a negative or missing value, or a row whose sum is more than 1; expected "
            "probabilities, such "
            "as np.exp(log_probabilities)."
        )
        raise ValueError(msg)
    return p


@dataclass(frozen=True)
class _Graph:
    """Where labels can back off to: a node for each label, for each term above one, and for ``unknown``."""

    names: np.ndarray
    ids: np.ndarray
    of_label: np.ndarray
    """Node of each label."""
    parents: np.ndarray
    """Nodes, shape (nodes, most parents), sorted by name and padded with the root."""
    below: csr_matrix
    """Shape (nodes, labels): 1 where a label is at or below a node."""

    @property
    def root(self) -> int:
        return len(self.names) - 1


@lru_cache(maxsize=4)
def _graph(labels: tuple[str, ...]) -> _Graph:
    from scipy.sparse import csr_matrix

    ontology = cell_ontology()
    matches = match_labels(labels)
    terms = [matches[label].term for label in labels]
    above = [lineage_terms(term) if term else set() for term in terms]
    # the user's word for a term, the first by name
    word_for = {term: label for label, term in sorted(zip(labels, terms, strict=True), reverse=True) if term}
    nodes = sorted(set().union(*above))
    names = [*labels, *(word_for.get(term, ontology.names[term]) for term in nodes), UNKNOWN]
    number = {term: len(labels) + i for i, term in enumerate(nodes)}
    node_terms = [*terms, *nodes, None]
    root = len(names) - 1
    parents = [
        sorted((number[p] for p in ontology.parents[term] if p in number), key=lambda i: (names[i], i)) if term else []
        for term in node_terms
    ]
    width = max(1, *map(len, parents))
    below = np.zeros((len(names), len(labels)))
    for j, term in enumerate(terms):
        at_or_above = ontology.ancestors(term) if term else set()
        for i, other in enumerate(node_terms):
            below[i, j] = i == j or other in at_or_above
    return _Graph(
        names=np.array(names, dtype=object),
        ids=np.array([term or "" for term in node_terms], dtype=object),
        of_label=np.arange(len(labels)),
        parents=np.array([found + [root] * (width - len(found)) for found in parents]),
        below=csr_matrix(below),
    )


def _trusted(graph: _Graph, labels: Sequence[str], meanings: Mapping[str, Meaning]) -> tuple[csr_matrix, np.ndarray]:
    """What is below each node, a guess in part where the node is not above what it takes.

    And the trust in each node.
    """
    from scipy.sparse import csr_matrix

    trust = np.ones(len(graph.names))
    guesses = [(j, meanings[label]) for j, label in enumerate(labels) if label in meanings and meanings[label].is_guess]
    if not guesses:
        return graph.below, trust
    ontology = cell_ontology()
    below = graph.below.toarray()
    for j, meaning in guesses:
        trust[j] = meaning.trust
        terms = [match.term for match in match_labels(meaning.shares).values()]
        common = frozenset.intersection(*(ontology.ancestors(term) for term in terms if term))
        is_guess = np.array([i != j and term not in common for i, term in enumerate(graph.ids)])
        below[is_guess, j] *= meaning.trust
    return csr_matrix(below), trust


def lineage_terms(term: str) -> set[str]:
    """Terms above this one, as far up as they say which lineage."""
    ontology = cell_ontology()
    return {t for t in ontology.ancestors(term) - {term} if not ontology.ancestors(t).isdisjoint(LINEAGES)}


def _match(label: str) -> LabelMatch:
    names, synonyms = _exact()
    if found := names.get(_key(label)):
        return _one_of(found)
    words = _words(label)
    if found := _in_use().get(words) or synonyms.get(_key(label)):
        return _one_of(found)
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
    found: set[str] = set()
    for word in re.findall(r"[^\W_]+[+~]?|/", text):
        if re.fullmatch(r"cd\d+[a-z]{0,2}", word):
            word += "+"
        if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us")):
            word = word[:-1]
        found |= set(ABBREVIATIONS.get(word, word).split())
    if found & {"cd4+", "cd8+"} and {"alpha", "beta"} <= found:
        found -= UNSAID_OF_T_CELLS
    return frozenset(word.replace("~", "-") for word in found - UNSAID)
