"""Train the reading of cells on, with real cells beside simulated ones, and leave everything else of a model as it is.

    python recipes/mini/refine.py --shared ../shared --model /tmp/mini-simulated --work /tmp/refined
        --out src/bioverse_sc/bundled/mini

The model is what ``train.py`` wrote; ``calibrate.py`` follows. Every step leaves its result in the work folder and is
skipped when that is there; training inside a step resumes from its last checkpoint. Two CPU cores need about an hour.

1. types      give real cells without labels their likely types: a classifier on the encoder's vectors, spread over
  neighbours
2. encoder    train the encoder on, with simulated cells, views of the real ones, and cells of types that do not exist
3. projector  train the projector of cells for the new encoder; the language model and its adapter do not change
4. average    the mean of the weights before and after, of the encoder and of the projector, is better than either
5. unknown    train the averaged projector on, with more kinds of types that do not exist; the mean of before and after
  again
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cells as cell_data
import numpy as np
import real_cells
import torch
from data import Data, type_targets
from instruct import labelled_cells
from recipe import Recipe
from save import save_model
from scipy.sparse import csr_matrix, vstack

import bioverse_sc as bsc
from bioverse_sc.datasets import SimulationConfig
from bioverse_sc.encoders.scgpt import Heads, ScGPTEncoder
from bioverse_sc.ontology import UNKNOWN
from bioverse_sc.train import (
    CellSource,
    Descriptions,
    EncoderTask,
    PromptSource,
    PromptTask,
    TrainConfig,
    contrastive_task,
    fit,
    training_only,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.models import BioVerse


@dataclass(frozen=True)
class Refinement:
    """Every number of the recipe."""

    seed: int = 10
    classified: int = 20_000
    """Simulated cells that the classifier of real cells is fitted on."""
    alpha: float = 0.7
    """Share of a real cell's probabilities that comes from its neighbours."""
    at_least: float = 0.5
    """Probability of the type of a real cell."""
    genes_per_cell: int = 256
    ambient: tuple[float, float] = (0.0, 0.3)
    real_share: float = 0.25
    strange_share: float = 1 / 16
    strange_kinds: tuple[float, ...] = (0.2, 0.16, 0.2, 0.04, 0.2, 0.2, 0.0)
    """Shares of the kinds of :func:`cells.simulate_strangers`, for the encoder and its projector."""
    kinds_at_last: tuple[float, ...] = (0.18, 0.12, 0.15, 0.05, 0.15, 0.15, 0.2)
    strange_profiles: int = 6000
    heads: TrainConfig = TrainConfig(
        steps=250, batch_size=128, learning_rate=3e-3, warmup_steps=20, mixed_precision="bf16"
    )
    encoder: TrainConfig = TrainConfig(
        steps=2000, batch_size=128, learning_rate=7e-4, warmup_steps=60, mixed_precision="bf16", checkpoint_every=100
    )
    share_after: float = 0.7
    """Of the weights after step 3 in the average."""
    cells: int = 100_000
    real_cells: int = 12_000
    strangers: int = 10_000
    contrastive: TrainConfig = TrainConfig(
        steps=800, batch_size=512, learning_rate=5e-4, weight_decay=0.05, warmup_steps=50
    )
    label: TrainConfig = TrainConfig(
        steps=1000,
        batch_size=256,
        learning_rate=1.2e-3,
        warmup_steps=50,
        mixed_precision="bf16",
        checkpoint_every=100,
    )
    label_at_last: TrainConfig = replace(label, steps=700, learning_rate=8e-4)


class Refine:
    """The steps, with what they share."""

    def __init__(self, shared: Path, model: Path, work: Path, recipe: Refinement) -> None:
        self.folder, self.work, self.recipe = model, work, recipe
        self.data = Data(shared, work, Recipe())
        self.profiles, self.genes = self.data.profiles, self.data.profiles.genes
        self.unknown = self.data.names.index(UNKNOWN)
        self.sets = real_cells.read_unlabelled(shared, self.genes)
        self.real = vstack(self.sets, format="csr")

    def simulated(self, n: int, *, seed: int, balance: float) -> tuple[csr_matrix, np.ndarray]:
        """Counts and types of simulated cells; -1 is the type of a cell whose profile is no clean example of one."""
        config = SimulationConfig(ambient=self.recipe.ambient)
        cells = cell_data.simulate(self.profiles, n, seed=self.recipe.seed + seed, balance=balance, config=config)
        return cells.counts, self.data.type_of_profile[cells.profile]

    def strangers(self, n: int, kinds: Sequence[float], *, seed: int) -> tuple[csr_matrix, np.ndarray]:
        """Counts of cells of types that do not exist, and the place of "unknown"."""
        r = self.recipe
        counts = cell_data.simulate_strangers(
            self.profiles, n, seed=r.seed + seed, n_profiles=r.strange_profiles, shares=kinds
        )
        return counts, np.full(n, self.unknown)

    def views(self, n: int, *, seed: int) -> tuple[csr_matrix, np.ndarray]:
        """Counts of views of real cells, and their likely types."""
        seed += self.recipe.seed
        rows = real_cells.draw(self.real_types(), n, seed=seed, balance=0.5)
        return real_cells.views(self.real, rows, seed=seed), self.real_types()[rows]

    def real_types(self) -> np.ndarray:
        """Step 1."""
        path = self.work / "real_types.npy"
        if not path.exists():
            r = self.recipe
            counts, types = self.simulated(r.classified, seed=1, balance=0.5)
            rows = np.flatnonzero((types >= 0) & (np.diff(counts.indptr) >= cell_data.MIN_GENES))
            likely = real_cells.likely_types(
                bsc.models.load(self.folder).encoders["rna"],
                self.sets,
                counts[rows],
                types[rows],
                self.genes,
                alpha=r.alpha,
                at_least=r.at_least,
            )
            print(f"{(likely >= 0).mean():.0%} of {len(likely)} real cells have a likely type", flush=True)
            np.save(path, likely)
        stored: np.ndarray = np.load(path)
        return stored

    def encoder(self) -> ScGPTEncoder:
        """Step 2."""
        folder = self.work / "encoder"
        if folder.exists():
            return ScGPTEncoder.from_folder(folder)
        r = self.recipe
        encoder = bsc.models.load(self.folder).encoders["rna"]
        targets = np.pad(type_targets(self.data.terms, smoothing=0.08), (0, 1))
        targets[self.unknown, self.unknown] = 1
        self.fit_heads(encoder, targets)
        n = r.encoder.steps * r.encoder.batch_size
        n_real, n_strange = int(n * r.real_share), int(n * r.strange_share)
        counts, types = joined(
            self.simulated(n - n_real - n_strange, seed=3, balance=0.45),
            self.strangers(n_strange, r.strange_kinds, seed=4),
            self.views(n_real, seed=5),
        )
        bsc.train.pretrain_encoder(
            encoder,
            encoder.tokenize(counts, self.genes, max_length=r.genes_per_cell + 1),
            r.encoder,
            types=types,
            type_targets=targets,
            folder=self.work / "encoder_training",
        )
        fresh = folder.with_name("encoder.new")
        encoder.save(fresh, dtype=torch.float16)
        fresh.rename(folder)
        return ScGPTEncoder.from_folder(folder)

    def fit_heads(self, encoder: ScGPTEncoder, targets: np.ndarray) -> None:
        """New heads for the frozen encoder, which a model ships without.

        Untrained heads would spoil what it has learned.
        """
        r = self.recipe
        counts, types = self.simulated(r.heads.steps * r.heads.batch_size, seed=2, balance=0.5)
        shape = encoder.module.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(r.seed)
            heads = Heads(shape, len(targets))
        task = EncoderTask(
            encoder.module.requires_grad_(requires_grad=False),
            heads,
            type_targets=torch.from_numpy(targets.astype(np.float32)),
            values_weight=1.0,
        )
        source = CellSource(
            encoder.tokenize(counts, self.genes, max_length=r.genes_per_cell + 1),
            encoder.vocabulary,
            pad_value=shape.pad_value,
            mask_value=shape.mask_value,
            mask_share=(0.0, 0.4),
            types=types,
        )
        fit(task, source, r.heads, folder=self.work / "heads_training", description="heads")
        encoder.head_weights |= heads.official()

    def vectors(self, encoder: ScGPTEncoder, name: str, kinds: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors and types of fresh cells of all three kinds, for the projector."""
        path = self.work / f"{name}_vectors.npz"
        if not path.exists():
            r = self.recipe
            counts, types = joined(
                self.simulated(r.cells, seed=6, balance=0.6),
                self.views(r.real_cells, seed=7),
                self.strangers(r.strangers, kinds, seed=8),
            )
            rows = np.flatnonzero((types >= 0) & (np.diff(counts.indptr) >= cell_data.MIN_GENES))
            vectors = encoder.encode(counts[rows], self.genes, batch_size=128)
            fresh = path.with_suffix(".new.npz")
            np.savez(fresh, vectors=vectors, types=types[rows])
            fresh.rename(path)
        stored = np.load(path)
        return stored["vectors"], stored["types"]

    def train_projector(
        self, model: BioVerse, name: str, kinds: Sequence[float], label: TrainConfig, contrastive: TrainConfig | None
    ) -> None:
        """Steps 3 and 5, in place.

        Stage 1, then labels through the frozen language model, with the loss of stage 1 beside.
        """
        vectors, types = self.vectors(model.encoders["rna"], name, kinds)
        descriptions = Descriptions(self.data.type_texts, types)
        if contrastive is not None:
            bsc.train.align(model, vectors, descriptions, contrastive, folder=self.work / f"{name}_contrastive")
        examples = labelled_cells(self.data, types, np.random.default_rng(self.recipe.seed))
        with training_only(model, label, lambda parameter: parameter.startswith("projectors.rna.")):
            task = PromptTask(model, {"rna": contrastive_task(model, "rna", descriptions)})
            prompts = PromptSource(
                model,
                examples,
                {"rna": vectors},
                text_of={"rna": descriptions.text_of},
                max_tokens=label.max_tokens,
                too_long=label.too_long,
            )
            fit(task, prompts, label, folder=self.work / f"{name}_label", description="labels")

    def refine(self, out: Path) -> None:
        """All steps."""
        r = self.recipe
        model, after = (bsc.models.load(self.folder) for _ in range(2))
        after.encoders["rna"] = self.encoder()
        self.train_projector(after, "projector", r.strange_kinds, r.label, r.contrastive)
        average(model.encoders["rna"].module, after.encoders["rna"].module, share=r.share_after)
        average(model.projectors["rna"], after.projectors["rna"], share=r.share_after)
        averaged = copy.deepcopy(model.projectors["rna"])
        self.train_projector(model, "unknown", r.kinds_at_last, r.label_at_last, None)
        average(model.projectors["rna"], averaged, share=0.5)
        # all else is written as it was read: the adapter apart from the language model
        finished = bsc.models.load(self.folder, merge_adapter=False)
        finished.encoders["rna"], finished.projectors["rna"] = model.encoders["rna"], model.projectors["rna"]
        save_model(finished, out)


def joined(*parts: tuple[csr_matrix, np.ndarray]) -> tuple[csr_matrix, np.ndarray]:
    """Counts and types of several kinds of cells, one after the other."""
    counts, types = zip(*parts, strict=True)
    return vstack(counts, format="csr"), np.concatenate(types)


@torch.no_grad()
def average(module: torch.nn.Module, other: torch.nn.Module, *, share: float) -> None:
    """Put the mean of the weights of two modules into the first one (model soups, Wortsman et al. 2022).

    ``share`` is the weight of the other one.
    """
    for mine, others in zip(module.parameters(), other.parameters(), strict=True):
        mine.lerp_(others, share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model before")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for what lies between the steps, outside the repository"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    a = parser.parse_args()
    Refine(a.shared, a.model, a.work, Refinement()).refine(a.out)


if __name__ == "__main__":
    main()
