"""Train the bundled default model ``mini``: one command, resumable.

    python recipes/mini/train.py --shared ../shared --work /tmp/mini --out src/bioverse_sc/bundled/mini

Every step leaves its result in the work folder and is skipped when that is there; training inside a step resumes from its
last checkpoint. Two CPU cores need about an hour.

1. cells     simulate cells from reference profiles
2. encoder   train an scGPT-format encoder on them: masked values and types
3. vectors   embed fresh simulated cells; list their informative genes
4. text      make the tokenizer and the language model; train it on knowledge text
5. align     stage 1, contrastive
6. instruct  stage 2: labels (LoRA and projector), then labels with reasoning (LoRA)
7. save      write the bundle
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cells as cell_data
import language
import numpy as np
import pandas as pd
import torch

import bioverse_sc as bsc
from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPTConfig, ScGPTEncoder
from bioverse_sc.models import Answer, BioVerse, ModelConfig, ProjectorConfig, Text
from bioverse_sc.models._prompt import label_prompt, reasoning_prompt
from bioverse_sc.ontology import cell_ontology
from bioverse_sc.tl._annotate import informative_genes
from bioverse_sc.train import Descriptions, Example, LoraSettings, TrainConfig

if TYPE_CHECKING:
    from collections.abc import Sequence


EVERYWHERE = {"B2M", "FTH1", "FTL", "HLA-A", "HLA-B", "HLA-C", "HLA-E", "TMSB10", "TMSB4X"}
"""Genes that marker tables name but nearly every cell expresses."""


@dataclass(frozen=True)
class Recipe:
    """Every number of the recipe."""

    seed: int = 0
    genes: int = 7000
    genes_per_cell: int = 192
    encoder_width: int = 128
    encoder_layers: int = 2
    encoder_cells: int = 166_400
    encoder: TrainConfig = TrainConfig(
        steps=1300, batch_size=128, learning_rate=1e-3, warmup_steps=80, mixed_precision="bf16", checkpoint_every=100
    )
    cells: int = 100_000
    balance: float = 0.7
    """How far the language model sees common types more often; see :func:`cells.simulate`."""
    reasoned_cells: int = 24_000
    lm_width: int = 192
    lm_layers: int = 4
    lm_heads: int = 4
    min_word_count: int = 3
    text: TrainConfig = TrainConfig(
        steps=1500, batch_size=64, learning_rate=2e-3, mixed_precision="bf16", checkpoint_every=100
    )
    contrastive: TrainConfig = TrainConfig(steps=1000, batch_size=512, learning_rate=1e-3, weight_decay=0.05)
    label: TrainConfig = TrainConfig(
        steps=300, batch_size=256, learning_rate=1.5e-3, mixed_precision="bf16", checkpoint_every=100
    )
    reason: TrainConfig = TrainConfig(
        steps=450, batch_size=40, learning_rate=1e-3, mixed_precision="bf16", checkpoint_every=100
    )
    lora: LoraSettings = LoraSettings(rank=16, alpha=32)


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
        cells = cell_data.simulate(self.profiles, r.encoder_cells, seed=r.seed + 1, balance=0.5)
        bsc.train.pretrain_encoder(
            encoder,
            encoder.tokenize(cells.counts, self.profiles.genes),
            r.encoder,
            types=self.type_of_profile[cells.profile],
            type_targets=type_targets(self.terms, smoothing=0.08),
            folder=self.work / "encoder_training",
        )
        encoder.save(self.work / "encoder.new", dtype=torch.float16)
        (self.work / "encoder.new").rename(folder)
        return ScGPTEncoder.from_folder(folder)

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

    def vectors(self, model: BioVerse) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
        """Step 3: vectors, types and informative genes of fresh cells; the last for the first ``reasoned_cells`` ones."""
        path = self.work / "vectors.npz"
        if not path.exists():
            r = self.recipe
            cells = cell_data.simulate(self.profiles, r.cells, seed=r.seed + 2, balance=r.balance)
            types = self.type_of_profile[cells.profile]
            kept = np.flatnonzero((types >= 0) & (np.diff(cells.counts.indptr) >= 20))
            counts, types = cells.counts[kept], types[kept]
            vectors = model.encoders["rna"].encode(counts, self.profiles.genes, batch_size=128)
            shown = informative_genes(model, counts[: r.reasoned_cells], self.profiles.genes, logged=False)
            lines = np.array([" ".join(genes) for genes in shown])
            np.savez(self.work / "vectors.new.npz", vectors=vectors, types=types, shown=lines)
            (self.work / "vectors.new.npz").rename(path)
        stored = np.load(path)
        return stored["vectors"], stored["types"], [line.split() for line in stored["shown"]]

    def gene_names(self) -> dict[str, str]:
        """What each gene of the vocabulary or of the marker table encodes."""
        table = pd.read_csv(self.shared / "data/knowledge/gene_description_ensembl.tsv.gz", sep="\t").dropna()
        names = table["gene_description"].str.replace(r"\s*\[Source:.*", "", regex=True).str.strip()
        wanted = set(self.profiles.genes) | {g for genes in self.ontology.markers.values() for g in genes}
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
        examples = []
        for _ in range(n):
            i = rng.choice(usable)
            term = self.profiles.terms[i]
            top = np.argsort(-excess[i])[:60]
            shown = list(genes[rng.choice(top, size=rng.integers(6, 11), replace=False)])
            own = [g for g in self.ontology.markers.get(term, ()) if g not in shown]
            shown += [str(g) for g in rng.permutation(own[:30])[: 12 - len(shown)]] if own else []
            shown = [str(g) for g in rng.permutation(shown)]
            text = language.reason(self.ontology, term, shown, rng)
            segments = [
                s
                for s in reasoning_prompt(self.ontology.names[term], shown, text)
                if not isinstance(s, bsc.models.Entity)
            ]
            examples.append(Example(segments))
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

    def language_model(self, encoder: ScGPTEncoder) -> BioVerse:
        """Step 4."""
        r = self.recipe
        folder = self.work / "text_model"
        if folder.exists():
            model = bsc.models.load(folder, merge_adapter=False)
            return model
        rng = np.random.default_rng(r.seed)
        texts = language.knowledge_texts(self.ontology, self.gene_names(), terms=self.terms)
        cards = self.marker_cards(rng, 40_000)
        card_texts = [" ".join(getattr(s, "text", "") or "" for s in e.segments) for e in cards[:3000]]
        genes = sorted(set(self.profiles.genes) | {g for m in self.ontology.markers.values() for g in m})
        exercises = self.marker_exercises(genes, rng, 20_000)
        everyday = bsc.train.general_domain_texts()
        labels = [" " + self.ontology.names[t] for t in self.terms]
        tokenizer = language.build_tokenizer(
            [" " + t for t in texts] + card_texts + labels * r.min_word_count + [" " + t for t in everyday] * 2,
            genes,
            min_count=r.min_word_count,
        )
        print(f"{len(texts)} statements, {len(tokenizer)} tokens", flush=True)
        vectors = dict(zip(self.profiles.genes, gene_vectors(self.profiles, r.lm_width), strict=True))
        language_model = language.build_language_model(
            tokenizer, width=r.lm_width, layers=r.lm_layers, heads=r.lm_heads, gene_vectors=vectors, seed=r.seed
        )
        print(f"{sum(p.numel() for p in language_model.parameters()) / 1e6:.1f} M parameters", flush=True)
        config = ModelConfig(
            name="mini",
            language_model="language_model",
            projectors={
                "rna": ProjectorConfig(
                    encoder="scgpt",
                    encoder_fingerprint=encoder.fingerprint,
                    in_width=encoder.width,
                    hidden_width=2 * r.lm_width,
                    out_width=r.lm_width,
                    seed=r.seed,
                )
            },
            labels=tuple(self.ontology.names[t] for t in self.terms),
        )
        model = BioVerse(config, language_model, tokenizer, {"rna": encoder}, self.gene_reference())
        plain = [Example([Answer(text)]) for text in [*texts, *everyday]]
        bsc.train.pretrain_language_model(model, plain + cards + exercises, r.text, folder=self.work / "text_training")
        # the untrained projector is scaled to the embeddings of the trained language model
        model.projectors["rna"] = model.untrained_projector("rna")
        bsc.models.save(model, self.work / "text_model.new", dtype=torch.float16)
        (self.work / "text_model.new").rename(folder)
        return bsc.models.load(folder, merge_adapter=False)

    def run(self, out: Path) -> None:
        """All steps."""
        r = self.recipe
        encoder = self.encoder()
        model = self.language_model(encoder)
        vectors, types, shown = self.vectors(model)
        descriptions = Descriptions([self.ontology.describe(t) for t in self.terms], types)
        bsc.train.align(model, vectors, descriptions, r.contrastive, folder=self.work / "contrastive")
        names = [self.ontology.names[t] for t in self.terms]
        labelled = [Example(label_prompt(names[t]), (i,)) for i, t in enumerate(types)]
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
        reasoned = []
        for i, genes in enumerate(shown):
            text = language.reason(self.ontology, self.terms[types[i]], genes, rng)
            reasoned.append(Example(reasoning_prompt(names[types[i]], genes, text), (i,)))
        # here only the language model learns: the soft tokens stay where labels and stage 1 put them
        bsc.train.instruct(
            model, reasoned, {"rna": vectors}, r.reason, train_projectors=False, folder=self.work / "reason"
        )
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
