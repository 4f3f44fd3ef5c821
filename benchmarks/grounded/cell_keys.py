"""Keys of questions about what a cell is, how sure that is, what speaks for it, and its state."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bioverse_sc.ontology import cell_ontology
from grounded.asked import MARKING, Question, by_polarity, closed, false_genes, false_markers
from grounded.tables import Tables, markers_of
from grounded.words import (
    ASIDE,
    GENE_TALK,
    ROOTS,
    Mention,
    asserted,
    denied,
    genes_in,
    is_general,
    numbers_in,
    polarity,
    refuses,
    types_in,
)

if TYPE_CHECKING:
    from grounded.cells import Cell

ANY = re.compile("")
NARROWER = re.compile(
    r"narrower|more specific|finer|not (?:that|so|as) (?:specific|fine|narrow|precise)|may or may not|not necessarily|"
    r"\b(?:could|might|may) (?:well )?be\b|\bpossibl[ey]\b|\bperhaps\b|"
    r"go(?:es)? (?:no|not so|not that) (?:further|far)|"
    r"does not (?:distinguish|separate|decide|settle|imply)|undecided|left open",
    re.I,
)
RUNNER = re.compile(r"runner|second|next|alternative|otherwise|closest|compet|after that|could also|else", re.I)
NOT_A_KIND = re.compile(rf"{MARKING.pattern}|{RUNNER.pattern}|\bwould\b", re.I)
UNSURE = re.compile(
    r"\b(?:not|never) (?:\w+ )?(?:sure|certain|confident|safe|clear)|unsure|uncertain|"
    r"\blow\b|doubt|guess|weak|tentative|shaky|caution",
    re.I,
)
OTHER_NUMBER = re.compile(r"mitochond|\bcounts\b|\bgenes\b|\bid\b|other type", re.I)
MIDDLING = re.compile(r"fairly|moderate|rather|somewhat|reasonab|quite|likely|probabl|good", re.I)
SURE = re.compile(r"\b(?:sure|certain|confident|confidence is high|high|safe|strong|clear|well supported)\b", re.I)
STATES = {
    "proliferating": (
        re.compile(r"prolifer|divid|cycl|mitosis|mitotic|replicat", re.I),
        "MKI67 TOP2A CENPF TYMS RRM2 CDK1 BIRC5 UBE2C CCNB1 CCNB2 NUSAP1 TPX2 CCNA2 AURKB PCLAF ZWINT BUB1".split(),
    ),
    "interferon": (
        re.compile(r"interferon|\bIFN|antiviral", re.I),
        "ISG15 IFI6 IFI44L IFI44 IFIT1 IFIT2 IFIT3 MX1 MX2 OAS1 OAS2 OAS3 RSAD2 IFI27 HERC5 CMPK2 ISG20 XAF1".split(),
    ),
    "stressed": (
        re.compile(r"stress|heat.?shock|dissociat|immediate.early", re.I),
        "HSPA1A HSPA1B DNAJB1 HSPA6 HSPH1 BAG3 FOSB ATF3 EGR1 FOS JUN IER2".split(),
    ),
}
"""Words of a state, and genes that are on in it: the cell cycle after Tirosh 2016, interferon after the Hallmark set,
and what dissociation raises after van den Brink 2017."""
MANY = {"proliferating": 6, "interferon": 6, "stressed": 8}
FEW, ENOUGH = 1, 6
"""Detected genes of a state from which a cell is in it, up to which it is not, and measured ones that it takes."""


def said_types(answer: str, *terms: str) -> list[str]:
    """Terms that an answer says the cell is of; what is said of one of ``terms`` is said of the cell."""
    parts = [part for part in asserted(answer) if not ASIDE.search(part) and not is_general(part, *terms)]
    return [m.name for part in parts for m in types_in(part) if not m.denied]


def is_above(wide: str, narrow: str) -> bool:
    return wide in cell_ontology().ancestors(narrow)


def lineage_of(term: str) -> set[str]:
    """A label and all that it is a kind of."""
    return set(cell_ontology().ancestors(term)) if term else set()


def identity(answer: str, question: Question, tables: Tables) -> str:
    term = question.cell.term
    said = said_types(answer, term)
    if not term:
        unknown = refuses(answer) or re.search(r"\bunknown\b|no label|not labell?ed", answer, re.I)
        return "wrong" if said else "right" if unknown else "beside"
    if any(not is_above(t, term) for t in said):
        return "wrong"
    if term in said:
        return "right"
    parts = [part for part in asserted(answer) if not (ASIDE.search(part) or genes_in(part))]
    if any(m.name == term and m.denied for part in parts for m in types_in(part)):
        return "wrong"
    return "refused" if refuses(answer) else "beside"


def is_type(answer: str, question: Question, tables: Tables) -> str:
    name, label = question.slots["name"], question.cell.term
    accepted = {"yes"} if label and is_above(name, label) else {"no"}
    if not label or (name != label and is_above(label, name)):
        accepted = {"cannot"}
    said = polarity(answer, types_in, name, about=ANY, aside=lambda part: ASIDE.search(part) or is_general(part, label))
    if accepted == {"cannot"} and NARROWER.search(answer) and said != {"no"}:
        # "it may be one" says neither yes nor no
        said = (said - {"yes"}) | {"cannot"}
    if not said and accepted == {"no"} and label in said_types(answer, label):
        return "right"
    return by_polarity(said, accepted)


@closed
def certainty(answer: str, question: Question, tables: Tables) -> str:
    sure, term = question.cell.sure, question.cell.term
    parts = [p for p in asserted(answer) if not (genes_in(p) or ASIDE.search(p) or OTHER_NUMBER.search(p))]
    text = " ".join(part for part in parts if not is_general(part, term))
    shares = [v / 100 if unit == "%" or 1 < v <= 100 else v for v, unit in numbers_in(text) if unit in ("", "%")]
    if shares:
        return "right" if all(min(abs(share - p) for p in sure) <= 0.03 for share in shares[:1]) else "wrong"
    unsure, middling = bool(UNSURE.search(text)), bool(MIDDLING.search(text))
    if not (unsure or middling or SURE.search(text)):
        return "beside"
    if unsure:
        return "right" if min(sure) < 0.85 else "wrong"
    return "right" if max(sure) >= (0.4 if middling else 0.7) else "wrong"


@closed
def runner_up(answer: str, question: Question, tables: Tables) -> str:
    cell = question.cell
    related = lineage_of(cell.term)
    parts = [part for part in asserted(answer) if not genes_in(part) and not is_general(part, cell.term)]
    named = [m.name for part in parts for m in types_in(part) if not m.denied and m.name not in related]
    if named:
        return "right" if named[0] in cell.runners else "wrong"
    if re.search(r"\b(?:no other|nothing else|none|no second|no runner)", answer, re.I):
        return "right" if cell.p_runner < 0.05 else "wrong"
    # the label called its own runner-up
    is_label = any(RUNNER.search(part) and any(m.name == cell.term for m in types_in(part)) for part in parts)
    return "wrong" if is_label else "beside"


@closed
def wider(answer: str, question: Question, tables: Tables) -> str:
    term = question.slots.get("name") or question.cell.term
    parts = [part for part in asserted(answer) if not (NOT_A_KIND.search(part) or genes_in(part))]
    parts = [part for part in parts if not is_general(part, term, question.cell.term)]
    named = [m for part in parts for m in types_in(part) if m.name != term]
    above = cell_ontology().ancestors(term) - ROOTS
    if any((m.name in above) == m.denied for m in named):
        return "wrong"
    return "right" if named else "beside"


@closed
def markers(answer: str, question: Question, tables: Tables) -> str:
    cell = question.cell
    if false_genes(answer, cell) or false_markers(answer, cell):
        return "wrong"
    named = {m.name for part in asserted(answer) for m in genes_in(part) if not m.denied}
    if named & cell.markers.keys() & cell.expressed:
        return "right"
    if not cell.markers.keys() & cell.expressed and re.search(r"\b(?:no|none)\b", answer, re.I):
        return "right"
    return "beside"


@closed
def against(answer: str, question: Question, tables: Tables) -> str:
    cell, parts = question.cell, asserted(answer)
    if false_genes(answer, cell):
        return "wrong"
    mentions = [m for part in parts for m in genes_in(part)]
    absent = any(m.denied and m.name in cell.markers for m in mentions)
    of_runner = markers_of(t for runner in cell.runners for t in cell_ontology().ancestors(runner))
    present = any(not m.denied and m.name in of_runner - cell.markers.keys() for m in mentions)
    rival = any(m.name in cell.runners for part in parts for m in types_in(part))
    if absent or present or rival:
        return "right"
    if re.search(r"\b(?:nothing|no(?: \w+)? (?:evidence|fact|gene|marker)|none)\b", answer, re.I):
        return "right" if max(cell.sure) >= 0.5 else "wrong"
    return "beside"


@closed
def unusual(answer: str, question: Question, tables: Tables) -> str:
    cell = question.cell
    if false_genes(answer, cell):
        return "wrong"
    named = {m.name for part in asserted(answer) for m in genes_in(part) if not m.denied}
    if named & cell.expressed - markers_of([cell.term]):
        return "right"
    return "right" if re.search(r"\b(?:nothing|none|no)\b|not unusual", answer, re.I) else "beside"


def state_of(cell: Cell, state: str) -> set[str]:
    """What may be said of a state: ``"yes"``, ``"no"``, ``"cannot"``; several where the genes leave it open."""
    genes = [g for g in STATES[state][1] if cell.value(g) is not None]
    if len(genes) < ENOUGH:
        return {"cannot", "no"} if not any(cell.value(g) for g in genes) else {"yes", "no", "cannot"}
    on = sum(bool(cell.value(g)) for g in genes)
    return {"yes"} if on >= MANY[state] else {"no", "cannot"} if on <= FEW else {"yes", "no", "cannot"}


def said_of_state(answer: str, state: str) -> set[str]:
    words = STATES[state][0]

    def named(clause: str) -> list[Mention]:
        places = [match.span() for match in words.finditer(clause)]
        return [Mention(state, *place, denied(clause, *place)) for place in places]

    return polarity(answer, named, state, about=words, aside=GENE_TALK.search)


def in_state(answer: str, question: Question, tables: Tables) -> str:
    if false_genes(answer, question.cell):
        return "wrong"
    return by_polarity(said_of_state(answer, question.kind), state_of(question.cell, question.kind))


@closed
def any_state(answer: str, question: Question, tables: Tables) -> str:
    """What is said of each state that is named."""
    cell = question.cell
    said = {state: said_of_state(answer, state) - {"cannot"} for state in STATES}
    said = {state: words for state, words in said.items() if words}
    if false_genes(answer, cell) or any(not words <= state_of(cell, state) for state, words in said.items()):
        return "wrong"
    if said:
        return "right"
    if re.search(r"\b(?:no|nothing|none)\b|resting|not active", answer, re.I):
        return "right" if all("no" in state_of(cell, state) for state in STATES) else "wrong"
    return "beside"
