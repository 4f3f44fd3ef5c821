"""Cells and texts in one space, before and after alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log
from bioverse_sc._modalities import modality
from bioverse_sc._models import get_model
from bioverse_sc._record import record
from bioverse_sc.metrics import alignment_metrics
from bioverse_sc.ontology import cell_ontology
from bioverse_sc.tl._align import align_cells, has_alignment, projected
from bioverse_sc.tl._embed import embedding_slot, ensure_embedding

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse

UNRELATED_TEXTS = 150


def alignment(
    data: AnnData | MuData,
    *,
    model: str | Path | BioVerse = "mini",
    labels_key: str | None = None,
    texts: Sequence[str] | None = None,
    layer: str | None = None,
    gene_symbols: str | None = None,
    batch_size: int = 64,
    n_neighbors: int = 15,
    seed: int = 0,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Place cells beside texts in the language model's embedding space, before and after alignment, and measure it.

    A text lies at the mean of the language model's input token embeddings. There are the descriptions of the model's
    labels (name, definition, markers) and sentences about everyday things. *Before* is the same projector with its
    untrained weights. Both spaces are laid out by UMAP with cosine distance.

    Source: figure 2 of BioVERSE (arXiv 2510.01428).

    Parameters
    ----------
    data
        AnnData, or MuData with an ``"rna"`` modality.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    labels_key
        Column of ``.obs`` with a Cell Ontology name, synonym or id for each cell, for the metrics; the label that
        :func:`bioverse_sc.tl.annotate` wrote by default. Cells whose label has no text are left out of the metrics.
    texts
        Biological texts instead of the descriptions; there are no retrieval metrics then.
    layer, gene_symbols, batch_size
        As for :func:`bioverse_sc.tl.embed`, when the cells are not embedded yet.
    n_neighbors
        Of UMAP.
    seed
        Of UMAP.
    key_added
        Stem of the slots' names instead of ``"bioverse"``.
    copy
        Whether to return a copy instead of writing to ``data``.

    Returns
    -------
    ``None``, or a copy when ``copy=True``. Sets what :func:`bioverse_sc.tl.align` sets, if missing, and:

    ``.obsm["X_bioverse_umap_before"]``, ``.obsm["X_bioverse_umap_after"]``
        Coordinates of the cells, shape (cells, 2).
    ``.uns["bioverse"]["alignment"]``
        ``texts``, ``texts_related`` (1 biological, 0 everyday), ``texts_before`` and ``texts_after`` (coordinates), and
        the metrics ``before`` and ``after``: ``retrieval_at_1``, ``_5``, ``_10`` (the text of a cell's label among all
        texts), ``modality_gap`` (cells to their labels' texts), ``gap_to_unrelated``, ``knn_agreement``.
    """
    if copy:
        data = data.copy()
    adata = modality(data)
    loaded = get_model(model)
    keys = Keys(key_added or "bioverse")
    if labels_key is not None and labels_key not in adata.obs:
        msg = f"There is no column {labels_key!r} in .obs; there are {list(adata.obs.columns)}."
        raise KeyError(msg)
    if texts is not None and not all(text.strip() for text in texts):
        msg = "A text is empty: it has no place in the embedding space. Remove it from texts."
        raise ValueError(msg)
    ensure_embedding(adata, loaded, keys, layer=layer, gene_symbols=gene_symbols, batch_size=batch_size)
    if not has_alignment(adata, loaded, keys):
        align_cells(adata, loaded, keys)
    with finish_log(f"comparing {adata.n_obs} cells with texts, before and after alignment") as slots:
        terms = [cell_ontology().find(label) for label in loaded.config.labels]
        if texts is None:
            texts = [
                label if term is None else cell_ontology().describe(term)
                for label, term in zip(loaded.config.labels, terms, strict=True)
            ]
            label_of_text = terms
        else:
            label_of_text = []
        unrelated = _everyday_texts(UNRELATED_TEXTS)
        related_vectors = loaded.text_vectors(list(texts)).cpu().numpy()
        unrelated_vectors = loaded.text_vectors(unrelated).cpu().numpy()
        text_vectors = np.concatenate([related_vectors, unrelated_vectors])
        vectors = np.asarray(adata.obsm[embedding_slot(adata, loaded, keys)])
        untrained = loaded.untrained_projector("rna").to(loaded.device).eval()
        cells = {"before": projected(untrained, vectors), "after": np.asarray(adata.obsm[keys.soft_token])}
        column = labels_key or keys.label
        true_text = _text_of_cells(adata, column, label_of_text) if column in adata.obs else np.full(adata.n_obs, -1)
        known = true_text >= 0
        entries: dict[str, object] = {
            "model_fingerprint": loaded.fingerprint,
            "texts": [*texts, *unrelated],
            "texts_related": np.array([1] * len(texts) + [0] * len(unrelated)),
            "labels_key": column if known.any() else "",
            "seed": seed,
        }
        for when, placed in cells.items():
            slot = keys.umap_before if when == "before" else keys.umap_after
            coordinates = _umap(np.concatenate([placed, text_vectors]), n_neighbors=n_neighbors, seed=seed)
            adata.obsm[slot] = coordinates[: adata.n_obs]
            entries[f"texts_{when}"] = coordinates[adata.n_obs :]
            slots.append(f"'{slot}', UMAP coordinates (adata.obsm)")
            if known.any():
                entries[when] = alignment_metrics(placed[known], related_vectors, true_text[known], unrelated_vectors)
        slots.append(record(adata, keys, "alignment", entries))
    return data if copy else None


def _everyday_texts(n: int) -> list[str]:
    """Every so many-th of the package's sentences, so that all topics are there."""
    from bioverse_sc.train import general_domain_texts

    texts = general_domain_texts()
    return texts[:: max(1, len(texts) // n)][:n]


def _text_of_cells(adata: AnnData, column: str, label_of_text: list[str | None]) -> np.ndarray:
    """Index of the text of each cell's label; -1 where there is none."""
    ontology = cell_ontology()
    index = {term: i for i, term in enumerate(label_of_text) if term is not None}
    labels = adata.obs[column].astype(str)
    of_label = {}
    for label in labels.unique():
        term = ontology.find(label)
        of_label[label] = index.get(term, -1) if term else -1
    return labels.map(of_label).to_numpy(dtype=np.int64)


def _umap(vectors: np.ndarray, *, n_neighbors: int, seed: int) -> np.ndarray:
    import umap

    # one thread: with more, the same seed gives another picture
    model = umap.UMAP(
        n_neighbors=min(n_neighbors, len(vectors) - 1), min_dist=0.3, metric="cosine", random_state=seed, n_jobs=1
    )
    return np.asarray(model.fit_transform(vectors), dtype=np.float32)
