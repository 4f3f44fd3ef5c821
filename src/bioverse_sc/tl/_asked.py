"""A question about observations, with the facts that its answers are written from and held to."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from bioverse_sc._logging import logger
from bioverse_sc.facts import VERDICTS
from bioverse_sc.tl._known import abouts_of, facts_of_prompts, held_answers, tables
from bioverse_sc.tl._prompts import written

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from bioverse_sc.facts import About
    from bioverse_sc.models import Decoding, Segment
    from bioverse_sc.tl._prompts import Shown


class Asked:
    """A question about the observations in some places, and what is known of these where answers are held to facts."""

    def __init__(self, question: str, places: Sequence[Shown], *, obs_keys: Sequence[str] = ()) -> None:
        from bioverse_sc.models import entity_names

        self.question, self.places = question, places
        self.model = places[0].subject.model
        self.mods = [place.subject.mod for place in places]
        self.abouts: list[list[About]] = []
        if self.model.config.grounding:
            named = zip(places, entity_names(self.mods), strict=True)
            self.abouts = [abouts_of(place, name, obs_keys=obs_keys) for place, name in named]
        self.facts = facts_of_prompts(question, self.abouts)

    def prompts(self) -> list[list[Segment]]:
        """One for each observation."""
        from bioverse_sc.models import question_prompt

        prompts, turns = self.model.config.prompts, [(self.question, None)]
        if self.model.config.grounding == "shown":
            shown_facts = ([fact.text for fact in facts] for facts in self.facts)
            return [question_prompt(self.mods, turns, facts=[texts], prompts=prompts) for texts in shown_facts]
        nearest = zip(*(place.texts for place in self.places), strict=True)
        return [question_prompt(self.mods, turns, nearest=near, prompts=prompts) for near in nearest]

    def answers(
        self, names: pd.Index, decoding: Decoding, *, batch_size: int, description: str
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """What is shown of the answers about observations of these names, and the facts and sentences beside."""
        texts = written(
            self.model, self.prompts(), self.places, names, decoding, batch_size=batch_size, description=description
        )
        if not self.abouts:
            return texts, {}
        held = held_answers(self.model, self.question, texts, self.facts, self.abouts)
        verdicts = Counter(sentence.verdict for answer in held for sentence in answer.sentences)
        logger.info("    sentences: %s", ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in VERDICTS))
        return np.array([answer.answer for answer in held], dtype=object), tables(names, held)
