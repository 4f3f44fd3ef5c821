"""Soft tokens of cells: where a cell lies in the language model's embedding space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log
from bioverse_sc._modalities import modality
from bioverse_sc._models import get_model
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Results, Slot
from bioverse_sc._row_hash import bound_hashes, hash_rows
from bioverse_sc.tl._embed import embedding_slot, ensure_embedding, readable

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse
    from bioverse_sc.pp import MatrixProfile


@undisturbed()
def align(
    data: AnnData | MuData,
    *,
    mod: str | None = None,
    model: str | Path | BioVerse = "mini",
    layer: str | None = None,
    gene_symbols: str | None = None,
    batch_size: int = 64,
    key_added: str | None = None,
    overwrite: bool = False,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Project encoder vectors into the language model's embedding space; embeds first when that has not been done.

    Vectors of an encoder that was chosen with ``bsc.tl.embed(adata, encoder=...)`` are used when the projector was
    trained for that encoder and width, and are an error otherwise.

    Source: the projector of BioVERSE (arXiv 2510.01428).

    Parameters
    ----------
    data
        AnnData of one modality, or MuData; see :func:`bioverse_sc.tl.embed`.
    mod
        Modality. By default of an AnnData ``"rna"``, and of a MuData all that the model reads: they share one space.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    layer, gene_symbols, batch_size
        As for :func:`bioverse_sc.tl.embed`, when the cells are not embedded yet.
    key_added
        Stem of the slots' names instead of ``"bioverse"``.
    overwrite
        As for :func:`bioverse_sc.tl.embed`.
    copy
        Whether to return a copy instead of writing to ``data``.

    Returns
    -------
    ``None``, or a copy when ``copy=True``. Sets what :func:`bioverse_sc.tl.embed` sets, if missing, and:

    ``.obsm["X_bioverse"]``
        Soft token of each cell, protein or molecule, shape (observations, width of the language model), float32; the
        mean where one has several; zeros for a cell without any known gene. Of MuData in each modality.
    ``.uns["bioverse"]["align"]``
        Provenance.
    """
    keys = Keys.of(key_added)
    if copy:
        data = data.copy()
    loaded = get_model(model)
    for name in readable(loaded, data, mod):
        results = Results(modality(data, name), keys, overwrite=overwrite)
        results.check([_slot(results)])
        ensure_embedding(results, loaded, mod=name, layer=layer, gene_symbols=gene_symbols, batch_size=batch_size)
        align_cells(results, loaded, name)
    return data if copy else None


def ensure_alignment(
    results: Results,
    model: BioVerse,
    *,
    mod: str = "rna",
    layer: str | None,
    gene_symbols: str | None,
    batch_size: int,
) -> MatrixProfile | None:
    """Embed and project, each only when its result is not there yet or out of date.

    Gives the matrix of cells that was read.
    """
    matrix = ensure_embedding(results, model, mod=mod, layer=layer, gene_symbols=gene_symbols, batch_size=batch_size)
    if not has_alignment(results, model, mod):
        align_cells(results, model, mod)
    return matrix


def align_cells(results: Results, model: BioVerse, mod: str = "rna") -> None:
    """Project and write."""
    from bioverse_sc.models import mean_soft_tokens

    adata = results.data
    results.check([_slot(results)])
    what = "cells" if mod == "rna" else f"observations of {mod}"
    with finish_log(f"projecting {adata.n_obs} {what} into the language model of {model.config.name!r}") as slots:
        vectors = adata.obsm[embedding_slot(results, model, mod)]
        soft_tokens = mean_soft_tokens(model.projectors[mod], vectors)
        params = {
            "model": model.config.name,
            "model_fingerprint": model.fingerprint,
            "content": bound_hashes(hash_rows(vectors), hash_rows(soft_tokens)),
            "device": str(model.device),
        }
        slots += results.write("align", {_slot(results): soft_tokens}, params)


def _slot(results: Results) -> Slot:
    return Slot("obsm", results.keys.soft_token, "soft tokens")


def has_alignment(results: Results, model: BioVerse, mod: str = "rna") -> bool:
    """Whether the soft tokens of this model are there, made from the vectors that are there."""
    made_by, obsm = results.made_by("align"), results.data.obsm
    # a model that was trained since it was loaded has no fingerprint
    if results.keys.soft_token not in obsm or not made_by.get("model_fingerprint") == model.fingerprint != "":
        return False
    vectors = obsm[embedding_slot(results, model, mod)]
    return results.made_from("align", bound_hashes(hash_rows(vectors), hash_rows(obsm[results.keys.soft_token])))
