"""What an answer says: refusals, hedges, the types, genes and numbers that it names, and whether it denies them.

Rules over plain words. They know nothing of the facts that an answer was written from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from bioverse_sc.ontology import approved_symbol, cell_ontology

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOTS = frozenset({"CL:0000000", "CL:0000003", "CL:0000255", "CL:0000548"})
"""Terms that are true of every human cell: cell, native cell, eukaryotic cell, animal cell."""
LONGEST_NAME = 17
"""Words of a type's name that are looked at."""

REFUSES = re.compile(
    r"\b(?:can|could) not\s+(?:\w+\s+){0,2}?(?:be\s+)?(?:\w+ly\s+)?(?:tell|told|say|said|state\w*|know\w*|determin\w+|"
    r"infer\w*|answer\w*|see|seen|judge\w*|predict\w*|read|give\w*|help|assess\w*|decide\w*|work\w* out|establish\w*)\b"
    r"|\b(?:unable|not able|impossible|not possible|no way)\s+to\b"
    r"|\b(?:is|are|was|were) not (?:\w+ )?(?:measured|known(?! to\b)|recorded|stored|given|available|stated)\b"
    r"|\b(?:is|are|was|were) not (?:\w+ )?(?:in|part of|among|covered by) (?:the|this|these|my) "
    r"(?:\w+ )?(?:facts?|data|tables?|genes|panel|matrix)\b"
    r"|\b(?:is|are|remains?) unknown\b|\bunmeasured\b|\bnot measured\b"
    r"|\bis not (?:a|an|any|the) (?:\w+ )?(?:gene|gene symbol|symbol)\b"
    r"|\b(?:no|not a) (?:\w+ )?(?:gene|symbol|type|pathway) (?:\w+ )?(?:of|with|by|called|named|known)\b"
    r"|\bno (?:such|information|facts?|data|entry|answer)\b"
    r"|\bnothing (?:\w+ )?(?:is known|known|here says|says|can be \w+)\b"
    r"|\b(?:does|do|did) not (?:say|tell|know|reveal|record|mention|cover|state|hold)\b"
    r"|\b(?:can|could) only\b|\bonly answers?\b|\bbeyond (?:\w+ ){0,2}(?:facts?|data|cell)\b|\bout of scope\b"
    r"|\bnot something\b",
    re.I,
)
"""A clause that says that something cannot be told, is not known, or was not measured."""
HEDGES = re.compile(
    r"\b(?:may|might|could|possibly|perhaps|maybe|probably|presumably|(?<!most )(?<!less )likely|seems?|appears?|"
    r"suggests?|unsure|uncertain|not (?:sure|certain)|(?:i|we) (?:think|guess|suppose))\b",
    re.I,
)
FILLERS = re.compile(
    r"^\W*(?:(?:i am |i'm )?sorry|unfortunately|thanks?(?: you)?|hello|hi|ok|i see|no worries)\b[^a-z]*$", re.I
)
YES = re.compile(r"^\W*(?:probably(?=[,.:])|yes|yep|yeah|correct|indeed|true|right)\b(?! not)\s*[,.:!-]*\s*", re.I)
NO = re.compile(
    r"^\W*(?:probably not|no|nope|false|incorrect)\b(?=\s*(?:[,.:!]|-\s|$|it\b|this\b|that\b|the\b))\W*", re.I
)
BARE = re.compile(r"^\W*(?:it|this|that) (?:is|does)( not)?\W*$", re.I)
"""An answer that leaves out all that the question says."""
DENIES = re.compile(
    r"\b(?:not|no|nor|never|neither|none|without|rather than|instead of|unlike|lack(?:s|ed|ing)?|absen(?:t|ce)|missing|"
    r"exclud\w+|rul\w+ out|undetected|negative for|zero|(?<![.\d])0(?!\.\d))\b(?!-)",
    re.I,
)
RESTARTS = re.compile(
    r"(?:[,:]|\band\b)\s+(?:of [^,:]*? )?(?:(?:it|this cell|the cell)\s+)?(?:is|has|express(?:es)?|shows|are)\b(?! not)"
)
"""What stands behind is said anew: a "not" before it does not reach it."""
SPLITS = re.compile(
    r"(?<=[.!?])\s+|\n+|;\s+(?=(?:its?|this|the|that|no|yes|so|a|an)\b)|"
    r",?\s+(?:but|however|although|though|while|whereas|yet)\b,?\s*|,\s+(?=so\b)",
    re.I,
)
VERBS = re.compile(r"\b(?:is|are|was|were|has|have|had|does|do|did|shows?)\s+(\S+)")
DENIED_AFTER = frozenset("not no absent missing undetected zero 0 negative".split())
DENIED_LATER = re.compile(r"\b(?:not|never) (?:\w+ )?(?:detected|expressed|found|seen|present|shown)\b")
ASIDE = re.compile(
    r"\b(?:runner|second|next|alternative|compet\w+|mark(?:s|ed|er|ers|ing)?|typical|expressed (?:in|by|on)|compared|"
    r"than|similar|unlike|if|usual|less likely|most likely|after it|against|such as|narrower|wider|would|each)\b",
    re.I,
)
"""A clause that names types without saying that the cell is of them."""
GENE_TALK = re.compile(
    r"\b(?:encod\w+|takes? part|full name|molecular function|located|family|pathway|(?:its|the) proteins?|"
    r"(?:high|higher|highest|low|lowest|specific|"
    r"typical)\s+(?:in|to|of|for)|known markers?|occurs? in)\b",
    re.I,
)
"""A clause about a gene or a type in general, not about the cell."""
IS_SAID = re.compile(r"s?\s*(?::|\b(?:is|are|has|have|occurs?|express(?:es)?|develops?)\b)")
NUMBER = re.compile(
    r"(?<![\w.:-])(\d{1,3}(?:[ ,]\d{3})+(?!\d)|\d+(?:\.\d+)?)(?![\w-])(\s*(?:%|percent\b|per cent\b))?"
    r"(?:\s+(?:different|detected|distinct|expressed|unique|total|rna|mrna|human|raw))*"
    r"(?:\s*(genes?|counts?|umis?|reads|molecules|transcripts))?",
    re.I,
)
UNITS = re.compile(r"\b(genes?|counts?|umis?|reads|molecules|transcripts)\b", re.I)
NOT_GENES = frozenset(
    "RNA DNA MRNA UMI UMIS NK PBMC MHC GO CL II III IV VI ATP GTP ER YES NO NOT AND THE CD TCR BCR".split()
)
"""Upper-case words of answers that are also an alias of some gene, or look like one."""


def plain(text: str) -> str:
    """One spelling of quotes and of "not"."""
    text = text.replace("\u2019", "'").replace("\u2013", "-")
    text = re.sub(r"\b(ca|do|does|did|is|are|was|were|could|has|have|wo|would)n't\b", _spelled_out, text, flags=re.I)
    return re.sub(r"\bcannot\b", "can not", text, flags=re.I)


def _spelled_out(match: re.Match) -> str:
    verb = match[1]
    return {"ca": "can", "Ca": "Can", "wo": "will", "Wo": "Will"}.get(verb, verb) + " not"


def clauses(answer: str) -> list[str]:
    """Parts of an answer that say one thing each; a decimal point ends nothing."""
    return [part.strip() for part in SPLITS.split(plain(answer)) if part and re.search(r"\w", part)]


def asserted(answer: str) -> list[str]:
    """Clauses that neither refuse nor only say sorry."""
    return [part for part in clauses(answer) if not REFUSES.search(part) and not FILLERS.match(part)]


def refuses(answer: str) -> bool:
    """Whether an answer has a refusal in it."""
    return any(REFUSES.search(part) for part in clauses(answer))


def hedges(answer: str) -> bool:
    """Whether the first thing that an answer asserts is hedged; a "may" further on excuses nothing."""
    said = asserted(answer)
    # a lone "Yes." or "No." takes what follows it along
    first = " ".join(said[:2]) if said and len(said[0].split()) == 1 else " ".join(said[:1])
    return bool(HEDGES.search(first))


@dataclass(frozen=True)
class Mention:
    """A type or a gene that a clause names."""

    name: str
    """Cell Ontology id, or approved symbol."""
    start: int
    end: int
    denied: bool


def denied(clause: str, start: int, end: int) -> bool:
    """Whether a clause denies what it names between two places."""
    # "a T cell that has not met an antigen" is a T cell
    before, after = clause[:start], re.split(r"\b(?:that|which|who)\b", clause[end:])[0]
    if lead := NO.match(before):
        before = before[lead.end() :]
    for restart in RESTARTS.finditer(before):
        before = clause[restart.start() : start]
    if DENIES.search(before):
        return True
    if re.match(r"\s*[:(]?\s*(?:0|zero|no)\s+counts?\b", after):
        return True
    if DENIED_LATER.search(re.split(r"\b[A-Z]{2,}", after)[0]):
        return True
    verb = VERBS.search(after)
    return bool(verb and verb[1].strip(".,").casefold() in DENIED_AFTER)


@cache
def _term(phrase: str) -> str | None:
    ontology = cell_ontology()
    term = ontology.find(phrase) or ontology.find(f"{phrase}, human")
    return None if term in ROOTS else term


def types_in(clause: str) -> list[Mention]:
    """Types that a clause names, by name or exact synonym, the longest name at each place."""
    words = [(m.start(), m.end()) for m in re.finditer(r"[^\s()\"':;?!]+", clause)]
    mentions, i = [], 0
    while i < len(words):
        for j in range(min(len(words), i + LONGEST_NAME), i, -1):
            start, end = words[i][0], words[j - 1][1]
            phrase = clause[start:end].rstrip(".,")
            # a bare word such as "beta" or "T" is no type
            if (len(phrase) > 4 or " " in phrase) and (term := _term(phrase)):
                end = start + len(phrase)
                mentions.append(Mention(term, start, end, denied(clause, start, end)))
                i = j
                break
        else:
            i += 1
    return mentions


def is_general(clause: str, *terms: str) -> bool:
    """Whether a clause is about a gene in general, or about a type that is none of ``terms``."""
    if GENE_TALK.search(clause):
        return True
    named = types_in(clause)
    subject = bool(named) and re.fullmatch(r"\W*(?:(?:an?|the)\s+)?", clause[: named[0].start], re.I)
    return bool(subject and named[0].name not in terms and IS_SAID.match(clause[named[0].end :]))


def genes_in(clause: str, *, also: Iterable[str] = ()) -> list[Mention]:
    """Genes that a clause names, outside the names of types; ``also`` are words that count as genes."""
    also = {word: word for word in also}
    for mention in types_in(clause):
        clause = clause[: mention.start] + "_" * (mention.end - mention.start) + clause[mention.end :]
    mentions = []
    for match in re.finditer(r"[A-Za-z0-9]+(?:[-.][A-Za-z0-9]+)*(?![+\w])", clause):
        word = match[0]
        looks = word == word.upper() or re.fullmatch(r"C[\dXY]+orf\d+|CD\d+[a-z]?", word)
        if word in NOT_GENES or not looks or not re.search("[A-Z]", word) or len(word) < 2:
            continue
        if gene := also.get(word) or approved_symbol(word):
            mentions.append(Mention(gene, match.start(), match.end(), denied(clause, match.start(), match.end())))
    return mentions


def numbers_in(clause: str) -> list[tuple[float, str]]:
    """Numbers of a clause, each with its unit: ``"genes"``, ``"counts"``, ``"%"`` or ``""``.

    A number without a word behind it has the unit that was named before it: "genes detected: 900".
    """
    numbers = []
    for match in NUMBER.finditer(clause):
        value = float(re.sub("[ ,]", "", match[1]))
        before = UNITS.findall(clause[: match.start()])
        unit = match[3] or ("" if match[2] or not before else before[-1])
        named = "genes" if unit.casefold().startswith("gene") else "counts" if unit else ""
        numbers.append((value, "%" if match[2] else named))
    return numbers


def polarity(
    answer: str,
    mentions: Callable[[str], list[Mention]],
    name: str,
    *,
    about: re.Pattern,
    aside: Callable[[str], object],
) -> set[str]:
    """``"yes"``, ``"no"`` and ``"cannot"``, as far as an answer says them of ``name``.

    ``about`` is what a clause has to speak of, ``aside`` what takes it out.
    """
    said = set()
    for clause in clauses(answer):
        if REFUSES.search(clause):
            said.add("cannot")
            continue
        if NO.match(clause):
            said.add("no")
        elif YES.match(clause):
            said.add("yes")
        elif bare := BARE.match(clause):
            said.add("no" if bare[1] else "yes")
        if not about.search(clause) or aside(clause):
            continue
        said |= {"no" if m.denied else "yes" for m in mentions(clause) if m.name == name}
    return said
