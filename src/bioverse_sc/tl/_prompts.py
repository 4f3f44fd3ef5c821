"""What describe and ask share: entities in their places of a prompt, and the texts that the model writes about them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bioverse_sc._logging import logger, progress
from bioverse_sc._validation import check_batch_size
from bioverse_sc.encoders._base import EntityEncoder
from bioverse_sc.tl._embed import check_read, contract, embedding_slot, ensure_embedding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData

    from bioverse_sc._results import Results
    from bioverse_sc.models import BioVerse, Decoding, Memory, Segment

RETRIEVED = 3
"""Texts of known entities that are shown before an entity."""


@dataclass(frozen=True)
class Source:
    """Entities of a modality, which prompts may show."""

    modality: str
    adata: AnnData
    slot: str
    """Where its vectors are stored."""
    vectors: np.ndarray
    """As they are stored, shape (observations, width)."""
    is_known: np.ndarray
    """Whether an observation has a vector; zeros say that the encoder knows nothing of it."""
    memory: Memory | None = None
    """Known entities, where their texts are to be shown."""
    column: str = ""
    """Column of ``.obs`` with the text by which the observations are compared with those of the memory."""

    def shown(self, rows: np.ndarray) -> Shown:
        """Entities of these rows, with the texts of their nearest known ones."""
        if self.memory is None:
            return Shown(self, rows, [()] * len(rows))
        codes, unique = pd.factorize(self.adata.obs[self.column].iloc[rows].astype(object).fillna(""))
        nearest = self.memory.nearest([str(text) for text in unique], RETRIEVED)
        return Shown(self, rows, [nearest[code] for code in codes])


@dataclass(frozen=True)
class Shown:
    """What stands in one place of the prompts: for each prompt a row of a source, and texts to show before it."""

    source: Source
    rows: np.ndarray
    nearest: Sequence[Sequence[str]]


def check_request(model: BioVerse, mods: Sequence[str], *, retrieve: bool, batch_size: int) -> None:
    """Raise when the model does not read a modality, has nothing to retrieve, or the batches are empty."""
    check_batch_size(batch_size)
    check_read(model, mods)
    if retrieve and not set(mods) & set(model.memory):
        msg = (
            f"retrieve=True shows the nearest of the known entities, but the model {model.config.name!r} has no "
            "memory of "
            f"{', '.join(mods)}; it has {sorted(model.memory) or 'none'}. Leave it out: retrieve=False."
        )
        raise ValueError(msg)


def source_of(
    results: Results,
    model: BioVerse,
    mod: str,
    *,
    retrieve: bool,
    layer: str | None,
    gene_symbols: str | None,
    batch_size: int,
) -> Source:
    """Vectors of a modality, embedded when that has not been done, and its memory."""
    ensure_embedding(results, model, mod=mod, layer=layer, gene_symbols=gene_symbols, batch_size=batch_size)
    adata, slot = results.data, embedding_slot(results, model, mod)
    vectors = np.asarray(adata.obsm[slot], dtype=np.float32)
    encoder, memory = model.encoders.get(mod), model.memory.get(mod)
    column = encoder.column if isinstance(encoder, EntityEncoder) else ""
    if not retrieve or memory is None or column not in adata.obs:
        memory = None
    return Source(mod, adata, slot, vectors, np.asarray(vectors.any(axis=1)), memory, column)


def log_use(model: BioVerse, source: Source, *, retrieve: bool) -> None:
    """Say which vectors and which known texts of a modality the prompts show."""
    memory = model.memory.get(source.modality)
    if not retrieve:
        texts = ""
    elif memory is None:
        texts = "; no texts: the model has no memory of it"
    elif source.memory is None:
        texts = (
            "; no texts: the observations have none of their "
            f"own{f' (obs[{source.column!r}])' if source.column else ''}"
        )
    else:
        texts = f"; the {RETRIEVED} nearest of {len(memory)} known ones by obs[{source.column!r}]"
    name = contract(model, source.modality)[0]
    logger.info("    %s: vectors of %s (obsm[%r])%s", source.modality, name, source.slot, texts)


def written(
    model: BioVerse,
    prompt_of: Callable[[list[Sequence[str]]], list[Segment]],
    places: Sequence[Shown],
    names: pd.Index,
    decoding: Decoding,
    *,
    batch_size: int,
    description: str,
) -> np.ndarray:
    """Texts that the model writes, one for each name; ``""`` where an entity has no vector.

    Parameters
    ----------
    model
        The model.
    prompt_of
        Makes a prompt from the texts to show before each of its entities.
    places
        The entities, in the order of the prompt.
    names
        Of the observations; each has draws of its own.
    decoding
        How the texts are chosen.
    batch_size
        Prompts at a time.
    description
        Of the progress bar.
    """
    import torch

    from bioverse_sc.models import generate_text

    texts = np.full(len(names), "", dtype=object)
    real = np.flatnonzero(np.all([place.source.is_known[place.rows] for place in places], axis=0))
    if len(real) < len(names):
        logger.warning(
            "%d of %d observations are left out, with an empty text: a vector is zero, as of a cell without any known "
            "gene.",
            len(names) - len(real),
            len(names),
        )
    # prompts of about one length go together, as they are padded to the longest, which come first, as they may be too
    # long
    lengths = [-sum(len(text) for place in places for text in place.nearest[i]) for i in real.tolist()]
    order = real[np.argsort(lengths, kind="stable")]
    with progress(total=len(names), initial=len(names) - len(real), description=description, unit="prompt") as bar:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            prompts = [prompt_of([place.nearest[i] for place in places]) for i in part.tolist()]
            with torch.inference_mode():
                soft_tokens = [
                    model.project(
                        place.source.modality, torch.from_numpy(place.source.vectors[place.rows[part]]).to(model.device)
                    )
                    for place in places
                ]
            answers = generate_text(
                model, prompts, torch.cat(soft_tokens, dim=1), decoding, keys=[str(name) for name in names[part]]
            )
            # HDF5 keeps no NUL in a text
            texts[part] = [answer.replace("\0", "") for answer in answers]
            bar.update(len(part))
    return texts


def provenance(model: BioVerse, decoding: Decoding, *, retrieve: bool) -> dict[str, Any]:
    """What made a text, in types that h5ad keeps."""
    return {
        "model": model.config.name,
        "model_fingerprint": model.fingerprint,
        "prompt": prompt_id(model),
        "retrieve": retrieve,
        **asdict(decoding),
        "device": str(model.device),
    }


def prompt_id(model: BioVerse) -> str:
    """Name of the default templates, or a hash of a model's own."""
    from bioverse_sc.models import PROMPT_ID, PROMPTS

    if model.config.prompts == PROMPTS and model.config.chat is None:
        return PROMPT_ID
    return hashlib.sha256(repr((sorted(model.config.prompts.items()), model.config.chat)).encode()).hexdigest()[:16]
