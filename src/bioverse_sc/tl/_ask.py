"""Questions about cells, proteins and molecules, with one or several of them in a prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger
from bioverse_sc._modality import CELLS
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Results, Slot
from bioverse_sc.tl._asked import Asked
from bioverse_sc.tl._current import vectors_expected
from bioverse_sc.tl._known import check_obs_keys
from bioverse_sc.tl._prompts import check_request, log_use, provenance, shown
from bioverse_sc.tl._questions import (
    check_beside,
    check_known,
    check_modalities,
    check_question,
    rows_beside,
    shared_observations,
)
from bioverse_sc.tl._subject import Reading, modalities_read, subjects

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse


@undisturbed()
def ask(
    data: AnnData | MuData,
    question: str,
    *,
    mod: str | Sequence[str] | None = None,
    beside: Mapping[str, Sequence[str]] | None = None,
    model: str | Path | BioVerse = "mini",
    retrieve: bool = True,
    obs_keys: Sequence[str] = (),
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
    """Ask a question about each observation, with one or several entities in the prompt; embeds first if needed.

    Each modality is projected into the language model's embedding space on its own, so that soft tokens of several
    stand in one prompt (BioVERSE, arXiv 2510.01428)::

        bsc.tl.ask(mdata, "What does this compound do to this cell?", mod=["molecule", "rna"])
        bsc.tl.ask(
            mdata, "Which of these proteins does it bind, and why?", mod="molecule", beside={"protein": ["P1", "P2"]}
        )

    Draws depend on ``seed`` and on the observation's name, not on the observations beside it.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData; :func:`bioverse_sc.tl.embed` says what it holds.
    question
        Text. The model reads it as it is: neither braces nor ``[BIO]`` stand for anything.
    mod
        Modality or modalities. An observation's entity of each is in its prompt, in this order; of several, the
        observations that they share by name are asked. By default of an AnnData ``"rna"``, and of a MuData all that the
        model reads.
    beside
        By modality, names of observations whose entities every prompt shows after the observation's own, in this order.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    retrieve
        Whether to look known entities up that are near, by sequence or SMILES, and to show the model the texts of the
        three nearest. Cells, features with abundances, and what the model has no memory of go without.
    obs_keys
        Columns of ``.obs`` of the cells whose values are facts too, such as ``["tissue"]``.
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
    ``None``, or a copy when ``copy=True``. Sets what :func:`bioverse_sc.tl.embed` sets, if missing, and in the
    modality, or in the MuData itself when the prompts show several modalities:

    ``.obs["bioverse_answer"]``
        Generated text; ``""`` for an observation that was not asked about, or has no vector, as a cell without any
        known gene.
    ``.uns["bioverse"]["ask"]``
        Provenance. Of a model whose answers are held to facts also two DataFrames: ``facts``, what was known of each
        observation, and ``sentences``, what the model wrote with a verdict on each sentence (see
        :func:`bioverse_sc.facts.check_answer`); those that are ``"contradicted"`` or ``"not in the facts"`` are left
        out of the answer.

    Raises
    ------
    ValueError
        For an empty question, modalities that share no observation, a modality that the model has no projector for,
        and decoding options out of their range.
    KeyError
        When a modality, or an observation of ``beside``, is not there.
    TypeError
        For several modalities without MuData.
    """
    from bioverse_sc.models import Decoding, get_model

    keys = Keys.of(key_added)
    check_question(question)
    decoding = Decoding(max_new_tokens, temperature, top_p, seed, no_repeat_ngram_size)
    if copy:
        data = data.copy()
    loaded = get_model(model)
    decoding = decoding.of_model(loaded)
    mods = modalities_read(loaded, data, mod) if mod is None or isinstance(mod, str) else list(mod)
    beside = check_beside(beside)
    used = list(dict.fromkeys([*mods, *beside]))
    check_modalities(data, mods, used)
    check_request(loaded, used, batch_size=batch_size)
    reading = Reading(layer, gene_symbols, batch_size)
    subject_of = {
        name: subjects(data, loaded, keys, mod=name, reading=reading, overwrite=overwrite)[0] for name in used
    }
    # of one modality the answers go to it, of several to the container
    target = Results(subject_of[used[0]].adata if len(used) == 1 else data, keys, overwrite=overwrite)
    slot = Slot("obs", keys.answer)
    target.check([slot])
    companions = {name: rows_beside(subject_of[name].adata, name, names) for name, names in beside.items()}
    names, rows_of = shared_observations({name: subject_of[name].adata for name in mods}, target.data)
    for subject in subject_of.values():
        subject.embed()
    for name, rows in companions.items():
        check_known(subject_of[name], rows)
    if CELLS in subject_of:
        check_obs_keys(subject_of[CELLS], obs_keys)
    counts = " and ".join(f"{name} ({subject_of[name].adata.n_obs})" for name in mods)
    which = f"observations of {mods[0]}" if len(mods) == 1 else f"observations that {counts} share"
    with finish_log(f"asking {loaded.config.name!r} about {len(names)} {which}") as lines:
        for subject in subject_of.values():
            log_use(subject, retrieve=retrieve)
        for name, listed in beside.items():
            logger.info("    beside each: %s %s", name, ", ".join(listed))
        places = [shown(subject_of[name], rows_of[name], retrieve=retrieve) for name in mods]
        for name, rows in companions.items():
            places += [shown(subject_of[name], np.full(len(names), row), retrieve=retrieve) for row in rows]
        asked = Asked(question, places, obs_keys=obs_keys)
        answers, details = asked.answers(names, decoding, batch_size=batch_size, description="ask")
        if len(used) > 1:
            answers = pd.Series(answers, index=names).reindex(target.data.obs_names, fill_value="").to_numpy()
        column = pd.Series(answers, index=target.data.obs_names, dtype=object)
        params = provenance(loaded, decoding, retrieve=retrieve) | {
            "question": question,
            "modalities": mods,
            "beside": beside,
            "encoders": {name: vectors_expected(loaded, name)[0] for name in used},
            "obs_keys": list(obs_keys),
            **details,
        }
        if len(used) == 1:
            params["vectors"] = subject_of[used[0]].vectors_slot.key
        lines += target.write("ask", {slot: column}, params)
    return data if copy else None
