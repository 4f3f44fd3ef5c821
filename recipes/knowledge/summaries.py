"""What a gene does, as one to three sentences that start with its symbol, from its RefSeq summary."""

from __future__ import annotations

import re

MOST_LETTERS = 220
"""Of a text; its first sentence alone may reach ``MOST_OF_ONE``."""
MOST_OF_ONE = 260
_ENDS = re.compile(r"(?:(?<=[a-z0-9\])])|(?<=[A-Z0-9][A-Z0-9]))\.\s+(?=[A-Z])")
# sentences that say how the gene is spliced, where it lies, or what was sequenced, and not what it does
_ASIDE = re.compile(
    r"[Aa]lternativ\w* splic|[Aa]lternate(ly)? splic|[Ss]plice variant|transcript variant|\w+ isoforms|provided by|"
    r"pseudogene|on chromosome|chromosome \d|chromosomal region|located (on|in the|within|adjacent)|GeneRIF|polymorphi|"
    r"[Mm]utations? |Defects|variants|genomic|exons?\b|intron|read-?through|clustered|nomenclature|homolog in|"
    r"ha(s|ve) been (identified|suggested|proposed|associated|linked|described)|upstream of|promoter usage|start codon|"
    r"haplotype|paralog|\b\d+[pq]\d|reading frame|[Ss]tudies (suggest|in)|(associated|implicated|linked) (with|in)|"
    r"proteolytically processed|MIM|et al\b|disease|syndrome|cancer|tumor"
)
_STARTS = [
    (r"^(The|This) (human )?(gene|locus) encodes ", "{s} encodes "),
    (
        r"^The (protein|polypeptide|product) (that is )?(encoded by|of) (this|the) gene is ((a|an|the|one) )",
        r"{s} encodes \5",
    ),
    (r"^The gene product is ((a|an|the|one) )", r"{s} encodes \1"),
    (r"^This gene product is ((a|an|the|one) )", r"{s} encodes \1"),
    (
        r"^The (protein|polypeptide|product) (that is )?(encoded by|of) (this|the) gene (?=[a-z])",
        r"{s} encodes a protein that ",
    ),
    (r"^(The|This) gene product (?=[a-z])", "{s} encodes a protein that "),
    (r"^(This|The encoded) protein is ((a|an|the|one) )", r"{s} encodes \2"),
    (r"^(This|The encoded) protein (?=[a-z])", "{s} encodes a protein that "),
    (r"^This gene, \w+, (?=[a-z])", "{s} "),
    (r"^This gene (?=[a-z])", "{s} "),
    (r"^The encoded (\w+) (?=[a-z])", r"{s} encodes a \1 that "),
]
_LATER = [
    (r"\b[Tt]he (protein|polypeptide|product) (that is )?(encoded by|of) (this|the) gene\b", "the protein of {s}"),
    (r"\b[Tt]he (encoded protein|gene product|encoded enzyme)\b", "its protein"),
    (r"^This (protein|enzyme|receptor|cytokine|chemokine|kinase|antigen)\b", r"This \1"),
    (r"\b([Tt]his|the) gene product\b", "its protein"),
    (r"\bthis gene\b", "{s}"),
    (r"^This gene\b", "{s}"),
]


def summary_of(symbol: str, text: str) -> str:
    """What a gene does in about ``MOST_LETTERS`` letters, or ``""``.

    Parameters
    ----------
    symbol
        Approved symbol.
    text
        RefSeq summary, in ASCII.
    """
    text = re.sub(r"\s*\[[^\]]*\]", "", re.sub(r"\s+", " ", text)).strip()
    text = re.sub(
        r"\s*\((provided|supplied|see|PubMed|MIM)\b[^()]*\)|\s*\([A-Z][\w-]+ et al[^()]*(\)|$)|; MIM \d+", "", text
    )
    sentences = [balanced(s.strip().rstrip(".")) for s in _ENDS.split(text)]
    sentences = [s for s in sentences if len(s) > 20 and not _ASIDE.search(s)]
    said = ""
    for sentence in sentences:
        new = reworded(symbol, sentence, is_first=not said)
        if not new or len(said) + len(new) > (MOST_LETTERS if said else MOST_OF_ONE):
            # what comes behind a sentence that was left out may speak of it
            if said:
                break
            continue
        said = f"{said} {new}".strip()
    return said


def reworded(symbol: str, sentence: str, *, is_first: bool) -> str:
    """A sentence that names the gene by its symbol; ``""`` for a first one that cannot be told to be of the gene."""
    if is_first:
        for pattern, start in _STARTS:
            sentence, n = re.subn(pattern, start.format(s=symbol.replace("\\", "")), sentence, count=1)
            if n:
                break
    for pattern, words in _LATER:
        sentence = re.sub(pattern, words.format(s=symbol), sentence)
    if is_first and symbol not in sentence:
        return ""
    sentence = shortened(sentence)
    return sentence[0].upper() + sentence[1:] + "."


def shortened(sentence: str) -> str:
    """A long sentence without its last clauses."""
    while len(sentence) > MOST_LETTERS:
        at = max(
            sentence.rfind(end, 60)
            for end in (", which ", ", and it ", ", where ", "; ", ", whereas ", ", while ", ", that ")
        )
        if at < 0:
            break
        sentence = sentence[:at]
    return sentence


def balanced(sentence: str) -> str:
    """A sentence without a bracket that is not closed, and what is behind it."""
    while sentence.count("(") > sentence.count(")"):
        sentence = sentence[: sentence.rfind("(")].rstrip(" ,")
    return sentence
