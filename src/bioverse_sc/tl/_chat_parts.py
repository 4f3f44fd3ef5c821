"""What a conversation is made of: its turns, its entities, and what is known of these."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bioverse_sc._modality import CELLS
from bioverse_sc.facts import sentences_of
from bioverse_sc.tl._known import abouts_of, check_obs_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from bioverse_sc.facts import About, CheckedSentence, Fact
    from bioverse_sc.models import BioVerse
    from bioverse_sc.tl._prompts import Shown
    from bioverse_sc.tl._subject import Subject


class Turn(NamedTuple):
    """A question, and its answer."""

    question: str
    answer: str


class Ground(NamedTuple):
    """What an answer was written from, and whether it holds to it."""

    written: str
    """What the model wrote, before it was held to the facts."""
    facts: Sequence[Fact]
    """Those of the question first, then those of the turns before."""
    sentences: Sequence[CheckedSentence]
    """What the model wrote, with a verdict on each sentence."""


class ChatEntity(NamedTuple):
    """An observation that a chat is about."""

    name: str
    """What the prompt calls it: ``Cell``, or ``Protein 1`` and ``Protein 2`` where there are several."""
    mod: str
    """Its modality."""
    observation: str


def known_of(place: Shown, obs_keys: Sequence[str]) -> list[About]:
    """What is known of the observations of a modality."""
    if place.subject.mod == CELLS:
        check_obs_keys(place.subject, obs_keys)
    return abouts_of(place, place.subject.mod, obs_keys=obs_keys)


def whole_sentences(text: str) -> str:
    """The sentences of a text that are whole; what comes next may still change the last one."""
    return " ".join(sentences_of(text)[:-1])


def check_known(subject: Subject) -> None:
    """Raise when the model cannot see one of the observations."""
    if not subject.is_known.all():
        msg = (
            f"The vector of {subject.adata.obs_names[~subject.is_known][0]!r} is zero, as of a cell without any known "
            "gene: the model has nothing to see. Leave it out of entities."
        )
        raise ValueError(msg)


def soft_tokens_of(model: BioVerse, subjects: Sequence[Subject]) -> torch.Tensor:
    """Soft tokens of all entities, shape (slots, width)."""
    import torch

    if not subjects:
        return model.embeddings.weight.new_zeros((0, model.embeddings.weight.shape[1]))
    with torch.inference_mode():
        projected = [
            model.project(subject.mod, torch.from_numpy(subject.vectors).to(model.device)) for subject in subjects
        ]  # (entities, n_tokens, width) each
        return torch.cat([tokens.flatten(0, 1) for tokens in projected])
