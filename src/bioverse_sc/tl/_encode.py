"""Encoder vectors: computed from what was read, and written with a hash of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bioverse_sc._cache import ArrayCache
from bioverse_sc._logging import finish_log, logger, progress
from bioverse_sc._modality import modality_of
from bioverse_sc._results import Slot
from bioverse_sc._row_hash import bound_hashes, hash_rows, hash_sparse_rows
from bioverse_sc._settings import settings
from bioverse_sc.encoders import Precomputed, prepares_tokens
from bioverse_sc.read import Entities, ahead

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scipy.sparse import csr_matrix

    from bioverse_sc._results import Results
    from bioverse_sc.encoders import Dtype, Encoder
    from bioverse_sc.read import GeneMatrix


@dataclass(frozen=True)
class EncoderOptions:
    """What may be chosen of an encoder that prepares its input: see :func:`bioverse_sc.tl.embed`."""

    gene_selection: Literal["top", "random"] = "top"
    max_length: int | None = None
    seed: int = 0
    dtype: Dtype = "float32"

    @property
    def of_tokens(self) -> dict[str, Any]:
        """Those that say which genes of a cell are read."""
        return {"gene_selection": self.gene_selection, "max_length": self.max_length, "seed": self.seed}

    def check(self, encoder: Encoder) -> None:
        """Raise when the encoder has no such choice."""
        if not prepares_tokens(encoder) and (self.gene_selection, self.max_length, self.dtype) != (
            "top",
            None,
            "float32",
        ):
            msg = (
                f"The encoder {encoder.name!r} has no choice of genes and number formats: leave gene_selection, "
                "max_length and dtype out."
            )
            raise ValueError(msg)


def embedding_slot(results: Results, encoder: str) -> Slot:
    """Slot of the vectors of an encoder."""
    return Slot("obsm", results.keys.embedding(encoder), "encoder vectors")


def embed_cells(
    results: Results,
    encoder: Encoder,
    matrix: GeneMatrix,
    *,
    options: EncoderOptions,
    asked: dict[str, str | None],
    batch_size: int,
    cache: str | Path | None = None,
    is_chosen: bool = False,
) -> None:
    """Embed the rows of a matrix and write; its slot is checked by the caller.

    Parameters
    ----------
    results
        Where to write.
    encoder
        Encoder of cells.
    matrix
        What it reads.
    options
        Choices of the encoder.
    asked
        ``layer`` and ``gene_symbols`` as the user gave them, then or now.
    batch_size
        Cells per forward pass at most.
    cache
        Folder that keeps vectors by content.
    is_chosen
        Whether the user named the encoder, so that nothing else may take its place.
    """
    n_cells = matrix.profile.n_cells
    with finish_log(f"embedding {n_cells} cells with {encoder.name}") as lines:
        logger.info("    %s", matrix.profile)
        for hint in matrix.profile.hints:
            logger.warning("%s.", hint)
        vectors, read = _encoded(encoder, matrix, options, batch_size, ArrayCache(cache))
        params = {
            "source": matrix.source,
            "layer": asked["layer"] or "",
            "kind": matrix.profile.kind,
            "gene_symbols": asked["gene_symbols"] or "",
            "genes_found": len(matrix.genes),
            "genes_of_encoder": matrix.profile.gene_map.n_vocabulary,
            **asdict(options),
            "max_length": options.max_length or 0,
            "device": str(getattr(encoder, "device", settings.torch_device())),
        }
        if is_chosen:
            # a model without this encoder has no other way to know which genes were read
            params["genes"] = list(matrix.genes)
        lines += _write(results, encoder, vectors, read, params, is_chosen=is_chosen)
    n_empty = int((~vectors.any(axis=1)).sum())
    if n_empty:
        few = "no gene" if matrix.profile.min_genes < 2 else f"fewer than {matrix.profile.min_genes} genes"
        logger.warning(
            "%d of %d cells have %s that the encoder knows; their vectors are zero, and their label is 'unknown'.",
            n_empty,
            n_cells,
            few,
        )


def _encoded(
    encoder: Encoder, matrix: GeneMatrix, options: EncoderOptions, batch_size: int, cache: ArrayCache
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of all cells, shape (cells, width), and a hash of what was read of each."""
    n_cells = matrix.profile.n_cells
    vectors = np.zeros((n_cells, encoder.width), dtype=np.float32)
    read = np.zeros(n_cells, dtype=np.uint64)
    made_from = [encoder.name, encoder.fingerprint, options.dtype, *options.of_tokens.values(), list(matrix.genes)]
    with progress(total=n_cells, description="embed", unit="cell") as bar:
        # what may be kept already is prepared only when it is not
        prepared = _prepared(matrix, encoder, options if cache.folder is None else None)
        for rows, counts, tokens in ahead(prepared):
            encode = partial(_encode, encoder, counts, tokens, matrix.genes, options, batch_size)
            chunk = cache.get([*made_from, counts.shape, counts.indptr, counts.indices, counts.data], encode)
            _check_vectors(chunk, (rows.stop - rows.start, encoder.width), encoder.name)
            vectors[rows] = chunk  # (rows, width)
            read[rows] = hash_sparse_rows(counts, matrix.gene_hashes)
            bar.update(rows.stop - rows.start)
    return vectors, read


def _prepared(
    matrix: GeneMatrix, encoder: Any, options: EncoderOptions | None
) -> Iterator[tuple[slice, csr_matrix, Any]]:
    """Yield rows, their values, and their tokens: ``None`` without options, and for an encoder that has none."""
    for rows, counts in matrix.chunks():
        tokens = None
        if options is not None and prepares_tokens(encoder):
            tokens = encoder.tokenize(counts, matrix.genes, **options.of_tokens)
        yield rows, counts, tokens


def _encode(
    encoder: Any, counts: csr_matrix, tokens: Any, genes: list[str], options: EncoderOptions, batch_size: int
) -> np.ndarray:
    if not prepares_tokens(encoder):
        return encoder.encode(counts, genes, batch_size=batch_size)
    if tokens is None:
        tokens = encoder.tokenize(counts, genes, **options.of_tokens)
    return encoder.encode_tokens(tokens, batch_size=batch_size, dtype=options.dtype)


def embed_entities(
    results: Results, encoder: Encoder, *, layer: str | None, batch_size: int, is_chosen: bool = False
) -> None:
    """Embed proteins, molecules or other entities with texts, and write."""
    adata = results.data
    results.check([embedding_slot(results, encoder.name)])
    with finish_log(f"embedding {adata.n_obs} observations of {encoder.mod} with {encoder.name}") as lines:
        entities = Entities(adata, encoder.mod, layer=layer)
        vectors, source = entities.vectors(encoder, batch_size=batch_size)
        logger.info("    %s", source)
        _check_vectors(vectors, (adata.n_obs, encoder.width), encoder.name)
        params = {"source": source, "layer": layer or ""}
        lines += _write(results, encoder, vectors, entities.hashes, params, is_chosen=is_chosen)


def take_precomputed(results: Results, use_rep: str, mod: str) -> None:
    """Put the vectors of a slot in the place of an encoder's."""
    adata = results.data
    if use_rep not in adata.obsm:
        msg = f"There is no slot {use_rep!r} in .obsm; there are {list(adata.obsm)}."
        raise KeyError(msg)
    encoder = Precomputed.of(use_rep, adata.obsm[use_rep])
    if (slot := embedding_slot(results, encoder.name)).key != use_rep:
        results.check([slot])
    with finish_log(f"taking the vectors of {adata.n_obs} {modality_of(mod).plural} from obsm[{use_rep!r}]") as lines:
        vectors = encoder.vectors(adata.obsm[use_rep])
        params = {"source": f"obsm[{use_rep!r}]", "use_rep": use_rep}
        lines += _write(results, encoder, vectors, hash_rows(vectors), params, is_chosen=True)


def _check_vectors(vectors: Any, shape: tuple[int, int], name: str) -> None:
    """Raise when an encoder gives something else than a vector for each cell."""
    if np.shape(vectors) != shape:
        msg = f"The encoder {name!r} gave an array of shape {np.shape(vectors)}; expected {shape}, cells by its width."
        raise ValueError(msg)
    if not np.isfinite(vectors).all():
        msg = f"The encoder {name!r} gave NaN or infinite values; its weights or its computation are broken."
        raise ValueError(msg)


def _write(
    results: Results,
    encoder: Encoder | Precomputed,
    vectors: np.ndarray,
    read: np.ndarray,
    params: dict[str, Any],
    *,
    is_chosen: bool,
) -> list[str]:
    """Write vectors and their provenance, with a hash of what was ``read`` for each; gives the finish lines."""
    made_by = {
        "encoder": encoder.name,
        "encoder_fingerprint": encoder.fingerprint,
        "encoder_chosen": is_chosen,
        "width": vectors.shape[1],
        "content": bound_hashes(read, hash_rows(vectors)),
    }
    return results.write("embed", {embedding_slot(results, encoder.name): vectors}, made_by | params)
