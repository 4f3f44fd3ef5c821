"""Decoding: probabilities of labels under a trie, and free text."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections import Counter
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from bioverse_sc._validation import check_positive
from bioverse_sc.models._inject import inject, pad_prompts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from transformers import PreTrainedModel

    from bioverse_sc.models import BioVerse
    from bioverse_sc.models._prompt import Segment

PRUNED_BELOW = -7.0
"""A prefix this far (in log-probability) below a cell's best one is dropped: less than a thousandth of its mass."""
CACHE_BYTES = 2**30
"""Keys and values of the prefixes that are read at once, at most; those of one cell stay together."""
UNLIKELY = float(np.log(20))
"""A word this far (in log-probability) below the likeliest gene was not what the language model was about to write: a twentieth."""
WHOLE = -1
"""In the place of the token that follows a name, where the name is at its end."""
DROPPED_SHARE = 1 / 8
"""Answers that must have ended, as a share of those in work, before they leave the batch: leaving copies keys and values."""


@dataclass(frozen=True)
class Trie:
    """Prefixes of token sequences, numbered by length and then by tokens, so that those that extend one follow each other.

    A sequence goes on only until no other has its prefix: what comes then is no choice.
    """

    tokens: np.ndarray
    """Last token of each prefix; -1 of the empty one, which is the first."""
    labels: np.ndarray
    """The only sequence with this prefix, -1 where there are several."""
    first_child: np.ndarray
    """Number of the first prefix that is one token longer."""
    n_children: np.ndarray

    def expand(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Children of each prefix, as the place of their parent in ``nodes`` and their number."""
        counts = self.n_children[nodes]
        parents = np.repeat(np.arange(len(nodes)), counts)
        place = np.arange(len(parents)) - np.repeat(np.cumsum(counts) - counts, counts)
        return parents, self.first_child[nodes][parents] + place


def build_trie(sequences: Sequence[Sequence[int]]) -> Trie:
    """Make a trie of token sequences, none of which may begin another one."""
    prefixes = [[tuple(sequence[:k]) for k in range(len(sequence) + 1)] for sequence in sequences]
    n_with = Counter(prefix for those in prefixes for prefix in those)
    if any(n_with[those[-1]] > 1 for those in prefixes):
        msg = "Two labels are spelled with the same tokens."
        raise ValueError(msg)
    # one after the last that is shared with others
    kept = [those[: max(2, 1 + sum(n_with[prefix] > 1 for prefix in those))] for those in prefixes]
    ordered = sorted({prefix for those in kept for prefix in those}, key=lambda prefix: (len(prefix), prefix))
    number = {prefix: i for i, prefix in enumerate(ordered)}
    labels = np.full(len(ordered), -1)
    labels[[number[those[-1]] for those in kept]] = np.arange(len(sequences))
    parents = [number[prefix[:-1]] for prefix in ordered[1:]]
    n_children = np.bincount(parents, minlength=len(ordered))
    tokens = np.array([-1, *(prefix[-1] for prefix in ordered[1:])])
    return Trie(tokens, labels, 1 + np.cumsum(n_children) - n_children, n_children)


class _Reader:
    """The language model, asked about the next token alone.

    Where its head is a plain matrix, only the tokens that are asked for are multiplied. Any other head (one that bends the
    logits, as that of Gemma 2, or has an adapter or four bits) computes all logits itself.
    """

    def __init__(self, language_model: Any) -> None:
        # adapters are in the layers of the base model, which peft only wraps
        self.base = language_model.get_base_model() if hasattr(language_model, "get_base_model") else language_model
        self.head = _plain_head(self.base)
        self.weight: torch.Tensor | None = None if self.head is None else self.head.weight
        self.bias: torch.Tensor | None = None if self.head is None else self.head.bias
        self.divisor = getattr(self.base.config, "logits_scaling", 1.0)
        self.tokens: torch.Tensor | None = None
        self.takes_positions = "position_ids" in inspect.signature(self.base.forward).parameters

    def among(self, tokens: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """What gives the logits of these tokens from a state, whatever the reader is narrowed to later."""
        if self.weight is None:
            return lambda state: self.logits(state, tokens)
        part = copy.copy(self)
        part.narrow(tokens)
        return part.logits

    def narrow(self, tokens: torch.Tensor) -> None:
        """Score these tokens alone from now on, in this order."""
        self.tokens = tokens
        if self.weight is not None:
            self.weight = self.weight[tokens]
            self.bias = None if self.bias is None else self.bias[tokens]

    def read(self, cache: Any = None, positions: torch.Tensor | None = None, **inputs: Any) -> tuple[torch.Tensor, Any]:
        """Read on. Returns the state at the last token of each row, for :meth:`logits`, and the cache of keys and values."""
        if positions is not None and self.takes_positions:
            inputs["position_ids"] = positions
        inputs |= {"past_key_values": cache, "use_cache": True}
        if self.weight is None:
            out = self.base(**inputs, logits_to_keep=1)
            state = out.logits[:, -1]
            return (state if self.tokens is None else state[:, self.tokens]), out.past_key_values
        out = self.base.base_model(**inputs)
        return out.last_hidden_state[:, -1].to(self.weight.device), out.past_key_values

    def logits(self, state: torch.Tensor, which: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Logits of the tokens, or of some of them, in float32."""
        if self.weight is None:
            return state[:, which].float()
        bias = None if self.bias is None else self.bias[which]
        logits = nn.functional.linear(state, self.weight[which], bias)
        return (logits if self.divisor == 1 else logits / self.divisor).float()

    def log_probabilities(self, state: torch.Tensor, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Log-probability of ``tokens[i]`` after row ``rows[i]``, among the tokens that are given for that row; rows ascend."""
        asked, column = np.unique(tokens, return_inverse=True)
        logits = self.logits(state, torch.from_numpy(asked).to(state.device)).cpu().double().numpy()[rows, column]
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        return logits - np.repeat(np.logaddexp.reduceat(logits, first), np.diff(first, append=len(rows)))


_PLAIN_HEADS: WeakKeyDictionary[PreTrainedModel, nn.Linear | None] = WeakKeyDictionary()


def _plain_head(language_model: PreTrainedModel) -> nn.Linear | None:
    """The head of a language model, when its logits are the head's product with the last hidden state and nothing else."""
    if language_model not in _PLAIN_HEADS:
        head: Any = language_model.get_output_embeddings()
        if type(head) is not nn.Linear or head.weight.is_meta:
            _PLAIN_HEADS[language_model] = None
            return None
        # tried on a token rather than known by name: a model that does more than that is found out
        seen: dict[str, torch.Tensor] = {}
        hook = head.register_forward_hook(lambda _, given, made: seen.update(given=given[0], made=made))
        embeddings: Any = language_model.get_input_embeddings()
        token = torch.zeros((1, 1), dtype=torch.long, device=embeddings.weight.device)
        logits = language_model(input_ids=token, use_cache=False).logits
        hook.remove()
        states = language_model.base_model(input_ids=token, use_cache=False).last_hidden_state.to(head.weight.device)
        made = seen["made"] / getattr(language_model.config, "logits_scaling", 1.0)
        is_plain = torch.equal(made.to(logits), logits) and torch.allclose(seen["given"], states, rtol=0.01, atol=0.01)
        _PLAIN_HEADS[language_model] = head if is_plain else None
    return _PLAIN_HEADS[language_model]


def _selected(cache: Any, rows: torch.Tensor) -> Any:
    """A cache of some rows; the one that it is taken from stays as it is, as tensors are replaced and not written to."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows)
    return chosen


def _rows_at_once(cache: Any, n_rows: int) -> int:
    """How many rows of the cache :data:`CACHE_BYTES` hold."""
    stored = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values) if part is not None)
    return max(1, CACHE_BYTES * n_rows // max(stored, 1))


def _whole_cells(cells: np.ndarray, limit: int) -> Iterator[np.ndarray]:
    """Parts of about ``limit`` rows; rows of one cell, which are compared with each other, stay in one part."""
    n_parts = -(-len(cells) // limit)
    for part in np.array_split(np.unique(cells), n_parts) if n_parts else ():
        if len(part):
            yield np.flatnonzero((cells >= part[0]) & (cells <= part[-1]))


@dataclass(frozen=True)
class _Branch:
    """Prefixes of labels that are still to be read, of some cells."""

    cells: np.ndarray
    nodes: np.ndarray
    scores: np.ndarray
    cache: Any
    """Of the prefixes without their last token."""
    rows: np.ndarray
    """Their rows in the cache."""


@torch.inference_mode()
def label_log_probabilities(
    model: BioVerse,
    prompt: Sequence[Segment],
    soft_tokens: torch.Tensor,
    labels: Sequence[str],
    *,
    pruned_below: float | None = None,
) -> np.ndarray:
    """Log-probability of each label when the language model writes the answer and may write nothing but a label.

    The labels make a trie of their tokens. Wherever it branches, the model's probabilities of the tokens that go on are scaled to
    sum to one, as in constrained decoding; the probability of a label is their product. Prefixes are read level by level; one
    below :data:`PRUNED_BELOW` of the best one of that cell is dropped, and what is left is scaled to sum to one.

    Parameters
    ----------
    model
        The model.
    prompt
        Ends with an open answer; has one entity.
    soft_tokens
        Shape (cells, n_tokens, width).
    labels
        The label set.
    pruned_below
        Instead of :data:`PRUNED_BELOW`; ``-inf`` drops no label.

    Returns
    -------
    Log-probabilities, shape (cells, labels); ``-inf`` for dropped labels.
    """
    trie = build_trie([model.answer_ids(label) for label in labels])
    reader = _Reader(model.language_model)
    n_cells = len(soft_tokens)
    tokens = model.tokenize(prompt)
    ids = torch.tensor(tokens.ids, device=model.device).repeat(n_cells, 1)
    embedded = inject(model.embeddings, ids, soft_tokens.flatten(0, 1))
    # all prompts are the same but for the soft token, so there is no padding and no mask
    state, cache = reader.read(inputs_embeds=embedded)
    found = np.full((n_cells, len(labels)), -np.inf)
    cells, nodes, scores = np.arange(n_cells), np.zeros(n_cells, dtype=np.int64), np.zeros(n_cells)
    waiting: list[_Branch] = []
    while True:
        parents, children = trie.expand(nodes)
        scores = scores[parents] + reader.log_probabilities(state, parents, trie.tokens[children])
        of = cells[parents]
        best = found.max(axis=1)
        np.maximum.at(best, of, scores)
        kept = scores >= best[of] + (PRUNED_BELOW if pruned_below is None else pruned_below)
        ended = kept & (trie.labels[children] >= 0)
        found[of[ended], trie.labels[children[ended]]] = scores[ended]
        longer = np.flatnonzero(kept & (trie.n_children[children] > 0))
        for part in _whole_cells(of[longer], _rows_at_once(cache, len(cells))):
            i = longer[part]
            waiting.append(_Branch(of[i], children[i], scores[i], cache, parents[i]))
        if not waiting:
            break
        branch = waiting.pop()
        cells, nodes, scores = branch.cells, branch.nodes, branch.scores
        last = torch.from_numpy(trie.tokens[nodes]).to(model.device)
        cache = _selected(branch.cache, torch.from_numpy(branch.rows).to(model.device))
        state, cache = reader.read(cache, input_ids=last[:, None])
    return found - np.logaddexp.reduce(found, axis=1, keepdims=True)


class ShownGenes:
    """A constraint of decoding: of all gene symbols, only those that the prompt shows may be written, each once.

    Genes that the prompt lists as missing may be written after the word that the model's template puts before that list
    ("Missing"), until the end of the sentence; there no others may, and elsewhere they may not. That list begins with a gene, one
    follows each comma after a gene, no comma stands right after the last, and where none is left the word is not written.

    At the beginning, and after a full stop, a semicolon or "and", the language model may want some gene twenty times as much as any
    word. Then it writes the likeliest one that it may; where none is left, the answer ends at the full stop.
    Which of the genes are written, in what order and in what words stays with the language model.

    It is for tokenizers with a token for each symbol; a symbol of several tokens is not constrained. Where the template has no such
    word, missing genes may be written anywhere.

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


class _GenesLeft:
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
        """Close tokens for the next choice, in place. ``wanted`` is the highest score of all genes where it is pausing."""
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
    """A constraint of decoding: a name that begins as that of a type that the prompt shows does not go on as that of another type.

    Names of cell types are long and alike, and a small language model writes one for the other: but for one word, the naive CD8 T
    cell has the name of the naive CD4 T cell. In a sentence that names a gene of the cell, the label and wider types count as
    shown; in what is said to be missing, the types whose markers are listed; elsewhere, all of these. Words that go on with no name
    stay open, and any word may follow a whole one.

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
        """The same of the types that each prompt shows, where the sentence names a gene, in what is missing, and elsewhere."""

    def of(self, shown: Sequence[ShownTypes]) -> TypeNames:
        """The constraint of some prompts, by the types that each of them shows."""
        found = copy.copy(self)
        places = [(of.label, of.lacking, (*of.label, *of.lacking, *of.others)) for of in shown]
        spelled = _spelled(self.model, {name for *_, names in places for name in names})
        found.shown = [[_continuations(spelled[name] for name in names) for names in of] for of in places]
        return found


class _NamesLeft:
    """What :class:`TypeNames` still allows while answers grow."""

    def __init__(self, constraint: TypeNames, genes: _GenesLeft, columns: torch.Tensor | None = None) -> None:
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


@dataclass(frozen=True)
class Decoding:
    """How an answer is chosen from the language model's probabilities."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 takes the likeliest token each time; 1 draws by the model's own probabilities."""
    top_p: float = 1.0
    """Draws from the likeliest tokens that together have this probability."""
    seed: int = 0
    """Of the draws."""
    no_repeat_ngram_size: int | None = None
    """No run of so many tokens is written twice in an answer; 0 and ``None`` do not look."""

    def __post_init__(self) -> None:
        check_positive(self, "max_new_tokens")
        if not self.temperature >= 0:
            msg = f"temperature is {self.temperature}; expected 0 (always the likeliest token) or more."
            raise ValueError(msg)
        if not 0 < self.top_p <= 1:
            msg = f"top_p is {self.top_p}; expected more than 0 and at most 1."
            raise ValueError(msg)
        size = self.no_repeat_ngram_size
        if size is not None and (not isinstance(size, int) or size < 0):
            msg = f"no_repeat_ngram_size is {size}; expected a number of tokens, or 0 to allow all repeats."
            raise ValueError(msg)

    def of_model(self, model: BioVerse) -> Decoding:
        """What the model's configuration says where nothing was chosen."""
        if self.no_repeat_ngram_size is not None:
            return self
        return replace(self, no_repeat_ngram_size=model.config.no_repeat_ngram_size)

    def processors(self, keys: Sequence[str]) -> list[Any]:
        """What turns logits into a choice by their maximum; ``keys`` name the prompts, and seed their draws."""
        from transformers import NoRepeatNGramLogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

        new = [NoRepeatNGramLogitsProcessor(self.no_repeat_ngram_size)] if self.no_repeat_ngram_size else []
        if not self.temperature:
            return new
        kept = [TopPLogitsWarper(self.top_p)] if self.top_p < 1 else []
        return [*new, TemperatureLogitsWarper(float(self.temperature)), *kept, _Draw(self.seed, keys)]


class _Draw:
    """Noise after which the likeliest token is a draw (the Gumbel trick), so that each prompt has draws of its own.

    What is drawn for a prompt then does not depend on the prompts beside it.
    """

    def __init__(self, seed: int, keys: Sequence[str]) -> None:
        digests = (hashlib.sha256(f"{seed} {key}".encode()).digest() for key in keys)
        self.generators = [torch.Generator().manual_seed(int.from_bytes(d[:7], "big")) for d in digests]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the prompts."""
        self.generators = [self.generators[row] for row in rows]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Add the noise of each row."""
        uniform = torch.stack([torch.rand(scores.shape[1], generator=g, dtype=torch.float64) for g in self.generators])
        noise = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
        return scores + noise.to(scores)


@torch.inference_mode()
def generate_text(
    model: BioVerse,
    prompts: Sequence[Sequence[Segment]],
    soft_tokens: torch.Tensor,
    decoding: Decoding,
    *,
    keys: Sequence[str] = (),
    constraint: ShownGenes | None = None,
    names: TypeNames | None = None,
) -> list[str]:
    """Write the open answers of prompts, in one batch.

    Parameters
    ----------
    model
        The model.
    prompts
        Each ends with an open answer.
    soft_tokens
        Soft tokens of all entities in the order of the prompts, shape (slots, width) or (entities, n_tokens, width).
    decoding
        How the answers are chosen.
    keys
        A name for each prompt, for its draws; its number by default.
    constraint
        Which gene symbols each answer may name.
    names
        Beside it, how the names of cell types may go on.

    Raises
    ------
    ValueError
        When a prompt is longer than what the language model reads. An answer ends there in any case.
    """
    tokens = [model.tokenize(prompt) for prompt in prompts]
    limit = model.max_positions or np.inf
    if (longest := max(len(of.ids) for of in tokens)) > limit:
        msg = (
            f"The prompt has {longest} tokens; the language model reads {limit} at most. Ask a shorter question, show fewer "
            "entities, or leave retrieve=True out."
        )
        raise ValueError(msg)
    batch = pad_prompts(tokens, model.pad_id, left=True).to(model.device)
    embedded = inject(model.embeddings, batch.ids, soft_tokens.flatten(0, -2))
    reader = _Reader(model.language_model)
    drawn = decoding.processors(keys or [str(i) for i in range(len(prompts))])
    left = names_left = None
    if constraint is not None:
        genes = reader.among(torch.nonzero(constraint.is_gene).flatten())
        if not drawn and reader.weight is not None:
            # to find the likeliest token that may be written needs few others; a draw is over the whole vocabulary
            reader.narrow(constraint.writable)
        left = _GenesLeft(constraint, reader.tokens)
        names_left = None if names is None else _NamesLeft(names, left, reader.tokens)
    answers = torch.full((len(prompts), decoding.max_new_tokens), model.pad_id, device=model.device)
    # of the answers in work: their numbers, the mask of what they read, and whether they have ended
    going = torch.arange(len(prompts), device=model.device)
    mask = torch.ones_like(batch.ids) if batch.mask is None else batch.mask
    ended = torch.zeros_like(going, dtype=torch.bool)
    ends = torch.tensor(model.end_ids, device=model.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    state, cache = reader.read(inputs_embeds=embedded, attention_mask=mask, positions=positions)
    for n in range(decoding.max_new_tokens):
        scores = reader.logits(state).to(model.device)
        if left is not None:
            # a tokenizer may have no gene of one token
            wanted = nn.functional.pad(genes(state[left.pausing.to(state.device)]), (0, 1), value=-torch.inf)
            scores = left(scores, wanted.amax(dim=1).to(model.device))
        if names_left is not None:
            scores = names_left(scores)
        for process in drawn:
            scores = process(answers[going, :n], scores)
        best = scores.argmax(dim=1)
        token = best if reader.tokens is None else reader.tokens[best]
        answers[going, n] = token
        ended |= torch.isin(token, ends) | (mask.sum(dim=1) >= limit)
        if ended.all() or n + 1 == decoding.max_new_tokens:
            break
        if left is not None:
            left.wrote(best, answers[going, : n + 1])
        if names_left is not None:
            names_left.wrote(token)
        if ended.float().mean() >= DROPPED_SHARE:
            kept = torch.nonzero(~ended).flatten()
            going, mask, token, ended = going[kept], mask[kept], token[kept], ended[kept]
            cache = _selected(cache, kept)
            if left is not None:
                left.keep(kept)
            if names_left is not None:
                names_left.keep(kept.tolist())
            for process in drawn:
                if isinstance(process, _Draw):
                    process.keep(kept.tolist())
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = mask.sum(dim=1, keepdim=True) - 1
        state, cache = reader.read(cache, positions, input_ids=token[:, None], attention_mask=mask)
    written = (list(takewhile(lambda token: token not in model.end_ids, row)) for row in answers.tolist())
    return [text.strip() for text in model.tokenizer.batch_decode(list(written), skip_special_tokens=True)]
