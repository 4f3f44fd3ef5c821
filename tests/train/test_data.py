from collections import Counter

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioverse_sc.models import Answer, Entity, Text
from bioverse_sc.ontology import cell_ontology
from bioverse_sc.train import Example, balanced_weights, batch_indices, descriptions, examples, split

PROMPT = "A cell of the {tissue}: [BIO:rna] Type?"


def make_adata(names, **columns):
    return ad.AnnData(np.zeros((len(names), 2), dtype=np.float32), obs=pd.DataFrame(columns, index=list(names)))


@pytest.fixture
def cells():
    return make_adata(
        "abcd",
        cell_type=pd.Categorical(["B cell", "T cell", None, "monocyte"]),
        tissue=["blood", "skin", "blood", "lung"],
        n=np.array([3, 1, 4, 1]),
        share=np.array([0.1, 0.5, 0.25, 0.2], dtype=np.float32),
        dead=[True, False, True, False],
    )


@pytest.fixture
def both(cells):
    """Cells a to d and proteins e, d, b: other observations, in another order."""
    protein = make_adata("edb", family=["kinase", "ligase", None], n=[7, 8, 9], donor_id=["D1", "D2", "D3"])
    protein.var_names = ["P1", "P2"]
    return md.MuData({"rna": cells, "protein": protein})


def words(example):
    """Prompt and answer, with the places of entities."""
    return "".join(f"<{s.mod}>" if isinstance(s, Entity) else s.text for s in example.segments)


# split


def donors_of(obs, rows, key="donor_id"):
    return set(obs[key].iloc[rows])


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=60).filter(lambda d: len(set(d)) > 1),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
    st.sampled_from([str, int, float]),
)
def test_no_donor_is_on_both_sides(donors, share, seed, kind):
    obs = pd.DataFrame({"donor_id": [kind(d) for d in donors]})
    trained, held_out = split(obs, validation=share, seed=seed)
    assert not donors_of(obs, trained) & donors_of(obs, held_out)
    assert sorted([*trained, *held_out]) == list(range(len(obs)))
    assert list(trained) == sorted(trained)
    assert list(held_out) == sorted(held_out)
    n_donors, n_held_out = len(set(donors)), len(donors_of(obs, held_out))
    assert n_held_out == min(max(1, round(share * n_donors)), n_donors - 1)
    # the choice is of donors, however their observations lie
    order = np.random.default_rng(0).permutation(len(obs))
    _, again = split(obs.iloc[order], validation=share, seed=seed)
    assert donors_of(obs.iloc[order], again) == donors_of(obs, held_out)


def test_the_seed_decides_and_every_donor_is_drawn_as_often(log):
    obs = pd.DataFrame({"patient": pd.Categorical([f"P{i % 10}" for i in range(40)])})
    held_out = [donors_of(obs, split(obs, validation=0.2, seed=seed)[1], "patient") for seed in range(300)]
    assert held_out[7] == donors_of(obs, split(obs, validation=0.2, seed=7)[1], "patient")
    assert all(len(donors) == 2 for donors in held_out)
    drawn = Counter(donor for donors in held_out for donor in donors)
    assert len(drawn) == 10
    assert min(drawn.values()) > 35
    assert max(drawn.values()) < 90
    assert len({frozenset(donors) for donors in held_out}) > 35, "all pairs of donors can be drawn"
    assert not log


def test_the_donor_column_is_the_named_one_or_the_first_known():
    obs = pd.DataFrame({"donor": ["a", "a", "b", "b"], "donor_id": ["x", "y", "x", "y"], "mouse": ["1", "2", "2", "1"]})
    for key, named in [("donor_id", None), ("donor", "donor"), ("mouse", "mouse")]:
        _, held_out = split(obs, donor_key=named)
        assert len(donors_of(obs, held_out, key)) == 1
        assert len(held_out) == 2


@pytest.mark.parametrize("empty", [np.nan, None, pd.NA, ""])
def test_observations_without_a_donor_are_never_validated_on(empty, log):
    obs = pd.DataFrame({"donor_id": ["a", empty, "b", empty, "c"]}, dtype=object)
    for seed in range(5):
        trained, held_out = split(obs, validation=0.4, seed=seed)
        assert {1, 3} <= set(trained)
        assert len(held_out) == 1
    assert log[0].levelname == "WARNING"
    assert "2 of 5 observations have no donor" in log[0].getMessage()


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({}, "there is no donor column"),
        ({"donor_id": "only"}, "there is one donor, 'only'"),
        ({"donor_id": None}, "the column 'donor_id' is empty"),
    ],
)
def test_without_donors_observations_are_drawn_by_class_with_a_warning(columns, why, log):
    labels = np.random.default_rng(0).permutation(["a"] * 50 + ["b"] * 30 + ["c"] * 19 + ["d"])
    obs = pd.DataFrame({"label": labels, **columns})
    drawn = set()
    for seed in range(20):
        trained, held_out = split(obs, validation=0.1, labels_key="label", seed=seed)
        assert sorted([*trained, *held_out]) == list(range(100))
        counts = Counter(labels[held_out])
        assert (counts["a"], counts["b"]) == (5, 3)
        assert counts["c"] + counts["d"] == 2
        drawn.add(tuple(held_out))
    assert len(drawn) == 20
    assert why in log[0].getMessage()
    assert "donor_key" in log[0].getMessage()
    assert len(split(obs, validation=0.25)[1]) == 25


def test_classes_may_be_missing_or_of_one_observation():
    obs = pd.DataFrame({"label": pd.Categorical(["a", None, "b", "c", None])})
    trained, held_out = split(obs, validation=0.4, labels_key="label")
    assert (len(trained), len(held_out)) == (3, 2)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_each_side_of_a_small_split_gets_something(share):
    for columns in ({}, {"donor_id": ["a", "b"]}):
        assert [len(side) for side in split(pd.DataFrame(columns, index=[0, 1]), validation=share)] == [1, 1]


@pytest.mark.parametrize("n", [0, 1])
def test_less_than_two_observations_cannot_be_split(n):
    with pytest.raises(ValueError, match=f"nothing to split: {n} observations"):
        split(pd.DataFrame({"donor_id": ["a"] * n}))


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, np.nan])
def test_the_share_lies_between_0_and_1(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        split(pd.DataFrame({"donor_id": ["a", "b"]}), validation=share)


def test_unknown_columns_of_a_split_are_named(cells):
    for keys in ({"donor_key": "pig"}, {"labels_key": "pig"}):
        with pytest.raises(KeyError, match=r"'pig' in .obs; there are \['cell_type'"):
            split(cells, **keys)


def test_donors_of_a_mudata_may_lie_in_its_modalities(both, log):
    both["rna"].obs["donor_id"] = ["D1", "D2", "D3", "D1"]
    both.obs = pd.DataFrame(index=both.obs_names)
    # d is of two donors; that of the first modality counts
    donors = {"a": "D1", "b": "D2", "c": "D3", "d": "D1", "e": "D1"}
    for seed in range(5):
        trained, held_out = split(both, seed=seed)
        of = [{donors[name] for name in both.obs_names[rows]} for rows in (trained, held_out)]
        assert not of[0] & of[1]
        assert len(of[1]) == 1
    assert not log
    both.obs["donor_id"] = list("xxxyy")
    assert len(split(both)[1]) in (2, 3), "a column of the container is the first"
    _, held_out = split(both, donor_key="protein:donor_id", validation=0.3)
    assert set(both.obs_names[held_out]) <= {"b", "d", "e"}
    assert "have no donor" in log[-1].getMessage()


def test_adata_and_its_table_are_split_alike(cells):
    cells.obs["donor"] = list("xxyz")
    for one, two in zip(split(cells), split(cells.obs), strict=True):
        np.testing.assert_array_equal(one, two)


# balance


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_a_class_weighs_a_power_of_its_size(strength):
    labels = ["a"] * 80 + ["b"] * 15 + [3] * 5
    for given_as in (labels, np.array(labels, dtype=object), pd.Series(labels, index=labels), pd.Categorical(labels)):
        weights = balanced_weights(given_as, strength=strength)
        sums = [weights[:80].sum(), weights[80:95].sum(), weights[95:].sum()]
        np.testing.assert_allclose(sums, np.array([80, 15, 5.0]) ** (1 - strength))
        assert len(np.unique(weights)) == (1 if strength == 0 else 3)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_a_missing_label_is_no_class(missing):
    with pytest.raises(ValueError, match="1 of 3 labels are missing"):
        balanced_weights(["a", missing, "a"])


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_strength_lies_between_0_and_1(strength):
    with pytest.raises(ValueError, match="expected 0 to 1"):
        balanced_weights(["a"], strength=strength)
    assert balanced_weights([]).shape == (0,)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("lengths", [False, True])
def test_classes_are_drawn_as_promised_and_each_step_alone(strength, lengths):
    labels = np.array(["a"] * 80 + ["b"] * 15 + ["c"] * 5)
    n_tokens = np.random.default_rng(0).integers(3, 30, len(labels)) if lengths else None
    weights = balanced_weights(labels, strength=strength)
    draw = lambda step: batch_indices(100, 10, step, 0, n_tokens, weights)
    steps = [draw(step) for step in range(640)]
    for step in (639, 3, 64):
        np.testing.assert_array_equal(draw(step), steps[step])
    drawn = np.concatenate(steps)
    expected = np.array([80, 15, 5.0]) ** (1 - strength)
    found = [(labels[drawn] == label).mean() for label in "abc"]
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.01)
    for label in "abc":
        times = Counter(drawn[labels[drawn] == label])
        assert len(times) == (labels == label).sum(), "every observation is drawn"
        mean = sum(times.values()) / len(times)
        assert all(abs(n - mean) < 5 * mean**0.5 for n in times.values())


# descriptions


def test_names_synonyms_and_ids_have_one_description(log):
    ontology = cell_ontology()
    term = ontology.find("T cell")
    obs = pd.DataFrame({"cell_type": pd.Categorical(["T cell", "T lymphocyte", term, "t-cells", "B cell", "T cell"])})
    found = descriptions(obs)
    assert list(found.text_of) == [0, 0, 0, 0, 1, 0]
    assert found.text_of.dtype == np.int64
    assert found.texts == [ontology.describe(term), ontology.describe(ontology.find("B cell"))]
    assert "Markers: " in found.texts[0]
    assert ontology.definitions[term] in found.texts[0]
    assert not log


def test_unknown_labels_stand_for_themselves_and_are_listed(log):
    obs = pd.DataFrame({"kind": ["B cell", "blob 7", "{name} [BIO]", "blob 7"]})
    found = descriptions(obs, labels_key="kind", template="{name}: {description}")
    assert found.texts[1:] == ["blob 7: blob 7.", "{name} [BIO]: {name} [BIO]."]
    assert list(found.text_of) == [0, 1, 2, 1]
    (record,) = log
    assert record.levelname == "WARNING"
    assert "2 of 3 labels in 'kind'" in record.getMessage()
    assert "blob 7, {name} [BIO]" in record.getMessage()


def test_templates_hold_columns_beside_the_ontology(cells):
    obs = cells.obs.iloc[[0, 1, 3]]
    found = descriptions(obs, template="{name} of {tissue}, {n}, {share}, {dead}")
    assert found.texts == [
        "B cell of blood, 3, 0.1, True",
        "T cell of skin, 1, 0.5, False",
        "monocyte of lung, 1, 0.2, False",
    ]
    assert list(obs.columns) == list(cells.obs.columns), "the caller's table stays as it is"


def test_the_ontology_stands_before_a_column_of_its_name():
    obs = pd.DataFrame({"cell_type": ["B cell"], "name": ["own"], "description": ["words"]})
    assert descriptions(obs, template="{name}").texts == ["B cell"]
    assert descriptions(obs, labels_key=None, template="{name}, {description}").texts == ["own, words"]


@pytest.mark.parametrize("empty", [np.nan, None, "", "  "])
def test_entities_without_a_text_are_an_error(empty):
    obs = pd.DataFrame({"cell_type": ["B cell", empty, "T cell"], "family": ["x", empty, "y"]})
    with pytest.raises(ValueError, match=r"1 of 3 entities have no text.*number 1"):
        descriptions(obs, labels_key=None, template="{family}")
    if not isinstance(empty, str) or not empty:
        with pytest.raises(ValueError, match="1 of 3 entities have no text"):
            descriptions(obs)
        assert len(descriptions(obs.iloc[[0, 2]]).texts) == 2


def test_unknown_columns_of_descriptions_are_named():
    obs = pd.DataFrame({"kind": ["B cell"]})
    with pytest.raises(KeyError, match=r"'cell_type'.*\['kind'\]"):
        descriptions(obs)
    with pytest.raises(KeyError, match="'tissue'"):
        descriptions(obs, labels_key="kind", template="{name} of {tissue}")
    with pytest.raises(KeyError, match="'name'"):
        descriptions(obs, labels_key=None, template="{name}")


def test_no_entities_have_no_texts():
    found = descriptions(pd.DataFrame({"cell_type": pd.Series([], dtype=object)}))
    assert (found.texts, len(found.text_of)) == ([], 0)


# examples


def test_examples_are_filled_from_columns(cells, log):
    found = examples(cells, prompt=PROMPT, answer="{cell_type} ({n}, {share}, {dead})")
    assert [words(e) for e in found] == [
        "A cell of the blood: <rna> Type?B cell (3, 0.1, True)",
        "A cell of the skin: <rna> Type?T cell (1, 0.5, False)",
        "A cell of the lung: <rna> Type?monocyte (1, 0.2, False)",
    ]
    assert [e.rows for e in found] == [(0,), (1,), (3,)]
    assert found[0] == Example(
        [Text("A cell of the blood: "), Entity("rna"), Text(" Type?"), Answer("B cell (3, 0.1, True)")], (0,)
    )
    assert log[0].levelname == "WARNING"
    assert "1 of 4 observations are left out" in log[0].getMessage()


@pytest.mark.parametrize(
    "value", ["[BIO]", "[BIO:rna]", "{tissue}", "{", "}}{", "\\1 \\g<0>", 'say "hi"', "it's\n[BIO:x]", "<|end|>"]
)
def test_a_value_may_hold_any_text(value):
    adata = make_adata("a", tissue=[value], label=[value])
    (example,) = examples(adata, prompt="{tissue}[BIO]{tissue} {label}", answer="{label}!")
    assert example.segments == [Text(value), Entity("rna"), Text(f"{value} {value}"), Answer(f"{value}!")]


def test_an_empty_answer_is_left_out_but_a_prompt_may_be_empty_there(log):
    adata = make_adata("abc", note=["", "x", ""], label=["B", " ", ""])
    found = examples(adata, prompt="{note}[BIO]", answer="{label}")
    assert [words(e) for e in found] == ["<rna>B"]
    assert "2 of 3" in log[0].getMessage()


def test_rows_may_be_numbers_or_a_mask(cells):
    ask = lambda rows: [e.rows[0] for e in examples(cells, prompt="[BIO]", answer="{tissue}", rows=rows)]
    assert ask(None) == [0, 1, 2, 3]
    assert ask(np.array([3, 1])) == [3, 1]
    assert ask([3, 1, 1]) == [3, 1, 1]
    assert ask(cells.obs["tissue"] == "blood") == [0, 2]
    assert ask(np.array([True, False, False, True])) == [0, 3]
    assert ask([]) == []
    with pytest.raises(IndexError):
        ask([4])


def test_a_split_gives_the_rows_of_examples(cells):
    cells.obs["donor"] = list("xxyz")
    sides = [
        {e.rows[0] for e in examples(cells, prompt="[BIO]", answer="{tissue}", rows=rows)} for rows in split(cells)
    ]
    assert sorted([*sides[0], *sides[1]]) == [0, 1, 2, 3]


def test_names_of_observations_may_repeat_in_an_adata(cells):
    cells.obs_names = list("xxyy")
    found = examples(cells, prompt="[BIO]", answer="{n}")
    assert [(e.rows, e.segments[-1].text) for e in found] == [((0,), "3"), ((1,), "1"), ((2,), "4"), ((3,), "1")]


def test_examples_from_a_file_of_anndata_are_the_same(cells, tmp_path):
    cells.obs["maybe"] = pd.array([1, None, 3, 4], dtype="Int64")
    cells.write_h5ad(tmp_path / "a.h5ad")
    asked = {"prompt": "{tissue} [BIO]", "answer": "{cell_type} {maybe} {n} {share} {dead}"}
    stored = examples(ad.read_h5ad(tmp_path / "a.h5ad"), **asked)
    assert stored == examples(cells, **asked)
    assert [words(e) for e in stored] == ["blood <rna>B cell 1 3 0.1 True", "lung <rna>monocyte 4 1 0.2 False"]
    assert examples(cells[[3, 0]], **asked) == [Example(e.segments, (i,)) for i, e in enumerate(stored[::-1])]


def test_an_entity_stands_at_all_places_of_its_modality(cells):
    found = examples(cells, prompt="[BIO] and again [BIO:rna]", answer="{tissue}", rows=[2])
    assert words(found[0]) == "<rna> and again <rna>blood"
    assert found[0].rows == (2, 2)


def test_a_prompt_needs_no_entity(cells, both):
    assert words(examples(cells, prompt="{tissue}?", answer="{n}")[1]) == "skin?1"
    assert [words(e) for e in examples(both, prompt="{rna:tissue}?", answer="{rna:n}")] == [
        "blood?3",
        "skin?1",
        "blood?4",
        "lung?1",
    ]


def test_missing_columns_and_modalities_are_named(cells, both):
    with pytest.raises(KeyError, match=r"'pig'.*'cell_type'"):
        examples(cells, prompt="[BIO] {pig}", answer="x")
    with pytest.raises(KeyError, match=r"'pig'.*'protein:family'"):
        examples(both, prompt="[BIO] {pig}", answer="x")
    with pytest.raises(KeyError, match=r"'protein:pig'"):
        examples(both, prompt="[BIO]", answer="{protein:pig}")
    with pytest.raises(KeyError, match=r"\['protein'\], but the data have \['rna'\]"):
        examples(cells, prompt="[BIO:protein]", answer="x")
    with pytest.raises(KeyError, match=r"\['atac'\], but the data have \['rna', 'protein'\]"):
        examples(both, prompt="[BIO:atac]", answer="x")


@pytest.mark.parametrize("copied", ["as mudata does", "nothing", "stale"])
def test_a_mudata_joins_modalities_by_name(copied, both, log):
    if copied == "nothing":
        both.obs = pd.DataFrame(index=both.obs_names)
    elif copied == "stale":
        both.obs = pd.DataFrame({"rna:cell_type": "old", "rna:n": 99, "protein:n": 99}, index=both.obs_names)
    both.obs["place"] = [f"P{name}" for name in both.obs_names]
    prompt = "{place} [BIO:rna] {rna:n} [BIO:protein] {protein:n}"
    found = examples(both, prompt=prompt, answer="{rna:cell_type}")
    assert [words(e) for e in found] == ["Pb <rna> 1 <protein> 9T cell", "Pd <rna> 1 <protein> 8monocyte"]
    assert [e.rows for e in found] == [(1, 2), (3, 1)], "rows of each modality's own arrays"
    assert "3 of 5" in log[-1].getMessage()
    found = examples(both, prompt="[BIO:protein]", answer="{protein:family} {protein:n}")
    assert {words(e): e.rows for e in found} == {"<protein>kinase 7": (0,), "<protein>ligase 8": (1,)}
    assert [words(e) for e in examples(both, prompt="[BIO]", answer="{dead}")] == [
        "<rna>True",
        "<rna>False",
        "<rna>True",
        "<rna>False",
    ]
    assert words(examples(both, prompt="[BIO]", answer="{family}", mod="protein")[-1]).startswith("<protein>")


def test_rows_of_a_mudata_are_its_own(both):
    row = list(both.obs_names).index("d")
    (found,) = examples(both, prompt="[BIO:protein][BIO:rna]", answer="{rna:tissue}", rows=[row])
    assert found.rows == (1, 3)


def test_a_mudata_from_a_file_gives_the_same(both, tmp_path):
    both.write_h5mu(tmp_path / "a.h5mu")
    asked = {"prompt": "[BIO] {rna:n} [BIO:protein]", "answer": "{rna:cell_type} {protein:donor_id}"}
    assert examples(md.read_h5mu(tmp_path / "a.h5mu"), **asked) == examples(both, **asked)


@pytest.mark.filterwarnings("ignore:.*not unique.*")
def test_a_mudata_needs_unique_names(cells):
    cells.obs_names = list("aabc")
    with pytest.raises(ValueError, match="names of 'rna' are not unique, so that 'a'"):
        examples(md.MuData({"rna": cells}), prompt="[BIO]", answer="{rna:tissue}")
