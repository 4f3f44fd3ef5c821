"""Keys of questions about numbers, genes, types in general, and pathways."""

from __future__ import annotations

import re

from rapidfuzz.distance import OSA

from bioverse_sc.ontology import approved_symbol, cell_ontology
from grounded.asked import Question, by_polarity, closed, false_genes
from grounded.tables import Tables, kin, marked_by, markers_of, names_of, relatives
from grounded.words import (
    DENIES,
    GENE_TALK,
    NO,
    YES,
    Mention,
    asserted,
    clauses,
    genes_in,
    numbers_in,
    polarity,
    refuses,
    types_in,
)

EXPRESSION = re.compile(
    r"express|detect|count|found|present|absent|transcript|(?<!-)positive|negative|\bon\b|seen|\bhas\b|\bhave\b", re.I
)
BARE_EXPRESSION = re.compile(
    r"\b(?:is|was|are)( not)? (?:\w+ )?(?:expressed|detected|found|seen|present|on)\b|\b(?:no|0|zero)( )counts\b"
    r"|\b(?:does|do)( not)? express (?:it|that)\b|\bexpresses (?:it|that)\b",
    re.I,
)
OF_THE_CELL = re.compile(r"\W*(?:the (?:cell|label|share|next)|no other)\b", re.I)
ASIDE_OF_DEFINITION = re.compile(rf"^{OF_THE_CELL.pattern}|\boccurs? in\b", re.I)
ASIDE_OF_FUNCTION = re.compile(
    rf"^{OF_THE_CELL.pattern}|\bhigh(?:er|est)? in\b|\bmarkers?\b|full name|a kind of|not specific|\bdetected\b|"
    r"\bprobability\b",
    re.I,
)
GOOD = re.compile(r"\bgood\b|\bfine\b|\bhigh quality|\bok(?:ay)?\b|healthy|usable|well covered|reasonable|normal", re.I)
POOR = re.compile(r"\bpoor\b|\bbad\b|\blow quality|shallow|damaged|dying|\bdead\b|broken|thin\b", re.I)
NOT_OF_CELL = re.compile(r"probab|confiden|certain|\bsure\b|\bid\b", re.I)
TOLERANCE = 0.02
"""Of a number: an answer may round it."""
SHARE_TOLERANCE = 0.5
"""Of percent of mitochondrial counts, which may be rounded to whole ones."""
LOW_SHARE, HIGH_SHARE = 5.0, 15.0
FEW_GENES, ENOUGH_GENES = 200, 500
SHARED_WORDS = 2
"""Telling words that an answer has from the key's text, at least."""


def number(answer: str, unit: str, value: float) -> str:
    """The first number with this unit, or none, is the answer; the value with another unit is wrong."""
    for part in asserted(answer):
        if genes_in(part) or NOT_OF_CELL.search(part):
            continue
        for said, its_unit in numbers_in(part):
            near = abs(said - value) <= max(TOLERANCE * value, 0.5)
            if its_unit in ("", unit):
                return "right" if near and not DENIES.search(re.sub(r"^\W*no\W+", "", part, flags=re.I)) else "wrong"
            if near:
                return "wrong"
    return "beside"


def counts(answer: str, question: Question, tables: Tables) -> str:
    """Of log-normalised data the counts cannot be told."""
    cell, parts = question.cell, asserted(answer)
    if cell.panel.is_counts:
        return closed(lambda text, *_: number(text, "counts", cell.n_counts))(answer, question, tables)
    parts = [part for part in parts if not genes_in(part) and not NOT_OF_CELL.search(part)]
    if any(unit in ("", "counts") for part in parts for _, unit in numbers_in(part)):
        return "wrong"
    return "right" if refuses(answer) else "beside"


@closed
def genes_detected(answer: str, question: Question, tables: Tables) -> str:
    return number(answer, "genes", question.cell.n_genes)


def mitochondrial(answer: str, question: Question, tables: Tables) -> str:
    """Of log-normalised data the share may be told or refused."""
    share, parts = question.cell.mitochondrial, asserted(answer)
    text = " ".join(parts)
    shares = [value for value, unit in numbers_in(text) if unit == "%"]
    if share is None:
        return "wrong" if shares else "right" if refuses(answer) else "beside"
    if not parts and refuses(answer):
        return "refused" if question.cell.panel.is_counts else "right"
    if shares:
        is_below = bool(re.search(r"\b(less than|below|under)\b", text, re.I)) and share < shares[0]
        return "right" if is_below or abs(shares[0] - share) <= SHARE_TOLERANCE else "wrong"
    # "CD3E is high in T cells" is about something else
    text = " ".join(part for part in parts if not (genes_in(part) or GENE_TALK.search(part)))
    low = bool(re.search(r"\blow\b|\bnormal\b|not high|\bfine\b|\bno\b", text, re.I))
    high = not low and bool(re.search(r"\bhigh\b|\byes\b|raised|elevated", text, re.I))
    if not (low or high):
        return "beside"
    return "wrong" if (low and share > HIGH_SHARE) or (high and share < LOW_SHARE) else "right"


@closed
def quality(answer: str, question: Question, tables: Tables) -> str:
    """Any true number will do, and a judgment of depth that the number of genes and the mitochondrial share bear."""
    cell, parts = question.cell, asserted(answer)
    truth = {"counts": cell.n_counts if cell.panel.is_counts else None, "genes": cell.n_genes, "%": cell.mitochondrial}
    right = False
    for said, unit in (pair for part in parts if not genes_in(part) for pair in numbers_in(part)):
        value = truth.get(unit)
        if value is not None:
            near = SHARE_TOLERANCE if unit == "%" else max(TOLERANCE * value, 0.5)
            if abs(said - value) > near:
                return "wrong"
            right = True
    text, share = " ".join(parts), cell.mitochondrial or 0
    negative = re.search(r"\bnot (?:\w+ )?(?:good|fine|ok|healthy|usable)", text, re.I)
    good = bool(GOOD.search(text)) and not negative
    poor = bool(negative or POOR.search(text)) and not re.search(
        r"\b(?:not|no) (?:\w+ )?(?:poor|bad|damaged|dead)", text
    )
    if good and (cell.n_genes < FEW_GENES or share > HIGH_SHARE):
        return "wrong"
    if poor and cell.n_genes >= ENOUGH_GENES and share < LOW_SHARE:
        return "wrong"
    return "right" if right or good or poor else "beside"


def expresses(answer: str, question: Question, tables: Tables) -> str:
    """By the matrix: yes, no, or cannot be told for what is not measured or no gene at all."""
    gene, cell = question.slots["gene"], question.cell
    symbol, value = approved_symbol(gene) or gene, cell.value(gene)
    accepted = {"cannot"} if value is None else {"yes"} if value else {"no"}

    def named(clause: str) -> list[Mention]:
        return genes_in(clause, also=[gene])

    parts = clauses(answer)
    genes = {m.name for part in parts for m in named(part)}
    if genes and not genes & {symbol, gene}:
        # another gene than the one that was asked about: a slip of the pen, or beside the question
        slip = any(OSA.distance(other, gene) == 1 for other in genes)
        leads = any(YES.match(part) or NO.match(part) for part in parts)
        return "wrong" if slip or leads else "beside"
    said = polarity(answer, named, symbol, about=EXPRESSION, aside=GENE_TALK.search)
    said |= polarity(answer, named, gene, about=EXPRESSION, aside=GENE_TALK.search)
    for part in asserted(answer):
        if (bare := BARE_EXPRESSION.search(part)) and not named(part) and not GENE_TALK.search(part):
            said.add("no" if any(bare.groups()) else "yes")
        counted = [n for n, unit in numbers_in(part) if unit == "counts"]
        if value and cell.panel.is_counts and any(n not in (value, cell.n_counts) for n in counted):
            return "wrong"
    if false_genes(answer, cell) and value is not None:
        return "wrong"
    return by_polarity(said, accepted)


def is_marker(answer: str, question: Question, tables: Tables) -> str:
    """By the Accordion table. A marker of a wider or a narrower type alone may be called one or not."""
    gene, cell = question.slots["gene"], question.cell
    symbol = approved_symbol(gene)
    accepted = {"no", "cannot"}
    if symbol in cell_ontology().markers.get(cell.term, ()):
        accepted = {"yes"}
    elif symbol and marked_by(symbol) & kin(cell.term):
        accepted = {"yes", "no", "cannot"}
    about = re.compile(r"\bmark(?:s|er|ers|ing)?\b", re.I)
    said: set[str] = set()
    for part in clauses(answer):
        # that a gene marks some other type says nothing of this one
        elsewhere = [m for m in types_in(part) if m.name not in cell_ontology().ancestors(cell.term) and not m.denied]
        if not elsewhere or re.match(r"\W*(?:yes|no)\b", part, re.I):
            said |= polarity(
                part, lambda c: genes_in(c, also=[gene]), symbol or gene, about=about, aside=lambda clause: False
            )
    return by_polarity(said, accepted)


def by_words(answer: str, text: str, known: set[str], tables: Tables) -> str:
    """Words of an answer that the key's text has too: half of them are right, less than a quarter is wrong."""
    said = tables.telling(" ".join(asserted(answer))) - known
    truth = tables.telling(text) - known
    shared = said & truth
    if len(shared) >= min(SHARED_WORDS, len(truth)) and shared and 2 * len(shared) >= len(said):
        return "right"
    return "wrong" if len(said) >= 4 and 4 * len(shared) < len(said) else "beside"


def is_about_another(clause: str, gene: str) -> bool:
    """Whether a clause begins with another gene, of which it speaks: not with a slip of the pen."""
    first = next(iter(genes_in(clause, also=[gene])), None)
    names = names_of(gene)
    return bool(first and first.start <= 2 and not names & {first.name} and OSA.distance(first.name, gene) > 1)


def function(answer: str, question: Question, tables: Tables) -> str:
    """By words of the RefSeq summary and of GO; another gene than those that they name is wrong."""
    gene = question.slots["gene"]
    text = tables.about.get(approved_symbol(gene) or "", "")
    if refuses(answer) and not asserted(answer):
        return "refused" if text else "right"
    parts = [part for part in asserted(answer) if not ASIDE_OF_FUNCTION.search(part)]
    parts = [part for part in parts if not is_about_another(part, gene)]
    named = {m.name for part in parts for m in genes_in(part, also=[gene])}
    if not text:
        return "beside" if not parts or (named and gene not in named) else "wrong"
    words = set(re.findall(r"[\w-]+", text))
    if any(not names_of(other) & words for other in named - names_of(gene)):
        return "wrong"
    return by_words(" ".join(parts), text, set(), tables)


def marks(answer: str, question: Question, tables: Tables) -> str:
    """Types that a gene marks, by the Accordion table; a relative of one that it marks is let pass."""
    symbol = approved_symbol(question.slots["gene"])
    marked = marked_by(question.slots["gene"])
    parts = [part for part in asserted(answer) if any(m.name == symbol for m in genes_in(part)) or not genes_in(part)]
    parts = [part for part in parts if not re.search(r"\bthe cell\b|\ba kind of\b", part, re.I)]
    named = [m for part in parts for m in types_in(part)]
    if not marked:
        return "right" if refuses(answer) and not named else "wrong" if named else "beside"
    if refuses(answer) and not named:
        return "refused"
    near = {t for term in marked for t in relatives(term)}
    # where a gene is highest is not in the table, and may be elsewhere
    is_level = any(re.search(r"\bhigh", part) for part in parts)
    if any((m.name in marked and m.denied) or (m.name not in near and not m.denied and not is_level) for m in named):
        return "wrong"
    return "right" if any(m.name in marked for m in named) else "beside"


@closed
def definition(answer: str, question: Question, tables: Tables) -> str:
    ontology, term = cell_ontology(), question.slots["name"]
    related = set(ontology.ancestors(term))
    text = " ".join([ontology.definitions[term], *(ontology.names[t] for t in related)])
    # a definition may name genes: "a monocyte that expresses CD14"
    defining = {m.name for m in genes_in(text)}
    about_type = [part for part in asserted(answer) if {m.name for m in genes_in(part)} <= defining]
    parts = [part for part in about_type if not ASIDE_OF_DEFINITION.search(part)]
    above = {m.name for part in parts for m in types_in(part) if not m.denied} - {term}
    verdict = by_words(" ".join(parts), text, tables.telling(ontology.names[term]), tables)
    if verdict == "beside" and above and above <= related:
        return "right"
    return verdict


def type_markers(answer: str, question: Question, tables: Tables) -> str:
    """By the Accordion table; a type that has no markers of its own there may be refused."""
    term = question.slots["name"]
    if refuses(answer) and not asserted(answer):
        return "refused" if markers_of([term]) else "right"
    known = markers_of(kin(term))
    mentions = []
    for part in asserted(answer):
        others = types_in(part)
        is_elsewhere = others and not any(m.name in kin(term) for m in others)
        if not (is_elsewhere or OF_THE_CELL.match(part) or re.search("encod|takes part", part)):
            mentions += genes_in(part)
    if any((m.name in known) == m.denied for m in mentions):
        return "wrong"
    return "right" if mentions else "beside"


@closed
def pathway(answer: str, question: Question, tables: Tables) -> str:
    """Genes that GO annotates to the process."""
    genes = tables.pathways[question.slots["pathway"].casefold()]
    named = {m.name for part in asserted(answer) for m in genes_in(part) if not m.denied}
    if named - genes:
        return "wrong"
    return "right" if named else "beside"
