"""Training data from files of records: tables, prompts with answers, pairs of an entity and a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bioverse_sc._modality import CELLS
from bioverse_sc._optional import require
from bioverse_sc.models import Answer, Entity, fill_template, filled_prompt, parse_template
from bioverse_sc.train._data import column_words, descriptions, placed, template_values, unique_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bioverse_sc.models import Segment
    from bioverse_sc.train._sources import Descriptions, Example


def read_table(file: str | Path) -> pd.DataFrame:
    """Read JSON lines (``.jsonl``, ``.json``), Arrow (``.arrow``, ``.feather``) or Parquet (``.parquet``).

    Values are Python's own, as the file has them: nothing becomes a number or a date, and a missing one is ``None`` or
    NaN.

    Parameters
    ----------
    file
        The file; its ending says what it is.
    """
    path = Path(file)
    if not path.is_file():
        msg = f"There is no file {path}."
        raise FileNotFoundError(msg)
    kind = path.suffix.lower()
    if kind in (".jsonl", ".json"):
        records = _json_lines(path)
    elif kind in (".arrow", ".feather", ".parquet"):
        records = _arrow(path)
    else:
        msg = f"{path.name} ends with {kind!r}; expected .jsonl, .arrow, .feather or .parquet."
        raise ValueError(msg)
    if not records:
        msg = f"{path} holds no records."
        raise ValueError(msg)
    return pd.DataFrame(records, dtype=object)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    records = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                msg = f"{path}, line {number} is not JSON; expected one object in each line: {error}"
                raise ValueError(msg) from error
            if not isinstance(record, dict):
                msg = f"{path}, line {number} is no JSON object; expected one in each line."
                raise ValueError(msg)
            records.append(record)
    return records


def _arrow(path: Path) -> list[dict[str, Any]]:
    require("pyarrow", "train")
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if path.suffix.lower() == ".parquet":
            return parquet.read_table(path).to_pylist()
        with pa.memory_map(str(path)) as source:
            # Feather is Arrow's file format; what the datasets package writes is its stream format
            try:
                return pa.ipc.open_file(source).read_all().to_pylist()
            except pa.ArrowInvalid:
                source.seek(0)
                return pa.ipc.open_stream(source).read_all().to_pylist()
    except pa.ArrowInvalid as error:
        msg = f"{path} is no {'Parquet' if path.suffix.lower() == '.parquet' else 'Arrow'} file: {error}"
        raise ValueError(msg) from error


def read_examples(
    file: str | Path,
    names: Mapping[str, Sequence[str]],
    *,
    prompt: str | None = None,
    answer: str = "{answer}",
    mod: str = CELLS,
) -> list[Example]:
    """Prompts with answers from a file of records, one for each example.

    Parameters
    ----------
    file
        See :func:`read_table`. A column named like a modality names the entity of each record, or a list of them when
        the prompt has several of that modality; the other columns fill the templates.
    names
        By modality, the names of the entities in the order of their vectors, such as ``{"rna": adata.obs_names}``.
    prompt
        Template of all prompts. ``None``: each record has its own in the column ``"prompt"``, with its
        ``[BIO:modality]`` places; nothing is filled into it, so braces are only text. A conversation is a list: a
        question, its answer, and so on, up to the question that ``answer`` answers; the model learns all its answers.
    answer
        Template of the answers.
    mod
        What a bare ``[BIO]`` means.

    Raises
    ------
    ValueError
        When a record has no value in a field, an empty answer, or entities that are not those of its prompt.
    """
    table = read_table(file)
    index = {name: unique_names(name, known) for name, known in names.items()}
    if prompt is None:
        _check_prompts(table)
    values = template_values(table, prompt or "", answer)
    read = []
    records = zip(table.to_dict("records"), values.to_dict("records"), strict=True)
    for number, (record, words) in enumerate(records, start=1):
        try:
            if empty := [field for field, value in words.items() if value is None]:
                msg = f"there is no value of {', '.join(map(repr, empty))}"
                raise ValueError(msg)
            if not (written := fill_template(answer, words)).strip():
                msg = "the answer is empty"
                raise ValueError(msg)
            if prompt is not None:
                segments: list[Segment] = list(filled_prompt(prompt, words, mod))
            else:
                segments = _conversation(record["prompt"], mod)
            used = sorted({s.mod for s in segments if isinstance(s, Entity)})
            read.append(placed(segments, written, {name: _named(name, record, index) for name in used}))
        except ValueError as error:
            msg = f"{file}, record {number}: {error}"
            raise ValueError(msg) from error
    return read


def _check_prompts(table: pd.DataFrame) -> None:
    if "prompt" not in table:
        msg = f"There is no column 'prompt'; there are {list(table.columns)}."
        raise KeyError(msg)


def _conversation(prompt: Any, mod: str) -> list[Segment]:
    """Segments of a prompt of one turn, or of several: question, answer, question and so on."""
    turns = prompt if isinstance(prompt, list) else [prompt]
    if prompt is None:
        msg = "there is no prompt"
        raise ValueError(msg)
    if not all(isinstance(text, str) and text.strip() for text in turns) or len(turns) % 2 == 0:
        msg = f"the prompt is {prompt!r}; expected a text, or a list of question, answer, ..., question"
        raise ValueError(msg)
    segments: list[Segment] = []
    for i, text in enumerate(turns):
        segments += [Answer(text)] if i % 2 else parse_template(text, mod)
    return segments


def _named(mod: str, record: Mapping[Any, Any], index: Mapping[str, pd.Index]) -> list[int]:
    """Rows of the entities that a record names."""
    if mod not in index:
        msg = f"the prompt has a {mod!r} entity, but there are names of {sorted(index)} only"
        raise ValueError(msg)
    named = record.get(mod)
    entities = named if isinstance(named, list) else [named]
    if any(entity is None or entity != entity for entity in entities):
        msg = f"the prompt has a {mod!r} entity, but the record names none in the column {mod!r}"
        raise ValueError(msg)
    rows = index[mod].get_indexer(pd.Index([str(entity) for entity in entities]))
    if (rows < 0).any():
        msg = f"there is no {mod!r} entity named {entities[int(np.argmax(rows < 0))]!r}"
        raise ValueError(msg)
    return [int(row) for row in rows]


def read_pairs(
    file: str | Path, names: Sequence[str], *, mod: str = CELLS, text: str = "{text}"
) -> tuple[np.ndarray, Descriptions]:
    """Entities and their texts from a file of records, for stage 1.

    Parameters
    ----------
    file
        See :func:`read_table`. The column ``mod`` names the entity of each record.
    names
        Names of the entities in the order of their vectors.
    mod
        Modality.
    text
        Template of the texts.

    Returns
    -------
    Row of each record's entity, and the texts of the records: ``align(model, vectors[rows], descriptions, ...)``. An
    entity may have several records.
    """
    table = read_table(file)
    named = column_words(table, mod)
    rows = unique_names(mod, names).get_indexer(pd.Index(named))
    if (rows < 0).any():
        first = int(np.argmax(rows < 0))
        msg = f"{file}, record {first + 1}: there is no {mod!r} entity named {named[first]!r}."
        raise ValueError(msg)
    return rows, descriptions(table, labels_key=None, template=text)
