"""Encoder vectors of cells, proteins, molecules and other modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from bioverse_sc._keys import Keys
from bioverse_sc._modality import CELLS, modality_of
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Results
from bioverse_sc._validation import check_batch_size
from bioverse_sc.encoders import Dtype, Encoder, check_encoder, genes_of, get_encoder
from bioverse_sc.read import gene_matrix, observations
from bioverse_sc.tl._current import own_encoder
from bioverse_sc.tl._encode import EncoderOptions, embed_cells, embed_entities, embedding_slot, take_precomputed
from bioverse_sc.tl._subject import modalities_read

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse


@undisturbed()
def embed(
    data: AnnData | MuData,
    *,
    mod: str | None = None,
    model: str | Path | BioVerse = "mini",
    encoder: str | Path | Encoder | None = None,
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

    Of cells (``"rna"``) counts, normalised or log-normalised values are read. Proteins (``"protein"``) have
    ``.obs["sequence"]``, or are features with ``.var["sequence"]`` and abundances in ``.X``; molecules (``"molecule"``)
    have ``.obs["smiles"]``. Without ``encoder`` those of ``model`` are used. Genes that are chosen at random depend on
    ``seed`` and on the cell, not on the cells beside it.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData; :func:`bioverse_sc.tl.embed` says what it holds.
    mod
        Modality. By default that of the encoder, or of an AnnData ``"rna"``, or of a MuData all that the model reads.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    encoder
        Another encoder of one modality instead: what :func:`bioverse_sc.encoders.get_encoder` takes, an encoder itself,
        or ``"precomputed"`` for the vectors in ``.obsm[use_rep]``.
    use_rep
        Key of ``.obsm``, such as ``"X_scVI"``, with ``encoder="precomputed"``.
    layer
        Matrix to read: ``"X"``, ``"raw"`` or a key of ``.layers``. By default what was read when the observations were
        embedded, or what :func:`bioverse_sc.pp.profile` finds.
    gene_symbols
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` by default.
    gene_selection
        Which genes of a cell that has more than the encoder reads: the ``"top"`` ones by value, ties in the order of
        the vocabulary, or ``"random"`` ones, as in the official scGPT code.
    max_length
        Positions of a cell, ``<cls>`` among them; the checkpoint's ``max_seq_len`` by default.
    seed
        Of what is random: equal seeds give equal results.
    dtype
        Number format of the computation: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    batch_size
        Observations per forward pass at most. It does not change the result beyond rounding.
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
    _check_choices(encoder, use_rep, dtype)
    check_batch_size(batch_size)
    options = EncoderOptions(gene_selection, max_length, seed, dtype)
    if copy:
        data = data.copy()
    if use_rep is not None:
        results = Results(observations(data, mod or CELLS), keys, overwrite=overwrite)
        take_precomputed(results, use_rep, mod or CELLS)
        return data if copy else None
    for each in _encoders(data, mod, model, encoder):
        if mod not in (None, each.mod):
            msg = f"mod is {mod!r}, but the encoder {each.name!r} reads {each.mod!r}."
            raise ValueError(msg)
        results = Results(observations(data, each.mod), keys, overwrite=overwrite)
        if modality_of(each.mod).has_text:
            embed_entities(results, each, layer=layer, batch_size=batch_size, is_chosen=encoder is not None)
            continue
        # what cannot be is said before the matrix is looked at
        options.check(each)
        results.check([embedding_slot(results, each.name)])
        embed_cells(
            results,
            each,
            gene_matrix(results.data, genes_of(each), layer=layer, gene_symbols=gene_symbols),
            options=options,
            asked={"layer": layer, "gene_symbols": gene_symbols},
            batch_size=batch_size,
            cache=cache,
            is_chosen=encoder is not None,
        )
    return data if copy else None


def _check_choices(encoder: object, use_rep: str | None, dtype: str) -> None:
    if dtype not in get_args(Dtype):
        msg = f"dtype is {dtype!r}; expected one of {', '.join(map(repr, get_args(Dtype)))}."
        raise ValueError(msg)
    if (use_rep is not None) != (isinstance(encoder, str) and encoder == "precomputed"):
        msg = f"use_rep goes with encoder='precomputed'; found encoder={encoder!r}, use_rep={use_rep!r}."
        raise ValueError(msg)


def _encoders(
    data: AnnData | MuData, mod: str | None, model: str | Path | BioVerse, encoder: str | Path | Encoder | None
) -> list[Any]:
    """The encoder that was named; else the model's, of each modality that is read."""
    if encoder is None:
        from bioverse_sc.models import get_model

        loaded = get_model(model)
        return [own_encoder(loaded, name) for name in modalities_read(loaded, data, mod)]
    if isinstance(encoder, str) or hasattr(encoder, "__fspath__"):
        return [get_encoder(cast("str | Path", encoder), mod=mod or CELLS)]
    check_encoder(encoder, "encoder")
    return [encoder]
