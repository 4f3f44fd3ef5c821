"""How good reasoning is, for ``evaluate.py``: what it names, how it is worded, and whether facts bear it out."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from bioverse_sc.facts import SUPPORTED, Fact, check_answer, gene_facts, in_plural, listed
from bioverse_sc.ontology import cell_ontology
from bioverse_sc.reasoning import claims_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from bioverse_sc.facts import CellFacts
    from bioverse_sc.reasoning import Case

BEST = 3
"""Markers of the label that a text should name, where they are expressed."""
_NUMBER = re.compile(r"(?:more than |less than )?\d+(?:\.\d+)?")
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9])")


def names_best_markers(texts: Sequence[str], cells: Sequence[CellFacts], known: AbstractSet[str]) -> float:
    """Share of the texts that name the label's best-evidenced expressed markers, of the cells that have any.

    The three best, or as many as are expressed.
    """
    right = []
    for text, cell in zip(texts, cells, strict=True):
        label = cell_ontology().names.get(cell.term, "")
        best = [marker.gene for marker in cell.markers[:BEST] if marker.marks == label]
        if best:
            right.append(set(best) <= {claim.gene for claim in claims_of(text, known) if not claim.absent})
    return sum(right) / max(1, len(right))


def forms(texts: Sequence[str], types: Sequence[str], known: AbstractSet[str]) -> Counter[str]:
    """Sentences by their form: with types, genes and numbers, and what a gene does, left out."""
    names = sorted({name for type_ in types if type_ for name in (type_, in_plural(type_))}, key=lambda n: -len(n))
    is_type = re.compile("|".join(rf"\b(?:an? )?{re.escape(name)}(?!\w)" for name in names) or r"(?!)")
    counted: Counter[str] = Counter()
    for text in texts:
        for sentence in _SENTENCE_ENDS.split(text):
            form = is_type.sub("TYPE", sentence)
            form = re.sub(r"[A-Za-z0-9]+(?:[-.][A-Za-z0-9]+)*", lambda m: "GENE" if m[0] in known else m[0], form)
            form = _NUMBER.sub("#", form)
            form = re.sub(r"GENE(?:(?:,| and) GENE)*", "GENES", form)
            form = re.sub(r"\brole in .+", "role in PROCESS.", form)
            if form:
                counted[re.sub(r"\b(certain|fairly certain|likely, but not certain|not certain)\b", "SURE", form)] += 1
    return counted


def supported_share(texts: Sequence[str], cells: Sequence[CellFacts], cases: Sequence[Case]) -> float:
    """Share of the sentences that what is known of the cells and of their genes bears out."""
    verdicts = [
        sentence.verdict in SUPPORTED
        for text, cell, case in zip(texts, cells, cases, strict=True)
        for sentence in check_answer(text, known_of(cell, case))
    ]
    return sum(verdicts) / max(1, len(verdicts))


def known_of(cell: CellFacts, case: Case) -> list[Fact]:
    """What is known of a cell, with what its prompt says of wider types, of its highest genes and of genes."""
    home, genes = case.wider
    more = [f"{gene} is a marker of {in_plural(home)}." for gene in genes]
    if genes:
        more.append(f"{listed(genes)} are markers of {in_plural(home)}.")
    if case.highest:
        more.append(f"Its highest genes are {listed(case.highest)}.")
    told = [Fact(text, "markers", "Cell", "") for text in more]
    about_genes = [fact for gene in case.genes for fact in _gene_facts(gene)]
    return [*cell.facts("Cell"), *told, *about_genes]


def _gene_facts(gene: str) -> list[Fact]:
    try:
        return gene_facts(gene)
    except KeyError:
        return []
