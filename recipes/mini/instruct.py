"""Step 6: stage 2, labels of cells first, then descriptions, reasoning and questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import language
import numpy as np
import questions
import reasons
from data import type_targets
from scipy.sparse import csr_matrix, load_npz, vstack

import bioverse_sc as bsc
from bioverse_sc.datasets import everyday_texts
from bioverse_sc.models import Text, description_prompt, label_prompt, question_prompt
from bioverse_sc.ontology import UNKNOWN, lineage_terms
from bioverse_sc.reasoning import CaseMaker, detected
from bioverse_sc.train import Example

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data import Data

    from bioverse_sc.models import BioVerse
    from bioverse_sc.reasoning import Case
    from bioverse_sc.train import Descriptions


def instruct(
    data: Data,
    model: BioVerse,
    vectors: Mapping[str, np.ndarray],
    types: np.ndarray,
    descriptions: Mapping[str, Descriptions],
) -> None:
    """Labels of cells; descriptions of proteins and molecules; then reasoning, descriptions and questions of all."""
    r = data.recipe
    labelled = labelled_cells(data, types, np.random.default_rng(r.seed + 4))
    bsc.train.instruct(
        model,
        labelled,
        {"rna": vectors["rna"]},
        r.label,
        lora=r.lora,
        descriptions={"rna": descriptions["rna"]},
        folder=data.work / "label",
    )
    rng = np.random.default_rng(r.seed + 3)
    # the soft tokens of cells stay where labels and stage 1 put them
    trained = ("protein", "molecule")
    beside = {mod: descriptions[mod] for mod in trained}
    examples = entity_examples(data, "protein", rng, 60_000, share_near=0, share_asked=0.1)
    examples += entity_examples(data, "molecule", rng, 20_000, share_near=0, share_asked=0.1)
    examples += [labelled[i] for i in rng.integers(len(labelled), size=8_000)]
    bsc.train.instruct(
        model,
        examples,
        vectors,
        r.describe,
        train_projectors=trained,
        descriptions=beside,
        folder=data.work / "describe",
    )
    examples = cell_examples(data, cases(data, model, types, rng), types, rng)
    examples = [examples[i] for i in rng.permutation(len(examples))[:17_000]]
    examples += [labelled[i] for i in rng.integers(len(labelled), size=4_000)]
    examples += joint_examples(data, types, rng, 6_000)
    # descriptions most of all, so that what the stage before taught is kept; to copy takes many
    examples += entity_examples(data, "protein", rng, 14_000, share_near=0, share_asked=0.1)
    examples += entity_examples(data, "protein", rng, 20_000, share_near=1, share_asked=0.1)
    examples += entity_examples(data, "molecule", rng, 5_000, share_near=0, share_asked=0.15)
    examples += entity_examples(data, "molecule", rng, 12_000, share_near=1, share_asked=0.1)
    bsc.train.instruct(
        model, examples, vectors, r.answers, train_projectors=trained, descriptions=beside, folder=data.work / "answers"
    )


def labelled_cells(data: Data, types: np.ndarray, rng: np.random.Generator) -> list[Example]:
    """Cells with their labels, a quarter of them after words that say nothing of the cell or are wrong."""
    names = data.names
    everyday = everyday_texts()
    examples = []
    for i, t in enumerate(types):
        prompt = label_prompt(names[t])
        if rng.random() < 0.25:
            before = [
                f"Annotated as {names[rng.integers(len(names))]}. ",
                f"Cluster {rng.integers(30)}, {names[rng.integers(len(names))]}. ",
                f"Sample {rng.integers(100)}. ",
                f"{everyday[rng.integers(len(everyday))]} ",
            ]
            prompt = [Text(before[rng.integers(len(before))]), *prompt]
        examples.append(Example(prompt, (i,)))
    return examples


def cell_examples(
    data: Data, cases: list[tuple[int, Case]], types: np.ndarray, rng: np.random.Generator
) -> list[Example]:
    """Reasoning, and for some of the cells labels, descriptions and questions."""
    examples = []
    for i, case in cases:
        examples.append(Example(reasons.reasoned_prompt(case), (i,)))
        if i % 4 == 0 and types[i] < len(data.terms):
            name, term = data.names[types[i]], data.terms[types[i]]
            examples.append(Example(label_prompt(name), (i,)))
            examples.append(Example(description_prompt("rna", data.ontology.describe(term)), (i,)))
            wider = data.ontology.parents[term]
            turns = [("What is this cell?", f"{language.article(name).capitalize()} {name}.")]
            if wider:
                turns.append(("Which wider type does it belong to?", f"The {data.ontology.names[wider[0]]}."))
            examples.append(Example(question_prompt(["rna"], turns), (i,)))
    return examples


def cases(data: Data, model: BioVerse, types: np.ndarray, rng: np.random.Generator) -> list[tuple[int, Case]]:
    """Rows of cells, and what the reasoning is shown of them: the true label or a wider one, at any confidence."""
    known, strange = (load_npz(data.work / f"reasoned_{kind}.npz") for kind in ("cells", "strangers"))
    counts = csr_matrix(vstack([known, strange]))
    rows = np.r_[: known.shape[0], np.flatnonzero(types == len(data.terms))[: strange.shape[0]]]
    near = type_targets(data.terms, smoothing=1.0)
    near = np.vstack([np.pad(near, ((0, 0), (0, 1))), np.zeros(len(data.names))])
    probabilities = near[types[rows]] * rng.exponential(size=(len(rows), len(data.names)))
    names = [data.names[t] for t in types[rows]]
    for i in np.flatnonzero(rng.random(len(rows)) < 0.2):
        if names[i] != UNKNOWN and (wider := sorted(lineage_terms(data.terms[types[rows[i]]]))):
            names[i] = data.ontology.names[wider[rng.integers(len(wider))]]
    confidence = rng.choice([0.9, 0.6, 0.3], size=len(rows), p=[0.6, 0.2, 0.2])
    maker = CaseMaker(model, data.profiles.genes, data.names)
    shown = maker.cases(counts, detected(counts), names, confidence, probabilities, logged=False)
    return list(zip(rows.tolist(), shown, strict=True))


def entity_examples(
    data: Data, mod: str, rng: np.random.Generator, n: int, *, share_near: float, share_asked: float
) -> list[Example]:
    """Descriptions, some of them with the nearest known texts, and questions in one or two turns.

    The description beside known texts is the one of these that is most like the true one: all soft tokens of the
    training share are learned by heart, so that nothing would be read from the texts if the true one were asked
    for.
    """
    texts, turns = data.memory[mod].table["text"].to_numpy(), data.turns(mod)
    weights = data.weights(mod)
    examples = []
    for i in rng.choice(len(texts), size=n, p=weights / weights.sum()):
        nearest = data.nearest[mod][i] if rng.random() < share_near else []
        if rng.random() < 1 - share_asked:
            prompt = description_prompt(mod, questions.most_alike(texts[i], nearest), nearest=nearest)
        else:
            order = rng.permutation(len(turns[i]))[: rng.integers(1, 3)]
            prompt = question_prompt([mod], [turns[i][k] for k in order], nearest=[nearest])
        examples.append(Example(prompt, (int(i),)))
    return examples


def joint_examples(data: Data, types: np.ndarray, rng: np.random.Generator, n: int) -> list[Example]:
    """Questions about a treated cell, and about which of some proteins a molecule binds or is asked for."""
    described = data.memory["molecule"].table["text"].to_numpy()
    first = [questions.sentences(text)[0] for text in described]
    table = data.proteins.table[data.proteins.training].reset_index(drop=True)
    of_ec: dict[str, np.ndarray] = {ec: np.array(rows) for ec, rows in table.groupby("ec").groups.items()}
    binders = [(i, ec) for i, text in enumerate(described) for ec in sorted(questions.inhibited(text)) if ec in of_ec]
    without = [i for i, text in enumerate(described) if "inhibitor" not in text]
    of_a_type = np.flatnonzero(types < len(data.terms))
    examples = []
    for k in range(n):
        molecule = int(rng.integers(len(described)))
        if k % 2:
            cell = int(rng.choice(of_a_type))
            answer = questions.pair_answer(data.names[types[cell]], first[molecule])
            turn = (questions.pick(questions.PAIR, rng), answer)
            examples.append(Example(question_prompt(["rna", "molecule"], [turn]), (cell, molecule)))
            continue
        shown = rng.choice(len(table), size=rng.integers(2, 4), replace=False)
        place = int(rng.integers(len(shown)))
        if k % 4 == 0:
            product = table["product"][shown[place]]
            turn = (f"Which of these proteins is the {product}?", f"Protein {place + 1}.")
            examples.append(Example(question_prompt(["protein"] * len(shown), [turn]), tuple(map(int, shown))))
            continue
        if rng.random() < 0.7:
            molecule, ec = binders[int(rng.integers(len(binders)))]
            shown[place] = rng.choice(of_ec[ec])
            answer = questions.binding_answer(place + 1, table["product"][shown[place]], ec)
        else:
            molecule = int(rng.choice(without))
            answer = questions.binding_answer(None)
        turn = (questions.pick(questions.BINDING, rng), answer)
        prompt = question_prompt(["molecule"] + ["protein"] * len(shown), [turn])
        examples.append(Example(prompt, (molecule, *map(int, shown))))
    return examples
