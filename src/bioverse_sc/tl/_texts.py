"""The texts that observations are compared with: each one's own, descriptions of labels, and everyday ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from bioverse_sc._logging import logger
from bioverse_sc._modality import CELLS
from bioverse_sc.datasets import everyday_texts
from bioverse_sc.ontology import UNKNOWN, cell_ontology

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from bioverse_sc.tl._subject import Subject

UNRELATED_TEXTS = 150


class Texts(NamedTuple):
    """Biological texts of a modality, and the index of each observation's own, -1 where it has none."""

    texts: list[str]
    text_of: np.ndarray
    labels_key: str = ""

    @property
    def has_text(self) -> np.ndarray:
        """Whether an observation has a text of its own, shape (observations,)."""
        return self.text_of >= 0


def texts_of(
    subject_of: Mapping[str, Subject],
    first: str,
    *,
    labels_key: str | None,
    texts_key: str | None,
    texts: Sequence[str] | None,
) -> dict[str, Texts]:
    """Texts of each modality; see :func:`bioverse_sc.tl.alignment_umap`."""
    parts = {mod: subject.adata for mod, subject in subject_of.items()}
    with_own = _with_own_texts(parts, first, labels_key=labels_key, texts_key=texts_key, texts=texts)
    texts_by_mod: dict[str, Texts] = {}
    for mod, adata in parts.items():
        if mod in with_own:
            texts_by_mod[mod] = _own_texts(adata.obs[texts_key])
        elif mod == first and texts is not None:
            texts_by_mod[mod] = Texts(list(texts), np.full(adata.n_obs, -1))
        elif mod == CELLS:
            texts_by_mod[mod] = _descriptions(subject_of[mod], labels_key)
        else:
            texts_by_mod[mod] = Texts([], np.full(adata.n_obs, -1))
    return texts_by_mod


def _with_own_texts(
    parts: Mapping[str, AnnData],
    first: str,
    *,
    labels_key: str | None,
    texts_key: str | None,
    texts: Sequence[str] | None,
) -> list[str]:
    """Modalities whose observations have texts of their own; raises when a column is missing or would not be read."""
    if labels_key is not None and first != CELLS:
        msg = f"labels_key={labels_key!r} is a column of cells, and the modalities are {list(parts)}; give texts_key."
        raise ValueError(msg)
    if labels_key is not None and labels_key not in parts[first].obs:
        msg = f"There is no column {labels_key!r} in .obs; there are {list(parts[first].obs.columns)}."
        raise KeyError(msg)
    if texts_key is None:
        return []
    with_column = [name for name, adata in parts.items() if texts_key in adata.obs]
    if not with_column:
        there = ", ".join(f"{name}: {list(adata.obs.columns)}" for name, adata in parts.items())
        msg = f"There is no column {texts_key!r} in .obs of any modality; there are {there}."
        raise KeyError(msg)
    if labels_key is None and texts is None:
        return with_column
    if with_column == [first]:
        msg = (
            f"texts_key={texts_key!r} would not be read, as {first!r} has its texts from labels_key or texts; leave "
            "one out."
        )
        raise ValueError(msg)
    return [name for name in with_column if name != first]


def _own_texts(column: pd.Series) -> Texts:
    """Each observation's own text."""
    values = column.astype(object)
    if not values[values.notna()].map(lambda value: isinstance(value, str)).all():
        msg = (
            f"The column {column.name!r} in .obs holds something that is not a text; expected strings, or a missing "
            "value."
        )
        raise ValueError(msg)
    codes, texts = pd.factorize(values.map(lambda value: value if isinstance(value, str) and value.strip() else None))
    return Texts(list(texts), codes)


def _descriptions(subject: Subject, labels_key: str | None) -> Texts:
    """Texts about the model's labels, of which ``unknown`` is no type.

    A cell's own is that of its label, where the column is there.
    """
    ontology, adata, keys = cell_ontology(), subject.adata, subject.results.keys
    labels = [label for label in subject.model.config.labels if label != UNKNOWN]
    terms = [ontology.find(label) for label in labels]
    texts = [label if term is None else ontology.describe(term) for label, term in zip(labels, terms, strict=True)]
    column = labels_key or keys.label
    if column not in adata.obs:
        return Texts(texts, np.full(adata.n_obs, -1))
    # the ids of what annotate wrote are its labels, in whatever words these are
    written = adata.obs[keys.label_id if labels_key is None and keys.label_id in adata.obs else column]
    text_of_cell = _text_of_cells(written, terms)
    if without := int((text_of_cell < 0).sum()):
        logger.info(
            "    %d of %d cells have a label in .obs[%r] that is none of the model's own types, and count in no metric",
            without,
            adata.n_obs,
            column,
        )
    return Texts(texts, text_of_cell, column if (text_of_cell >= 0).any() else "")


def unrelated_texts() -> list[str]:
    """Every so many-th of the package's everyday sentences, so that all topics are there."""
    sentences = everyday_texts()
    return sentences[:: max(1, len(sentences) // UNRELATED_TEXTS)][:UNRELATED_TEXTS]


def _text_of_cells(column: pd.Series, label_of_text: list[str | None]) -> np.ndarray:
    """Index of the text of each cell's label, a name or an id; -1 where there is none."""
    ontology = cell_ontology()
    index = {term: i for i, term in enumerate(label_of_text) if term is not None}
    labels = column.astype(str)
    index_of_label = {}
    for label in labels.unique():
        term = label if label in index else ontology.find(label)
        index_of_label[label] = index.get(term, -1) if term else -1
    return labels.map(index_of_label).to_numpy(dtype=np.int64)
