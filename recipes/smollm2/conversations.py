"""Conversations that stage 2 learns from: questions in many wordings, facts in any order, answers taken from the facts.

    python recipes/smollm2/conversations.py --shared ../shared --out runs/smollm2

It reads ``cells.h5ad`` and writes ``entities.h5mu`` (cells, proteins and molecules) and ``conversations.jsonl``. The
answers are written by the rules below: which facts answer a question, said as the facts say it. What no fact answers is
refused. At use no rule chooses: the language model reads the facts and writes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import yaml
from scipy.sparse import csr_matrix

sys.path.insert(0, str(Path(__file__).parents[1] / "mini"))

import real_cells
from data import Data
from explain import explained
from recipe import Recipe

import bioverse_sc as bsc
from bioverse_sc.facts import (
    About,
    CellFacts,
    Fact,
    cell_facts,
    facts_about,
    gather,
    gene_facts,
    in_plural,
    pathway_facts,
    pathway_names,
    refusal_about,
    type_facts,
    with_article,
)
from bioverse_sc.models import PROMPTS, Entity, label_probabilities, question_prompt
from bioverse_sc.ontology import UNKNOWN, approved_symbol, cell_ontology
from bioverse_sc.read import whole_matrix
from bioverse_sc.reasoning import detected, why_labelled

if TYPE_CHECKING:
    from collections.abc import Sequence


SEED = 41
HELD_OUT_TYPES = (
    "mast cell",
    "hepatocyte",
    "type B pancreatic cell",
    "plasmacytoid dendritic cell",
    "mature NK T cell",
    "endothelial cell of lymphatic vessel",
    "paneth cell",
    "erythroblast",
    "plasmablast",
    "smooth muscle cell",
)
"""Types of which no conversation tells, so that questions about them measure what carries over."""
TEMPLATES = PROMPTS | {"facts": "Facts:\n{facts}\n", "ask": "Question: {question}"}
"""Those of ``align_cells.yaml``."""
REAL_SHARE = 0.3
"""Of the cells, those that are real, with all their genes."""
GROUP_SHARE = 0.1
"""Of the cells, those that stand for a group of their like, as a cluster."""
STUDY = {
    "tissue": ["blood", "lung", "liver", "bone marrow", "ileum", "kidney", "pancreas", "skin", "spleen", "brain"],
    "disease": ["healthy", "COVID-19", "lupus", "Crohn disease", "none"],
    "donor": ["D1", "D17", "P03", "H2"],
    "condition": ["control", "stimulated", "day 3", "treated"],
}
OPENERS = ("", "", "", "", "Hi! ", "Please: ", "One question. ", "OK. ", "Hm. ", "Next: ", "Well, ", "So, ")
NAMING = ("is_type", "expresses", "is_marker", "pathway", "study")
"""Kinds of questions that name something."""
FOLLOW_UPS = (
    "And what does it do?",
    "What does that gene do?",
    "What is it good for?",
    "What is its function?",
    "And its role?",
    "What does it do in general?",
)
Turn = tuple[str, str, list[str]]
"""Question, answer, facts that are shown before it."""


@dataclass
class Writer:
    """Writes turns about one entity after another."""

    rng: np.random.Generator
    wordings: dict[str, Any]
    genes: list[str]
    """Symbols that are asked about."""
    types: list[str]
    """Cell Ontology ids that are asked about."""
    pathways: list[str]
    earlier: list[str] = field(default_factory=list)
    shown: set[str] = field(default_factory=set)

    def pick(self, items: Sequence[Any]) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def worded(self, wordings: Sequence[str], **slots: str) -> str:
        """A question in one of its wordings, sometimes typed carelessly."""
        text = str(self.pick(wordings))
        for key, value in slots.items():
            text = text.replace(f"{{{key}}}", value)
        text = text[:1].upper() + text[1:] if self.rng.random() < 0.7 else text
        text = self.pick(OPENERS) + text
        if self.rng.random() < 0.12:
            text = text.rstrip("?.!")
        if self.rng.random() < 0.06 and not slots:
            text = text.lower()
        return text

    def named(self, term: str) -> dict[str, str]:
        """A type's name for the slots of a wording."""
        name = cell_ontology().names[term]
        return {"name": name, "a": with_article(name).split(" ", maxsplit=1)[0], "names": in_plural(name)}

    def turn(
        self, question: str, answers: Sequence[Fact | str], facts: Sequence[Fact], *, needed: Sequence[Fact] = ()
    ) -> Turn:
        """A turn whose answer is taken from facts, which stand among others in any order."""
        answer = " ".join(fact.text if isinstance(fact, Fact) else fact for fact in answers)
        needed_texts = [fact.text for fact in [*needed, *answers] if isinstance(fact, Fact)]
        others = [fact.text for fact in facts if fact.text not in needed_texts]
        # in the order of their worth for the question as at use, or in any
        most = int(self.rng.integers(4, 19)) if self.rng.random() < 0.3 else int(self.rng.integers(3, 10))
        chosen = [*needed_texts, *others[:most]]
        if self.rng.random() < 0.6:
            chosen = [chosen[i] for i in self.rng.permutation(len(chosen))]
        chosen = [text for text in dict.fromkeys(chosen) if text not in self.shown]
        self.shown.update(chosen)
        self.earlier.append(question)
        return question, answer, chosen

    def begin(self) -> None:
        self.earlier, self.shown = [], set()


def polar(fact: Fact) -> list[str]:
    """The word that an answer to a yes-or-no question begins with, by what its fact says."""
    text = fact.text
    if "cannot be told" in text or "nothing can be told" in text:
        return []
    if "probably not" in text:
        return ["Probably not."]
    if "which says little" in text:
        return []
    if "most likely" in text.split(". ")[0]:
        return ["Probably."]
    negative = re.search(r"\b(is not|are not|does not|no known|not detected|none of|no known marker|nothing)\b", text)
    return ["No."] if negative and negative.start() < 90 else ["Yes."]


def of(facts: Sequence[Fact], *topics: str) -> list[Fact]:
    """The facts of some topics."""
    return [fact for fact in facts if fact.topic in topics]


@dataclass
class CellTalk:
    """Turns about one cell."""

    writer: Writer
    cell: CellFacts

    @property
    def about(self) -> About:
        """The cell, as a question is about it."""
        return About("Cell", cell=self.cell)

    def asked(self, question: str) -> list[Fact]:
        """The facts that are gathered for a question."""
        return gather(question, {"Cell": self.cell}, earlier=self.writer.earlier, most=30)

    def plain(self, kind: str) -> Turn:
        """A question that names nothing."""
        question = self.writer.worded(self.writer.wordings["cell"][kind])
        facts, own = self.asked(question), self.cell.facts("Cell")
        canonical = {
            "against": "What speaks against the label?",
            "unusual": "Is there anything unusual?",
            "proliferating": "Is it proliferating?",
            "interferon": "Is there an interferon response?",
            "stressed": "Is it stressed?",
        }
        judged = [f for f in self.asked(canonical[kind]) if f.topic == "judgment"] if kind in canonical else []
        answers: list[Fact | str] = []
        if kind == "identity":
            answers = [*of(own, "label")[:1]]
            if self.cell.probability < 0.8:
                answers += [*of(own, "certainty"), *of(own, "runner-up")]
        elif kind == "certainty":
            answers = [*of(own, "certainty")]
            if self.cell.probability < 0.8:
                answers += of(own, "runner-up")
        elif kind == "runner_up":
            answers = [*of(own, "runner-up")]
        elif kind == "wider":
            answers = [fact for fact in of(own, "type") if "kind of" in fact.text][:1]
        elif kind == "markers":
            answers = [*of(own, "markers")[: 2 + int(self.writer.rng.random() < 0.5)]]
        elif kind == "against":
            answers = [f for f in judged if "against" in f.text][:2] or [*of(own, "absence")[:1]]
        elif kind == "unusual":
            answers = (
                [f for f in judged if f.topic == "judgment"][-1:] if not of(own, "unusual") else of(own, "unusual")
            )
        elif kind in ("proliferating", "interferon", "stressed"):
            states = {"proliferating": "prolif", "interferon": "interferon", "stressed": "stress"}
            told = [f for f in judged if states[kind] in f.text][:1]
            answers = [*polar(told[0]), *told] if told else []
        elif kind == "state":
            answers = [*of(own, "state")]
        elif kind in ("counts", "genes_detected"):
            answers = [*of(own, "numbers")[:1]]
        elif kind == "mitochondrial":
            answers = [f for f in own if "mitochondrial counts" in f.text][:1]
        elif kind == "quality":
            answers = [*of(own, "numbers"), *of(own, "unusual")[:1]]
        elif kind == "summary":
            answers = [*of(own, "label")[:1], *of(own, "certainty"), *of(own, "markers")[:2], *of(own, "numbers")[:1]]
            answers += [*of(own, "unusual")[:1], *of(own, "state")[:1]]
        if not answers:
            return self.refused(question)
        return self.writer.turn(question, answers, facts)

    def refused(self, question: str = "") -> Turn:
        """What no fact tells."""
        question = question or self.writer.worded(self.writer.wordings["refused"])
        return self.writer.turn(question, [refusal_about([self.about])], self.asked(question))

    def is_type(self) -> Turn:
        ontology, cell, rng = cell_ontology(), self.cell, self.writer.rng
        term = str(self.writer.pick(self.writer.types))
        draw = rng.random()
        if cell.term and draw < 0.3:
            term = cell.term
        elif cell.term and draw < 0.55:
            wider = sorted(ontology.ancestors(cell.term) - {cell.term, "CL:0000000", "CL:0000255", "CL:0000548"})
            term = self.writer.pick(wider) if wider else cell.term
        elif cell.runners_up and draw < 0.7 and cell.runners_up[0].term:
            term = cell.runners_up[0].term
        elif cell.term and draw < 0.78:
            kinds = [t for t in self.writer.types if cell.term in ontology.ancestors(t) and t != cell.term]
            term = self.writer.pick(kinds) if kinds else term
        question = self.writer.worded(self.writer.wordings["cell"]["is_type"], **self.writer.named(term))
        facts = self.asked(question)
        judged = [f for f in self.asked(f"Is it a {ontology.names[term]}?") if f.topic == "judgment"]
        if not judged:
            return self.refused(question)
        return self.writer.turn(question, [*polar(judged[0]), judged[0]], facts)

    def gene(self) -> str:
        """A gene to ask about: one that is a marker, expressed, absent, not measured, or none at all."""
        rng, cell = self.writer.rng, self.cell
        draw = rng.random()
        if draw < 0.3 and cell.markers:
            return str(self.writer.pick(cell.markers).gene)
        if draw < 0.45 and cell.amounts:
            return str(self.writer.pick(list(cell.amounts)))
        if draw < 0.55 and cell.absences:
            return str(self.writer.pick(cell.absences).gene)
        if draw < 0.64:
            letters = "".join(rng.choice(list("ABCDEFGHKLMNPQRSTUVXZ"), size=int(rng.integers(3, 6))))
            invented = f"{letters}{rng.integers(1, 99)}"
            return invented if approved_symbol(invented) is None else "QXZ17"
        return str(self.writer.pick(self.writer.genes))

    def expresses(self, gene: str = "") -> Turn:
        gene = gene or self.gene()
        question = self.writer.worded(self.writer.wordings["cell"]["expresses"], gene=gene)
        judged = [f for f in self.asked(f"Does it express {gene}?") if f.topic == "judgment"]
        if not judged:
            return self.refused(question)
        answers: list[Fact | str] = [*polar(judged[0]), judged[0]]
        return self.writer.turn(question, answers, self.asked(question))

    def is_marker(self) -> Turn:
        gene = self.gene()
        question = self.writer.worded(self.writer.wordings["cell"]["is_marker"], gene=gene)
        judged = [f for f in self.asked(f"Does it express {gene}?") if f.topic == "judgment"]
        marks = [f for f in judged if "marker" in f.text][:1] or judged[:1]
        return (
            self.writer.turn(question, [*polar(marks[0]), marks[0]], self.asked(question))
            if marks
            else self.refused(question)
        )

    def pathway(self) -> Turn:
        name = str(self.writer.pick(self.writer.pathways))
        question = self.writer.worded(self.writer.wordings["cell"]["pathway"], pathway=name)
        judged = [f for f in self.asked(f"Is {name} active?") if f.topic == "judgment"]
        return self.writer.turn(question, judged[:2], self.asked(question)) if judged else self.refused(question)

    def study(self) -> Turn:
        key = str(self.writer.pick(list(STUDY)))
        question = self.writer.worded(self.writer.wordings["cell"]["study"], column=key)
        facts = self.asked(question)
        told = of(self.cell.facts("Cell"), "study")
        if not told:
            return self.refused(question)
        is_named = [f for f in told if f"'s {key} is" in f.text] if f" {key}" in question else []
        if f" {key}" in question and not is_named:
            return self.refused(question)
        if not is_named and "what do you know" not in question.lower() and "say" not in question:
            is_named = [f for f in told if "tissue" in f.text]
            if not is_named:
                return self.refused(question)
        return self.writer.turn(question, is_named or told, facts)

    def why(self) -> Turn:
        """The reasoning, as annotate asks for it."""
        question = why_labelled(self.cell)
        text, used = explained(self.cell, self.writer.rng)
        facts = self.asked(question)
        return self.writer.turn(question, [text], [*used, *self.cell.facts("Cell"), *facts], needed=used)


def table_turn(writer: Writer) -> Turn:
    """A question about a gene, a type or a pathway."""
    kind = str(writer.pick(["gene", "gene", "gene", "type", "type", "pathway"]))
    if kind == "gene":
        gene = str(writer.pick(writer.genes))
        topic = str(writer.pick(["function", "function", "function", "name", "marks", "process", "location"]))
        question = writer.worded(writer.wordings["gene"][topic], gene=gene)
        known = gene_facts(gene)
        answers = {
            "function": [f for f in known if f.source == "RefSeq"][:1] or of(known, "gene")[:2],
            "name": [f for f in known if "full name" in f.text],
            "marks": of(known, "markers")[:1],
            "process": [f for f in known if " takes part in " in f.text],
            "location": [f for f in known if " is located in " in f.text],
        }[topic]
    elif kind == "type":
        term = str(writer.pick(writer.types))
        topic = str(writer.pick(["definition", "definition", "markers", "wider", "tissue"]))
        question = writer.worded(writer.wordings["type"][topic], **writer.named(term))
        known = type_facts(term)
        answers = {
            "definition": of(known, "type")[:1],
            "markers": of(known, "markers")[:1],
            "wider": [f for f in known if "kind of" in f.text],
            "tissue": [f for f in known if " occur in " in f.text],
        }[topic]
    else:
        name = str(writer.pick(writer.pathways))
        topic = str(writer.pick(["genes", "genes", "number", "about"]))
        question = writer.worded(writer.wordings["pathway"][topic], pathway=name)
        known = pathway_facts(name)
        listed = [f for f in known if f.text.startswith("Genes of")]
        answers = {"genes": listed, "number": known[:1], "about": [*known[:1], *listed]}[topic]
    return writer.turn(question, answers or [refusal_about()], [*gather(question, earlier=writer.earlier), *known])


def entity_turn(writer: Writer, about: About) -> Turn:
    """A question about a protein or a molecule."""
    wordings = writer.wordings[about.mod]
    kind = str(writer.pick(["identity", "identity", "identity", *wordings]))
    question = writer.worded(wordings[kind])
    facts = facts_about(question, [about], earlier=writer.earlier)
    mine = [fact for fact in facts if fact.about == about.name]
    judged, identity = of(mine, "judgment")[:1], of(mine, "identity")
    unless_known = [] if identity else judged
    answers = {
        "identity": identity[:1] or judged,
        "function": identity[:1] or judged,
        "role": identity[:1] or judged,
        "class": identity[:1] or judged,
        "organism": [f for f in identity if " is from " in f.text] or unless_known,
        "gene": [f for f in identity if "gene of" in f.text] or unless_known,
        "enzyme": [f for f in identity[:1] if "EC " in f.text] or unless_known,
        "length": of(mine, "properties")[:1],
        "formula": of(mine, "properties")[:1],
        "mass": of(mine, "properties")[:1],
        "near": of(mine, "nearest")[:2],
        "certainty": judged,
        "refused": [],
    }[kind]
    return writer.turn(question, answers or [refusal_about([about])], facts)


def several_turn(writer: Writer, abouts: list[About]) -> Turn:
    """Whether a molecule binds proteins, or what it does to a cell."""
    kind = "treated" if any(about.cell for about in abouts) else "binding"
    question = writer.worded(writer.wordings[kind])
    facts = facts_about(question, abouts)
    together = [fact for fact in facts if " and " in fact.about and fact.topic == "judgment"]
    return writer.turn(question, together, facts)


def record(mods: list[str], names: list[str], turns: list[Turn]) -> dict[str, Any]:
    """A line of the file: entities by modality, the conversation and its last answer."""
    prompt: list[str] = []
    for i, (question, _, facts) in enumerate(turns):
        segments = question_prompt(mods if i == 0 else [], [(question, None)], facts=[facts], prompts=TEMPLATES)
        words = [f"[BIO:{s.mod}]" if isinstance(s, Entity) else s.text or "" for s in segments]
        prompt += [*([turns[i - 1][1]] if i else []), "".join(words)]
    named: dict[str, Any] = {}
    for mod, name in zip(mods, names, strict=True):
        named.setdefault(mod, []).append(name)
    return {**named, "prompt": prompt, "answer": turns[-1][1]}


def real_and_simulated(
    shared: Path, adata: ad.AnnData, genes: list[str], n: int, rng: np.random.Generator
) -> tuple[ad.AnnData, list[CellFacts]]:
    """Cells with what is known of them: simulated ones, and real ones with all genes that they were measured with."""
    n_real = int(n * REAL_SHARE)
    labels = adata.obs["label"].to_numpy()
    allowed = (adata.obs["kind"] == "simulated").to_numpy() & ~np.isin(labels, HELD_OUT_TYPES)
    size = pd.Series(labels[allowed]).map(pd.Series(labels[allowed]).value_counts()).to_numpy()
    rows = np.flatnonzero(allowed)
    rows = rng.choice(rows, size=n - n_real, replace=False, p=size**-0.6 / (size**-0.6).sum())
    simulated = adata[np.sort(rows)].copy()
    parts, facts = [simulated], known_cells(simulated, rng)
    of_vocabulary = dict(zip(real_cells.SETS, real_cells.read_unlabelled(shared, genes), strict=True))
    for name, counts in of_vocabulary.items():
        whole = ad.read_h5ad(shared / f"data/cells/unlabelled_{name}.h5ad")
        chosen = np.sort(rng.choice(whole.n_obs, size=min(whole.n_obs, n_real // len(of_vocabulary)), replace=False))
        part = ad.AnnData(csr_matrix(counts[chosen]), var=pd.DataFrame(index=genes))
        part.obs_names = [f"{name}{i}" for i in chosen]
        parts.append(part)
        facts += known_cells(whole[chosen].copy(), rng)
    joined = ad.concat(parts)
    groups = rng.choice(simulated.n_obs, size=int(n * GROUP_SHARE), replace=False)
    for i, group in zip(groups.tolist(), groups_like(simulated, adata, groups, rng), strict=True):
        facts[i] = group
    keep = [i for i, cell in enumerate(facts) if cell.label not in HELD_OUT_TYPES]
    return joined[keep].copy(), [facts[i] for i in keep]


def groups_like(some: ad.AnnData, adata: ad.AnnData, rows: np.ndarray, rng: np.random.Generator) -> list[CellFacts]:
    """What is known of groups of cells that have the labels of some cells, as of clusters."""
    labels = adata.obs["label"].astype(str).to_numpy()
    made = []
    for label in some.obs["label"].astype(str).iloc[rows]:
        alike = np.flatnonzero(labels == label)
        counts = csr_matrix(adata.X[rng.choice(alike, size=min(len(alike), int(rng.integers(8, 60))), replace=False)])
        others = rng.choice(np.unique(labels), size=2, replace=False)
        likely = [label, *(other for other in others if other != label)]
        probabilities = rng.dirichlet([rng.choice([60.0, 8.0]), *[1.0] * (len(likely) - 1)])[None]
        total, shares = csr_matrix(counts.sum(axis=0)), csr_matrix(detected(counts).mean(axis=0))
        made += cell_facts(total, shares, list(adata.var_names), likely, [label], probabilities, logged=False)
    return made


def known_cells(adata: ad.AnnData, rng: np.random.Generator) -> list[CellFacts]:
    """What is known of cells, by the labels of ``mini``, of a third made less certain, of a few exchanged."""
    model = bsc.models.load("mini")
    bsc.tl.embed(adata)
    labels = [*(label for label in model.config.labels if label != UNKNOWN), UNKNOWN]
    probabilities = label_probabilities(model, adata.obsm["X_scgpt"], labels, closed=True)
    doubt = rng.random(len(probabilities)) < 0.35
    power = np.where(doubt, rng.uniform(0.15, 0.5, size=len(probabilities)), 1.0)[:, None]
    probabilities = np.maximum(probabilities, 1e-6) ** power
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    # the label of another cell: the markers then speak against it
    other = rng.random(len(probabilities)) < 0.05
    probabilities[other] = probabilities[rng.permutation(np.flatnonzero(other))]
    names = np.array(labels)[probabilities.argmax(axis=1)]
    matrix = whole_matrix(adata, adata.uns["bioverse"]["embed"]["source"])
    columns = {key: rng.choice(values, size=adata.n_obs) for key, values in STUDY.items() if rng.random() < 0.8}
    facts: list[CellFacts] = []
    for span, chunk in matrix.chunks():
        facts += cell_facts(
            chunk,
            detected(chunk),
            matrix.genes,
            labels,
            names[span],
            probabilities[span],
            logged=matrix.is_logged,
            columns={key: values[span] for key, values in columns.items()},
        )
    return [replace(cell, study=cell.study if rng.random() < 0.4 else {}) for cell in facts]


def conversation(talk: CellTalk) -> list[Turn]:
    """One to three turns about a cell."""
    writer = talk.writer
    writer.begin()
    plain = [kind for kind in writer.wordings["cell"] if kind not in NAMING]
    kinds = [*plain, *["refused"] * 6, *["is_type"] * 5, *["expresses"] * 6, *["why"] * 5, "is_marker", "is_marker"]
    kinds += ["pathway", "study", "study", "table", "table", "identity", "markers"]
    turns: list[Turn] = []
    n_turns = int(writer.rng.choice([1, 2, 3], p=[0.6, 0.28, 0.12]))
    while len(turns) < n_turns:
        kind = str(writer.pick(kinds))
        if kind == "expresses" and len(turns) + 1 < n_turns:
            gene = talk.gene()
            turns.append(talk.expresses(gene))
            if (function := of_gene(gene)) and writer.rng.random() < 0.6:
                question = writer.worded(FOLLOW_UPS)
                turns.append(writer.turn(question, function, talk.asked(question)))
        elif kind == "table":
            turns.append(table_turn(writer))
        elif kind in ("refused", "is_type", "expresses", "why", "is_marker", "pathway", "study"):
            turns.append(getattr(talk, kind)())
        else:
            turns.append(talk.plain(kind))
    return turns


def of_gene(gene: str) -> list[Fact]:
    """What a gene does."""
    known = gene_facts(gene) if approved_symbol(gene) else []
    return [f for f in known if f.source == "RefSeq"][:1] or of(known, "gene")[:1]


def make(
    shared: Path, out: Path, *, n_cells: int, n_entities: int, per_cell: int, n_labels: int
) -> list[dict[str, Any]]:
    """All conversations, and the file of their entities."""
    rng = np.random.default_rng(SEED)
    data = Data(shared, out, Recipe())
    wordings = yaml.safe_load((Path(__file__).parent / "wordings.yaml").read_text(encoding="utf-8"))
    held_out = {data.ontology.find(name) for name in HELD_OUT_TYPES}
    marked = sorted({gene for genes in data.ontology.markers.values() for gene in genes})
    genes = [gene for gene in marked if approved_symbol(gene) == gene]
    types = [term for term in data.ontology.markers if term not in held_out]
    writer = Writer(rng, wordings, genes, types, list(pathway_names().values()))
    cells, facts = real_and_simulated(shared, ad.read_h5ad(out / "cells.h5ad"), data.profiles.genes, n_cells, rng)
    records = []
    for name, cell in zip(cells.obs_names, facts, strict=True):
        for _ in range(per_cell):
            records.append(record(["rna"], [name], conversation(CellTalk(writer, cell))))
    mods = {"rna": cells}
    abouts: dict[str, list[About]] = {}
    for mod, column in (("protein", "sequence"), ("molecule", "smiles")):
        table = ad.read_h5ad(out / f"{mod}s.h5ad").obs
        table = table[: len(data.memory[mod])].sample(n_entities, random_state=SEED)
        texts = table[column].astype(str).tolist()
        # of two thirds the memory does not tell themselves, as at use
        known = rng.random(len(texts)) < 0.4
        near = [
            data.memory[mod].nearest([text], 3, themselves=bool(own))[0] for text, own in zip(texts, known, strict=True)
        ]
        abouts[mod] = [About(mod.capitalize(), mod, None, text, n) for text, n in zip(texts, near, strict=True)]
        mods[mod] = ad.AnnData(obs=table[[column]].astype(str))
        for name, about in zip(table.index, abouts[mod], strict=True):
            writer.begin()
            records.append(record([mod], [name], [entity_turn(writer, about) for _ in range(int(rng.integers(1, 3)))]))
    for _ in range(n_entities // 4):
        writer.begin()
        molecule, protein, cell = (int(rng.integers(n)) for n in (n_entities, n_entities, len(facts)))
        first = abouts["molecule"][molecule]
        names = [mods["molecule"].obs_names[molecule]]
        if rng.random() < 0.6:
            shown, names = [first, abouts["protein"][protein]], [*names, mods["protein"].obs_names[protein]]
        else:
            shown, names = [first, About("Cell", "rna", facts[cell])], [*names, cells.obs_names[cell]]
        records.append(record([about.mod for about in shown], names, [several_turn(writer, shown)]))
    for _ in range(n_entities):
        writer.begin()
        records.append(record([], [], [table_turn(writer) for _ in range(int(rng.integers(1, 3)))]))
    mods["rna"], labelled = with_labelled(cells, ad.read_h5ad(out / "cells.h5ad"), n_labels, rng)
    md.MuData(mods).write(out / "entities.h5mu")
    return [*records, *labelled]


def with_labelled(
    cells: ad.AnnData, more: ad.AnnData, n: int, rng: np.random.Generator
) -> tuple[ad.AnnData, list[dict[str, Any]]]:
    """Further cells, and the question for their labels, so that what the stage before taught is kept."""
    more = more[~more.obs_names.isin(cells.obs_names)]
    chosen = more[np.sort(rng.choice(more.n_obs, size=min(n, more.n_obs), replace=False))].copy()
    joined = ad.concat([ad.AnnData(cells.X, obs=cells.obs[[]], var=cells.var[[]]), chosen])
    labels = zip(chosen.obs_names, chosen.obs["label"].astype(str), strict=True)
    question = TEMPLATES["label"]
    return joined, [{"rna": [name], "prompt": [question], "answer": label} for name, label in labels]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument("--out", type=Path, required=True, help="folder of cells.h5ad, and of the files")
    parser.add_argument("--cells", type=int, default=3000)
    parser.add_argument("--per-cell", type=int, default=2, help="conversations about each cell")
    parser.add_argument("--entities", type=int, default=900, help="proteins, and as many molecules")
    parser.add_argument("--labels", type=int, default=16_000, help="cells that are asked for their label alone")
    a = parser.parse_args()
    records = make(a.shared, a.out, n_cells=a.cells, n_entities=a.entities, per_cell=a.per_cell, n_labels=a.labels)
    with (a.out / "conversations.jsonl").open("w", encoding="utf-8") as file:
        for each in records:
            file.write(json.dumps(each) + "\n")
    print(f"{len(records)} conversations, {sum(len(r['prompt']) // 2 + 1 for r in records)} answers")


if __name__ == "__main__":
    main()
