"""What annotate is asked for: checked by itself, against the labels, and against the clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bioverse_sc.read import clusters_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData

    from bioverse_sc.models import BioVerse

LEVELS = ("fine", "coarse")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What was asked for; see :func:`bioverse_sc.tl.annotate`."""

    levels: Sequence[str]
    by: str
    unique: bool
    reasoning: str | None
    groupby: str
    min_confidence: float | None
    n_runner_up: int
    max_cells_to_generate: int | None

    def __post_init__(self) -> None:
        if isinstance(self.levels, str) or "fine" not in self.levels or not set(self.levels) <= set(LEVELS):
            msg = f"levels is {self.levels!r}; expected ('fine',) or ('fine', 'coarse')."
            raise ValueError(msg)
        if self.by not in ("cell", "cluster"):
            msg = f"by is {self.by!r}; expected 'cell' or 'cluster'."
            raise ValueError(msg)
        if self.unique and self.by != "cluster":
            msg = f"unique is True with by={self.by!r}; expected by='cluster', as it is clusters that get a label each."
            raise ValueError(msg)
        if self.reasoning not in ("representative", "cell", "cluster", None):
            msg = f"reasoning is {self.reasoning!r}; expected 'representative', 'cell', 'cluster' or None."
            raise ValueError(msg)
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            msg = (
                f"min_confidence is {self.min_confidence}; expected a probability from 0 to 1, or None for the model's "
                "own."
            )
            raise ValueError(msg)
        budget = self.max_cells_to_generate
        if budget is not None and (budget < 1 or self.reasoning != "representative"):
            msg = (
                f"max_cells_to_generate is {budget} with reasoning={self.reasoning!r}; expected 1 or more, with "
                "reasoning='representative'."
            )
            raise ValueError(msg)

    def clusters(self, adata: AnnData) -> pd.Categorical | None:
        """The clusters, where they are asked for; and where they are there, for representatives."""
        # without them representatives go by their labels alone
        if "cluster" in (self.by, self.reasoning) or (
            self.groupby in adata.obs and adata.obs[self.groupby].notna().all()
        ):
            return clusters_of(adata, self.groupby)
        return None

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raise when there are fewer labels than runners-up are asked for; ``"unknown"`` is the last of them."""
        if not 0 <= self.n_runner_up < len(labels):
            msg = (
                f"n_runner_up is {self.n_runner_up}; expected 0 to {len(labels) - 1}, for {len(labels)} labels with "
                "'unknown'."
            )
            raise ValueError(msg)

    def check_clusters(self, clusters: pd.Categorical | None, labels: Sequence[str]) -> None:
        """Raise when each cluster is to have a label of its own and there are too few."""
        if self.unique and clusters is not None and len(clusters.categories) > len(labels) - 1:
            msg = (
                f"There are {len(clusters.categories)} clusters in .obs[{self.groupby!r}] and {len(labels) - 1} "
                "labels, so unique=True cannot give each cluster a label of its own. Give more labels, join clusters, "
                "or leave unique out."
            )
            raise ValueError(msg)

    def threshold(self, model: BioVerse) -> float:
        """Probability below which a label gives way to a wider one."""
        if self.min_confidence is not None:
            return self.min_confidence
        return 0.0 if self.unique else model.config.min_confidence
