"""Training data from AnnData, MuData and files: descriptions, prompts with answers, splits, balance. No encoder runs here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bioverse_sc._logging import logger
from bioverse_sc._optional import require
from bioverse_sc.models._prompt import Answer, Entity, Text, fields, fill, filled_prompt, parse_template
from bioverse_sc.ontology import cell_ontology
from bioverse_sc.train._sources import Descriptions, Example

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from mudata import MuData

DONOR_KEYS = ("donor_id", "donor", "patient_id", "patient", "subject_id", "subject", "individual")
"""Columns that :func:`split` looks for: that of the CELLxGENE schema, then common ones."""


def split(
    obs: pd.DataFrame,
    *,
    validation: float = 0.1,
    donor_key: str | None = None,
    labels_key: str | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose whole donors for validation, so that no donor is on both sides.

    Parameters
    ----------
    obs
        A row for each observation.
    validation
        Share of the donors, or without donors of the observations, 0 to 1.
    donor_key
        Column of the donors; the first of :data:`DONOR_KEYS` that is there by default. Without any, observations are drawn,
        and a warning says so: cells of one donor are alike, and the validation is too good.
    labels_key
        Column whose classes are drawn in proportion, when there are no donors.
    seed
        Of the draw.

    Returns
    -------
    Row numbers to train on and to validate on, sorted.
    """
    from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedShuffleSplit

    if not 0 < validation < 1:
        msg = f"validation is {validation}; expected a share between 0 and 1."
        raise ValueError(msg)
    for key in (donor_key, labels_key):
        if key is not None and key not in obs:
            msg = f"There is no column {key!r} in .obs; there are {list(obs.columns)}."
            raise KeyError(msg)
    donor_key = donor_key or next((key for key in DONOR_KEYS if key in obs), None)
    donors = None if donor_key is None else obs[donor_key].astype(str).to_numpy()
    rows = np.zeros(len(obs))
    if donors is not None and len(np.unique(donors)) > 1:
        chosen = GroupShuffleSplit(n_splits=1, test_size=validation, random_state=seed).split(rows, groups=donors)
    else:
        why = (
            f"there is one donor in {donor_key!r}"
            if donor_key
            else f"there is no donor column ({', '.join(DONOR_KEYS)})"
        )
        logger.warning(
            "Observations are split at random, because %s. Cells of one donor are alike, so validation will look better "
            "than new donors will; name the column with donor_key if there is one.",
            why,
        )
        labels = None if labels_key is None else obs[labels_key].astype(str).to_numpy()
        counts = np.unique(labels, return_counts=True)[1] if labels is not None else np.zeros(1)
        n_validation = int(np.ceil(validation * len(obs)))
        if labels is not None and counts.min() > 1 and len(counts) <= min(n_validation, len(obs) - n_validation):
            chosen = StratifiedShuffleSplit(1, test_size=validation, random_state=seed).split(rows, labels)
        else:
            chosen = ShuffleSplit(1, test_size=validation, random_state=seed).split(rows)
    train, held_out = next(chosen)
    return np.sort(train), np.sort(held_out)


def balanced_weights(labels: Sequence[Any], *, strength: float = 1.0) -> np.ndarray:
    """Weights that draw rare classes more often.

    Parameters
    ----------
    labels
        Class of each observation, shape (observations,).
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
    codes, uniques = pd.factorize(pd.Series(list(labels)).astype(str))
    return np.bincount(codes, minlength=len(uniques))[codes].astype(np.float64) ** -strength


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
        Text with ``{fields}``: columns of ``obs``, and with ``labels_key`` ``{name}``, the type's name in the Cell Ontology, and
        ``{description}``, its name, definition and best-known markers. A label that the ontology does not know stands for
        itself, and a warning names it.

    Returns
    -------
    Each text once, and which of them each entity has: entities of one text are positives of each other.
    """
    table = obs
    if labels_key is not None:
        if labels_key not in obs:
            msg = f"There is no column {labels_key!r} in .obs; there are {list(obs.columns)}."
            raise KeyError(msg)
        ontology = cell_ontology()
        labels = obs[labels_key].astype(str)
        terms = {label: label if label in ontology.names else ontology.find(label) for label in labels.unique()}
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
        table = obs.assign(name=labels.map(names).to_numpy(), description=labels.map(texts).to_numpy())
    filled = _filled(template, table)
    text_of, unique = pd.factorize(pd.Series(filled))
    return Descriptions(list(unique), text_of.astype(np.int64))


def _filled(template: str, table: pd.DataFrame) -> list[str]:
    """Template of each row; nothing may be missing."""
    used = table[_columns(template, list(table.columns))].astype(object)
    if (missing := used.isna().any(axis=1)).any():
        msg = f"{missing.sum()} rows have no value for one of {list(used.columns)}; leave them out, or fill them."
        raise ValueError(msg)
    return [fill(template, row) for row in used.to_dict("records")]


def _columns(template: str, there: Sequence[Any]) -> list[str]:
    """Columns that a template names."""
    named = list(dict.fromkeys(fields(template)))
    if missing := [name for name in named if name not in set(there)]:
        msg = f"The template {template!r} names {', '.join(map(repr, missing))}; there are {list(there)}."
        raise KeyError(msg)
    return named


def examples(
    data: AnnData | MuData, *, prompt: str, answer: str, mod: str = "rna", rows: np.ndarray | None = None
) -> list[Example]:
    """Prompts with answers from the columns of AnnData or MuData.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData. In MuData an observation is used where all modalities of the prompt have it.
    prompt
        Template, such as ``"A cell of the {tissue}: [BIO:rna] Which type is it?"``. ``[BIO:modality]`` is the place of an
        entity and ``{field}`` a column of ``.obs``; in MuData also ``{modality:field}`` of that modality's ``.obs``. The places
        are found before values are filled in, so that a value may hold any text.
    answer
        Template of the answer.
    mod
        Modality of an AnnData, and what a bare ``[BIO]`` means.
    rows
        Observations to use, as row numbers of ``data``; all by default.

    Returns
    -------
    An example for each observation that has a value in every field; how many lack one is logged. Their rows are rows of
    the modalities' own arrays of vectors.
    """
    from mudata import MuData

    used = list(dict.fromkeys(s.modality for s in parse_template(prompt, mod) if isinstance(s, Entity)))
    if isinstance(data, MuData):
        modalities = {name: data.mod[name] for name in used if name in data.mod}
    else:
        modalities = {mod: data}
    if missing := [name for name in used if name not in modalities]:
        there = list(data.mod) if isinstance(data, MuData) else [mod]
        msg = f"The prompt has entities of {missing}, but the data have {there}."
        raise KeyError(msg)
    table = _table(data, modalities)
    positions = {
        name: pd.Index(of.obs_names).get_indexer(data.obs_names) for name, of in modalities.items() if name in used
    }
    columns = _columns(prompt + answer, list(table.columns))
    values = table[columns].astype(object)
    chosen = np.arange(data.n_obs) if rows is None else np.asarray(rows)
    complete = ~values.isna().any(axis=1).to_numpy() & np.all([p >= 0 for p in positions.values()] or [True], axis=0)
    kept = chosen[complete[chosen]]
    if len(kept) < len(chosen):
        logger.warning(
            "%d of %d observations are left out: they lack one of the modalities %s or a value of %s.",
            len(chosen) - len(kept),
            len(chosen),
            used,
            columns,
        )
    records = values.iloc[kept].to_dict("records")
    return [
        _example(
            filled_prompt(prompt, record, mod),
            fill(answer, record),
            {name: [int(p[row])] for name, p in positions.items()},
        )
        for row, record in zip(kept, records, strict=True)
    ]


def _table(data: AnnData | MuData, modalities: Mapping[str, AnnData]) -> pd.DataFrame:
    """Columns of the container's ``.obs``, and of each modality's as ``modality:column``."""
    from mudata import MuData

    if not isinstance(data, MuData):
        return data.obs
    own = [
        of.obs.reindex(data.obs_names).add_prefix(f"{name}:").drop(columns=data.obs.columns, errors="ignore")
        for name, of in data.mod.items()
    ]
    return pd.concat([data.obs, *own], axis=1)


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
    """Read JSON lines (``.jsonl``, ``.json``), Arrow (``.arrow``, ``.feather``) or Parquet (``.parquet``)."""
    path = Path(file)
    kind = path.suffix.lower()
    if not path.is_file():
        msg = f"There is no file {path}."
        raise FileNotFoundError(msg)
    if kind in (".jsonl", ".json"):
        try:
            return pd.read_json(path, lines=True, dtype=False, convert_dates=False)
        except ValueError as error:
            msg = f"{path} is not JSON lines, one object in each line: {error}"
            raise ValueError(msg) from error
    if kind in (".arrow", ".feather", ".parquet"):
        require("pyarrow", "train")
        if kind == ".parquet":
            return pd.read_parquet(path)
        import pyarrow as pa

        with pa.memory_map(str(path)) as source:
            # Feather is Arrow's file format; data sets of transformers' kin are its stream format
            try:
                return pa.ipc.open_file(source).read_all().to_pandas()
            except pa.ArrowInvalid:
                source.seek(0)
                return pa.ipc.open_stream(source).read_all().to_pandas()
    msg = f"{path.name} ends with {kind!r}; expected .jsonl, .arrow, .feather or .parquet."
    raise ValueError(msg)


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
        See :func:`read_table`. A column named like a modality names the entity of each record, or a list of them when the
        prompt has several of that modality; the other columns fill the templates.
    names
        By modality, the names of the entities in the order of their vectors, such as ``{"rna": adata.obs_names}``.
    prompt
        Template of all prompts. ``None``: each record has its own in the column ``"prompt"``, with its ``[BIO:modality]``
        places; nothing is filled into it, so braces are only text.
    answer
        Template of the answers.
    mod
        What a bare ``[BIO]`` means.
    """
    table = read_table(file)
    index = {name: pd.Index(of) for name, of in names.items()}
    for name, of in index.items():
        if not of.is_unique:
            msg = f"The names of {name!r} are not unique, so that a record could mean several entities."
            raise ValueError(msg)
    if prompt is None and "prompt" not in table:
        msg = f"{file} has no column 'prompt', and no prompt= was given; it has {list(table.columns)}."
        raise KeyError(msg)
    _columns((prompt or "") + answer, list(table.columns))
    found = []
    for number, record in enumerate(table.astype(object).to_dict("records"), start=1):
        template = str(record["prompt"]) if prompt is None else prompt
        try:
            used = {s.modality for s in parse_template(template, mod) if isinstance(s, Entity)}
            rows = {name: _rows(name, record, index) for name in sorted(used)}
            if empty := [field for field in fields((prompt or "") + answer) if _is_missing(record[field])]:
                msg = f"there is no value of {', '.join(map(repr, empty))}"
                raise ValueError(msg)
            segments = parse_template(template, mod) if prompt is None else filled_prompt(template, record, mod)
            found.append(_example(segments, fill(answer, record), rows))
        except (ValueError, KeyError) as error:
            msg = f"{file}, record {number}: {error.args[0]}"
            raise ValueError(msg) from error
    return found


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _rows(modality: str, record: Mapping[Any, Any], index: Mapping[str, pd.Index]) -> list[int]:
    """Rows of the entities that a record names."""
    if modality not in index:
        msg = f"the prompt has a {modality!r} entity, but there are names of {sorted(index)} only"
        raise ValueError(msg)
    if modality not in record or _is_missing(record[modality]):
        msg = f"the prompt has a {modality!r} entity, but the record names none in the column {modality!r}"
        raise ValueError(msg)
    named = record[modality]
    named = [named] if isinstance(named, str) else list(named)
    rows = index[modality].get_indexer(pd.Index(named))
    if (rows < 0).any():
        msg = f"there is no {modality!r} entity named {named[int((rows < 0).argmax())]!r}"
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
    Row of each record's entity, and the texts of the records: ``align(model, vectors[rows], descriptions, ...)``.
    """
    table = read_table(file)
    if mod not in table:
        msg = f"{file} has no column {mod!r}, which names the entities; it has {list(table.columns)}."
        raise KeyError(msg)
    rows = pd.Index(names).get_indexer(pd.Index(table[mod]))
    if (rows < 0).any():
        first = int((rows < 0).argmax())
        msg = f"{file}, record {first + 1}: there is no {mod!r} entity named {table[mod].iloc[first]!r}."
        raise ValueError(msg)
    return rows, descriptions(table, labels_key=None, template=text)
