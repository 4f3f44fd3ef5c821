"""Types that were never trained: does a soft token name them? BioVERSE's claim of zero-shot (arXiv 2510.01428).

    python benchmarks/zero_shot.py --shared ../shared --work runs/zero_shot [--seeds 0 1 2] [--n-types 20]
        [--types-file held_out.txt] [--texts kinds described markers name] [--steps 400] [--answer-steps 0]

Of the 140 types of the reference profiles, ``--n-types`` random ones with all kinds of them (or those of the file, one
a line) are left out. A new projector into the token-embedding space of ``--language-model`` is trained on simulated
cells of the others, contrastively, for each form of the types' texts. Then cells of all types are scored against the
texts of all types, those that nothing was trained on among them. The encoder is that of ``mini``: frozen, and trained
before on profiles of all 140 types, so that what is new to the model is the meaning of the vectors, not the cells.

cosine = between soft token and text. evened = less what the nearest training cells of a label have (CSLS), because a
label that was trained wins everywhere else. With ``--answer-steps`` the language model then learns to write the labels
of the seen types (LoRA in its last 12 layers) in four ways, and its likelihood of each name, less that behind a mean
cell, is a score too: *answers* (the loss of the paper), *answers, contrast* (the contrastive loss goes on beside),
*answers, projector kept* (only LoRA trains), *texts* (the answer is the text in place of the name).

What has to be beaten: *text alone* (the likeliest seen type, then the unseen one with the most similar text), *ontology
alone* (the seen type with the nearest mean vector, then the one that shares most ancestors with it), a blank token (the
soft token of the mean cell), tokens of other cells, and chance.

A type counts as much as another; in brackets 95 % intervals over draws of the types; at the end all seeds together.
Simulated cells are drawn with another seed than those of training; real ones are those of the validation sets whose
author label is one of the types, which are few.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))

from unseen import scores as score
from unseen.cells import Typed, Unseen, held_out_types, named_types, real, simulated
from unseen.texts import FORMS, name

import bioverse_sc as bsc
from bioverse_sc.models import BioVerse, ProjectorConfig, label_prompt
from bioverse_sc.train import Descriptions, Example, LoraSettings, TrainConfig, align, instruct

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ALIGNED, ANSWERED = 256, 48
"""Cells of a step."""
READ = 500
"""Cells at most that all names are read behind."""
HIDDEN_WIDTH = 384
LORA = LoraSettings(rank=16, alpha=32, last_layers=12)
WAYS = ("answers", "answers, contrast", "answers, projector kept", "texts")
APART = 1000
"""Between the numbers of types of one seed and the next."""
Scored = tuple[str, np.ndarray]
"""Name of a row, and the scores of all types for each cell."""
Counted = dict[str, np.ndarray]
"""By row, what the columns say of each cell."""


def aligned(language_model: str, train: Typed, unseen: Unseen, form: str, *, steps: int, seed: int) -> BioVerse:
    """A model whose projector has seen texts of this form, of the seen types alone."""
    torch.manual_seed(seed)
    model = bsc.models.create(
        language_model,
        {"rna": bsc.models.load("mini").encoders["rna"]},
        name="zero-shot",
        projectors={"rna": ProjectorConfig(hidden_width=HIDDEN_WIDTH)},
    )
    config = TrainConfig(
        steps=steps, batch_size=ALIGNED, weight_decay=0.05, log_every=steps, checkpoint_every=steps, seed=seed
    )
    align(model, train.vectors, described(train, unseen, form), config)
    return model


def described(train: Typed, unseen: Unseen, form: str) -> Descriptions:
    """The texts of the training cells' types."""
    seen, text_of = np.unique(train.types, return_inverse=True)
    return Descriptions([FORMS[form](unseen.terms[j]) for j in seen], text_of)


def answered(model: BioVerse, train: Typed, unseen: Unseen, form: str, way: str, *, steps: int, seed: int) -> None:
    """Let the language model learn to write what the seen types are called."""
    write = FORMS[form] if way == "texts" else name
    prompts = [label_prompt(write(term), prompts=model.config.prompts) for term in unseen.terms]
    config = TrainConfig(
        steps=steps,
        batch_size=ANSWERED,
        warmup_steps=min(30, steps // 4),
        mixed_precision="bf16",
        log_every=steps,
        checkpoint_every=steps,
        seed=seed,
    )
    instruct(
        model,
        [Example(prompts[j], (i,)) for i, j in enumerate(train.types.tolist())],
        {"rna": train.vectors},
        config,
        lora=LORA,
        train_projectors=way != "answers, projector kept",
        descriptions={"rna": described(train, unseen, form)} if way == "answers, contrast" else None,
    )


def scored(
    model: BioVerse, train: Typed, cells: Typed, unseen: Unseen, texts: Sequence[str], *, has_answered: bool
) -> Iterator[Scored]:
    """Scores by the model, also by likelihood where it has learned to answer, and by what has to be beaten."""
    cosine, of_training = (score.cosine(model, some.vectors, texts) for some in (cells, train))
    evened = score.evened(cosine, of_training)
    yield "cosine", cosine
    yield "cosine, evened", evened
    mean = train.vectors.mean(axis=0)
    if has_answered:
        likelihood = score.likelihood(model, cells.vectors, [name(term) for term in unseen.terms], mean)
        yield "likelihood", likelihood
        yield "joined", score.joined(evened, likelihood)
    yield "text alone", score.by_text(cosine, F.normalize(model.text_vectors(list(texts)), dim=-1), unseen)
    yield "ontology alone", score.by_ontology(train, cells, unseen)
    yield "blank token", np.repeat(score.cosine(model, mean[None], texts), len(cells.types), axis=0)
    yield "tokens of other cells", cosine[np.random.default_rng(0).permutation(len(cosine))]


def print_table(title: str, rows: Counted, types: np.ndarray, unseen: set[int]) -> None:
    """Means over types with their intervals; the last column is the difference to the texts alone, type by type."""
    n_unseen = len(unseen & set(types.tolist()))
    print(f"\n### {title}: {len(types)} cells, {n_unseen} unseen types\n")
    columns = [*score.COLUMNS, "unseen @1, less text alone"]
    print(f"| scored by | {' | '.join(columns)} |\n| --- | {' | '.join(['---:'] * len(columns))} |")
    for row, right in rows.items():
        beyond = right[:, :1] - rows["text alone"][:, :1]
        means, bounds = score.with_intervals(np.hstack([right, beyond]), types)
        print(f"| {row} | {' | '.join(map(score.shown, means, *bounds))} |", flush=True)


def run(a: argparse.Namespace, seed: int) -> Iterator[tuple[str, Counted, np.ndarray, set[int]]]:
    """Tables of one draw of unseen types: title, what is counted of each cell by row, types, the unseen ones."""
    terms, train, test = simulated(a.shared, a.work, a.cells, a.cells // 4)
    chosen = named_types(terms, a.types_file.read_text().splitlines()) if a.types_file else None
    unseen = Unseen(terms, held_out_types(terms, a.n_types, seed) if chosen is None else chosen)
    is_seen = ~np.isin(train.types, unseen.held_out)
    train = Typed(train.vectors[is_seen], train.types[is_seen])
    print(f"\n## Seed {seed}: without {', '.join(name(terms[j]) for j in unseen.held_out)}")
    measured = {"simulated": test, "real": real(a.shared, a.work, terms)}
    for form in a.texts:
        texts = [FORMS[form](term) for term in terms]
        # how to go on after the contrastive stage, of the first form alone
        ways = WAYS if a.answer_steps and form == a.texts[0] else ()
        for way in ("", *ways):
            began = time.perf_counter()
            model = aligned(a.language_model, train, unseen, form, steps=a.steps, seed=seed)
            if way:
                answered(model, train, unseen, form, way, steps=a.answer_steps, seed=seed)
            seconds = time.perf_counter() - began
            print(f"\n{form}, {way or 'contrastive'}: {seconds:.0f} s of training", flush=True)
            for kind, cells in measured.items():
                some = cells.some(READ) if way else cells
                rows = scored(model, train, some, unseen, texts, has_answered=bool(way))
                counted = {row: score.counted(scores, some, unseen) for row, scores in rows}
                yield (
                    f"{form}, {way or 'contrastive'}, {kind} cells",
                    counted,
                    some.types,
                    set(unseen.held_out.tolist()),
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument("--work", type=Path, required=True, help="folder of the simulated cells")
    parser.add_argument("--language-model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n-types", type=int, default=20, help="types that are left out")
    parser.add_argument("--types-file", type=Path, help="names of the types to leave out, one a line")
    parser.add_argument("--texts", nargs="+", default=list(FORMS), choices=list(FORMS), help="forms of the texts")
    parser.add_argument("--cells", type=int, default=16_000, help="simulated cells to train on")
    parser.add_argument("--steps", type=int, default=400, help="contrastive steps")
    parser.add_argument("--answer-steps", type=int, default=0, help="steps of writing, with the first form of texts")
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    print(f"{torch.get_num_threads()} threads, {a.language_model}, {a.steps} contrastive steps of {ALIGNED} cells")
    pooled: dict[str, list[tuple[Counted, np.ndarray, set[int]]]] = {}
    for place, seed in enumerate(a.seeds):
        for title, rows, types, unseen in run(a, seed):
            print_table(title, rows, types, unseen)
            # a type that is left out twice counts twice
            moved = types + place * APART, {j + place * APART for j in unseen}
            pooled.setdefault(title, []).append((rows, *moved))
    if len(a.seeds) > 1:
        print(f"\n## Seeds {', '.join(map(str, a.seeds))} together")
        for title, parts in pooled.items():
            rows = {row: np.concatenate([part[0][row] for part in parts]) for row in parts[0][0]}
            print_table(title, rows, np.concatenate([part[1] for part in parts]), set().union(*(p[2] for p in parts)))


if __name__ == "__main__":
    main()
