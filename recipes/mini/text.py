"""Step 4: the tokenizer and the language model, trained on knowledge text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import language
import numpy as np
import questions
import reasons
import torch
from cells import gene_vectors
from data import type_targets
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import bioverse_sc as bsc
from bioverse_sc.datasets import everyday_texts
from bioverse_sc.facts import Absence
from bioverse_sc.models import Answer, BioVerse, Entity, ModelConfig, Text, description_prompt
from bioverse_sc.reasoning import Case
from bioverse_sc.train import Example

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data import Data

    from bioverse_sc.models import Segment


def trained_language_model(data: Data) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The language model with its tokenizer; trained when that has not been done yet."""
    folder = data.work / "language_model"
    if not folder.exists():
        language_model, tokenizer = train_language_model(data)
        fresh = folder.with_name(folder.name + ".new")
        language_model.half().save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        fresh.rename(folder)
    language_model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return language_model, PreTrainedTokenizerFast.from_pretrained(folder)


def train_language_model(data: Data) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Knowledge, then copying, then reading what stands before, then cards of cells."""
    r = data.recipe
    rng = np.random.default_rng(r.seed)
    examples = text_examples(data, rng)
    tokenizer = make_tokenizer(data, examples["cells"])
    vectors = dict(zip(data.profiles.genes, gene_vectors(data.profiles, r.lm_width), strict=True))
    language_model = language.build_language_model(
        tokenizer, width=r.lm_width, layers=r.lm_layers, heads=r.lm_heads, gene_vectors=vectors, seed=r.seed
    )
    n_parameters = sum(p.numel() for p in language_model.parameters())
    print(f"{len(tokenizer)} tokens, {n_parameters / 1e6:.1f} M parameters", flush=True)
    model = BioVerse(ModelConfig("mini", "language_model", {}), language_model, tokenizer)
    # each kind is read as often as its share says, however much there is of it
    drawn = [
        kind[i]
        for name, kind in examples.items()
        for i in rng.integers(len(kind), size=int(r.text_shares[name] * r.text.steps * r.text.batch_size))
    ]
    bsc.train.pretrain_language_model(model, drawn, r.text, folder=data.work / "text_training")
    words = [word[1:] for word in tokenizer.get_vocab() if re.fullmatch(r"Ġ[\w-]{3,}", word)]
    copied = copy_exercises(sorted(words), rng, r.copying.steps * r.copying.batch_size)
    bsc.train.pretrain_language_model(model, copied, r.copying, folder=data.work / "copying")
    n = r.reading.steps * r.reading.batch_size
    read = [drawn[i] for i in rng.permutation(len(drawn))[: n // 3]] + reading_exercises(data, rng, n * 2 // 3)
    bsc.train.pretrain_language_model(model, read, r.reading, folder=data.work / "reading")
    read_cards(data, model, drawn)
    return language_model, tokenizer


def read_cards(data: Data, model: BioVerse, drawn: list[Example]) -> None:
    """At the end: reasoning with markers that are missing and labels that are not certain, and more copying.

    The word vectors stay as they are, so that what stage 1 aligned with them still is.
    """
    r = data.recipe
    rng = np.random.default_rng(r.seed + 6)
    n = r.cards.steps * r.cards.batch_size
    examples = marker_cards(data, rng, n * 9 // 20) + [drawn[i] for i in rng.integers(len(drawn), size=n // 5)]
    examples += reading_exercises(data, rng, n - len(examples), share_molecules=0.5)
    words = model.embeddings.weight.requires_grad_()
    stopped = words.register_hook(torch.zeros_like)
    bsc.train.pretrain_language_model(model, examples, r.cards, folder=data.work / "cards")
    stopped.remove()


def make_tokenizer(data: Data, cell_examples: list[Example]) -> PreTrainedTokenizerFast:
    """A tokenizer for all that the language model reads and writes."""
    asked = [turn for turns in data.turns("protein") + data.turns("molecule") for turn in turns]
    always = [" " + text for text in {*(q for q, _ in asked), *questions.PAIR, *questions.BINDING}]
    always += [" " + name for name in data.names]
    genes = data.known_genes()
    written = [" ".join(getattr(s, "text", "") or "" for s in e.segments) for e in cell_examples]
    entity_texts = dict.fromkeys(text for memory in data.memory.values() for text in memory.table["text"])
    return language.build_tokenizer(
        [" " + t for t in [*written, *entity_texts]] + always * data.recipe.min_word_count,
        genes,
        min_count=data.recipe.min_word_count,
    )


def text_examples(data: Data, rng: np.random.Generator) -> dict[str, list[Example]]:
    """What the language model reads about cells, proteins and molecules."""
    texts = language.knowledge_texts(data.ontology, data.gene_names(), terms=data.terms)
    everyday = everyday_texts()
    genes = data.known_genes()
    return {
        "cells": [Example([Answer(text)]) for text in [*texts, *everyday]]
        + marker_cards(data, rng, 40_000)
        + marker_exercises(data, genes, rng, 20_000),
        "proteins": entity_cards(data, "protein", rng, 30_000),
        "molecules": entity_cards(data, "molecule", rng, 20_000),
    }


def marker_cards(data: Data, rng: np.random.Generator, n: int) -> list[Example]:
    """Answer-shaped text without a cell: genes drawn from a type's profiles and markers, then the reasoning."""
    usable = np.flatnonzero(data.profiles.usable)
    log = np.log1p(data.profiles.mean[:, :-1] * 1e4)
    excess = log - log[usable].mean(axis=0)
    genes = np.array(data.profiles.genes)
    near = type_targets(data.terms, smoothing=1.0)
    near /= near.sum(axis=1, keepdims=True)
    examples = []
    for _ in range(n):
        i = rng.choice(usable)
        term = data.profiles.terms[i]
        top = np.argsort(-excess[i])[:60]
        shown = list(genes[rng.choice(top, size=rng.integers(6, 11), replace=False)])
        known = data.ontology.markers.get(term, {})
        markers = [g for g in known if g not in shown]
        shown += [str(g) for g in rng.permutation(markers[:30])[: 12 - len(shown)]] if markers else []
        marking = sorted((g for g in shown if g in known), key=lambda g: -known[g])[:4]
        j = rng.choice(len(data.terms), p=near[data.terms.index(term)])
        lacking = [g for g in data.ontology.markers.get(data.terms[j], ()) if g not in shown and g not in known][:8]
        absent = [Absence(str(g), data.names[j], float(rng.uniform(0.8, 1))) for g in rng.permutation(lacking)[:1]]
        probability = float(rng.choice([rng.uniform(0.8, 1), rng.uniform(0, 0.8)], p=[0.6, 0.4]))
        case = Case(
            label=data.ontology.names[term],
            markers=tuple(map(str, marking)),
            highest=() if marking else tuple(map(str, shown[:2])),
            runner_up=(data.names[j], float(rng.uniform(0, 1 - probability))) if rng.random() < 0.7 else ("", 0.0),
            absences=tuple(absent) if rng.random() < 0.5 else (),
            probability=probability,
            draw=int(rng.integers(2**31)),
        )
        examples.append(without_entity(reasons.reasoned_prompt(case)))
    return examples


def marker_exercises(data: Data, genes: Sequence[str], rng: np.random.Generator, n: int) -> list[Example]:
    """Mixed lists of genes, and which of them mark a type."""
    names = np.array(genes)
    markers = {t: known for t in data.terms if (known := data.ontology.known_markers(t))}
    terms = list(markers)
    examples = []
    for _ in range(n):
        term = terms[rng.integers(len(terms))]
        marking = [str(g) for g in rng.choice(list(markers[term])[:60], size=rng.integers(1, 7))]
        others = [str(g) for g in names[rng.integers(len(names), size=rng.integers(3, 9))]]
        listed = [str(g) for g in rng.permutation(sorted({*others, *marking}))]
        question = f"Genes: {', '.join(listed)}. Markers of the {data.ontology.names[term]}:"
        examples.append(Example([Text(question), Answer(", ".join(g for g in listed if g in markers[term]))]))
    return examples


def entity_cards(data: Data, mod: str, rng: np.random.Generator, n: int, *, share_near: float = 0.3) -> list[Example]:
    """Answer-shaped text without an entity: the description, often after the nearest known texts."""
    texts = data.memory[mod].table["text"].to_numpy()
    weights = data.weights(mod)
    examples = []
    for i in rng.choice(len(texts), size=n, p=weights / weights.sum()):
        if rng.random() < share_near:
            examples.append(without_entity(description_prompt(mod, texts[i], nearest=data.nearest[mod][i])))
        else:
            examples.append(Example([Answer(texts[i])]))
    return examples


def copy_exercises(words: Sequence[str], rng: np.random.Generator, n: int) -> list[Example]:
    """Descriptions after up to three texts of random words, equal to the first.

    So the language model learns to copy at all.
    """
    examples = []
    for _ in range(n):
        texts = [" ".join(rng.choice(words, size=rng.integers(3, 24))) for _ in range(rng.integers(1, 4))]
        mod = ("protein", "molecule")[rng.integers(2)]
        examples.append(without_entity(description_prompt(mod, texts[0] + ".", nearest=texts)))
    return examples


def reading_exercises(data: Data, rng: np.random.Generator, n: int, *, share_molecules: float = 0.12) -> list[Example]:
    """Descriptions after the texts of what is near: the first of three that are drawn, or what is true of a protein."""
    texts = {mod: memory.table["text"].to_numpy() for mod, memory in data.memory.items()}
    has_text_near = [i for i, near in enumerate(data.nearest["protein"]) if texts["protein"][i] in near]
    examples = []
    for _ in range(n):
        mod = "molecule" if rng.random() < share_molecules else "protein"
        if mod == "protein" and rng.random() < 0.5:
            i = has_text_near[rng.integers(len(has_text_near))]
            text, nearest = texts[mod][i], data.nearest[mod][i]
        else:
            nearest = texts[mod][rng.integers(len(texts[mod]), size=3)].tolist()
            text = nearest[0]
        examples.append(without_entity(description_prompt(mod, text, nearest=nearest)))
    return examples


def without_entity(prompt: Sequence[Segment]) -> Example:
    """A prompt as text, for a language model that has no projectors yet."""
    return Example([segment for segment in prompt if not isinstance(segment, Entity)])
