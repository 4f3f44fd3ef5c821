"""Cells, proteins, molecules and texts in one space, before and after alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger
from bioverse_sc._modalities import modality
from bioverse_sc._models import get_model
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Results, Slot
from bioverse_sc._row_hash import bound_hashes, hash_rows
from bioverse_sc.datasets import everyday_texts
from bioverse_sc.metrics import alignment_metrics, text_retrieval
from bioverse_sc.ontology import UNKNOWN, cell_ontology
from bioverse_sc.tl._align import ensure_alignment
from bioverse_sc.tl._embed import embedding_slot, readable
from bioverse_sc.tl._score import check_texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse

UNRELATED_TEXTS = 150


class _Texts(NamedTuple):
    """Biological texts of a modality, and the index of each observation's own, -1 where it has none."""

    texts: list[str]
    own: np.ndarray
    labels_key: str = ""


@undisturbed()
def alignment(
    data: AnnData | MuData,
    *,
    mod: str | None = None,
    model: str | Path | BioVerse = "mini",
    labels_key: str | None = None,
    texts_key: str | None = None,
    texts: Sequence[str] | None = None,
    layer: str | None = None,
    gene_symbols: str | None = None,
    batch_size: int = 64,
    n_neighbors: int = 15,
    seed: int = 0,
    key_added: str | None = None,
    overwrite: bool = False,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Place observations beside texts in the embedding space, before and after alignment, and measure it.

    A text lies at the mean of the language model's input token embeddings. There are each observation's own texts, or
    for cells the descriptions of the model's labels (name, definition, markers), and sentences about everyday things.
    *Before* is the same projector with its untrained weights. Each of both spaces, with all modalities in it, is laid
    out by one UMAP with cosine distance.

    Source: figure 2 of BioVERSE (arXiv 2510.01428).

    Parameters
    ----------
    data
        AnnData of one modality, or MuData; see :func:`bioverse_sc.tl.embed`.
    mod
        Modality. By default of an AnnData ``"rna"``, and of a MuData all that the model reads.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    labels_key
        Column of ``.obs`` with a Cell Ontology name, synonym or id for each cell, for the metrics; the label that
        :func:`bioverse_sc.tl.annotate` wrote by default. Cells whose label has no text are left out of the metrics.
    texts_key
        Column of ``.obs`` with a text for each observation, such as ``"description"``, in one modality or more. A
        missing value means no text: the observation is left out of the metrics. Cells have these in place of
        descriptions, unless ``labels_key`` or ``texts`` is given.
    texts
        Biological texts instead of the descriptions of labels; they are no observation's own, so there are no metrics
        of cells then. Without cells they go with the first modality.
    layer, gene_symbols, batch_size
        As for :func:`bioverse_sc.tl.embed`, when the observations are not embedded yet.
    n_neighbors
        Of UMAP.
    seed
        Of UMAP.
    key_added
        Stem of the slots' names instead of ``"bioverse"``.
    overwrite
        As for :func:`bioverse_sc.tl.embed`.
    copy
        Whether to return a copy instead of writing to ``data``.

    Returns
    -------
    ``None``, or a copy when ``copy=True``. Sets what :func:`bioverse_sc.tl.align` sets, if missing, and:

    ``.obsm["X_bioverse_umap_before"]``, ``.obsm["X_bioverse_umap_after"]``
        Coordinates of the observations, shape (observations, 2). Of MuData in each modality.
    ``.uns["bioverse"]["alignment"]``
        Of the modality when one is used, of the MuData when there are several: ``modalities``, ``texts``,
        ``texts_modality`` (``""`` for everyday ones), ``texts_related`` (1 biological, 0 everyday), ``texts_before``
        and ``texts_after`` (coordinates), and the metrics ``before`` and ``after``, by modality when there are several:
        ``retrieval_at_1``, ``_5``, ``_10`` (an observation's own text, or that of its label, among the texts of its
        modality and the everyday ones), ``text_retrieval_at_1``, ``_5``, ``_10`` (one of a text's own observations
        among those with a text), ``modality_gap`` (observations to their texts), ``gap_to_unrelated``,
        ``knn_agreement``. A modality without texts of its own has none.

    Raises
    ------
    KeyError
        When there is no such column.
    ValueError
        When arguments do not go together, or a text is not one.
    """
    keys = Keys.of(key_added)
    if texts is not None:
        check_texts(texts)
    if copy:
        data = data.copy()
    loaded = get_model(model)
    parts = {name: modality(data, name) for name in readable(loaded, data, mod)}
    first = "rna" if "rna" in parts else next(iter(parts))
    with_own = _with_own_texts(parts, first, labels_key=labels_key, texts_key=texts_key, texts=texts)
    of_mod: dict[str, _Texts] = {}
    for name, adata in parts.items():
        if name in with_own:
            of_mod[name] = _own_texts(adata.obs[texts_key])
        elif name == first and texts is not None:
            of_mod[name] = _Texts(list(texts), np.full(adata.n_obs, -1))
        elif name == "rna":
            of_mod[name] = _descriptions(adata, loaded, labels_key, keys)
        else:
            of_mod[name] = _Texts([], np.full(adata.n_obs, -1))
    results = {name: Results(adata, keys, overwrite=overwrite) for name, adata in parts.items()}
    slot_of = {"before": Slot("obsm", keys.umap_before, "UMAP"), "after": Slot("obsm", keys.umap_after, "UMAP")}
    for each in results.values():
        each.check(slot_of.values())
    for name, each in results.items():
        ensure_alignment(each, loaded, mod=name, layer=layer, gene_symbols=gene_symbols, batch_size=batch_size)
    sizes = [adata.n_obs for adata in parts.values()]
    what = "cells" if [*parts] == ["rna"] else f"observations of {', '.join(parts)}"
    with finish_log(f"comparing {sum(sizes)} {what} with texts, before and after alignment") as slots:
        unrelated = _everyday_texts(UNRELATED_TEXTS)
        related = [text for found in of_mod.values() for text in found.texts]
        text_vectors = loaded.text_vectors([*related, *unrelated]).cpu().numpy()
        *of_parts, unrelated_vectors = np.split(
            text_vectors, np.cumsum([len(found.texts) for found in of_mod.values()])
        )
        entries: dict[str, Any] = {
            "model_fingerprint": loaded.fingerprint,
            "modalities": list(parts),
            "texts": [*related, *unrelated],
            "texts_modality": [*(name for name, found in of_mod.items() for _ in found.texts), *[""] * len(unrelated)],
            "texts_related": np.array([1] * len(related) + [0] * len(unrelated)),
            "labels_key": of_mod[first].labels_key,
            "texts_key": texts_key or "",
            "seed": seed,
        }
        places: dict[str, dict[Slot, np.ndarray]] = {name: {} for name in parts}
        for when, slot in slot_of.items():
            placed = {name: _placed(name, each, loaded, when) for name, each in results.items()}
            coordinates = _umap(np.concatenate([*placed.values(), text_vectors]), n_neighbors=n_neighbors, seed=seed)
            *of_observations, entries[f"texts_{when}"] = np.split(coordinates, np.cumsum(sizes))
            for name, coordinates_of_mod in zip(parts, of_observations, strict=True):
                places[name][slot] = coordinates_of_mod
            metrics = {
                name: _metrics(placed[name], vectors, of_mod[name].own, unrelated_vectors)
                for name, vectors in zip(parts, of_parts, strict=True)
                if (of_mod[name].own >= 0).any()
            }
            if metrics:
                entries[when] = metrics if len(parts) > 1 else metrics[first]
        # a layout is drawn as long as it is of the soft tokens that are there
        entries["content"] = {
            name: bound_hashes(hash_rows(adata.obsm[keys.soft_token]), hash_rows(places[name][slot_of["after"]]))
            for name, adata in parts.items()
        }
        # of another layout, whose coordinates are no longer there
        together = Results(data, keys)
        together.outdate("alignment")
        for name, each in results.items():
            lines = each.write("alignment", places[name], entries if len(parts) == 1 else None)
            slots += [line for line in lines if line not in slots]
        if len(parts) > 1:
            slots += together.write("alignment", {}, entries)
    return data if copy else None


def _with_own_texts(
    parts: Mapping[str, AnnData],
    first: str,
    *,
    labels_key: str | None,
    texts_key: str | None,
    texts: Sequence[str] | None,
) -> list[str]:
    """Modalities whose observations have texts of their own; raises when a column is missing or would not be read."""
    if labels_key is not None and first != "rna":
        msg = f"labels_key={labels_key!r} is a column of cells, and the modalities are {list(parts)}; give texts_key."
        raise ValueError(msg)
    if labels_key is not None and labels_key not in parts[first].obs:
        msg = f"There is no column {labels_key!r} in .obs; there are {list(parts[first].obs.columns)}."
        raise KeyError(msg)
    if texts_key is None:
        return []
    found = [name for name, adata in parts.items() if texts_key in adata.obs]
    if not found:
        there = ", ".join(f"{name}: {list(adata.obs.columns)}" for name, adata in parts.items())
        msg = f"There is no column {texts_key!r} in .obs of any modality; there are {there}."
        raise KeyError(msg)
    if labels_key is None and texts is None:
        return found
    if found == [first]:
        msg = (
            f"texts_key={texts_key!r} would not be read, as {first!r} has its texts from labels_key or texts; leave "
            "one out."
        )
        raise ValueError(msg)
    return [name for name in found if name != first]


def _own_texts(column: pd.Series) -> _Texts:
    """Each observation's own text."""
    values = column.astype(object)
    if not values[values.notna()].map(lambda value: isinstance(value, str)).all():
        msg = (
            f"The column {column.name!r} in .obs holds something that is not a text; expected strings, or a missing "
            "value."
        )
        raise ValueError(msg)
    own, texts = pd.factorize(values.map(lambda value: value if isinstance(value, str) and value.strip() else None))
    return _Texts(list(texts), own)


def _descriptions(adata: AnnData, model: BioVerse, labels_key: str | None, keys: Keys) -> _Texts:
    """Texts about the model's labels, of which ``unknown`` is no type.

    A cell's own is that of its label, where the column is there.
    """
    ontology = cell_ontology()
    labels = [label for label in model.config.labels if label != UNKNOWN]
    terms = [ontology.find(label) for label in labels]
    texts = [label if term is None else ontology.describe(term) for label, term in zip(labels, terms, strict=True)]
    column = labels_key or keys.label
    if column not in adata.obs:
        return _Texts(texts, np.full(adata.n_obs, -1))
    # the ids of what annotate wrote are its labels, in whatever words these are
    written = adata.obs[keys.label_id if labels_key is None and keys.label_id in adata.obs else column]
    own = _text_of_cells(written, terms)
    if without := int((own < 0).sum()):
        logger.info(
            "    %d of %d cells have a label in .obs[%r] that is none of the model's own types, and count in no metric",
            without,
            adata.n_obs,
            column,
        )
    return _Texts(texts, own, column if (own >= 0).any() else "")


def _placed(mod: str, results: Results, model: BioVerse, when: str) -> np.ndarray:
    """Soft tokens by the untrained projector, or by the trained one."""
    if when == "after":
        return np.asarray(results.data.obsm[results.keys.soft_token])
    from bioverse_sc.models import mean_soft_tokens

    untrained = model.untrained_projector(mod).to(model.device).eval()
    return mean_soft_tokens(untrained, np.asarray(results.data.obsm[embedding_slot(results, model, mod)]))


def _metrics(placed: np.ndarray, texts: np.ndarray, own: np.ndarray, unrelated: np.ndarray) -> dict[str, float]:
    """Both directions, of the observations that have a text."""
    known = own >= 0
    return alignment_metrics(placed[known], texts, own[known], unrelated) | text_retrieval(
        placed[known], texts, own[known]
    )


def _everyday_texts(n: int) -> list[str]:
    """Every so many-th of the package's sentences, so that all topics are there."""
    texts = everyday_texts()
    return texts[:: max(1, len(texts) // n)][:n]


def _text_of_cells(column: pd.Series, label_of_text: list[str | None]) -> np.ndarray:
    """Index of the text of each cell's label, a name or an id; -1 where there is none."""
    ontology = cell_ontology()
    index = {term: i for i, term in enumerate(label_of_text) if term is not None}
    labels = column.astype(str)
    of_label = {}
    for label in labels.unique():
        term = label if label in index else ontology.find(label)
        of_label[label] = index.get(term, -1) if term else -1
    return labels.map(of_label).to_numpy(dtype=np.int64)


def _umap(vectors: np.ndarray, *, n_neighbors: int, seed: int) -> np.ndarray:
    import umap

    # one thread: with more, the same seed gives another picture
    model = umap.UMAP(
        n_neighbors=min(n_neighbors, len(vectors) - 1), min_dist=0.3, metric="cosine", random_state=seed, n_jobs=1
    )
    return np.asarray(model.fit_transform(vectors), dtype=np.float32)
