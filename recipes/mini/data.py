"""What the steps share: profiles, proteins, molecules, and what is said of them."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import proteins
import questions
import sequences
from cells import read_profiles

from bioverse_sc.facts import Memory
from bioverse_sc.ontology import UNKNOWN, cell_ontology

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from recipe import Recipe

EVERYWHERE = {"B2M", "FTH1", "FTL", "HLA-A", "HLA-B", "HLA-C", "HLA-E", "TMSB10", "TMSB4X"}
"""Genes that marker tables name but nearly every cell expresses."""


class Data:
    """The reference data, read when they are first needed, and the folder of the steps' results."""

    def __init__(self, shared: Path, work: Path, recipe: Recipe) -> None:
        self.shared, self.work, self.recipe = shared, work, recipe
        work.mkdir(parents=True, exist_ok=True)
        self.ontology = cell_ontology()
        self.profiles = read_profiles(shared, n_genes=recipe.genes)
        self.terms = sorted(set(self.profiles.terms[self.profiles.usable]))
        self.names = [*(self.ontology.names[t] for t in self.terms), UNKNOWN]
        index = {term: i for i, term in enumerate(self.terms)}
        self.type_of_profile = np.array(
            [index[t] if usable else -1 for t, usable in zip(self.profiles.terms, self.profiles.usable, strict=True)]
        )

    @cached_property
    def proteins(self) -> proteins.Proteins:
        return proteins.read_proteins(self.shared, held_out=self.recipe.held_out, seed=self.recipe.seed)

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
        return [questions.protein_text(protein) for protein in self._protein_records]

    @cached_property
    def _protein_records(self) -> list[dict[str, Any]]:
        return self.proteins.table.assign(ec=self.enzymes).to_dict("records")

    @cached_property
    def memory(self) -> dict[str, Memory]:
        """Proteins and molecules of the training share, with their texts."""
        molecules = self.molecules
        table = self.proteins.table.rename(columns={"sequence": "entity", "product": "name"})
        known = table.assign(text=self.protein_texts, ec=self.enzymes)[self.proteins.training]
        described = molecules.table.rename(columns={"smiles": "entity", "description": "text"})[molecules.training]
        return {"protein": Memory("protein", known), "molecule": Memory("molecule", described)}

    @cached_property
    def nearest(self) -> dict[str, list[list[str]]]:
        """Texts of the nearest of the other training proteins and molecules, for those of the training share."""
        path = self.work / "nearest.json"
        if not path.exists():
            nearest = {}
            for mod, memory in self.memory.items():
                near = memory.nearest(memory.table["entity"].tolist(), themselves=False)
                nearest[mod] = [[known.text for known in each] for each in near]
            path.write_text(json.dumps(nearest))
        return dict(json.loads(path.read_text()))

    @property
    def type_texts(self) -> list[str]:
        """What is said of each type, in the order of ``names``."""
        return [*(self.ontology.describe(term) for term in self.terms), "This is not a cell of a known type."]

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

    def weights(self, mod: str) -> np.ndarray:
        """How often each training protein or molecule is drawn.

        It is drawn less often when no other has its text, which then teaches a name only.
        """
        texts = self.memory[mod].table["text"]
        alone = texts.map(texts.value_counts()).to_numpy() == 1
        return np.where(alone, 0.5, 1.0) if mod == "protein" else np.ones(len(texts))

    def turns(self, mod: str) -> list[list[questions.Turn]]:
        """Questions with answers about each training protein or molecule."""
        if mod == "molecule":
            return [questions.molecule_turns(text) for text in self.memory["molecule"].table["text"]]
        records = zip(self._protein_records, self.proteins.training, strict=True)
        return [questions.protein_turns(protein) for protein, is_trained in records if is_trained]


def type_targets(terms: Sequence[str], *, smoothing: float) -> np.ndarray:
    """Target distribution of each type: most on itself, the rest on types that are close to it in the ontology."""
    ontology = cell_ontology()
    up = [ontology.ancestors(t) for t in terms]
    near = np.array([[len(a & b) / len(a | b) for b in up] for a in up]) ** 3
    np.fill_diagonal(near, 0)
    near /= near.sum(axis=1, keepdims=True) + 1e-9
    return (1 - smoothing) * np.eye(len(terms)) + smoothing * near
