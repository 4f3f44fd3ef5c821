"""What ``recipes/mini`` teaches the language model to write about a label."""

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from bioverse_sc.facts import Absence, cell_facts, check_answer
from bioverse_sc.models import reasoning_prompt
from bioverse_sc.reasoning import FORMS, Case, claims_of, held, known_symbols

B_CELL = Case(
    label="B cell",
    markers=("MS4A1", "CD79A", "CD19"),
    wider=("lymphocyte", ("PTPRC",)),
    role=("MS4A1", "B cell activation"),
    runner_up=("T cell", 0.08),
    absences=(Absence("CD3D", "T cell", 0.95), Absence("CD79B", "B cell", 0.84)),
    rival=("CD3E",),
    unusual=("erythroid lineage cell", ("ALAS2", "GYPA")),
    notes=("much haemoglobin",),
    state=("signs of proliferation", ("MKI67", "TOP2A")),
    probability=0.9,
)
WRONG = Case(label="T cell", runner_up=("B cell", 0.5), rival=("MS4A1", "CD79A"), highest=("CD74",), probability=0.3)
UNKNOWN = Case(label="unknown", highest=("LYZ", "CST3"), runner_up=("B cell", 0.2), probability=0.5)
KNOWN = known_symbols([])


@pytest.fixture(scope="module")
def recipe():
    """Modules of the recipe by their names."""
    path, before = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(Path(__file__).parents[1] / "recipes/mini"))
    yield lambda name: importlib.import_module(name)
    sys.path[:] = path
    for name in {"reasons", "reasoned"} - before:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def reasons(recipe):
    return recipe("reasons")


def drawn(case):
    return [replace(case, draw=i) for i in range(150)]


def test_there_are_many_forms_and_all_are_drawn(reasons, recipe):
    texts = [reasons.reason(c) for case in (B_CELL, WRONG, UNKNOWN) for c in drawn(case)]
    types = ["B cell", "T cell", "lymphocyte", "erythroid lineage cell"]
    counted = recipe("reasoned").forms(texts, types, KNOWN)
    n_written = sum(bool(form) for forms in reasons.WORDINGS.values() for form in forms)
    # one marker or several have words of their own; "alone" has no runner-up here
    assert n_written >= len(counted) >= 40
    assert max(counted.values()) < counted.total() / 5
    assert max(map(len, reasons.WORDINGS.values())) <= FORMS


def test_all_words_but_one_are_tokens(reasons, mini):
    texts = [re.sub(r"{.*?}", "", form) for forms in reasons.WORDINGS.values() for form in forms]
    words = {word for text in texts for word in re.findall(r"[A-Za-z][\w-]*", text)}
    broken = {word for word in words if len(mini.tokenizer.encode(f" {word}", add_special_tokens=False)) > 1}
    assert broken == {"probability"}


@pytest.mark.parametrize("case", [B_CELL, WRONG, UNKNOWN])
def test_a_text_says_what_its_prompt_holds_and_no_more(case, reasons):
    for one in drawn(case)[:40]:
        text = reasons.reason(one)
        prompt = "".join(getattr(s, "text", None) or "" for s in reasoning_prompt(one.label, [], parts=one.parts))
        assert set(re.findall(r"0\.\d\d", text)) == set(re.findall(r"0\.\d\d", prompt))
        claims = claims_of(text, KNOWN, label=one.label)
        assert {c.gene for c in claims if not c.absent} == set(one.genes)
        assert [c.gene for c in claims if c.absent] == one.missing
        for gene in one.genes:
            assert len(re.findall(rf"\b{gene}\b", text)) == 1 + (gene == one.role[0])
        assert "{" not in text
        assert "  " not in text
        assert all(sentence[0].isupper() for sentence in re.split(r"(?<=[.]) ", text))


def test_sentences_stand_in_their_order(reasons):
    for one in drawn(B_CELL)[:40]:
        text = reasons.reason(one)
        places = [text.index(word) for word in ("MS4A1", "B cell activation", "0.08", "CD3D", "ALAS2", "MKI67", "0.90")]
        assert places == sorted(places)


def test_facts_bear_out_every_form_of_what_they_say(reasons):
    counts = {"MS4A1": 6, "CD79A": 9, "BANK1": 2, "ACTB": 20}
    row = csr_matrix(np.array([list(counts.values())], dtype=np.float32))
    p = np.array([[0.9, 0.08, 0.02]])
    (cell,) = cell_facts(row, row > 0, list(counts), ["B cell", "T cell", "unknown"], ["B cell"], p, logged=False)
    facts = cell.facts("Cell")
    mine = Case("B cell", ("MS4A1", "CD79A", "BANK1"), runner_up=("T cell", 0.08), probability=0.9)
    for wrong, verdict in ((False, "supported"), (True, "contradicted")):
        for one in drawn(replace(mine, probability=0.31) if wrong else mine)[:60]:
            checked = check_answer(reasons.reason(one), facts)
            looked_at = checked[-1:] if wrong else checked
            assert {sentence.verdict for sentence in looked_at} == {verdict}, looked_at


@pytest.mark.parametrize(
    "case",
    [B_CELL, WRONG, UNKNOWN, replace(UNKNOWN, probability=0.0), replace(B_CELL, markers=(), highest=("CD74", "LTB"))],
)
def test_all_that_the_recipe_writes_is_held(case, reasons):
    for one in drawn(case):
        text = reasons.reason(one)
        assert held(text, one) == (text, 0), [s for s in text.split(". ") if s not in held(text, one)[0]]


@pytest.mark.parametrize(
    ("was", "instead"),
    [
        ("MS4A1", "LYZ"),
        ("0.08", "0.90"),
        ("0.95", "0.59"),
        ("0.90", "0.08"),
        ("T cell", "monocyte"),
        ("B cell activation", "T cell activation"),
        ("CD3D", "CD19"),
        ("erythroid lineage", "myeloid lineage"),
        (" call is certain", " call is not certain"),
        (" call is certain", " call is likely, but not certain"),
        (" call certain", " call not certain"),
        ("much haemoglobin", "many mitochondrial counts"),
        ("signs of proliferation", "a response to stress"),
        ("CD3E", "glyoxalase"),
        (" expresses ", " percent percent "),
        ("markers of B cells", "markers of lymphocytes"),
        # what speaks for another type, or is unusual
        ("MS4A1, CD79A and CD19", "CD3E"),
        ("ALAS2 and GYPA", "MS4A1 and CD79A"),
    ],
)
def test_a_sentence_that_its_prompt_does_not_bear_out_is_left_out(was, instead, reasons):
    n_changed = 0
    for one in drawn(B_CELL):
        sentences = reasons.reason(one).replace(". ", ".\n").split("\n")
        for sentence in sentences:
            changed = sentence.replace(was, instead)
            if changed != sentence:
                n_changed += 1
                assert held(changed, one) == ("", 1), changed
    assert n_changed > 10


def test_a_sentence_is_said_once(reasons):
    text = reasons.reason(B_CELL)
    first = text.split(". ")[0] + "."
    assert held(f"{text} {first}", B_CELL) == (text, 1)


def test_a_stammer_is_not_held():
    assert held("The cell expresses CD79A CD79A, a known marker of B cells.", B_CELL) == ("", 1)


def test_an_invented_case_is_told_like_any_other(reasons):
    rng, genes = (
        np.random.default_rng(0),
        ["CD74", "LYZ", "INS", *(f"IFI{i}" for i in (6, 27, 30, 35, 44)), *"ABCDEFGHIJKL"],
    )
    for case in (B_CELL, WRONG, UNKNOWN):
        other = reasons.invented(case, genes, ["B cell", "mast cell", "hepatocyte", "neuron", "T cell"], rng)
        assert other.label == case.label
        assert list(other.parts) == list(case.parts) or (other.runner_up[1] > other.probability) != (
            case.runner_up[1] > case.probability
        )
        assert set(other.genes) <= set(genes)
        assert len(other.genes) == len(case.genes)
        assert held(reasons.reason(other), other)[1] == 0
