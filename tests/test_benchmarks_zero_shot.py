"""What ``benchmarks/zero_shot.py`` computes of its own."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bioverse_sc.ontology import cell_ontology

pytest.importorskip("rdkit")
TERMS = ["CL:0000236", "CL:0000787", "CL:0000786", "CL:0000084", "CL:0000624", "CL:0000576"]
"""B cell, memory B cell, plasma cell, T cell, CD4-positive T cell, monocyte."""


@pytest.fixture(scope="module")
def unseen():
    """The modules of the benchmark, without the recipe's common names left behind."""
    path, before = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    names = ("cells", "scores", "texts")
    yield {name: importlib.import_module(f"unseen.{name}") for name in names}
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if not name.startswith(("bioverse_sc", "torch", "transformers")):
            sys.modules.pop(name, None)


def test_a_type_is_left_out_with_its_kinds(unseen):
    ontology = cell_ontology()
    for seed in range(20):
        chosen = set(unseen["cells"].held_out_types(TERMS, 3, seed).tolist())
        assert 1 <= len(chosen) <= 3
        for i in chosen:
            kinds = {j for j, term in enumerate(TERMS) if TERMS[i] in ontology.ancestors(term)}
            assert kinds <= chosen
    assert unseen["cells"].named_types(TERMS, ["T cell", ""]).tolist() == [3, 4]
    with pytest.raises(SystemExit, match="no name in the Cell Ontology"):
        unseen["cells"].named_types(TERMS, ["my cluster"])


def test_each_cell_counts_where_a_column_is_about_it(unseen):
    cells = unseen["cells"].Typed(np.zeros((3, 2)), np.array([0, 1, 5]))
    of = unseen["cells"].Unseen(TERMS, np.array([0, 1]))
    scores = np.array([[3, 2, 9, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 4]], dtype=float)
    right = unseen["scores"].counted(scores, cells, of)
    # among the unseen the first wins, of all a seen type does; ties of two are half before
    np.testing.assert_array_equal(right, [[1, 0, 1, np.nan], [1, 1, 1, np.nan], [np.nan, np.nan, np.nan, 1]])
    means, (low, high) = unseen["scores"].with_intervals(right, cells.types)
    np.testing.assert_allclose(means, [1, 0.5, 1, 1])
    assert low[1] == 0
    assert high[1] == 1


def test_scores_that_are_all_equal_are_chance(unseen):
    n = 20
    cells = unseen["cells"].Typed(np.zeros((n, 2)), np.arange(n))
    of = unseen["cells"].Unseen([f"CL:{i}" for i in range(n)], np.arange(n))
    assert unseen["scores"].counted(np.zeros((n, n)), cells, of)[:, :2].sum() == 0


def test_evened_scores_take_from_labels_that_are_near_to_everything(unseen):
    near = np.full((30, 1), 0.9), np.full((30, 1), 0.1)
    scores = np.array([[0.55, 0.5]])
    assert scores.argmax() == 0
    assert unseen["scores"].evened(scores, np.hstack(near)).argmax() == 1


def test_text_alone_knows_the_likeliest_seen_type_and_no_more(unseen):
    of = unseen["cells"].Unseen(["a", "b", "c"], np.array([2]))
    texts = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.2]]), dim=-1)
    alone = unseen["scores"].by_text(np.array([[0.2, 0.1, 0.99], [0.1, 0.2, 0.99]]), texts, of)
    assert alone[0, 2] > alone[1, 2]


def test_the_text_of_a_type_says_what_it_is_a_kind_of(unseen):
    forms = unseen["texts"].FORMS
    assert forms["kinds"]("CL:0000236").startswith("B cell. A kind of lymphocyte of B lineage, lymphocyte,")
    assert "MS4A1" in forms["markers"]("CL:0000236")
    assert not any(" cell, eukaryotic" in form("CL:0000236") for form in forms.values())
