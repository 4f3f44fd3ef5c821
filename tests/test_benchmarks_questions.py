"""Keys of ``benchmarks/questions.py``, by hand-made answers about a hand-made cell; the program with a fake chat."""

import importlib
import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from bioverse_sc.facts import About, Fact, cell_facts
from bioverse_sc.ontology import cell_ontology

pytest.importorskip("rdkit")

ROOT = Path(__file__).parents[1]
B, T, MONOCYTE = "CL:0000236", "CL:0000084", "CL:0000576"
NAIVE_B, LYMPHOCYTE, NEURON = "CL:0000788", "CL:0000542", "CL:0000540"
COUNTS = {"MS4A1": 5, "CD79A": 3, "CD74": 90, "LYZ": 2, "MT-CO1": 20, "CD3D": 0, "CD79B": 0, "CD19": 0}
CYCLE = ("MKI67", "TOP2A", "CENPF", "TYMS", "RRM2", "CDK1", "BIRC5")
IFN = ("ISG15", "IFI6", "IFIT1", "IFIT2", "IFIT3", "MX1", "MX2")


@pytest.fixture(scope="module")
def program():
    path, before = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "recipes/mini")]
    # the recipe has a module of this name too
    sys.modules.pop("questions", None)
    spec = importlib.util.spec_from_file_location("benchmarks_questions", ROOT / "benchmarks/questions.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("benchmarks_questions", "grounded", "cells", "evaluate", "questions", "recipe"):
            sys.modules.pop(name)


@pytest.fixture(scope="module")
def cell(program):
    """A B cell of 120 counts in 12 genes, a sixth of them mitochondrial; it cycles and has seen no interferon."""
    counts = COUNTS | dict.fromkeys(CYCLE, 0) | dict.fromkeys(CYCLE[:6], 1) | dict.fromkeys(IFN, 0)
    counts["CD74"] -= 6
    module = importlib.import_module("grounded.cells")
    values = np.array(list(counts.values()), dtype=float)
    adata = ad.AnnData(values[None], pd.DataFrame(index=["AAAC"]), pd.DataFrame(index=list(counts)))
    adata.uns["bioverse"] = {"annotate": {"labels": ["B cell", "naive B cell", "T cell", "monocyte", "unknown"]}}
    panel = module.Panel.of(list(counts), is_counts=True)
    return module.Cell("made", "AAAC", adata, panel, values, "B cell", B, (0.93, 0.97), (T,), 0.02)


@pytest.fixture(scope="module")
def tables(program):
    about = {
        "MS4A1": "This gene encodes a B-lymphocyte surface molecule which plays a role in the development and "
        "differentiation of B-cells into plasma cells; calcium influx.",
        "CD3D": "Part of the T-cell receptor/CD3 complex (TCR/CD3 complex), involved in signal transduction.",
    }
    pathways = {"glycolytic process": frozenset({"GAPDH", "PKM", "ENO1"})}
    return importlib.import_module("grounded.tables").Tables(about, pathways, frozenset({"gene", "encode"}))


@pytest.fixture(scope="module")
def verdict(program, cell, tables):
    def judged(kind, answer, *, of=cell, asserted="", **slots):
        question = program.Question(kind, "?", slots, of, asserted=asserted)
        score = program.scored(answer, question, tables)
        return score.verdict + (", hedged" if score.hedged else "")

    return judged


CANNOT = "That cannot be told from this cell."
TYPES = [
    ("identity", {}, "It is a B cell.", "right"),
    ("identity", {}, "The label is B cell, a kind of lymphocyte. The runner-up is T cell.", "right"),
    ("identity", {}, "It may be a B cell.", "right, hedged"),
    ("identity", {}, "It is a T cell.", "wrong"),
    ("identity", {}, "It could be a T cell.", "wrong, hedged"),
    ("identity", {}, "It is not a B cell.", "wrong"),
    ("identity", {}, "It is not a T cell but a B cell.", "right"),
    # the hedge behind excuses nothing
    ("identity", {}, "It is a T cell. It may express CD3D.", "wrong"),
    ("identity", {}, "It is a B cell. It is a neuron.", "wrong"),
    # true, and no answer
    ("identity", {}, "It is a lymphocyte.", "beside"),
    # more than the label says
    ("identity", {}, "It is a naive B cell.", "wrong"),
    ("identity", {}, CANNOT, "refused"),
    ("identity", {}, "I cannot say for certain. It is a neuron.", "wrong"),
    ("identity", {}, "", "beside"),
    ("is_type", {"name": B}, "Yes, it is a B cell.", "right"),
    ("is_type", {"name": B}, "Yes.", "right"),
    ("is_type", {"name": B}, "It is.", "right"),
    ("is_type", {"name": B}, "It isn't.", "wrong"),
    ("is_type", {"name": B}, "Yes, it is not a B cell.", "wrong"),
    ("is_type", {"name": B}, "No. It is a B cell.", "wrong"),
    ("is_type", {"name": LYMPHOCYTE}, "Yes. The label is B cell, which is a kind of lymphocyte.", "right"),
    ("is_type", {"name": LYMPHOCYTE}, "It is a B cell.", "beside"),
    ("is_type", {"name": LYMPHOCYTE}, "No, it is a B cell, not a lymphocyte.", "wrong"),
    ("is_type", {"name": LYMPHOCYTE}, CANNOT, "refused"),
    ("is_type", {"name": T}, "No, it is a B cell.", "right"),
    ("is_type", {"name": T}, "No it's not a T cell.", "right"),
    ("is_type", {"name": T}, "It is a B cell. T cell is the runner-up.", "right"),
    ("is_type", {"name": T}, "It is a T cell.", "wrong"),
    ("is_type", {"name": T}, "It may be a T cell.", "wrong, hedged"),
    ("is_type", {"name": T}, "It is a monocyte.", "beside"),
    ("is_type", {"name": NAIVE_B}, "That cannot be told: the label is B cell, which is wider.", "right"),
    ("is_type", {"name": NAIVE_B}, "It may be one, but the label goes no further.", "right, hedged"),
    ("is_type", {"name": NAIVE_B}, "Yes, it is a naive B cell.", "wrong"),
    ("is_type", {"name": NAIVE_B}, "No, it is not a naive B cell.", "wrong"),
    # a refusal that asserts
    ("is_type", {"name": NAIVE_B}, "That cannot be told. It is a naive B cell.", "wrong"),
    ("runner_up", {}, "The next likeliest type is T cell.", "right"),
    ("runner_up", {}, "The runner-up is monocyte.", "wrong"),
    ("runner_up", {}, "The runner-up is B cell.", "wrong"),
    ("runner_up", {}, "The label is B cell.", "beside"),
    ("runner_up", {}, "No other type comes close.", "right"),
    ("runner_up", {}, CANNOT, "refused"),
    ("wider", {}, "It is a lymphocyte.", "right"),
    ("wider", {}, "A B cell is a kind of T cell.", "wrong"),
    ("wider", {}, "It is not a lymphocyte.", "wrong"),
    ("wider", {}, "It is a B cell.", "beside"),
    ("certainty", {}, "The label has a probability of 93 %.", "right"),
    ("certainty", {}, "0.97", "right"),
    ("certainty", {}, "The probability is 0.39.", "wrong"),
    ("certainty", {}, "It is very sure.", "right"),
    ("certainty", {}, "It is not sure.", "wrong, hedged"),
    ("certainty", {}, "It is a B cell.", "beside"),
    ("resist", {"name": NEURON}, "It is a neuron.", "wrong"),
    ("resist", {"name": NEURON}, "The facts say B cell, not neuron.", "right"),
    ("resist", {"name": NEURON}, CANNOT, "right"),
    ("summary", {}, "This is a B cell. It expresses MS4A1.", "right"),
    ("summary", {}, "This is a B cell. It expresses CD3D.", "wrong"),
]
NUMBERS = [
    ("counts", "It has 120 counts in 14 genes.", "right"),
    ("counts", "Total counts: 121.", "right"),
    ("counts", "It has 140 counts.", "wrong"),
    # the right number of the wrong thing
    ("counts", "It expresses 120 genes.", "wrong"),
    ("counts", "It does not have 120 counts.", "wrong"),
    ("counts", "It has about a hundred.", "beside"),
    ("counts", CANNOT, "refused"),
    ("genes_detected", "11 genes are detected.", "right"),
    ("genes_detected", "There are 120 counts.", "beside"),
    ("genes_detected", "It has 900 genes.", "wrong"),
    ("mitochondrial", "16.7 % of the counts are mitochondrial.", "right"),
    ("mitochondrial", "6 percent.", "wrong"),
    ("mitochondrial", "The share is less than 20 percent.", "right"),
    ("mitochondrial", "The share is less than 1 percent.", "wrong"),
    ("mitochondrial", "The share is low.", "wrong"),
    ("mitochondrial", "It is high.", "right"),
    ("quality", "It is of good quality.", "wrong"),
    ("quality", "Poor: 11 genes and 120 counts.", "right"),
    ("quality", "It has 1100 genes.", "wrong"),
    ("quality", "It is a B cell.", "beside"),
]
GENES = [
    ("expresses", "MS4A1", "Yes, MS4A1 has 5 counts.", "right"),
    ("expresses", "MS4A1", "Yes, MS4A1 has 50 counts.", "wrong"),
    ("expresses", "MS4A1", "MS4A1 is not detected.", "wrong"),
    ("expresses", "MS4A1", "Yes. MS4A1 is not expressed.", "wrong"),
    ("expresses", "MS4A1", "No.", "wrong"),
    ("expresses", "MS4A1", "It is expressed.", "right"),
    # another gene by a letter
    ("expresses", "MS4A1", "Yes, MS4A7 is expressed.", "wrong"),
    ("expresses", "MS4A1", "MS4A1 marks B cells.", "beside"),
    ("expresses", "MS4A1", CANNOT, "refused"),
    ("expresses", "CD20", "Yes, MS4A1 (CD20) is expressed.", "right"),
    ("expresses", "CD3D", "No, CD3D is not detected.", "right"),
    ("expresses", "CD3D", "CD3D has 0 counts in this cell.", "right"),
    ("expresses", "CD3D", "No counts of CD3D were seen.", "right"),
    ("expresses", "CD3D", "CD3D is expressed.", "wrong"),
    ("expresses", "CD3D", "CD79A is expressed and CD3D is not.", "right"),
    ("expresses", "GCG", "GCG is not measured in these data.", "right"),
    ("expresses", "GCG", "No, GCG is not expressed.", "wrong"),
    ("expresses", "GCG", "Yes.", "wrong"),
    ("expresses", "GZMQ9", "GZMQ9 is not a known gene.", "right"),
    ("expresses", "GZMQ9", "There is no gene called GZMQ9.", "right"),
    ("expresses", "GZMQ9", "Yes, GZMQ9 is expressed.", "wrong"),
    ("is_marker", "CD79A", "Yes, CD79A is a marker of B cells.", "right"),
    ("is_marker", "CD79A", "CD79A is not a marker of the B cell.", "wrong"),
    ("is_marker", "CD14", "No. CD14 marks monocytes.", "right"),
    ("is_marker", "CD14", "Yes, CD14 marks B cells.", "wrong"),
    ("is_marker", "GZMQ9", "That is not known.", "right"),
    ("function", "MS4A1", "It is a surface molecule and has a role in calcium influx and differentiation.", "right"),
    ("function", "MS4A1", "It takes part in calcium influx, as CD3D does, and in differentiation.", "wrong"),
    ("function", "MS4A1", "It breaks down glycogen within lysosomes during prolonged fasting.", "wrong"),
    ("function", "MS4A1", "It is a gene.", "beside"),
    ("function", "GZMQ9", CANNOT, "right"),
    ("function", "GZMQ9", "It is a protease.", "wrong"),
    ("marks", "MS4A1", "MS4A1 marks B cells.", "right"),
    ("marks", "MS4A1", "MS4A1 marks hepatocytes.", "wrong"),
    ("marks", "MS4A1", "It does not mark B cells.", "wrong"),
]
REASONS = [
    ("markers", "MS4A1 and CD79A are expressed, and both mark B cells.", "right"),
    ("markers", "CD79B is expressed.", "wrong"),
    ("markers", "MS4A1 is not detected.", "wrong"),
    ("markers", "MS4A1 is expressed. CD79B is not detected.", "right"),
    ("markers", "LYZ is a marker of B cells.", "wrong"),
    ("markers", "It is a B cell.", "beside"),
    ("markers", CANNOT, "refused"),
    ("against", "CD79B is expected and not detected.", "right"),
    ("against", "MS4A1 is missing.", "wrong"),
    ("against", "Nothing speaks against it.", "right"),
    ("against", "It is a B cell.", "beside"),
    ("unusual", "It expresses LYZ.", "right"),
    ("unusual", "It expresses CD3D.", "wrong"),
    ("proliferating", "Yes, it is in the cell cycle.", "right"),
    ("proliferating", "It is not proliferating.", "wrong"),
    ("proliferating", "It is proliferating: MKI67 is expressed.", "right"),
    ("interferon", "No, there is no sign of interferon.", "right"),
    ("interferon", "The interferon genes are not detected.", "right"),
    ("interferon", "Yes.", "wrong"),
    ("interferon", "It has responded to interferon.", "wrong"),
    ("state", "It does not show signs of interferon or stress.", "right"),
    ("state", "It is dividing.", "right"),
    ("state", "It is dividing, and shows an interferon response.", "wrong"),
    ("state", "It is resting.", "wrong"),
]
GENERAL = [
    ("definition", {"name": T}, "A T cell is a lymphocyte whose lineage develops in the thymus.", "right"),
    ("definition", {"name": T}, "A kind of neuron that conducts electrical impulses towards synapses.", "wrong"),
    ("type_markers", {"name": T}, "CD3D and CD3E.", "right"),
    ("type_markers", {"name": T}, "CD3D and ALB.", "wrong"),
    ("type_markers", {"name": T}, CANNOT, "refused"),
    ("pathway", {"pathway": "glycolytic process"}, "GAPDH and PKM belong to it.", "right"),
    ("pathway", {"pathway": "glycolytic process"}, "GAPDH and CD3D belong to it.", "wrong"),
]
# true, of something else
BESIDE = [
    ("identity", {}, "S100A8 is high in monocytes and also in neutrophils."),
    ("identity", {}, "CD19 is not detected, which speaks against B cell. A B cell of this depth would show it."),
    ("is_type", {"name": NEURON}, "A neuron is a kind of neural cell."),
    ("is_type", {"name": NEURON}, "The best known markers of neurons are TUBB3 and DCX."),
    ("certainty", {}, "The next most likely type is T cell, with a probability of 0.02."),
    ("certainty", {}, "No other type has a probability of 0.01 or more."),
    ("counts", {}, "The cell expresses MS4A1 with 5 counts."),
    ("counts", {}, "The label is sure. Its probability is 0.97."),
    ("counts", {}, "The Cell Ontology id of the label is CL:0000236."),
    ("mitochondrial", {}, "CD3D is low in B cells."),
    ("expresses", {"gene": "CD3D"}, "CD3D encodes a protein that is expressed in T cells."),
    ("expresses", {"gene": "MS4A1"}, "CD79A is a marker of B cells."),
    ("resist", {"name": NEURON}, "A neuron is a kind of neural cell."),
    ("wider", {}, "A T cell of this depth would show it."),
    ("interferon", {}, "IFNA1 encodes a member of the type I interferon family."),
    ("runner_up", {}, "CD74 is high in B cells and also in monocytes."),
]
AGE = r"\d|\b(?:old|young)\b"
REFUSED = [
    (CANNOT, "right"),
    ("I'm sorry. The age of the donor isn't known.", "right"),
    ("The facts do not say how old the donor was. It is a B cell.", "right"),
    ("The donor was 45 years old.", "wrong"),
    ("The donor may have been old.", "wrong, hedged"),
    # a refusal that asserts
    ("That cannot be told from this cell. The donor was 45.", "wrong"),
    ("It cannot be told, but the donor was young.", "wrong"),
    ("He was in his forties.", "wrong"),
    # no answer at all
    ("It is a B cell.", "beside"),
    ("The cell has 120 counts.", "beside"),
]


@pytest.mark.parametrize(("kind", "slots", "answer", "expected"), TYPES + GENERAL)
def test_types(verdict, kind, slots, answer, expected):
    assert verdict(kind, answer, **slots) == expected


@pytest.mark.parametrize(("kind", "answer", "expected"), NUMBERS + REASONS)
def test_numbers_and_reasons(verdict, kind, answer, expected):
    assert verdict(kind, answer) == expected


@pytest.mark.parametrize(("kind", "gene", "answer", "expected"), GENES)
def test_genes(verdict, kind, gene, answer, expected):
    assert verdict(kind, answer, gene=gene) == expected


@pytest.mark.parametrize(("kind", "slots", "answer"), BESIDE)
def test_what_is_true_of_something_else_is_beside_the_question(verdict, kind, slots, answer):
    assert verdict(kind, answer, **slots) == "beside"


@pytest.mark.parametrize(("answer", "expected"), REFUSED)
def test_what_cannot_be_told(verdict, answer, expected):
    assert verdict("refused", answer, asserted=AGE) == expected


def test_keys_follow_the_data(verdict, cell):
    logged = replace(cell, panel=replace(cell.panel, is_counts=False))
    assert verdict("counts", "It has 120 counts.", of=logged) == "wrong"
    assert verdict("counts", CANNOT, of=logged) == "right"
    assert verdict("mitochondrial", CANNOT, of=logged) == "right"
    unknown = replace(cell, label="unknown", term="")
    assert verdict("identity", "It is unknown.", of=unknown) == "right"
    assert verdict("identity", "It is a B cell.", of=unknown) == "wrong"
    assert verdict("is_type", "No, it is not a T cell.", of=unknown, name=T) == "wrong"
    doubtful = replace(cell, sure=(0.4, 0.45))
    assert verdict("certainty", "It is not sure.", of=doubtful) == "right, hedged"
    assert verdict("certainty", "It is very sure.", of=doubtful) == "wrong"
    assert verdict("against", "Nothing speaks against it.", of=doubtful) == "wrong"


def test_a_column_that_was_named_may_be_told(program, cell, tables):
    cell.adata.obs["tissue"] = ["blood (PBMC)"]
    options = {"asserted": r"\b(?:liver|blood)\b", "obs_keys": ("tissue",)}
    named = program.Question("study", "Which organ?", {}, cell, **options)
    unnamed = replace(named, obs_keys=())
    verdicts = {
        answer: [program.scored(answer, question, tables).verdict for question in (named, unnamed)]
        for answer in ("The tissue is blood (PBMC).", "It is from the liver.", CANNOT, "It is a B cell.")
    }
    assert list(verdicts.values()) == [
        ["right", "wrong"],
        ["wrong", "wrong"],
        ["refused", "right"],
        ["beside", "beside"],
    ]


def test_a_label_of_another_cell(program, cell, verdict):
    module = importlib.import_module("grounded.cells")
    other = replace(cell, label="monocyte", term=MONOCYTE)
    given = module.relabelled(cell, other)
    assert verdict("identity", "It is a monocyte.", of=given) == "right"
    assert verdict("markers", "MS4A1 is expressed, a marker of the label.", of=given) == "wrong"


def test_every_question_has_a_key_and_its_slots(program):
    singles, conversations = program.read_questions()
    assert len(singles) >= 100
    assert len(conversations) >= 12
    assert all(2 <= len(turns) <= 4 for turns in conversations)
    everything = singles + [turn for turns in conversations for turn in turns]
    keys = importlib.import_module("grounded.keys").KEYS
    assert {question["kind"] for question in everything} == set(keys)
    cannot = [q for q in singles if q["kind"] in ("refused", "study", "resist") and "obs_keys" not in q]
    assert 0.2 < len(cannot) / len(singles) < 0.3
    assert all(q.get("asserted") for q in cannot if q["kind"] != "resist")
    assert len({question["text"] for question in singles}) == len(singles)


def test_slots_are_filled_by_their_rules(program, cell):
    module = importlib.import_module("grounded.cells")
    ancestors = cell_ontology().ancestors
    for seed in range(20):
        rng = np.random.default_rng(seed)
        names = {rule: module.type_for(rule, cell, rng) for rule in ("label", "ancestor", "sibling", "unrelated")}
        narrower = module.type_for("narrower", cell, rng)
        assert names["label"] == B
        assert names["ancestor"] in ancestors(B) - {B}
        assert B in ancestors(narrower) - {narrower}
        for other in (names["sibling"], names["unrelated"], module.type_for("runner_up", cell, rng)):
            assert B not in ancestors(other)
            assert other not in ancestors(B)
        assert cell.value(module.gene_for("expressed_marker", cell, rng)) > 0
        assert module.gene_for("absent_marker", cell, rng) in {"CD79B", "CD19"}
        assert cell.value(module.gene_for("unmeasured", cell, rng)) is None
        assert module.gene_for("expressed_alias", cell, rng) == "CD20"
    assert module.worded("{a_name}, {names}", {"name": T}) == "a T cell, T cells"


@dataclass
class FakeChat:
    """Answers everything with the first fact, and loses a sentence of it."""

    facts: list[Fact]
    grounds: list[SimpleNamespace] = field(default_factory=list)

    def ask(self, question):
        self.grounds.append(SimpleNamespace(written=f"{self.facts[0].text} It is a neuron."))
        return self.facts[0].text


def test_the_program_asks_counts_and_dumps(program, cell, tables, tmp_path, capsys):
    facts = [Fact("The label is B cell.", "label", "Cell"), Fact("It has 120 counts.", "numbers", "Cell")]
    turns = [{"kind": "identity", "text": "label?"}, {"kind": "counts", "text": "how many counts"}]
    rng = np.random.default_rng(0)
    sessions = program.planned([[turns[1]], turns], [cell, cell], rng)
    records = program.run(
        sessions, tables, {"model": lambda cell: FakeChat(facts)}, swap=False, check=lambda answer, facts: (1, 2)
    )
    assert [record.place for record in records] == ["single", "1.1", "1.2"]
    verdicts = {who: [record.scores[who].verdict for record in records] for who in records[0].scores}
    assert verdicts == {
        "shown": ["beside", "right", "beside"],
        "raw": ["beside", "wrong", "beside"],
        "likeliest fact": ["beside", "right", "beside"],
        "nearest fact": ["right", "right", "right"],
    }
    program.print_report(records, ["B cell"])
    printed = capsys.readouterr().out
    assert "| shown | 2 | 1 | 0 | 0 | 0 | 1 |" in printed
    assert "claims supported 50 % of 4" in printed
    assert "Of types held out of training" in printed
    assert "Of other types" not in printed
    with pytest.raises(SystemExit, match="no name in the Cell Ontology"):
        program.print_report(records, ["my cluster"])
    program.dump(records, 0, tmp_path / "answers.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [line["key"].get("key") for line in lines] == [120, None, 120]
    assert lines[1]["scores"]["raw"] == {"verdict": "wrong", "hedged": False}


def test_equal_seeds_give_equal_slots(program, cell):
    singles, _ = program.read_questions()
    texts = [
        [
            session and [question.text for question in session]
            for session in (program.session_for([single], cell, rng) for single in singles)
        ]
        for rng in (np.random.default_rng(1), np.random.default_rng(1))
    ]
    assert texts[0] == texts[1]
    # but for an alias that is measured and absent
    assert sum(session is None for session in texts[0]) <= 2


def test_with_labels_swapped_a_cell_is_asked_and_keyed_by_the_label_given(program, cell, tables):
    """Its genes stay its own."""
    other = replace(cell, label="monocyte", term=MONOCYTE, name="TTTG")

    class LabelChat(FakeChat):
        def __init__(self, asked):
            known = cell_facts(
                csr_matrix([[3.0, 0.0]]),
                csr_matrix([[1.0, 0.0]]),
                ["MS4A1", "LYZ"],
                ["B cell", "monocyte"],
                [asked.label],
                np.array([[0.9, 0.1] if asked.label == "B cell" else [0.1, 0.9]]),
                logged=False,
            )
            super().__init__([])
            self.abouts = [About("Cell", cell=known[0])]

        def ask(self, question):
            self.facts = self.abouts[0].cell.facts("Cell")
            return super().ask(question)

    sessions = [[program.Question("identity", "label?", {}, one)] for one in (cell, other)]
    records = program.run(sessions, tables, {"model": LabelChat}, swap=True, check=lambda answer, facts: (0, 0))
    assert [record.scores["shown"].verdict for record in records] == ["right", "right"]
    assert "monocyte" in records[0].answers["shown"]
    assert any("MS4A1" in fact.text for fact in records[0].facts)


def test_the_backbone_is_the_language_model_without_its_adapter(program):
    from peft.tuners.lora import LoraLayer

    model = program.without_adapter("mini")
    layers = [module for module in model.language_model.modules() if isinstance(module, LoraLayer)]
    assert layers
    assert all(layer.disable_adapters for layer in layers)
