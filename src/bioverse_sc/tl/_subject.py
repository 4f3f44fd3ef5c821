"""What a tool is about: observations of one modality, as a model reads them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc._logging import finish_log
from bioverse_sc._modality import CELLS, modality_of
from bioverse_sc._results import Results, Slot
from bioverse_sc._row_hash import bound_hashes, hash_rows
from bioverse_sc.encoders import genes_of
from bioverse_sc.read import observations
from bioverse_sc.tl._current import ensure_vectors, matrix_to_read, vectors_expected, with_vectors
from bioverse_sc.tl._encode import embedding_slot

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc._keys import Keys
    from bioverse_sc.models import BioVerse
    from bioverse_sc.read import GeneMatrix


@dataclass(frozen=True)
class Reading:
    """How observations are read: which matrix, which gene names, and how many at a time."""

    layer: str | None = None
    gene_symbols: str | None = None
    batch_size: int = 64


@dataclass(frozen=True)
class Subject:
    """Observations of one modality, what is known of them, and how they are to be read.

    What a property gives is made first, and written, when it is not there yet or is out of date.
    """

    results: Results
    model: BioVerse
    mod: str = CELLS
    reading: Reading = Reading()

    @property
    def adata(self) -> AnnData:
        """The observations."""
        return self.results.data

    @cached_property
    def vector_results(self) -> Results:
        """The stem that holds the vectors: that of the results, or another one that has the same vectors already."""
        return with_vectors(self)

    @cached_property
    def _matrix_of_vectors(self) -> GeneMatrix | None:
        """The matrix that the vectors are made from, once they are there; ``None`` when it is no matrix of genes."""
        return ensure_vectors(self)

    def embed(self) -> None:
        """Make sure that the vectors are there."""
        # makes them
        _ = self._matrix_of_vectors

    @cached_property
    def vectors_slot(self) -> Slot:
        """Where the vectors are."""
        self.embed()
        made_by = self.vector_results.made_by("embed")
        encoder = made_by["encoder"] if made_by.get("encoder_chosen") else vectors_expected(self.model, self.mod)[0]
        return embedding_slot(self.vector_results, str(encoder))

    @cached_property
    def vectors(self) -> np.ndarray:
        """Encoder vectors, shape (observations, width), float32; zeros for one of which the encoder knows nothing."""
        return np.asarray(self.adata.obsm[self.vectors_slot.key], dtype=np.float32)

    @cached_property
    def is_known(self) -> np.ndarray:
        """Whether the encoder knows something of an observation, shape (observations,)."""
        return np.asarray(self.vectors.any(axis=1))

    @property
    def soft_tokens_slot(self) -> Slot:
        """Where the soft tokens are."""
        return Slot("obsm", self.results.keys.soft_token, "soft tokens")

    @cached_property
    def soft_tokens(self) -> np.ndarray:
        """Mean soft token of each observation, shape (observations, width of the language model)."""
        self.align()
        return np.asarray(self.adata.obsm[self.soft_tokens_slot.key])

    @cached_property
    def matrix(self) -> GeneMatrix:
        """The matrix of genes that the vectors were made from, or that the model's genes are read from."""
        return self._matrix_of_vectors or matrix_to_read(self, known_genes(self.model))[0]

    def align(self) -> None:
        """Make sure that the soft tokens are there; a tool checks their slot before, with those of its own."""
        if not self._is_aligned():
            self.project()

    def project(self) -> None:
        """Project the vectors into the language model's embedding space, and write."""
        from bioverse_sc.models import mean_soft_tokens

        vectors = self.adata.obsm[self.vectors_slot.key]
        counted = f"{self.adata.n_obs} {_plural(self.mod)}"
        with finish_log(f"projecting {counted} into the language model of {self.model.config.name!r}") as lines:
            soft_tokens = mean_soft_tokens(self.model.projectors[self.mod], vectors)
            params = {
                "model": self.model.config.name,
                "model_fingerprint": self.model.fingerprint,
                "vectors": self.vectors_slot.key,
                "content": bound_hashes(hash_rows(vectors), hash_rows(soft_tokens)),
                "device": str(self.model.device),
            }
            lines += self.results.write("align", {self.soft_tokens_slot: soft_tokens}, params)

    def _is_aligned(self) -> bool:
        """Whether the soft tokens of this model are there, made from the vectors that are there."""
        made_by, obsm = self.results.made_by("align"), self.adata.obsm
        vectors = obsm[self.vectors_slot.key]
        # a model that was trained since it was loaded has no fingerprint
        if (
            self.soft_tokens_slot.key not in obsm
            or not made_by.get("model_fingerprint") == self.model.fingerprint != ""
        ):
            return False
        content = bound_hashes(hash_rows(vectors), hash_rows(obsm[self.soft_tokens_slot.key]))
        return self.results.made_from("align", content)


def _plural(mod: str) -> str:
    return modality_of(mod).plural if mod == CELLS else f"observations of {mod}"


def subjects(
    data: AnnData | MuData,
    model: str | Path | BioVerse,
    keys: Keys,
    *,
    mod: str | None = None,
    reading: Reading,
    overwrite: bool = False,
) -> list[Subject]:
    """A subject for each modality: the one that is asked for, else those of :func:`modalities_read`."""
    from bioverse_sc.models import get_model

    if mod is not None:
        # what cannot be read is said before a model of billions of parameters is loaded
        observations(data, mod)
    loaded = get_model(model)
    return [
        Subject(Results(observations(data, name), keys, overwrite=overwrite), loaded, name, reading)
        for name in modalities_read(loaded, data, mod)
    ]


def modalities_read(model: BioVerse, data: AnnData | MuData, mod: str | None) -> list[str]:
    """The modality that is asked for; of an AnnData cells; of a MuData all modalities that the model reads."""
    mods = getattr(data, "mod", None)
    if mod is not None:
        return [mod]
    if mods is None:
        for name in model.encoders:
            column = modality_of(name).column
            if column and getattr(data, "n_vars", 1) == 0 and column in data.obs:
                msg = f"This AnnData has no genes but .obs[{column!r}]; say what it holds, mod={name!r}."
                raise ValueError(msg)
        return [CELLS]
    both = [name for name in model.config.projectors if name in mods]
    if not both:
        msg = (
            f"The model {model.config.name!r} reads {sorted(model.config.projectors)}, and the MuData has "
            f"{list(mods)}: none of them."
        )
        raise KeyError(msg)
    return both


def known_genes(model: BioVerse) -> list[str]:
    """Genes that a model knows: those of the encoder, or of the model's reference when it has no encoder."""
    genes = genes_of(model.encoders[CELLS]) if CELLS in model.encoders else list(model.gene_reference)
    if not genes:
        msg = (
            f"The model {model.config.name!r} knows no genes, which the reasoning names; annotate with reasoning=None."
        )
        raise ValueError(msg)
    return genes
