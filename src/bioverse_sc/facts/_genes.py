"""What is known of a gene, and of a pathway."""

from __future__ import annotations

from functools import cache

import numpy as np

from bioverse_sc.facts._fact import Fact
from bioverse_sc.facts._reference import LEAST_LEVEL, reference
from bioverse_sc.facts._tables import gene_entries, pathways
from bioverse_sc.facts._types import MARKER_TABLE, types_marked
from bioverse_sc.facts._words import capital, counted, in_plural, listed
from bioverse_sc.ontology import approved_symbol, cell_ontology

TYPES_SHOWN = 3
"""Types that a gene marks, or that express it most."""
PROCESSES_SHOWN = 3
"""Processes that a gene takes part in."""
GENES_SHOWN = 10
"""Genes of a pathway that are listed."""


def gene_facts(symbol: str) -> list[Fact]:
    """What is known of a human gene, in sentences.

    Parameters
    ----------
    symbol
        Approved symbol, an alias of one gene alone, or an Ensembl id.

    Returns
    -------
    Full name, what it does (RefSeq), GO terms, the types that it marks, and those that express it most.

    Raises
    ------
    KeyError
        When no human gene has this name.
    """
    if (approved := approved_symbol(symbol)) is None:
        msg = f"{symbol!r} is no symbol or alias of one human gene. Try an approved symbol of HGNC, such as 'CD79A'."
        raise KeyError(msg)
    return list(_gene_facts(approved))


@cache
def _gene_facts(symbol: str) -> tuple[Fact, ...]:
    entry = gene_entries().get(symbol)
    said: list[tuple[str, str, str]] = []
    if entry:
        if entry.name:
            said.append((f"The full name of {symbol} is {entry.name}.", "gene", "Ensembl"))
        if entry.summary:
            said.append((entry.summary, "gene", "RefSeq"))
        if entry.process:
            said.append((f"{symbol} takes part in {listed(gene_processes(symbol))}.", "gene", "Gene Ontology"))
        if entry.function:
            said.append((f"The molecular function of {symbol} is {listed(entry.function)}.", "gene", "Gene Ontology"))
        if entry.component:
            text = f"The protein of {symbol} is located in {listed('the ' + part for part in entry.component)}."
            said.append((text, "gene", "Gene Ontology"))
    if text := marker_sentence(symbol):
        said.append((text, "markers", MARKER_TABLE))
    if text := highest_sentence(symbol):
        said.append((text, "markers", "CellProfileLibrary"))
    if not said:
        said.append((f"{symbol} is a human gene, but nothing is stored on what it does.", "gene", ""))
    return tuple(Fact(text, topic, symbol, source) for text, topic, source in said)


def gene_processes(symbol: str) -> tuple[str, ...]:
    """What a human gene takes part in, by the Gene Ontology; nothing where none is stored.

    Parameters
    ----------
    symbol
        Approved symbol.
    """
    entry = gene_entries().get(symbol)
    return entry.process[:PROCESSES_SHOWN] if entry else ()


def marker_sentence(symbol: str) -> str:
    """The types that a gene marks by most sources, in words; ``""`` for none."""
    marked = types_marked().get(symbol, {})
    names = [in_plural(cell_ontology().names[term]) for term in list(marked)[:TYPES_SHOWN]]
    if not names:
        return ""
    many = f", and of {counted(len(marked) - len(names), 'other type')}" if len(marked) > len(names) else ""
    return f"{symbol} is a known marker of {listed(names)}{many}."


@cache
def highest_sentence(symbol: str) -> str:
    """The reference types that express a gene most, in words; ``""`` where the reference does not say."""
    known = reference()
    if symbol not in known.row:
        return ""
    values = known.mean[known.row[symbol]]  # (types,)
    order = np.argsort(-values, kind="stable")
    if values[order[0]] < LEAST_LEVEL:
        return f"{symbol} is low in all reference types."
    said = known.specificity(symbol, known.terms[order[0]])
    if said.is_specific:
        return said.sentence(symbol)
    return f"{symbol} is highest in {listed(in_plural(known.names[i]) for i in order[:TYPES_SHOWN])}."


def pathway_facts(name: str) -> list[Fact]:
    """What is known of a process or complex of the Gene Ontology, in sentences.

    Parameters
    ----------
    name
        Its name, such as ``"T cell receptor signaling pathway"``, in any case.

    Returns
    -------
    The number of its genes, the first of them by name, and those that mark types by most sources.

    Raises
    ------
    KeyError
        When there is no such term with 5 to 400 human genes.
    """
    known = pathways()
    pathway = known.get(name) or known.get(pathway_names().get(name.casefold(), ""))
    if pathway is None:
        msg = (
            f"{name!r} is no process or complex of the Gene Ontology with 5 to 400 human genes. Try one such as "
            "'T cell receptor signaling pathway'."
        )
        raise KeyError(msg)
    about, source = pathway.name, "Gene Ontology"
    facts = [Fact(f"{capital(about)} has {len(pathway.genes)} known genes.", "pathway", about, source)]
    shown = listed(pathway.genes[:GENES_SHOWN])
    text = (
        f"Genes of {about} are {shown}." if len(pathway.genes) <= GENES_SHOWN else f"Genes of {about} include {shown}."
    )
    facts.append(Fact(text, "pathway", about, source))
    marked = types_marked()
    best = sorted((g for g in pathway.genes if g in marked), key=lambda g: -next(iter(marked[g].values())))[:3]
    for gene in best:
        facts.append(Fact(marker_sentence(gene), "markers", gene, MARKER_TABLE))
    return facts


@cache
def pathway_names() -> dict[str, str]:
    """Names of the pathways by their names in lower case."""
    return {name.casefold(): name for name in pathways()}
