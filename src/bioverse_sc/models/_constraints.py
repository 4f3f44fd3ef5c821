"""What reasonings may write: the genes that a prompt shows, and names of types that it shows."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bioverse_sc.models import BioVerse

UNLIKELY = float(np.log(20))
"""A word this far (in log-probability) below the likeliest gene was not what the language model was about to write:
a twentieth."""
WHOLE = -1
"""In the place of the token that follows a name, where the name is at its end."""


class ShownGenes:
    """A constraint of decoding: of all gene symbols, only those that the prompt shows may be written, each once.

    Genes that the prompt lists as missing may be written after the word that the model's template puts before that list
    ("Missing"), until the end of the sentence; there no others may, and elsewhere they may not. That list begins with a
    gene, one follows each comma after a gene, no comma stands right after the last, and where none is left the word is
    not written.

    At the beginning, and after a full stop, a semicolon or "and", the language model may want some gene twenty times as
    much as any word. Then it writes the likeliest one that it may; where none is left, the answer ends at the full
    stop. Which of the genes are written, in what order and in what words stays with the language model.

    It is for tokenizers with a token for each symbol; a symbol of several tokens is not constrained. Where the template
    has no such word, missing genes may be written anywhere.

    Parameters
    ----------
    model
        Gives the tokenizer and the template.
    symbols
        All gene symbols.
    shown
        Genes that each prompt shows.
    missing
        Genes that each prompt lists as missing.
    """

    def __init__(
        self, model: BioVerse, symbols: Sequence[str], shown: Sequence[Sequence[str]], missing: Sequence[Sequence[str]]
    ) -> None:
        vocabulary = model.language_model.get_output_embeddings().weight.shape[0]
        token = _symbol_tokens(model, symbols)
        self.is_gene = torch.zeros(vocabulary, dtype=torch.bool, device=model.device)
        self.is_gene[list(token.values())] = True
        head = model.config.prompts["absent"].split("{absent}")[0].strip()
        word = head.strip(" :,")
        self.begins, self.opens, self.ends, self.comma, *others = (
            torch.tensor(model.tokenizer.encode(text, add_special_tokens=False), dtype=torch.long, device=model.device)
            for text in (f" {word}" if word else "", f" {head}" if word else "", ".", ",", ";", " and")
        )
        """Tokens of the word, and of all that is written before what is said to be missing; after it, and in it."""
        self.pauses = torch.cat([ids for ids in (self.ends, *others) if len(ids) == 1] or [self.ends[:0]])
        self.stops = torch.tensor(model.end_ids, device=model.device)
        self.closed = self.is_gene.repeat(2, len(shown), 1)
        """What may not be written, outside of and in what is said to be missing, by prompt and token."""
        for row, lists in enumerate(zip(shown, missing, strict=True)):
            for place, genes in enumerate(lists):
                opened = [token[gene] for gene in genes if gene in token]
                self.closed[place if len(self.begins) else slice(None), row, opened] = False
            if not missing[row]:
                self.closed[0, row, self.begins[:1]] = True

    @property
    def writable(self) -> torch.Tensor:
        """Tokens that some answer may have at some place."""
        return torch.nonzero(~self.closed.all(dim=1).all(dim=0)).flatten()


class GenesLeft:
    """What :class:`ShownGenes` still allows while answers grow.

    Parameters
    ----------
    constraint
        It stays as it is.
    columns
        Tokens that the scores are of; all by default.
    """

    def __init__(self, constraint: ShownGenes, columns: torch.Tensor | None = None) -> None:
        if columns is None:
            columns = torch.arange(len(constraint.is_gene), device=constraint.is_gene.device)
        self.of = constraint
        self.closed = constraint.closed[..., columns]
        self.is_gene = constraint.is_gene[columns]
        self.commas = torch.isin(columns, constraint.comma)
        self.pauses = torch.isin(columns, constraint.pauses)
        self.stops = torch.isin(columns, constraint.stops)
        self.full_stop = torch.isin(columns, constraint.ends)
        self.word = torch.isin(columns, constraint.begins[:1])
        n_answers = self.closed.shape[1]
        self.missing = torch.zeros(n_answers, dtype=torch.long, device=columns.device)
        """1 where what comes next is said to be missing."""
        self.after_gene = torch.zeros(n_answers, dtype=torch.bool, device=columns.device)
        self.in_list = self.after_gene
        """Whether a missing gene must come next."""
        self.pausing = ~self.after_gene
        """Whether the language model may be about to name a gene that it may not."""
        self.at_end = self.after_gene
        """Whether a full stop was the last token."""
        self.gene_named = self.after_gene
        """Whether the sentence names a gene that the prompt shows."""

    def __call__(self, scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Close tokens for the next choice, in place.

        ``wanted`` is the highest score of all genes where it is pausing.
        """
        shut = self.closed[self.missing, torch.arange(len(scores), device=scores.device)]
        if self.in_list.any():
            shut = shut | (self.in_list[:, None] & ~self.is_gene)
        scores.masked_fill_(shut, -torch.inf)
        if len(wanted):
            here = scores[self.pausing]
            gene = here.masked_fill(~self.is_gene, -torch.inf).amax(dim=1)
            names = wanted > here.masked_fill(self.is_gene, -torch.inf).amax(dim=1) + UNLIKELY
            is_left = gene > -torch.inf
            here.masked_fill_((names & is_left)[:, None] & ~self.is_gene, -torch.inf)
            here.masked_fill_((names & ~is_left & self.at_end[self.pausing])[:, None] & ~self.stops, -torch.inf)
            scores[self.pausing] = here
        return scores

    def wrote(self, best: torch.Tensor, written: torch.Tensor) -> None:
        """Take note of the columns that were chosen; ``written`` are the answers with them."""
        gene = self.is_gene[best]
        self.closed[:, torch.arange(len(best), device=best.device), best] = gene
        none_left = (self.closed[1] | ~self.is_gene).all(dim=1)
        self.closed[1][:, self.commas] = (none_left & gene)[:, None]
        self.closed[0][:, self.word] |= none_left[:, None]
        begun, opened, over = (
            (written[:, -len(ids) :] == ids).all(dim=1) if 0 < len(ids) <= written.shape[1] else torch.zeros_like(gene)
            for ids in (self.of.begins, self.of.opens, self.of.ends)
        )
        follows = self.missing.bool() & self.after_gene & self.commas[best]
        self.in_list = (follows | opened) & ~none_left
        self.after_gene = gene
        self.gene_named = (self.gene_named | gene) & ~over
        self.pausing, self.at_end = self.pauses[best], self.full_stop[best]
        self.missing = self.missing.masked_fill(over, 0).masked_fill(begun, 1)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the answers."""
        self.closed, self.missing = self.closed[:, rows], self.missing[rows]
        self.after_gene, self.in_list = self.after_gene[rows], self.in_list[rows]
        self.pausing, self.at_end = self.pausing[rows], self.at_end[rows]
        self.gene_named = self.gene_named[rows]


@dataclass(frozen=True)
class ShownTypes:
    """Cell types that a prompt names."""

    label: Sequence[str]
    """The label, and types wider than it."""
    lacking: Sequence[str]
    """Types whose markers are listed as missing."""
    others: Sequence[str] = ()
    """All others, as the next likely one."""


class TypeNames:
    """A constraint of decoding: a name that begins as that of a type in the prompt does not go on as that of another.

    Names of cell types are long and alike, and a small language model writes one for the other: but for one word, the
    naive CD8 T cell has the name of the naive CD4 T cell. In a sentence that names a gene of the cell, the label and
    wider types count as shown; in what is said to be missing, the types whose markers are listed; elsewhere, all of
    these. Words that go on with no name stay open, and any word may follow a whole one.

    Parameters
    ----------
    model
        Gives the tokenizer.
    names
        All names of types.
    """

    def __init__(self, model: BioVerse, names: Sequence[str]) -> None:
        self.model = model
        spelled = _spelled(model, names)
        self.known = _continuations(spelled[name] for name in names)
        """Tokens that follow each beginning of a name."""
        self.shown: list[list[dict[tuple[int, ...], set[int]]]] = []
        """The same of the types that each prompt shows, where the sentence names a gene, in what is missing, and
        elsewhere."""

    def of(self, shown: Sequence[ShownTypes]) -> TypeNames:
        """The constraint of some prompts, by the types that each of them shows."""
        found = copy.copy(self)
        places = [(of.label, of.lacking, (*of.label, *of.lacking, *of.others)) for of in shown]
        spelled = _spelled(self.model, {name for *_, names in places for name in names})
        found.shown = [[_continuations(spelled[name] for name in names) for names in of] for of in places]
        return found


class NamesLeft:
    """What :class:`TypeNames` still allows while answers grow."""

    def __init__(self, constraint: TypeNames, genes: GenesLeft, columns: torch.Tensor | None = None) -> None:
        self.known, self.shown, self.genes = constraint.known, constraint.shown, genes
        self.column = None if columns is None else {token: i for i, token in enumerate(columns.tolist())}
        self.begun: list[list[tuple[int, ...]]] = [[] for _ in self.shown]
        """Beginnings of names that the last tokens of each answer are."""

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """Close tokens for the next choice, in place."""
        missing, named = self.genes.missing.tolist(), self.genes.gene_named.tolist()
        for row, begun in enumerate(self.begun):
            if not begun:
                continue
            shown = self.shown[row][1 if missing[row] else 0 if named[row] else 2]
            goes_on: set[int] = set().union(*(shown.get(prefix, ()) for prefix in begun))
            other: set[int] = set().union(*(self.known.get(prefix, ()) for prefix in begun if prefix in shown))
            if WHOLE not in goes_on and (closed := other - goes_on - {WHOLE}):
                at = closed if self.column is None else {self.column[t] for t in closed & self.column.keys()}
                left = scores[row].index_fill(
                    0, torch.tensor(sorted(at), device=scores.device, dtype=torch.long), -torch.inf
                )
                # where a gene has to come, that comes first
                if left.isfinite().any():
                    scores[row] = left
        return scores

    def wrote(self, tokens: torch.Tensor) -> None:
        """Take note of the tokens that were chosen."""
        for row, token in enumerate(tokens.tolist()):
            longer = [(*prefix, token) for prefix in (*self.begun[row], ())]
            self.begun[row] = [prefix for prefix in longer if prefix in self.known]

    def keep(self, rows: list[int]) -> None:
        """Go on with some of the answers."""
        self.shown, self.begun = [self.shown[row] for row in rows], [self.begun[row] for row in rows]


def _continuations(sequences: Iterable[Sequence[int]]) -> dict[tuple[int, ...], set[int]]:
    """Tokens that follow each beginning of some sequences; :data:`WHOLE` follows a whole one."""
    following: dict[tuple[int, ...], set[int]] = {}
    for sequence in sequences:
        for k in range(1, len(sequence) + 1):
            following.setdefault(tuple(sequence[:k]), set()).add(sequence[k] if k < len(sequence) else WHOLE)
    return following


_SPELLED: WeakKeyDictionary[BioVerse, dict[str, list[int]]] = WeakKeyDictionary()


def _spelled(model: BioVerse, texts: Iterable[str]) -> dict[str, list[int]]:
    """Tokens of each text inside a sentence. One is tokenized once, as there are many and the batches are many too."""
    known = _SPELLED.setdefault(model, {})
    if new := sorted(set(texts) - set(known)):
        ids = model.tokenizer([" " + text for text in new], add_special_tokens=False)["input_ids"]
        known |= dict(zip(new, ids, strict=True))
    return known


def _symbol_tokens(model: BioVerse, symbols: Sequence[str]) -> dict[str, int]:
    """The token of each symbol that is one token."""
    spelled = _spelled(model, symbols)
    return {symbol: spelled[symbol][0] for symbol in symbols if len(spelled[symbol]) == 1}
