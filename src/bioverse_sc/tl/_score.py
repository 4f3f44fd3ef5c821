"""How close observations are to texts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pandas as pd

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Slot
from bioverse_sc._validation import check_text_list
from bioverse_sc.metrics import cosines
from bioverse_sc.tl._subject import Reading, subjects

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse

UNWRITABLE = ("_index", ".", "..", ".zattrs", ".zarray", ".zgroup", ".zmetadata")
"""Names that h5ad or zarr does not keep as columns."""


@undisturbed()
def score(
    data: AnnData | MuData,
    texts: Sequence[str],
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
    """Score observations by texts: cosine in the embedding space; embeds and aligns first when that is missing.

    A text lies at the mean of the language model's input token embeddings, a cell, protein or molecule at its soft
    token: what the contrastive loss of BioVERSE (arXiv 2510.01428) brings together.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData; :func:`bioverse_sc.tl.embed` says what it holds.
    texts
        Texts, each once. An h5ad file keeps about 4,000 columns.
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
    ``None``, or a copy when ``copy=True``. Sets what :func:`bioverse_sc.tl.align` sets, if missing, and:

    ``.obsm["bioverse_scores"]``
        DataFrame, observations by texts, float32, -1 to 1; NaN for a cell without any known gene. The columns are the
        texts, with ``|`` for slashes, which files do not keep in a name, and a hash at the end of a long one. Of MuData
        in each modality.
    ``.uns["bioverse"]["score"]``
        Provenance, with ``texts`` as they were given, in the order of the columns.

    Raises
    ------
    TypeError
        When ``texts`` is a single string.
    ValueError
        When ``texts`` is empty, or holds an empty text, one twice, or one that files cannot keep as a column.
    """
    keys = Keys.of(key_added)
    check_text_list(texts)
    texts = list(texts)
    columns = _columns(texts)
    if copy:
        data = data.copy()
    reading = Reading(layer, gene_symbols, batch_size)
    scored = subjects(data, model, keys, mod=mod, reading=reading, overwrite=overwrite)
    slot = Slot("obsm", keys.scores, "cosines with texts")
    for subject in scored:
        subject.results.check([slot, subject.soft_tokens_slot])
    for subject in scored:
        adata, loaded = subject.adata, subject.model
        soft_tokens = subject.soft_tokens
        with finish_log(f"scoring {adata.n_obs} observations of {subject.mod} by {len(texts)} texts") as lines:
            similarity = cosines(soft_tokens, loaded.text_vectors(texts).cpu().numpy())  # (observations, texts)
            scores = pd.DataFrame(similarity, index=adata.obs_names, columns=columns)
            params = {
                "model": loaded.config.name,
                "model_fingerprint": loaded.fingerprint,
                "texts": texts,
                "device": str(loaded.device),
            }
            lines += subject.results.write("score", {slot: scores}, params)
    if columns != texts:
        logger.info(
            "    Names of columns have '|' for slashes, and a hash for the end of a long text, as files do not keep "
            "them."
        )
    return data if copy else None


def _columns(texts: Sequence[str]) -> list[str]:
    """Names of columns that h5ad keeps."""
    columns = [Keys.score_column(text) for text in texts]
    for text, column in zip(texts, columns, strict=True):
        if column in UNWRITABLE:
            msg = f"texts holds {text!r}, which files cannot keep as the name of a column. Write it in other words."
            raise ValueError(msg)
    if repeated := [column for column, n in Counter(columns).items() if n > 1]:
        alike = [text for text, column in zip(texts, columns, strict=True) if column in repeated]
        msg = (
            f"texts holds {', '.join(map(repr, alike))}, which are the same with '|' for slashes, as columns are "
            "named. Write one in other words."
        )
        raise ValueError(msg)
    return columns
