import itertools
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma2Config

from bioverse_sc.models import (
    Answer,
    Decoding,
    Entity,
    Text,
    _labels,
    _reader,
    generate_text,
    label_log_probabilities,
    label_prompt,
)
from bioverse_sc.models._constraints import GenesLeft, NamesLeft, ShownGenes, ShownTypes, TypeNames
from bioverse_sc.models._inject import SLOT, tokenize_prompt
from bioverse_sc.models._labels import PRUNED_BELOW, build_trie
from bioverse_sc.models._prompt import reasoning_prompt
from tests.tiny import CONFIGS, WIDTH, make_model, make_vectors
from tests.tl.test_chat import MORE


def soft_tokens(model, n, *, seed=0):
    with torch.inference_mode():
        return model.project("rna", torch.from_numpy(make_vectors(n, seed=seed)))


def score_alone(model, prompt, soft, label, labels):
    """Log-probability of one label for one cell: one forward pass over the whole sequence, no cache and no trie.

    Each token competes with those that continue another label which starts with the same tokens.
    """
    tokenizer = model.tokenizer
    rows = []
    for segment in prompt:
        if isinstance(segment, Text):
            rows.append(model.embeddings(torch.tensor(tokenizer.encode(segment.text, add_special_tokens=False))))
        elif isinstance(segment, Entity):
            rows.append(soft)
    ids = {of: [*tokenizer.encode(f" {of}", add_special_tokens=False), tokenizer.eos_token_id] for of in labels}
    answer = ids[label]
    before = sum(len(r) for r in rows)
    rows.append(model.embeddings(torch.tensor(answer)))
    with torch.inference_mode():
        logits = model.language_model(inputs_embeds=torch.cat(rows)[None], use_cache=False).logits[0].double()
    score = 0.0
    for i, token in enumerate(answer):
        going_on = sorted({other[i] for other in ids.values() if other[:i] == answer[:i]})
        log_p = torch.log_softmax(logits[before - 1 + i, going_on], dim=-1)
        score += float(log_p[going_on.index(token)])
    return score


def brute_force(model, prompt, soft, labels):
    scores = np.array([[score_alone(model, prompt, s, label, labels) for label in labels] for s in soft])
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-6)
    return scores


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("n_tokens", [1, 2])
def test_label_probabilities_equal_scoring_each_label_alone(kind, n_tokens):
    model = make_model(kind, n_tokens=n_tokens)
    labels = ["cab", "cat", "dog", "dig", "dot"]
    soft = soft_tokens(model, 4)
    found = label_log_probabilities(model, label_prompt(), soft, labels)
    expected = brute_force(model, label_prompt(), soft, labels)
    np.testing.assert_allclose(np.exp(found), np.exp(expected), atol=2 * len(labels) * np.exp(PRUNED_BELOW))
    kept = np.isfinite(found)
    # a prefix is compared with the best prefix, whose own labels may turn out to be unlikely at their ends
    assert (np.exp(expected[~kept]) < 0.005).all()
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-6)


def test_the_cells_differ_so_the_comparison_means_something():
    model = make_model()
    found = label_log_probabilities(model, label_prompt(), soft_tokens(model, 4), ["cab", "cat", "dog"])
    assert np.ptp(np.exp(found), axis=0).max() > 0.01


def test_nothing_is_pruned_when_labels_are_close():
    model = make_model(seed=3)
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            parameter *= 0.2 if parameter.ndim > 1 else 1
    labels = ["".join(p) for p in itertools.product("ab", "cd", "ef")]
    soft = soft_tokens(model, 3)
    found = label_log_probabilities(model, label_prompt(), soft, labels)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, brute_force(model, label_prompt(), soft, labels), atol=1e-4)


def test_a_label_that_starts_another_one_is_scored_to_its_end():
    model = make_model(seed=1)
    labels = ["T", "T cell"]
    soft = soft_tokens(model, 2)
    found = label_log_probabilities(model, label_prompt(), soft, labels)
    np.testing.assert_allclose(
        np.exp(found), np.exp(brute_force(model, label_prompt(), soft, labels)), atol=4 * np.exp(PRUNED_BELOW)
    )


@pytest.mark.parametrize("kind", CONFIGS)
def test_labels_of_a_batch_are_those_of_single_cells(kind):
    model = make_model(kind)
    soft = soft_tokens(model, 5)
    together = label_log_probabilities(model, label_prompt(), soft, ["cat", "cow", "dog"])
    alone = np.concatenate(
        [label_log_probabilities(model, label_prompt(), soft[i : i + 1], ["cat", "cow", "dog"]) for i in range(5)]
    )
    np.testing.assert_allclose(np.exp(together), np.exp(alone), atol=1e-5)


def test_the_bundled_model_scores_as_each_label_alone(mini):
    labels = ["B cell", "naive B cell", "T cell", "hepatocyte"]
    vectors = torch.from_numpy(make_vectors(2, width=mini.config.projectors["rna"].in_width))
    with torch.inference_mode():
        soft = mini.project("rna", vectors)
    found = label_log_probabilities(mini, label_prompt(), soft, labels)
    np.testing.assert_allclose(
        np.exp(found), np.exp(brute_force(mini, label_prompt(), soft, labels)), atol=4 * np.exp(PRUNED_BELOW)
    )


def test_trie_shares_prefixes():
    trie = build_trie([[1, 2, 0], [1, 3, 0], [4, 6, 0], [4, 6, 5, 0]])
    assert trie.tokens.tolist() == [-1, 1, 4, 2, 3, 6, 0, 5], "what follows the last choice is not there"
    assert trie.labels.tolist() == [-1, -1, -1, 0, 1, -1, 2, 3]
    parents, children = trie.expand(np.array([1, 7, 0]))
    assert parents.tolist() == [0, 0, 2, 2]
    assert trie.tokens[children].tolist() == [2, 3, 1, 4]


def test_a_single_label_is_certain():
    model = make_model()
    assert build_trie([[1, 2, 0]]).labels.tolist() == [-1, 0]
    assert label_log_probabilities(model, label_prompt(), soft_tokens(model, 2), ["cat"]).tolist() == [[0.0], [0.0]]


def test_labels_do_not_depend_on_how_the_work_was_cut(monkeypatch):
    model = make_model(seed=1)
    soft = soft_tokens(model, 7)
    labels = ["cab", "cat", "dog", "dig", "dot", "a dog"]
    together = label_log_probabilities(model, label_prompt(), soft, labels)
    monkeypatch.setattr(_labels, "CACHE_BYTES", 1)
    np.testing.assert_allclose(
        np.exp(label_log_probabilities(model, label_prompt(), soft, labels)), np.exp(together), atol=1e-5
    )


def granite_of_8b(n):
    return CONFIGS["granite"](n).__class__(**CONFIGS["granite"](n).to_dict() | {"logits_scaling": 4.0})


def gemma_2(n):
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    caps = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": None}
    ids = {"eos_token_id": 0, "pad_token_id": 1, "bos_token_id": None}
    return Gemma2Config(vocab_size=n, hidden_size=WIDTH, intermediate_size=64, **shape, **caps, **ids)


@pytest.mark.parametrize(("config", "is_plain"), [(granite_of_8b, True), (gemma_2, False)])
def test_a_head_that_scales_or_bends_the_logits(config, is_plain, monkeypatch):
    monkeypatch.setitem(CONFIGS, "special", config)
    model = make_model("special", seed=2)
    assert (_reader._plain_head(model.language_model) is not None) == is_plain
    labels = ["cab", "cat", "dog"]
    soft = soft_tokens(model, 3)
    found = label_log_probabilities(model, label_prompt(), soft, labels)
    np.testing.assert_allclose(
        np.exp(found), np.exp(brute_force(model, label_prompt(), soft, labels)), atol=6 * np.exp(PRUNED_BELOW)
    )
    written = generate_text(model, [label_prompt()] * 3, soft, Decoding(max_new_tokens=12))
    assert written == [greedy(model, label_prompt(), s, 12) for s in soft]


def test_an_adapter_that_is_not_merged_is_part_of_the_answer():
    model = make_model("qwen3", seed=1)
    labels = ["cab", "cat", "dog"]
    soft = soft_tokens(model, 3)
    before = label_log_probabilities(model, label_prompt(), soft, labels)
    # once with the head inside, which then is no plain matrix
    for targets in (["q_proj"], ["q_proj", "lm_head"]):
        model = make_model("qwen3", seed=1)
        model.language_model = get_peft_model(model.language_model, LoraConfig(r=4, target_modules=targets))
        with torch.no_grad():
            for name, parameter in model.language_model.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.3)
        model.eval()
        found = label_log_probabilities(model, label_prompt(), soft, labels)
        assert np.abs(np.exp(found) - np.exp(before)).max() > 0.01
        np.testing.assert_allclose(
            np.exp(found), np.exp(brute_force(model, label_prompt(), soft, labels)), atol=6 * np.exp(PRUNED_BELOW)
        )
        written = generate_text(model, [label_prompt()] * 3, soft, Decoding(max_new_tokens=8))
        assert written == [greedy(model, label_prompt(), s, 8) for s in soft]


def test_labels_of_the_same_tokens_are_an_error():
    with pytest.raises(ValueError, match="same tokens"):
        build_trie([[1, 2], [1, 2]])


def greedy(model, prompt, soft, n):
    """Write without generate(): the most likely token, again and again."""
    tokens = tokenize_prompt(model.tokenizer, prompt, model.n_tokens).ids
    embedded = lambda token: model.embeddings(torch.tensor(token))
    rows = torch.stack([soft[0] if i == SLOT else embedded(i) for i in tokens])
    written = []
    with torch.inference_mode():
        for _ in range(n):
            token = int(model.language_model(inputs_embeds=rows[None], use_cache=False).logits[0, -1].argmax())
            if token == model.tokenizer.eos_token_id:
                break
            written.append(token)
            rows = torch.cat([rows, embedded(token)[None]])
    return model.tokenizer.decode(written, skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", CONFIGS)
def test_text_of_a_batch_is_that_of_single_rows_and_of_plain_greedy_decoding(kind):
    model = make_model(kind)
    prompts = [
        [Text("a"), Entity("rna"), Answer()],
        [Text("a much longer prompt "), Entity("rna"), Text(" why?"), Answer()],
        [Entity("rna"), Text("and"), Answer()],
    ]
    soft = soft_tokens(model, 3)
    together = generate_text(model, prompts, soft, Decoding(max_new_tokens=24))
    alone = [generate_text(model, [p], soft[i : i + 1], Decoding(max_new_tokens=24))[0] for i, p in enumerate(prompts)]
    assert together == alone
    assert together == [greedy(model, p, soft[i], 24) for i, p in enumerate(prompts)]
    assert len(set(together)) > 1
    assert all(together)


def test_two_runs_write_the_same():
    model = make_model()
    prompts = [[Entity("rna"), Answer()]] * 2
    soft = soft_tokens(model, 2)
    one, two = (generate_text(model, prompts, soft, Decoding(max_new_tokens=12)) for _ in range(2))
    assert one == two


def test_a_missing_soft_token_is_an_error():
    model = make_model()
    with pytest.raises(ValueError, match="2 slots"):
        generate_text(model, [[Entity("rna"), Answer()]] * 2, torch.zeros(1, 1, WIDTH), Decoding(max_new_tokens=2))


def test_draws_of_a_prompt_depend_on_its_key_and_seed_alone():
    model = make_model()
    soft = soft_tokens(model, 4)
    prompts = [label_prompt()] * 4
    keys = ["a", "b", "c", "d"]
    decoding = Decoding(max_new_tokens=12, temperature=1.0)
    together = generate_text(model, prompts, soft, decoding, keys=keys)
    for i, key in enumerate(keys):
        assert generate_text(model, prompts[:1], soft[i : i + 1], decoding, keys=[key]) == [together[i]]
    assert generate_text(model, prompts, soft, Decoding(12, 1.0, seed=1), keys=keys) != together
    # one soft token, two keys
    assert len(set(generate_text(model, prompts, soft[:1].repeat(4, 1, 1), decoding, keys=keys))) > 1


def test_draws_have_the_probabilities_of_the_model():
    scores = torch.tensor([0.0, 1.0, 2.0, -1.0])
    decoding = Decoding(temperature=0.5, top_p=0.97)
    drawn = []
    for i in range(2000):
        found = scores[None]
        for process in decoding.processors([str(i)]):
            found = process(torch.zeros(1, 0, dtype=torch.long), found)
        drawn.append(int(found.argmax()))
    expected = torch.softmax(scores / 0.5, dim=-1).numpy()
    # the least likely two are outside of top_p
    expected = np.where([False, True, True, False], expected, 0)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 2000, expected / expected.sum(), atol=0.03)


def test_no_run_of_tokens_is_written_twice(monkeypatch):
    model = make_model(seed=1)
    soft = soft_tokens(model, 3)
    prompts = [label_prompt()] * 3
    written = []
    decode = model.tokenizer.batch_decode
    monkeypatch.setattr(model.tokenizer, "batch_decode", lambda ids, **kw: written.append(ids) or decode(ids, **kw))

    def repeats():
        runs = [[tuple(ids[i : i + 2]) for i in range(len(ids) - 1)] for ids in written.pop()]
        return [len(those) - len(set(those)) for those in runs]

    free = generate_text(model, prompts, soft, Decoding(max_new_tokens=40))
    assert all(repeats()), "an untrained model goes round in circles"
    for temperature in (0.0, 1e-3):
        generate_text(model, prompts, soft, Decoding(40, temperature, no_repeat_ngram_size=2))
        assert not any(repeats())
    assert generate_text(model, prompts, soft, Decoding(40, no_repeat_ngram_size=0)) == free
    of_model = Decoding(40).of_model(model)
    assert of_model.no_repeat_ngram_size == model.config.no_repeat_ngram_size == 0
    model.config = replace(model.config, no_repeat_ngram_size=2)
    assert Decoding(40).of_model(model).no_repeat_ngram_size == 2
    assert Decoding(40, no_repeat_ngram_size=0).of_model(model).no_repeat_ngram_size == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
        ({"no_repeat_ngram_size": 2.5}, "no_repeat_ngram_size is 2.5"),
    ],
)
def test_decoding_options_out_of_their_range(options, message):
    with pytest.raises(ValueError, match=message):
        Decoding(**options)


SYMBOLS = ["CD3D", "CD3E", "MS4A1", "CD79A", "NKG7", "GNLY", "LYZ", "INS", "COL1A1", "PPBP"]


def shown_by_hand(model, prompt, soft, shown, n):
    """The likeliest token, again and again, that is no symbol, or one that is shown and not yet written.

    Where a sentence or a part of one begins and a symbol is twenty times as likely as any word, it is one of these, or
    the end of a sentence is the end.
    """
    tokenizer = model.tokenizer
    spelled = {symbol: tokenizer.encode(f" {symbol}", add_special_tokens=False) for symbol in SYMBOLS}
    assert all(len(ids) == 1 for ids in spelled.values())
    closed = {spelled[symbol][0] for symbol in SYMBOLS if symbol not in shown}
    rows = torch.stack(
        [soft[0] if i == SLOT else model.embeddings(torch.tensor(i)) for i in model.tokenize(prompt).ids]
    )
    written = []
    for _ in range(n):
        with torch.inference_mode():
            logits = model.language_model(inputs_embeds=rows[None], use_cache=False).logits
        scores = logits[0, -1].clone()
        symbols = [ids[0] for ids in spelled.values()]
        left = [i for i in symbols if i not in closed]
        before = tokenizer.decode(written[-1:])
        words = [i for i in range(len(scores)) if i not in symbols]
        wanted = before in ("", ".", ";", " and") and scores[symbols].max() > scores[words].max() + np.log(20)
        scores[list(closed)] = -torch.inf
        if wanted and not left and before == ".":
            break
        token = left[int(scores[left].argmax())] if wanted and left else int(scores.argmax())
        if token == tokenizer.eos_token_id:
            break
        written.append(token)
        closed |= {token} & {ids[0] for ids in spelled.values()}
        rows = torch.cat([rows, model.embeddings(torch.tensor([token]))])
    return tokenizer.decode(written).strip()


def test_shown_genes_alone_are_written_each_once(mini):
    shown = [["CD3D", "CD3E"], ["MS4A1", "CD79A", "LYZ"], ["INS"], []]
    labels = ["T cell", "naive B cell", "type B pancreatic cell", "platelet"]
    prompts = [reasoning_prompt(label, genes) for label, genes in zip(labels, shown, strict=True)]
    vectors = torch.from_numpy(make_vectors(4, width=mini.config.projectors["rna"].in_width))
    with torch.inference_mode():
        soft = mini.project("rna", vectors)
    constraint = ShownGenes(mini, SYMBOLS, shown, [[]] * 4)
    before = constraint.closed.clone()
    written = generate_text(mini, prompts, soft, Decoding(max_new_tokens=40), constraint=constraint)
    assert torch.equal(constraint.closed, before), "a constraint serves again"
    assert written == [shown_by_hand(mini, p, s, g, 40) for p, s, g in zip(prompts, soft, shown, strict=True)]
    assert len({len(text) for text in written}) > 1
    drawn = generate_text(mini, prompts, soft, Decoding(40, temperature=1.5), constraint=constraint)
    for text, genes in zip(drawn, shown, strict=True):
        words = [word.strip(".,") for word in text.split()]
        assert {word for word in words if word in SYMBOLS} <= set(genes)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_missing_genes_are_written_as_missing_and_nowhere_else(temperature, mini):
    absent = {"B cell": ["MS4A1", "CD79A"]}
    prompts = [reasoning_prompt("T cell", ["CD3D", "CD3E"], absent=absent, confidence="low", runner_up="B cell")] * 24
    with torch.inference_mode():
        soft = mini.project("rna", torch.from_numpy(make_vectors(24, width=mini.config.projectors["rna"].in_width)))
    constraint = ShownGenes(mini, SYMBOLS, [["CD3D", "CD3E"]] * 24, [absent["B cell"]] * 24)
    decoding = Decoding(60, temperature=temperature)
    n_missing = 0
    for text in generate_text(mini, prompts, soft, decoding, constraint=constraint):
        for sentence in text.split("."):
            before, word, after = sentence.partition(" Missing")
            named = [{part.strip(",:;") for part in place.split()} & set(SYMBOLS) for place in (before, after)]
            assert named[0] <= {"CD3D", "CD3E"}
            assert named[1] <= {"MS4A1", "CD79A"}
            n_missing += len(named[1])
            assert not word or "CD79A, MS4A1," not in after
            assert not word or "MS4A1, CD79A," not in after
    assert n_missing > 4
    # a template that lists none: they may be written anywhere
    mini.config.prompts["absent"], kept = "{absent}", mini.config.prompts["absent"]
    free = ShownGenes(mini, SYMBOLS, [["CD3D"]], [["MS4A1"]])
    mini.config.prompts["absent"] = kept
    assert torch.equal(free.closed[0], free.closed[1])
    assert free.closed[0].sum() == len(SYMBOLS) - 2


def test_a_list_of_missing_genes_is_not_broken_off(mini):
    encode = partial(mini.tokenizer.encode, add_special_tokens=False)
    left = GenesLeft(ShownGenes(mini, SYMBOLS, [["CD3D"]], [["MS4A1", "CD79A"]]))
    written = []

    def opened_after(text):
        for token in encode(text):
            written.append(token)
            left.wrote(torch.tensor([token]), torch.tensor([written]))
        scores = left(torch.zeros(1, len(left.is_gene)), torch.full((int(left.pausing.sum()),), -1.0))
        return set(torch.nonzero(scores[0] == 0).flatten().tolist())

    (comma,), (other,), (which,) = encode(","), encode(" CD79A"), encode(" which")
    assert {comma, which} <= opened_after(" CD3D, which")
    assert {comma, which} <= opened_after(". Missing")
    assert len(opened_after(":")) == 2
    assert {comma, which, other} <= opened_after(" MS4A1")
    assert opened_after(",") == {other}
    after = opened_after(" CD79A")
    assert which in after
    assert not {comma, other} & after
    assert {comma, which} <= opened_after(" (B cell)")
    assert {comma, which} <= opened_after(",")


def test_where_a_gene_is_wanted_one_that_is_left_is_named(mini):
    encode = partial(mini.tokenizer.encode, add_special_tokens=False)
    left = GenesLeft(ShownGenes(mini, SYMBOLS, [["CD3D"], ["CD3D"]], [[], []]))
    (gene,), (stop,), (of,), (high,) = encode(" CD3D"), encode("."), encode(" of"), encode(" high")
    both = torch.ones(2, dtype=torch.long)

    def opened(wanted):
        scores = torch.zeros(2, len(left.is_gene))
        found = left(scores, torch.tensor(wanted[: int(left.pausing.sum())])) == 0
        return [set(torch.nonzero(row).flatten().tolist()) for row in found]

    named, free = opened([4.0, 2.0])
    assert named == {gene}
    assert {gene, of, high} <= free
    left.wrote(both * gene, both[:, None] * gene)
    assert not left.pausing.any()
    left.wrote(torch.tensor([stop, of]), torch.tensor([[gene, stop], [gene, of]]))
    ended, free = opened([4.0])
    assert ended == set(mini.end_ids), "none is left: the answer ends with the sentence"
    assert high in free
    assert gene not in free


NAIVE_CD4, NAIVE_CD8 = (f"naive thymus-derived {kind}-positive, alpha-beta T cell" for kind in ("CD4", "CD8"))


def test_a_name_of_a_shown_type_does_not_become_that_of_another(mini):
    encode = partial(mini.tokenizer.encode, add_special_tokens=False)
    genes = GenesLeft(ShownGenes(mini, SYMBOLS, [["CD3D"]], [["MS4A1"]]))
    names = TypeNames(mini, [NAIVE_CD4, NAIVE_CD8, "T cell", "B cell", "B cell, CD19-positive", "naive B cell"])
    of = names.of([ShownTypes(label=[NAIVE_CD4, "T cell"], lacking=["B cell"], others=[NAIVE_CD8])])
    assert not names.shown, "a constraint serves other prompts"
    left = NamesLeft(of, genes)
    written = []

    def closed_after(text):
        for token in encode(text):
            written.append(token)
            genes.wrote(torch.tensor([token]), torch.tensor([written]))
            left.wrote(torch.tensor([token]))
        scores = left(torch.zeros(1, len(genes.is_gene)))
        return set(torch.nonzero(scores[0] < 0).flatten().tolist())

    (cd4,), (cd8,), (cell,), (comma,) = encode(" CD4-positive"), encode(" CD8-positive"), encode(" cell"), encode(",")
    derived, bee, tee = encode(" thymus-derived")[0], encode(" B")[0], encode(" T")[0]
    assert not closed_after(" CD3D is a marker of the")
    assert closed_after(" naive") == {bee}
    alone = torch.full((1, len(genes.is_gene)), -torch.inf)
    alone[0, bee] = 0
    assert torch.equal(left(alone.clone()), alone), "something can always be written"
    assert closed_after(" thymus-derived") == {cd8}
    assert not {cell, tee} & closed_after(" CD4-positive, alpha-beta")
    assert not closed_after(" T cell. Next")
    assert closed_after(" naive thymus-derived") == set(), "without a gene all that the prompt names may be written"
    assert closed_after(" cell. Missing: MS4A1 of the naive") == set(), "no type that lacks markers begins so"
    assert closed_after(" B") == set()
    assert comma not in closed_after(" cell"), "any word may follow a whole name"
    assert derived != cd4


def test_reasoning_about_a_type_names_no_look_alike(mini):
    prompts = [reasoning_prompt(NAIVE_CD4, ["CCR7", "CD3D", "LEF1"], confidence="medium", runner_up=NAIVE_CD8)] * 32
    shown = [["CCR7", "CD3D", "LEF1"]] * 32
    with torch.inference_mode():
        soft = mini.project("rna", torch.from_numpy(make_vectors(32, width=mini.config.projectors["rna"].in_width)))
    symbols = [*SYMBOLS, "CCR7", "LEF1"]
    names = TypeNames(mini, [NAIVE_CD4, NAIVE_CD8]).of([ShownTypes([NAIVE_CD4], [], [NAIVE_CD8])] * 32)

    def marked(constraint):
        genes = ShownGenes(mini, symbols, shown, [[]] * 32)
        decoding = Decoding(60, temperature=0.7)
        texts = generate_text(mini, prompts, soft, decoding, constraint=genes, names=constraint)
        return [name for text in texts for name in re.findall(r"marker of the ([^.]+)\.", text)]

    assert NAIVE_CD8 in marked(None)
    with_constraint = marked(names)
    assert NAIVE_CD4 in with_constraint
    assert NAIVE_CD8 not in with_constraint


def test_layers_with_a_state_score_labels_and_write_in_batches():
    """What some rows of a cache go on with does not reach the others; state-space layers write theirs in place."""
    model = make_model()
    model.language_model = AutoModelForCausalLM.from_config(MORE["state"](len(model.tokenizer))).eval()
    soft, prompt = soft_tokens(model, 4), [Text("Name it: "), Entity("rna"), Answer(None)]
    with torch.no_grad():
        for i, parameter in enumerate(model.language_model.parameters()):
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(i))
    found = label_log_probabilities(model, prompt, soft, model.config.labels)
    expected = brute_force(model, prompt, soft, model.config.labels)
    np.testing.assert_allclose(np.exp(found), np.exp(expected), atol=4 * np.exp(PRUNED_BELOW))
    decoding = Decoding(12, temperature=1.0)
    texts = generate_text(model, [prompt] * 4, soft, decoding, keys=["a", "b", "c", "d"])
    assert texts == [generate_text(model, [prompt], soft[[i]], decoding, keys=["abcd"[i]])[0] for i in range(4)]
