"""What the language model is shown of a cell or cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
from scipy.sparse import csr_matrix

from bioverse_sc.facts import cell_facts, certainty, gene_processes, in_plural, shown_probability
from bioverse_sc.ontology import UNKNOWN, cell_ontology
from bioverse_sc.reasoning._claims import known_symbols

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bioverse_sc.facts import Absence, CellFacts
    from bioverse_sc.models import BioVerse, ShownTypes

FORMS = 8
"""Numbers by which a prompt says how each sentence is worded."""
GENES_SHOWN = 12
"""Informative genes of a cell, at most."""
MARKERS_SHOWN, OTHERS_SHOWN, HIGHEST_SHOWN = 4, 2, 2
"""Markers of the label that the reasoning prompt lists, genes of any other part, and informative genes where no marker
is expressed."""
PROCESS_WORDS = 8
"""Of what a gene has a role in, at most."""
COMMON_WORDS = {"cell", "of", "and", "the", "in"}
"""Of names of types, which say nothing of what a gene does."""
ABSENCE_WORDS = ("lacks", "without", "no", "missing is")
"""One of these stands before each gene that is said to be missing, and nowhere else in a reasoning."""


@dataclass(frozen=True)
class Case:
    """What the language model is shown of a cell or cluster, beside its soft token."""

    label: str
    markers: tuple[str, ...] = ()
    """Expressed markers of the label, the best first."""
    wider: tuple[str, tuple[str, ...]] = ("", ())
    """A wider type, and markers of it that are expressed."""
    highest: tuple[str, ...] = ()
    """Informative genes that mark neither."""
    role: tuple[str, str] = ("", "")
    """A marker, and what it has a role in."""
    runner_up: tuple[str, float] = ("", 0.0)
    """The likeliest other type, with its probability."""
    absences: tuple[Absence, ...] = ()
    """Genes that are not detected although a cell of a type would show them."""
    rival: tuple[str, ...] = ()
    """Markers of the runner-up that are expressed."""
    unusual: tuple[str, tuple[str, ...]] = ("", ())
    """Another type that the cell is far from, and markers of it that are expressed."""
    notes: tuple[str, ...] = ()
    """What else is unusual."""
    state: tuple[str, tuple[str, ...]] = ("", ())
    """A state, and genes that show it."""
    probability: float = 1.0
    """Of the label."""
    draw: int = 0
    """By which the wording is drawn."""

    @property
    def certainty(self) -> str:
        """How certain the label is, in words that a small vocabulary has."""
        return certainty(self.probability).replace("sure", "certain")

    @property
    def has_likelier(self) -> bool:
        """Whether another type is more likely than the label; ``"unknown"`` is compared with none."""
        return self.label != UNKNOWN and self.runner_up[1] > self.probability

    @property
    def genes(self) -> list[str]:
        """Genes that a text may say are expressed."""
        listed = (self.markers, self.wider[1], self.highest, self.rival, self.unusual[1], self.state[1])
        return list(dict.fromkeys(gene for genes in listed for gene in genes))

    @property
    def missing(self) -> list[str]:
        """Genes that the cell lacks."""
        return [absence.gene for absence in self.absences]

    @property
    def types(self) -> ShownTypes:
        """Types that the prompt names, and those that are wider than the label."""
        from bioverse_sc.models import ShownTypes

        ontology = cell_ontology()
        term = ontology.find(self.label)
        wider = [ontology.names[t] for t in sorted(ontology.ancestors(term))] if term else []
        others = [name for name in (self.runner_up[0], self.unusual[0]) if name]
        # genes of the runner-up and of strangers are named too
        named = [self.label, *wider, *(others if self.rival or self.unusual[1] else [])]
        return ShownTypes(named, [absence.label for absence in self.absences], others)

    @property
    def n_parts(self) -> int:
        """Parts that its prompt has."""
        return sum(map(len, self.parts.values()))

    @property
    def briefer(self) -> Case:
        """The case without the wider type, whose markers a small model takes for those of the label."""
        role = self.role if self.role[0] in self.markers else ("", "")
        return replace(self, wider=("", ()), role=role)

    def form(self, part: str) -> str:
        """The number by which a sentence is worded: another for each part, and always the same for the same case."""
        return str(crc32(f"{self.draw} {part}".encode()) % FORMS + 1)

    @property
    def parts(self) -> dict[str, list[dict[str, str]]]:
        """Of each part of the prompt the values of its fields; see :func:`bioverse_sc.models.reasoning_prompt`."""
        named = self.label if self.label != UNKNOWN else ""
        shown: dict[str, list[dict[str, str]]] = {}

        def show(part: str, *, is_there: bool, **values: str) -> None:
            if is_there:
                shown.setdefault(part, []).append({"form": self.form(part), **values})

        show("markers", is_there=bool(self.markers), genes=", ".join(self.markers), types=in_plural(named))
        show("wider", is_there=bool(self.wider[1]), genes=", ".join(self.wider[1]), types=in_plural(self.wider[0]))
        show("highest", is_there=bool(self.highest), genes=", ".join(self.highest))
        show("function", is_there=bool(self.role[1]), gene=self.role[0], process=self.role[1])
        other, chance = self.runner_up[0], shown_probability(self.runner_up[1])
        show("likelier" if self.has_likelier else "next", is_there=bool(other), type=other, probability=chance)
        for absence in self.absences:
            chance = shown_probability(absence.probability)
            show("missing", is_there=True, gene=absence.gene, type=absence.label, probability=chance)
        show("rival", is_there=bool(self.rival), genes=", ".join(self.rival), type=other)
        stranger, genes = self.unusual
        show("unusual", is_there=bool(genes), genes=", ".join(genes), types=in_plural(stranger))
        for note in self.notes:
            show("note", is_there=True, note=note)
        show("state", is_there=bool(self.state[1]), state=self.state[0], genes=", ".join(self.state[1]))
        sure = shown_probability(self.probability)
        show("sure", is_there=bool(named), certainty=self.certainty, probability=sure)
        return shown


class CaseMaker:
    """Makes cases from expression and label probabilities.

    Parameters
    ----------
    model
        Its reference of genes says which are informative, and its tokenizer which words it knows.
    genes
        Names of the columns of the expression that comes.
    labels
        Names of the columns of the probabilities.
    """

    def __init__(self, model: BioVerse, genes: Sequence[str], labels: Sequence[str]) -> None:
        self.model, self.genes, self.labels = model, list(genes), list(labels)
        self.symbols = sorted(known_symbols(genes))
        self.knows = cache(self._knows)

    def cases(
        self,
        expression: csr_matrix,
        expressed: csr_matrix,
        names: Sequence[str] | np.ndarray,
        confidence: np.ndarray,
        probabilities: np.ndarray,
        *,
        logged: bool,
    ) -> list[Case]:
        """Cases of some rows.

        Parameters
        ----------
        expression
            Counts, or their logarithms; shape (rows, genes).
        expressed
            Share of the cells of each row that express each gene, 0 to 1; shape (rows, genes).
        names, confidence
            Final label of each row, and its probability.
        probabilities
            Of all labels; shape (rows, labels).
        logged
            Whether ``expression`` is logarithms.
        """
        known = cell_facts(expression, expressed, self.genes, self.labels, names, probabilities, logged=logged)
        shown = informative_genes(self.model, expression, self.genes, logged=logged)
        return [
            self.case(replace(cell, probability=float(p)), genes)
            for cell, p, genes in zip(known, confidence, shown, strict=True)
        ]

    def case(self, cell: CellFacts, informative: Sequence[str]) -> Case:
        """What is shown of a cell, or of a group of cells.

        Parameters
        ----------
        cell
            All that is known of it.
        informative
            Its informative genes.
        """
        draw = crc32(" ".join([cell.label, *informative]).encode())
        likely = [c for c in cell.runners_up if c.label != UNKNOWN]
        runner_up = (likely[0].label, likely[0].probability) if likely else ("", 0.0)
        if not cell.term:
            return Case(
                cell.label,
                highest=tuple(informative[:HIGHEST_SHOWN]),
                runner_up=runner_up,
                notes=notes(cell),
                probability=cell.probability,
                draw=draw,
            )
        left = Left()
        label = cell_ontology().names[cell.term]
        markers = left.some([m.gene for m in cell.markers if m.marks == label], MARKERS_SHOWN)
        wider = [m for m in cell.markers if m.marks != label and m.specificity.home]
        home = wider[0].marks if wider else ""
        beside = with_genes(home, left.some([m.gene for m in wider if m.marks == home]))
        mine = [a for a in cell.absences if a.label == cell.label][:1]
        against = [a for a in cell.absences_of_runner_up if likely and a.label == likely[0].label][:1]
        absences = tuple({a.gene: a for a in [*against, *mine]}.values())
        rival = left.some(cell.rival_markers) if likely else ()
        stranger, strange = cell.strangers
        unusual = with_genes(stranger, left.some(strange, OTHERS_SHOWN + 1))
        state, showing = next(iter(cell.states.items()), ("", ()))
        in_state = with_genes(STATE_NAMES.get(state, ""), left.some(showing, OTHERS_SHOWN + 1))
        highest = left.some(informative, HIGHEST_SHOWN) if not markers else ()
        return Case(
            label=cell.label,
            markers=markers,
            wider=beside,
            highest=highest,
            role=self.role((*markers, *beside[1]), (label, *cell.wider)),
            runner_up=runner_up,
            absences=absences,
            rival=rival,
            unusual=unusual,
            notes=notes(cell),
            state=in_state,
            probability=cell.probability,
            draw=draw,
        )

    def role(self, genes: Sequence[str], names: Sequence[str]) -> tuple[str, str]:
        """One of some genes and what it has a role in, in words that the model knows.

        What names a type is told rather than anything else ("B cell activation"), then what the first gene does.
        """
        words = {word for name in names for word in name.split()} - COMMON_WORDS
        known = [(gene, process) for gene in genes for process in known_processes(gene, self.knows)]
        return max(known, key=lambda one: len(words.intersection(one[1].split())), default=("", ""))

    def _knows(self, word: str) -> bool:
        """Whether the tokenizer writes a word in one piece."""
        return len(self.model.tokenizer.encode(f" {word}", add_special_tokens=False)) == 1


STATE_NAMES = {
    "proliferation": "signs of proliferation",
    "interferon": "a response to interferon",
    "stress": "a response to stress",
}
"""What a text calls the states of :attr:`bioverse_sc.facts.CellFacts.states`."""


class Left:
    """Genes that no part of a prompt has listed yet: a text names each once."""

    def __init__(self) -> None:
        self.listed: set[str] = set()

    def some(self, genes: Sequence[str], most: int = OTHERS_SHOWN) -> tuple[str, ...]:
        """The first of some genes that are left, which are listed then."""
        chosen = [gene for gene in dict.fromkeys(genes) if gene not in self.listed][:most]
        self.listed.update(chosen)
        return tuple(chosen)


def with_genes(name: str, genes: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """A name with its genes; nothing where there are none."""
    return (name, genes) if genes else ("", ())


def notes(cell: CellFacts) -> tuple[str, ...]:
    """What is unusual of a cell's counts."""
    said = [
        "many mitochondrial counts" if cell.is_damaged else "",
        "much haemoglobin" if cell.has_haemoglobin else "",
    ]
    return tuple(note for note in said if note)[:1]


def known_processes(gene: str, knows: Callable[[str], bool]) -> list[str]:
    """What a gene has a role in, where that is said in a few words that are all known.

    Parameters
    ----------
    gene
        Approved symbol.
    knows
        Whether a word is known.
    """
    split = {process: process.split() for process in gene_processes(gene)}
    return [
        process
        for process, words in split.items()
        if len(words) <= PROCESS_WORDS and not set(words) & set(ABSENCE_WORDS) and all(map(knows, words))
    ]


def informative_genes(model: BioVerse, chunk: csr_matrix, genes: Sequence[str], *, logged: bool) -> list[list[str]]:
    """Genes that exceed the average profile most in each cell, at most ``GENES_SHOWN``.

    A cell and the average profile are scaled to 10,000 over the genes that both have; the excess is the difference of
    ``log1p``, times the gene's weight in the model's reference. So the choice does not depend on the other cells.

    Parameters
    ----------
    model
        It has the reference.
    chunk
        Counts, or their logarithms, shape (cells, genes).
    genes
        Names of the columns.
    logged
        Whether ``chunk`` is logarithms.
    """
    reference = np.array([model.gene_reference.get(gene, (0.0, 1.0)) for gene in genes])
    mean, weight = reference[:, 0], reference[:, 1]
    mean = np.log1p(mean / max(mean.sum(), 1e-12) * 1e4)
    values = chunk.copy()
    if logged:
        values.data = np.expm1(values.data)
    totals = np.asarray(values.sum(axis=1)).ravel()
    shown = []
    for i in range(values.shape[0]):
        span = slice(values.indptr[i], values.indptr[i + 1])
        columns = values.indices[span]
        excess = np.log1p(values.data[span] / max(totals[i], 1e-12) * 1e4) - mean[columns]
        score = excess * weight[columns]
        best = np.lexsort((columns, -score))[:GENES_SHOWN]
        shown.append([genes[columns[j]] for j in best if score[j] > 0])
    return shown


def detected(chunk: csr_matrix) -> csr_matrix:
    """1 where a cell expresses a gene, shape (cells, genes).

    Parameters
    ----------
    chunk
        Counts, or their logarithms, shape (cells, genes).
    """
    expressed = csr_matrix(chunk > 0, dtype=np.float32)  # (cells, genes)
    expressed.sort_indices()
    return expressed
