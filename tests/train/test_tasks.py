import math

import numpy as np
import pytest
import torch

from bioverse_sc.models import Answer, Entity, Text, label_prompt
from bioverse_sc.train import ContrastiveTask, Example, PairSource, PromptSource, PromptTask
from bioverse_sc.train._tasks import ALIGNMENT_WEIGHT
from tests.tiny import CONFIGS, VECTOR, WIDTH, make_model, make_vectors

EXAMPLES = [
    Example([Text("a"), Entity("rna"), Text(" Type:"), Answer("B cell")], (0,)),
    Example([Text("a longer prompt "), Entity("rna"), Answer("T"), Text(" why?"), Answer("because CD3E")], (2,)),
    Example([Entity("rna"), Answer("x"), Text("unanswered")], (1,)),
    Example([Text("two "), Entity("rna"), Text(" and "), Entity("rna"), Answer("cells")], (3, 0)),
]


def naive_answer_loss(model, examples, vectors):
    """One example at a time, one token at a time."""
    total, n, right = 0.0, 0, 0
    encode = lambda text: model.tokenizer.encode(text, add_special_tokens=False)
    for example in examples:
        rows, targets, entity = [], [], iter(example.rows)
        for segment in example.segments:
            if isinstance(segment, Entity):
                soft = model.project("rna", torch.from_numpy(vectors[next(entity)][None]))[0]
                rows += list(soft)
                targets += [None] * len(soft)
            else:
                answer = isinstance(segment, Answer)
                ids = [*encode(f" {segment.text}"), model.tokenizer.eos_token_id] if answer else encode(segment.text)
                rows += [model.embeddings(torch.tensor(i)) for i in ids]
                targets += ids if answer else [None] * len(ids)
        logits = model.language_model(inputs_embeds=torch.stack(rows)[None], use_cache=False).logits[0]
        for position, target in enumerate(targets):
            if target is not None and position:
                scores = logits[position - 1].double()
                total -= float(scores[target] - torch.logsumexp(scores, 0))
                right += int(scores.argmax()) == target
                n += 1
    return total / n, right / n


@pytest.mark.parametrize("n_tokens", [1, 3])
@pytest.mark.parametrize("kind", CONFIGS)
def test_the_batched_loss_is_that_of_single_answers(kind, n_tokens):
    model, vectors = make_model(kind, n_tokens=n_tokens), make_vectors(4)
    source = PromptSource(model, EXAMPLES, {"rna": vectors})
    batch = source.batch(np.arange(4), np.random.default_rng(0))
    with torch.inference_mode():
        out = PromptTask(model).eval()(batch)
        loss, accuracy = naive_answer_loss(model, EXAMPLES, vectors)
    assert float(out["loss"]) == pytest.approx(loss, abs=1e-5, rel=1e-5)
    assert float(out["token_accuracy"]) == pytest.approx(accuracy, abs=1e-6)


def test_what_is_not_an_answer_is_not_in_the_loss(tiny):
    vectors = make_vectors(4)

    def loss(prompt, answer):
        example = Example([Text(prompt), Entity("rna"), Answer(answer)], (0,))
        batch = PromptSource(tiny, [example], {"rna": vectors}).batch(np.array([0]), np.random.default_rng(0))
        return PromptTask(tiny).eval()(batch), batch

    out, batch = loss("question", "ab")
    assert int((batch["targets"] != -100).sum()) == len(" ab") + 1
    assert math.isfinite(float(out["loss"]))


def test_text_without_entities_trains_too(tiny):
    source = PromptSource(tiny, [Example([Answer("words")]), Example([Text("a"), Answer("b")])], {})
    batch = source.batch(np.arange(2), np.random.default_rng(0))
    with torch.inference_mode():
        loss = PromptTask(tiny).eval()(batch)["loss"]
        expected, _ = naive_answer_loss(tiny, source.examples, None)
    assert float(loss) == pytest.approx(expected, abs=1e-5)


def naive_contrastive(entities, texts, negatives, text_of, scale, attraction):
    """InfoNCE by loops: unrelated texts stand among the texts of an entity, never the other way round. And cosines."""
    unit = lambda v: v / math.sqrt(sum(x * x for x in v))
    entities = [unit(e) for e in entities]
    used = sorted(set(text_of))
    items = [unit(texts[t]) for t in used] + [unit(n) for n in negatives]
    to_text = 0.0
    for entity, own in zip(entities, text_of, strict=True):
        scores = [scale * float(entity @ item) for item in items]
        to_text -= scores[used.index(own)] - math.log(sum(math.exp(s) for s in scores))
    to_entity = 0.0
    for place, t in enumerate(used):
        scores = [scale * float(entity @ items[place]) for entity in entities]
        norm = math.log(sum(math.exp(s) for s in scores))
        own = [s - norm for s, of in zip(scores, text_of, strict=True) if of == t]
        to_entity -= sum(own) / len(own)
    apart = sum(1 - float(e @ items[used.index(own)]) for e, own in zip(entities, text_of, strict=True))
    return (to_text / len(entities) + to_entity / len(used)) / 2 + attraction * apart / len(entities)


@pytest.mark.parametrize(("n_negatives", "attraction"), [(0, 1.0), (5, 0.0), (5, 0.7)])
@pytest.mark.parametrize("text_of", [[0, 1, 2], [2, 2, 0, 2, 0, 4], [3, 3, 3]])
def test_contrastive_loss_is_that_of_plain_loops(text_of, n_negatives, attraction):
    model = make_model(n_tokens=2)
    rng = np.random.default_rng(1)
    texts = rng.normal(size=(6, WIDTH)).astype(np.float32)
    negatives = rng.normal(size=(n_negatives, WIDTH)).astype(np.float32)
    vectors = make_vectors(len(text_of))
    bank = torch.from_numpy(negatives) if n_negatives else None
    task = ContrastiveTask(model, "rna", torch.from_numpy(texts), bank, attraction=attraction)
    model.projectors.eval()
    with torch.no_grad():
        task.log_scale.fill_(math.log(5.0))
        out = task(PairSource(vectors, np.array(text_of)).batch(np.arange(len(text_of)), np.random.default_rng(0)))
        soft = model.project("rna", torch.from_numpy(vectors)).mean(dim=1).double().numpy()
    expected = naive_contrastive(soft, texts.astype(float), negatives.astype(float), text_of, 5.0, attraction)
    assert float(out["loss"]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("moved_to", "kept"), [(20.0, 100.0), (-3.0, 1.0), (1.0, math.e)])
def test_the_temperature_stays_within_bounds_and_can_come_back(moved_to, kept):
    task = ContrastiveTask(make_model(), "rna", torch.randn(3, WIDTH), None, attraction=0.0)
    assert float(task.log_scale.detach().exp()) == pytest.approx(1 / 0.07)
    with torch.no_grad():
        task.log_scale.fill_(moved_to)
    task.after_step()
    assert float(task.log_scale.detach().exp()) == pytest.approx(kept)
    out = task(PairSource(make_vectors(2), np.array([0, 1])).batch(np.arange(2), np.random.default_rng(0)))
    out["loss"].backward()
    assert float(task.log_scale.grad) != 0, "a bound is no trap"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_an_error(bad, tiny):
    vectors = make_vectors(3)
    vectors[1, 2] = bad
    with pytest.raises(ValueError, match="infinite"):
        PairSource(vectors, np.zeros(3, dtype=int))
    with pytest.raises(ValueError, match="'rna' hold NaN or infinite"):
        PromptSource(tiny, [Example(label_prompt("a"), (0,))], {"rna": vectors})


def test_each_vector_needs_a_text():
    with pytest.raises(ValueError, match="3 vectors but 2"):
        PairSource(make_vectors(3), np.zeros(2, dtype=int))
    examples = [Example(label_prompt("a"), (0,))]
    with pytest.raises(ValueError, match="3 vectors but 2"):
        PromptSource(make_model(), examples, {"rna": make_vectors(3)}, text_of={"rna": np.zeros(2, dtype=int)})


def test_contrast_beside_the_answers_adds_its_loss():
    model, vectors, text_of = make_model(), make_vectors(4), np.array([1, 0, 1, 2])
    contrast = ContrastiveTask(model, "rna", torch.randn(3, WIDTH), torch.randn(2, WIDTH), attraction=1.0)
    source = PromptSource(model, EXAMPLES, {"rna": vectors}, text_of={"rna": text_of})
    batch = source.batch(np.array([3, 1]), np.random.default_rng(0))
    np.testing.assert_array_equal(batch["text_of:rna"], text_of[[3, 0, 2]])
    model = model.eval()
    with torch.no_grad():
        tasks = PromptTask(model, {"rna": contrast}), PromptTask(model)
        for task in tasks:
            # training, without dropout
            task.train()
            model.eval()
            contrast.projector.eval()
        both, answers = (task(batch) for task in tasks)
        pairs = contrast({name: batch[f"{name}:rna"] for name in ("vectors", "entity", "text_of")})
    assert float(both["loss"]) == pytest.approx(float(answers["loss"] + ALIGNMENT_WEIGHT * pairs["loss"]), abs=1e-5)


def test_an_example_needs_a_row_for_each_entity():
    with pytest.raises(ValueError, match="1 entities, but 0 rows"):
        Example([Entity("rna"), Answer("a")])


def test_an_example_is_never_cut_in_silence(tiny):
    with pytest.raises(ValueError, match="more than max_tokens=50"):
        PromptSource(tiny, [Example([Answer("long " * 30)])], {}, max_tokens=50)


def test_rows_are_taken_in_the_order_of_the_prompts(tiny):
    vectors = make_vectors(4)
    batch = PromptSource(tiny, EXAMPLES, {"rna": vectors}).batch(np.array([3, 1]), np.random.default_rng(0))
    np.testing.assert_array_equal(batch["vectors:rna"], vectors[[3, 0, 2]])
    assert batch["vectors:rna"].shape[1] == VECTOR
