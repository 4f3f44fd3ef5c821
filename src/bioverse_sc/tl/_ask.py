"""Questions about cells, proteins and molecules, with one or several of them in a prompt."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger
from bioverse_sc._modalities import modality
from bioverse_sc._models import get_model
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Results, Slot
from bioverse_sc._validation import check_storable
from bioverse_sc.tl._embed import contract, readable
from bioverse_sc.tl._prompts import check_request, log_use, provenance, source_of, written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse
    from bioverse_sc.tl._prompts import Source


@undisturbed()
def ask(
    data: AnnData | MuData,
    question: str,
    *,
    mod: str | Sequence[str] | None = None,
    beside: Mapping[str, Sequence[str]] | None = None,
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
    """Ask a question about each observation, with one or several entities in the prompt; embeds first if needed.

    Each modality is projected into the language model's embedding space on its own, so that soft tokens of several
    stand in one prompt (BioVERSE, arXiv 2510.01428)::

        bsc.tl.ask(mdata, "What does this compound do to this cell?", mod=["molecule", "rna"])
        bsc.tl.ask(
            mdata, "Which of these proteins does it bind, and why?", mod="molecule", beside={"protein": ["P1", "P2"]}
        )

    Parameters
    ----------
    data
        AnnData of one modality, or MuData; see :func:`bioverse_sc.tl.embed`.
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
        Whether to show the model also the texts of the three nearest of the entities that it was trained on, by
        sequence or SMILES. Cells, and features with abundances, have no text to compare; they go without.
    max_new_tokens
        Tokens of an answer at most.
    temperature
        0 takes the likeliest token each time; 1 draws by the model's own probabilities.
    top_p
        Draws are from the likeliest tokens that together have this probability.
    no_repeat_ngram_size
        No run of so many tokens is written twice in an answer, so that it does not go round in circles; 0 allows all.
        By default what the model's configuration says.
    seed
        Of the draws. They depend on it and on the observation's name, not on the observations beside it.
    layer, gene_symbols
        As for :func:`bioverse_sc.tl.embed`, when the observations are not embedded yet.
    batch_size
        Observations per forward pass. It does not change the result beyond rounding.
    key_added
        Stem of the slots' names instead of ``"bioverse"``.
    overwrite
        As for :func:`bioverse_sc.tl.embed`.
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
        Provenance.

    Raises
    ------
    ValueError
        For an empty question, modalities that share no observation, a modality that the model has no projector for,
        nothing to retrieve, and decoding options out of their range.
    KeyError
        When a modality, or an observation of ``beside``, is not there.
    TypeError
        For several modalities without MuData.
    """
    from bioverse_sc.models import Decoding, question_prompt

    keys = Keys.of(key_added)
    check_question(question)
    decoding = Decoding(max_new_tokens, temperature, top_p, seed, no_repeat_ngram_size)
    if copy:
        data = data.copy()
    loaded = get_model(model)
    decoding = decoding.of_model(loaded)
    mods = readable(loaded, data, mod) if mod is None or isinstance(mod, str) else list(mod)
    beside = check_beside(beside)
    used = list(dict.fromkeys([*mods, *beside]))
    check_modalities(data, mods, used)
    check_request(loaded, used, retrieve=retrieve, batch_size=batch_size)
    adatas = {name: modality(data, name) for name in used}
    target = Results(adatas[used[0]] if len(used) == 1 else data, keys, overwrite=overwrite)
    slot = Slot("obs", keys.answer)
    target.check([slot])
    companions = {name: rows_beside(adatas[name], name, names) for name, names in beside.items()}
    names, rows_of = shared_observations({name: adatas[name] for name in mods}, target.data)
    sources = {
        name: source_of(
            Results(adatas[name], keys, overwrite=overwrite),
            loaded,
            name,
            retrieve=retrieve,
            layer=layer,
            gene_symbols=gene_symbols,
            batch_size=batch_size,
        )
        for name in used
    }
    for name, rows in companions.items():
        _check_vectors(sources[name], rows)
    counts = " and ".join(f"{name} ({adatas[name].n_obs})" for name in mods)
    which = f"observations of {mods[0]}" if len(mods) == 1 else f"observations that {counts} share"
    with finish_log(f"asking {loaded.config.name!r} about {len(names)} {which}") as slots:
        for source in sources.values():
            log_use(loaded, source, retrieve=retrieve)
        for name, listed in beside.items():
            logger.info("    beside each: %s %s", name, ", ".join(listed))
        places = [sources[name].shown(rows_of[name]) for name in mods]
        places += [sources[name].shown(np.full(len(names), row)) for name, rows in companions.items() for row in rows]
        shown = [place.source.modality for place in places]
        answers = written(
            loaded,
            lambda nearest: question_prompt(shown, [(question, None)], nearest=nearest, prompts=loaded.config.prompts),
            places,
            names,
            decoding,
            batch_size=batch_size,
            description="ask",
        )
        if len(used) > 1:
            answers = pd.Series(answers, index=names).reindex(target.data.obs_names, fill_value="").to_numpy()
        column = pd.Series(answers, index=target.data.obs_names, dtype=object)
        params = provenance(loaded, decoding, retrieve=retrieve) | {
            "question": question,
            "modalities": mods,
            "beside": beside,
            "encoders": {name: contract(loaded, name)[0] for name in used},
        }
        slots += target.write("ask", {slot: column}, params)
    return data if copy else None


def check_question(question: str) -> None:
    """Raise when a question is no text, or an empty one."""
    if not isinstance(question, str):
        msg = f"question is {question!r}; expected a text, such as 'What does this protein do?'"
        raise TypeError(msg)
    if not question.strip():
        msg = "question is empty; expected a text, such as 'What does this protein do?'"
        raise ValueError(msg)
    check_storable(question, "question")


def check_beside(beside: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    """Names by modality as lists; raise for what is no mapping to names."""
    example = "beside={'protein': ['P1', 'P2']}"
    if beside is not None and not hasattr(beside, "items"):
        msg = f"beside is {beside!r}; expected names of observations by modality, such as {example}."
        raise TypeError(msg)
    for mod, names in (beside or {}).items():
        if isinstance(names, str):
            msg = f"beside[{mod!r}] is the string {names!r}; expected a list of names, such as [{names!r}]."
            raise TypeError(msg)
        if len(names) == 0:
            msg = f"beside[{mod!r}] names no observation; expected for example {example}."
            raise ValueError(msg)
    return {mod: [str(name) for name in names] for mod, names in (beside or {}).items()}


def check_modalities(data: AnnData | MuData, mods: Sequence[str], used: Sequence[str]) -> None:
    """Raise for no modality, for one that is named twice, and for several of an AnnData."""
    if not mods:
        msg = "mod is empty; expected a modality such as 'protein', or several, such as ['molecule', 'rna']."
        raise ValueError(msg)
    if repeated := [mod for mod, n in Counter(mods).items() if n > 1]:
        msg = (
            f"mod names {', '.join(map(repr, repeated))} more than once. To show several of one, name them: "
            f"beside={{{repeated[0]!r}: [...]}}"
        )
        raise ValueError(msg)
    if len(used) > 1 and not hasattr(data, "mod"):
        msg = (
            f"Expected MuData for the modalities {list(used)}, found {type(data).__name__}, which holds one; say "
            "which, for example "
            f"mod={used[-1]!r}, or join several: mudata.MuData({{{used[0]!r}: ..., {used[1]!r}: ...}})"
        )
        raise TypeError(msg)


def shared_observations(
    adatas: Mapping[str, AnnData], target: AnnData | MuData
) -> tuple[pd.Index, dict[str, np.ndarray]]:
    """Names that all modalities have, in the order of the first, and their rows in each.

    Parameters
    ----------
    adatas
        The modalities.
    target
        What the answers go to.
    """
    (first, adata), *others = adatas.items()
    names = adata.obs_names
    if target is adata:
        return names, {first: np.arange(adata.n_obs)}
    for mod, each in adatas.items():
        check_unique(each, mod)
    for _, each in others:
        names = names[names.isin(each.obs_names)]
    if not len(names):
        counts = ", ".join(f"{mod} has {each.n_obs}, such as {each.obs_names[0]!r}" for mod, each in adatas.items())
        msg = (
            f"No observation is in all of {list(adatas)}: {counts}. Ask about one of them, mod={first!r}, or show "
            "chosen ones "
            f"in every prompt, mod={first!r}, beside={{{others[0][0]!r}: [{others[0][1].obs_names[0]!r}]}}."
        )
        raise ValueError(msg)
    if not names.isin(target.obs_names).all():
        msg = "The modalities have observations that the MuData has not: they have changed since. Type mdata.update()"
        raise ValueError(msg)
    return names, {mod: each.obs_names.get_indexer(names) for mod, each in adatas.items()}


def rows_beside(adata: AnnData, mod: str, names: Sequence[str]) -> np.ndarray:
    """Rows of named observations."""
    check_unique(adata, mod)
    rows = adata.obs_names.get_indexer(pd.Index(names))
    if missing := [name for name, row in zip(names, rows, strict=True) if row < 0]:
        msg = (
            f"beside[{mod!r}] names {missing}, which are not there; {mod} has {adata.n_obs}, such as "
            f"{list(adata.obs_names[:3])}."
        )
        raise KeyError(msg)
    return rows


def check_unique(adata: AnnData, mod: str) -> None:
    """Raise when names of observations do not say which one is meant."""
    if not adata.obs_names.is_unique:
        twice = adata.obs_names[adata.obs_names.duplicated()][0]
        msg = (
            f"Observations are found by their name, and {mod} has {twice!r} more than once. Make the names different: "
            f"mdata[{mod!r}].obs_names_make_unique(); mdata.update()"
        )
        raise ValueError(msg)


def _check_vectors(source: Source, rows: np.ndarray) -> None:
    """Raise when an entity that every prompt is to show has no vector."""
    if empty := list(source.adata.obs_names[rows[~source.is_known[rows]]]):
        msg = (
            f"beside[{source.modality!r}] names {empty}, whose vectors are zero, as of a cell without any known gene; "
            "leave them out "
            "of beside."
        )
        raise ValueError(msg)
