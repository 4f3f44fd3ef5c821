"""What describe, ask and chat share: entities in their places of a prompt, and the texts that the model writes."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bioverse_sc._logging import logger, progress
from bioverse_sc._modality import modality_of
from bioverse_sc._validation import check_batch_size
from bioverse_sc.tl._current import check_read, vectors_expected
from bioverse_sc.tl._nearest import RETRIEVED, memory_of, nearest_known

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from bioverse_sc.facts import Known
    from bioverse_sc.models import BioVerse, Decoding, Segment
    from bioverse_sc.tl._subject import Subject


@dataclass(frozen=True)
class Shown:
    """What stands in one place of the prompts: for each prompt an observation, and what is known near it."""

    subject: Subject
    rows: np.ndarray
    nearest: Sequence[Sequence[Known] | None]
    """``None`` where it was not looked up."""

    @property
    def texts(self) -> list[list[str]]:
        """Texts of the nearest known ones of each."""
        return [[known.text for known in near or ()] for near in self.nearest]


def shown(subject: Subject, rows: np.ndarray, *, retrieve: bool) -> Shown:
    """Observations of these rows, with their nearest known ones where these are to be looked up."""
    return Shown(subject, rows, nearest_known(subject, rows) if retrieve else [None] * len(rows))


def check_request(model: BioVerse, mods: Sequence[str], *, batch_size: int) -> None:
    """Raise when the model does not read a modality, or the batches are empty."""
    check_batch_size(batch_size)
    check_read(model, mods)


def log_use(subject: Subject, *, retrieve: bool) -> None:
    """Say which vectors and which known texts of a modality the prompts show."""
    mod, column = subject.mod, modality_of(subject.mod).column
    memory = subject.model.memory.get(mod)
    if not retrieve or not column:
        texts = ""
    elif memory is None:
        texts = "; no texts: the model has no memory of it"
    elif memory_of(subject) is None:
        texts = f"; no texts: the observations have none of their own (obs[{column!r}])"
    else:
        texts = f"; the {RETRIEVED} nearest of {len(memory)} known ones by obs[{column!r}]"
    name = vectors_expected(subject.model, mod)[0]
    logger.info("    %s: vectors of %s (obsm[%r])%s", mod, name, subject.vectors_slot.key, texts)


def written(
    model: BioVerse,
    prompts: Sequence[Sequence[Segment]],
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
    prompts
        One for each name.
    places
        Their entities, in the order of the prompts.
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
    real = np.flatnonzero(np.all([place.subject.is_known[place.rows] for place in places], axis=0))
    if len(real) < len(names):
        logger.warning(
            "%d of %d observations are left out, with an empty text: a vector is zero, as of a cell without any known "
            "gene.",
            len(names) - len(real),
            len(names),
        )
    # prompts of about one length go together, as they are padded to the longest, which come first, as they may be too
    # long
    lengths = [-sum(len(getattr(segment, "text", None) or "") for segment in prompts[i]) for i in real.tolist()]
    order = real[np.argsort(lengths, kind="stable")]
    with progress(total=len(names), initial=len(names) - len(real), description=description, unit="prompt") as bar:
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            with torch.inference_mode():
                soft_tokens = [
                    model.project(
                        place.subject.mod, torch.from_numpy(place.subject.vectors[place.rows[part]]).to(model.device)
                    )
                    for place in places
                ]
            answers = generate_text(
                model,
                [prompts[i] for i in part.tolist()],
                torch.cat(soft_tokens, dim=1),
                decoding,
                keys=[str(name) for name in names[part]],
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
