from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bioverse_sc.models import (
    Answer,
    BioVerse,
    ChatFormat,
    Entity,
    ModelConfig,
    ProjectorConfig,
    Text,
    label_prompt,
    reasoning_prompt,
)
from bioverse_sc.models._inject import IGNORED, SLOT, inject
from bioverse_sc.train import (
    Descriptions,
    EntityVectors,
    Example,
    LoraSettings,
    PairSource,
    PromptSource,
    PromptTask,
    _order,
    add_adapter,
    batch_indices,
)
from bioverse_sc.train._sources import checked_weights
from tests.tiny import CONFIGS, VECTOR, WIDTH, make_language_model, make_model, make_vectors

RNG = np.random.default_rng(0)
PROTEIN = 6
RAGGED = [make_vectors(n, seed=n, width=PROTEIN) for n in (3, 1, 5, 2)]


@pytest.fixture(scope="module")
def two():
    """A model of cells, two soft tokens for each, and of proteins, three for each vector."""
    language_model, tokenizer = make_language_model()
    shape = {"encoder": "", "encoder_fingerprint": "", "hidden_width": 8, "out_width": WIDTH}
    projectors = {
        "rna": ProjectorConfig(in_width=VECTOR, n_tokens=2, **shape),
        "protein": ProjectorConfig(in_width=PROTEIN, n_tokens=3, seed=1, **shape),
    }
    config = ModelConfig(name="two", language_model="language_model", projectors=projectors)
    return BioVerse(config, language_model, tokenizer).eval().requires_grad_(requires_grad=False)


@cache
def one_modality():
    return make_model(n_tokens=2)


def naive_inputs(model, example, vectors):
    """Input embeddings of one example, segment by segment."""
    rows, parts = iter(example.rows), []
    for segment in example.segments:
        if isinstance(segment, Entity):
            of = torch.from_numpy(np.atleast_2d(vectors[segment.mod][next(rows)]))
            parts.append(model.project(segment.mod, of).flatten(0, 1))
        else:
            text = segment.text if isinstance(segment, Text) else f" {segment.text}<|end|>"
            parts.append(model.embeddings(torch.tensor(model.tokenizer.encode(text, add_special_tokens=False))))
    return torch.cat(parts)


def batched_inputs(model, source, indices):
    """Input embeddings as training makes them, without padding."""
    batch = source.batch(np.array(indices), RNG)
    embedded = inject(model.embeddings, batch["ids"], PromptTask(model)._soft_tokens(batch))
    return [row[: source.lengths[i]] for row, i in zip(embedded, indices, strict=True)], batch


PLACES = [
    ("protein", 2),
    ("rna", 0),
    ("protein", 0),
    ("rna", 3),
    ("protein", 1),
    ("protein", 2),
]


def mixed(places):
    """An example of places and words between them."""
    segments = [part for i, (mod, _) in enumerate(places) for part in (Text(f"{i} "), Entity(mod))]
    return Example([*segments, Answer("x")], tuple(row for _, row in places))


# vectors of entities


def test_pooled_vectors_are_one_for_each_entity():
    vectors = make_vectors(5)
    of = EntityVectors("rna", vectors)
    assert (len(of), of.width, list(of.lengths)) == (5, VECTOR, [1] * 5)
    values, entity = of.take(np.array([4, 0, 4]))
    assert values.dtype == torch.float32
    np.testing.assert_array_equal(values, vectors[[4, 0, 4]])
    assert entity.tolist() == [0, 1, 2]


def test_sequences_are_taken_one_after_the_other():
    of = EntityVectors("protein", RAGGED)
    assert (len(of), of.width, list(of.lengths)) == (4, PROTEIN, [3, 1, 5, 2])
    values, entity = of.take(np.array([3, 0, 3]))
    np.testing.assert_array_equal(values, np.concatenate([RAGGED[3], RAGGED[0], RAGGED[3]]))
    assert entity.tolist() == [0, 0, 1, 1, 1, 2, 2]


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.lists(st.integers(0, 5), max_size=8))
def test_any_rows_of_any_lengths(lengths, rows):
    parts = [np.full((n, 2), i, dtype=np.float32) for i, n in enumerate(lengths)]
    rows = np.array([row % len(parts) for row in rows], dtype=np.int64)
    values, entity = EntityVectors("x", parts).take(rows)
    expected = [(row, place) for place, row in enumerate(rows) for _ in range(lengths[row])]
    assert values[:, 0].tolist() == [row for row, _ in expected]
    assert entity.tolist() == [place for _, place in expected]


def test_an_array_of_three_axes_holds_sequences_of_one_length():
    array = np.random.default_rng(0).normal(size=(4, 3, PROTEIN))
    for dtype in (np.float16, np.float32, np.float64):
        of = EntityVectors("protein", array.astype(dtype))
        assert (len(of), of.width, list(of.lengths)) == (4, PROTEIN, [3] * 4)
        values, entity = of.take(np.array([2, 1]))
        assert values.dtype == torch.float32
        np.testing.assert_array_equal(values, array[[2, 1]].reshape(6, PROTEIN).astype(dtype).astype(np.float32))
        assert entity.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("shape", [(70_000, 4), (5, 3, 4)])
def test_files_stay_files(shape, tmp_path):
    stored = np.lib.format.open_memmap(tmp_path / "v.npy", mode="w+", dtype=np.float16, shape=shape)
    stored[:] = np.arange(stored.size).reshape(shape) % 100
    stored.flush()
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    of = EntityVectors("rna", mapped)
    assert np.shares_memory(of.parts[0], mapped)
    assert np.shares_memory(EntityVectors("rna", list(mapped.reshape(-1, 1, 4))).parts[1], mapped)
    values, _ = of.take(np.array([1, len(mapped) - 1]))
    np.testing.assert_array_equal(values, np.array(mapped)[[1, -1]].reshape(-1, 4))
    stored[len(stored) - 1] = np.nan
    stored.flush()
    with pytest.raises(ValueError, match="'rna' hold NaN or infinite"):
        EntityVectors("rna", mapped)


def test_arrays_in_an_array_of_objects_are_sequences():
    parts = np.empty(4, dtype=object)
    parts[:] = RAGGED
    np.testing.assert_array_equal(EntityVectors("x", parts).take(np.array([2]))[0], RAGGED[2])


@pytest.mark.parametrize("empty", [np.zeros((0, 5)), np.zeros((0, 2, 5)), []])
def test_there_may_be_no_entities(empty):
    of = EntityVectors("x", empty)
    assert (len(of), of.width) == (0, 5 if isinstance(empty, np.ndarray) else 0)
    values, entity = of.take(np.zeros(0, dtype=np.int64))
    assert values.shape == (0, of.width)
    assert entity.shape == (0,)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros(4),
        list(np.zeros((3, 4))),
        [np.zeros((2, 4)), np.zeros((2, 5))],
        [np.zeros((2, 4)), np.zeros((0, 4))],
        [np.zeros((2, 4)), np.zeros(4)],
        np.zeros((3, 0, 4)),
        np.zeros((3, 2, 2, 4)),
        [1.0, 2.0],
    ],
    ids=str,
)
def test_other_shapes_are_an_error(wrong):
    with pytest.raises(ValueError, match=r"vectors of 'rna' must be an array of shape \(entities, width\)"):
        EntityVectors("rna", wrong)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_sequences_that_are_not_finite_are_an_error(bad):
    parts = [part.copy() for part in RAGGED]
    parts[2][4, 0] = bad
    with pytest.raises(ValueError, match="'protein' hold NaN or infinite"):
        EntityVectors("protein", parts)


# prompts with answers


@pytest.mark.parametrize("places", [PLACES, PLACES[1:2], PLACES[:1], PLACES[::-1], []], ids=len)
def test_soft_tokens_of_all_modalities_land_at_their_own_slots(places, two):
    vectors = {"rna": make_vectors(4), "protein": RAGGED}
    examples = [mixed(places), mixed(PLACES[:3]), mixed([("rna", 1)]), mixed([]), mixed(PLACES[2:])]
    for order in (["rna", "protein"], ["protein", "rna"]):
        source = PromptSource(two, examples, {mod: vectors[mod] for mod in order})
        for indices in ([0, 1, 2, 3, 4], [4, 3, 0], [1, 1], [3]):
            found, batch = batched_inputs(two, source, indices)
            for got, i in zip(found, indices, strict=True):
                torch.testing.assert_close(got, naive_inputs(two, examples[i], vectors))
            assert {key for key in batch if ":" in key} == {
                f"{what}:{mod}" for what in ("vectors", "entity", "slots") for mod in ("rna", "protein")
            }, "every process runs every projector"


def test_a_sequence_has_slots_for_each_of_its_vectors(two):
    source = PromptSource(two, [mixed([("protein", row)]) for row in range(4)], {"protein": RAGGED})
    assert [list(prompt.ids).count(SLOT) for prompt in source.prompts] == [3 * len(of) for of in RAGGED]
    assert list(source.lengths) == [3 * len(of) + len("0  x.") for of in RAGGED]
    batch = source.batch(np.array([2, 1]), RNG)
    assert int((batch["ids"] == SLOT).sum()) == 3 * 6
    assert batch["entity:protein"].tolist() == [0] * 5 + [1]


def test_texts_of_entities_follow_the_entities(two):
    source = PromptSource(
        two,
        [mixed([("protein", 2), ("rna", 1)]), mixed([("rna", 0), ("protein", 0), ("rna", 3)])],
        {"rna": make_vectors(4), "protein": RAGGED},
        text_of={"rna": [7, 8, 8, 9]},
    )
    batch = source.batch(np.array([1, 0]), RNG)
    assert batch["text_of:rna"].tolist() == [7, 9, 8]
    assert batch["text_of:rna"].dtype == torch.int64
    assert "text_of:protein" not in batch


@pytest.mark.parametrize(
    ("examples", "vectors", "what"),
    [
        ([mixed([("rna", 0)])], {"protein": RAGGED}, r"'rna' entity, but there are vectors of \['protein'\] only"),
        ([mixed([("rna", 4)])], {"rna": make_vectors(4)}, "row 4 of 'rna', but there are 4 entities"),
        ([mixed([("rna", -1)])], {"rna": make_vectors(4)}, "row -1 of 'rna'"),
        ([mixed([("rna", 0)])], {"rna": make_vectors(4, width=9)}, "width 9; its projector reads 16"),
        (
            [mixed([])],
            {"rna": make_vectors(4), "atac": make_vectors(4)},
            r"of 'atac', but the model reads only \['protein'",
        ),
        (
            [mixed([]), Example([Text("a"), Answer()])],
            {},
            "1 of 2 examples have no written answer, the first is number 1",
        ),
        ([Example([Text("a")])], {}, "1 of 1 examples have no written answer"),
    ],
)
def test_examples_vectors_and_model_must_fit(examples, vectors, what, two):
    with pytest.raises(ValueError, match=what):
        PromptSource(two, examples, vectors)


def test_descriptions_must_fit_the_vectors(two):
    vectors = {"rna": make_vectors(4)}
    with pytest.raises(ValueError, match=r"descriptions of \['protein'\], but vectors of \['rna'\] only"):
        PromptSource(two, [mixed([])], vectors, text_of={"protein": [0]})
    for make in (
        lambda: PromptSource(two, [mixed([])], vectors, text_of={"rna": [0, 1, 2]}),
        lambda: PairSource(vectors["rna"], np.array([0, 1, 2])),
    ):
        with pytest.raises(ValueError, match="4 vectors but 3 text indices"):
            make()


@pytest.mark.parametrize(
    ("texts", "text_of", "what"),
    [
        (
            ["a", "b", "a"],
            [0, 1, 2],
            "1 of the texts are there more than once, the first is 'a'.*train.descriptions does",
        ),
        (["a", "b"], [0, -1, 1], "1 of 3 text indices are not within 0 and 1"),
        (["a", "b"], [0, 2, 3], "2 of 3 text indices are not within 0 and 1"),
        ([], [0], "1 of 1 text indices"),
        (["a", "b"], [0.0, 1.0], "integers of shape .*found float64"),
        (["a", "b"], [[0, 1]], r"found int64 of shape \(1, 2\)"),
    ],
)
def test_descriptions_are_texts_once_and_indices_of_them(texts, text_of, what):
    with pytest.raises(ValueError, match=what):
        Descriptions(texts, np.array(text_of))


def test_descriptions_of_no_entities():
    assert len(Descriptions(["a", "b"], np.zeros(0, dtype=np.int64)).text_of) == 0


def test_a_text_of_many_examples_is_encoded_once(monkeypatch):
    chat = ChatFormat(start="user: ", ask="\nassistant: ", end="<|end|>", between="\nuser: ")
    for model in (make_model(), make_model(chat=chat)):
        examples = [Example(reasoning_prompt(f"type {i % 3}", ["CD19"], "a"), (0,)) for i in range(60)]
        expected = [model.tokenize(example.segments) for example in examples]
        calls, encode = [], model.tokenizer.encode

        def counted(text, *, calls=calls, encode=encode, **kwargs):
            calls.append(text)
            return encode(text, **kwargs)

        monkeypatch.setattr(model.tokenizer, "encode", counted)
        prompts = PromptSource(model, examples, {"rna": make_vectors(1)}).prompts
        assert len(calls) < 20
        for prompt, one in zip(prompts, expected, strict=True):
            assert (list(prompt.ids), list(prompt.targets), prompt.mods) == (one.ids, one.targets, one.mods)
            assert prompt.ids.dtype == prompt.targets.dtype == np.int32


@pytest.mark.parametrize("weighted", [True, False])
def test_the_order_of_an_epoch_is_drawn_once(weighted, monkeypatch):
    weights = np.random.default_rng(0).random(1000).astype(np.float32) if weighted else None
    lengths = np.arange(1000)
    draw = lambda step, lengths: batch_indices(1000, 24, step, 5, lengths, weights)
    steps = [0, 1, 41, 42, 7, 83, 84]
    remembered = [draw(step, of) for step in steps for of in (None, lengths)]
    with monkeypatch.context() as patch:
        patch.setattr(_order, "_epoch_order", _order._epoch_order.__wrapped__)
        for found, alone in zip(remembered, [draw(s, of) for s in steps for of in (None, lengths)], strict=True):
            np.testing.assert_array_equal(found, alone)
    _order._epoch_order.cache_clear()
    for step in range(40):
        draw(step, None)
    assert _order._epoch_order.cache_info().misses == 1
    if weighted:
        before = draw(0, None)
        weights[:500] = 0
        assert (draw(0, None) >= 500).all()
        assert (before < 500).any(), "weights that changed are other weights"


# too long


LONG = [
    Example([Text("Q"), Entity("rna"), Text("?"), Answer("abcdefgh")], (0,)),
    Example([Text("Q"), Entity("rna"), Text("?"), Answer("ab")], (1,)),
    Example([Text("Q"), Entity("rna"), Answer("ab"), Text("why?"), Answer("because")], (2,)),
]
# in tokens, of one byte or a soft token each: 1 + 2 + 1 + 10, + 4, and 1 + 2 + 4 + 4 + 9
LENGTHS = [14, 8, 20]


def cut_at(model, limit, examples=LONG):
    return PromptSource(model, examples, {"rna": make_vectors(3)}, max_tokens=limit, too_long="cut")


def test_what_is_too_long_is_counted_in_the_error(two):
    source = PromptSource(two, LONG, {"rna": make_vectors(3)}, max_tokens=20)
    assert list(source.lengths) == LENGTHS
    assert source.n_cut == 0
    with pytest.raises(ValueError, match="2 of 3 examples have more than max_tokens=13 tokens, the longest 20"):
        PromptSource(two, LONG, {"rna": make_vectors(3)}, max_tokens=13)


@pytest.mark.parametrize("limit", [20, 19, 14, 13, 12])
def test_only_the_end_of_the_last_answer_is_cut(limit, two, log):
    whole, cut = PromptSource(two, LONG, {"rna": make_vectors(3)}), cut_at(two, limit)
    for one, two_, length in zip(whole.prompts, cut.prompts, LENGTHS, strict=True):
        n = min(length, limit)
        np.testing.assert_array_equal(two_.ids, one.ids[:n])
        np.testing.assert_array_equal(two_.targets, one.targets[:n])
        assert two_.mods == one.mods
        lost = one.targets[n:]
        assert IGNORED not in lost
        assert SLOT not in one.ids[n:]
        assert (two_.targets[-1] == two.tokenizer.eos_token_id) == (not len(lost)), "what is cut does not end there"
        assert two_.targets[-1] != IGNORED
    assert list(cut.lengths) == [min(length, limit) for length in LENGTHS]
    assert cut.n_cut == sum(length > limit for length in LENGTHS)
    assert [record.levelname for record in log] == ["WARNING"] * (cut.n_cut > 0)
    assert not log or f"{cut.n_cut} of 3 examples have more than max_tokens={limit}" in log[0].getMessage()
    batch = cut.batch(np.arange(3), RNG)
    assert int((batch["ids"] == SLOT).sum()) == len(batch["slots:rna"]) == 6
    assert bool(torch.isfinite(PromptTask(two)(batch)["loss"]))


@pytest.mark.parametrize(
    ("limit", "n", "first"),
    [
        # the second answer would go as a whole, and then its question
        (11, 1, 2),
        (8, 1, 2),
        # within the first answer
        (6, 1, 2),
        # no answer is left
        (4, 3, 0),
        (1, 3, 0),
    ],
)
def test_a_question_is_never_cut(limit, n, first, two):
    with pytest.raises(
        ValueError, match=rf"max_tokens={limit} .* {n} of them, the first is number {first}, would lose more"
    ):
        cut_at(two, limit)


def test_soft_tokens_are_never_cut(two):
    late = Example([Text("Q"), Answer("a"), Entity("rna"), Answer("bc")], (0,))
    assert cut_at(two, 8, [late]).prompts[0].ids[-4:].tolist() == [SLOT, SLOT, *two.tokenizer.encode(" b")]
    for limit in (3, 4, 5, 6):
        with pytest.raises(ValueError, match="soft tokens"):
            cut_at(two, limit, [late])
    last = Example([Text("Q"), Answer("abc"), Entity("rna")], (0,))
    with pytest.raises(ValueError, match="soft tokens"):
        cut_at(two, 7, [last])


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from([Text("ab"), Entity("rna"), Answer("cde"), Answer("f")]), min_size=1, max_size=6),
    st.integers(1, 25),
)
def test_a_cut_keeps_all_that_is_no_answer(segments, limit):
    model = one_modality()
    n_entities = sum(isinstance(s, Entity) for s in segments)
    examples = [Example([*segments, Answer("the end")], (0,) * n_entities)]
    whole = PromptSource(model, examples, {"rna": make_vectors(1)}).prompts[0]
    try:
        source = cut_at(model, limit, examples)
    except ValueError:
        assert IGNORED in whole.targets[limit - 1 :]
        return
    kept = source.prompts[0]
    assert len(kept.ids) == min(limit, len(whole.ids))
    assert [t for t in kept.targets if t == IGNORED] == [t for t in whole.targets if t == IGNORED]
    assert list(kept.ids).count(SLOT) == 2 * n_entities


def test_an_answer_of_a_chat_is_cut_alike():
    chat = ChatFormat(start="user: ", ask="\nassistant: ", end="<|end|>", between="\nuser: ")
    model = make_model(chat=chat)
    example = Example(reasoning_prompt("B cell", ["CD19"], "CD19 marks it"), (0,))
    whole = PromptSource(model, [example], {"rna": make_vectors(1)}).prompts[0]
    n = len(whole.ids)
    np.testing.assert_array_equal(cut_at(model, n - 3, [example]).prompts[0].ids, whole.ids[:-3])
    question = len("CD19 marks it") + 1
    assert cut_at(model, n - question + 1, [example]).n_cut == 1
    with pytest.raises(ValueError, match="would lose more"):
        cut_at(model, n - question, [example])


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_language_model_has_a_limit_of_its_own(kind):
    model = make_model(kind)
    fits, longer = ([Example([Text("a" * (n - 3)), Answer("b")])] for n in (256, 257))
    assert list(PromptSource(model, fits, {}).lengths) == [256]
    with pytest.raises(ValueError, match="1 of 1 examples have more than max_position_embeddings=256 tokens"):
        PromptSource(model, longer, {}, max_tokens=512)
    add_adapter(model, LoraSettings(rank=2))
    cut = PromptSource(model, longer, {}, max_tokens=512, too_long="cut")
    assert (cut.n_cut, list(cut.lengths)) == (1, [256])
    assert bool(torch.isfinite(PromptTask(model)(cut.batch(np.array([0]), RNG))["loss"]))


def test_there_are_two_ways_with_what_is_too_long(tiny):
    with pytest.raises(ValueError, match="'truncate'; expected 'error' or 'cut'"):
        PromptSource(tiny, LONG, {"rna": make_vectors(3)}, too_long="truncate")


# weights


@pytest.mark.parametrize(
    "wrong",
    [[1.0, 2.0], [1, 1, -1], [0, 0, 0], [1, np.nan, 1], [1, np.inf, 1], [[1, 1, 1]], []],
    ids=str,
)
def test_weights_that_cannot_be_drawn_by_are_an_error(wrong, tiny):
    for make in (
        lambda: checked_weights(np.array(wrong), 3),
        lambda: PairSource(make_vectors(3), np.arange(3), weights=np.array(wrong)),
        lambda: PromptSource(tiny, LONG, {"rna": make_vectors(3)}, weights=np.array(wrong)),
    ):
        with pytest.raises(ValueError, match="weights must be 3 numbers"):
            make()


def test_weights_are_those_of_the_rows():
    source = PairSource(make_vectors(5), np.arange(5), rows=np.array([4, 2]), weights=[1, 0])
    assert list(source.weights) == [1.0, 0.0]
    assert checked_weights(None, 5) is None


# pairs


def test_pairs_are_drawn_from_their_rows():
    source = PairSource(RAGGED, np.array([3, 0, 0, 2]), rows=np.array([3, 0, 2]))
    assert len(source) == 3
    batch = source.batch(np.array([2, 0, 0]), RNG)
    np.testing.assert_array_equal(batch["vectors"], np.concatenate([RAGGED[2], RAGGED[3], RAGGED[3]]))
    assert batch["entity"].tolist() == [0] * 5 + [1] * 2 + [2] * 2
    assert batch["text_of"].tolist() == [0, 2, 2]


def test_examples_of_one_length_lie_together(tiny):
    examples = [Example(label_prompt("x" * (1 + 37 * i % 50)), (0,)) for i in range(50)]
    source = PromptSource(tiny, examples, {"rna": make_vectors(1)})
    ordered = np.argsort(source.lengths)
    assert all(source.lengths[a] <= source.lengths[b] for a, b in pairwise(ordered))
    assert source.batch(ordered[:5], RNG)["ids"].shape[1] < source.batch(ordered[-5:], RNG)["ids"].shape[1] - 40
