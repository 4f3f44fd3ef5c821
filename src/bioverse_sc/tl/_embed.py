"""Encoder vectors of cells."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from bioverse_sc._cache import ArrayCache
from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger, progress
from bioverse_sc._modalities import ahead, modality, row_chunks
from bioverse_sc._models import get_model
from bioverse_sc._record import record, recorded
from bioverse_sc._settings import settings
from bioverse_sc._validation import check_batch_size
from bioverse_sc.encoders._base import Dtype, EntityEncoder, TokenEncoder
from bioverse_sc.encoders._registry import check_encoder, get_encoder
from bioverse_sc.encoders.precomputed import Precomputed
from bioverse_sc.pp._profile import get_matrix, profile
from bioverse_sc.tl._entities import entity_content, entity_vectors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from scipy.sparse import csr_matrix

    from bioverse_sc.encoders import CellEncoder
    from bioverse_sc.models import BioVerse
    from bioverse_sc.pp import MatrixProfile


def embed(
    data: AnnData | MuData,
    *,
    mod: str | None = None,
    model: str | Path | BioVerse = "mini",
    encoder: str | Path | CellEncoder | EntityEncoder | None = None,
    use_rep: str | None = None,
    layer: str | None = None,
    gene_symbols: str | None = None,
    gene_selection: Literal["top", "random"] = "top",
    max_length: int | None = None,
    seed: int = 0,
    dtype: Dtype = "float32",
    batch_size: int = 64,
    cache: str | Path | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Embed cells, proteins and molecules with frozen encoders: a model's own, another one, or vectors that are there already.

    Source: scGPT (Cui et al., Nature Methods 2024): the hidden state of ``<cls>``, at unit length. ESM-2 (Lin et al., Science
    2023) and ChemBERTa (Chithrananda et al., 2020): the mean hidden state.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData. Of cells (``"rna"``) counts, normalised or log-normalised values. Proteins
        (``"protein"``) have ``.obs["sequence"]``, or are features with ``.var["sequence"]`` and abundances in ``.X``; molecules
        (``"molecule"``) have ``.obs["smiles"]``.
    mod
        Modality. By default that of the encoder, or of an AnnData ``"rna"``, or of a MuData all that the model reads.
    model
        Name of a bundled model, path of a saved one, or a loaded one; its encoders are used.
    encoder
        Another encoder of one modality instead: what :func:`bioverse_sc.encoders.get_encoder` takes, an encoder itself, or
        ``"precomputed"`` for the vectors in ``.obsm[use_rep]``.
    use_rep
        Key of ``.obsm``, such as ``"X_scVI"``, with ``encoder="precomputed"``.
    layer
        ``"X"``, ``"raw"`` or a key of ``.layers``; found by :func:`bioverse_sc.pp.profile` by default.
    gene_symbols
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` by default.
    gene_selection
        Which genes of a cell that has more than the encoder reads: the ``"top"`` ones by value, ties in the order of the
        vocabulary, or ``"random"`` ones, as in the official scGPT code.
    max_length
        Positions of a cell, ``<cls>`` among them; the checkpoint's ``max_seq_len`` by default.
    seed
        Of the random choice. It depends on the seed and on the cell, not on the cells beside it.
    dtype
        Number format of the computation: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    batch_size
        Cells per forward pass at most. It does not change the result beyond rounding.
    cache
        Folder where vectors are kept by the content that they were computed from (cells, genes, weights, settings), so that
        another run on the same cells needs no encoder, and an interrupted one goes on. Nothing is kept by default.
    key_added
        Stem of the slots' names instead of ``"bioverse"``.
    copy
        Whether to return a copy instead of writing to ``data``.

    Returns
    -------
    ``None``, or a copy when ``copy=True``. Sets:

    ``.obsm["X_scgpt"]``
        Vectors, shape (cells, width), float32; zeros for a cell without any known gene. It is ``"X_<name>"`` for an
        encoder of another name, ``"X_precomputed"`` among them, and ``"X_<key_added>_scgpt"`` with another stem.
    ``.uns["bioverse"]["embed"]``
        Provenance.

    Raises
    ------
    ValueError
        When the data are unusable (see :func:`bioverse_sc.pp.profile`), or the vectors of ``use_rep`` hold NaN.
    KeyError
        When ``layer``, ``gene_symbols`` or ``use_rep`` is not there.
    FileNotFoundError
        When the files of an encoder are not there.
    """
    if dtype not in get_args(Dtype):
        msg = f"dtype is {dtype!r}; expected one of {', '.join(map(repr, get_args(Dtype)))}."
        raise ValueError(msg)
    if (use_rep is not None) != (isinstance(encoder, str) and encoder == "precomputed"):
        msg = f"use_rep goes with encoder='precomputed'; found encoder={encoder!r}, use_rep={use_rep!r}."
        raise ValueError(msg)
    check_batch_size(batch_size)
    if copy:
        data = data.copy()
    keys = Keys(key_added or "bioverse")
    if use_rep is not None:
        take_precomputed(modality(data, mod or "rna"), use_rep, keys)
        return data if copy else None
    chosen: list[CellEncoder | EntityEncoder]
    if encoder is None:
        chosen = own_encoders(get_model(model), data, mod)
    elif isinstance(encoder, str) or hasattr(encoder, "__fspath__"):
        chosen = [get_encoder(cast("str | Path", encoder), modality=mod or "rna")]
    else:
        if not isinstance(encoder, EntityEncoder):
            check_encoder(encoder, "encoder")
        chosen = [encoder]
    for each in chosen:
        if mod not in (None, each.modality):
            msg = f"mod is {mod!r}, but the encoder {each.name!r} reads {each.modality!r}."
            raise ValueError(msg)
        adata = modality(data, each.modality)
        if isinstance(each, EntityEncoder):
            embed_entities(adata, each, keys, layer=layer, batch_size=batch_size, chosen=encoder is not None)
        else:
            embed_cells(
                adata,
                each,
                keys,
                layer=layer,
                gene_symbols=gene_symbols,
                batch_size=batch_size,
                gene_selection=gene_selection,
                max_length=max_length,
                seed=seed,
                dtype=dtype,
                cache=cache,
                chosen=encoder is not None,
            )
    return data if copy else None


def own_encoders(model: BioVerse, data: AnnData | MuData, mod: str | None) -> list[CellEncoder | EntityEncoder]:
    """The model's encoders of a modality, or of all that both the model and a MuData have."""
    return [own_encoder(model, name) for name in readable(model, data, mod)]


def readable(model: BioVerse, data: AnnData | MuData, mod: str | None) -> list[str]:
    """The modality that is asked for; of an AnnData cells; of a MuData all modalities that the model reads."""
    mods = getattr(data, "mod", None)
    if mod is not None:
        return [mod]
    if mods is None:
        for name, encoder in model.encoders.items():
            if isinstance(encoder, EntityEncoder) and getattr(data, "n_vars", 1) == 0 and encoder.column in data.obs:
                msg = f"This AnnData has no genes but .obs[{encoder.column!r}]; say what it holds, mod={name!r}."
                raise ValueError(msg)
        return ["rna"]
    both = [name for name in model.config.projectors if name in mods]
    if not both:
        msg = f"The model {model.config.name!r} reads {sorted(model.config.projectors)}, and the MuData has {list(mods)}: none of them."
        raise KeyError(msg)
    return both


def check_read(model: BioVerse, mods: Sequence[str]) -> None:
    """Raise when the model has no projector for a modality."""
    reads = sorted(model.config.projectors)
    if unread := [mod for mod in mods if mod not in reads]:
        msg = f"The model {model.config.name!r} has no projector for {', '.join(map(repr, unread))}; it reads {reads}."
        if reads:
            msg += f" Name one of those, for example mod={reads[0]!r}."
        raise ValueError(msg)


def embed_entities(
    adata: AnnData, encoder: EntityEncoder, keys: Keys, *, layer: str | None, batch_size: int, chosen: bool
) -> None:
    """Embed proteins or molecules and write."""
    with finish_log(f"embedding {adata.n_obs} observations of {encoder.modality} with {encoder.name}") as slots:
        vectors, source = entity_vectors(adata, encoder, layer=layer, batch_size=batch_size)
        logger.info("    %s", source)
        _check_vectors(vectors, (adata.n_obs, encoder.width), encoder.name)
        params = {"source": source, "layer": layer or "", "content": entity_content(adata, encoder, layer)}
        slots += _write(adata, keys, encoder, vectors, params, chosen=chosen)


def embed_cells(
    adata: AnnData,
    encoder: CellEncoder,
    keys: Keys,
    *,
    layer: str | None,
    gene_symbols: str | None,
    batch_size: int,
    gene_selection: Literal["top", "random"] = "top",
    max_length: int | None = None,
    seed: int = 0,
    dtype: Dtype = "float32",
    cache: str | Path | None = None,
    chosen: bool = False,
) -> None:
    """Embed and write; ``chosen`` says that the user named the encoder, so that nothing else may take its place."""
    if not isinstance(encoder, TokenEncoder) and (gene_selection, max_length, dtype) != ("top", None, "float32"):
        msg = (
            f"The encoder {encoder.name!r} has no choice of genes and number formats: leave gene_selection, max_length and "
            "dtype out."
        )
        raise ValueError(msg)
    choice = {"gene_selection": gene_selection, "max_length": max_length, "seed": seed}
    matrix = profile(adata, vocabulary=encoder.genes, layer=layer, gene_symbols=gene_symbols)
    with finish_log(f"embedding {adata.n_obs} cells with {encoder.name}") as slots:
        logger.info("    %s", matrix)
        for hint in matrix.hints:
            logger.warning("%s.", hint)
        vectors = np.zeros((adata.n_obs, encoder.width), dtype=np.float32)
        kept = ArrayCache(cache)
        made_from = [encoder.name, encoder.fingerprint, dtype, *choice.values(), list(matrix.gene_map.genes)]
        with progress(total=adata.n_obs, description="embed", unit="cell") as bar:
            # what may be kept already is prepared only when it is not
            for rows, counts, tokens in ahead(_prepared(adata, matrix, encoder, choice if cache is None else None)):
                encode = partial(_encode, encoder, counts, tokens, matrix.gene_map.genes, choice, batch_size, dtype)
                found = kept.get([*made_from, counts.shape, counts.indptr, counts.indices, counts.data], encode)
                _check_vectors(found, (rows.stop - rows.start, encoder.width), encoder.name)
                vectors[rows] = found
                bar.update(rows.stop - rows.start)
        params = {
            "source": matrix.source,
            "kind": matrix.kind,
            "gene_symbols": gene_symbols or "",
            "genes_found": len(matrix.gene_map.genes),
            "genes_of_encoder": matrix.gene_map.n_vocabulary,
            "gene_selection": gene_selection,
            "max_length": max_length or 0,
            "seed": seed,
            "dtype": dtype,
            "device": str(getattr(encoder, "device", settings.torch_device())),
        }
        slots += _write(adata, keys, encoder, vectors, params, chosen=chosen)
    n_empty = int((~vectors.any(axis=1)).sum())
    if n_empty:
        few = "no gene" if matrix.min_genes < 2 else f"fewer than {matrix.min_genes} genes"
        logger.warning(
            "%d of %d cells have %s that the encoder knows; their vectors are zero, and their label is 'unknown'.",
            n_empty,
            adata.n_obs,
            few,
        )


def _check_vectors(vectors: Any, shape: tuple[int, int], name: str) -> None:
    """Raise when an encoder gives something else than a vector for each cell."""
    if np.shape(vectors) != shape:
        msg = f"The encoder {name!r} gave an array of shape {np.shape(vectors)}; expected {shape}, cells by its width."
        raise ValueError(msg)
    if not np.isfinite(vectors).all():
        msg = f"The encoder {name!r} gave NaN or infinite values; its weights or its computation are broken."
        raise ValueError(msg)


def _encode(
    encoder: CellEncoder,
    counts: csr_matrix,
    tokens: Any,
    genes: Sequence[str],
    choice: dict[str, Any],
    batch_size: int,
    dtype: Dtype,
) -> np.ndarray:
    if isinstance(encoder, TokenEncoder):
        if tokens is None:
            tokens = encoder.tokenize(counts, genes, **choice)
        return encoder.encode_tokens(tokens, batch_size=batch_size, dtype=dtype)
    return encoder.encode(counts, genes, batch_size=batch_size)


def _prepared(
    adata: AnnData, matrix: MatrixProfile, encoder: CellEncoder, choice: dict[str, Any] | None
) -> Iterator[tuple[slice, csr_matrix, Any]]:
    """Yield rows, their values, and their tokens: ``None`` without a choice, and for an encoder that has none."""
    for rows, chunk in row_chunks(get_matrix(adata, matrix.source), matrix.gene_map.columns):
        counts = matrix.gene_map.gather(chunk)
        if choice is not None and isinstance(encoder, TokenEncoder):
            yield rows, counts, encoder.tokenize(counts, matrix.gene_map.genes, **choice)
        else:
            yield rows, counts, None


def take_precomputed(adata: AnnData, use_rep: str, keys: Keys) -> None:
    """Put the vectors of a slot in the place of an encoder's."""
    if use_rep not in adata.obsm:
        msg = f"There is no slot {use_rep!r} in .obsm; there are {list(adata.obsm)}."
        raise KeyError(msg)
    encoder = Precomputed.of(use_rep, adata.obsm[use_rep])
    with finish_log(f"taking the vectors of {adata.n_obs} cells from obsm[{use_rep!r}]") as slots:
        vectors = encoder.vectors(adata.obsm[use_rep])
        slots += _write(adata, keys, encoder, vectors, {"source": f"obsm[{use_rep!r}]"}, chosen=True)


def _write(
    adata: AnnData,
    keys: Keys,
    encoder: CellEncoder | EntityEncoder | Precomputed,
    vectors: np.ndarray,
    params: dict[str, Any],
    *,
    chosen: bool,
) -> list[str]:
    """Write vectors and their provenance; gives the slots."""
    slot = keys.embedding(encoder.name)
    adata.obsm[slot] = vectors
    made_by = {
        "encoder": encoder.name,
        "encoder_fingerprint": encoder.fingerprint,
        "encoder_chosen": chosen,
        "width": vectors.shape[1],
    }
    recorded_in = record(adata, keys, "embed", made_by | params)
    # what was made from other vectors is out of date
    adata.uns[keys.stem].pop("align", None)
    return [f"'{slot}', encoder vectors (adata.obsm)", recorded_in]


def own_encoder(model: BioVerse, mod: str = "rna") -> CellEncoder | EntityEncoder:
    """Give the model's encoder of a modality; a model that was trained on vectors from elsewhere has none."""
    check_read(model, [mod])
    if mod not in model.encoders:
        name, _, width = contract(model, mod)
        msg = (
            f"The model {model.config.name!r} has no encoder of its own: it reads vectors of {name!r}, width {width}. Give it those "
            "first, e.g. bsc.tl.embed(adata, encoder='precomputed', use_rep='X_scVI'); an encoder of your own has to be "
            "registered, bsc.encoders.register(name, factory), before the model is loaded."
        )
        raise ValueError(msg)
    return model.encoders[mod]


def contract(model: BioVerse, mod: str = "rna") -> tuple[str, str, int]:
    """What a projector reads: name and fingerprint of the encoder (``""`` for any), and width of its vectors."""
    shape = model.config.projectors[mod]
    encoder = model.encoders.get(mod)
    if encoder is None:
        return shape.encoder, shape.encoder_fingerprint, shape.in_width
    return encoder.name, encoder.fingerprint, shape.in_width


def ensure_embedding(
    adata: AnnData,
    model: BioVerse,
    keys: Keys,
    *,
    mod: str = "rna",
    layer: str | None,
    gene_symbols: str | None,
    batch_size: int,
) -> None:
    """Embed with the model's own encoder, unless vectors that fit are there, of the same sequences, SMILES or abundances.

    Vectors of an encoder that the user chose are used, or are an error: they are never replaced in silence by those of another one.
    """
    check_batch_size(batch_size)
    check_read(model, [mod])
    made_by = recorded(adata, keys, "embed")
    own = model.encoders.get(mod)
    if made_by.get("encoder_chosen") and keys.embedding(made_by["encoder"]) in adata.obsm:
        name, fingerprint, width = contract(model, mod)
        found = adata.obsm[keys.embedding(made_by["encoder"])].shape[1]
        if (made_by["encoder"], found) == (name, width) and fingerprint in ("", made_by["encoder_fingerprint"]):
            if isinstance(own, EntityEncoder):
                if _has_changed(adata, own, made_by, layer):
                    embed_entities(adata, own, keys, layer=layer, batch_size=batch_size, chosen=True)
                return
            for argument, used, asked in _other_matrix(made_by, layer=layer, gene_symbols=gene_symbols):
                msg = (
                    f"The cells were embedded with {argument}={used!r} and encoder={name!r}, which you chose; embed "
                    f"them again with {argument}={asked!r}, bsc.tl.embed(adata, encoder=..., {argument}={asked!r})."
                )
                raise ValueError(msg)
            return
        what = (
            f"{made_by['encoder']!r} ({made_by['source']}), width {found}, fingerprint {made_by['encoder_fingerprint']}"
        )
        msg = (
            f"The cells were embedded with {what}, but the projector of {model.config.name!r} was trained for {name!r}, width {width}, "
            f"fingerprint {fingerprint or 'any'}. Train a model on those vectors, embed with the model's own encoder, "
            "bsc.tl.embed(adata, model=...), or keep both apart with key_added='another'."
        )
        raise ValueError(msg)
    if has_embedding(adata, model, keys, mod=mod, layer=layer, gene_symbols=gene_symbols):
        return
    encoder = own_encoder(model, mod)
    if isinstance(encoder, EntityEncoder):
        embed_entities(adata, encoder, keys, layer=layer, batch_size=batch_size, chosen=False)
    else:
        embed_cells(adata, encoder, keys, layer=layer, gene_symbols=gene_symbols, batch_size=batch_size)


def _other_matrix(
    made_by: Mapping[str, Any], *, layer: str | None, gene_symbols: str | None
) -> list[tuple[str, Any, str]]:
    """Arguments that ask for another matrix than the vectors were made from: name, what was used, what is asked for."""
    arguments = (("layer", made_by.get("source"), layer), ("gene_symbols", made_by.get("gene_symbols"), gene_symbols))
    return [(name, used, asked) for name, used, asked in arguments if asked is not None and used != asked]


def _has_changed(adata: AnnData, encoder: EntityEncoder, made_by: Mapping[str, Any], layer: str | None) -> bool:
    """Whether the texts or abundances are others than those that the vectors were made from; not when they are gone."""
    if layer is None and (used := made_by.get("layer")):
        if used not in (*adata.layers, "X"):
            return False
        layer = used
    return not np.isin(entity_content(adata, encoder, layer), made_by.get("content", [])).all()


def embedding_slot(adata: AnnData, model: BioVerse, keys: Keys, mod: str = "rna") -> str:
    """Slot of the vectors that :func:`ensure_embedding` has made sure of."""
    made_by = recorded(adata, keys, "embed")
    return keys.embedding(str(made_by["encoder"] if made_by.get("encoder_chosen") else contract(model, mod)[0]))


def has_embedding(
    adata: AnnData,
    model: BioVerse,
    keys: Keys,
    *,
    mod: str = "rna",
    layer: str | None = None,
    gene_symbols: str | None = None,
) -> bool:
    """Whether the vectors of this model's encoder are there, made from the matrix that the caller asks for, if any."""
    name, fingerprint, _ = contract(model, mod)
    made_by = recorded(adata, keys, "embed")
    if keys.embedding(name) not in adata.obsm or made_by.get("encoder_fingerprint") != fingerprint or not fingerprint:
        return False
    encoder = model.encoders.get(mod)
    if isinstance(encoder, EntityEncoder):
        return not _has_changed(adata, encoder, made_by, layer)
    return not _other_matrix(made_by, layer=layer, gene_symbols=gene_symbols)
