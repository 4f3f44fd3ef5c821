"""Training data from AnnData and MuData: descriptions, prompts with answers, splits, balance. No encoder runs here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mudata import MuData

from bioverse_sc._logging import logger
from bioverse_sc._modality import CELLS
from bioverse_sc.models import Answer, Entity, fill_template, filled_prompt, parse_template, template_fields
from bioverse_sc.ontology import cell_ontology
from bioverse_sc.train._sources import Descriptions, Example

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from bioverse_sc.models import Segment

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
    donors, why = donors_of(data, donor_key)
    codes, names = pd.factorize(donors, sort=True)
    if len(names) > 1:
        if (codes < 0).any():
            logger.warning(
                "%d of %d observations have no donor. They are trained on, though they could be of a donor that is "
                "validated on; fill the column, or leave them out.",
                (codes < 0).sum(),
                len(codes),
            )
        chosen = np.isin(codes, _drawn(np.zeros(len(names)), validation, seed))
    else:
        logger.warning(
            "Observations are split at random, because %s. Cells of one donor are alike, so validation will look "
            "better than new donors will; name the column with donor_key if there is one.",
            why or f"there is one donor, {names[0]!r}",
        )
        classes = np.zeros(len(codes)) if labels_key is None else pd.factorize(column_words(data, labels_key))[0]
        chosen = np.isin(np.arange(len(codes)), _drawn(classes, validation, seed))
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def donors_of(data: AnnData | MuData | pd.DataFrame, donor_key: str | None) -> tuple[np.ndarray, str]:
    """Donor of each observation, ``None`` where it has none; and why there are none at all.

    Parameters
    ----------
    data
        Observations: AnnData, MuData, or a table with a row for each.
    donor_key
        Column of the donors; the first of ``DONOR_KEYS`` that is there by default.

    Returns
    -------
    Names of the donors, shape (observations,); and a reason, empty when there are some.
    """
    column_names = _column_names(data)
    for key in DONOR_KEYS if donor_key is None else (donor_key,):
        keys = [key, *(f"{mod}:{key}" for mod in data.mod)] if isinstance(data, MuData) else [key]
        if columns := [name for name in keys if name in column_names]:
            rows = zip(*(column_words(data, name) for name in columns), strict=True)
            donors = np.array([next(filter(None, named), None) for named in rows], dtype=object)
            return donors, "" if any(donors) else f"the column {columns[0]!r} is empty"
    if donor_key is not None:
        msg = f"There is no column {donor_key!r} in .obs; there are {column_names}."
        raise KeyError(msg)
    return np.full(len(_obs(data)), None, dtype=object), f"there is no donor column ({', '.join(DONOR_KEYS)})"


def _drawn(classes: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw a share of things, in proportion to their classes, evenly spaced where those of a class lie together."""
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
    values = template_values(obs if labels_key is None else with_ontology(obs, labels_key), template)
    texts = [None if None in row.values() else fill_template(template, row) for row in values.to_dict("records")]
    if missing := [i for i, text in enumerate(texts) if text is None or not text.strip()]:
        msg = (
            f"{len(missing)} of {len(texts)} entities have no text: their rows, the first is number {missing[0]}, have "
            f"no value for one of {[key for key in (labels_key, *values.columns) if key]}. Leave them out, or fill the "
            "columns."
        )
        raise ValueError(msg)
    text_of, unique = pd.factorize(np.array(texts, dtype=object))
    return Descriptions(list(unique), text_of.astype(np.int64))


def with_ontology(obs: pd.DataFrame, labels_key: str) -> pd.DataFrame:
    """Table with ``name`` and ``description`` of the labels by the Cell Ontology; ``None`` where there is no label.

    Parameters
    ----------
    obs
        A row for each entity.
    labels_key
        Column with Cell Ontology names, synonyms or ids. One that the ontology does not know stands for itself.
    """
    ontology = cell_ontology()
    labels = column_words(obs, labels_key)
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
    """Names that :func:`column_words` knows."""
    mods = data.mod if isinstance(data, MuData) else {}
    of_mods = [f"{mod}:{name}" for mod, adata in mods.items() for name in adata.obs]
    return list(dict.fromkeys([*_obs(data), *of_mods]))


def column_words(data: AnnData | MuData | pd.DataFrame, name: str, mod: str | None = None) -> np.ndarray:
    """Words of a column, ``None`` where it has no value.

    In MuData ``modality:column`` is the modality's own, and not the copy of it that some versions of mudata keep in
    ``.obs``; a column that ``.obs`` lacks is that of the modality ``mod``.
    """
    column_names = _column_names(data)
    full = name if name in column_names else f"{mod}:{name}"
    if full not in column_names:
        msg = f"There is no column {name!r} in .obs; there are {column_names}."
        raise KeyError(msg)
    if isinstance(data, MuData):
        owner, _, key = full.partition(":")
        if owner in data.mod and key in data.mod[owner].obs:
            # -1, an observation that the modality lacks, takes the last
            return np.array([*_words(data.mod[owner].obs[key]), None], dtype=object)[rows_of(data, owner)]
    return _words(_obs(data)[full])


def _words(column: pd.Series) -> np.ndarray:
    return column.astype(str).astype(object).where(column.notna(), None).to_numpy()


def template_values(data: AnnData | MuData | pd.DataFrame, *templates: str, mod: str | None = None) -> pd.DataFrame:
    """Words for all fields of templates, ``None`` where there is no value."""
    named = list(dict.fromkeys(name for template in templates for name in template_fields(template)))
    columns = {name: column_words(data, name, mod) for name in named}
    return pd.DataFrame(columns, index=range(len(_obs(data))), columns=named, dtype=object)


def rows_of(data: AnnData | MuData, mod: str) -> np.ndarray:
    """Row of each observation in a modality, -1 where the modality lacks it.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData.
    mod
        Modality.

    Returns
    -------
    Row numbers, shape (observations,).
    """
    if not isinstance(data, MuData):
        return np.arange(data.n_obs)
    return unique_names(mod, data.mod[mod].obs_names).get_indexer(data.obs_names)


def unique_names(mod: str, names: Sequence[Any]) -> pd.Index:
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
    data: AnnData | MuData, *, prompt: str, answer: str, mod: str = CELLS, rows: np.ndarray | None = None
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
    used = list(dict.fromkeys(s.mod for s in parse_template(prompt, mod) if isinstance(s, Entity)))
    mods_there = list(data.mod) if isinstance(data, MuData) else [mod]
    if missing := [name for name in used if name not in mods_there]:
        msg = f"The prompt has entities of {missing}, but the data have {mods_there}."
        raise KeyError(msg)
    row_in = {name: rows_of(data, name) for name in used}
    values = template_values(data, prompt, answer, mod=mod)
    chosen = np.arange(data.n_obs)[slice(None) if rows is None else rows]
    written = []
    for row, record in zip(chosen, values.iloc[chosen].to_dict("records"), strict=True):
        entities = {name: [int(mod_rows[row])] for name, mod_rows in row_in.items()}
        is_whole = None not in record.values() and [-1] not in entities.values()
        if is_whole and (text := fill_template(answer, record)).strip():
            written.append(placed(filled_prompt(prompt, record, mod), text, entities))
    if len(written) < len(chosen):
        logger.warning(
            "%d of %d observations are left out: they lack one of the modalities %s or a value of %s.",
            len(chosen) - len(written),
            len(chosen),
            used,
            list(values.columns),
        )
    return written


def placed(segments: Sequence[Segment], answer: str, rows: Mapping[str, Sequence[int]]) -> Example:
    """Give the places their rows; one entity of a modality stands at all of its places."""
    places = [s.mod for s in segments if isinstance(s, Entity)]
    following = {}
    for name, named in rows.items():
        n_places = places.count(name)
        if len(named) not in (1, n_places):
            msg = f"the prompt has {n_places} places for {name!r}, but {len(named)} entities are named"
            raise ValueError(msg)
        following[name] = iter(named if len(named) == n_places else [named[0]] * n_places)
    return Example([*segments, Answer(answer)], tuple(next(following[name]) for name in places))
