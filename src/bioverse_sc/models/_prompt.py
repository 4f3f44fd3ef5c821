"""The only templates. A prompt is a list of typed segments; an entity is a segment and never a string to search for."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bioverse_sc._modality import modality_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Text:
    """Words that the model reads."""

    text: str


@dataclass(frozen=True)
class Entity:
    """Place of an entity's soft tokens."""

    mod: str
    """Its modality, such as ``"rna"``."""
    n_vectors: int = 1
    """Vectors of the encoder: 1 when it pools, the length of the sequence when it does not."""


@dataclass(frozen=True)
class Answer:
    """Words that the model writes, ended by its end-of-sequence token. ``None``: here it writes."""

    text: str | None = None


Segment = Text | Entity | Answer
"""Of a prompt."""

PROMPT_ID = "annotate-3"
"""Changes whenever a default template does; stored with every result."""

PROMPTS = {
    "label": "Cell:[BIO:rna] Type:",
    "reason": "{markers}{wider}{highest}{function}{next}{likelier}{missing}{rival}{unusual}{note}{state}{sure} Why?",
    "markers": " Markers {form}: {genes} of {types}.",
    "wider": " Wider {form}: {genes} of {types}.",
    "highest": " Genes {form}: {genes}.",
    "function": " Role {form}: {gene} has a role in {process}.",
    "next": " Next {form}: {type}, {probability}.",
    "likelier": " More {form}: {type}, {probability}.",
    "missing": " Missing {form}: {gene} of {type}, {probability}.",
    "rival": " Rival {form}: {genes} of {type}.",
    "unusual": " Unusual {form}: {genes} of {types}.",
    "note": " Note {form}: {note}.",
    "state": " State {form}: {state}, {genes}.",
    "sure": " Call {form}: {certainty}, {probability}.",
    "describe": "{entity}:[BIO] Description:",
    "entity": "{entity}:[BIO] ",
    "ask": "Question: {question} Answer:",
    "nearest": "Nearest known: {nearest} ",
    "facts": "Facts: {facts} ",
}
"""Default templates. ``reason`` follows the label; those that its fields name, ``markers`` to ``sure``, are its parts,
each there as often as there is something to say. ``form`` is a number, by which the words of a sentence are chosen.
``describe`` is what stage 1 AR aligns with. A question is put as each ``entity``, then ``ask``; ``nearest`` stands
before an entity whose nearest known texts are shown, and ``facts`` before a question, with what is known, a line for
each."""

_NEXT_TURN = " "

_PLACE = re.compile(r"\[BIO(?::([A-Za-z_]\w*))?\]")
_NEARLY = re.compile(r"\[\s*bio\s*(?::[^][]*)?\]", re.IGNORECASE)
_FIELD = re.compile(r"\{([^{}]+)\}")


def parse_template(template: str, mod: str | None = None) -> list[Text | Entity]:
    """Split a template at ``[BIO:modality]`` places, before any value is filled in.

    Parameters
    ----------
    template
        Text with ``{fields}`` and places of entities.
    mod
        Modality that a bare ``[BIO]`` stands for.
    """
    for match in _NEARLY.finditer(template):
        if not _PLACE.fullmatch(match[0]):
            msg = (
                f"{match[0]} in {template!r} is no place of an entity; write [BIO] or [BIO:modality], such as "
                "[BIO:rna]."
            )
            raise ValueError(msg)
    segments: list[Text | Entity] = []
    end = 0
    for match in _PLACE.finditer(template):
        named = match[1] or mod
        if named is None:
            msg = f"[BIO] in {template!r} does not say of which modality; write for example [BIO:rna]."
            raise ValueError(msg)
        if match.start() > end:
            segments.append(Text(template[end : match.start()]))
        segments.append(Entity(named))
        end = match.end()
    if end < len(template):
        segments.append(Text(template[end:]))
    return segments


def with_modality(template: str, mod: str) -> str:
    """Write the modality into bare ``[BIO]`` places.

    Parameters
    ----------
    template
        Text with places of entities.
    mod
        Modality that a bare ``[BIO]`` stands for.
    """
    parse_template(template, mod)
    return _PLACE.sub(lambda match: f"[BIO:{match[1] or mod}]", template)


def template_fields(template: str) -> list[str]:
    """Names of the ``{fields}`` of a template.

    Parameters
    ----------
    template
        Text with ``{fields}`` and places of entities.
    """
    return _FIELD.findall(template)


def fill_template(template: str, values: Mapping[Any, Any]) -> str:
    """Put values in the place of ``{fields}``; what a value holds is only text, even ``[BIO]`` or braces.

    Parameters
    ----------
    template
        Text with ``{fields}``.
    values
        By the name of the field.
    """
    return _FIELD.sub(lambda match: str(values[match[1]]), template)


def filled_prompt(template: str, values: Mapping[Any, Any], mod: str | None = None) -> list[Text | Entity]:
    """Segments of a template with its values.

    Parameters
    ----------
    template
        Text with ``{fields}`` and places of entities.
    values
        By the name of the field; what a value holds is only text.
    mod
        Modality that a bare ``[BIO]`` stands for.
    """
    parsed = parse_template(template, mod)
    return [Text(fill_template(s.text, values)) if isinstance(s, Text) else s for s in parsed]


def label_prompt(label: str | None = None, *, prompts: Mapping[str, str] = PROMPTS) -> list[Segment]:
    """Ask for the type of a cell, from its soft token alone.

    Parameters
    ----------
    label
        The answer, to train on; open by default.
    prompts
        Templates of the model.
    """
    return [*filled_prompt(prompts["label"], {}), Answer(label)]


def reasoning_prompt(
    label: str,
    genes: Sequence[str],
    reasoning: str | None = None,
    *,
    parts: Mapping[str, Sequence[Mapping[str, str]]] | None = None,
    prompts: Mapping[str, str] = PROMPTS,
) -> list[Segment]:
    """After the label, show what is known of the cell, and ask why.

    Parameters
    ----------
    label
        The label that was given.
    genes
        Informative genes of the cell.
    reasoning
        The answer, to train on; open by default.
    parts
        By name of a part of the template, the values of its fields, once for each time that it is to stand there;
        of ``reasoning.Case`` its ``parts``. A part without values is left out. By default the genes alone are shown.
    prompts
        Templates of the model.
    """
    listed = ", ".join(genes)
    if parts is None:
        parts = {"highest": [{"form": "1", "genes": listed}]} if genes else {}
    values = {"genes": listed or "none"}
    for part in template_fields(prompts["reason"]):
        if part in prompts:
            values[part] = "".join(fill_template(prompts[part], shown) for shown in parts.get(part, ()))
    return [*label_prompt(label, prompts=prompts), *filled_prompt(prompts["reason"], values), Answer(reasoning)]


def description_prompt(
    mod: str,
    description: str | None = None,
    *,
    nearest: Sequence[str] = (),
    prompts: Mapping[str, str] = PROMPTS,
) -> list[Segment]:
    """Ask for the description of an entity; stage 1 AR trains on the answer.

    Parameters
    ----------
    mod
        Modality of the entity, such as ``"protein"``.
    description
        The answer, to train on; open by default.
    nearest
        Texts of the nearest known entities, to show before it.
    prompts
        Templates of the model.
    """
    entity = {"entity": modality_of(mod).title}
    return [*_nearest(nearest, prompts), *filled_prompt(prompts["describe"], entity, mod), Answer(description)]


def question_prompt(
    mods: Sequence[str],
    turns: Sequence[tuple[str, str | None]],
    *,
    nearest: Sequence[Sequence[str]] | None = None,
    facts: Sequence[Sequence[str]] | None = None,
    prompts: Mapping[str, str] = PROMPTS,
) -> list[Segment]:
    """Ask about one or several entities, in one turn or more.

    Parameters
    ----------
    mods
        Modality of each entity, in the order in which they are shown. Where there are several of one, they are called
        ``Protein 1``, ``Protein 2``.
    turns
        Questions with their answers; the last one may be open (``None``).
    nearest
        For each entity the texts of the nearest known ones, to show before it.
    facts
        For each turn what is known, to show before its question.
    prompts
        Templates of the model.
    """
    segments: list[Segment] = []
    for name, mod, known in zip(entity_names(mods), mods, nearest or [()] * len(mods), strict=True):
        segments += _nearest(known, prompts)
        segments += filled_prompt(prompts["entity"], {"entity": name}, mod)
    for i, ((question, answer), known) in enumerate(zip(turns, facts or [()] * len(turns), strict=True)):
        shown = fill_template(prompts["facts"], {"facts": "\n".join(known)}) if known else ""
        asked = shown + fill_template(prompts["ask"], {"question": question})
        segments += [Text(_NEXT_TURN + asked if i else asked), Answer(answer)]
    return segments


def entity_names(mods: Sequence[str]) -> list[str]:
    """What a prompt calls its entities: ``Molecule``, or ``Protein 1`` and ``Protein 2`` where there are several.

    Parameters
    ----------
    mods
        Modality of each entity, in the order in which they are shown.
    """
    counted: Counter[str] = Counter()
    names = []
    for mod in mods:
        counted[mod] += 1
        name = modality_of(mod).title
        names.append(f"{name} {counted[mod]}" if list(mods).count(mod) > 1 else name)
    return names


def _nearest(texts: Sequence[str], prompts: Mapping[str, str]) -> list[Segment]:
    """What stands before an entity whose nearest known texts are shown."""
    if not texts:
        return []
    numbered = " ".join(f"({i}) {text.rstrip('.')}." for i, text in enumerate(texts, start=1))
    return list(filled_prompt(prompts["nearest"], {"nearest": numbered}))
