import pytest
import torch

from bioverse_sc.models import Answer, ChatFormat, Entity, Text, label_prompt, reasoning_prompt
from bioverse_sc.models._inject import (
    IGNORED,
    SLOT,
    RememberingTokenizer,
    answer_ids,
    inject,
    pad_prompts,
    tokenize_prompt,
)
from tests.tiny import WIDTH, make_tokenizer


@pytest.mark.parametrize("text", ["[BIO]", "a [BIO] b", "<|end|>", "x<|end|>y <|pad|>", "<cls>"])
def test_words_that_look_special_stay_words(text, mini):
    for tokenizer in (make_tokenizer(), mini.tokenizer):
        tokens = tokenize_prompt(tokenizer, [Text(text), Entity("rna"), Answer(text)], {"rna": 1})
        end = tokenizer.eos_token_id
        assert tokens.ids.count(SLOT) == 1
        assert tokens.ids.count(end) == 1, "text became the end of the answer"
        assert tokens.ids[-1] == end
        place = tokens.ids.index(SLOT)
        assert tokenizer.decode(tokens.ids[:place]).strip() == text
        assert tokenizer.decode(tokens.ids[place + 1 : -1]).strip() == text


def test_only_answers_are_targets():
    tokenizer = make_tokenizer()
    segments = [Text("ab"), Entity("rna"), Text("c"), Answer("de"), Text("f"), Answer("g")]
    tokens = tokenize_prompt(tokenizer, segments, {"rna": 2})
    one, two = answer_ids(tokenizer, Answer("de")), answer_ids(tokenizer, Answer("g"))
    text = [tokenizer.encode(t, add_special_tokens=False) for t in ("ab", "c", "f")]
    assert tokens.ids == [*text[0], SLOT, SLOT, *text[1], *one, *text[2], *two]
    assert tokens.targets == [IGNORED] * 5 + one + [IGNORED] + two
    assert tokens.mods == ["rna"]
    assert tokenizer.decode(one) == " de<|end|>"


def test_a_start_token_is_used_where_the_tokenizer_has_one():
    tokens = tokenize_prompt(make_tokenizer(bos=True), [Text("a"), Answer("b")], {})
    assert tokens.ids[0] == 0
    assert tokens.targets[0] == IGNORED


@pytest.mark.parametrize(
    "chat", [None, ChatFormat("<|end|>user: ", " bot: ", "<|end|>", " user: ")], ids=["plain", "chat"]
)
def test_a_tokenizer_that_remembers_gives_the_same(chat):
    tokenizer = make_tokenizer(bos=True)
    remembering = RememberingTokenizer(tokenizer)
    segments = [Text("<|end|>"), Entity("rna"), Text(" ab"), Answer("<|end|>"), Text("ab"), Answer("ab")]
    expected = tokenize_prompt(tokenizer, segments, {"rna": 2}, chat)
    for _ in range(3):
        assert tokenize_prompt(remembering, segments, {"rna": 2}, chat) == expected


def test_an_open_answer_must_be_last():
    with pytest.raises(ValueError, match="must be the last"):
        tokenize_prompt(make_tokenizer(), [Answer(), Text("a")], {})


def test_an_unknown_modality_is_named():
    with pytest.raises(ValueError, match=r"'protein'.*\['rna'\]"):
        tokenize_prompt(make_tokenizer(), [Entity("protein")], {"rna": 1})


@pytest.mark.parametrize("left", [True, False])
def test_padding_is_masked_and_no_target(left):
    tokenizer = make_tokenizer()
    prompts = [tokenize_prompt(tokenizer, [Text("abc"), Answer(a)], {}) for a in ("d", "efgh")]
    batch = pad_prompts(prompts, 1, left=left)
    for i, prompt in enumerate(prompts):
        on = batch.mask[i].bool()
        assert batch.ids[i][on].tolist() == prompt.ids
        assert batch.targets[i][on].tolist() == prompt.targets
        assert (batch.ids[i][~on] == 1).all()
        assert (batch.targets[i][~on] == IGNORED).all()
        assert on[-1 if left else 0]


def test_soft_tokens_go_to_the_slots_in_order():
    embeddings = torch.nn.Embedding(10, WIDTH)
    ids = torch.tensor([[3, SLOT, 4, SLOT], [SLOT, 5, 6, 7]])
    soft = torch.arange(3 * WIDTH, dtype=torch.float32).reshape(3, WIDTH)
    out = inject(embeddings, ids, soft)
    assert torch.equal(out[0, 1], soft[0])
    assert torch.equal(out[0, 3], soft[1])
    assert torch.equal(out[1, 0], soft[2])
    for row, column in [(0, 0), (0, 2), (1, 1), (1, 2), (1, 3)]:
        assert torch.equal(out[row, column], embeddings.weight[ids[row, column]])


@pytest.mark.parametrize("n", [0, 1, 3])
def test_another_number_of_soft_tokens_is_an_error(n):
    ids = torch.tensor([[3, SLOT, 4, SLOT]])
    with pytest.raises(ValueError, match=f"2 slots for soft tokens, but {n}"):
        inject(torch.nn.Embedding(10, WIDTH), ids, torch.zeros(n, WIDTH))


def test_gradients_reach_the_soft_tokens():
    soft = torch.ones(1, WIDTH, requires_grad=True)
    inject(torch.nn.Embedding(10, WIDTH), torch.tensor([[SLOT, 2]]), soft).sum().backward()
    assert torch.equal(soft.grad, torch.ones(1, WIDTH))


def test_templates_have_one_cell_and_show_label_and_genes():
    assert label_prompt()[-1] == Answer(None)
    asked = reasoning_prompt("B cell", ["CD19", "MS4A1"])
    assert [s for s in asked if isinstance(s, Entity)] == [Entity("rna")]
    written = "".join(s.text or "" for s in asked if isinstance(s, Text | Answer))
    assert "B cell" in written
    assert "CD19, MS4A1" in written
    assert asked[: len(label_prompt("B cell"))] == label_prompt("B cell")
