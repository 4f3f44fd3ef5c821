import copy
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from bioverse_sc.facts import TELLING, gene_facts, gene_processes
from bioverse_sc.models import reasoning_prompt
from bioverse_sc.ontology import cell_ontology
from bioverse_sc.reasoning import FORMS, CaseMaker, _cases, _write, detected, informative_genes, write_reasoning


def test_informative_genes_exceed_the_average_most(tiny):
    genes = ["HIGH", "USUAL", "LOW", "NEW"]
    tiny.gene_reference = {"HIGH": (10.0, 1.0), "USUAL": (1000.0, 1.0), "LOW": (100.0, 1.0), "NEW": (10.0, 0.1)}
    chunk = csr_matrix(np.array([[50.0, 100.0, 1.0, 50.0]]))
    mean = np.log1p(np.array([10, 1000, 100, 10]) / 1120 * 1e4)
    excess = (np.log1p(chunk.toarray()[0] / 201 * 1e4) - mean) * [1, 1, 1, 0.1]
    expected = [genes[i] for i in np.argsort(-excess) if excess[i] > 0]
    assert expected == ["HIGH", "NEW"]
    assert informative_genes(tiny, chunk, genes, logged=False) == [expected]
    logged = chunk.copy()
    logged.data = np.log1p(logged.data)
    assert informative_genes(tiny, logged, genes, logged=True) == [expected]


def test_informative_genes_do_not_depend_on_the_other_cells(mini):
    genes = mini.encoders["rna"].genes[:300]
    chunk = csr_matrix(np.random.default_rng(0).poisson(0.8, size=(9, 300)).astype(np.float32))
    before = chunk.copy()
    together = informative_genes(mini, chunk, genes, logged=False)
    alone = [informative_genes(mini, chunk[i], genes, logged=False)[0] for i in range(9)]
    assert together == alone
    assert all(0 < len(shown) <= _cases.GENES_SHOWN for shown in together)
    assert (chunk != before).nnz == 0


def test_informative_genes_are_expressed(mini):
    genes = mini.encoders["rna"].genes[:300]
    chunk = csr_matrix(np.random.default_rng(1).poisson(0.3, size=(5, 300)).astype(np.float32))
    for row, shown in zip(chunk.toarray(), informative_genes(mini, chunk, genes, logged=False), strict=True):
        assert all(row[genes.index(gene)] > 0 for gene in shown)


B_GENES = {"MS4A1": 6, "CD79A": 9, "CD19": 2, "CD74": 30, "HLA-DRA": 20, "ACTB": 20, "PTPRC": 3}


@pytest.fixture(scope="module")
def make_cases(mini):
    """Makes cases of cells of which some counts are given, labelled as B cells by default."""
    genes = sorted({*mini.encoders["rna"].genes, *B_GENES, "MKI67", "CD3D", "CD3E"})
    labels = ["B cell", "T cell", "unknown"]
    maker = CaseMaker(mini, genes, labels)

    def make(*cells, label="B cell", p=(0.9, 0.08, 0.02), confidence=None):
        rows = csr_matrix(np.array([[cell.get(gene, 0) for gene in genes] for cell in cells], dtype=np.float32))
        n = len(cells)
        sure = np.full(n, p[labels.index(label)] if confidence is None else confidence)
        return maker.cases(rows, detected(rows), [label] * n, sure, np.tile(p, (n, 1)), logged=False)

    return make


def text_of(case):
    return reasoning_prompt(case.label, case.genes, parts=case.parts)[-2].text


def test_a_case_begins_with_the_best_evidenced_markers(make_cases):
    (case,) = make_cases(B_GENES)
    assert {"MS4A1", "CD79A"} < set(case.markers[:3])
    assert set(case.markers) <= set(cell_ontology().markers["CL:0000236"])
    assert len(case.genes) == len(set(case.genes))
    assert set(case.genes) <= set(B_GENES), "only what is expressed"
    shown = text_of(case)
    assert shown.startswith(f" Markers {case.form('markers')}: {', '.join(case.markers)} of B cells.")
    assert f"Next {case.form('next')}: T cell, 0.08." in shown
    assert shown.endswith(f" Call {case.form('sure')}: certain, 0.90. Why?")


def test_a_role_is_of_a_listed_gene_in_words_that_the_model_knows(make_cases, mini):
    (case,) = make_cases(B_GENES)
    gene, process = case.role
    assert gene in case.genes
    assert "B cell" in process
    assert f"{gene} takes part in" in " ".join(fact.text for fact in gene_facts(gene))
    for word in process.split():
        assert len(mini.tokenizer.encode(f" {word}", add_special_tokens=False)) == 1


def test_only_absences_that_tell_something_are_missing(make_cases):
    deep = {gene: 400 * n for gene, n in B_GENES.items()}
    shallow, deeper = (make_cases(cell)[0] for cell in (B_GENES, deep))
    assert not shallow.absences
    assert deeper.absences
    for absence in deeper.absences:
        assert absence.gene not in B_GENES
        assert absence.probability >= TELLING
    assert not set(deeper.missing) & set(deeper.genes)
    assert {absence.label for absence in deeper.absences} <= {"B cell", "T cell"}


def test_a_wrong_call_reads_otherwise(make_cases):
    right = make_cases(B_GENES)[0]
    wrong = make_cases(B_GENES, label="T cell", p=(0.6, 0.38, 0.02))[0]
    assert wrong.certainty == "not certain"
    assert not wrong.markers
    assert set(wrong.rival) <= set(B_GENES)
    assert wrong.rival
    assert "More" in text_of(wrong)
    assert "Next" in text_of(right)


def test_a_case_of_no_type_shows_its_highest_genes(make_cases):
    (case,) = make_cases(B_GENES, label="unknown", p=(0.3, 0.2, 0.5))
    shown = text_of(case)
    assert case.highest
    assert "Markers" not in shown
    assert "Call" not in shown
    assert "B cell, 0.30" in shown


def test_a_case_does_not_depend_on_the_other_cells(make_cases):
    other = {"CD3D": 5, "CD3E": 4, "ACTB": 9}
    assert make_cases(B_GENES, other)[0] == make_cases(B_GENES)[0]


def test_forms_are_drawn_for_each_part(make_cases):
    (case,) = make_cases(B_GENES)
    drawn = {replace(case, draw=i).form("sure") for i in range(200)}
    assert drawn == {str(i + 1) for i in range(FORMS)}
    assert len({case.form(part) for part in case.parts}) > 1


def test_a_process_with_a_comma_or_an_and_in_its_name_stays_whole():
    assert gene_processes("F13A1") == ("blood coagulation, fibrin clot formation",)
    assert _cases.known_processes("F13A1", lambda word: True) == ["blood coagulation, fibrin clot formation"]
    assert "antigen processing" not in _cases.known_processes("HLA-DQB1", lambda word: True)
    assert _cases.known_processes("NONE1", lambda word: True) == []


def test_texts_of_a_model_that_is_not_held_to_facts_stay_as_they_are(make_cases, mini, monkeypatch):
    free = copy.copy(mini)
    free.config = replace(mini.config, grounding="")
    monkeypatch.setattr(_write, "_write", lambda *args: ["High CD3E suggests T cells."])
    vectors = np.ones((1, mini.config.projectors["rna"].in_width), dtype=np.float32)
    told = [write_reasoning(m, vectors, make_cases(B_GENES), [], batch_size=1)[0] for m in (free, mini)]
    assert told == ["High CD3E suggests T cells.", ""]


def test_a_briefer_case_has_no_wider_type(make_cases):
    (case,) = make_cases(B_GENES)
    case = replace(case, wider=("lymphocyte", ("PTPRC",)), role=("PTPRC", "B cell activation"))
    assert "PTPRC" not in case.briefer.genes
    assert case.briefer.role == ("", "")
    assert case.briefer.n_parts == case.n_parts - 2
    assert replace(case, role=("MS4A1", "B cell activation")).briefer.role == ("MS4A1", "B cell activation")


def test_a_text_that_does_not_hold_is_written_again_and_at_last_from_less(make_cases, mini, monkeypatch):
    (case,) = make_cases(B_GENES)
    case = replace(case, wider=("lymphocyte", ("PTPRC",)), markers=("MS4A1", "CD79A"), role=("", ""))
    shown = []

    def wrote(model, vectors, cases, *more):
        shown.extend(cases)
        return ["It expresses PTPRC and CD19, known markers of B cells. In all, it is so.", *[SAID] * 2][
            len(shown) - 1 :
        ][:1]

    monkeypatch.setattr(_write, "_write", wrote)
    vectors = np.ones((1, mini.config.projectors["rna"].in_width), dtype=np.float32)
    assert write_reasoning(mini, vectors, [case], [], batch_size=1)[0] == SAID
    assert [bool(one.wider[0]) for one in shown] == [True, True, False]
    assert len({one.draw for one in shown}) == 3


SAID = "It expresses MS4A1 and CD79A, known markers of B cells."
