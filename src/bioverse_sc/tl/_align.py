"""Soft tokens: where an observation lies in the language model's embedding space."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bioverse_sc._keys import Keys
from bioverse_sc._quiet import undisturbed
from bioverse_sc.tl._subject import Reading, subjects

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse


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

    Of MuData all modalities that the model reads come to lie in one space.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData; :func:`bioverse_sc.tl.embed` says what it holds.
    mod
        Modality. By default of an AnnData ``"rna"``, and of a MuData all that the model reads.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    layer
        Matrix to read: ``"X"``, ``"raw"`` or a key of ``.layers``. By default what was read when the observations were
        embedded, or what :func:`bioverse_sc.pp.profile` finds.
    gene_symbols
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` by default.
    batch_size
        Observations per forward pass at most. It does not change the result beyond rounding.
    key_added
        Stem of the slots' names instead of ``"bioverse"``.
    overwrite
        Whether a slot that this package did not write, or that was changed since, may be written over; it is an error
        otherwise.
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
    reading = Reading(layer, gene_symbols, batch_size)
    projected = subjects(data, model, keys, mod=mod, reading=reading, overwrite=overwrite)
    for subject in projected:
        subject.results.check([subject.soft_tokens_slot])
    for subject in projected:
        subject.project()
    return data if copy else None
