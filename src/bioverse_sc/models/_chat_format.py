"""What a language model's chat template puts around questions and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ChatFormat:
    """What a chat template puts around turns, rendered once.

    It is stored with the model: a template may put today's date into its text, and what a model was trained on has to
    stay.
    """

    start: str
    """Before the first question."""
    ask: str
    """Between a question and its answer."""
    end: str
    """The token that ends an answer."""
    between: str
    """Between the end of an answer and the next question."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> ChatFormat | None:
        """Render a tokenizer's chat template; ``None`` when it has none."""
        if not tokenizer.chat_template:
            return None
        from jinja2 import TemplateError

        system = [{"role": "system", "content": SYSTEM}]
        try:
            first, whole = (_render(tokenizer, [*system, *_turns(n)], ask=True) for n in (1, 3))
        except TemplateError:
            # some templates have no system turn
            first, whole = (_render(tokenizer, _turns(n), ask=True) for n in (1, 3))
        if SYSTEM in whole.split(_ANSWER.format(0))[-1]:
            # some put it into the last question, where it would be said again at each turn
            first, whole = (_render(tokenizer, _turns(n), ask=True) for n in (1, 3))
        marks = [_QUESTION.format(0), _ANSWER.format(0), _QUESTION.format(1)]
        if first.count(marks[0]) != 1 or [whole.count(mark) for mark in marks] != [1, 1, 1]:
            msg = (
                "The chat template does not write every question and answer once, in their places; this is not "
                "supported."
            )
            raise ValueError(msg)
        start, ask = first.split(marks[0])
        after = whole.split(marks[1])[1].split(marks[2])[0]
        specials = [token for token in tokenizer.all_special_tokens if token in after]
        specials += [str(t) for t in tokenizer.added_tokens_decoder.values() if t.special and str(t) in after]
        if not specials:
            msg = "The chat template ends an answer without a special token, so the model could not say where it stops."
            raise ValueError(msg)
        end = min(specials, key=after.index)
        before, between = after.split(end, 1)
        if before.strip():
            msg = (
                f"The chat template writes {before!r} after an answer, before the token that ends it; this is not "
                "supported."
            )
            raise ValueError(msg)
        return cls(start, ask, end, between)


SYSTEM = "You read cells, proteins and molecules."
_QUESTION, _ANSWER = "QUESTION{0}GOESHERE", "ANSWER{0}GOESHERE"


def _turns(n: int) -> list[dict[str, str]]:
    """Turns with marks in the place of words, questions first."""
    return [
        {"role": "assistant", "content": _ANSWER.format(i // 2)}
        if i % 2
        else {"role": "user", "content": _QUESTION.format(i // 2)}
        for i in range(n)
    ]


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], *, ask: bool) -> str:
    # thinking is off: the answer comes first
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask, enable_thinking=False))
