"""Step 3: the encoders' vectors of fresh cells, and of the known proteins and molecules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from cells import MIN_GENES, simulate, simulate_strangers
from scipy.sparse import save_npz

from bioverse_sc.ontology import UNKNOWN

if TYPE_CHECKING:
    from data import Data

    from bioverse_sc.encoders.chemberta import ChembertaEncoder
    from bioverse_sc.encoders.esm2 import Esm2Encoder
    from bioverse_sc.encoders.scgpt import ScGPTEncoder


def cell_vectors(data: Data, encoder: ScGPTEncoder) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and types of fresh cells; the types are places in ``names``.

    The cells of types that do not exist come last. Counts of the first cells of both kinds are kept for the
    reasoning.
    """
    path = data.work / "vectors.npz"
    if not path.exists():
        r = data.recipe
        cells = simulate(data.profiles, r.cells, seed=r.seed + 2, balance=r.balance)
        types = data.type_of_profile[cells.profile]
        rows = np.flatnonzero((types >= 0) & (np.diff(cells.counts.indptr) >= MIN_GENES))
        counts, types = cells.counts[rows], types[rows]
        vectors = encoder.encode(counts, data.profiles.genes, batch_size=128)
        save_npz(data.work / "reasoned_cells.npz", counts[: r.reasoned_cells])
        np.savez(data.work / "vectors.new.npz", vectors=vectors, types=types)
        (data.work / "vectors.new.npz").rename(path)
    strange_path = data.work / "strange_vectors.npy"
    if not strange_path.exists():
        r = data.recipe
        counts = simulate_strangers(data.profiles, r.strangers, seed=r.seed + 5)
        counts = counts[np.diff(counts.indptr) >= MIN_GENES]
        save_npz(data.work / "reasoned_strangers.npz", counts[: r.reasoned_cells // 12])
        np.save(strange_path, encoder.encode(counts, data.profiles.genes, batch_size=128))
    stored, strange = np.load(path), np.load(strange_path)
    types = np.concatenate([stored["types"], np.full(len(strange), data.names.index(UNKNOWN))])
    return np.concatenate([stored["vectors"], strange]), types


def entity_vectors(data: Data, mod: str, encoder: Esm2Encoder | ChembertaEncoder) -> np.ndarray:
    """Vectors of the known proteins, or of the known molecules and the merely named ones."""
    path = data.work / f"{mod}_vectors.npy"
    if not path.exists():
        known = data.memory[mod].table["entity"].tolist()
        more = data.molecules.more["smiles"] if mod == "molecule" else []
        np.save(path, encoder.encode([*known, *more]))
    vectors: np.ndarray = np.load(path)
    return vectors
