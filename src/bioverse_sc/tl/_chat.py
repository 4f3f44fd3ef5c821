"""A conversation about cells, proteins and molecules."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Results
from bioverse_sc.facts import SUPPORTED, facts_about
from bioverse_sc.tl._chat_display import as_html, as_markdown, as_text
from bioverse_sc.tl._chat_entities import chosen_names, part_of
from bioverse_sc.tl._chat_parts import (
    ChatEntity,
    Ground,
    Turn,
    check_known,
    known_of,
    soft_tokens_of,
    whole_sentences,
)
from bioverse_sc.tl._known import CONVERSING, grounded
from bioverse_sc.tl._prompts import check_request, log_use, shown
from bioverse_sc.tl._subject import Reading, Subject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.facts import About, Fact
    from bioverse_sc.models import BioVerse, Read


class _Said(NamedTuple):
    """A turn, its ground, and the token ids of the conversation up to its last written token, without the end."""

    turn: Turn
    ground: Ground
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

    Vectors of the model's encoder that are in ``.obsm`` are used; otherwise the chosen observations are embedded, and
    kept to the chat. Draws depend on ``seed``, on the names of the observations and on the number of the turn.

    An answer that is interrupted, or whose stream is left early, stays in the conversation as far as it was written.

    A model whose answers are held to facts is shown what is known of the observations, and of the genes, types and
    pathways that a question names (see ``bioverse_sc.facts``); the facts are in :attr:`facts`. Sentences of its
    answer that they do not support are left out, by a rule, and where nothing remains the answer is a refusal. Such a
    model also answers without data, about genes, types and pathways: ``bsc.Chat(model=...)``.

    Source: dialogue about entities as soft tokens of one prompt, BioVERSE (arXiv 2510.01428).

    Parameters
    ----------
    data
        AnnData of one modality, or MuData; :func:`bioverse_sc.tl.embed` says what it holds. Without any the tables of
        genes, types and pathways alone answer.
    entities
        Name of an observation, or names in the order in which the prompt shows them. Of a MuData a mapping from
        modality to such names, unless ``mod`` is given. By default all observations, when they are eight at most.
    mod
        Modality. By default of an AnnData ``"rna"``, and of a MuData those that ``entities`` names, or all that the
        model reads.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    retrieve
        Whether to look known entities up that are near, by sequence or SMILES, and to show the model the texts of the
        three nearest. Cells, features with abundances, and what the model has no memory of go without.
    obs_keys
        Columns of ``.obs`` of the cells whose values are facts too, such as ``["tissue"]``.
    max_new_tokens
        Tokens of a text at most.
    temperature
        0 takes the likeliest token each time; 1 draws by the model's own probabilities.
    top_p
        Draws are from the likeliest tokens that together have this probability.
    no_repeat_ngram_size
        No run of so many tokens is written twice in an answer, so that it does not go round in circles; 0 allows all.
        By default what the model's configuration says.
    seed
        Of what is random: equal seeds give equal results.
    layer
        Matrix to read: ``"X"``, ``"raw"`` or a key of ``.layers``. By default what was read when the observations were
        embedded, or what :func:`bioverse_sc.pp.profile` finds.
    gene_symbols
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` by default.

    Raises
    ------
    ValueError
        When no observation or more than eight are there and none is named, an observation has a vector of zeros, the
        model has no projector for a modality, and for decoding options out of their range.
    KeyError
        When a modality or an observation is not there.
    TypeError
        When ``data`` is neither AnnData nor MuData, or ``entities`` does not fit it.
    """

    @undisturbed()
    def __init__(
        self,
        data: AnnData | MuData | None = None,
        entities: str | Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
        *,
        mod: str | None = None,
        model: str | Path | BioVerse = "mini",
        retrieve: bool = True,
        obs_keys: Sequence[str] = (),
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        no_repeat_ngram_size: int | None = None,
        seed: int = 0,
        layer: str | None = None,
        gene_symbols: str | None = None,
    ) -> None:
        from bioverse_sc.models import Decoding, entity_names, get_model

        decoding = Decoding(max_new_tokens, temperature, top_p, seed, no_repeat_ngram_size)
        self._model = get_model(model)
        self._decoding = decoding.of_model(self._model)
        parts = self._parts(data, entities, mod)
        self._mods = [name for name, part in parts.items() for _ in range(part.n_obs)]
        named = [str(name) for part in parts.values() for name in part.obs_names]
        names = entity_names(self._mods)
        self._entities = [ChatEntity(*entity) for entity in zip(names, self._mods, named, strict=True)]
        reading = Reading(layer, gene_symbols)
        listed = ", ".join(f"{e.name} {e.observation}" for e in self._entities) or "nothing"
        with finish_log(f"showing {listed} to {self._model.config.name!r}, from a copy: the data are not changed"):
            subjects = [Subject(Results(part, Keys()), self._model, name, reading) for name, part in parts.items()]
            self._nearest: list[Sequence[str]] = []
            self.abouts: list[About] = []
            """What is known of each entity, which facts are made of; change it to correct what is not so."""
            for subject in subjects:
                check_known(subject)
                log_use(subject, retrieve=retrieve)
                place = shown(subject, np.arange(subject.adata.n_obs), retrieve=retrieve)
                self._nearest += place.texts
                if self._is_grounded:
                    self.abouts += known_of(place, obs_keys)
            self.abouts = [
                replace(about, name=name) for about, name in zip(self.abouts, names, strict=self._is_grounded)
            ]
            self._soft_tokens = soft_tokens_of(self._model, subjects)
        self._said: list[_Said] = []
        self._read: Read | None = None

    def _parts(
        self,
        data: AnnData | MuData | None,
        entities: str | Sequence[str] | Mapping[str, str | Sequence[str]] | None,
        mod: str | None,
    ) -> dict[str, AnnData]:
        """The observations of each modality that the chat is about."""
        if data is None:
            if not self._is_grounded or entities is not None:
                msg = (
                    "There is no data to chat about: bsc.Chat(adata, 'name of a cell'). Without data a model answers "
                    f"that is held to facts, about genes, types and pathways: bsc.Chat(model={CONVERSING!r})."
                )
                raise ValueError(msg)
            return {}
        chosen = chosen_names(data, entities, mod, self._model)
        check_request(self._model, list(chosen), batch_size=1)
        return {name: part_of(data, name, names) for name, names in chosen.items()}

    @property
    def _is_grounded(self) -> bool:
        return self._model.config.grounding != ""

    @property
    def grounds(self) -> list[Ground]:
        """Of each turn, what its answer was written from and whether it holds to it."""
        return [said.ground for said in self._said]

    @property
    def facts(self) -> list[Fact]:
        """What the last question was to be answered from, then the facts of the turns before."""
        return list(self._said[-1].ground.facts) if self._said else []

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
            Text. The model reads it as it is: neither braces nor ``[BIO]`` stand for anything.
        """
        from bioverse_sc.models import write_on

        facts = self._facts_for(question)
        prompt = self._prompt_ids(question, facts)
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
            so_far, ground = self._held(question, self._text(written, is_over=is_over), facts, is_over=is_over)
            # what has been given out cannot be taken back
            piece = so_far[len(answer) :] if so_far.startswith(answer) else ""
            answer = so_far if is_over else answer + piece
            said = _Said(Turn(question, answer), ground, prompt + written)
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

    def _facts_for(self, question: str) -> list[Fact]:
        """What is known of what a question is about; those facts first that were not shown before."""
        if not self._is_grounded or not isinstance(question, str):
            return []
        return facts_about(question, self.abouts, earlier=[said.turn.question for said in self._said])

    def _held(self, question: str, text: str, facts: list[Fact], *, is_over: bool) -> tuple[str, Ground]:
        """An answer as far as it is written and the facts support it; before its end only whole sentences of it."""
        if not self._is_grounded:
            return text, Ground(text, [], [])
        # what is not gathered now is not asked for
        before = [replace(fact, relevance=0.0) for said in reversed(self._said) for fact in said.ground.facts]
        known = list(dict.fromkeys([*facts, *before]))
        held = grounded(self._model, question, text if is_over else whole_sentences(text), known, self.abouts)
        # an answer that is refused as a whole where it strays is not given out before its end
        is_early = self._model.config.grounding == "shown"
        is_told = is_over or (is_early and any(sentence.verdict in SUPPORTED for sentence in held.sentences))
        return held.answer if is_told else "", Ground(text, known, held.sentences)

    def reset(self) -> None:
        """Forget all turns; the entities stay."""
        self._said = []
        self._read = None

    def _prompt_ids(self, question: str, facts: Sequence[Fact]) -> list[int]:
        """Token ids of the conversation up to where the answer begins; facts that were shown are not shown again.

        What the model wrote stays as it was written: the same text may be spelled with other tokens.
        """
        from bioverse_sc.models import question_prompt

        if not isinstance(question, str):
            msg = f"The question is a {type(question).__name__}; expected a text, such as 'What is this cell?'."
            raise TypeError(msg)
        if not question.strip():
            msg = "The question is empty; type for example chat.ask('What is this cell?')"
            raise ValueError(msg)

        is_shown = self._model.config.grounding == "shown"
        shown_before = {fact for said in self._said for fact in said.ground.facts}
        new = [fact.text for fact in facts if fact not in shown_before] if is_shown else []

        def ids(turns: Sequence[tuple[str, str | None]], shown_facts: Sequence[Sequence[str]]) -> list[int]:
            nearest, prompts = None if is_shown else self._nearest, self._model.config.prompts
            prompt = question_prompt(self._mods, turns, nearest=nearest, facts=shown_facts, prompts=prompts)
            return list(self._model.tokenize(prompt).ids)

        if self._said:
            before = ids([(question, "")], [()])
            whole = ids([(question, ""), (question, None)], [(), new])
            # from the end of the last answer, which one that was cut off has not written
            prompt = self._said[-1].ids + whole[len(before) - 1 :]
        else:
            prompt = ids([(question, None)], [new])
        limit = self._model.max_positions
        longest = len(prompt) + self._decoding.max_new_tokens
        if limit is not None and longest > limit:
            remedy = (
                "Start over with the same entities: chat.reset()"
                if self._said
                else "Show fewer entities, pass retrieve=False, or ask a shorter question."
            )
            msg = (
                f"The conversation would have {len(prompt)} tokens, and with an answer of up to "
                f"{self._decoding.max_new_tokens} (max_new_tokens) {longest}; the language model reads {limit} at "
                f"most. {remedy}"
            )
            raise ValueError(msg)
        return prompt

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
        return as_markdown(self._entities, self.transcript, self.grounds)

    def __str__(self) -> str:
        return as_text(self._entities, self.transcript)

    def __repr__(self) -> str:
        counted = Counter(self._mods)
        shown = ", ".join(f"{n} of {name}" for name, n in counted.items())
        return f"<Chat with {self._model.config.name!r} about observations: {shown}; turns: {len(self._said)}>"

    def _repr_html_(self) -> str:
        return as_html(self._entities, self.transcript, self.grounds, self._model.config.name, self._decoding)
