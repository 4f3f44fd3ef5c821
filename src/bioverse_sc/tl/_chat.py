"""A conversation about cells, proteins and molecules."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from anndata import AnnData

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log
from bioverse_sc._models import get_model
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Results
from bioverse_sc.tl._embed import readable
from bioverse_sc.tl._prompts import check_request, log_use, source_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mudata import MuData

    from bioverse_sc.models import BioVerse, Read

ALL = 8
"""Observations at most that are shown when none is named."""


class Turn(NamedTuple):
    """A question, and what the model wrote."""

    question: str
    answer: str


class ChatEntity(NamedTuple):
    """An observation that a chat is about."""

    name: str
    """What the prompt calls it: ``Cell``, or ``Protein 1`` and ``Protein 2`` where there are several."""
    modality: str
    observation: str


class _Said(NamedTuple):
    """A turn, and the token ids of the conversation up to its last written token, without the end of the answer."""

    turn: Turn
    ids: list[int]


class Chat:
    """A conversation with the language model about cells, proteins and molecules, in several turns.

    The entities are embedded and projected once. Their soft tokens and the turns so far stay in the language model's
    key-value cache, so that a question costs only its own tokens and those of its answer. The data are not changed::

        chat = bsc.Chat(adata, "AAACATTGATCAGC-1")
        chat.ask("What is this cell?")
        for piece in chat.stream("Why?"):
            print(piece, end="")
        chat

    An answer that is interrupted, or whose stream is left early, stays in the conversation as far as it was written.

    Source: dialogue about entities as soft tokens of one prompt, BioVERSE (arXiv 2510.01428).

    Parameters
    ----------
    data
        AnnData of one modality, or MuData; see :func:`bioverse_sc.tl.embed`. Vectors of the model's encoder that are in
        ``.obsm`` are used; otherwise the chosen observations are embedded, and kept to the chat.
    entities
        Name of an observation, or names in the order in which the prompt shows them. Of a MuData a mapping from
        modality to such names, unless ``mod`` is given. By default all observations, when they are eight at most.
    mod
        Modality. By default of an AnnData ``"rna"``, and of a MuData those that ``entities`` names, or all that the
        model reads.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    retrieve
        Whether to show the model also the texts of the three nearest of the entities that it was trained on, by
        sequence or SMILES. Cells, and features with abundances, have no text to compare; they go without.
    max_new_tokens
        Tokens of an answer at most.
    temperature
        0 takes the likeliest token each time; 1 draws by the model's own probabilities.
    top_p
        Draws are from the likeliest tokens that together have this probability.
    no_repeat_ngram_size
        No run of so many tokens is written twice in an answer, so that it does not go round in circles; 0 allows all.
        By default what the model's configuration says.
    seed
        Of the draws. They depend on it, on the names of the observations and on the number of the turn.
    layer, gene_symbols
        As for :func:`bioverse_sc.tl.embed`, when the observations are not embedded yet.

    Raises
    ------
    ValueError
        When no observation or more than eight are there and none is named, an observation has a vector of zeros, the
        model has no projector for a modality or nothing to retrieve, and for decoding options out of their range.
    KeyError
        When a modality or an observation is not there.
    TypeError
        When ``data`` is neither AnnData nor MuData, or ``entities`` does not fit it.
    """

    @undisturbed()
    def __init__(
        self,
        data: AnnData | MuData,
        entities: str | Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
        *,
        mod: str | None = None,
        model: str | Path | BioVerse = "mini",
        retrieve: bool = False,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        no_repeat_ngram_size: int | None = None,
        seed: int = 0,
        layer: str | None = None,
        gene_symbols: str | None = None,
    ) -> None:
        import torch

        from bioverse_sc.models import Decoding, entity_names

        decoding = Decoding(max_new_tokens, temperature, top_p, seed, no_repeat_ngram_size)
        self._model = get_model(model)
        self._decoding = decoding.of_model(self._model)
        chosen = _chosen(data, entities, mod, self._model)
        check_request(self._model, list(chosen), retrieve=retrieve, batch_size=1)
        parts = {name: _part(data, name, names) for name, names in chosen.items()}
        self._modalities = [name for name, part in parts.items() for _ in range(part.n_obs)]
        observations = [str(name) for part in parts.values() for name in part.obs_names]
        self._entities = [
            ChatEntity(*entity)
            for entity in zip(entity_names(self._modalities), self._modalities, observations, strict=True)
        ]
        self._nearest: list[Sequence[str]] = []
        soft_tokens = []
        keys = Keys()
        shown = ", ".join(f"{e.name} {e.observation}" for e in self._entities)
        with finish_log(f"showing {shown} to {self._model.config.name!r}, from a copy: the data are not changed"):
            for name, part in parts.items():
                source = source_of(
                    Results(part, keys),
                    self._model,
                    name,
                    retrieve=retrieve,
                    layer=layer,
                    gene_symbols=gene_symbols,
                    batch_size=64,
                )
                if not source.is_known.all():
                    msg = (
                        f"The vector of {part.obs_names[~source.is_known][0]!r} is zero, as of a cell without any "
                        "known gene: the model "
                        "has nothing to see. Leave it out of entities."
                    )
                    raise ValueError(msg)
                log_use(self._model, source, retrieve=retrieve)
                self._nearest += source.shown(np.arange(part.n_obs)).nearest
                with torch.inference_mode():
                    vectors = torch.from_numpy(source.vectors).to(self._model.device)
                    soft_tokens.append(self._model.project(name, vectors).flatten(0, 1))
        self._soft_tokens = torch.cat(soft_tokens)
        self._said: list[_Said] = []
        self._read: Read | None = None

    @property
    def entities(self) -> list[ChatEntity]:
        """What the conversation is about, in the order of the prompt."""
        return list(self._entities)

    @property
    def transcript(self) -> list[Turn]:
        """Questions and answers so far."""
        return [said.turn for said in self._said]

    def ask(self, question: str) -> str:
        """Ask, and wait for the whole answer.

        Parameters
        ----------
        question
            Text. The model reads it as it is: neither braces nor ``[BIO]`` stand for anything.

        Raises
        ------
        ValueError
            When the question is empty, or the conversation with it and its answer may exceed what the language model
            reads.
        """
        for _ in self.stream(question):
            pass
        return self._said[-1].turn.answer

    def stream(self, question: str) -> Iterator[str]:
        """Ask, and yield the answer in pieces while it is written; together they are what :meth:`ask` gives.

        Parameters
        ----------
        question
            As for :meth:`ask`.
        """
        from bioverse_sc.models import write_on

        prompt = self._prompt_ids(question)
        number = len(self._said)
        key = " ".join([*(entity.observation for entity in self._entities), str(number)])
        written: list[int] = []
        answer = ""
        # taken out while it is written to: an interrupt may leave it half written
        read, self._read = self._read, None
        steps = write_on(self._model, prompt, self._soft_tokens, self._decoding, key, read)
        while True:
            # not around the whole loop: nothing is held back while the reader of a stream does something else
            with undisturbed():
                step = next(steps, None)
            if step is None:
                return
            token, self._read = step
            is_end = token in self._model.end_ids
            if not is_end:
                written.append(token)
            is_over = is_end or len(written) == self._decoding.max_new_tokens
            so_far = self._text(written, is_over=is_over)
            # what has been given out cannot be taken back
            piece = so_far[len(answer) :] if so_far.startswith(answer) else ""
            answer = so_far if is_over else answer + piece
            said = _Said(Turn(question, answer), prompt + written)
            # one step, between which and the next the loop may be left or interrupted
            self._said[number:] = [said]
            if piece:
                yield piece
            if is_over:
                return
            if self._said[number:] != [said]:
                msg = (
                    "The conversation went on while this answer was written. Read a stream to its end before the next "
                    "question."
                )
                raise RuntimeError(msg)
            self._read = None

    def reset(self) -> None:
        """Forget all turns; the entities stay."""
        self._said = []
        self._read = None

    def _prompt_ids(self, question: str) -> list[int]:
        """Token ids of the conversation up to where the answer begins.

        What the model wrote stays as it was written: the same text may be spelled with other tokens.
        """
        from bioverse_sc.models import question_prompt

        if not isinstance(question, str):
            msg = f"The question is a {type(question).__name__}; expected a text, such as 'What is this cell?'."
            raise TypeError(msg)
        if not question.strip():
            msg = "The question is empty; type for example chat.ask('What is this cell?')"
            raise ValueError(msg)

        def ids(*turns: tuple[str, str | None]) -> list[int]:
            prompt = question_prompt(self._modalities, turns, nearest=self._nearest, prompts=self._model.config.prompts)
            return list(self._model.tokenize(prompt).ids)

        if self._said:
            before = ids((question, ""))
            whole = ids((question, ""), (question, None))
            # from the end of the last answer, which one that was cut off has not written
            found = self._said[-1].ids + whole[len(before) - 1 :]
        else:
            found = ids((question, None))
        limit = self._model.max_positions
        longest = len(found) + self._decoding.max_new_tokens
        if limit is not None and longest > limit:
            remedy = (
                "Start over with the same entities: chat.reset()"
                if self._said
                else "Show fewer entities, leave retrieve=True out, or ask a shorter question."
            )
            msg = (
                f"The conversation would have {len(found)} tokens, and with an answer of up to "
                f"{self._decoding.max_new_tokens} "
                f"(max_new_tokens) {longest}; the language model reads {limit} at most. {remedy}"
            )
            raise ValueError(msg)
        return found

    def _text(self, written: list[int], *, is_over: bool) -> str:
        """Text of an answer; while it is being written without its end that may still change."""
        tokenizer = self._model.tokenizer
        text = str(tokenizer.decode(written, skip_special_tokens=True))
        if is_over:
            return text.strip()
        # some tokenizers take blanks away once they see what follows
        if tokenizer.clean_up_tokenization_spaces:
            text = text[: max(text.rfind(" "), 0)]
        # bytes of a character that is not complete
        return text.rstrip("\ufffd").strip()

    def to_markdown(self) -> str:
        """The entities and the turns as Markdown."""
        shown = ", ".join(f"{_plain(e.name)} {_plain(e.observation)} ({_plain(e.modality)})" for e in self._entities)
        turns = [f"**Question:** {_plain(t.question)}\n\n**Answer:** {_plain(t.answer)}" for t in self.transcript]
        return "\n\n".join([shown, *turns]) + "\n"

    def __str__(self) -> str:
        shown = ", ".join(f"{e.name} {e.observation} ({e.modality})" for e in self._entities)
        return "\n\n".join([shown, *(f"Question: {t.question}\nAnswer: {t.answer}" for t in self.transcript)])

    def __repr__(self) -> str:
        counted = Counter(self._modalities)
        shown = ", ".join(f"{n} of {name}" for name, n in counted.items())
        return f"<Chat with {self._model.config.name!r} about observations: {shown}; turns: {len(self._said)}>"

    def _repr_html_(self) -> str:
        entities = "".join(
            f'<span style="{_ENTITY}"><b>{escape(e.name)}</b> {escape(e.observation)} '
            f'<span style="{_FAINT}">{escape(e.modality)}</span></span>'
            for e in self._entities
        )
        turns = "".join(
            f'<div style="{_QUESTION}">{escape(turn.question)}</div><div style="{_ANSWER}">{escape(turn.answer)}</div>'
            for turn in self.transcript
        )
        if not turns:
            turns = f'<div style="{_FAINT}">No question yet: chat.ask(&quot;...&quot;)</div>'
        chosen = self._decoding
        how = f"temperature {chosen.temperature:g}, seed {chosen.seed}" if chosen.temperature else "likeliest tokens"
        model = escape(self._model.config.name)
        return (
            f'<div style="{_CHAT}"><div>{entities}</div>{turns}<div style="{_FAINT}; font-size: 85%">model {model}, '
            f"{how}</div></div>"
        )


# greys that are half transparent stand on a light and on a dark page; texts have the page's own colour
_CHAT = "max-width: 46em; line-height: 1.45"
_ENTITY = (
    "display: inline-block; margin: 0 .4em .4em 0; padding: .1em .6em; border: 1px solid rgba(128, 128, 128, .5); "
    "border-radius: 1em"
)
_FAINT = "opacity: .65"
_WORDS = "margin: .4em 0; padding: .4em .8em; white-space: pre-wrap; overflow-wrap: anywhere; border-radius: .4em"
_QUESTION = f"{_WORDS}; margin-left: 4em; background: rgba(128, 128, 128, .18)"
_ANSWER = f"{_WORDS}; margin-right: 4em; border: 1px solid rgba(128, 128, 128, .35)"


def _plain(text: str) -> str:
    """Words that Markdown shows as they are."""
    return re.sub(r"([\\`*_{}\[\]<>#|&~$])", r"\\\1", text)


def _chosen(
    data: AnnData | MuData,
    entities: str | Sequence[str] | Mapping[str, str | Sequence[str]] | None,
    mod: str | None,
    model: BioVerse,
) -> dict[str, list[str] | None]:
    """By modality the names that are asked for; ``None`` for all."""
    from mudata import MuData

    if not isinstance(data, (AnnData, MuData)):
        msg = f"Expected AnnData or MuData, found {type(data).__name__}."
        raise TypeError(msg)
    if entities is None:
        mods = readable(model, data, mod)
        sizes = {name: _modality(data, name).n_obs for name in mods}
        if not 0 < sum(sizes.values()) <= ALL:
            first = {name: str(_modality(data, name).obs_names[0]) for name, n in sizes.items() if n}
            named = first if isinstance(data, MuData) and mod is None else next(iter(first.values()), "name")
            msg = (
                f"The data have {', '.join(f'{n} observations of {name}' for name, n in sizes.items())}; without "
                "names a chat shows "
                f"all, when they are 1 to {ALL}. Name those that it is about, for example entities={named!r}."
            )
            raise ValueError(msg)
        return {name: None for name, n in sizes.items() if n}
    if isinstance(entities, Mapping):
        if mod is not None or not isinstance(data, MuData):
            msg = (
                f"entities is {dict(entities)!r}, by modality; that goes with MuData and without mod. Give the names "
                "alone: entities=[...]"
            )
            raise TypeError(msg)
        named_by = dict(entities)
    elif mod is None and isinstance(data, MuData):
        example = {readable(model, data, None)[0]: entities}
        msg = f"The modality of {entities!r} is not said; of a MuData name it: entities={example!r}"
        raise TypeError(msg)
    else:
        named_by = {mod or "rna": entities}
    chosen: dict[str, list[str] | None] = {}
    for name, names in named_by.items():
        listed: list[Any] = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
        if not all(isinstance(each, str) for each in listed):
            msg = (
                f"entities of {name!r} are {names!r}; expected names of observations, such as "
                f"{list(_modality(data, name).obs_names[:2])}."
            )
            raise TypeError(msg)
        if listed:
            chosen[name] = listed
    if not chosen:
        msg = "entities is empty. Name what the chat is about, or leave it out for all observations."
        raise ValueError(msg)
    return chosen


def _modality(data: AnnData | MuData, mod: str) -> AnnData:
    """AnnData of a modality; a view will do, as nothing is written to it."""
    if isinstance(data, AnnData):
        return data
    if mod not in data.mod:
        msg = f"The MuData has no modality {mod!r}; it has {list(data.mod)}."
        raise KeyError(msg)
    return data.mod[mod]


def _part(data: AnnData | MuData, mod: str, names: list[str] | None) -> AnnData:
    """Observations as a data set of their own."""
    adata = _modality(data, mod)
    if names is None:
        return adata[:].to_memory()
    rows = []
    for name in names:
        found = np.flatnonzero(adata.obs_names == name)
        if not len(found):
            msg = (
                f"There is no observation {name!r} of {mod}; the {adata.n_obs} are {list(adata.obs_names[:4])} and so "
                "on."
            )
            raise KeyError(msg)
        if len(found) > 1:
            msg = (
                f"{len(found)} observations of {mod} have the name {name!r}. Give each its own: "
                "adata.obs_names_make_unique()"
            )
            raise ValueError(msg)
        rows.append(found[0])
    if repeated := [name for name, n in Counter(names).items() if n > 1]:
        msg = f"entities names {repeated[0]!r} more than once. Name each observation once."
        raise ValueError(msg)
    return adata[np.array(rows)].to_memory()
