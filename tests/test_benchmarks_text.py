"""What ``benchmarks/text.py`` computes of its own."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bioverse_sc as bsc

for module in ("nltk", "rouge_score", "rdkit"):
    pytest.importorskip(module)

TEXTS = ["Nisin.", "ATP synthase subunit a. EC 7.1.2.2, a translocase.", "", "A a a kinase"]
TRUTH = [
    "Nisin A.",
    "ATP synthase subunit b. EC 7.1.2.2, a translocase.",
    "Kinase.",
    "A kinase. EC 2.7.1.1, a transferase.",
]


@pytest.fixture(scope="module")
def text():
    path, before = list(sys.path), set(sys.modules)
    file = Path(__file__).parents[1] / "benchmarks/text.py"
    spec = importlib.util.spec_from_file_location("benchmarks_text", file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path
    # names of the recipe's modules are common words
    for name in {spec.name, "cells", "language", "questions", "recipe", "sequences"} - before:
        sys.modules.pop(name, None)


def test_bleu_of_counts_is_bleu(text):
    for candidates in (TEXTS, TRUTH, [""] * 4, ["other words"] * 4):
        counts = np.array([text.bleu_2_counts(*pair) for pair in zip(candidates, TRUTH, strict=True)])
        assert text.bleu_2(counts.sum(axis=0)[None])[0] == pytest.approx(bsc.metrics.bleu(candidates, TRUTH, 2))


def test_names_and_classes(text):
    table = pd.DataFrame({"text": TRUTH, "product": [text.name_of(t) for t in TRUTH], "ec": ["", "7", "", "2"]})
    perfect, found = text.score(TRUTH, table), text.score(TEXTS, table)
    assert table["product"].tolist() == ["Nisin A", "ATP synthase subunit b", "Kinase", "A kinase"]
    assert perfect["exact name"][0] == perfect["EC class"][0] == perfect["exact text"][0] == 1
    assert found["exact name"][0] == 0
    assert found["EC class"][0] == 0.5
    assert text.winners(found, perfect).startswith("nearest wins: exact name, EC class*, BLEU-2, ")
    assert text.winners(perfect, found).startswith("model wins: exact name, EC class*, BLEU-2, ")
    none = text.score(TRUTH[:1], table[:1])
    assert text.shown(*none["EC class"]) == "none"
    assert text.winners(none, none).startswith("equal: exact name, BLEU-2, ")


def test_chance(text):
    assert text.chance(10, 1, 3) == pytest.approx(0.3)
    assert text.chance(4, 2, 1) == pytest.approx(0.5)
    assert text.chance(3, 1, 10) == 1


def test_commonest(text):
    assert text.commonest(pd.Series(["red fox", "grey owl", "grey owl"])) == "grey owl"
    assert text.commonest(pd.Series(["red fox", "red dog", "grey owl"])) != "grey owl"
