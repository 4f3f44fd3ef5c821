"""Training data from AnnData, MuData and files.

Descriptions, prompts with answers, splits, balance. No encoder runs here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mudata import MuData

from bioverse_sc._logging import logger
from bioverse_sc._optional import require
from bioverse_sc.models._prompt import Answer, Entity, Text, fields, fill, filled_prompt, parse_template
from bioverse_sc.ontology import cell_ontology
from bioverse_sc.train._sources import Descriptions, Example

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

DONOR_KEYS = ("donor_id", "donor", "patient_id", "patient", "subject_id", "subject", "individual")
"""Columns that :func:`split` looks for: that of the CELLxGENE schema, then common ones."""


def split(
    data: AnnData | MuData | pd.DataFrame,
    *,
    validation: float = 0.1,
    donor_key: str | None = None,
    labels_key: str | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose whole donors for validation, so that no donor is on both sides.

    The choice depends on the names of the donors and the seed, not on the order of the observations.

    Parameters
    ----------
    data
        Observations: AnnData, MuData, or a table with a row for each.
    validation
        Share of the donors, or without donors of the observations, between 0 and 1; each side gets one at least.
    donor_key
        Column of the donors; the first of ``DONOR_KEYS`` that is there by default. In MuData it is looked for in
        ``.obs`` and in that of each modality. Observations without a donor are never validated on; a warning counts
        them, as they could be of a donor that is. With fewer than two donors, observations are drawn, and a warning
        says so: cells of one donor are alike, and the validation is too good.
    labels_key
        Column whose classes are drawn in proportion, when there are no donors.
    seed
        Of the draw.

    Returns
    -------
    Rows of ``data`` to train on and to validate on, sorted: each row is in one of them.
    """
    if not 0 < validation < 1:
        msg = f"validation is {validation}; expected a share between 0 and 1."
        raise ValueError(msg)
    donors, why = _donors(data, donor_key)
    codes, names = pd.factorize(donors, sort=True)
    if len(names) > 1:
        if (codes < 0).any():
            logger.warning(
                "%d of %d observations have no donor. They are trained on, though they could be of a donor that is "
                "validated "
                "on; fill the column, or leave them out.",
                (codes < 0).sum(),
                len(codes),
            )
        chosen = np.isin(codes, _drawn(np.zeros(len(names)), validation, seed))
    else:
        logger.warning(
            "Observations are split at random, because %s. Cells of one donor are alike, so validation will look "
            "better than "
            "new donors will; name the column with donor_key if there is one.",
            why or f"there is one donor, {names[0]!r}",
        )
        classes = np.zeros(len(codes)) if labels_key is None else pd.factorize(_column(data, labels_key))[0]
        chosen = np.isin(np.arange(len(codes)), _drawn(classes, validation, seed))
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _donors(data: AnnData | MuData | pd.DataFrame, donor_key: str | None) -> tuple[np.ndarray, str]:
    """Donor of each observation, ``None`` where it has none; and why there are none at all."""
    there = _column_names(data)
    for key in DONOR_KEYS if donor_key is None else (donor_key,):
        keys = [key, *(f"{mod}:{key}" for mod in data.mod)] if isinstance(data, MuData) else [key]
        if found := [name for name in keys if name in there]:
            columns = zip(*(_column(data, name) for name in found), strict=True)
            donors = np.array([next(filter(None, named), None) for named in columns], dtype=object)
            return donors, "" if any(donors) else f"the column {found[0]!r} is empty"
    if donor_key is not None:
        msg = f"There is no column {donor_key!r} in .obs; there are {there}."
        raise KeyError(msg)
    return np.full(len(_obs(data)), None, dtype=object), f"there is no donor column ({', '.join(DONOR_KEYS)})"


def _drawn(classes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw a share of things, in proportion to their classes.

    Evenly spaced ones, when those of a class lie together.
    """
    n = len(classes)
    if n < 2:
        msg = f"There is nothing to split: {n} observations. Two at least are needed."
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    n_drawn = min(max(1, round(share * n)), n - 1)
    places = (np.arange(n_drawn) + rng.random()) * n / n_drawn
    return np.lexsort((rng.random(n), classes))[np.minimum(places.astype(np.int64), n - 1)]


def balanced_weights(labels: Sequence[Any] | np.ndarray | pd.Series, *, strength: float = 1.0) -> np.ndarray:
    """Weights that draw rare classes more often.

    Parameters
    ----------
    labels
        Class of each observation or example, shape (observations,).
    strength
        0 draws every observation equally often, 1 every class; between them, a class of ``n`` observations is drawn in
        proportion to ``n ** (1 - strength)``.

    Returns
    -------
    Weights, shape (observations,), for ``weights=`` of :func:`align` and :func:`instruct`.
    """
    if not 0 <= strength <= 1:
        msg = f"strength is {strength}; expected 0 to 1."
        raise ValueError(msg)
    codes, classes = pd.factorize(pd.Series(labels, dtype=object))
    if (codes < 0).any():
        msg = f"{(codes < 0).sum()} of {len(codes)} labels are missing; leave those observations out, or name them."
        raise ValueError(msg)
    return np.bincount(codes, minlength=len(classes))[codes].astype(np.float64) ** -strength


def descriptions(
    obs: pd.DataFrame, *, labels_key: str | None = "cell_type", template: str = "{description}"
) -> Descriptions:
    """Texts of entities, from a template and columns.

    Parameters
    ----------
    obs
        A row for each entity.
    labels_key
        Column with Cell Ontology names, synonyms or ids; ``None`` when the template needs none.
    template
        Text with ``{fields}``: columns of ``obs``, and with ``labels_key`` ``{name}``, the type's name in the Cell
        Ontology, and ``{description}``, its name, definition and best-known markers; these two stand before columns of
        the same name. A label that the ontology does not know stands for itself, and a warning names it.

    Returns
    -------
    Each text once, and which of them each entity has: entities of one text are positives of each other.
    """
    values = _values(obs if labels_key is None else with_ontology(obs, labels_key), template)
    texts = [None if None in row.values() else fill(template, row) for row in values.to_dict("records")]
    if missing := [i for i, text in enumerate(texts) if text is None or not text.strip()]:
        msg = (
            f"{len(missing)} of {len(texts)} entities have no text: their rows, the first is number {missing[0]}, "
            "have no value "
            f"for one of {[key for key in (labels_key, *values.columns) if key]}. Leave them out, or fill the columns."
        )
        raise ValueError(msg)
    text_of, unique = pd.factorize(np.array(texts, dtype=object))
    return Descriptions(list(unique), text_of.astype(np.int64))


def with_ontology(obs: pd.DataFrame, labels_key: str) -> pd.DataFrame:
    """Table with ``name`` and ``description`` of the labels by the Cell Ontology; ``None`` where there is no label."""
    ontology = cell_ontology()
    labels = _column(obs, labels_key)
    # a column from R has empty words where it has no label
    terms = {label: ontology.find(label) for label in pd.unique(labels) if label}
    if unknown := [label for label, term in terms.items() if term is None]:
        logger.warning(
            "%d of %d labels in %r are none of the Cell Ontology and are described by their own words alone: %s",
            len(unknown),
            len(terms),
            labels_key,
            ", ".join(unknown[:10]),
        )
    names = {label: label if term is None else ontology.names[term] for label, term in terms.items()}
    texts = {label: f"{label}." if term is None else ontology.describe(term) for label, term in terms.items()}
    return obs.assign(
        name=np.array([names.get(label) for label in labels], dtype=object),
        description=np.array([texts.get(label) for label in labels], dtype=object),
    )


def _obs(data: AnnData | MuData | pd.DataFrame) -> pd.DataFrame:
    return data if isinstance(data, pd.DataFrame) else data.obs


def _column_names(data: AnnData | MuData | pd.DataFrame) -> list[str]:
    """Names that :func:`_column` knows."""
    own = [f"{mod}:{name}" for mod, of in data.mod.items() for name in of.obs] if isinstance(data, MuData) else []
    return list(dict.fromkeys([*_obs(data), *own]))


def _column(data: AnnData | MuData | pd.DataFrame, name: str, mod: str | None = None) -> np.ndarray:
    """Words of a column, ``None`` where it has no value.

    In MuData ``modality:column`` is the modality's own, and not the copy of it that some versions of mudata keep in
    ``.obs``; a column that ``.obs`` lacks is that of the modality ``mod``.
    """
    there = _column_names(data)
    full = name if name in there else f"{mod}:{name}"
    if full not in there:
        msg = f"There is no column {name!r} in .obs; there are {there}."
        raise KeyError(msg)
    if isinstance(data, MuData):
        of, _, own = full.partition(":")
        if of in data.mod and own in data.mod[of].obs:
            # -1, an observation that the modality lacks, takes the last
            return np.array([*_words(data.mod[of].obs[own]), None], dtype=object)[_rows_of(data, of)]
    return _words(_obs(data)[full])


def _words(column: pd.Series) -> np.ndarray:
    return column.astype(str).astype(object).where(column.notna(), None).to_numpy()


def _values(data: AnnData | MuData | pd.DataFrame, *templates: str, mod: str | None = None) -> pd.DataFrame:
    """Words for all fields of templates, ``None`` where there is no value."""
    named = list(dict.fromkeys(name for template in templates for name in fields(template)))
    columns = {name: _column(data, name, mod) for name in named}
    return pd.DataFrame(columns, index=range(len(_obs(data))), columns=named, dtype=object)


def _rows_of(data: AnnData | MuData, mod: str) -> np.ndarray:
    """Row of each observation in a modality, -1 where the modality lacks it."""
    if not isinstance(data, MuData):
        return np.arange(data.n_obs)
    return _unique(mod, data.mod[mod].obs_names).get_indexer(data.obs_names)


def _unique(mod: str, names: Sequence[Any]) -> pd.Index:
    """Names of entities, all different."""
    index = pd.Index(names).astype(str)
    if not index.is_unique:
        twice = index[index.duplicated()][0]
        msg = (
            f"The names of {mod!r} are not unique, so that {twice!r} could mean several entities; see "
            "obs_names_make_unique."
        )
        raise ValueError(msg)
    return index


def examples(
    data: AnnData | MuData, *, prompt: str, answer: str, mod: str = "rna", rows: np.ndarray | None = None
) -> list[Example]:
    """Prompts with answers from the columns of AnnData or MuData.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData. In MuData an observation is used where all modalities of the prompt have it.
    prompt
        Template, such as ``"A cell of the {tissue}: [BIO:rna] Which type is it?"``. ``[BIO:modality]`` is the place of
        an entity and ``{field}`` a column of ``.obs``; in MuData also ``{modality:field}`` of that modality's ``.obs``,
        where ``mod:`` may be left away. The places are found before values are filled in, so that a value may hold any
        text. All places of a modality are of the observation's one entity.
    answer
        Template of the answer.
    mod
        Modality of an AnnData, and what a bare ``[BIO]`` means.
    rows
        Observations to use, as row numbers of ``data`` or as a mask; all by default.

    Returns
    -------
    An example for each observation that has a value in every field, and words in the answer; how many lack one is
    logged. Their rows are rows of the modalities' own arrays of vectors.
    """
    used = list(dict.fromkeys(s.modality for s in parse_template(prompt, mod) if isinstance(s, Entity)))
    there = list(data.mod) if isinstance(data, MuData) else [mod]
    if missing := [name for name in used if name not in there]:
        msg = f"The prompt has entities of {missing}, but the data have {there}."
        raise KeyError(msg)
    entities = {name: _rows_of(data, name) for name in used}
    values = _values(data, prompt, answer, mod=mod)
    chosen = np.arange(data.n_obs)[slice(None) if rows is None else rows]
    found = []
    for row, record in zip(chosen, values.iloc[chosen].to_dict("records"), strict=True):
        own = {name: [int(of[row])] for name, of in entities.items()}
        if None not in record.values() and [-1] not in own.values() and (text := fill(answer, record)).strip():
            found.append(_example(filled_prompt(prompt, record, mod), text, own))
    if len(found) < len(chosen):
        logger.warning(
            "%d of %d observations are left out: they lack one of the modalities %s or a value of %s.",
            len(chosen) - len(found),
            len(chosen),
            used,
            list(values.columns),
        )
    return found


def _example(segments: list[Text | Entity], answer: str, rows: Mapping[str, Sequence[int]]) -> Example:
    """Give the places their rows; one entity of a modality stands at all of its places."""
    places = [s.modality for s in segments if isinstance(s, Entity)]
    left = {}
    for name, of in rows.items():
        n_places = places.count(name)
        if len(of) not in (1, n_places):
            msg = f"the prompt has {n_places} places for {name!r}, but {len(of)} entities are named"
            raise ValueError(msg)
        left[name] = iter(of if len(of) == n_places else [of[0]] * n_places)
    return Example([*segments, Answer(answer)], tuple(next(left[name]) for name in places))


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
    mod: str = "rna",
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
        ``[BIO:modality]`` places; nothing is filled into it, so braces are only text.
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
    index = {name: _unique(name, of) for name, of in names.items()}
    own = [] if prompt is not None else list(_column(table, "prompt"))
    values = _values(table, prompt or "", answer)
    found = []
    records = zip(table.to_dict("records"), values.to_dict("records"), strict=True)
    for number, (record, words) in enumerate(records, start=1):
        try:
            if empty := [field for field, value in words.items() if value is None]:
                msg = f"there is no value of {', '.join(map(repr, empty))}"
                raise ValueError(msg)
            if not (written := fill(answer, words)).strip():
                msg = "the answer is empty"
                raise ValueError(msg)
            if prompt is not None:
                segments = filled_prompt(prompt, words, mod)
            elif own[number - 1] is not None:
                segments = parse_template(own[number - 1], mod)
            else:
                msg = "there is no prompt"
                raise ValueError(msg)
            used = sorted({s.modality for s in segments if isinstance(s, Entity)})
            found.append(_example(segments, written, {name: _named(name, record, index) for name in used}))
        except ValueError as error:
            msg = f"{file}, record {number}: {error}"
            raise ValueError(msg) from error
    return found


def _named(modality: str, record: Mapping[Any, Any], index: Mapping[str, pd.Index]) -> list[int]:
    """Rows of the entities that a record names."""
    if modality not in index:
        msg = f"the prompt has a {modality!r} entity, but there are names of {sorted(index)} only"
        raise ValueError(msg)
    named = record.get(modality)
    entities = named if isinstance(named, list) else [named]
    if any(entity is None or entity != entity for entity in entities):
        msg = f"the prompt has a {modality!r} entity, but the record names none in the column {modality!r}"
        raise ValueError(msg)
    rows = index[modality].get_indexer(pd.Index([str(entity) for entity in entities]))
    if (rows < 0).any():
        msg = f"there is no {modality!r} entity named {entities[int(np.argmax(rows < 0))]!r}"
        raise ValueError(msg)
    return [int(row) for row in rows]


def read_pairs(
    file: str | Path, names: Sequence[str], *, mod: str = "rna", text: str = "{text}"
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
    named = _column(table, mod)
    rows = _unique(mod, names).get_indexer(pd.Index(named))
    if (rows < 0).any():
        first = int(np.argmax(rows < 0))
        msg = f"{file}, record {first + 1}: there is no {mod!r} entity named {named[first]!r}."
        raise ValueError(msg)
    return rows, descriptions(table, labels_key=None, template=text)
