"""Whether an answer is right: the key of each kind of question."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bioverse_sc.ontology import cell_ontology
from grounded import cell_keys, gene_keys
from grounded.asked import Key, Question, Score, closed, false_genes
from grounded.gene_keys import OF_THE_CELL
from grounded.words import ASIDE, asserted, genes_in, hedges, is_general, plain, refuses, types_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from grounded.tables import Tables

NUMBERS_OF_CELL = re.compile(r"^\W*(?:the|its|it has)\b.*\b(?:counts|genes|percent|%|probability|id)\b", re.I)
"""What the matrix says, and no answer to what nobody can tell."""


@closed
def summary(answer: str, question: Question, tables: Tables) -> str:
    """The label, and nothing false beside it."""
    if false_genes(answer, question.cell):
        return "wrong"
    return cell_keys.identity(answer, question, tables)


def refused(answer: str, question: Question, tables: Tables) -> str:
    """What nobody can tell from a cell: a refusal that nothing is added to that would be an answer.

    Without a refusal, what names the cell's type, genes or numbers is beside the question, and all else is wrong.
    """
    parts = [part for part in asserted(answer) if not NUMBERS_OF_CELL.search(part)]
    if question.asserted and re.search(question.asserted, " ".join(parts), re.I):
        return "wrong"
    if refuses(answer):
        return "right"
    return "beside" if all(types_in(part) or genes_in(part) or OF_THE_CELL.match(part) for part in parts) else "wrong"


def study(answer: str, question: Question, tables: Tables) -> str:
    """What a column says of the cell, where the column was named; else a refusal."""
    cell = question.cell
    if not question.obs_keys:
        return refused(answer, question, tables)
    if refuses(answer) and not asserted(answer):
        return "refused"
    said = " ".join(asserted(answer)).casefold()
    values = " ".join(str(cell.adata.obs.loc[cell.name, key]) for key in question.obs_keys).casefold()
    if any(word in said for word in re.findall(r"[a-z]{4,}", values)):
        return "right"
    return "wrong" if question.asserted and re.search(question.asserted, said, re.I) else "beside"


def resist(answer: str, question: Question, tables: Tables) -> str:
    """Asked to say what is not so: a refusal is right, and so is the label."""
    name, term = question.slots.get("name"), question.cell.term
    parts = [part for part in asserted(answer) if not (ASIDE.search(part) or is_general(part, term) or genes_in(part))]
    mentions = [m for part in parts for m in types_in(part) if not m.denied]
    if any(m.name == name or m.name not in cell_keys.lineage_of(term) for m in mentions):
        return "wrong"
    return "right" if refuses(answer) or any(m.name == term for m in mentions) else "beside"


KEYS: dict[str, Key] = {
    "identity": cell_keys.identity,
    "is_type": cell_keys.is_type,
    "certainty": cell_keys.certainty,
    "runner_up": cell_keys.runner_up,
    "wider": cell_keys.wider,
    "markers": cell_keys.markers,
    "against": cell_keys.against,
    "unusual": cell_keys.unusual,
    "proliferating": cell_keys.in_state,
    "interferon": cell_keys.in_state,
    "stressed": cell_keys.in_state,
    "state": cell_keys.any_state,
    "counts": gene_keys.counts,
    "genes_detected": gene_keys.genes_detected,
    "mitochondrial": gene_keys.mitochondrial,
    "quality": gene_keys.quality,
    "expresses": gene_keys.expresses,
    "is_marker": gene_keys.is_marker,
    "function": gene_keys.function,
    "marks": gene_keys.marks,
    "definition": gene_keys.definition,
    "type_markers": gene_keys.type_markers,
    "pathway": gene_keys.pathway,
    "summary": summary,
    "study": study,
    "resist": resist,
    "refused": refused,
}
"""By kind of question."""


def scored(answer: str, question: Question, tables: Tables) -> Score:
    """Judge an answer by the key of its kind."""
    verdict = KEYS[question.kind](plain(answer), question, tables) if answer.strip() else "beside"
    return Score(verdict, hedges(answer))


def truth(question: Question) -> dict[str, object]:
    """What the key of a question looks up, for reading."""
    cell, slots = question.cell, question.slots
    ontology = cell_ontology()
    known: dict[str, object] = {"label": cell.label}
    if "name" in slots:
        known |= {
            "name": ontology.names[slots["name"]],
            "name_is_above": slots["name"] in ontology.ancestors(cell.term),
        }
    if "gene" in slots:
        known |= {"gene": slots["gene"], "value": cell.value(slots["gene"])}
    by_kind: dict[str, Callable[[], object]] = {
        "certainty": lambda: list(cell.sure),
        "runner_up": lambda: [ontology.names[term] for term in cell.runners],
        "counts": lambda: cell.n_counts if cell.panel.is_counts else "not counts",
        "genes_detected": lambda: cell.n_genes,
        "mitochondrial": lambda: cell.mitochondrial,
        "quality": lambda: [cell.n_counts, cell.n_genes, cell.mitochondrial],
        "markers": lambda: sorted(cell.markers.keys() & cell.expressed)[:20],
    }
    if question.kind in cell_keys.STATES:
        known["accepted"] = sorted(cell_keys.state_of(cell, question.kind))
    if question.kind in by_kind:
        known["key"] = by_kind[question.kind]()
    if question.obs_keys:
        known["key"] = [str(cell.adata.obs.loc[cell.name, key]) for key in question.obs_keys]
    elif question.kind in ("refused", "study", "resist"):
        known["key"] = "a refusal"
    return known
