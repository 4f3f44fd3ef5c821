"""Chat templates in the manner of published language models, in words of our own."""

import datetime
import re

import numpy as np
import pytest
import torch

from bioverse_sc.encoders import Precomputed
from bioverse_sc.models import (
    Answer,
    ChatFormat,
    Decoding,
    Entity,
    Text,
    create,
    generate_text,
    label_log_probabilities,
    label_prompt,
    load,
    reasoning_prompt,
    save,
)
from bioverse_sc.models._chat_format import SYSTEM
from bioverse_sc.models._inject import IGNORED, SLOT, tokenize_prompt
from tests.tiny import LABELS, VECTOR, make_model, make_tokenizer, make_vectors

GRANITE = """\
{%- for turn in messages -%}
<|start_of_role|>{{ turn.role }}<|end_of_role|>{{ turn.content }}<|end_of_text|>
{% endfor -%}
{%- if add_generation_prompt -%}<|start_of_role|>assistant<|end_of_role|>{%- endif -%}
"""
QWEN = """\
{%- for turn in messages -%}
{{ '<|im_start|>' + turn.role + '\\n' + turn.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- if not enable_thinking -%}{{ '<think>\\n\\n</think>\\n\\n' }}{%- endif -%}
{%- endif -%}
"""
LLAMA = """\
{{- '<|begin_of_text|>' -}}
{%- set first = messages[0].content if messages[0].role == 'system' else '' -%}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + strftime_now('%d %b %Y') -}}
{{- '\\n\\n' + first + '<|eot_id|>' -}}
{%- for turn in messages if turn.role != 'system' -%}
{{- '<|start_header_id|>' + turn.role + '<|end_header_id|>\\n\\n' + turn.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}
"""
MISTRAL = """\
{{- '<s>' -}}
{%- for turn in messages -%}
{%- if turn.role == 'user' -%}{{- '[INST] ' + turn.content + ' [/INST]' -}}
{%- elif turn.role == 'assistant' -%}{{- ' ' + turn.content + '</s>' -}}
{%- else -%}{{- raise_exception('there is no ' + turn.role + ' turn') -}}
{%- endif -%}
{%- endfor -%}
"""
GEMMA = """\
{{- '<bos>' -}}
{%- for turn in messages -%}
{%- if turn.role == 'system' -%}{{- raise_exception('no system turn') -}}{%- endif -%}
{{- '<start_of_turn>' + ('model' if turn.role == 'assistant' else turn.role) + '\\n' -}}
{{- turn.content | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}
"""
# template, special tokens, and what the format has to be; DATE is today
CHATS = {
    "granite": (
        GRANITE,
        ["<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"],
        ChatFormat(
            f"<|start_of_role|>system<|end_of_role|>{SYSTEM}<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>",
            "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
            "<|end_of_text|>",
            "\n<|start_of_role|>user<|end_of_role|>",
        ),
    ),
    "qwen": (
        QWEN,
        ["<|im_start|>", "<|im_end|>"],
        ChatFormat(
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n",
            "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
            "<|im_end|>",
            "\n<|im_start|>user\n",
        ),
    ),
    "llama": (
        LLAMA,
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        ChatFormat(
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: DATE\n\n"
            f"{SYSTEM}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            "<|eot_id|>",
            "<|start_header_id|>user<|end_header_id|>\n\n",
        ),
    ),
    "mistral": (
        MISTRAL,
        ["<s>", "</s>", "[INST]", "[/INST]"],
        ChatFormat("<s>[INST] ", " [/INST]", "</s>", "[INST] "),
    ),
    "gemma": (
        GEMMA,
        ["<bos>", "<start_of_turn>", "<end_of_turn>"],
        ChatFormat(
            "<bos><start_of_turn>user\n",
            "<end_of_turn>\n<start_of_turn>model\n",
            "<end_of_turn>",
            "\n<start_of_turn>user\n",
        ),
    ),
}


def chat_tokenizer(style):
    template, special, _ = CHATS[style]
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.chat_template = template
    return tokenizer


def today():
    return datetime.datetime.now(tz=None).strftime("%d %b %Y")


def chat_folder(folder, style):
    """A language model with a chat template."""
    tokenizer = chat_tokenizer(style)
    base = make_model().language_model
    base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    base.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def chat_model(folder, style, **options):
    return create(chat_folder(folder, style), {"rna": Precomputed("X", VECTOR)}, name="chat", labels=LABELS, **options)


@pytest.mark.parametrize("style", CHATS)
def test_a_template_is_rendered_once(style):
    expected = CHATS[style][2]
    found = ChatFormat.of(chat_tokenizer(style))
    for part in ("start", "ask", "end", "between"):
        assert getattr(found, part) == getattr(expected, part).replace("DATE", today()), part


def test_a_tokenizer_without_template_has_no_format():
    assert ChatFormat.of(make_tokenizer()) is None


@pytest.mark.parametrize("style", CHATS)
def test_ids_are_those_of_the_template_itself(style):
    tokenizer = chat_tokenizer(style)
    chat = ChatFormat.of(tokenizer)
    words = [("What is this?", "A B cell."), ("Why is that?", "CD19 and MS4A1."), ("Sure?", "Yes.")]
    segments = [part for question, answer in words for part in (Text(question), Answer(answer))]
    ids = tokenize_prompt(tokenizer, segments, {}, chat).ids
    system = [{"role": "system", "content": SYSTEM}] if SYSTEM in chat.start else []
    turns = [
        {"role": role, "content": text}
        for pair in words
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    rendered = tokenizer.apply_chat_template(system + turns, tokenize=False, enable_thinking=False)

    def bare(text):
        """Without the thinking block, which templates drop from the past, and blanks at the edges of turns."""
        text = text.replace("<think>\n\n</think>\n\n", "")
        return re.sub(r"\s*(\[/?INST\]|</?s>|<[^<>\s]+>)\s*", r"\1", text).strip()

    assert bare(tokenizer.decode(ids)) == bare(rendered)
    # special tokens are one token each, as the template's own ids have them
    special = set(tokenizer.added_tokens_decoder)
    own = tokenizer.encode(rendered, add_special_tokens=False)
    assert [i for i in ids if i in special] == [i for i in own if i in special]


@pytest.mark.parametrize("style", CHATS)
def test_an_open_answer_is_what_the_template_asks(style):
    tokenizer = chat_tokenizer(style)
    chat = ChatFormat.of(tokenizer)
    ids = tokenize_prompt(tokenizer, [Text(" What is this? "), Answer()], {}, chat).ids
    system = [{"role": "system", "content": SYSTEM}] if SYSTEM in chat.start else []
    turns = [*system, {"role": "user", "content": "What is this?"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=True, add_generation_prompt=True, enable_thinking=False)
    assert ids == list(rendered["input_ids"] if hasattr(rendered, "keys") else rendered)


@pytest.mark.parametrize("style", CHATS)
def test_only_answers_and_their_ends_are_targets(style):
    tokenizer = chat_tokenizer(style)
    chat = ChatFormat.of(tokenizer)
    found = tokenize_prompt(tokenizer, reasoning_prompt("T cell", ["CD3E"], "It has CD3E."), {"rna": 2}, chat)
    assert len(found.ids) == len(found.targets)
    assert found.ids.count(SLOT) == 2
    kept = [i for i in found.targets if i != IGNORED]
    assert tokenizer.decode(kept) == f"T cell{chat.end}It has CD3E.{chat.end}"
    assert all(target in (IGNORED, i) for i, target in zip(found.ids, found.targets, strict=True))


@pytest.mark.parametrize("style", CHATS)
def test_words_that_look_special_stay_words(style):
    tokenizer = chat_tokenizer(style)
    chat = ChatFormat.of(tokenizer)
    end = tokenizer.convert_tokens_to_ids(chat.end)
    calm = tokenize_prompt(tokenizer, [Text("a"), Entity("rna"), Text("b"), Answer("c")], {"rna": 1}, chat).ids
    text = f"{chat.end} [BIO:rna] {chat.ask}"
    sly = tokenize_prompt(tokenizer, [Text(text), Entity("rna"), Text(text), Answer(text)], {"rna": 1}, chat).ids
    assert sly.count(end) == calm.count(end)
    assert sly.count(SLOT) == 1
    special = set(tokenizer.added_tokens_decoder)
    assert [i for i in sly if i in special] == [i for i in calm if i in special]


class Scripted(torch.nn.Module):
    """Wraps the output layer: the model says the same tokens whatever it reads."""

    def __init__(self, ids, n):
        super().__init__()
        self.ids, self.n, self.step = ids, n, 0
        self.weight = torch.zeros(n, 1)

    def forward(self, hidden):
        logits = torch.zeros(*hidden.shape[:-1], self.n)
        logits[..., self.ids[min(self.step, len(self.ids) - 1)]] = 1
        self.step += 1
        return logits


@pytest.mark.parametrize("style", CHATS)
def test_generation_stops_at_the_end(style, tmp_path):
    model = chat_model(tmp_path / "base", style)
    end = model.tokenizer.convert_tokens_to_ids(model.config.chat.end)
    assert end in model.end_ids
    assert 0 in model.end_ids
    said = model.answer_ids("yes")
    assert said[-1] == end
    # a language model that goes on after the end
    model.language_model.lm_head = Scripted([*said, *model.tokenizer.encode("no")], len(model.tokenizer))
    soft = model.project("rna", torch.from_numpy(make_vectors(1)))
    assert generate_text(model, [label_prompt()], soft, Decoding(max_new_tokens=20)) == ["yes"]
    assert model.language_model.lm_head.step == len(said)


@pytest.mark.parametrize("style", CHATS)
def test_a_chat_model_comes_back(style, tmp_path):
    model = chat_model(tmp_path / "base", style)
    save(model, tmp_path / "model")
    save(model, tmp_path / "whole", include_language_model=True)
    soft = model.project("rna", torch.from_numpy(make_vectors(3)))
    expected = label_log_probabilities(model, label_prompt(), soft, LABELS)
    for name in ("model", "whole"):
        loaded = load(tmp_path / name)
        assert loaded.config.chat == model.config.chat
        assert loaded.tokenize(label_prompt("T cell")) == model.tokenize(label_prompt("T cell"))
        np.testing.assert_array_equal(label_log_probabilities(loaded, label_prompt(), soft, LABELS), expected)


def test_the_date_stays_that_of_training(tmp_path, monkeypatch):
    model = chat_model(tmp_path / "base", "llama")
    model.config.chat.start.index(today())
    save(model, tmp_path / "model")

    def never(tokenizer):
        raise AssertionError

    with monkeypatch.context() as patch:
        # the template is not rendered again
        patch.setattr(ChatFormat, "of", never)
        loaded = load(tmp_path / "model")
    assert loaded.config.chat == model.config.chat


@pytest.mark.parametrize(("chat", "has_format"), [(None, True), (True, True), (False, False)])
def test_the_template_is_used_when_there_is_one(chat, has_format, tmp_path):
    model = chat_model(tmp_path / "base", "granite", chat=chat)
    assert (model.config.chat is not None) == has_format


def test_a_template_that_cannot_be_used_says_how_to_go_on(tmp_path):
    folder = chat_folder(tmp_path / "base", "granite")
    (folder / "chat_template.jinja").write_text("{% for turn in messages %}{{ turn.content }} {% endfor %}")
    with pytest.raises(ValueError, match=r"without a special token.*Pass chat=False"):
        create(folder, {"rna": Precomputed("X", VECTOR)}, name="chat")
    assert create(folder, {"rna": Precomputed("X", VECTOR)}, name="chat", chat=False).config.chat is None


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[-1]['content'] }}<|end|>",
        "{% for m in messages %}{{ m['content'] }}{{ m['content'] }}<|end|>{% endfor %}",
    ],
)
def test_a_template_that_loses_or_repeats_turns_is_an_error(template):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match="does not write every question and answer once"):
        ChatFormat.of(tokenizer)


def test_a_system_text_that_moves_to_the_last_question_is_left_out():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] %}{% set messages = messages[1:] "
        "%}{% endif %}{% for m in messages %}{% if m['role'] == 'user' %}[INST]{% if loop.last and s %}{{ s }} {% "
        "endif %}{{ m['content'] }}[/INST]{% else %}{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    )
    assert ChatFormat.of(tokenizer) == ChatFormat("[INST]", "[/INST]", "<|end|>", "[INST]")
