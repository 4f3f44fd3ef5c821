"""A conversation as Markdown, as plain text, and as HTML for a notebook."""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.models import Decoding
    from bioverse_sc.tl._chat_parts import ChatEntity, Ground, Turn

LEFT_OUT = ("contradicted", "not in the facts")
"""Verdicts of sentences that an answer is shown without."""

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


def as_markdown(entities: Sequence[ChatEntity], turns: Sequence[Turn], grounds: Sequence[Ground]) -> str:
    """The entities and the turns as Markdown, each answer with the facts that bear it out."""
    shown = ", ".join(f"{_plain(e.name)} {_plain(e.observation)} ({_plain(e.mod)})" for e in entities)
    said = []
    for turn, ground in zip(turns, grounds, strict=True):
        said.append(f"**Question:** {_plain(turn.question)}\n\n**Answer:** {_plain(turn.answer)}")
        if facts := _deciding(ground):
            said.append("\n".join(f"- {_plain(fact)}" for fact in facts))
    return "\n\n".join([shown, *said]) + "\n"


def as_text(entities: Sequence[ChatEntity], turns: Sequence[Turn]) -> str:
    """The entities and the turns as plain text."""
    shown = ", ".join(f"{e.name} {e.observation} ({e.mod})" for e in entities)
    return "\n\n".join([shown, *(f"Question: {t.question}\nAnswer: {t.answer}" for t in turns)])


def as_html(
    entities: Sequence[ChatEntity], turns: Sequence[Turn], grounds: Sequence[Ground], model: str, decoding: Decoding
) -> str:
    """The entities and the turns with their facts, below them the model's name and how it chose its words."""
    shown = "".join(
        f'<span style="{_ENTITY}"><b>{escape(e.name)}</b> {escape(e.observation)} '
        f'<span style="{_FAINT}">{escape(e.mod)}</span></span>'
        for e in entities
    )
    said = "".join(
        f'<div style="{_QUESTION}">{escape(turn.question)}</div><div style="{_ANSWER}">{escape(turn.answer)}'
        f"{_facts_in_html(ground)}</div>"
        for turn, ground in zip(turns, grounds, strict=True)
    )
    if not said:
        said = f'<div style="{_FAINT}">No question yet: chat.ask(&quot;...&quot;)</div>'
    how = f"temperature {decoding.temperature:g}, seed {decoding.seed}" if decoding.temperature else "likeliest tokens"
    return (
        f'<div style="{_CHAT}"><div>{shown}</div>{said}<div style="{_FAINT}; font-size: 85%">model {escape(model)}, '
        f"{how}</div></div>"
    )


def _deciding(ground: Ground) -> list[str]:
    """The facts that bear the sentences of an answer out, each once."""
    supported = (s.fact for s in ground.sentences if s.verdict == "supported" and s.fact is not None)
    return list(dict.fromkeys(ground.facts[fact].text for fact in supported))


def _facts_in_html(ground: Ground) -> str:
    """The facts of an answer, folded; those that bear it out are bold. Beside, what was left out of the answer."""
    if not ground.facts:
        return ""
    deciding = set(_deciding(ground))
    listed = "".join(
        f"<li>{'<b>' if fact.text in deciding else ''}{escape(fact.text)}{'</b>' if fact.text in deciding else ''}</li>"
        for fact in ground.facts
    )
    left_out = [s for s in ground.sentences if s.verdict in LEFT_OUT]
    dropped = "".join(f"<li>{escape(s.text)} <i>({s.verdict})</i></li>" for s in left_out)
    dropped = f"<div>left out of the answer:<ul>{dropped}</ul></div>" if dropped else ""
    return (
        f'<details style="{_FAINT}; white-space: normal"><summary>{len(ground.facts)} facts</summary>'
        f"<ul>{listed}</ul>{dropped}</details>"
    )


def _plain(text: str) -> str:
    """Words that Markdown shows as they are."""
    return re.sub(r"([\\`*_{}\[\]<>#|&~$])", r"\\\1", text)
