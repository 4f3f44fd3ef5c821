"""Encoder vectors of cells."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from bioverse_sc._cache import ArrayCache
from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger, progress
from bioverse_sc._modalities import ahead, layer_names, modality, row_chunks
from bioverse_sc._models import get_model
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Results, Slot
from bioverse_sc._row_hash import bound_hashes, hash_rows, hash_sparse_rows, hash_texts
from bioverse_sc._settings import settings
from bioverse_sc._validation import check_batch_size
from bioverse_sc.encoders._base import Dtype, EntityEncoder, TokenEncoder
from bioverse_sc.encoders._registry import check_encoder, get_encoder
from bioverse_sc.encoders.precomputed import Precomputed
from bioverse_sc.pp._profile import get_matrix, profile
from bioverse_sc.tl._entities import entity_hashes, entity_vectors

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from scipy.sparse import csr_matrix

    from bioverse_sc.encoders import CellEncoder
    from bioverse_sc.models import BioVerse
    from bioverse_sc.pp import MatrixProfile


@undisturbed()
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
    overwrite: bool = False,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Embed cells, proteins and molecules: with a model's frozen encoders, another one, or vectors that are there.

    Source: scGPT (Cui et al., Nature Methods 2024): the hidden state of ``<cls>``, at unit length. ESM-2 (Lin et al.,
    Science 2023) and ChemBERTa (Chithrananda et al., 2020): the mean hidden state.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData. Of cells (``"rna"``) counts, normalised or log-normalised values. Proteins
        (``"protein"``) have ``.obs["sequence"]``, or are features with ``.var["sequence"]`` and abundances in ``.X``;
        molecules (``"molecule"``) have ``.obs["smiles"]``.
    mod
        Modality. By default that of the encoder, or of an AnnData ``"rna"``, or of a MuData all that the model reads.
    model
        Name of a bundled model, path of a saved one, or a loaded one; its encoders are used.
    encoder
        Another encoder of one modality instead: what :func:`bioverse_sc.encoders.get_encoder` takes, an encoder itself,
        or ``"precomputed"`` for the vectors in ``.obsm[use_rep]``.
    use_rep
        Key of ``.obsm``, such as ``"X_scVI"``, with ``encoder="precomputed"``.
    layer
        ``"X"``, ``"raw"`` or a key of ``.layers``; found by :func:`bioverse_sc.pp.profile` by default.
    gene_symbols
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` by default.
    gene_selection
        Which genes of a cell that has more than the encoder reads: the ``"top"`` ones by value, ties in the order of
        the vocabulary, or ``"random"`` ones, as in the official scGPT code.
    max_length
        Positions of a cell, ``<cls>`` among them; the checkpoint's ``max_seq_len`` by default.
    seed
        Of the random choice. It depends on the seed and on the cell, not on the cells beside it.
    dtype
        Number format of the computation: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    batch_size
        Cells per forward pass at most. It does not change the result beyond rounding.
    cache
        Folder where vectors are kept by the content that they were computed from (cells, genes, weights, settings), so
        that another run on the same cells needs no encoder, and an interrupted one goes on. Nothing is kept by default.
    key_added
        Stem of the slots' names instead of ``"bioverse"``.
    overwrite
        Whether a slot that this package did not write, or that was changed since, may be written over; it is an error
        otherwise.
    copy
        Whether to return a copy instead of writing to ``data``.

    Returns
    -------
    ``None``, or a copy when ``copy=True``. Sets:

    ``.obsm["X_scgpt"]``
        Vectors, shape (cells, width), float32; zeros for a cell without any known gene. It is ``"X_<name>"`` for an
        encoder of another name, ``"X_precomputed"`` among them, and ``"X_<key_added>_scgpt"`` with another stem.
    ``.uns["bioverse"]["embed"]``
        Provenance, with a hash of what was read and of the vector of each cell: later steps embed again what has
        changed since, and read the same matrix.

    Raises
    ------
    ValueError
        When the data are unusable (see :func:`bioverse_sc.pp.profile`), the vectors of ``use_rep`` hold NaN, or a slot
        holds what this package did not write.
    KeyError
        When ``layer``, ``gene_symbols`` or ``use_rep`` is not there.
    FileNotFoundError
        When the files of an encoder are not there.
    """
    keys = Keys.of(key_added)
    if dtype not in get_args(Dtype):
        msg = f"dtype is {dtype!r}; expected one of {', '.join(map(repr, get_args(Dtype)))}."
        raise ValueError(msg)
    if (use_rep is not None) != (isinstance(encoder, str) and encoder == "precomputed"):
        msg = f"use_rep goes with encoder='precomputed'; found encoder={encoder!r}, use_rep={use_rep!r}."
        raise ValueError(msg)
    check_batch_size(batch_size)
    if copy:
        data = data.copy()
    if use_rep is not None:
        take_precomputed(Results(modality(data, mod or "rna"), keys, overwrite=overwrite), use_rep)
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
        results = Results(modality(data, each.modality), keys, overwrite=overwrite)
        if isinstance(each, EntityEncoder):
            embed_entities(results, each, layer=layer, batch_size=batch_size, chosen=encoder is not None)
        else:
            embed_cells(
                results,
                each,
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
        msg = (
            f"The model {model.config.name!r} reads {sorted(model.config.projectors)}, and the MuData has "
            f"{list(mods)}: none of them."
        )
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
    results: Results, encoder: EntityEncoder, *, layer: str | None, batch_size: int, chosen: bool
) -> None:
    """Embed proteins or molecules and write."""
    adata = results.data
    results.check([_slot(results, encoder.name)])
    with finish_log(f"embedding {adata.n_obs} observations of {encoder.modality} with {encoder.name}") as slots:
        vectors, source = entity_vectors(adata, encoder, layer=layer, batch_size=batch_size)
        logger.info("    %s", source)
        _check_vectors(vectors, (adata.n_obs, encoder.width), encoder.name)
        params = {"source": source, "layer": layer or ""}
        slots += _write(results, encoder, vectors, entity_hashes(adata, encoder, layer), params, chosen=chosen)


def embed_cells(
    results: Results,
    encoder: CellEncoder,
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
    matrix: MatrixProfile | None = None,
) -> MatrixProfile:
    """Embed and write; gives the matrix that was read.

    ``chosen`` says that the user named the encoder, so that nothing else may take its place; ``matrix`` is what to read
    where that is known already.
    """
    if not isinstance(encoder, TokenEncoder) and (gene_selection, max_length, dtype) != ("top", None, "float32"):
        msg = (
            f"The encoder {encoder.name!r} has no choice of genes and number formats: leave gene_selection, "
            "max_length and "
            "dtype out."
        )
        raise ValueError(msg)
    adata = results.data
    results.check([_slot(results, encoder.name)])
    choice = {"gene_selection": gene_selection, "max_length": max_length, "seed": seed}
    if matrix is None:
        matrix = profile(adata, vocabulary=encoder.genes, layer=layer, gene_symbols=gene_symbols)
    genes = hash_texts(matrix.gene_map.genes)
    with finish_log(f"embedding {adata.n_obs} cells with {encoder.name}") as slots:
        logger.info("    %s", matrix)
        for hint in matrix.hints:
            logger.warning("%s.", hint)
        vectors = np.zeros((adata.n_obs, encoder.width), dtype=np.float32)
        read = np.zeros(adata.n_obs, dtype=np.uint64)
        kept = ArrayCache(cache)
        made_from = [encoder.name, encoder.fingerprint, dtype, *choice.values(), list(matrix.gene_map.genes)]
        with progress(total=adata.n_obs, description="embed", unit="cell") as bar:
            # what may be kept already is prepared only when it is not
            for rows, counts, tokens in ahead(_prepared(adata, matrix, encoder, choice if cache is None else None)):
                encode = partial(_encode, encoder, counts, tokens, matrix.gene_map.genes, choice, batch_size, dtype)
                found = kept.get([*made_from, counts.shape, counts.indptr, counts.indices, counts.data], encode)
                _check_vectors(found, (rows.stop - rows.start, encoder.width), encoder.name)
                vectors[rows] = found
                read[rows] = hash_sparse_rows(counts, genes)
                bar.update(rows.stop - rows.start)
        params = {
            "source": matrix.source,
            "layer": layer or "",
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
        if chosen:
            # a model without this encoder has no other way to know which genes were read
            params["genes"] = list(matrix.gene_map.genes)
        slots += _write(results, encoder, vectors, read, params, chosen=chosen)
    n_empty = int((~vectors.any(axis=1)).sum())
    if n_empty:
        few = "no gene" if matrix.min_genes < 2 else f"fewer than {matrix.min_genes} genes"
        logger.warning(
            "%d of %d cells have %s that the encoder knows; their vectors are zero, and their label is 'unknown'.",
            n_empty,
            adata.n_obs,
            few,
        )
    return matrix


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


def take_precomputed(results: Results, use_rep: str) -> None:
    """Put the vectors of a slot in the place of an encoder's."""
    adata = results.data
    if use_rep not in adata.obsm:
        msg = f"There is no slot {use_rep!r} in .obsm; there are {list(adata.obsm)}."
        raise KeyError(msg)
    encoder = Precomputed.of(use_rep, adata.obsm[use_rep])
    if (slot := _slot(results, encoder.name)).key != use_rep:
        results.check([slot])
    with finish_log(f"taking the vectors of {adata.n_obs} cells from obsm[{use_rep!r}]") as slots:
        vectors = encoder.vectors(adata.obsm[use_rep])
        params = {"source": f"obsm[{use_rep!r}]", "use_rep": use_rep}
        slots += _write(results, encoder, vectors, hash_rows(vectors), params, chosen=True)


def _slot(results: Results, encoder: str) -> Slot:
    return Slot("obsm", results.keys.embedding(encoder), "encoder vectors")


def _write(
    results: Results,
    encoder: CellEncoder | EntityEncoder | Precomputed,
    vectors: np.ndarray,
    read: np.ndarray,
    params: dict[str, Any],
    *,
    chosen: bool,
) -> list[str]:
    """Write vectors and their provenance, with a hash of what was ``read`` for each; gives the slots."""
    made_by = {
        "encoder": encoder.name,
        "encoder_fingerprint": encoder.fingerprint,
        "encoder_chosen": chosen,
        "width": vectors.shape[1],
        "content": bound_hashes(read, hash_rows(vectors)),
    }
    return results.write("embed", {_slot(results, encoder.name): vectors}, made_by | params)


def own_encoder(model: BioVerse, mod: str = "rna") -> CellEncoder | EntityEncoder:
    """Give the model's encoder of a modality; a model that was trained on vectors from elsewhere has none."""
    check_read(model, [mod])
    if mod not in model.encoders:
        name, _, width = contract(model, mod)
        msg = (
            f"The model {model.config.name!r} has no encoder of its own: it reads vectors of {name!r}, width {width}. "
            "Give it those "
            "first, e.g. bsc.tl.embed(adata, encoder='precomputed', use_rep='X_scVI'); an encoder of your own has to "
            "be "
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
    results: Results,
    model: BioVerse,
    *,
    mod: str = "rna",
    layer: str | None,
    gene_symbols: str | None,
    batch_size: int,
) -> MatrixProfile | None:
    """Embed with the model's own encoder, unless vectors that fit are there, of what would be read now.

    Vectors of an encoder that the user chose are used, or are an error: they are never replaced in silence by those of
    another one. What has changed since it was embedded (expression, sequences, SMILES, abundances, vectors from
    elsewhere) is embedded again, with the same settings. Gives the matrix of cells that was read; ``None`` where there
    is none.
    """
    check_batch_size(batch_size)
    check_read(model, [mod])
    made_by = results.made_by("embed")
    slot = results.keys.embedding(str(made_by.get("encoder", "")))
    is_chosen = bool(made_by.get("encoder_chosen")) and slot in results.data.obsm
    if is_chosen:
        _check_chosen(results, model, mod, layer=layer, gene_symbols=gene_symbols)
        if use_rep := str(made_by.get("use_rep", "")):
            if use_rep in results.data.obsm and _has_changed(results, hash_rows(results.data.obsm[use_rep])):
                logger.info("    obsm[%r] has changed since its vectors were taken", use_rep)
                take_precomputed(results, use_rep)
            return None
    there = is_chosen or has_vectors(results, model, mod)
    own = model.encoders.get(mod) if there else own_encoder(model, mod)
    if isinstance(own, EntityEncoder):
        if not there or _entities_changed(results, own, layer):
            embed_entities(results, own, layer=layer, batch_size=batch_size, chosen=is_chosen)
        return None
    vocabulary = list(made_by.get("genes", []) if own is None else own.genes)
    if not vocabulary:
        # vectors of an encoder that is not here, of something else than genes
        return None
    try:
        matrix, is_same = matrix_to_read(results, vocabulary, layer=layer, gene_symbols=gene_symbols)
    except ValueError as error:
        if not there:
            raise
        if _is_there(results.data, str(made_by["source"])):
            msg = (
                f"What the cells were embedded from ({made_by['source']}) has changed since, and cannot be read as it "
                f"is now. {error}"
            )
            raise ValueError(msg) from error
        logger.info(
            "    %s, which the cells were embedded from, is no longer there; their vectors are used", made_by["source"]
        )
        return None
    if there and is_same:
        return matrix
    if own is None:
        msg = (
            f"What the cells were embedded from ({made_by['source']}) has changed since. Embed them again: "
            "bsc.tl.embed(adata, encoder=...), with the same encoder."
        )
        raise ValueError(msg)
    settings_before: dict[str, Any] = {}
    if there:
        is_asked = layer not in (None, made_by["source"]) or gene_symbols not in (None, made_by["gene_symbols"])
        why = (
            "another matrix is asked for than the cells were embedded from"
            if is_asked
            else "what the cells were embedded from has changed since"
        )
        logger.info("%s; embedding them again", why)
        settings_before = {
            "gene_selection": str(made_by["gene_selection"]),
            "max_length": int(made_by["max_length"]) or None,
            "seed": int(made_by["seed"]),
            "dtype": str(made_by["dtype"]),
        }
    return embed_cells(
        results,
        own,
        # asked for now, or when they were embedded
        layer=layer or (matrix.source if matrix.source == made_by.get("layer") else None),
        gene_symbols=gene_symbols or (str(made_by.get("gene_symbols", "")) or None),
        batch_size=batch_size,
        chosen=is_chosen,
        matrix=matrix,
        **settings_before,
    )


def _check_chosen(results: Results, model: BioVerse, mod: str, *, layer: str | None, gene_symbols: str | None) -> None:
    """Raise when the vectors of a chosen encoder do not fit the projector, or another matrix is asked for."""
    made_by = results.made_by("embed")
    name, fingerprint, width = contract(model, mod)
    encoder, of_encoder = str(made_by["encoder"]), str(made_by["encoder_fingerprint"])
    width_there = results.data.obsm[results.keys.embedding(encoder)].shape[1]
    if (encoder, width_there) != (name, width) or fingerprint not in ("", of_encoder):
        msg = (
            f"The cells were embedded with {encoder!r} ({made_by['source']}), width {width_there}, fingerprint "
            f"{of_encoder}, but the "
            f"projector of {model.config.name!r} was trained for {name!r}, width {width}, fingerprint "
            f"{fingerprint or 'any'}. Train a "
            "model on those vectors, embed with the model's own encoder, bsc.tl.embed(adata, model=...), or keep both "
            "apart with "
            "key_added='another'."
        )
        raise ValueError(msg)
    if isinstance(model.encoders.get(mod), EntityEncoder):
        return
    asked = (("layer", made_by.get("source"), layer), ("gene_symbols", made_by.get("gene_symbols"), gene_symbols))
    for argument, used, value in asked:
        if value is not None and used != value:
            msg = (
                f"The cells were embedded with {argument}={used!r} and encoder={name!r}, which you chose; embed "
                f"them again with {argument}={value!r}, bsc.tl.embed(adata, encoder=..., {argument}={value!r})."
            )
            raise ValueError(msg)


def has_vectors(results: Results, model: BioVerse, mod: str = "rna") -> bool:
    """Whether vectors of this model's encoder are there, of whatever they were made."""
    name, fingerprint, _ = contract(model, mod)
    # a model that was trained since it was loaded has no fingerprint
    made_by = results.made_by("embed").get("encoder_fingerprint")
    return results.keys.embedding(name) in results.data.obsm and made_by == fingerprint != ""


def matrix_to_read(
    results: Results, vocabulary: Sequence[str], *, layer: str | None, gene_symbols: str | None
) -> tuple[MatrixProfile, bool]:
    """The matrix of cells that a step reads, and whether the vectors that are there were made from just that.

    It is the one that is asked for; else the one that was asked for when the cells were embedded; else the one that
    they were embedded from, as long as it is as it was; else what :func:`bioverse_sc.pp.profile` finds.
    """
    adata, made_by = results.data, results.made_by("embed")
    asked_then = str(made_by.get("layer", ""))
    if layer is None and asked_then:
        if _is_there(adata, asked_then):
            layer = asked_then
        else:
            logger.warning("    layer=%r, which the cells were embedded with, is no longer there", asked_then)
    if gene_symbols is None and (column := str(made_by.get("gene_symbols", ""))):
        if column in adata.var or (adata.raw is not None and column in adata.raw.var):
            gene_symbols = column
        else:
            logger.warning("    gene_symbols=%r, which the cells were embedded with, is no longer there", column)
    look_at = partial(profile, adata, vocabulary=vocabulary, gene_symbols=gene_symbols)
    source = str(made_by.get("source", ""))
    if layer is None and _is_there(adata, source):
        try:
            matrix = look_at(layer=source)
        except (KeyError, ValueError):
            # it cannot be read any more, as after sc.pp.scale; another one may
            pass
        else:
            if not _has_changed(results, matrix_hashes(adata, matrix)):
                return matrix, True
    matrix = look_at(layer=layer)
    return matrix, not _has_changed(results, matrix_hashes(adata, matrix))


def matrix_hashes(adata: AnnData, matrix: MatrixProfile) -> np.ndarray:
    """Hash of what an encoder reads of each cell.

    The genes and their values, in whatever order. Shape (cells,), uint64.
    """
    genes = hash_texts(matrix.gene_map.genes)
    chunks = row_chunks(get_matrix(adata, matrix.source), matrix.gene_map.columns)
    return np.concatenate([hash_sparse_rows(matrix.gene_map.gather(chunk), genes) for _, chunk in chunks])


def _is_there(adata: AnnData, source: str) -> bool:
    """Whether a matrix is there."""
    return source in adata.layers or {"X": adata.X, "raw": adata.raw}.get(source) is not None


def _has_changed(results: Results, read: np.ndarray) -> bool:
    """Whether some vector is none that was made from what there is to read now.

    Of fewer observations or in another order it is.
    """
    slot = results.keys.embedding(str(results.made_by("embed").get("encoder", "")))
    if slot not in results.data.obsm:
        return True
    return not results.made_from("embed", bound_hashes(read, hash_rows(results.data.obsm[slot])))


def _entities_changed(results: Results, encoder: EntityEncoder, layer: str | None) -> bool:
    """Whether the texts or abundances are others than those that the vectors were made from; not when they are gone."""
    if layer is None and (used := results.made_by("embed").get("layer")):
        if used not in (*layer_names(results.data), "X"):
            return False
        layer = str(used)
    hashes = entity_hashes(results.data, encoder, layer)
    return bool(len(hashes)) and _has_changed(results, hashes)


def embedding_slot(results: Results, model: BioVerse, mod: str = "rna") -> str:
    """Slot of the vectors that :func:`ensure_embedding` has made sure of."""
    made_by = results.made_by("embed")
    return results.keys.embedding(str(made_by["encoder"] if made_by.get("encoder_chosen") else contract(model, mod)[0]))
