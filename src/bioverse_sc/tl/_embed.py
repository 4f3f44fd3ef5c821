"""Encoder vectors of cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger, progress
from bioverse_sc._modalities import modality, row_chunks
from bioverse_sc._models import get_model
from bioverse_sc._record import record, recorded
from bioverse_sc.pp._profile import get_matrix, profile

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse


def embed(
    data: AnnData | MuData,
    *,
    model: str | Path | BioVerse = "mini",
    layer: str | None = None,
    gene_symbols: str | None = None,
    batch_size: int = 64,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Embed cells with a model's frozen encoder.

    Source: scGPT (Cui et al., Nature Methods 2024): the hidden state of ``<cls>``, at unit length.

    Parameters
    ----------
    data
        AnnData, or MuData with an ``"rna"`` modality. Counts, normalised or log-normalised values.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    layer
        ``"X"``, ``"raw"`` or a key of ``.layers``; found by :func:`bioverse_sc.pp.profile` by default.
    gene_symbols
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` by default.
    batch_size
        Cells per forward pass. It does not change the result beyond rounding.
    key_added
        Stem of the slots' names instead of ``"bioverse"``.
    copy
        Whether to return a copy instead of writing to ``data``.

    Returns
    -------
    ``None``, or a copy when ``copy=True``. Sets:

    ``.obsm["X_scgpt"]``
        Vectors, shape (cells, width), float32; zeros for a cell without any known gene.
        ``"X_<key_added>_scgpt"`` with another stem.
    ``.uns["bioverse"]["embed"]``
        Provenance.

    Raises
    ------
    ValueError
        When the data are unusable; see :func:`bioverse_sc.pp.profile`.
    """
    if copy:
        data = data.copy()
    adata = modality(data)
    loaded = get_model(model)
    embed_cells(
        adata, loaded, Keys(key_added or "bioverse"), layer=layer, gene_symbols=gene_symbols, batch_size=batch_size
    )
    return data if copy else None


def embed_cells(
    adata: AnnData, model: BioVerse, keys: Keys, *, layer: str | None, gene_symbols: str | None, batch_size: int
) -> None:
    """Embed and write."""
    encoder = model.encoders["rna"]
    matrix = profile(adata, vocabulary=encoder.genes, layer=layer, gene_symbols=gene_symbols)
    slot = keys.embedding(encoder.name)
    with finish_log(f"embedding {adata.n_obs} cells with {encoder.name} of {model.config.name!r}") as slots:
        logger.info("    %s", matrix)
        vectors = np.zeros((adata.n_obs, encoder.width), dtype=np.float32)
        source = get_matrix(adata, matrix.source)
        with progress(total=adata.n_obs, description="embed", unit="cell") as bar:
            for rows, chunk in row_chunks(source, matrix.gene_map.columns):
                counts = matrix.gene_map.gather(chunk)
                vectors[rows] = encoder.encode(counts, matrix.gene_map.genes, batch_size=batch_size)
                bar.update(chunk.shape[0])
        adata.obsm[slot] = vectors
        slots.append(f"'{slot}', encoder vectors (adata.obsm)")
        params = {
            "encoder": encoder.name,
            "encoder_fingerprint": encoder.fingerprint,
            "source": matrix.source,
            "kind": matrix.kind,
            "gene_symbols": gene_symbols or "",
            "genes_found": len(matrix.gene_map.genes),
            "genes_of_encoder": matrix.gene_map.n_vocabulary,
            "dtype": "float32",
            "device": str(model.device),
        }
        slots.append(record(adata, keys, "embed", params))
        # what was made from other vectors is out of date
        adata.uns[keys.stem].pop("align", None)
    n_empty = int((~vectors.any(axis=1)).sum())
    if n_empty:
        logger.warning(
            "%d of %d cells have no gene that the encoder knows; their vectors are zero.", n_empty, adata.n_obs
        )


def has_embedding(
    adata: AnnData, model: BioVerse, keys: Keys, *, layer: str | None = None, gene_symbols: str | None = None
) -> bool:
    """Whether the vectors of this model's encoder are there, made from the matrix that the caller asks for, if any."""
    encoder = model.encoders["rna"]
    made_by = recorded(adata, keys, "embed")
    if layer is not None and made_by.get("source") != layer:
        return False
    if gene_symbols is not None and made_by.get("gene_symbols") != gene_symbols:
        return False
    return (
        keys.embedding(encoder.name) in adata.obsm and made_by.get("encoder_fingerprint") == encoder.fingerprint != ""
    )
