import itertools
import logging
from functools import partial

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

import bioverse_sc as bsc
from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPTEncoder
from bioverse_sc.metrics import apply_calibration
from bioverse_sc.models import _label_probabilities, label_log_probabilities, label_probabilities, label_prompt
from bioverse_sc.ontology import cell_ontology, terms_of_tissue
from bioverse_sc.read import _matrix
from bioverse_sc.read._map import row_chunks
from bioverse_sc.reasoning import claims_of, known_symbols
from bioverse_sc.tl import _current
from bioverse_sc.tl._label import chosen_labels
from tests.same import differences
from tests.tiny import VECTOR, make_encoder, make_model, make_vectors

BLOOD = ["T cell", "B cell", "monocyte"]
COLUMNS = ["label", "label_id", "confidence", "reasoning", "genes_supported", "genes_unsupported"]
SLOTS = {f"obs['bioverse_{name}']" for name in COLUMNS} | {
    "obsm['X_scgpt']",
    "obsm['X_bioverse']",
    "uns['bioverse']",
}


def named_genes(text, known):
    return {claim.gene for claim in claims_of(text, known)}


def labelled(adata, **kwargs):
    return bsc.tl.annotate(adata, **({"reasoning": None, "copy": True} | kwargs)).obs


def assert_same_labels(one, two):
    """Equal labels cell by cell, but where two labels are as likely as each other."""
    two = two.loc[one.index]
    np.testing.assert_allclose(one["bioverse_confidence"], two["bioverse_confidence"], atol=1e-4)
    differ = one["bioverse_label"].astype(str) != two["bioverse_label"].astype(str)
    assert (one["bioverse_confidence"][differ] < 0.5).all()
    assert differ.sum() <= 1


# --- what is written -------------------------------------------------------------------------------------------------


def test_it_writes_its_slots_and_nothing_else(cells):
    before = cells.copy()
    assert bsc.tl.annotate(cells, reasoning=None) is None
    without = {f"obs['bioverse_{name}']" for name in COLUMNS[3:]}
    assert differences(before, cells) == SLOTS - without
    assert set(cells.uns["bioverse"]) == {"embed", "align", "annotate"}


def test_reasoning_adds_three_columns(annotated, pbmc):
    before = pbmc.raw.to_adata()[annotated.obs_names].copy()
    assert differences(before, annotated) == SLOTS


def test_columns_have_their_types(annotated):
    obs = annotated.obs
    for name in ("label", "label_id"):
        assert isinstance(obs[f"bioverse_{name}"].dtype, pd.CategoricalDtype)
    assert obs["bioverse_confidence"].dtype == np.float32
    assert obs["bioverse_confidence"].between(0, 1).all()
    assert all(isinstance(text, str) and text for text in obs["bioverse_reasoning"])
    for name in ("genes_supported", "genes_unsupported"):
        assert obs[f"bioverse_{name}"].dtype == np.int64
        assert (obs[f"bioverse_{name}"] >= 0).all()


def test_every_label_is_of_the_set_and_has_its_id(annotated, mini):
    for label, term in zip(annotated.obs["bioverse_label"], annotated.obs["bioverse_label_id"], strict=True):
        assert label == "unknown" if term == "" else cell_ontology().names[term] == label
    assert annotated.obs["bioverse_label"].isin(mini.config.labels).mean() > 0.5


def test_provenance(annotated, mini):
    stored = annotated.uns["bioverse"]["annotate"]
    assert stored["version"] == bsc.__version__
    assert stored["model"] == "mini"
    assert stored["model_fingerprint"] == mini.fingerprint
    assert set(stored["labels"]) == {*mini.config.labels, "unknown"}
    assert stored["reasoning"] == "representative"
    assert stored["prompt"]


def test_a_copy_leaves_the_original(cells):
    before = cells.copy()
    result = bsc.tl.annotate(cells, reasoning=None, copy=True)
    assert differences(before, cells) == set()
    assert "bioverse_label" in result.obs


def test_another_stem(cells):
    before = cells.copy()
    bsc.tl.annotate(cells, reasoning=None, key_added="mine")
    assert differences(before, cells) == {
        "obs['mine_label']",
        "obs['mine_label_id']",
        "obs['mine_confidence']",
        "obsm['X_mine_scgpt']",
        "obsm['X_mine']",
        "uns['mine']",
    }


def test_two_stems_stand_beside_each_other(cells):
    bsc.tl.annotate(cells, reasoning=None, key_added="one", labels=["B cell"])
    first = cells.copy()
    bsc.tl.annotate(cells, reasoning=None, key_added="two", labels=["T cell"])
    assert all("two" in slot for slot in differences(first, cells))


def test_without_reasoning_old_reasoning_goes(annotated):
    again = annotated.copy()
    bsc.tl.annotate(again, reasoning=None)
    gone = {f"obs['bioverse_{name}']" for name in COLUMNS[3:]}
    assert differences(annotated, again) - {"uns['bioverse']"} == gone


def test_it_is_written_and_read_back(annotated, tmp_path):
    annotated.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    for name in COLUMNS:
        column = f"bioverse_{name}"
        assert back.obs[column].astype(str).tolist() == annotated.obs[column].astype(str).tolist()
    np.testing.assert_array_equal(back.obsm["X_bioverse"], annotated.obsm["X_bioverse"])
    assert list(back.uns["bioverse"]["annotate"]["labels"]) == annotated.uns["bioverse"]["annotate"]["labels"]
    assert back.uns["bioverse"]["embed"]["genes_found"] == annotated.uns["bioverse"]["embed"]["genes_found"]


# --- nothing depends on how the work was cut --------------------------------------------------------------------------


def test_two_runs_give_identical_columns(annotated):
    again = annotated.copy()
    for name in COLUMNS:
        del again.obs[f"bioverse_{name}"]
    del again.obsm["X_scgpt"], again.obsm["X_bioverse"], again.uns["bioverse"]
    bsc.tl.annotate(again)
    # where memory lies may change the last bit of a float, and nothing else
    floats = {"obs['bioverse_confidence']", "obsm['X_scgpt']", "obsm['X_bioverse']"}
    assert differences(annotated, again) <= floats
    np.testing.assert_allclose(again.obs["bioverse_confidence"], annotated.obs["bioverse_confidence"], atol=1e-5)
    for slot in ("X_scgpt", "X_bioverse"):
        np.testing.assert_allclose(again.obsm[slot], annotated.obsm[slot], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_batch_size_does_not_matter(batch_size, cells):
    assert_same_labels(labelled(cells, batch_size=batch_size), labelled(cells))


def test_the_order_of_cells_does_not_matter(cells):
    shuffled = cells[np.random.default_rng(1).permutation(cells.n_obs)].copy()
    assert_same_labels(labelled(cells), labelled(shuffled))


def test_halves_give_what_the_whole_gives(cells):
    halves = pd.concat([labelled(cells[part].copy()) for part in (slice(0, 5), slice(5, None))])
    assert_same_labels(labelled(cells), halves)


def test_the_order_of_genes_does_not_matter(cells):
    shuffled = cells[:, np.random.default_rng(1).permutation(cells.n_vars)].copy()
    assert_same_labels(labelled(cells), labelled(shuffled))


def test_reasoning_of_a_cell_does_not_depend_on_the_others(annotated, pbmc):
    chosen = annotated.obs_names[[5, 2]]
    alone = pbmc.raw.to_adata()[chosen].copy()
    bsc.tl.annotate(alone, batch_size=1)
    for name in ("label", "reasoning", "genes_supported", "genes_unsupported"):
        column = f"bioverse_{name}"
        assert alone.obs[column].tolist() == annotated.obs.loc[chosen, column].tolist()


def test_chunks_do_not_matter(annotated, pbmc, monkeypatch):
    monkeypatch.setattr(_matrix, "row_chunks", partial(row_chunks, size=1))
    few = pbmc.raw.to_adata()[annotated.obs_names[:3]].copy()
    bsc.tl.annotate(few)
    for name in ("reasoning", "genes_supported", "genes_unsupported"):
        column = f"bioverse_{name}"
        assert few.obs[column].tolist() == annotated.obs[column].tolist()[:3]


# --- labels of the user ----------------------------------------------------------------------------------------------


def test_words_of_the_user_are_the_only_labels(cells):
    obs = labelled(cells, labels=BLOOD)
    assert set(obs["bioverse_label"]) <= {*BLOOD, "unknown"}
    ids = {"T cell": "CL:0000084", "B cell": "CL:0000236", "monocyte": "CL:0000576", "unknown": ""}
    assert obs["bioverse_label_id"].astype(str).tolist() == [ids[label] for label in obs["bioverse_label"]]


def test_a_synonym_in_the_plural_stays_as_it_was_typed(cells):
    obs = labelled(cells, labels=["B-lymphocytes", "T cells"])
    assert set(obs["bioverse_label"]) <= {"B-lymphocytes", "T cells", "unknown"}
    assert set(obs["bioverse_label_id"]) <= {"CL:0000236", "CL:0000084", ""}


@pytest.mark.parametrize("labels", [["cluster one", "cluster two"], ["foo", "bar", "baz"], ["foo", "Unknown"]])
def test_labels_without_meaning_are_said_and_have_no_confidence(labels, cells, log):
    obs = labelled(cells, labels=labels, min_confidence=0)
    assert set(obs["bioverse_label"]) <= set(labels)
    assert set(obs["bioverse_label_id"]) == {""}
    assert obs["bioverse_confidence"].isna().all()
    assert [record.getMessage()[:20] for record in warnings_of(log)] == ["None of the labels '"]


def warnings_of(log):
    return [record for record in log if record.levelno == logging.WARNING]


@pytest.mark.parametrize("word", ["Unknown", "unassigned", "Other cells", "NA", "none of the above"])
def test_words_for_none_of_these_are_unknown(word, cells):
    expected = labelled(cells, labels=["monocyte"])
    assert (expected["bioverse_label"] == "unknown").any()
    found = labelled(cells, labels=["monocyte", word])
    assert_same_labels(expected, found)
    assert found["bioverse_label"].astype(str).tolist() == expected["bioverse_label"].astype(str).tolist()


def test_a_list_of_nothing_but_unknown_is_an_error(cells):
    before = cells.copy()
    with pytest.raises(ValueError, match=r"'Unassigned'.*nothing but 'unknown'; expected at least one type"):
        bsc.tl.annotate(cells, labels=["Unknown", "Unassigned"])
    assert differences(before, cells) == set()


def test_one_label_without_a_term_does_not_close_the_set(cells, log):
    expected = labelled(cells, labels=["monocyte", "B cell"])
    log.clear()
    found = labelled(cells, labels=["monocyte", "B cell", "my weird cluster"])
    assert found["bioverse_label"].astype(str).tolist() == expected["bioverse_label"].astype(str).tolist()
    assert any("'my weird cluster' is no term" in record.getMessage() for record in warnings_of(log))


def test_a_label_that_the_model_does_not_know_takes_its_siblings_and_says_so(annotated, log):
    theirs = bsc.tl.annotate(annotated, labels=["non-classical monocyte", "B cell"], reasoning=None, copy=True).obs
    log.clear()
    found = bsc.tl.annotate(annotated, labels=["intermediate monocyte", "B cell"], reasoning=None, copy=True).obs
    sure = (theirs["bioverse_confidence"] > 0.8).to_numpy() & (theirs["bioverse_label"] != "unknown").to_numpy()
    assert sure.any()
    assert set(found["bioverse_label"][sure]) == {"intermediate monocyte"}
    assert set(found["bioverse_label_id"][sure]) == {"CL:0002393"}
    assert (found["bioverse_confidence"][sure] < theirs["bioverse_confidence"][sure]).all()
    said = [record.getMessage() for record in warnings_of(log)]
    assert any(
        "takes what the model calls 'non-classical monocyte', 'CD14-" in text and "guess" in text for text in said
    )


def test_a_label_that_takes_nothing_and_many_unknown_cells_are_said(cells, log):
    labelled(cells, labels=["osteoblast", "hepatocyte"])
    said = [record.getMessage() for record in warnings_of(log)]
    assert any("'osteoblast' takes nothing" in text and "nearest labels are " in text for text in said)
    unknown = next(text for text in said if "are 'unknown'" in text)
    assert unknown.startswith("12 of 12 cells")
    assert "Labels that would take most of them: " in unknown
    log.clear()
    labelled(cells, labels=["T cell", "B cell", "monocyte", "natural killer cell", "dendritic cell"])
    assert not any("are 'unknown'" in record.getMessage() for record in warnings_of(log))
    log.clear()
    labelled(cells)
    assert warnings_of(log) == []


@pytest.mark.parametrize("labels", [BLOOD, ["cluster one", "cluster two"], ["spam", "B cell", "eggs and ham"]])
def test_the_order_of_labels_does_not_matter(labels, cells):
    one, two = labelled(cells, labels=labels), labelled(cells, labels=labels[::-1])
    assert_same_labels(one, two)
    assert one["bioverse_label"].astype(str).tolist() == two["bioverse_label"].astype(str).tolist()


def test_what_is_none_of_the_labels_is_unknown(annotated):
    """A cell that the model takes for something else is not forced under a label."""
    obs = bsc.tl.annotate(annotated, labels=["monocyte"], reasoning=None, copy=True).obs
    own = [cell_ontology().ancestors(term) if term else set() for term in annotated.obs["bioverse_label_id"]]
    sure = (annotated.obs["bioverse_confidence"] > 0.8).to_numpy()
    is_monocyte = np.array(["CL:0000576" in above for above in own])
    assert (is_monocyte & sure).any()
    assert (~is_monocyte & sure).any()
    assert set(obs["bioverse_label"][is_monocyte & sure]) == {"monocyte"}
    assert set(obs["bioverse_label"][~is_monocyte & sure]) == {"unknown"}


def test_a_tissue_narrows_the_labels(cells):
    there = terms_of_tissue("liver")
    obs = labelled(cells, tissue="liver", min_confidence=0)
    assert all(term in there or term == "" for term in obs["bioverse_label_id"])
    with pytest.raises(ValueError, match="'moon', which is not known"):
        labelled(cells, tissue="moon")
    with pytest.raises(ValueError, match="None of the labels occurs in the tissue 'blood'"):
        labelled(cells, tissue="blood", labels=["hepatocyte"])


def test_labels_back_off_until_they_are_certain(annotated):
    sharp = bsc.tl.annotate(annotated, reasoning=None, min_confidence=0, copy=True).obs
    threshold = float(sharp["bioverse_confidence"].median())
    wide = bsc.tl.annotate(annotated, reasoning=None, min_confidence=threshold, copy=True).obs
    moved = (sharp["bioverse_confidence"] < threshold).to_numpy()
    assert moved.any()
    ontology = cell_ontology()
    for narrow, wider in zip(sharp["bioverse_label_id"][moved], wide["bioverse_label_id"][moved], strict=True):
        assert wider == "" or (wider != narrow and wider in ontology.ancestors(narrow))
    certain = wide["bioverse_label"] != "unknown"
    assert (wide["bioverse_confidence"][certain] >= threshold).all()
    assert certain[moved].any()
    kept = ~moved
    assert (sharp["bioverse_label"][kept].astype(str) == wide["bioverse_label"][kept].astype(str)).all()


def test_a_threshold_that_no_cell_can_reach_is_said(cells, mini, log):
    surest = mini.config.calibration[1][-1]
    assert set(labelled(cells, min_confidence=min(1, surest + 0.01))["bioverse_label"]) == {"unknown"}
    assert any(f"never surer than {surest:.2f}" in record.getMessage() for record in log)
    log.clear()
    labelled(cells, min_confidence=surest)
    assert not any("surer" in record.getMessage() for record in log)


def test_an_unlikely_label_is_not_certain(mini):
    """The curve goes down to nothing, so that what is unlikely can give way."""
    assert apply_calibration(0.0, *mini.config.calibration) == 0
    assert apply_calibration(0.02, *mini.config.calibration) < 0.1


@pytest.fixture
def certain_of(mini, monkeypatch):
    """Make the model certain of some labels, whatever the cell."""

    def set_probabilities(given):
        def of(_model, soft_tokens, labels, *, before="", whole=False):
            del before, whole
            p = np.array([[given.get(label, 0.0) for label in labels]] * len(soft_tokens))
            return p / p.sum(axis=1, keepdims=True)

        monkeypatch.setattr(_label_probabilities, "tempered_probabilities", of)
        vectors = make_vectors(2, width=mini.config.projectors["rna"].in_width)
        return lambda labels, **kwargs: label_probabilities(mini, vectors, labels, **kwargs)[0]

    return set_probabilities


def test_a_cell_from_elsewhere_has_no_label_of_the_tissue(certain_of, mini):
    there = chosen_labels(mini, None, "blood")
    p = certain_of({"hepatocyte": 0.998, "CD14-positive monocyte": 0.002})(there, closed=True)
    assert p[-1] > 0.9
    np.testing.assert_allclose(p.sum(), 1)
    # not so where the types of the tissue are as likely: it narrows
    p = certain_of({"hepatocyte": 0.5, "CD14-positive monocyte": 0.5})(there, closed=True)
    assert p[there.index("CD14-positive monocyte")] > 0.95


def test_words_without_a_term_share_what_unknown_leaves(certain_of):
    labels = ["resting state", "activated state", "unknown"]
    own = {"CD14-positive monocyte": 0.9, "memory B cell": 0.05}
    # the texts are so unlikely beside the model's own labels that they are dropped, and scored alone
    p = certain_of(own | {"unknown": 0.05, "resting state": 1e-300, "activated state": 3e-300})(labels)
    np.testing.assert_allclose(p, [0.2375, 0.7125, 0.05], atol=1e-6)


def test_labels_need_no_matrix_where_the_vectors_are_there(annotated):
    adata = annotated.copy()
    adata.X = None
    del adata.raw
    found = bsc.tl.annotate(adata, reasoning=None, copy=True)
    assert (found.obs["bioverse_label"].astype(str) == annotated.obs["bioverse_label"].astype(str)).all()


def test_a_label_that_backed_off_has_its_likeliest_one_as_runner_up(annotated):
    sharp = bsc.tl.annotate(annotated, reasoning=None, min_confidence=0, n_runner_up=1, copy=True)
    wide = bsc.tl.annotate(annotated, reasoning=None, min_confidence=0.99, n_runner_up=2, copy=True)
    moved = (sharp.obs["bioverse_label"].astype(str) != wide.obs["bioverse_label"].astype(str)).to_numpy()
    assert moved.any()
    first, second = (wide.obsm["bioverse_runner_up"][f"label_{k}"].astype(str)[moved] for k in (1, 2))
    assert (first == sharp.obs["bioverse_label"].astype(str)[moved]).all()
    assert (second == sharp.obsm["bioverse_runner_up"]["label_1"].astype(str)[moved]).all()


def test_runners_up_are_written_on_request_and_go_with_the_next_run(annotated):
    more = bsc.tl.annotate(annotated, reasoning=None, min_confidence=0, n_runner_up=2, copy=True)
    table = more.obsm["bioverse_runner_up"]
    assert list(table.columns) == ["label_1", "probability_1", "label_2", "probability_2"]
    assert (table["probability_1"] <= 0.5 + 1e-6).all()
    assert (table["probability_1"] >= table["probability_2"]).all()
    assert (table["label_1"].astype(str) != more.obs["bioverse_label"].astype(str)).all()
    bsc.tl.annotate(more, reasoning=None)
    assert "bioverse_runner_up" not in more.obsm


def test_a_broad_label_collects_what_lies_below_it(mini):
    vectors = make_vectors(6, width=mini.encoders["rna"].width)
    broad = ["leukocyte", "hepatocyte", "lymphocyte", "neuron"]
    asked = [*mini.config.labels, *(label for label in broad if label not in mini.config.labels)]
    with torch.inference_mode():
        soft = mini.project("rna", torch.from_numpy(vectors))
    p = np.exp(label_log_probabilities(mini, label_prompt(), soft, asked) / mini.config.temperature)
    ontology = cell_ontology()
    terms = [ontology.find(label) for label in broad]
    expected, to_lymphocytes = np.zeros((6, len(broad))), 0
    for i, label in enumerate(asked):
        takers = [j for j, term in enumerate(terms) if term in ontology.ancestors(ontology.find(label))]
        if takers:
            expected[:, max(takers, key=lambda j: len(ontology.ancestors(terms[j])))] += p[:, i]
            to_lymphocytes += len(takers) == 2
    assert to_lymphocytes > 5, "lymphocytes are leukocytes too: the nearest term takes them"
    found = label_probabilities(mini, vectors, [*broad, "unknown"])
    np.testing.assert_allclose(found[:, :-1], expected, atol=1e-5)
    np.testing.assert_allclose(found[:, -1], 1 - expected.sum(axis=1), atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "error", "match"),
    [
        ([], ValueError, "labels is empty"),
        (["B cell", "T cell", "B cell"], ValueError, r"'B cell' more than once.*dict\.fromkeys"),
        ("B cell", TypeError, r"\['B cell', 'B cell'\]|list of strings"),
        (["B cell", 3], ValueError, "not a word"),
        (["B cell", " "], ValueError, "not a word"),
    ],
)
def test_bad_labels_are_an_error_and_change_nothing(labels, error, match, cells):
    before = cells.copy()
    with pytest.raises(error, match=match):
        bsc.tl.annotate(cells, labels=labels)
    assert differences(before, cells) == set()


@pytest.mark.parametrize("labels", [["B cell", " B cell "], ["T cell", "T  cell"], ["日本", "中国"]])
def test_labels_that_are_nearly_the_same_work_or_change_nothing(labels, cells):
    before = cells.copy()
    try:
        bsc.tl.annotate(cells, labels=labels, reasoning=None)
    except ValueError:
        assert differences(before, cells) == set()
    else:
        assert set(cells.obs["bioverse_label"]) <= {*labels, "unknown"}


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"reasoning": "poem"}, ValueError, "'poem'; expected 'representative', 'cell', 'cluster' or None"),
        ({"by": "row"}, ValueError, "'row'; expected 'cell' or 'cluster'"),
        ({"unique": True}, ValueError, "unique is True with by='cell'; expected by='cluster'"),
        ({"min_confidence": 2}, ValueError, "min_confidence is 2; expected a probability"),
        ({"n_runner_up": -1}, ValueError, "n_runner_up is -1; expected 0 to"),
        ({"max_cells_to_generate": 0}, ValueError, "max_cells_to_generate is 0 .*expected 1 or more"),
        ({"max_cells_to_generate": 5, "reasoning": None}, ValueError, "with reasoning='representative'"),
        ({"by": "cluster"}, KeyError, "no column 'leiden'.*sc.tl.leiden"),
        ({"model": "maxi"}, ValueError, "no model 'maxi'"),
        ({"layer": "gone"}, KeyError, "no layer 'gone'"),
        ({"gene_symbols": "gone"}, KeyError, "no column 'gone'"),
    ],
)
def test_a_bad_argument_is_an_error_and_changes_nothing(kwargs, error, match, cells):
    before = cells.copy()
    with pytest.raises(error, match=match):
        bsc.tl.annotate(cells, **kwargs)
    assert differences(before, cells) == set()


# --- steps that stand alone ------------------------------------------------------------------------------------------


def test_steps_by_themselves_give_what_annotate_gives(cells):
    whole = bsc.tl.annotate(cells, reasoning=None, copy=True)
    bsc.tl.embed(cells)
    bsc.tl.align(cells)
    bsc.tl.annotate(cells, reasoning=None)
    assert differences(whole, cells) == set()


def test_vectors_that_are_there_are_used(cells, monkeypatch):
    bsc.tl.embed(cells)
    monkeypatch.setattr(_current, "embed_cells", lambda *_, **__: pytest.fail("embedded again"))
    bsc.tl.annotate(cells, reasoning=None)
    bsc.tl.annotate(cells, reasoning=None, labels=BLOOD)


def test_vectors_of_another_encoder_are_made_anew(cells):
    expected = labelled(cells)
    shape = make_encoder().module.config
    encoder = ScGPTEncoder.untrained(shape, GeneVocabulary(list(cells.var_names[:80])))
    bsc.tl.embed(cells, model=make_model(encoders={"rna": encoder}))
    assert cells.obsm["X_scgpt"].shape == (12, VECTOR)
    bsc.tl.annotate(cells, reasoning=None)
    assert_same_labels(expected, cells.obs)


# --- containers ------------------------------------------------------------------------------------------------------


def test_the_result_lands_in_the_modality(cells):
    expected = labelled(cells)
    mdata = md.MuData({"rna": cells})
    assert bsc.tl.annotate(mdata, reasoning=None) is None
    assert_same_labels(expected, mdata["rna"].obs)


def test_a_file_on_disk(cells, tmp_path):
    expected = labelled(cells)
    ad.AnnData(csr_matrix(cells.X), obs=cells.obs, var=cells.var).write_h5ad(tmp_path / "b.h5ad")
    content = (tmp_path / "b.h5ad").read_bytes()
    backed = ad.read_h5ad(tmp_path / "b.h5ad", backed="r")
    bsc.tl.annotate(backed, reasoning=None)
    assert_same_labels(expected, backed.obs)
    backed.file.close()
    assert (tmp_path / "b.h5ad").read_bytes() == content


def test_scaled_x_with_raw(pbmc):
    some = pbmc[:5].copy()
    before = some.copy()
    bsc.tl.annotate(some)
    assert differences(before, some) == SLOTS
    assert some.uns["bioverse"]["embed"]["source"] == "raw"


def test_a_view_stays_a_view(cells):
    view = cells[:5]
    with pytest.raises(ValueError, match=r"adata = adata\.copy\(\)"):
        bsc.tl.annotate(view)
    assert view.is_view


# --- empty cells -----------------------------------------------------------------------------------------------------


def test_an_empty_cell_is_unknown_and_the_others_are_as_before(annotated, pbmc, log):
    cells = pbmc.raw.to_adata()[annotated.obs_names[:4]].copy()
    matrix = csr_matrix(cells.X).toarray()
    matrix[1] = 0
    cells.X = csr_matrix(matrix)
    with bsc.settings.override(verbosity="warning"):
        bsc.tl.annotate(cells)
    assert len(log) == 1
    assert log[0].levelno == logging.WARNING
    obs = cells.obs.iloc[1]
    assert (obs["bioverse_label"], obs["bioverse_label_id"], obs["bioverse_confidence"]) == ("unknown", "", 0)
    assert (obs["bioverse_reasoning"], obs["bioverse_genes_supported"], obs["bioverse_genes_unsupported"]) == ("", 0, 0)
    others = [0, 2, 3]
    for name in ("label", "reasoning", "genes_supported", "genes_unsupported"):
        column = f"bioverse_{name}"
        assert cells.obs[column].tolist()[0] == annotated.obs[column].tolist()[0]
        assert [cells.obs[column].tolist()[i] for i in others] == [annotated.obs[column].tolist()[i] for i in others]
    np.testing.assert_allclose(
        cells.obs["bioverse_confidence"].iloc[others], annotated.obs["bioverse_confidence"].iloc[others], atol=1e-4
    )


def test_one_cell_is_enough(cells):
    one = cells[:1].copy()
    bsc.tl.annotate(one, reasoning=None)
    assert_same_labels(one.obs, labelled(cells).iloc[:1])


# --- genes -----------------------------------------------------------------------------------------------------------


KNOWN = {
    "CD4",
    "CD8A",
    "BEST4",
    "HLA-DRA",
    "CD19",
    "MS4A1",
    "T",
    "B",
    "NKX2-1",
    "AC012.3",
    "PVALB",
    "SST",
    "WAS",
    "REST",
}


@pytest.mark.parametrize(
    ("text", "genes"),
    [
        ("It expresses CD19, MS4A1 and HLA-DRA.", {"CD19", "MS4A1", "HLA-DRA"}),
        ("CD19 (CD19), CD19; CD19.", {"CD19"}),
        ("High NKX2-1; AC012.3.", {"NKX2-1", "AC012.3"}),
        ("A CD4-positive, alpha-beta memory T cell.", set()),
        ("BEST4+ intestinal epithelial cell, human", set()),
        ("CD4+ T cells without CD8A.", {"CD8A"}),
        ("no genes at all", set()),
        ("cd19 is written in small letters", set()),
        ("CD190 is another gene", set()),
        ("", set()),
    ],
)
def test_genes_named_in_a_text(text, genes):
    assert named_genes(text, KNOWN) - {"T", "B"} == genes


def test_words_of_cell_types_are_not_genes():
    """T and B are old names of TBXT and others: in 'T cell' they name no gene."""
    known = set(known_symbols([]))
    assert named_genes("This is a T cell, not a B cell: it expresses CD3E, a marker of T cells.", known) == {"CD3E"}


def test_the_names_of_labels_are_not_genes(mini):
    known = set(known_symbols(mini.encoders["rna"].genes))
    wrong = {label: found for label in mini.config.labels if (found := named_genes(label, known))}
    # this one is named after the gene
    assert wrong.keys() <= {"VIP GABAergic cortical interneuron"}


def test_counts_of_genes_fit_the_text_and_the_cell(annotated):
    expressed = csr_matrix(annotated.X).toarray() > 0
    names = list(annotated.var_names)
    for i in range(annotated.n_obs):
        obs = annotated.obs.iloc[i]
        claims = claims_of(obs["bioverse_reasoning"], known_symbols(names), label=obs["bioverse_label"])
        markers = cell_ontology().known_markers(obs["bioverse_label_id"]) if obs["bioverse_label_id"] else {}
        direct = sum(
            not claim.absent
            and claim.gene in names
            and expressed[i, names.index(claim.gene)]
            and (claim.gene in markers or not claim.marker or not markers)
            for claim in claims
        )
        assert obs["bioverse_genes_supported"] + obs["bioverse_genes_unsupported"] == len(claims)
        # one may go by another name in the encoder or in the marker table; a missing gene counts besides
        n_absent = sum(claim.absent for claim in claims)
        assert direct - 1 <= obs["bioverse_genes_supported"] <= direct + n_absent + 1


# --- clusters and budgets
# ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clustered(annotated):
    """Cells of two clusters, one of them in the order of the labels."""
    adata = annotated.copy()
    half = np.arange(adata.n_obs) % 2
    adata.obs["leiden"] = pd.Categorical(np.where(half, "one", "two"))
    return adata


def test_a_cluster_has_one_label_the_mean_of_its_cells(clustered, mini):
    found = bsc.tl.annotate(clustered, by="cluster", reasoning=None, min_confidence=0, copy=True).obs
    columns = [*(label for label in mini.config.labels if label != "unknown"), "unknown"]
    p = label_probabilities(mini, clustered.obsm["X_scgpt"], columns, closed=True)
    for cluster in ("one", "two"):
        inside = (clustered.obs["leiden"] == cluster).to_numpy()
        mean = p[inside].mean(axis=0)
        assert set(found["bioverse_label"][inside]) == {columns[mean.argmax()]}
        expected = apply_calibration(mean.max().clip(0, 1), *mini.config.calibration)
        np.testing.assert_allclose(found["bioverse_confidence"][inside], expected, atol=1e-4)


def test_clusters_have_different_labels(annotated, mini):
    labels = ["CD14-positive monocyte", "memory B cell", "platelet"]
    adata = annotated[annotated.obs_names[:3]].copy()
    adata.obs["leiden"] = ["a", "b", "c"]
    found = bsc.tl.annotate(adata, labels=labels, by="cluster", unique=True, reasoning=None, copy=True)
    assert sorted(found.obs["bioverse_label"].astype(str)) == sorted(labels)
    assert found.uns["bioverse"]["annotate"]["unique"]
    p = label_probabilities(mini, adata.obsm["X_scgpt"], [*labels, "unknown"], whole=True).astype(float)
    assert (p > 0).all(), "what none is likely for is compared too"
    orders = [list(order) for order in itertools.permutations(range(3))]
    best = max(orders, key=lambda order: np.log(p[range(3), order] + 1e-30).sum())
    assert found.obs["bioverse_label"].astype(str).tolist() == [labels[j] for j in best]
    expected = apply_calibration(p[range(3), best].clip(0, 1), *mini.config.calibration)
    np.testing.assert_allclose(found.obs["bioverse_confidence"], expected, atol=1e-4)
    # what is not certain gives way when it is asked for
    strict = bsc.tl.annotate(
        adata, labels=labels, by="cluster", unique=True, reasoning=None, min_confidence=0.9, copy=True
    ).obs
    assert (strict["bioverse_label"] == "unknown").any()


def test_more_clusters_than_labels_are_an_error_with_both_numbers(annotated):
    adata = annotated.copy()
    adata.obs["leiden"] = [str(i) for i in range(adata.n_obs)]
    before = adata.copy()
    with pytest.raises(ValueError, match=r"8 clusters in \.obs\['leiden'\] and 3 labels"):
        bsc.tl.annotate(adata, labels=[*BLOOD, "Unknown"], by="cluster", unique=True)
    assert differences(before, adata) == set()


def test_a_text_for_each_cluster_and_label(clustered):
    found = bsc.tl.annotate(clustered, reasoning="cluster", copy=True).obs
    assert (found["bioverse_reasoning_of"].astype(str) == clustered.obs["leiden"].astype(str)).all()
    texts = found.groupby(["leiden", "bioverse_label"], observed=True)["bioverse_reasoning"]
    assert (texts.nunique() == 1).all()
    assert (found["bioverse_reasoning"] != "").all()
    bsc.tl.annotate(clustered, reasoning=None)
    assert "bioverse_reasoning_of" not in clustered.obs


@pytest.mark.parametrize("by", ["cell", "cluster"])
def test_claims_about_clusters_are_looked_up_where_they_were_counted(clustered, by):
    found = bsc.tl.annotate(clustered, by=by, reasoning="cluster", copy=True)
    bsc.tl.evidence(found)
    claims = found.uns["bioverse"]["evidence"]["claims"]
    assert set(claims["cell"]) <= {"one", "two"}
    obs = found.obs.drop_duplicates(["leiden", "bioverse_label"])
    counts = claims.groupby(["cell", "label"], observed=True)["supported"].agg(["sum", "size"])
    for row in obs.itertuples():
        n_supported, n = counts.loc[(row.leiden, row.bioverse_label)]
        assert (row.bioverse_genes_supported, row.bioverse_genes_unsupported) == (n_supported, n - n_supported)


def test_a_budget_of_texts_is_kept_and_each_text_is_about_the_own_label(annotated):
    n_labels = annotated.obs["bioverse_label"].nunique()
    found = bsc.tl.annotate(annotated, max_cells_to_generate=n_labels + 1, copy=True).obs
    written = found["bioverse_reasoning_of"].astype(str)
    assert written.nunique() == n_labels + 1
    label = found["bioverse_label"].astype(str)
    assert (label.loc[written].to_numpy() == label.to_numpy()).all()
    of_itself = written == found.index
    assert of_itself.sum() == n_labels + 1
    assert (found["bioverse_reasoning"][of_itself] == annotated.obs["bioverse_reasoning"][of_itself]).all()


def test_a_budget_smaller_than_the_labels_says_which_cells_have_no_text(annotated, log):
    assert annotated.obs["bioverse_label"].nunique() > 1
    found = bsc.tl.annotate(annotated, max_cells_to_generate=1, copy=True).obs
    without = found["bioverse_reasoning"] == ""
    assert without.any()
    assert (found["bioverse_reasoning_of"][without].astype(str) == "").all()
    assert any(f"{without.sum()} cells have labels" in record.getMessage() for record in log)


def test_smoothing_without_a_graph_says_how_to_make_one(cells):
    del cells.obsp["connectivities"]
    before = cells.copy()
    with pytest.raises(KeyError, match=r"no neighbours graph.*sc\.pp\.neighbors"):
        bsc.tl.annotate(cells, smooth=True)
    assert differences(before, cells) == set()


def test_smoothing_follows_the_graph(annotated):
    """A cell among cells of one label takes it over; without links nothing changes."""
    adata = annotated.copy()
    n = adata.n_obs
    adata.obsp["connectivities"] = csr_matrix((n, n), dtype=np.float32)
    assert_same_labels(labelled(adata, smooth=True), labelled(adata))
    odd = np.flatnonzero((adata.obs["bioverse_label"] != adata.obs["bioverse_label"].iloc[0]).to_numpy())[0]
    same = np.flatnonzero((adata.obs["bioverse_label"] == adata.obs["bioverse_label"].iloc[0]).to_numpy())
    links = np.zeros((n, n), dtype=np.float32)
    links[odd, same] = links[same, odd] = 1
    adata.obsp["connectivities"] = csr_matrix(links)
    own = adata.obs["bioverse_label"].iloc[odd]
    smoothed = labelled(adata, smooth=True, min_confidence=0).iloc[odd]
    plain = labelled(adata, min_confidence=0).iloc[odd]
    assert smoothed["bioverse_label"] != own or smoothed["bioverse_confidence"] < plain["bioverse_confidence"]


def test_a_model_without_labels_asks_for_them(cells):
    with pytest.raises(ValueError, match=r"no label set of its own; name the labels"):
        bsc.tl.annotate(cells, model=make_model(labels=()), reasoning=None)


# --- representatives, levels, probabilities ---------------------------------------------------------------------------


def test_by_default_a_text_is_about_a_cell_that_speaks_for_others(cells):
    each = bsc.tl.annotate(cells, reasoning="cell", copy=True).obs
    assert "bioverse_reasoning_of" not in each
    found = bsc.tl.annotate(cells, max_cells_to_generate=7, copy=True).obs
    of = found["bioverse_reasoning_of"].astype(str)
    written = sorted(set(of) - {""})
    assert len(written) == 7
    assert found.loc[written, "bioverse_reasoning"].tolist() == each.loc[written, "bioverse_reasoning"].tolist()
    has_text = of != ""
    assert found["bioverse_reasoning"][has_text].tolist() == each["bioverse_reasoning"][of[has_text]].tolist()
    assert (
        found["bioverse_label"].astype(str)[has_text].tolist()
        == found["bioverse_label"].astype(str)[of[has_text]].tolist()
    )
    few = bsc.tl.annotate(cells, copy=True).obs
    assert few["bioverse_reasoning"].tolist() == each["bioverse_reasoning"].tolist(), "fewer cells than the budget"


def test_every_label_of_every_cluster_is_spoken_for(pbmc):
    adata = pbmc.raw.to_adata()[:200].copy()
    adata.obs["leiden"] = adata.obs["louvain"]
    bsc.tl.annotate(adata, max_cells_to_generate=100)
    pairs = set(zip(adata.obs["bioverse_label"].astype(str), adata.obs["leiden"].astype(str), strict=True))
    chosen = adata.obs.loc[sorted(set(adata.obs["bioverse_reasoning_of"].astype(str)) - {""})]
    assert set(zip(chosen["bioverse_label"].astype(str), chosen["leiden"].astype(str), strict=True)) == pairs
    assert adata.uns["bioverse"]["annotate"]["groupby"] == "leiden"


def test_a_cluster_column_with_gaps_is_no_hindrance(cells):
    cells.obs["leiden"] = pd.Categorical(["0", None] * 6)
    bsc.tl.annotate(cells)
    assert cells.uns["bioverse"]["annotate"]["groupby"] == ""


def test_broad_types_are_written_beside_the_labels(cells):
    bsc.tl.annotate(cells, levels=("fine", "coarse"), reasoning=None)
    obs = cells.obs
    one_level = labelled(cells)
    assert obs["bioverse_label"].tolist() == one_level["bioverse_label"].tolist()
    ontology = cell_ontology()
    for label, coarse, term in zip(
        obs["bioverse_label"], obs["bioverse_label_coarse"], obs["bioverse_label_coarse_id"], strict=True
    ):
        if label != "unknown":
            assert term in ontology.ancestors(ontology.find(label))
            assert ontology.names[term] == coarse
    assert (obs["bioverse_confidence_coarse"] >= obs["bioverse_confidence"] - 1e-6).mean() > 0.9
    bsc.tl.annotate(cells, reasoning=None)
    assert "bioverse_label_coarse" not in cells.obs


@pytest.mark.parametrize("levels", ["coarse", ("coarse",), ("fine", "lineage"), ()])
def test_unknown_levels_are_an_error(levels, cells):
    with pytest.raises(ValueError, match=r"levels is .*expected \('fine',\) or \('fine', 'coarse'\)"):
        bsc.tl.annotate(cells, levels=levels)


def test_all_probabilities_on_request(cells, mini):
    bsc.tl.annotate(cells, probabilities=True, n_runner_up=1, reasoning=None)
    found = cells.obsm["bioverse_probabilities"]
    labels = list(cells.uns["bioverse"]["annotate"]["labels"])
    assert found.shape == (cells.n_obs, len(labels))
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.asarray(found.sum(axis=1)).ravel(), 1, atol=1e-5)
    vectors = cells.obsm["X_scgpt"]
    np.testing.assert_allclose(
        found.toarray(), label_probabilities(mini, vectors, labels, batch_size=128, closed=True), atol=1e-5
    )
    bsc.tl.annotate(cells, reasoning=None)
    assert "bioverse_probabilities" not in cells.obsm
