"""Descriptions of cells, proteins and molecules by the language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger
from bioverse_sc._modality import modality_of
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Slot
from bioverse_sc.tl._asked import Asked
from bioverse_sc.tl._nearest import Nearest, memory_of
from bioverse_sc.tl._prompts import Shown, check_request, log_use, provenance, written
from bioverse_sc.tl._subject import Reading, modalities_read, subjects

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse, Decoding
    from bioverse_sc.tl._subject import Subject


@undisturbed()
def describe(
    data: AnnData | MuData,
    *,
    mod: str | None = None,
    model: str | Path | BioVerse = "mini",
    retrieve: bool = True,
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

    Proteins and molecules are looked up in the model's memory of known ones first. One that is known gets the text that
    is stored of it. Of one that has a known one near, a rule says what it probably is, and the model writes, shown the
    nearest; those of its sentences are kept that are known of the one that it names. Of the others it is said that they
    cannot be told. With ``retrieve=False`` the model writes about all, from the soft tokens alone, and is mostly wrong.

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
        Whether to look known entities up that are near, by sequence or SMILES, and to show the model the texts of the
        three nearest. Cells, features with abundances, and what the model has no memory of go without.
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
        Text; ``""`` for a cell without any known gene. Of MuData in each modality.
    ``.obs["bioverse_nearest"]``, ``.obs["bioverse_nearest_similarity"]``
        Text of the nearest known one, and how similar it is, between 0 and 1: the cosine of words of four residues, or
        the Tanimoto similarity. Of proteins and molecules, when these are looked up.
    ``.uns["bioverse"]["describe"]``
        Provenance, and of a model that is shown facts the tables ``facts`` and ``sentences`` of
        :func:`bioverse_sc.tl.ask`; ``same``, ``related``, ``distant`` and ``unknown`` count the observations that are
        known, that the model wrote about, and that cannot be told.

    Raises
    ------
    ValueError
        When the model has no projector for a modality, and for decoding options out of their range.
    """
    from bioverse_sc.models import Decoding, get_model

    keys = Keys.of(key_added)
    decoding = Decoding(max_new_tokens, temperature, top_p, seed, no_repeat_ngram_size)
    if copy:
        data = data.copy()
    loaded = get_model(model)
    decoding = decoding.of_model(loaded)
    reading = Reading(layer, gene_symbols, batch_size)
    check_request(loaded, modalities_read(loaded, data, mod), batch_size=batch_size)
    described = subjects(data, loaded, keys, mod=mod, reading=reading, overwrite=overwrite)
    slot = Slot("obs", keys.description)
    near_slots = [Slot("obs", keys.nearest), Slot("obs", keys.nearest_similarity)]
    for subject in described:
        subject.results.check([slot, *near_slots])
    for subject in described:
        adata = subject.adata
        subject.embed()
        counted = f"{adata.n_obs} observations of {subject.mod}"
        with finish_log(f"describing {counted} with {loaded.config.name!r}") as lines:
            log_use(subject, retrieve=retrieve)
            nearest = Nearest.of(subject) if retrieve and memory_of(subject) is not None else None
            texts, details = _texts(subject, nearest, decoding)
            values = {slot: pd.Series(texts, index=adata.obs_names, dtype=object)}
            params = provenance(loaded, decoding, retrieve=retrieve) | {"vectors": subject.vectors_slot.key} | details
            if nearest is None:
                subject.results.remove(near_slots)
            else:
                columns = [np.array(nearest.texts, dtype=object), nearest.similarity]
                values |= {s: pd.Series(c, index=adata.obs_names) for s, c in zip(near_slots, columns, strict=True)}
                params |= nearest.counted
            lines += subject.results.write("describe", values, params)
    return data if copy else None


def _texts(subject: Subject, nearest: Nearest | None, decoding: Decoding) -> tuple[np.ndarray, dict[str, Any]]:
    """What is said of each observation: what the model writes, where what is near does not say it already.

    And the facts and sentences beside, of a model that is shown facts.
    """
    rows = np.arange(subject.adata.n_obs) if nearest is None else nearest.to_write
    place = Shown(subject, rows, [None] * len(rows) if nearest is None else [nearest.known[row] for row in rows])
    names = subject.adata.obs_names
    if subject.model.config.grounding == "shown":
        asked = Asked(f"Describe this {modality_of(subject.mod).noun}.", [place])
        batch_size = subject.reading.batch_size
        texts, details = asked.answers(names[rows], decoding, batch_size=batch_size, description="describe")
    else:
        texts, details = _described(place, decoding), {}
    if nearest is None:
        return texts, details
    logger.info(
        "    %d known, %d with a relative near, %d with a distant one, %d with nothing known near",
        *nearest.counted.values(),
    )
    of_row = dict(zip(rows.tolist(), texts, strict=True))
    if details:
        said = [of_row.get(row) or nearest.description(row, "") for row in range(len(names))]
    else:
        n_kept = sum(nearest.is_written(row, text) for row, text in of_row.items())
        logger.info("    %d of %d texts name one that was shown, and are kept where that is so", n_kept, len(of_row))
        said = [nearest.description(row, of_row.get(row, "")) for row in range(len(names))]
    return np.array(said, dtype=object), details


def _described(place: Shown, decoding: Decoding) -> np.ndarray:
    """What the model writes of some observations, shown the nearest known texts."""
    from bioverse_sc.models import description_prompt

    subject, prompts = place.subject, place.subject.model.config.prompts
    return written(
        subject.model,
        [description_prompt(subject.mod, nearest=near, prompts=prompts) for near in place.texts],
        [place],
        subject.adata.obs_names[place.rows],
        decoding,
        batch_size=subject.reading.batch_size,
        description="describe",
    )
