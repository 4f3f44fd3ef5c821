"""What ``recipes/smollm2`` asks and answers in its conversations."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from bioverse_sc.facts import About, Fact, Known, check_answer, wordings

RECIPES = Path(__file__).parents[1] / "recipes"
INSULIN = "FVNQHLCGSHLVEALYLVCGERGFFYTPKT"


@pytest.fixture(scope="module")
def turns():
    path, before = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(RECIPES / "mini"), str(RECIPES / "smollm2")]
    yield importlib.import_module("turns")
    sys.path[:] = path
    for name in {"turns", "writer", "known", "explain", "real_cells"} - before:
        sys.modules.pop(name, None)


@pytest.fixture
def writer(turns):
    made = importlib.import_module("writer").Writer(
        np.random.default_rng(0), wordings(), ["CD3E"], ["CL:0000236"], ["angiogenesis"]
    )
    made.begin()
    return made


def test_the_fact_that_answers_stands_anywhere(writer):
    facts = [Fact(f"The cell has {i} counts.", "numbers", "Cell") for i in range(20)]
    places = []
    for _ in range(100):
        writer.begin()
        _, answer, shown = writer.turn("How many?", [facts[3]], facts)
        places.append(shown.index(answer))
    assert len(set(places)) > 5


def test_of_several_that_are_shown_together_each_is_asked_about(turns, writer):
    known = Known(INSULIN, "Insulin. A hormone.", 1.0, is_same=True)
    abouts = [About("Molecule", "molecule", None, "CCO", []), About("Protein", "protein", None, INSULIN, [known])]
    asked = []
    for _ in range(60):
        writer.begin()
        asked += turns.several_turns(writer, abouts)
    of_protein = [answer for question, answer, _ in asked if "the protein" in question.lower()]
    assert any("Insulin" in answer for answer in of_protein)
    assert any("cannot be told" in answer for question, answer, _ in asked if "molecule" in question.lower())
    for question, answer, _ in asked:
        verdicts = {sentence.verdict for sentence in check_answer(answer, turns.facts_about(question, abouts))}
        assert verdicts <= {"supported", "refusal"}
