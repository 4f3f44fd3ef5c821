"""Observations beside texts in the language model's embedding space, before and after alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log
from bioverse_sc._modality import CELLS, modality_of
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Results, Slot
from bioverse_sc._row_hash import bound_hashes, hash_rows
from bioverse_sc._validation import check_text_list
from bioverse_sc.metrics import alignment_metrics, text_retrieval
from bioverse_sc.tl._subject import Reading, subjects
from bioverse_sc.tl._texts import texts_of, unrelated_texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse
    from bioverse_sc.tl._subject import Subject
    from bioverse_sc.tl._texts import Texts

WHEN = ("before", "after")
"""Spaces: of the untrained projector, and of the trained one."""


@undisturbed()
def alignment_umap(
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

    Without ``labels_key`` the labels of cells are those that :func:`bioverse_sc.tl.annotate` wrote; cells whose label
    has no text are left out of the metrics. ``seed`` is that of UMAP.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData; :func:`bioverse_sc.tl.embed` says what it holds.
    mod
        Modality. By default of an AnnData ``"rna"``, and of a MuData all that the model reads.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    labels_key
        Column of ``.obs`` with the true label of each cell, for the metrics: a Cell Ontology name, synonym or id.
    texts_key
        Column of ``.obs`` with a text for each observation, such as ``"description"``, in one modality or more. A
        missing value means no text: the observation is left out of the metrics. Cells have these in place of
        descriptions, unless ``labels_key`` or ``texts`` is given.
    texts
        Biological texts instead of the descriptions of labels; they are no observation's own, so there are no metrics
        of cells then. Without cells they go with the first modality.
    layer
        Matrix to read: ``"X"``, ``"raw"`` or a key of ``.layers``. By default what was read when the observations were
        embedded, or what :func:`bioverse_sc.pp.profile` finds.
    gene_symbols
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` by default.
    batch_size
        Observations per forward pass at most. It does not change the result beyond rounding.
    n_neighbors
        Of UMAP.
    seed
        Of what is random: equal seeds give equal results.
    key_added
        Stem of the slots' names instead of ``"bioverse"``.
    overwrite
        Whether a slot that this package did not write, or that was changed since, may be written over; it is an error
        otherwise.
    copy
        Whether to return a copy instead of writing to ``data``.

    Returns
    -------
    ``None``, or a copy when ``copy=True``. Sets what :func:`bioverse_sc.tl.align` sets, if missing, and:

    ``.obsm["X_bioverse_umap_before"]``, ``.obsm["X_bioverse_umap_after"]``
        Coordinates of the observations, shape (observations, 2). Of MuData in each modality.
    ``.uns["bioverse"]["alignment_umap"]``
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
        check_text_list(texts)
    if copy:
        data = data.copy()
    reading = Reading(layer, gene_symbols, batch_size)
    subject_of = {s.mod: s for s in subjects(data, model, keys, mod=mod, reading=reading, overwrite=overwrite)}
    first = CELLS if CELLS in subject_of else next(iter(subject_of))
    texts_by_mod = texts_of(subject_of, first, labels_key=labels_key, texts_key=texts_key, texts=texts)
    slot_of = {"before": Slot("obsm", keys.umap_before, "UMAP"), "after": Slot("obsm", keys.umap_after, "UMAP")}
    for subject in subject_of.values():
        subject.results.check([*slot_of.values(), subject.soft_tokens_slot])
    soft_tokens = {name: subject.soft_tokens for name, subject in subject_of.items()}
    sizes = [len(rows) for rows in soft_tokens.values()]
    counted = modality_of(CELLS).plural if [*subject_of] == [CELLS] else f"observations of {', '.join(subject_of)}"
    with finish_log(f"comparing {sum(sizes)} {counted} with texts, before and after alignment") as lines:
        places, entries = _placed(subject_of, texts_by_mod, n_neighbors=n_neighbors, seed=seed)
        entries |= {"labels_key": texts_by_mod[first].labels_key, "texts_key": texts_key or "", "seed": seed}
        # a layout is drawn as long as it is of the soft tokens that are there
        entries["content"] = {
            name: bound_hashes(hash_rows(soft_tokens[name]), hash_rows(places["after"][name])) for name in subject_of
        }
        # of another layout, whose coordinates are no longer there
        together = Results(data, keys)
        together.outdate("alignment_umap")
        for name, subject in subject_of.items():
            values = {slot_of[when]: places[when][name] for when in WHEN}
            written = subject.results.write("alignment_umap", values, entries if len(subject_of) == 1 else None)
            lines += [line for line in written if line not in lines]
        if len(subject_of) > 1:
            lines += together.write("alignment_umap", {}, entries)
    return data if copy else None


def _placed(
    subject_of: Mapping[str, Subject], texts_by_mod: Mapping[str, Texts], *, n_neighbors: int, seed: int
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Coordinates of the observations, by when and modality, and what is stored beside them."""
    loaded = next(iter(subject_of.values())).model
    unrelated = unrelated_texts()
    related = [text for of_mod in texts_by_mod.values() for text in of_mod.texts]
    text_vectors = loaded.text_vectors([*related, *unrelated]).cpu().numpy()  # (texts, width)
    borders = np.cumsum([len(of_mod.texts) for of_mod in texts_by_mod.values()])
    *by_mod, unrelated_vectors = np.split(text_vectors, borders)
    entries: dict[str, Any] = {
        "model_fingerprint": loaded.fingerprint,
        "modalities": list(subject_of),
        "texts": [*related, *unrelated],
        "texts_modality": [name for name, of_mod in texts_by_mod.items() for _ in of_mod.texts] + [""] * len(unrelated),
        "texts_related": np.array([1] * len(related) + [0] * len(unrelated)),
    }
    places: dict[str, dict[str, np.ndarray]] = {}
    for when in WHEN:
        spaces = {name: _space(subject, when) for name, subject in subject_of.items()}
        coordinates = _umap(np.concatenate([*spaces.values(), text_vectors]), n_neighbors=n_neighbors, seed=seed)
        sizes = [len(space) for space in spaces.values()]
        *of_observations, entries[f"texts_{when}"] = np.split(coordinates, np.cumsum(sizes))
        places[when] = dict(zip(spaces, of_observations, strict=True))
        metrics = {
            name: _metrics(spaces[name], vectors, texts_by_mod[name], unrelated_vectors)
            for name, vectors in zip(spaces, by_mod, strict=True)
            if texts_by_mod[name].has_text.any()
        }
        if metrics:
            # of one modality they stand by themselves
            entries[when] = metrics if len(subject_of) > 1 else next(iter(metrics.values()))
    return places, entries


def _space(subject: Subject, when: str) -> np.ndarray:
    """Soft tokens by the untrained projector, or by the trained one, shape (observations, width)."""
    from bioverse_sc.models import mean_soft_tokens

    if when == "after":
        return subject.soft_tokens
    untrained = subject.model.untrained_projector(subject.mod).to(subject.model.device).eval()
    return mean_soft_tokens(untrained, subject.vectors)


def _metrics(space: np.ndarray, text_vectors: np.ndarray, texts: Texts, unrelated: np.ndarray) -> dict[str, float]:
    """Both directions, of the observations that have a text."""
    placed, true_text = space[texts.has_text], texts.text_of[texts.has_text]
    forth = alignment_metrics(placed, text_vectors, true_text, unrelated)
    return forth | text_retrieval(placed, text_vectors, true_text)


def _umap(vectors: np.ndarray, *, n_neighbors: int, seed: int) -> np.ndarray:
    import umap

    # one thread: with more, the same seed gives another picture
    model = umap.UMAP(
        n_neighbors=min(n_neighbors, len(vectors) - 1), min_dist=0.3, metric="cosine", random_state=seed, n_jobs=1
    )
    return np.asarray(model.fit_transform(vectors), dtype=np.float32)
