"""Every slot name, in one place."""

from __future__ import annotations

from dataclasses import dataclass

OUTDATES = {"embed": ("align",), "annotate": ("evidence",)}
"""Steps whose results are out of date after a step has written new ones."""


@dataclass(frozen=True)
class Keys:
    """Slot names under a stem; ``key_added`` of a function is the stem."""

    stem: str = "bioverse"

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
        """Column of a text in the scores: ``|`` for ``/``, with which HDF5 would make a group of a name."""
        return text.replace("/", "|")

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
    def answer(self) -> str:
        """``.obs``: generated answer to a question."""
        return f"{self.stem}_answer"
