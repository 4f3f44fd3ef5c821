"""Questions with their answers and the facts that are shown before: which facts answer is decided by the rules here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from explain import explained
from known import STUDY
from writer import Turn, Writer

from bioverse_sc.facts import (
    About,
    CellFacts,
    Fact,
    facts_about,
    gather,
    gene_facts,
    pathway_facts,
    refusal_about,
    type_facts,
)
from bioverse_sc.ontology import approved_symbol, cell_ontology
from bioverse_sc.reasoning import why_labelled

if TYPE_CHECKING:
    from collections.abc import Sequence


NAMING = ("is_type", "expresses", "is_marker", "pathway", "study", "why")
"""Kinds of questions that name something, or are asked as ``annotate`` does."""
OF_ONE_BESIDE = ("What is the {thing}?", "Tell me what the {thing} is.", "And the {thing}?", "Which {thing} is it?")
OF_CELL_BESIDE = ("What is the cell?", "Which type is the cell?", "And the cell?", "Name the cell's type.")
FOLLOW_UPS = (
    "And what does it do?",
    "What does that gene do?",
    "What is it good for?",
    "What is its function?",
    "And its role?",
    "What does it do in general?",
)
ABOUT_ALL = re.compile(r"sample (say|info)|know(n)? (of|about) the sample|metadata|information|kind of sample")
OF_STUDY = re.compile(r"donor|patient|subject|disease|\bill\b|treat|condition|stimulat|tissue|organ\b", re.IGNORECASE)
"""What may be among the facts when these tell of the study."""


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
        """The facts that are gathered for a question, and behind them what else is known of the cell."""
        return [*gather(question, {"Cell": self.cell}, earlier=self.writer.earlier), *self.cell.facts("Cell")]

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
        elif kind == "ontology_id":
            answers = [fact for fact in of(own, "label") if "Cell Ontology id" in fact.text]
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
            answers = [*told]
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
        if not question:
            wordings = self.writer.wordings["refused"]
            untold = [wording for wording in wordings if not (self.cell.study and OF_STUDY.search(wording))]
            question = self.writer.worded(untold)
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
        return self.writer.turn(question, judged[:1], facts)

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
        return self.writer.turn(question, judged[:1], self.asked(question))

    def is_marker(self) -> Turn:
        gene = self.gene()
        question = self.writer.worded(self.writer.wordings["cell"]["is_marker"], gene=gene)
        judged = [f for f in self.asked(f"Is {gene} a marker of this type?") if f.topic == "judgment"]
        marks = [f for f in judged if "marker" in f.text][:1] or judged[:1]
        return self.writer.turn(question, marks, self.asked(question)) if marks else self.refused(question)

    def pathway(self) -> Turn:
        name = str(self.writer.pick(self.writer.pathways))
        question = self.writer.worded(self.writer.wordings["cell"]["pathway"], pathway=name)
        judged = [f for f in self.asked(f"Is {name} active?") if f.topic == "judgment"]
        return self.writer.turn(question, judged[:2], self.asked(question)) if judged else self.refused(question)

    def study(self) -> Turn:
        """A question about a column that the user names, about the tissue, or about all that is told of the sample."""
        wording = str(self.writer.pick(self.writer.wordings["cell"]["study"]))
        key = str(self.writer.pick(list(STUDY)))
        question = self.writer.worded([wording], column=key)
        told = of(self.cell.facts("Cell"), "study")
        if "{column}" not in wording:
            key = "" if ABOUT_ALL.search(wording) else "tissue"
        answers = [fact for fact in told if not key or f"'s {key} is" in fact.text]
        return self.writer.turn(question, answers, self.asked(question)) if answers else self.refused(question)

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


def entity_turn(writer: Writer, about: About, shown: Sequence[About] = ()) -> Turn:
    """A question about a protein or a molecule, which it names where others are shown beside."""
    wordings = writer.wordings[about.mod]
    kind = str(writer.pick(["identity", "identity", "identity", *wordings]))
    naming = [wording for wording in wordings[kind] if re.search(rf"\b{about.mod}\b", wording, re.IGNORECASE)]
    if shown and not naming:
        kind, naming = "identity", OF_ONE_BESIDE
    question = writer.worded(naming if shown else wordings[kind], thing=about.mod)
    facts = facts_about(question, shown or [about], earlier=writer.earlier)
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
    return writer.turn(question, answers or [refusal_about(shown or [about])], facts)


def several_turns(writer: Writer, abouts: list[About]) -> list[Turn]:
    """What some of the things are that are shown together, and whether one acts on another."""
    turns = []
    for _ in range(int(writer.rng.integers(1, 5))):
        about = writer.pick(abouts)
        if writer.rng.random() < 0.4:
            turns.append(acting_turn(writer, abouts))
        elif about.cell is not None:
            question = writer.worded(OF_CELL_BESIDE)
            facts = facts_about(question, abouts, earlier=writer.earlier)
            turns.append(writer.turn(question, of(about.cell.facts(about.name), "label")[:1], facts))
        else:
            turns.append(entity_turn(writer, about, abouts))
    return turns


def acting_turn(writer: Writer, abouts: list[About]) -> Turn:
    """Whether a molecule binds proteins, or what it does to a cell."""
    kind = "treated" if any(about.cell for about in abouts) else "binding"
    question = writer.worded(writer.wordings[kind])
    facts = facts_about(question, abouts)
    together = [fact for fact in facts if " and " in fact.about and fact.topic == "judgment"]
    return writer.turn(question, together, facts)


def of_gene(gene: str) -> list[Fact]:
    """What a gene does."""
    known = gene_facts(gene) if approved_symbol(gene) else []
    return [f for f in known if f.source == "RefSeq"][:1] or of(known, "gene")[:1]


def conversation(talk: CellTalk) -> list[Turn]:
    """Some turns about a cell, most of which ask for what the first one shows."""
    writer = talk.writer
    writer.begin()
    plain = [kind for kind in writer.wordings["cell"] if kind not in NAMING]
    # what the first turn already shows takes few tokens to ask for
    kinds = [*plain, *plain, *["wider", "against", "quality", "certainty", "identity", "markers"], *["refused"] * 10]
    kinds += [*["is_type"] * 6, *["expresses"] * 6, *["is_marker"] * 5, *["why"] * 4, *["table"] * 4, *["study"] * 3]
    kinds += ["pathway"]
    turns: list[Turn] = []
    n_turns = int(writer.rng.choice([1, 2, 5, 8, 10], p=[0.15, 0.1, 0.2, 0.25, 0.3]))
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
