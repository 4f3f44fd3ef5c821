"""Teach a finished ``mini`` to write its reasoning from facts, and leave its labels and its other answers as they are.

    python recipes/mini/reasoning.py --shared ../shared --work /tmp/mini-reasoning --out /tmp/mini-reasoned
    [--model mini] [--steps N]

Only the adapter of the language model trains. On labels, descriptions and questions it is held to what the model
answered before (distillation, Hinton et al. 2015): to the probabilities of each next token, not to one text. Every step
leaves its result in the work folder and is skipped when that is there; training resumes from its last checkpoint.

1. cells      simulate cells, label them with the model, and gather what is known of them and of groups of them
2. entities   embed proteins and molecules
3. train      reasoning, with everything else beside
4. check      labels of real cells that nothing was trained on, before and after
"""

from __future__ import annotations

import argparse
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cells as cell_data
import numpy as np
import real_cells
import reasons
import torch
from data import Data
from instruct import entity_examples, joint_examples
from recipe import Recipe
from refine import Refinement
from save import save_model
from scipy.sparse import csr_matrix, vstack
from torch.nn import functional as F

import bioverse_sc as bsc
from bioverse_sc.datasets import SimulationConfig
from bioverse_sc.facts import with_article
from bioverse_sc.metrics import apply_calibration
from bioverse_sc.models import (
    IGNORED,
    PROMPTS,
    PromptBatch,
    description_prompt,
    label_log_probabilities,
    label_prompt,
    question_prompt,
)
from bioverse_sc.ontology import UNKNOWN, lineage_terms
from bioverse_sc.reasoning import CaseMaker, detected
from bioverse_sc.train import Example, PromptSource, PromptTask, TrainConfig, fit, training_only

if TYPE_CHECKING:
    from bioverse_sc.models import BioVerse
    from bioverse_sc.reasoning import Case


@dataclass(frozen=True)
class Reasons:
    """Every number of the recipe."""

    seed: int = 70
    cells: int = 24_000
    """Simulated cells that reasoning is written about."""
    strangers: int = 1_500
    groups: int = 3_000
    """Groups of cells with one label."""
    group_size: tuple[int, int] = (8, 60)
    less_certain: float = 1 / 3
    """Share of the cells whose label is made less certain than the model is."""
    mislabelled: float = 0.05
    """Share of the cells with the label of another."""
    wider: float = 0.15
    """Share of the cells with a wider label."""
    invented: float = 0.3
    """Share of the prompts whose genes, types and numbers are drawn, so that it learns to read them."""
    balance: float = 0.4
    labels: int = 14_000
    """Cells whose labels are kept, half of them views of real ones."""
    cell_answers: int = 2_500
    """Descriptions and questions of cells, each."""
    proteins: tuple[int, int] = (3_000, 5_000)
    """Answers about proteins, without and with what is near."""
    molecules: tuple[int, int] = (1_500, 3_500)
    joint: int = 2_000
    keep: float = 2.0
    """Weight of a token that is kept beside one that is learned."""
    train: TrainConfig = TrainConfig(
        steps=1000,
        batch_size=64,
        learning_rate=1e-3,
        warmup_steps=50,
        mixed_precision="bf16",
        checkpoint_every=50,
        max_tokens=800,
    )


class KeepSource(PromptSource):
    """Examples, of which those from ``first_kept`` on are kept rather than learned."""

    first_kept: int

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Also whether each is kept."""
        return super().batch(indices, rng) | {"kept": torch.from_numpy(np.asarray(indices) >= self.first_kept)}


class KeepTask(PromptTask):
    """Next-token loss on what is learned; on what is kept, the divergence from the model as it was."""

    def __init__(self, model: BioVerse, before: BioVerse, weight: float) -> None:
        super().__init__(model)
        # no submodule: it has no part in training or in checkpoints
        self.before, self.keep = [before], weight

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Both losses over their tokens."""
        prompts = PromptBatch(batch["ids"], None, batch["targets"])
        soft_tokens = self._soft_tokens(batch)  # (slots, width)
        next_targets = prompts.targets[:, 1:]  # (prompts, positions - 1)
        positions = (next_targets != IGNORED).any(dim=0).nonzero().squeeze(-1)  # (scored,)
        asked = {"logits_to_keep": positions, "use_cache": False}
        logits = self.model(prompts, soft_tokens, **asked).logits  # (prompts, scored, vocabulary)
        targets = next_targets[:, positions]  # (prompts, scored)
        is_target, kept = targets != IGNORED, batch["kept"][:, None]
        learned = logits[is_target & ~kept].float()
        loss = F.cross_entropy(learned, targets[is_target & ~kept], reduction="sum")
        with torch.no_grad():
            earlier = self.before[0](prompts, soft_tokens, **asked).logits[is_target & kept].float()
        now = F.log_softmax(logits[is_target & kept].float(), dim=-1)
        drift = F.kl_div(now, F.log_softmax(earlier, dim=-1), log_target=True, reduction="sum")
        right = (learned.argmax(-1) == targets[is_target & ~kept]).float().sum()
        n, n_kept = max(1, len(learned)), max(1, len(now))
        # per target, as the loop weighs batches by their targets
        total = (loss + self.keep * drift) / max(1, int(is_target.sum()))
        return {"loss": total, "token_accuracy": right / n, "learned": loss.detach() / n, "drift": drift / n_kept}


class Teach:
    """The steps, with what they share."""

    def __init__(self, shared: Path, work: Path, model: str, recipe: Reasons) -> None:
        self.shared, self.work, self.recipe = shared, work, recipe
        self.data = Data(shared, work, Recipe())
        self.genes = self.data.profiles.genes
        self.before = bsc.models.load(model)
        self.model = bsc.models.load(model, merge_adapter=False)
        self.model.config = replace(self.model.config, prompts=dict(PROMPTS))
        self.names = list(self.model.config.labels)

    def labelled(self, counts: csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """Vectors of cells, and the log-probabilities that the model gives all labels."""
        vectors = self.before.encoders["rna"].encode(counts, self.genes, batch_size=128)
        return vectors, self.log_probabilities(self.before, vectors)

    @staticmethod
    def log_probabilities(model: BioVerse, vectors: np.ndarray) -> np.ndarray:
        """Of all labels, shape (cells, labels)."""
        labels, parts = list(model.config.labels), []
        for start in range(0, len(vectors), 512):
            with torch.inference_mode():
                soft = model.project("rna", torch.from_numpy(vectors[start : start + 512]))
                parts.append(label_log_probabilities(model, label_prompt(), soft, labels))
        return np.concatenate(parts)

    def cells(self) -> tuple[np.ndarray, np.ndarray, list[Case]]:
        """Step 1: vectors and labels of cells, and cases of the first of them; groups come last."""
        path = self.work / "cases.pkl"
        if not path.exists():
            counts = self.simulated()
            vectors, log_p = self.labelled(counts)
            labels = log_p.argmax(axis=1)
            n = self.recipe.cells + self.recipe.strangers
            cases = self.cases(counts[:n], detected(counts[:n]), log_p[:n], labels[:n], np.random.default_rng(1))
            of_groups, rows = self.groups(counts[:n], log_p[:n], labels[:n])
            means = np.stack([vectors[group].mean(axis=0) for group in rows])
            fresh = path.with_suffix(".new")
            fresh.write_bytes(pickle.dumps((vectors, labels, cases, means, of_groups)))
            fresh.rename(path)
        vectors, labels, cases, means, of_groups = pickle.loads(path.read_bytes())
        # rows of the cases: first cells and strangers, then the groups, behind all cells
        return np.concatenate([vectors, means]), labels, cases + of_groups

    def simulated(self) -> csr_matrix:
        """Cells to reason about, strangers, then cells whose labels are kept."""
        r, profiles = self.recipe, self.data.profiles
        config = SimulationConfig(ambient=Refinement().ambient)
        n = r.cells + r.labels // 2
        made = cell_data.simulate(profiles, int(1.1 * n), seed=r.seed, balance=r.balance, config=config).counts
        made = made[np.diff(made.indptr) >= cell_data.MIN_GENES][:n]
        strange = cell_data.simulate_strangers(profiles, r.strangers, seed=r.seed, shares=Refinement().kinds_at_last)
        real = self.real()[::2]
        rows = np.random.default_rng(r.seed).integers(real.shape[0], size=r.labels - r.labels // 2)
        views = real_cells.views(real, rows, seed=r.seed)
        return csr_matrix(vstack([made[: r.cells], strange, made[r.cells :], views], format="csr"))

    def real(self) -> csr_matrix:
        """Real cells without labels. Every other one is kept for the check."""
        return csr_matrix(vstack(real_cells.read_unlabelled(self.shared, self.genes), format="csr"))

    def cases(
        self,
        counts: csr_matrix,
        expressed: csr_matrix,
        log_p: np.ndarray,
        labels: np.ndarray,
        rng: np.random.Generator,
    ) -> list[Case]:
        """Cases of cells or groups, some of them with doubts, and some with a label that is wrong or wide."""
        r, n = self.recipe, len(labels)
        doubted = rng.random(n) < r.less_certain
        heat = np.where(doubted, rng.uniform(2, 12, size=n), 1.0)[:, None]
        p = np.exp(log_p / heat)
        p /= p.sum(axis=1, keepdims=True)
        confidence = apply_calibration(p[np.arange(n), labels].clip(0, 1), *self.model.config.calibration)
        # the curve ends high; what is less certain is not as the model left it
        confidence = np.where(doubted, p[np.arange(n), labels], confidence)
        names = [self.names[label] for label in labels]
        for i in np.flatnonzero(rng.random(n) < r.wider):
            term = self.data.ontology.find(names[i])
            if term and (wider := sorted(lineage_terms(term))):
                names[i] = self.data.ontology.names[wider[rng.integers(len(wider))]]
        for i in np.flatnonzero(rng.random(n) < r.mislabelled):
            names[i], confidence[i] = self.names[labels[rng.integers(n)]], rng.uniform(0.2, 0.95)
        maker = CaseMaker(self.model, self.genes, self.names)
        return maker.cases(counts, expressed, names, confidence, p, logged=False)

    def groups(self, counts: csr_matrix, log_p: np.ndarray, labels: np.ndarray) -> tuple[list[Case], list[np.ndarray]]:
        """Cases of groups of cells with one label, and the rows of each."""
        r, rng = self.recipe, np.random.default_rng(self.recipe.seed + 1)
        by_label = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        by_label = [rows for rows in by_label if len(rows) >= r.group_size[0]]
        rows = []
        for _ in range(r.groups):
            same = by_label[rng.integers(len(by_label))]
            rows.append(rng.choice(same, size=min(len(same), rng.integers(*r.group_size)), replace=False))
        member = csr_matrix(
            (
                np.ones(sum(map(len, rows))),
                (np.repeat(np.arange(len(rows)), list(map(len, rows))), np.concatenate(rows)),
            ),
            (len(rows), counts.shape[0]),
        )  # (groups, cells)
        sizes = np.array([len(group) for group in rows])[:, None]
        shares = csr_matrix((member @ detected(counts)).multiply(1 / sizes))
        shares.sort_indices()
        mean = np.log(np.stack([np.exp(log_p[group]).mean(axis=0) for group in rows]) + 1e-12)
        label = np.array([labels[group[0]] for group in rows])
        return self.cases(csr_matrix(member @ counts), shares, mean, label, rng), rows

    def examples(self) -> tuple[list[Example], dict[str, np.ndarray], int]:
        """All examples with their vectors, and the place of the first that is kept."""
        r, rng = self.recipe, np.random.default_rng(self.recipe.seed + 2)
        vectors, labels, cases = self.cells()
        n_alone = r.cells + r.strangers
        genes, chosen = self.data.known_genes(), rng.random(len(cases)) < r.invented
        types = [name for name in self.names if name != UNKNOWN]
        cases = [
            reasons.invented(case, genes, types, rng) if is_chosen else case
            for case, is_chosen in zip(cases, chosen, strict=True)
        ]
        rows = [*range(n_alone), *range(len(labels), len(vectors))]
        examples = [Example(reasons.reasoned_prompt(case), (row,)) for row, case in zip(rows, cases, strict=True)]
        first_kept = len(examples)
        kept = range(n_alone, len(labels))
        examples += [Example(label_prompt(self.names[labels[i]]), (i,)) for i in kept]
        examples += self.about_cells(labels, rng.choice(len(labels), size=r.cell_answers))
        for mod, (without, near) in {"protein": r.proteins, "molecule": r.molecules}.items():
            examples += entity_examples(self.data, mod, rng, without, share_near=0, share_asked=0.1)
            examples += entity_examples(self.data, mod, rng, near, share_near=1, share_asked=0.1)
        types = np.array([self.data.names.index(name) for name in self.names])[labels]
        examples += joint_examples(self.data, types, rng, r.joint)
        entities = {mod: self.entities(mod, examples) for mod in ("protein", "molecule")}
        return examples, {"rna": vectors, **entities}, first_kept

    def entities(self, mod: str, examples: list[Example]) -> np.ndarray:
        """Step 2: vectors of the proteins or molecules that some examples are about; the others stay zeros."""
        known = self.data.memory[mod].table["entity"].tolist()
        encoder = self.before.encoders[mod]
        path = self.work / f"{mod}_vectors.npy"
        if not path.exists():
            used = sorted({row for example in examples for name, row in example.entities if name == mod})
            vectors = np.zeros((len(known), self.model.config.projectors[mod].in_width), dtype=np.float32)
            vectors[used] = encoder.encode([known[row] for row in used])
            fresh = path.with_suffix(".new.npy")
            np.save(fresh, vectors)
            fresh.rename(path)
        stored: np.ndarray = np.load(path)
        return stored

    def about_cells(self, labels: np.ndarray, rows: np.ndarray) -> list[Example]:
        """Descriptions of cells, and questions about them."""
        examples, ontology = [], self.data.ontology
        for i in rows.tolist():
            name = self.names[labels[i]]
            if name == UNKNOWN:
                continue
            term = ontology.find(name) or ""
            examples.append(Example(description_prompt("rna", ontology.describe(term)), (i,)))
            turns = [("What is this cell?", reasons.capital(f"{with_article(name)}."))]
            if wider := ontology.parents[term]:
                turns.append(("Which wider type does it belong to?", f"The {ontology.names[wider[0]]}."))
            examples.append(Example(question_prompt(["rna"], turns), (i,)))
        return examples

    def train(self) -> BioVerse:
        """Step 3, in place."""
        examples, vectors, first_kept = self.examples()
        config = self.recipe.train
        source = KeepSource(self.model, examples, vectors, max_tokens=config.max_tokens, too_long=config.too_long)
        source.first_kept = first_kept
        with training_only(self.model, config, lambda name: "lora_" in name):
            task = KeepTask(self.model, self.before, self.recipe.keep)
            fit(task, source, config, folder=self.work / "reasoning_training", description="reasoning")
        return self.model

    def check(self) -> float:
        """Step 4: the share of real cells that have the label that they had before."""
        vectors, before = self.labelled(self.real()[1::2])
        after = self.log_probabilities(self.model, vectors)
        equal = float((before.argmax(axis=1) == after.argmax(axis=1)).mean())
        print(f"{equal:.2%} of {len(vectors)} real cells have the label that they had before", flush=True)
        return equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for what lies between the steps, outside the repository"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--model", default="mini", help="the model before")
    parser.add_argument("--steps", type=int, help="fewer, to try the recipe")
    parser.add_argument("--cells", type=int, help="fewer, to try the recipe")
    a = parser.parse_args()
    recipe = Reasons()
    if a.steps:
        recipe = replace(recipe, train=replace(recipe.train, steps=a.steps))
    if a.cells:
        share = a.cells / recipe.cells
        counts = {
            name: int(share * getattr(recipe, name))
            for name in ("strangers", "groups", "labels", "joint", "cell_answers")
        }
        few = {name: tuple(int(share * n) for n in getattr(recipe, name)) for name in ("proteins", "molecules")}
        recipe = replace(recipe, cells=a.cells, **counts, **few)
    teach = Teach(a.shared, a.work, a.model, recipe)
    model = teach.train()
    teach.check()
    save_model(model, a.out)


if __name__ == "__main__":
    main()
