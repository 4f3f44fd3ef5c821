"""The data of a run: read, split by donors, embedded."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from mudata import MuData

from bioverse_sc import _files, train
from bioverse_sc._keys import Keys
from bioverse_sc._logging import logger
from bioverse_sc.encoders import Precomputed
from bioverse_sc.runs._config import about
from bioverse_sc.runs._processes import device, processes
from bioverse_sc.tl import embed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

    from bioverse_sc.models import BioVerse
    from bioverse_sc.runs._config import AlignRun, InstructRun

EMBEDDINGS = "embeddings"


class RunEntities:
    """What the data of a run hold: modalities, columns with the ontology's words beside, and who is held out."""

    def __init__(self, config: AlignRun | InstructRun) -> None:
        source, mod = config.data, config.mod
        self.source, self.mod = source, mod
        self.embeddings = source.embeddings or config.output / EMBEDDINGS
        with about("data.file"):
            self.data = _files.read(source.file)
        self.mods: dict[str, AnnData] = dict(self.data.mod) if isinstance(self.data, MuData) else {mod: self.data}
        if unknown := sorted(({mod} | set(source.use_rep)) - set(self.mods)):
            msg = (
                f"{source.file} has no modality {', '.join(map(repr, unknown))}, which mod or data.use_rep names; it "
                f"has {list(self.mods)}."
            )
            raise KeyError(msg)
        rows_in = {name: train.rows_of(self.data, name) for name in self.mods}
        self._read_labels()
        self._check_donors()
        self.trained, self.held_out = train.split(self.data, validation=source.validation, donor_key=source.donor_key)
        held_out = {name: rows[self.held_out] for name, rows in rows_in.items()}
        # an observation that a modality lacks is -1
        self.held_out_rows = {name: rows[rows >= 0] for name, rows in held_out.items()}
        n_held_out = len(self.held_out_rows[mod])
        if not 0 < n_held_out < self.mods[mod].n_obs:
            msg = (
                f"data.validation: {n_held_out} of {self.mods[mod].n_obs} entities of {mod!r} are held out; change "
                "data.validation."
            )
            raise ValueError(msg)

    def _read_labels(self) -> None:
        """Put the ontology's words for the labels beside them."""
        source, adata = self.source, self.mods[self.mod]
        if isinstance(self.data, MuData):
            # labels may stand beside the modalities
            shared = self.data.obs.loc[adata.obs_names]
            adata.obs = adata.obs.join(shared[[name for name in shared if name not in adata.obs]])
        if source.labels_key is None:
            return
        with about(f"data.labels_key, {source.file}"):
            adata.obs = train.with_ontology(adata.obs, source.labels_key)
        if (missing := adata.obs["name"].isna()).any():
            msg = (
                f"data.labels_key: {missing.sum()} of {len(missing)} rows of {source.file} have no label in "
                f"{source.labels_key!r}, the first is {missing.idxmax()!r}. Leave them out, or fill the column."
            )
            raise ValueError(msg)

    def _check_donors(self) -> None:
        """Raise when donors are asked for and cannot be held out."""
        key = self.source.donor_key
        if key is None:
            return
        with about(f"data.donor_key, {self.source.file}"):
            donors = pd.unique(train.donors_of(self.data, key)[0])
        if len(named := [donor for donor in donors if donor is not None]) < 2:
            msg = (
                f"data.donor_key: the column {key!r} of {self.source.file} names {len(named)} donors; two are needed "
                "at least to hold one out. Name another column; without any, observations are held out."
            )
            raise ValueError(msg)

    def is_held_out(self, example: train.Example) -> bool:
        """Whether any entity of an example is of a donor that is held out."""
        return any(row in self._held_out_sets[mod] for mod, row in example.entities)

    @cached_property
    def _held_out_sets(self) -> dict[str, set[int]]:
        return {mod: set(rows.tolist()) for mod, rows in self.held_out_rows.items()}

    def descriptions(self, template: str) -> train.Descriptions:
        """Texts of the entities, each once."""
        with about("description"):
            return train.descriptions(self.mods[self.mod].obs, labels_key=None, template=template)

    def stored(self, mod: str) -> np.ndarray:
        """Vectors that the data have."""
        key, adata = self.source.use_rep[mod], self.mods[mod]
        if key not in adata.obsm:
            msg = (
                f"data.use_rep: there is no slot {key!r} in .obsm of {mod!r} in {self.source.file}; there are "
                f"{list(adata.obsm)}."
            )
            raise KeyError(msg)
        return adata.obsm[key]

    def vectors(self, model: BioVerse, mods: Iterable[str]) -> dict[str, np.ndarray]:
        """Vectors of those modalities that are there, by the model's encoder or from the data."""
        reads = model.config.projectors
        if unread := sorted(({self.mod} | set(self.source.use_rep)) - set(reads)):
            msg = (
                f"The model {model.config.name!r} reads {sorted(reads)}, and not {unread}, which mod or data.use_rep "
                "names."
            )
            raise KeyError(msg)
        return {mod: self._vectors(model, mod) for mod in mods if mod in self.mods}

    def _vectors(self, model: BioVerse, mod: str) -> np.ndarray:
        expected = model.config.projectors[mod]
        if mod in self.source.use_rep:
            key = self.source.use_rep[mod]
            with about(f"data.use_rep, {self.source.file}"):
                precomputed = Precomputed.of(key, self.stored(mod))
                if (
                    expected.encoder_fingerprint not in ("", precomputed.fingerprint)
                    or expected.in_width != precomputed.width
                ):
                    msg = (
                        f"{key!r} has width {precomputed.width}, and the {mod} projector of {model.config.name!r} was "
                        f"made for other vectors: of {expected.encoder!r}, width {expected.in_width}."
                    )
                    raise ValueError(msg)
                return precomputed.vectors(self.stored(mod))
        if mod not in model.encoders:
            msg = f"The model has no encoder of {mod!r}; name the vectors to use, data: {{use_rep: {{{mod}: X_key}}}}."
            raise ValueError(msg)
        encoder = model.encoders[mod].to(device())
        # one process computes, the others read
        with processes().main_process_first(), about(f"data, {self.source.file}"):
            embed(
                self.mods[mod],
                encoder=encoder,
                layer=self.source.layer,
                gene_symbols=self.source.gene_symbols,
                batch_size=self.source.batch_size,
                cache=self.embeddings,
            )
        return np.asarray(self.mods[mod].obsm[Keys().embedding(encoder.name)])


def without_vector(vectors: np.ndarray) -> np.ndarray:
    """Rows of entities that the encoder knew nothing of, such as cells without any known gene."""
    empty = np.flatnonzero(~vectors.any(axis=1))
    if len(empty):
        logger.warning("%d of %d entities have no vector, only zeros; they are left out", len(empty), len(vectors))
    return empty
