"""Train the bundled default model ``mini``: one command, resumable.

    python recipes/mini/train.py --shared ../shared --work /tmp/mini --out src/bioverse_sc/bundled/mini

Every step leaves its result in the work folder and is skipped when that is there; training inside a step resumes from
its last checkpoint. Two CPU cores need about an hour and a half.

1. cells     simulate cells from reference profiles
2. encoders  train an scGPT-format encoder on them (masked values and types), an ESM-2-format encoder of proteins
             (masked residues) and a ChemBERTa-format encoder of molecules (masked tokens and fingerprints)
3. vectors   embed fresh simulated cells, list their informative genes; embed proteins and molecules
4. text      make the tokenizer and the language model; train it on knowledge text
5. align     stage 1, contrastive, each modality on its own
6. instruct  stage 2: labels of cells (LoRA and their projector), then descriptions of proteins and molecules, then
             reasoning, descriptions and questions of all three modalities (LoRA, and the projectors of proteins and
             molecules)
7. save      write the bundle

Then ``refine.py`` trains the reading of cells on, with real cells.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import cells as cell_data
import language
import numpy as np
import pandas as pd
import questions
import sequences
import torch
from scipy.sparse import csr_matrix, load_npz, save_npz, vstack
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import bioverse_sc as bsc
from bioverse_sc.encoders import StoredEncoder
from bioverse_sc.encoders.chemberta import ChembertaEncoder
from bioverse_sc.encoders.esm2 import Esm2Encoder
from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPTConfig, ScGPTEncoder
from bioverse_sc.models import (
    Answer,
    BioVerse,
    Entity,
    Memory,
    ModelConfig,
    ProjectorConfig,
    Text,
    description_prompt,
    label_prompt,
    question_prompt,
    reasoning_prompt,
)
from bioverse_sc.ontology import UNKNOWN, cell_ontology, lineage_terms
from bioverse_sc.tl._reason import Case, CaseMaker, absent_markers, detected
from bioverse_sc.train import Descriptions, Example, LoraSettings, TrainConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bioverse_sc.models import Segment

E = TypeVar("E", Esm2Encoder, ChembertaEncoder)

EVERYWHERE = {"B2M", "FTH1", "FTL", "HLA-A", "HLA-B", "HLA-C", "HLA-E", "TMSB10", "TMSB4X"}
"""Genes that marker tables name but nearly every cell expresses."""


@dataclass(frozen=True)
class Recipe:
    """Every number of the recipe."""

    seed: int = 0
    genes: int = 7000
    genes_per_cell: int = 256
    genes_at_first: int = 192
    """Read of a cell in most of the encoder's steps, which costs less."""
    encoder_width: int = 128
    encoder_layers: int = 2
    encoder: TrainConfig = TrainConfig(
        steps=1600, batch_size=128, learning_rate=1e-3, warmup_steps=80, mixed_precision="bf16", checkpoint_every=100
    )
    encoder_longer: TrainConfig = TrainConfig(
        steps=500, batch_size=128, learning_rate=5e-4, warmup_steps=40, mixed_precision="bf16", checkpoint_every=100
    )
    held_out: float = 0.1
    """Share of the proteins, and of the described molecules, that nothing is trained on."""
    protein_width: int = 320
    molecule_width: int = 128
    fingerprint_bits: int = 512
    protein: TrainConfig = TrainConfig(
        steps=200,
        batch_size=64,
        learning_rate=2e-4,
        max_tokens=130,
        mixed_precision="bf16",
        checkpoint_every=200,
        log_every=20,
    )
    molecule: TrainConfig = TrainConfig(
        steps=600,
        batch_size=64,
        learning_rate=2e-3,
        max_tokens=194,
        mixed_precision="bf16",
        checkpoint_every=200,
        log_every=20,
    )
    cells: int = 100_000
    balance: float = 0.7
    """How far the language model sees common types more often; see :func:`cells.simulate`."""
    reasoned_cells: int = 24_000
    strangers: int = 9_000
    """Cells of types that do not exist, with the label "unknown"."""
    lm_width: int = 192
    lm_layers: int = 4
    lm_heads: int = 4
    min_word_count: int = 3
    projector_widths: dict[str, int] = field(default_factory=lambda: {"rna": 384, "protein": 2048, "molecule": 1024})
    """Hidden widths; a narrow projector of proteins does not carry over to unseen ones."""
    tokens_per_entity: int = 4
    """Soft tokens of a protein or a molecule; a cell has one."""
    no_repeat_ngram_size: int = 8
    """Without it two fifths of the descriptions of molecules never end. A quarter of the true ones repeat that many
    tokens."""
    text: TrainConfig = TrainConfig(
        steps=1400, batch_size=64, learning_rate=2e-3, mixed_precision="bf16", checkpoint_every=100, max_tokens=700
    )
    copying: TrainConfig = TrainConfig(
        steps=300, batch_size=64, learning_rate=1.5e-3, mixed_precision="bf16", checkpoint_every=50, max_tokens=800
    )
    reading: TrainConfig = TrainConfig(
        steps=400, batch_size=64, learning_rate=1e-3, mixed_precision="bf16", checkpoint_every=50, max_tokens=800
    )
    cards: TrainConfig = TrainConfig(
        steps=400,
        batch_size=64,
        learning_rate=1e-3,
        weight_decay=0.0,
        mixed_precision="bf16",
        checkpoint_every=50,
        max_tokens=800,
    )
    text_shares: dict[str, float] = field(default_factory=lambda: {"cells": 0.4, "proteins": 0.3, "molecules": 0.3})
    contrastive: TrainConfig = TrainConfig(steps=4000, batch_size=512, learning_rate=1e-3, weight_decay=0.05)
    sequence_contrastive: TrainConfig = TrainConfig(steps=3000, batch_size=512, learning_rate=1e-3, weight_decay=0.05)
    label: TrainConfig = TrainConfig(
        steps=1000, batch_size=256, learning_rate=1.5e-3, mixed_precision="bf16", checkpoint_every=100
    )
    describe: TrainConfig = TrainConfig(
        steps=700, batch_size=160, learning_rate=1.5e-3, mixed_precision="bf16", checkpoint_every=100, max_tokens=700
    )
    answers: TrainConfig = TrainConfig(
        steps=500, batch_size=128, learning_rate=1e-3, mixed_precision="bf16", checkpoint_every=50, max_tokens=800
    )
    lora: LoraSettings = LoraSettings(rank=32, alpha=64)


def without_entity(prompt: Sequence[Segment]) -> Example:
    """A prompt as text, for a language model that has no projectors yet."""
    return Example([segment for segment in prompt if not isinstance(segment, Entity)])


def type_targets(terms: Sequence[str], *, smoothing: float) -> np.ndarray:
    """Target distribution of each type: most on itself, the rest on types that are close to it in the ontology."""
    ontology = cell_ontology()
    up = [ontology.ancestors(t) for t in terms]
    near = np.array([[len(a & b) / len(a | b) for b in up] for a in up]) ** 3
    np.fill_diagonal(near, 0)
    near /= near.sum(axis=1, keepdims=True) + 1e-9
    return (1 - smoothing) * np.eye(len(terms)) + smoothing * near


def gene_vectors(profiles: cell_data.Profiles, width: int) -> np.ndarray:
    """Vectors of genes from a singular value decomposition of the log profiles, shape (genes, width), spread 1."""
    log = np.log1p(profiles.mean[:, :-1] * 1e4)
    log = (log - log.mean(axis=0)) / (log.std(axis=0) + 0.1)
    _, values, right = np.linalg.svd(log, full_matrices=False)
    vectors = right[:width].T * np.sqrt(values[:width])
    return (vectors / vectors.std()).astype(np.float32)


class Run:
    """The steps, with what they share."""

    def __init__(self, shared: Path, work: Path, recipe: Recipe) -> None:
        self.shared, self.work, self.recipe = shared, work, recipe
        work.mkdir(parents=True, exist_ok=True)
        self.ontology = cell_ontology()
        self.profiles = cell_data.read_profiles(shared, n_genes=recipe.genes)
        self.terms = sorted(set(self.profiles.terms[self.profiles.usable]))
        self.names = [*(self.ontology.names[t] for t in self.terms), UNKNOWN]
        index = {term: i for i, term in enumerate(self.terms)}
        self.type_of_profile = np.array(
            [index[t] if usable else -1 for t, usable in zip(self.profiles.terms, self.profiles.usable, strict=True)]
        )

    def encoder(self) -> ScGPTEncoder:
        """Steps 1 and 2."""
        folder = self.work / "encoder"
        if folder.exists():
            return ScGPTEncoder.from_folder(folder)
        r = self.recipe
        vocabulary = GeneVocabulary(self.profiles.genes)
        shape = ScGPTConfig(
            embsize=r.encoder_width,
            nheads=4,
            d_hid=4 * r.encoder_width,
            nlayers=r.encoder_layers,
            # a linear head, so that types are linearly separable in the embedding
            n_layers_cls=1,
            dropout=0.0,
            max_seq_len=r.genes_per_cell + 1,
        )
        encoder = ScGPTEncoder.untrained(shape, vocabulary, seed=r.seed)
        with torch.no_grad():
            rows = encoder.module.encoder.embedding.weight
            rows *= 0.1
            rows[: len(self.profiles.genes)] = torch.from_numpy(gene_vectors(self.profiles, r.encoder_width))
        targets = type_targets(self.terms, smoothing=0.08)
        stages = [
            ("encoder", r.encoder, r.genes_at_first, 1),
            ("encoder_longer", r.encoder_longer, r.genes_per_cell, 6),
        ]
        for name, config, n_genes, seed in stages:
            cells = cell_data.simulate(self.profiles, config.steps * config.batch_size, seed=r.seed + seed, balance=0.5)
            bsc.train.pretrain_encoder(
                encoder,
                encoder.tokenize(cells.counts, self.profiles.genes, max_length=n_genes + 1),
                config,
                types=self.type_of_profile[cells.profile],
                type_targets=targets,
                folder=self.work / f"{name}_training",
            )
        encoder.save(self.work / "encoder.new", dtype=torch.float16)
        (self.work / "encoder.new").rename(folder)
        return ScGPTEncoder.from_folder(folder)

    @cached_property
    def proteins(self) -> sequences.Proteins:
        return sequences.read_proteins(self.shared, held_out=self.recipe.held_out, seed=self.recipe.seed)

    @cached_property
    def molecules(self) -> sequences.Molecules:
        return sequences.read_molecules(self.shared, held_out=self.recipe.held_out, seed=self.recipe.seed)

    @cached_property
    def enzymes(self) -> pd.Series:
        """EC number of each protein, where one is known."""
        return questions.with_enzyme_class(self.proteins.table, self.proteins.training)

    @cached_property
    def protein_texts(self) -> list[str]:
        """What is said of each protein."""
        products = self.proteins.table["product"]
        return [questions.protein_text(product, ec) for product, ec in zip(products, self.enzymes, strict=True)]

    @cached_property
    def memory(self) -> dict[str, Memory]:
        """Proteins and molecules of the training share, with their texts."""
        proteins, molecules = self.proteins, self.molecules
        known = pd.DataFrame({"entity": proteins.table["sequence"], "text": self.protein_texts})[proteins.training]
        described = molecules.table.rename(columns={"smiles": "entity", "description": "text"})[molecules.training]
        return {"protein": Memory("protein", known), "molecule": Memory("molecule", described)}

    @cached_property
    def nearest(self) -> dict[str, list[list[str]]]:
        """Texts of the nearest of the other training proteins and molecules, for those of the training share."""
        path = self.work / "nearest.json"
        if not path.exists():
            found = {
                mod: memory.nearest(memory.table["entity"].tolist(), themselves=False)
                for mod, memory in self.memory.items()
            }
            path.write_text(json.dumps(found))
        return dict(json.loads(path.read_text()))

    def protein_encoder(self) -> Esm2Encoder:
        """Steps 2 and 3 for proteins."""
        r = self.recipe

        def train() -> tuple[Esm2Encoder, list[str]]:
            encoder = sequences.protein_encoder(
                width=r.protein_width, layers=1, heads=10, inner_width=4 * r.protein_width, seed=r.seed
            )
            texts = self.memory["protein"].table["entity"].tolist()
            self._pretrain(encoder, texts, r.protein)
            return encoder, texts

        return self._kept(Esm2Encoder, train)

    def molecule_encoder(self) -> ChembertaEncoder:
        """Steps 2 and 3 for molecules."""
        r, table = self.recipe, self.molecules.table[self.molecules.training]

        def train() -> tuple[ChembertaEncoder, list[str]]:
            texts = [*table["smiles"], *self.molecules.more["smiles"]]
            encoder = sequences.molecule_encoder(texts, width=r.molecule_width, layers=2, heads=4, seed=r.seed)
            self._pretrain(encoder, texts, r.molecule, sequences.fingerprint_targets(texts, bits=r.fingerprint_bits))
            return encoder, texts

        return self._kept(ChembertaEncoder, train)

    def _pretrain(
        self,
        encoder: Esm2Encoder | ChembertaEncoder,
        texts: list[str],
        config: TrainConfig,
        targets: np.ndarray | None = None,
    ) -> None:
        bsc.train.pretrain_sequence_encoder(
            encoder,
            texts,
            config,
            targets=targets,
            tokens_weight=8.0,
            folder=self.work / f"{encoder.modality}_encoder_training",
        )

    def _kept(self, kind: type[E], train: Callable[[], tuple[E, list[str]]]) -> E:
        """An encoder that was trained before, or a new one, with standardised vectors.

        In half precision, as it ships.
        """
        folder = self.work / f"{kind.modality}_encoder"
        if not folder.exists():
            encoder, texts = train()
            sample = np.random.default_rng(self.recipe.seed).permutation(len(texts))[:4096]
            sequences.standardise(encoder, encoder.encode([texts[i] for i in sample]))
            fresh = folder.with_name(folder.name + ".new")
            encoder.save(fresh, dtype=torch.float16)
            fresh.rename(folder)
        return kind.from_folder(folder)

    def entity_vectors(self, encoder: Esm2Encoder | ChembertaEncoder) -> np.ndarray:
        """Step 3: vectors of the known proteins, or of the known molecules and the merely named ones."""
        path = self.work / f"{encoder.modality}_vectors.npy"
        if not path.exists():
            known = self.memory[encoder.modality].table["entity"].tolist()
            more = self.molecules.more["smiles"] if encoder.modality == "molecule" else []
            np.save(path, encoder.encode([*known, *more]))
        found: np.ndarray = np.load(path)
        return found

    def gene_reference(self) -> dict[str, tuple[float, float]]:
        """Mean of each gene over types (so that common types do not hide their own genes), and its weight.

        A gene weighs by how much it varies between types; one that no marker table names says nothing to a reader.
        """
        usable = self.profiles.usable
        frame = pd.DataFrame(self.profiles.mean[usable, :-1] * 1e4, columns=self.profiles.genes)
        by_type = frame.groupby(self.profiles.terms[usable]).mean()
        weight = np.log1p(by_type).std() ** 0.5
        named = {gene for genes in self.ontology.markers.values() for gene in genes} - EVERYWHERE
        return {
            gene: (float(mean), float(weight[gene]) if gene in named else 0.0) for gene, mean in by_type.mean().items()
        }

    def vectors(self, model: BioVerse) -> tuple[np.ndarray, np.ndarray]:
        """Step 3: vectors and types of fresh cells; the types are places in ``names``.

        The cells of types that do not exist come last. Counts of the first cells of both kinds are kept for the
        reasoning.
        """
        path = self.work / "vectors.npz"
        if not path.exists():
            r = self.recipe
            cells = cell_data.simulate(self.profiles, r.cells, seed=r.seed + 2, balance=r.balance)
            types = self.type_of_profile[cells.profile]
            kept = np.flatnonzero((types >= 0) & (np.diff(cells.counts.indptr) >= cell_data.MIN_GENES))
            counts, types = cells.counts[kept], types[kept]
            vectors = model.encoders["rna"].encode(counts, self.profiles.genes, batch_size=128)
            save_npz(self.work / "reasoned_cells.npz", counts[: r.reasoned_cells])
            np.savez(self.work / "vectors.new.npz", vectors=vectors, types=types)
            (self.work / "vectors.new.npz").rename(path)
        strange_path = self.work / "strange_vectors.npy"
        if not strange_path.exists():
            r = self.recipe
            counts = cell_data.simulate_strangers(self.profiles, r.strangers, seed=r.seed + 5)
            counts = counts[np.diff(counts.indptr) >= cell_data.MIN_GENES]
            save_npz(self.work / "reasoned_strangers.npz", counts[: r.reasoned_cells // 12])
            np.save(strange_path, model.encoders["rna"].encode(counts, self.profiles.genes, batch_size=128))
        stored, strange = np.load(path), np.load(strange_path)
        types = np.concatenate([stored["types"], np.full(len(strange), self.names.index(UNKNOWN))])
        return np.concatenate([stored["vectors"], strange]), types

    def cases(self, model: BioVerse, types: np.ndarray, rng: np.random.Generator) -> list[tuple[int, Case]]:
        """Step 6.

        Rows of cells, and what the reasoning is shown of them: the true label or a wider one, at any confidence.
        """
        kept, strange = (load_npz(self.work / f"reasoned_{kind}.npz") for kind in ("cells", "strangers"))
        counts = csr_matrix(vstack([kept, strange]))
        rows = np.r_[: kept.shape[0], np.flatnonzero(types == len(self.terms))[: strange.shape[0]]]
        near = type_targets(self.terms, smoothing=1.0)
        near = np.vstack([np.pad(near, ((0, 0), (0, 1))), np.zeros(len(self.names))])
        probabilities = near[types[rows]] * rng.exponential(size=(len(rows), len(self.names)))
        names = [self.names[t] for t in types[rows]]
        for i in np.flatnonzero(rng.random(len(rows)) < 0.2):
            if names[i] != UNKNOWN and (wider := sorted(lineage_terms(self.terms[types[rows[i]]]))):
                names[i] = self.ontology.names[wider[rng.integers(len(wider))]]
        confidence = rng.choice([0.9, 0.6, 0.3], size=len(rows), p=[0.6, 0.2, 0.2])
        maker = CaseMaker(model, self.profiles.genes, self.names)
        found = maker.cases(counts, detected(counts), names, confidence, probabilities, logged=False)
        return list(zip(rows.tolist(), found, strict=True))

    def reasoned(self, case: Case, rng: np.random.Generator) -> list[Segment]:
        """The prompt of a case with its answer."""
        text = language.reason(self.ontology, case, self.ontology.find(case.label) or "", rng)
        return reasoning_prompt(
            case.label,
            case.genes,
            text,
            absent=case.absent,
            confidence=case.confidence,
            runner_up=case.runner_up,
        )

    def known_genes(self) -> list[str]:
        """Genes of the vocabulary and of the marker table."""
        return sorted(set(self.profiles.genes) | {g for genes in self.ontology.markers.values() for g in genes})

    def gene_names(self) -> dict[str, str]:
        """What each gene of the vocabulary or of the marker table encodes."""
        table = pd.read_csv(self.shared / "data/knowledge/gene_description_ensembl.tsv.gz", sep="\t").dropna()
        names = table["gene_description"].str.replace(r"\s*\[Source:.*", "", regex=True).str.strip()
        wanted = set(self.known_genes())
        return {
            gene: name
            for gene, name in zip(table["gene_symbol"], names, strict=True)
            if gene in wanted and name and "novel" not in name and "pseudogene" not in name
        }

    def marker_cards(self, rng: np.random.Generator, n: int) -> list[Example]:
        """Answer-shaped text without a cell: genes drawn from a type's profiles and markers, then the reasoning."""
        usable = np.flatnonzero(self.profiles.usable)
        log = np.log1p(self.profiles.mean[:, :-1] * 1e4)
        excess = log - log[usable].mean(axis=0)
        genes = np.array(self.profiles.genes)
        column = {gene: j for j, gene in enumerate(self.known_genes())}
        near = type_targets(self.terms, smoothing=1.0)
        near /= near.sum(axis=1, keepdims=True)
        examples = []
        for _ in range(n):
            i = rng.choice(usable)
            term = self.profiles.terms[i]
            top = np.argsort(-excess[i])[:60]
            shown = list(genes[rng.choice(top, size=rng.integers(6, 11), replace=False)])
            own = [g for g in self.ontology.markers.get(term, ()) if g not in shown]
            shown += [str(g) for g in rng.permutation(own[:30])[: 12 - len(shown)]] if own else []
            shown = [str(g) for g in rng.permutation(shown)]
            j = rng.choice(len(self.terms), p=near[self.terms.index(term)])
            others = {self.names[j]: self.terms[j]} if rng.random() < 0.5 else {}
            absent = absent_markers(term, others, column, {column[g] for g in shown})
            confidence = ("high", "medium", "low")[rng.choice(3, p=[0.6, 0.2, 0.2])]
            case = Case(self.ontology.names[term], shown, absent, confidence, self.names[j])
            examples.append(without_entity(self.reasoned(case, rng)))
        return examples

    def marker_exercises(self, genes: Sequence[str], rng: np.random.Generator, n: int) -> list[Example]:
        """Mixed lists of genes, and which of them mark a type."""
        names = np.array(genes)
        markers = {t: known for t in self.terms if (known := self.ontology.known_markers(t))}
        terms = list(markers)
        examples = []
        for _ in range(n):
            term = terms[rng.integers(len(terms))]
            own = [str(g) for g in rng.choice(list(markers[term])[:60], size=rng.integers(1, 7))]
            others = [str(g) for g in names[rng.integers(len(names), size=rng.integers(3, 9))]]
            listed = [str(g) for g in rng.permutation(sorted({*others, *own}))]
            question = f"Genes: {', '.join(listed)}. Markers of the {self.ontology.names[term]}:"
            examples.append(Example([Text(question), Answer(", ".join(g for g in listed if g in markers[term]))]))
        return examples

    def entity_cards(
        self, modality: str, rng: np.random.Generator, n: int, *, share_near: float = 0.3
    ) -> list[Example]:
        """Answer-shaped text without an entity: the description, often after the nearest known texts."""
        texts = self.memory[modality].table["text"].to_numpy()
        weights = self.weights(modality)
        examples = []
        for i in rng.choice(len(texts), size=n, p=weights / weights.sum()):
            if rng.random() < share_near:
                examples.append(
                    without_entity(description_prompt(modality, texts[i], nearest=self.nearest[modality][i]))
                )
            else:
                examples.append(Example([Answer(texts[i])]))
        return examples

    def copy_exercises(self, words: Sequence[str], rng: np.random.Generator, n: int) -> list[Example]:
        """Descriptions after up to three texts of random words, equal to the first.

        So the language model learns to copy at all.
        """
        examples = []
        for _ in range(n):
            texts = [" ".join(rng.choice(words, size=rng.integers(3, 24))) for _ in range(rng.integers(1, 4))]
            modality = ("protein", "molecule")[rng.integers(2)]
            examples.append(without_entity(description_prompt(modality, texts[0] + ".", nearest=texts)))
        return examples

    def reading_exercises(self, rng: np.random.Generator, n: int, *, share_molecules: float = 0.12) -> list[Example]:
        """Descriptions after the texts of what is near.

        The first of three texts drawn at random, or what is true of a protein.
        """
        texts = {mod: memory.table["text"].to_numpy() for mod, memory in self.memory.items()}
        found = [i for i, near in enumerate(self.nearest["protein"]) if texts["protein"][i] in near]
        examples = []
        for _ in range(n):
            modality = "molecule" if rng.random() < share_molecules else "protein"
            if modality == "protein" and rng.random() < 0.5:
                i = found[rng.integers(len(found))]
                text, nearest = texts[modality][i], self.nearest[modality][i]
            else:
                nearest = texts[modality][rng.integers(len(texts[modality]), size=3)].tolist()
                text = nearest[0]
            examples.append(without_entity(description_prompt(modality, text, nearest=nearest)))
        return examples

    def weights(self, modality: str) -> np.ndarray:
        """How often each training protein or molecule is drawn.

        Less when no other has its text, so that it teaches a name only.
        """
        texts = self.memory[modality].table["text"]
        alone = texts.map(texts.value_counts()).to_numpy() == 1
        return np.where(alone, 0.5, 1.0) if modality == "protein" else np.ones(len(texts))

    def text_examples(self, rng: np.random.Generator) -> dict[str, list[Example]]:
        """Step 4: what the language model reads about cells, proteins and molecules."""
        texts = language.knowledge_texts(self.ontology, self.gene_names(), terms=self.terms)
        everyday = bsc.train.general_domain_texts()
        genes = self.known_genes()
        return {
            "cells": [Example([Answer(text)]) for text in [*texts, *everyday]]
            + self.marker_cards(rng, 40_000)
            + self.marker_exercises(genes, rng, 20_000),
            "proteins": self.entity_cards("protein", rng, 30_000),
            "molecules": self.entity_cards("molecule", rng, 20_000),
        }

    def language_model(self) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
        """Step 4."""
        r = self.recipe
        folder = self.work / "language_model"
        if not folder.exists():
            rng = np.random.default_rng(r.seed)
            examples = self.text_examples(rng)
            tokenizer = self.tokenizer(examples["cells"])
            vectors = dict(zip(self.profiles.genes, gene_vectors(self.profiles, r.lm_width), strict=True))
            language_model = language.build_language_model(
                tokenizer, width=r.lm_width, layers=r.lm_layers, heads=r.lm_heads, gene_vectors=vectors, seed=r.seed
            )
            n = sum(p.numel() for p in language_model.parameters())
            print(f"{len(tokenizer)} tokens, {n / 1e6:.1f} M parameters", flush=True)
            model = BioVerse(ModelConfig("mini", "language_model", {}), language_model, tokenizer)
            # each kind is read as often as its share says, however much there is of it
            drawn = [
                kind[i]
                for name, kind in examples.items()
                for i in rng.integers(len(kind), size=int(r.text_shares[name] * r.text.steps * r.text.batch_size))
            ]
            bsc.train.pretrain_language_model(model, drawn, r.text, folder=self.work / "text_training")
            words = [word[1:] for word in tokenizer.get_vocab() if re.fullmatch(r"Ġ[\w-]{3,}", word)]
            copied = self.copy_exercises(sorted(words), rng, r.copying.steps * r.copying.batch_size)
            bsc.train.pretrain_language_model(model, copied, r.copying, folder=self.work / "copying")
            n = r.reading.steps * r.reading.batch_size
            read = [drawn[i] for i in rng.permutation(len(drawn))[: n // 3]] + self.reading_exercises(rng, n * 2 // 3)
            bsc.train.pretrain_language_model(model, read, r.reading, folder=self.work / "reading")
            self.read_cards(model, drawn)
            fresh = folder.with_name(folder.name + ".new")
            language_model.half().save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)
            fresh.rename(folder)
        language_model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return language_model, PreTrainedTokenizerFast.from_pretrained(folder)

    def read_cards(self, model: BioVerse, drawn: list[Example]) -> None:
        """Step 4, its end: reasoning with markers that are missing and labels that are not certain, and more copying.

        The word vectors stay as they are, so that what stage 1 aligned with them still is.
        """
        r = self.recipe
        rng = np.random.default_rng(r.seed + 6)
        n = r.cards.steps * r.cards.batch_size
        examples = self.marker_cards(rng, n * 9 // 20) + [drawn[i] for i in rng.integers(len(drawn), size=n // 5)]
        examples += self.reading_exercises(rng, n - len(examples), share_molecules=0.5)
        words = model.embeddings.weight.requires_grad_()
        stopped = words.register_hook(torch.zeros_like)
        bsc.train.pretrain_language_model(model, examples, r.cards, folder=self.work / "cards")
        stopped.remove()

    def tokenizer(self, cell_examples: list[Example]) -> PreTrainedTokenizerFast:
        """A tokenizer for all that the language model reads and writes."""
        asked = [turn for turns in self.turns("protein") + self.turns("molecule") for turn in turns]
        always = [" " + text for text in {*(q for q, _ in asked), *questions.PAIR, *questions.BINDING}]
        always += [" " + name for name in self.names]
        genes = self.known_genes()
        written = [" ".join(getattr(s, "text", "") or "" for s in e.segments) for e in cell_examples]
        entity_texts = dict.fromkeys(text for memory in self.memory.values() for text in memory.table["text"])
        return language.build_tokenizer(
            [" " + t for t in [*written, *entity_texts]] + always * self.recipe.min_word_count,
            genes,
            min_count=self.recipe.min_word_count,
        )

    def untrained_model(self, encoders: dict[str, StoredEncoder]) -> BioVerse:
        """The language model with untrained projectors."""
        r = self.recipe
        language_model, tokenizer = self.language_model()
        config = ModelConfig(
            name="mini",
            language_model="language_model",
            projectors={
                modality: ProjectorConfig(
                    encoder=encoder.name,
                    encoder_fingerprint=encoder.fingerprint,
                    in_width=encoder.width,
                    hidden_width=r.projector_widths[modality],
                    out_width=r.lm_width,
                    n_tokens=1 if modality == "rna" else r.tokens_per_entity,
                    dropout=0.1 if modality == "rna" else 0.0,
                    seed=r.seed,
                )
                for modality, encoder in encoders.items()
            },
            labels=tuple(self.names),
            no_repeat_ngram_size=r.no_repeat_ngram_size,
        )
        return BioVerse(config, language_model, tokenizer, encoders, self.gene_reference(), self.memory)

    def turns(self, modality: str) -> list[list[questions.Turn]]:
        """Questions with answers about each training protein or molecule."""
        if modality == "molecule":
            return [questions.molecule_turns(text) for text in self.memory["molecule"].table["text"]]
        table = self.proteins.table
        known = zip(table["product"], self.enzymes, table["source"], self.proteins.training, strict=True)
        return [questions.protein_turns(product, ec, source) for product, ec, source, kept in known if kept]

    def entity_examples(
        self, modality: str, rng: np.random.Generator, n: int, *, share_near: float, share_asked: float
    ) -> list[Example]:
        """Step 6: descriptions, some of them with the nearest known texts, and questions in one or two turns.

        The description beside known texts is the one of these that is most like the true one: all soft tokens of the
        training share are learned by heart, so that nothing would be read from the texts if the true one were asked
        for.
        """
        texts, turns = self.memory[modality].table["text"].to_numpy(), self.turns(modality)
        weights = self.weights(modality)
        examples = []
        for i in rng.choice(len(texts), size=n, p=weights / weights.sum()):
            nearest = self.nearest[modality][i] if rng.random() < share_near else []
            if rng.random() < 1 - share_asked:
                prompt = description_prompt(modality, questions.most_alike(texts[i], nearest), nearest=nearest)
            else:
                order = rng.permutation(len(turns[i]))[: rng.integers(1, 3)]
                prompt = question_prompt([modality], [turns[i][k] for k in order], nearest=[nearest])
            examples.append(Example(prompt, (int(i),)))
        return examples

    def joint_examples(self, types: np.ndarray, rng: np.random.Generator, n: int) -> list[Example]:
        """Step 6: questions about a treated cell, and about which of some proteins a molecule binds or is asked for."""
        described = self.memory["molecule"].table["text"].to_numpy()
        first = [questions.sentences(text)[0] for text in described]
        table = self.proteins.table[self.proteins.training].reset_index(drop=True)
        of_ec: dict[str, np.ndarray] = {ec: np.array(rows) for ec, rows in table.groupby("ec").groups.items()}
        binders = [
            (i, ec) for i, text in enumerate(described) for ec in sorted(questions.inhibited(text)) if ec in of_ec
        ]
        without = [i for i, text in enumerate(described) if "inhibitor" not in text]
        of_a_type = np.flatnonzero(types < len(self.terms))
        examples = []
        for k in range(n):
            molecule = int(rng.integers(len(described)))
            if k % 2:
                cell = int(rng.choice(of_a_type))
                answer = questions.pair_answer(self.names[types[cell]], first[molecule])
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

    def labelled_cells(self, types: np.ndarray, rng: np.random.Generator) -> list[Example]:
        """Step 6: cells with their labels, a quarter of them after words that say nothing of the cell or are wrong."""
        names = self.names
        everyday = bsc.train.general_domain_texts()
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
        self, cases: list[tuple[int, Case]], types: np.ndarray, rng: np.random.Generator
    ) -> list[Example]:
        """Step 6: reasoning, and for some of the cells labels, descriptions and questions."""
        examples = []
        for i, case in cases:
            examples.append(Example(self.reasoned(case, rng), (i,)))
            if i % 4 == 0 and types[i] < len(self.terms):
                name, term = self.names[types[i]], self.terms[types[i]]
                examples.append(Example(label_prompt(name), (i,)))
                examples.append(Example(description_prompt("rna", self.ontology.describe(term)), (i,)))
                wider = self.ontology.parents[term]
                turns = [("What is this cell?", f"{language.article(name).capitalize()} {name}.")]
                if wider:
                    turns.append(("Which wider type does it belong to?", f"The {self.ontology.names[wider[0]]}."))
                examples.append(Example(question_prompt(["rna"], turns), (i,)))
        return examples

    def run(self, out: Path) -> None:
        """All steps."""
        r = self.recipe
        proteins, molecules = self.protein_encoder(), self.molecule_encoder()
        model = self.untrained_model({"rna": self.encoder(), "protein": proteins, "molecule": molecules})
        vectors, types = self.vectors(model)
        of = {"rna": vectors, "protein": self.entity_vectors(proteins), "molecule": self.entity_vectors(molecules)}
        texts_of_types = [self.ontology.describe(t) for t in self.terms] + ["This is not a cell of a known type."]
        descriptions = Descriptions(texts_of_types, types)
        bsc.train.align(model, vectors, descriptions, r.contrastive, folder=self.work / "contrastive")
        described = {mod: memory.table["text"].tolist() for mod, memory in self.memory.items()}
        described["molecule"] += [f"The molecule is {name}." for name in self.molecules.more["name"]]
        pairs = {}
        for modality, texts in described.items():
            text_of, unique = pd.factorize(np.array(texts, dtype=object))
            pairs[modality] = Descriptions(list(unique), text_of)
            folder = self.work / f"{modality}_contrastive"
            bsc.train.align(
                model, of[modality], pairs[modality], r.sequence_contrastive, modality=modality, folder=folder
            )
        labelled = self.labelled_cells(types, np.random.default_rng(r.seed + 4))
        bsc.train.instruct(
            model,
            labelled,
            {"rna": vectors},
            r.label,
            lora=r.lora,
            descriptions={"rna": descriptions},
            folder=self.work / "label",
        )
        rng = np.random.default_rng(r.seed + 3)
        # the soft tokens of cells stay where labels and stage 1 put them
        trained = ("protein", "molecule")
        examples = self.entity_examples("protein", rng, 60_000, share_near=0, share_asked=0.1)
        examples += self.entity_examples("molecule", rng, 20_000, share_near=0, share_asked=0.1)
        examples += [labelled[i] for i in rng.integers(len(labelled), size=8_000)]
        bsc.train.instruct(
            model,
            examples,
            of,
            r.describe,
            train_projectors=trained,
            descriptions=pairs,
            folder=self.work / "describe",
        )
        examples = self.cell_examples(self.cases(model, types, rng), types, rng)
        examples = [examples[i] for i in rng.permutation(len(examples))[:17_000]]
        examples += [labelled[i] for i in rng.integers(len(labelled), size=4_000)]
        examples += self.joint_examples(types, rng, 6_000)
        # descriptions most of all, so that what the stage before taught is kept; to copy takes many
        examples += self.entity_examples("protein", rng, 14_000, share_near=0, share_asked=0.1)
        examples += self.entity_examples("protein", rng, 20_000, share_near=1, share_asked=0.1)
        examples += self.entity_examples("molecule", rng, 5_000, share_near=0, share_asked=0.15)
        examples += self.entity_examples("molecule", rng, 12_000, share_near=1, share_asked=0.1)
        bsc.train.instruct(
            model, examples, of, r.answers, train_projectors=trained, descriptions=pairs, folder=self.work / "answers"
        )
        save_model(model, out)


def save_model(model: BioVerse, out: Path) -> None:
    """Put a model where another may be, whose card stays."""
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    bsc.models.save(model, fresh, dtype=torch.float16)
    card = out / "README.md"
    if card.exists():
        shutil.copy(card, fresh / "README.md")
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(json.dumps({"out": str(out), "megabytes": round(size / 1e6, 1)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for what lies between the steps, outside the repository"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    recipe = Recipe()
    if a.seed:
        recipe = replace(recipe, seed=a.seed)
    Run(a.shared, a.work, recipe).run(a.out)


if __name__ == "__main__":
    main()
