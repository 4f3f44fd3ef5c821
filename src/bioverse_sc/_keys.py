"""Every slot name, in one place."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

from bioverse_sc._validation import check_storable

LONGEST = 200
"""Bytes of a name: a zarr store makes folders of names, which a file system limits."""
_ENCODERS = ("scgpt", "esm2", "chemberta", "precomputed")

OUTDATES = {
    "embed": ("align", "describe", "ask"),
    "align": ("annotate", "score", "controls", "alignment_umap"),
    "annotate": ("evidence",),
}
"""Steps whose results are out of date after a step has written others than before, and in turn what these outdate.

Of one object: results of several modalities, which lie in the MuData, go by their content."""


@dataclass(frozen=True)
class Keys:
    """Slot names under a stem; ``key_added`` of a function is the stem.

    Raises
    ------
    TypeError
        When the stem is no string.
    ValueError
        When files cannot keep a name with it, or it makes the name of an encoder's slot.
    """

    stem: str = "bioverse"

    def __post_init__(self) -> None:
        check_name(self.stem, "key_added", example="monocytes")
        if self.stem in _ENCODERS:
            msg = (
                f"key_added is {self.stem!r}, and .obsm['X_{self.stem}'] is where the vectors of that encoder go. Give "
                f"another name, such as key_added='my_{self.stem}'."
            )
            raise ValueError(msg)

    @classmethod
    def of(cls, key_added: str | None) -> Self:
        """Names under what a user gave, or under the default stem."""
        return cls() if key_added is None else cls(key_added)

    def embedding(self, encoder: str) -> str:
        """``.obsm``: encoder vectors. The default stem leaves them their own name, ``X_scgpt``."""
        return f"X_{encoder}" if self.stem == "bioverse" else f"X_{self.stem}_{encoder}"

    @property
    def soft_token(self) -> str:
        """``.obsm``: the soft token, in the language model's embedding space."""
        return f"X_{self.stem}"

    @property
    def umap_before(self) -> str:
        """``.obsm``: cells beside texts, with an untrained projector."""
        return f"X_{self.stem}_umap_before"

    @property
    def umap_after(self) -> str:
        """``.obsm``: cells beside texts, with the trained projector."""
        return f"X_{self.stem}_umap_after"

    @property
    def scores(self) -> str:
        """``.obsm``: cosine of soft tokens with texts."""
        return f"{self.stem}_scores"

    @staticmethod
    def score_column(text: str) -> str:
        """Column of a text in the scores.

        Slashes, of which files make groups, become ``|``; the end of a long text becomes a hash.
        """
        column = text.replace("/", "|").replace("\\", "|")
        if len(column.encode("utf-8", "replace")) <= LONGEST:
            return column
        cut = column.encode("utf-8", "replace")[: LONGEST - 20].decode("utf-8", "ignore")
        return f"{cut}... {hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"

    @property
    def label(self) -> str:
        """``.obs``: label."""
        return f"{self.stem}_label"

    @property
    def label_id(self) -> str:
        """``.obs``: Cell Ontology id."""
        return f"{self.stem}_label_id"

    @property
    def confidence(self) -> str:
        """``.obs``: probability of the label."""
        return f"{self.stem}_confidence"

    @property
    def coarse(self) -> tuple[str, str, str]:
        """``.obs``: label, Cell Ontology id and confidence of the coarse level."""
        return f"{self.stem}_label_coarse", f"{self.stem}_label_coarse_id", f"{self.stem}_confidence_coarse"

    @property
    def probabilities(self) -> str:
        """``.obsm``: probabilities of all labels."""
        return f"{self.stem}_probabilities"

    @property
    def runner_up(self) -> str:
        """``.obsm``: next likely labels."""
        return f"{self.stem}_runner_up"

    @property
    def reasoning(self) -> str:
        """``.obs``: generated text."""
        return f"{self.stem}_reasoning"

    @property
    def genes_supported(self) -> str:
        """``.obs``: claims of the reasoning about genes that hold."""
        return f"{self.stem}_genes_supported"

    @property
    def genes_unsupported(self) -> str:
        """``.obs``: claims of the reasoning about genes that do not hold."""
        return f"{self.stem}_genes_unsupported"

    @property
    def reasoning_of(self) -> str:
        """``.obs``: which cell or cluster the reasoning was written about."""
        return f"{self.stem}_reasoning_of"

    @property
    def description(self) -> str:
        """``.obs``: generated text about the observation."""
        return f"{self.stem}_description"

    @property
    def nearest(self) -> str:
        """``.obs``: text of the nearest known entity."""
        return f"{self.stem}_nearest"

    @property
    def nearest_similarity(self) -> str:
        """``.obs``: how similar it is."""
        return f"{self.stem}_nearest_similarity"

    @property
    def answer(self) -> str:
        """``.obs``: generated answer to a question."""
        return f"{self.stem}_answer"


def check_name(name: object, named: str, *, example: str) -> None:
    """Raise when h5ad, h5mu or zarr cannot keep something under a name.

    Parameters
    ----------
    name
        The name.
    named
        The argument that it was given as.
    example
        One that will do.
    """
    hint = f"Give another one, such as {example!r}."
    if not isinstance(name, str):
        msg = f"{named} is {name!r} ({type(name).__name__}); expected a string, such as {example!r}."
        raise TypeError(msg)
    if not name.strip():
        msg = f"{named} is {name!r}; expected a name with letters. {hint}"
        raise ValueError(msg)
    if slashes := [letter for letter in "/\\" if letter in name]:
        msg = (
            f"{named} is {name!r}; with {slashes[0]!r} in a name a file could not be read again. Try "
            f"{name.replace(slashes[0], '_')!r}."
        )
        raise ValueError(msg)
    check_storable(name, named)
    if name.startswith("."):
        msg = f"{named} is {name!r}; names that begin with '.' have a meaning of their own in files. {hint}"
        raise ValueError(msg)
    if len(name.encode()) > LONGEST // 2:
        n_bytes = len(name.encode())
        msg = f"{named} has {n_bytes} bytes; file systems keep {LONGEST // 2} and what is added to them. {hint}"
        raise ValueError(msg)
