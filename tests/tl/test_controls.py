import anndata as ad
import numpy as np
import pandas as pd
import pytest

import bioverse_sc as bsc
from bioverse_sc.models import label_probabilities
from bioverse_sc.tl._controls import _is_kind_of, _known_truth
from bioverse_sc.tl._label import own_labels
from tests.same import differences
from tests.tiny import GENES, make_model

CONDITIONS = ["cell", "blank", "shuffled", "decoy", "decoy metadata"]
COLUMNS = ["agreement", "confidence", "probability", "entropy"]


TRUTH = {
    "CD14+ Monocyte": "monocyte",
    "CD19+ B": "B cell",
    "CD56+ NK": "natural killer cell",
    "Dendritic": "dendritic cell",
}


def controls(adata, **kwargs):
    bsc.tl.controls(adata, **kwargs)
    return adata.uns["bioverse"]["controls"]["table"]


@pytest.fixture(scope="module")
def blood(_pbmc):
    """40 cells and their controls. Not to be changed."""
    adata = _pbmc.raw.to_adata()[::17][:40].copy()
    adata.obs["truth"] = adata.obs["bulk_labels"].astype(str).map(lambda label: TRUTH.get(label, "T cell"))
    adata.obs.loc[adata.obs["bulk_labels"] == "CD34+", "truth"] = np.nan
    before = adata.copy()
    table = controls(adata, labels_key="truth")
    return before, adata, table


@pytest.fixture
def made_up():
    """40 cells of the made-up genes, for the small model."""
    counts = np.random.default_rng(0).poisson(1.0, size=(40, len(GENES))).astype(np.float32)
    return ad.AnnData(counts, var=pd.DataFrame(index=GENES))


def test_it_sets_what_align_sets_and_its_table(blood):
    before, adata, _ = blood
    aligned = bsc.tl.align(before, copy=True)
    assert differences(before, adata) == differences(before, aligned)
    assert set(adata.uns["bioverse"]) == {"embed", "align", "controls"}
    assert adata.uns["bioverse"]["controls"]["labels_key"] == "truth"


def test_the_table_is_written_and_read_back(blood, tmp_path):
    _, adata, table = blood
    adata.write_h5ad(tmp_path / "cells.h5ad")
    stored = ad.read_h5ad(tmp_path / "cells.h5ad").uns["bioverse"]["controls"]["table"]
    pd.testing.assert_frame_equal(stored, table)


def test_the_table_has_a_row_for_each_condition(blood):
    _, _, table = blood
    assert table.index.tolist() == CONDITIONS
    assert table.index.name == "condition"
    assert table.columns.tolist() == [*COLUMNS, "accuracy"]
    assert table.notna().all().all()
    assert table[["agreement", "confidence", "probability", "accuracy"]].stack().between(0, 1 + 1e-9).all()


def test_the_cell_is_what_annotate_says(blood, mini):
    _, adata, table = blood
    found = label_probabilities(mini, adata.obsm["X_scgpt"], [*own_labels(mini), "unknown"], closed=True)
    assert table.at["cell", "agreement"] == 1
    assert table.at["cell", "confidence"] == table.at["cell", "probability"]
    np.testing.assert_allclose(table.at["cell", "confidence"], found.max(axis=1).mean(), atol=1e-3)
    shares = pd.Series(found.argmax(axis=1)).value_counts(normalize=True)
    np.testing.assert_allclose(table.at["cell", "entropy"], -(shares * np.log2(shares)).sum(), atol=0.05)


def test_a_blank_cell_gets_one_label(blood):
    table = blood[2]
    assert table.at["blank", "entropy"] == 0
    assert table.at["blank", "agreement"] < 0.5


def test_shuffled_cells_agree_by_chance(blood, mini):
    _, adata, table = blood
    best = label_probabilities(mini, adata.obsm["X_scgpt"], [*own_labels(mini), "unknown"], closed=True).argmax(axis=1)
    counts = np.bincount(best)
    chance = (counts * (counts - 1)).sum() / (len(best) * (len(best) - 1))
    assert table.at["shuffled", "agreement"] == pytest.approx(chance, abs=0.2)
    # the same answers, of other cells
    for column in ("confidence", "entropy"):
        assert table.at["shuffled", column] == pytest.approx(table.at["cell", column], abs=1e-3)
    assert table.at["shuffled", "probability"] < table.at["cell", "probability"] - 0.2


def test_the_cell_is_right_more_often_than_what_is_no_cell(blood):
    accuracy = blood[2]["accuracy"]
    assert accuracy["cell"] > accuracy[["blank", "shuffled"]].max() + 0.1


def test_no_cell_keeps_its_own_soft_token_and_metadata_is_never_its_label(made_up, only_cells, monkeypatch):
    from bioverse_sc.models import _label_probabilities as module

    asked = []
    real = module.label_log_probabilities

    def seen(model, prompt, soft_tokens, labels, **kwargs):
        asked.append((prompt[0].text, soft_tokens.numpy().copy(), real(model, prompt, soft_tokens, labels, **kwargs)))
        return asked[-1][2]

    monkeypatch.setattr(module, "label_log_probabilities", seen)
    bsc.tl.controls(made_up, model=only_cells)
    own, blank, shuffled, decoy, *told = [tokens for _, tokens, _ in asked]
    assert blank.shape == (1, *own.shape[1:])
    assert not blank.any()
    np.testing.assert_array_equal(np.sort(own, axis=0), np.sort(shuffled, axis=0))
    assert not (own == shuffled).all(axis=(1, 2)).any()
    assert not (decoy[:, None] == own[None]).all(axis=(2, 3)).any()
    np.testing.assert_array_equal(np.sort(np.concatenate(told), axis=0), np.sort(own, axis=0))
    label_of = {
        token.tobytes(): only_cells.config.labels[p.argmax()] for token, p in zip(own, asked[0][2], strict=True)
    }
    for text, tokens, _ in asked[4:]:
        assert text.startswith("Metadata: cell type ")
        assert not [label for t in tokens if text == f"Metadata: cell type {(label := label_of[t.tobytes()])}. "]


def test_equal_seeds_give_equal_tables_for_any_batch_size(made_up, only_cells):
    one = controls(made_up, model=only_cells, n_cells=30, seed=1)
    again = controls(made_up, model=only_cells, n_cells=30, seed=1, batch_size=7)
    pd.testing.assert_frame_equal(again, one, atol=1e-3)
    assert not controls(made_up, model=only_cells, n_cells=30, seed=2).equals(one)


def test_a_copy_leaves_the_original_and_the_table_is_logged(made_up, only_cells, log):
    before = made_up.copy()
    with bsc.settings.override(verbosity="info"):
        labelled = bsc.tl.controls(made_up, model=only_cells, copy=True)
    assert differences(before, made_up) == set()
    assert labelled.uns["bioverse"]["controls"]["table"].columns.tolist() == COLUMNS
    assert any("decoy metadata" in record.getMessage() for record in log)


@pytest.mark.parametrize(
    ("true", "accuracy"), [("T cell", 1.0), ("CL:0000084", 1.0), ("my T", 1.0), ("B cell", 0.0), (None, np.nan)]
)
def test_a_label_below_the_true_one_is_right(true, accuracy):
    from bioverse_sc.tl._controls import _row

    labels = np.array(["CD8-positive, alpha-beta T cell", "my T"], dtype=object)
    found = np.array([[0.2, 0.8] if true == "my T" else [0.8, 0.2]] * 2)
    row = _row(found, np.array([0, 0]), labels, np.array([true, None], dtype=object))
    np.testing.assert_equal(row["accuracy"], accuracy)


def test_cells_without_a_known_gene_are_not_drawn(made_up, only_cells):
    made_up.X[5:] = 0
    with bsc.settings.override(verbosity="error"):
        bsc.tl.align(made_up, model=only_cells)
        first = controls(made_up[:5].copy(), model=only_cells, seed=3)
        pd.testing.assert_frame_equal(controls(made_up, model=only_cells, seed=3)[:2], first[:2], atol=1e-3)
        made_up.X[1:] = 0
        with pytest.raises(ValueError, match="1 of 40 cells have a gene that the model knows; expected 2 or more"):
            bsc.tl.controls(made_up, model=only_cells)


def test_true_labels_mean_what_their_authors_mean(log):
    written = pd.Series(["CD14+ Mono", "T cells", "cluster 7", np.nan, "my own", "cluster 7"], dtype="category")
    true = _known_truth(written, np.array(["my own", "naive B cell"]))
    assert true[:2].tolist() == ["CL:0001054", "CL:0000084"]
    assert pd.isna(true).tolist() == [False, False, True, True, False, True]
    assert true[4] == "my own"
    assert any("2 cells have a true label that is no term, such as 'cluster 7'" in r.getMessage() for r in log)
    assert _is_kind_of("naive B cell", "CL:0000236")
    assert not _is_kind_of("B cell", "CL:0000788")


def test_a_true_label_may_be_a_category_that_no_drawn_cell_has():
    written = pd.Series(pd.Categorical(["B", None, "T cell"], categories=["T cell", "platelet", "B"]))
    true = _known_truth(written, np.array(["T cell"]))
    assert true[0] == "CL:0000236"
    assert pd.isna(true[1])
    assert true[2] == "T cell"


def test_errors_say_what_to_type(cells):
    with pytest.raises(KeyError, match="no column 'gone' in"):
        bsc.tl.controls(cells, labels_key="gone")
    with pytest.raises(ValueError, match="n_cells is 1; expected 2 or more"):
        bsc.tl.controls(cells, n_cells=1)
    with pytest.raises(ValueError, match=r"no label set of its own.*bsc\.models\.create\(\.\.\., labels="):
        bsc.tl.controls(cells, model=make_model(labels=()))
