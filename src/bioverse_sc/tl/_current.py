"""Whether the encoder vectors that are there are those of a model, made from what would be read now; else made anew."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bioverse_sc._keys import Keys
from bioverse_sc._logging import logger
from bioverse_sc._modality import CELLS, modality_of
from bioverse_sc._results import Results
from bioverse_sc._row_hash import bound_hashes, hash_rows
from bioverse_sc._validation import check_batch_size
from bioverse_sc.encoders import genes_of
from bioverse_sc.read import Entities, gene_matrix, is_there, layer_names
from bioverse_sc.tl._encode import EncoderOptions, embed_cells, embed_entities, embedding_slot, take_precomputed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from bioverse_sc.encoders import Encoder
    from bioverse_sc.models import BioVerse
    from bioverse_sc.read import GeneMatrix
    from bioverse_sc.tl._subject import Subject


def check_read(model: BioVerse, mods: Sequence[str]) -> None:
    """Raise when the model has no projector for a modality."""
    reads = sorted(model.config.projectors)
    if unread := [mod for mod in mods if mod not in reads]:
        msg = f"The model {model.config.name!r} has no projector for {', '.join(map(repr, unread))}; it reads {reads}."
        if reads:
            msg += f" Name one of those, for example mod={reads[0]!r}."
        raise ValueError(msg)


def own_encoder(model: BioVerse, mod: str = CELLS) -> Encoder:
    """Give the model's encoder of a modality; a model that was trained on vectors from elsewhere has none."""
    check_read(model, [mod])
    if mod not in model.encoders:
        name, _, width = vectors_expected(model, mod)
        msg = (
            f"The model {model.config.name!r} has no encoder of its own: it reads vectors of {name!r}, width {width}. "
            "Give it those first, e.g. bsc.tl.embed(adata, encoder='precomputed', use_rep='X_scVI'); an encoder of "
            "your own has to be registered, bsc.encoders.register(name, factory), before the model is loaded."
        )
        raise ValueError(msg)
    return model.encoders[mod]


def vectors_expected(model: BioVerse, mod: str = CELLS) -> tuple[str, str, int]:
    """What a projector reads: name and fingerprint of the encoder (``""`` for any), and width of its vectors."""
    config = model.config.projectors[mod]
    encoder = model.encoders.get(mod)
    if encoder is None:
        return config.encoder, config.encoder_fingerprint, config.in_width
    return encoder.name, encoder.fingerprint, config.in_width


def ensure_vectors(subject: Subject) -> GeneMatrix | None:
    """Embed with the model's own encoder, unless vectors that fit are there, of what would be read now.

    Vectors of an encoder that the user chose are used, or are an error: they are never replaced in silence by those of
    another one. What has changed since it was embedded (expression, sequences, SMILES, abundances, vectors from
    elsewhere) is embedded again, with the same settings. Gives the matrix of genes that was read; ``None`` where there
    is none.
    """
    results, model, mod = subject.vector_results, subject.model, subject.mod
    check_batch_size(subject.reading.batch_size)
    check_read(model, [mod])
    made_by = results.made_by("embed")
    is_chosen = bool(made_by.get("encoder_chosen")) and _slot_key(results) in results.data.obsm
    if is_chosen:
        _check_chosen(subject)
        if made_by.get("use_rep"):
            _take_again(results, str(made_by["use_rep"]), mod)
            return None
    are_there = is_chosen or _has_vectors(results, model, mod)
    encoder = model.encoders.get(mod) if are_there else own_encoder(model, mod)
    if encoder is not None and modality_of(mod).has_text:
        if not are_there or _entities_changed(results, mod, subject.reading.layer):
            embed_entities(
                results,
                encoder,
                layer=subject.reading.layer,
                batch_size=subject.reading.batch_size,
                is_chosen=is_chosen,
            )
        return None
    vocabulary = list(made_by.get("genes", [])) if encoder is None else genes_of(encoder)
    if not vocabulary:
        # vectors of an encoder that is not here, of something else than genes
        return None
    return _ensure_vectors_of_cells(subject, encoder, vocabulary, are_there=are_there, is_chosen=is_chosen)


def with_vectors(subject: Subject) -> Results:
    """The stem whose vectors a tool uses: its own, or one that has just those that would be made.

    So what is written under another name, with ``key_added``, has no vectors of its own.
    """
    results = subject.results
    if results.stored_of("embed"):
        return results
    for stem, steps in results.data.uns.items():
        if stem != results.keys.stem and _has_step(steps, "embed"):
            other = Results(results.data, Keys(stem), overwrite=results.overwrite)
            if _has_current(replace(subject, results=other)):
                return other
    return results


def _has_step(steps: Any, step: str) -> bool:
    """Whether an entry of ``.uns`` is a stem with the provenance of a step."""
    return hasattr(steps, "items") and hasattr(steps.get(step), "items") and "version" in steps[step]


def _has_current(subject: Subject) -> bool:
    """Whether the stem has vectors that fit the model, made from what would be read now."""
    results, model, mod = subject.results, subject.model, subject.mod
    made_by = results.made_by("embed")
    if not made_by or not _slot_is_there(results):
        return False
    try:
        if made_by.get("encoder_chosen"):
            _check_chosen(subject)
        elif not _has_vectors(results, model, mod):
            return False
        if use_rep := str(made_by.get("use_rep", "")):
            return use_rep not in results.data.obsm or not _has_changed(results, hash_rows(results.data.obsm[use_rep]))
        if modality_of(mod).has_text:
            return not _entities_changed(results, mod, subject.reading.layer)
        encoder = model.encoders.get(mod)
        vocabulary = list(made_by.get("genes", [])) if encoder is None else genes_of(encoder)
        return matrix_to_read(subject, vocabulary)[1]
    except (KeyError, ValueError):
        # they do not fit, or there is nothing to read, which is said when vectors are made
        return False


def _ensure_vectors_of_cells(
    subject: Subject, encoder: Encoder | None, vocabulary: Sequence[str], *, are_there: bool, is_chosen: bool
) -> GeneMatrix | None:
    """Of :func:`ensure_vectors`, where a matrix of genes is read."""
    results, made_by = subject.vector_results, subject.vector_results.made_by("embed")
    try:
        matrix, is_same = matrix_to_read(subject, vocabulary)
    except ValueError as error:
        if not are_there:
            raise
        if is_there(results.data, str(made_by["source"])):
            msg = (
                f"What the cells were embedded from ({made_by['source']}) has changed since, and cannot be read as it "
                f"is now. {error}"
            )
            raise ValueError(msg) from error
        logger.info(
            "    %s, which the cells were embedded from, is no longer there; their vectors are used", made_by["source"]
        )
        return None
    if are_there and is_same:
        return matrix
    if encoder is None:
        msg = (
            f"What the cells were embedded from ({made_by['source']}) has changed since. Embed them again: "
            "bsc.tl.embed(adata, encoder=...), with the same encoder."
        )
        raise ValueError(msg)
    if are_there:
        layer, symbols = subject.reading.layer, subject.reading.gene_symbols
        is_asked = layer not in (None, made_by["source"]) or symbols not in (None, made_by["gene_symbols"])
        why = (
            "another matrix is asked for than the cells were embedded from"
            if is_asked
            else "what the cells were embedded from has changed since"
        )
        logger.info("%s; embedding them again", why)
    results.check([embedding_slot(results, encoder.name)])
    embed_cells(
        results,
        encoder,
        matrix,
        options=_options_before(made_by) if are_there else EncoderOptions(),
        asked={
            # asked for now, or when they were embedded
            "layer": subject.reading.layer or (matrix.source if matrix.source == made_by.get("layer") else None),
            "gene_symbols": subject.reading.gene_symbols or str(made_by.get("gene_symbols", "")) or None,
        },
        batch_size=subject.reading.batch_size,
        is_chosen=is_chosen,
    )
    return matrix


def _options_before(made_by: dict[str, Any]) -> EncoderOptions:
    """Choices of the encoder when the cells were embedded."""
    return EncoderOptions(
        gene_selection=made_by["gene_selection"],
        max_length=int(made_by["max_length"]) or None,
        seed=int(made_by["seed"]),
        dtype=made_by["dtype"],
    )


def matrix_to_read(subject: Subject, vocabulary: Sequence[str]) -> tuple[GeneMatrix, bool]:
    """The matrix of cells that a step reads, and whether the vectors that are there were made from just that.

    It is the one that is asked for; else the one that was asked for when the cells were embedded; else the one that
    they were embedded from, as long as it is as it was; else what :func:`bioverse_sc.pp.profile` finds.
    """
    results = subject.vector_results
    adata, made_by = results.data, results.made_by("embed")
    layer, gene_symbols = subject.reading.layer, subject.reading.gene_symbols
    if layer is None and (asked_then := str(made_by.get("layer", ""))):
        if is_there(adata, asked_then):
            layer = asked_then
        else:
            logger.warning("    layer=%r, which the cells were embedded with, is no longer there", asked_then)
    if gene_symbols is None and (column := str(made_by.get("gene_symbols", ""))):
        if column in adata.var or (adata.raw is not None and column in adata.raw.var):
            gene_symbols = column
        else:
            logger.warning("    gene_symbols=%r, which the cells were embedded with, is no longer there", column)
    source = str(made_by.get("source", ""))
    if layer is None and is_there(adata, source):
        try:
            matrix = gene_matrix(adata, vocabulary, layer=source, gene_symbols=gene_symbols)
        except (KeyError, ValueError):
            # it cannot be read any more, as after sc.pp.scale; another one may
            pass
        else:
            if not _has_changed(results, matrix.hashes):
                return matrix, True
    matrix = gene_matrix(adata, vocabulary, layer=layer, gene_symbols=gene_symbols)
    return matrix, _slot_is_there(results) and not _has_changed(results, matrix.hashes)


def _check_chosen(subject: Subject) -> None:
    """Raise when the vectors of a chosen encoder do not fit the projector, or another matrix is asked for."""
    model, mod, results = subject.model, subject.mod, subject.vector_results
    made_by = results.made_by("embed")
    name, fingerprint, width = vectors_expected(model, mod)
    encoder, fingerprint_there = str(made_by["encoder"]), str(made_by["encoder_fingerprint"])
    width_there = results.data.obsm[_slot_key(results)].shape[1]
    if (encoder, width_there) != (name, width) or fingerprint not in ("", fingerprint_there):
        msg = (
            f"The cells were embedded with {encoder!r} ({made_by['source']}), width {width_there}, fingerprint "
            f"{fingerprint_there}, but the projector of {model.config.name!r} was trained for {name!r}, width {width}, "
            f"fingerprint {fingerprint or 'any'}. Train a model on those vectors, embed with the model's own encoder, "
            "bsc.tl.embed(adata, model=...), or keep both apart with key_added='another'."
        )
        raise ValueError(msg)
    if mod in model.encoders and modality_of(mod).has_text:
        return
    asked = (
        ("layer", made_by.get("source"), subject.reading.layer),
        ("gene_symbols", made_by.get("gene_symbols"), subject.reading.gene_symbols),
    )
    for argument, used, value in asked:
        if value is not None and used != value:
            msg = (
                f"The cells were embedded with {argument}={used!r} and encoder={name!r}, which you chose; embed them "
                f"again with {argument}={value!r}, bsc.tl.embed(adata, encoder=..., {argument}={value!r})."
            )
            raise ValueError(msg)


def _take_again(results: Results, use_rep: str, mod: str) -> None:
    """Take vectors from elsewhere once more when they have changed since."""
    if use_rep in results.data.obsm and _has_changed(results, hash_rows(results.data.obsm[use_rep])):
        logger.info("    obsm[%r] has changed since its vectors were taken", use_rep)
        take_precomputed(results, use_rep, mod)


def _slot_key(results: Results) -> str:
    """Slot of the vectors that were written last."""
    return results.keys.embedding(str(results.made_by("embed").get("encoder", "")))


def _slot_is_there(results: Results) -> bool:
    return _slot_key(results) in results.data.obsm


def _has_vectors(results: Results, model: BioVerse, mod: str) -> bool:
    """Whether vectors of this model's encoder are there, of whatever they were made."""
    name, fingerprint, _ = vectors_expected(model, mod)
    # a model that was trained since it was loaded has no fingerprint
    made_by = results.made_by("embed").get("encoder_fingerprint")
    return results.keys.embedding(name) in results.data.obsm and made_by == fingerprint != ""


def _has_changed(results: Results, read: np.ndarray) -> bool:
    """Whether some vector was not made from what there is to read now.

    Vectors of fewer observations, or in another order, have not changed.
    """
    if not _slot_is_there(results):
        return True
    return not results.made_from("embed", bound_hashes(read, hash_rows(results.data.obsm[_slot_key(results)])))


def _entities_changed(results: Results, mod: str, layer: str | None) -> bool:
    """Whether the texts or abundances are others than the vectors were made from; not when they are gone."""
    if layer is None and (used := results.made_by("embed").get("layer")):
        if used not in (*layer_names(results.data), "X"):
            return False
        layer = str(used)
    hashes = Entities(results.data, mod, layer=layer).hashes
    return bool(len(hashes)) and _has_changed(results, hashes)
