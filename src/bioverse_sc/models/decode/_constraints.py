"""What answers may write: the genes that a prompt shows, and names of types that it shows.

``ShownGenes`` and ``TypeNames`` say it of some prompts, and stay as they are; ``GenesLeft`` and ``NamesLeft`` are what
is left of it while the answers grow.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bioverse_sc.models import BioVerse

UNLIKELY = float(np.log(20))
"""A word this far (in log-probability) below the likeliest gene was not what the language model was about to write:
a twentieth."""
WHOLE = -1
"""In the place of the token that follows a name, where the name is at its end."""


class Constraint(Protocol):
    """What the loop asks of whatever has a say in the next token: constraints, and draws."""

    def close(self, scores: torch.Tensor) -> torch.Tensor:
        """Shut tokens for the next choice; scores have the shape (answers, tokens), and may be written to."""

    def wrote(self, tokens: torch.Tensor) -> None:
        """Take note of what was written, one token of each answer."""

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the answers."""


class ShownGenes:
    """A constraint of decoding: of all gene symbols, only those that the prompt shows may be written, each once.

    Genes that the prompt says are missing may be written after a word of absence ("lacks"), until the end of the
    sentence; there no others may, and elsewhere they may not. One comes right after the word, and where none is left no
    such word is written.

    At the beginning, and after a full stop, a semicolon or "and", the language model may want some gene twenty times as
    much as any word. Then it writes the likeliest one that it may; where none is left, the answer ends at the full
    stop. Which of the genes are written, in what order and in what words stays with the language model.

    It is for tokenizers with a token for each symbol; a symbol of several tokens is not constrained. Where there is no
    word of absence, missing genes may be written anywhere.

    Parameters
    ----------
    model
        Gives the tokenizer and the template.
    symbols
        All gene symbols.
    shown
        Genes that each prompt shows.
    missing
        Genes that each prompt says are missing.
    again
        Genes that each answer may name once more, in a later sentence; none by default.
    absence_words
        Words of absence; none by default.
    """

    def __init__(
        self,
        model: BioVerse,
        symbols: Sequence[str],
        shown: Sequence[Sequence[str]],
        missing: Sequence[Sequence[str]],
        *,
        again: Sequence[Sequence[str]] | None = None,
        absence_words: Sequence[str] = (),
    ) -> None:
        vocabulary = model.language_model.get_output_embeddings().weight.shape[0]
        token = _symbol_tokens(model, symbols)
        self.is_gene = torch.zeros(vocabulary, dtype=torch.bool, device=model.device)  # (vocabulary,)
        self.is_gene[list(token.values())] = True
        self.begins = self._tokens(model, absence_words)
        """Tokens of the words of absence."""
        self.ends, semicolon, union, self.zero = (
            self._tokens(model, [text], before="")[0] for text in (".", ";", " and", " 0")
        )
        self.pauses = torch.cat([ids for ids in (self.ends, semicolon, union) if len(ids) == 1] or [self.ends[:0]])
        self.stops = torch.tensor(model.end_ids, device=model.device)
        self.closed = self.is_gene.repeat(2, len(shown), 1)  # (places, prompts, vocabulary)
        """What may not be written, outside of and in what is said to be missing, by prompt and token."""
        for row, lists in enumerate(zip(shown, missing, strict=True)):
            for place, genes in enumerate(lists):
                opened = [token[gene] for gene in genes if gene in token]
                self.closed[place if self.begins else slice(None), row, opened] = False
            if not missing[row]:
                self.closed[0, row, self.words] = True
        self.again = torch.zeros_like(self.closed[0])  # (prompts, vocabulary)
        """What may be written once more, in a later sentence."""
        for row, genes in enumerate(again or []):
            self.again[row, [token[gene] for gene in genes if gene in token]] = True

    @staticmethod
    def _tokens(model: BioVerse, texts: Sequence[str], *, before: str = " ") -> list[torch.Tensor]:
        """Tokens of each text."""
        spelled = (model.tokenizer.encode(before + text, add_special_tokens=False) for text in texts)
        return [torch.tensor(ids, dtype=torch.long, device=model.device) for ids in spelled]

    @property
    def words(self) -> torch.Tensor:
        """Tokens that are not written where nothing is left to be said to be missing."""
        first = [ids for ids in self.begins if len(ids) == 1]
        return torch.cat(first) if first else self.ends[:0]

    @property
    def writable(self) -> torch.Tensor:
        """Tokens that some answer may have at some place."""
        return torch.nonzero(~self.closed.all(dim=1).all(dim=0)).flatten()


class GenesLeft:
    """What :class:`ShownGenes` still allows while answers grow.

    Parameters
    ----------
    shown
        It stays as it is.
    gene_scores
        Gives the scores of all genes in some of the answers, shape (answers, genes): those that may not be written too.
    columns
        Tokens that the scores are of; all by default.
    """

    # An answer is in one of two places, each with genes of its own:
    #   outside        until a word of absence is written
    #   missing        in what is said to be missing, until the full stop
    # By what was written last it is in one or more of these states:
    #   after_word     a word of absence: a gene must come
    #   pausing        nothing yet, a full stop, a semicolon or "and": the language model may be about to name a gene
    #   at_end         a full stop: where a gene is wanted and none is left, the answer ends
    #   gene_named     the sentence has named a gene, for NamesLeft

    def __init__(
        self,
        shown: ShownGenes,
        gene_scores: Callable[[torch.Tensor], torch.Tensor],
        columns: torch.Tensor | None = None,
    ) -> None:
        n_vocabulary, device = len(shown.is_gene), shown.is_gene.device
        if columns is None:
            columns = torch.arange(n_vocabulary, device=device)
        self.shown, self.gene_scores = shown, gene_scores
        self.column = torch.zeros(n_vocabulary, dtype=torch.long, device=device)  # (vocabulary,)
        self.column[columns] = torch.arange(len(columns), device=device)
        self.closed = shown.closed[..., columns]  # (places, answers, tokens)
        self.is_gene = shown.is_gene[columns]  # (tokens,), as all five
        self.pauses = torch.isin(columns, shown.pauses)
        self.stops = torch.isin(columns, shown.stops)
        self.full_stop = torch.isin(columns, shown.ends)
        self.word = torch.isin(columns, shown.words)
        self.again = shown.again[:, columns]  # (answers, tokens)
        n_answers = self.closed.shape[1]
        longest = max(len(ids) for ids in (*shown.begins, shown.ends, shown.zero)) + 1
        self.last = torch.full((n_answers, longest), -1, device=device)
        """Tokens that were written last, as many as are looked at."""
        self.missing = torch.zeros(n_answers, dtype=torch.long, device=device)
        """1 where what comes next is said to be missing."""
        self.after_word = torch.zeros(n_answers, dtype=torch.bool, device=device)
        """Whether a missing gene must come next."""
        self.pausing = ~self.after_word
        """Whether the language model may be about to name a gene that it may not."""
        self.at_end = self.after_word
        """Whether a full stop was the last token."""
        self.gene_named = self.after_word
        """Whether the sentence names a gene that the prompt shows."""

    def close(self, scores: torch.Tensor) -> torch.Tensor:
        """Shut tokens for the next choice, in place."""
        shut = self.closed[self.missing, torch.arange(len(scores), device=scores.device)]  # (answers, tokens)
        if self.after_word.any():
            shut = shut | (self.after_word[:, None] & ~self.is_gene)
        scores.masked_fill_(shut, -torch.inf)
        # a tokenizer may have no gene of one token
        wanted = nn.functional.pad(self.gene_scores(self.pausing), (0, 1), value=-torch.inf)  # (pausing, genes + 1)
        if len(wanted):
            paused = scores[self.pausing]  # (pausing, tokens)
            word = paused.masked_fill(self.is_gene, -torch.inf).amax(dim=1)
            names = wanted.amax(dim=1).to(scores.device) > word + UNLIKELY
            is_left = paused.masked_fill(~self.is_gene, -torch.inf).amax(dim=1) > -torch.inf
            paused.masked_fill_((names & is_left)[:, None] & ~self.is_gene, -torch.inf)
            paused.masked_fill_((names & ~is_left & self.at_end[self.pausing])[:, None] & ~self.stops, -torch.inf)
            scores[self.pausing] = paused
        return scores

    def wrote(self, tokens: torch.Tensor) -> None:
        """Take note of what was written, one token of each answer."""
        self.last = torch.cat([self.last[:, 1:], tokens[:, None]], dim=1)  # (answers, longest)
        begun = self._wrote_any(self.shown.begins)
        # the point of "0.95" ends no sentence
        is_decimal = self._wrote_any([torch.cat([self.shown.zero, self.shown.ends])])
        over = self._wrote_any([self.shown.ends]) & ~is_decimal
        column = self.column[tokens]  # (answers,)
        gene = self.is_gene[column]
        self.closed[:, torch.arange(len(column), device=column.device), column] = gene
        none_left = (self.closed[1] | ~self.is_gene).all(dim=1)
        self.closed[0][:, self.word] |= none_left[:, None]
        self.after_word = begun & ~none_left
        self.gene_named = (self.gene_named | gene) & ~over
        self.pausing, self.at_end = self.pauses[column] & ~is_decimal, self.full_stop[column] & ~is_decimal
        opened_again = self.again & self.closed[0] & over[:, None]
        self.closed[0] &= ~opened_again
        self.again = self.again & ~opened_again
        self.missing = self.missing.masked_fill(over, 0).masked_fill(begun, 1)

    def _wrote_any(self, sequences: Sequence[torch.Tensor]) -> torch.Tensor:
        """Whether the last tokens of each answer are one of some sequences, shape (answers,)."""
        wrote = torch.zeros_like(self.pausing)
        for ids in sequences:
            wrote = wrote | ((self.last[:, -len(ids) :] == ids).all(dim=1) if len(ids) else False)
        return wrote

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the answers."""
        self.again = self.again[rows]
        self.closed, self.missing, self.last = self.closed[:, rows], self.missing[rows], self.last[rows]
        self.after_word = self.after_word[rows]
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
        names = copy.copy(self)
        places = [(types.label, types.lacking, (*types.label, *types.lacking, *types.others)) for types in shown]
        spelled = _spelled(self.model, {name for *_, everywhere in places for name in everywhere})
        names.shown = [[_continuations(spelled[name] for name in place) for place in three] for three in places]
        return names


class NamesLeft:
    """What :class:`TypeNames` still allows while answers grow.

    Parameters
    ----------
    names
        Of the prompts; it stays as it is.
    genes
        Says in which place each answer is.
    columns
        Tokens that the scores are of; all by default.
    """

    # An answer is at no beginning of a name, or at one or several ("naive B" is that of "naive B cell" and of "B
    # cell"); which of these the prompt shows depends on the place where GenesLeft has the answer.

    def __init__(self, names: TypeNames, genes: GenesLeft, columns: torch.Tensor | None = None) -> None:
        self.known, self.shown, self.genes = names.known, names.shown, genes
        self.column = None if columns is None else {token: i for i, token in enumerate(columns.tolist())}
        self.begun: list[list[tuple[int, ...]]] = [[] for _ in self.shown]
        """Beginnings of names that the last tokens of each answer are."""

    def close(self, scores: torch.Tensor) -> torch.Tensor:
        """Shut tokens for the next choice, in place."""
        missing, named = self.genes.missing.tolist(), self.genes.gene_named.tolist()
        for row, begun in enumerate(self.begun):
            if not begun:
                continue
            shown = self.shown[row][1 if missing[row] else 0 if named[row] else 2]
            goes_on: set[int] = set().union(*(shown.get(prefix, ()) for prefix in begun))
            other: set[int] = set().union(*(self.known.get(prefix, ()) for prefix in begun if prefix in shown))
            if WHOLE not in goes_on and (closed := other - goes_on - {WHOLE}):
                shut = closed if self.column is None else {self.column[t] for t in closed & self.column.keys()}
                still_open = scores[row].index_fill(
                    0, torch.tensor(sorted(shut), device=scores.device, dtype=torch.long), -torch.inf
                )  # (tokens,)
                # where a gene has to come, that comes first
                if still_open.isfinite().any():
                    scores[row] = still_open
        return scores

    def wrote(self, tokens: torch.Tensor) -> None:
        """Take note of what was written, one token of each answer."""
        for row, token in enumerate(tokens.tolist()):
            longer = [(*prefix, token) for prefix in (*self.begun[row], ())]
            self.begun[row] = [prefix for prefix in longer if prefix in self.known]

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the answers."""
        numbers = rows.tolist()
        self.shown, self.begun = [self.shown[row] for row in numbers], [self.begun[row] for row in numbers]


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
