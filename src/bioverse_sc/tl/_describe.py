"""Descriptions of cells, proteins and molecules by the language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Slot
from bioverse_sc.tl._prompts import check_request, log_use, provenance, shown, written
from bioverse_sc.tl._subject import Reading, modalities_read, subjects

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse, Segment
    from bioverse_sc.tl._subject import Subject


@undisturbed()
def describe(
    data: AnnData | MuData,
    *,
    mod: str | None = None,
    model: str | Path | BioVerse = "mini",
    retrieve: bool = False,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    no_repeat_ngram_size: int | None = None,
    seed: int = 0,
    layer: str | None = None,
    gene_symbols: str | None = None,
    batch_size: int = 64,
    key_added: str | None = None,
    overwrite: bool = False,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Describe cells, proteins or molecules; embeds first when that has not been done.

    The language model reads an observation through its soft tokens, as in stage 1 of BioVERSE (arXiv 2510.01428), which
    trains on such descriptions.

    Draws depend on ``seed`` and on the observation's name, not on the observations beside it.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData; :func:`bioverse_sc.tl.embed` says what it holds.
    mod
        Modality. By default of an AnnData ``"rna"``, and of a MuData all that the model reads.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    retrieve
        Whether to show the model also the texts of the three nearest of the entities that it was trained on, by
        sequence or SMILES. Cells, and features with abundances, have no text to compare; they go without.
    max_new_tokens
        Tokens of a text at most.
    temperature
        0 takes the likeliest token each time; 1 draws by the model's own probabilities.
    top_p
        Draws are from the likeliest tokens that together have this probability.
    no_repeat_ngram_size
        No run of so many tokens is written twice in an answer, so that it does not go round in circles; 0 allows all.
        By default what the model's configuration says.
    seed
        Of what is random: equal seeds give equal results.
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

    ``.obs["bioverse_description"]``
        Generated text; ``""`` for a cell without any known gene. Of MuData in each modality.
    ``.uns["bioverse"]["describe"]``
        Provenance.

    Raises
    ------
    ValueError
        When the model has no projector for a modality, or nothing to retrieve, and for decoding options out of their
        range.
    """
    from bioverse_sc.models import Decoding, get_model

    keys = Keys.of(key_added)
    decoding = Decoding(max_new_tokens, temperature, top_p, seed, no_repeat_ngram_size)
    if copy:
        data = data.copy()
    loaded = get_model(model)
    decoding = decoding.of_model(loaded)
    reading = Reading(layer, gene_symbols, batch_size)
    check_request(loaded, modalities_read(loaded, data, mod), retrieve=retrieve, batch_size=batch_size)
    described = subjects(data, loaded, keys, mod=mod, reading=reading, overwrite=overwrite)
    slot = Slot("obs", keys.description)
    for subject in described:
        subject.results.check([slot])
    for subject in described:
        adata = subject.adata
        subject.embed()
        counted = f"{adata.n_obs} observations of {subject.mod}"
        with finish_log(f"describing {counted} with {loaded.config.name!r}") as lines:
            log_use(subject, retrieve=retrieve)
            texts = written(
                loaded,
                _prompt_of(subject),
                [shown(subject, np.arange(adata.n_obs), retrieve=retrieve)],
                adata.obs_names,
                decoding,
                batch_size=batch_size,
                description="describe",
            )
            column = pd.Series(texts, index=adata.obs_names, dtype=object)
            lines += subject.results.write("describe", {slot: column}, provenance(loaded, decoding, retrieve=retrieve))
    return data if copy else None


def _prompt_of(subject: Subject) -> Callable[[list[Sequence[str]]], list[Segment]]:
    """What makes the prompt of a modality from the texts to show before the entity."""
    from bioverse_sc.models import description_prompt

    return lambda nearest: description_prompt(subject.mod, nearest=nearest[0], prompts=subject.model.config.prompts)
