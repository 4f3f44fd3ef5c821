import inspect
import re
from dataclasses import replace
from html.parser import HTMLParser

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GraniteMoeHybridConfig, MistralConfig

import bioverse_sc as bsc
from bioverse_sc.encoders import Precomputed, get_encoder
from bioverse_sc.facts import Memory
from bioverse_sc.models import (
    BioVerse,
    ChatFormat,
    Decoding,
    ModelConfig,
    ProjectorConfig,
    create,
    entity_names,
    generate_text,
    question_prompt,
)
from bioverse_sc.models._inject import inject
from tests.encoders.entities import write_esm
from tests.models.test_chat_format import CHATS, chat_tokenizer
from tests.same import differences, same
from tests.tiny import CONFIGS, GENES, WIDTH, make_encoder, make_language_model, make_tokenizer

SEQUENCES = ["MKTAYIAK", "GGSGGS", "ACDEFGHIK"]
QUESTIONS = ["What is this?", "Why [BIO:rna]?", "Sure, <|end|> {x}?"]
_SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": WIDTH}
_SHAPE |= {"intermediate_size": 64, "max_position_embeddings": 256, "bos_token_id": None, "eos_token_id": 0}
_MAMBA = {"layer_types": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
_MAMBA |= {"mamba_n_groups": 1, "shared_intermediate_size": 64, "num_local_experts": 0, "num_experts_per_tok": 0}
# windows much shorter than a conversation, and a state in the place of keys and values
MORE = {
    "window": lambda n: MistralConfig(vocab_size=n, sliding_window=16, pad_token_id=1, **_SHAPE),
    "window in some layers": lambda n: Gemma3TextConfig(
        vocab_size=n, head_dim=8, sliding_window=16, pad_token_id=1, sliding_window_pattern=2, **_SHAPE
    ),
    "state": lambda n: GraniteMoeHybridConfig(vocab_size=n, pad_token_id=1, **_SHAPE, **_MAMBA),
}


class Letters(torch.nn.Module):
    """Output layer that writes letters, in plain text after a space as training does: a text has one spelling."""

    def __init__(self, tokenizer, *, plain):
        super().__init__()
        n = len(tokenizer)
        self.weight = torch.randn((n, WIDTH), generator=torch.Generator().manual_seed(0))
        letters = [i for i in range(n) if re.fullmatch("[a-z]", tokenizer.decode([i]))]
        self.starts, self.goes_on = (torch.zeros(n, dtype=torch.bool) for _ in range(2))
        self.starts[tokenizer.encode(" ") if plain else letters] = True
        self.goes_on[[*letters, tokenizer.eos_token_id]] = True
        self.is_first = True

    def forward(self, hidden):
        allowed = self.starts if self.is_first else self.goes_on
        self.is_first = False
        return (hidden @ self.weight.T).masked_fill(~allowed, -torch.inf)


class Scripted(torch.nn.Module):
    """Output layer that says the same tokens whatever the model reads."""

    def __init__(self, ids, n):
        super().__init__()
        self.ids, self.n, self.step = ids, n, 0
        self.weight = torch.zeros(n, 1)

    def forward(self, hidden):
        logits = torch.zeros(*hidden.shape[:-1], self.n)
        logits[..., self.ids[self.step % len(self.ids)]] = 1
        self.step += 1
        return logits


def make_two(kind="llama", *, style=None, n_tokens=2, encoders=None, positions=1024):
    """A model of cells and proteins over a small language model; with a chat format in some style."""
    tokenizer = make_tokenizer() if style is None else chat_tokenizer(style)
    config = (CONFIGS | MORE)[kind](len(tokenizer))
    config.max_position_embeddings = positions
    torch.manual_seed(0)
    language_model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in language_model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    shape = {"in_width": 16, "hidden_width": 24, "out_width": WIDTH, "n_tokens": n_tokens}
    projectors = {
        mod: ProjectorConfig(encoder=name, encoder_fingerprint="", **shape)
        for mod, name in (("rna", "scgpt"), ("protein", "esm2"))
    }
    config = ModelConfig("two", "language_model", projectors=projectors, chat=ChatFormat.of(tokenizer))
    model = BioVerse(config, language_model, tokenizer, encoders)
    return model.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return {"rna": make_encoder(), "protein": get_encoder(write_esm(folder / "esm"), mod="protein")}


@pytest.fixture
def two(encoders):
    return make_two(encoders=encoders)


def make_mdata():
    rng = np.random.default_rng(0)
    rna = ad.AnnData(
        rng.poisson(2.0, size=(3, len(GENES))).astype(np.float32),
        obs=pd.DataFrame(index=["c1", "c2", "c3"]),
        var=pd.DataFrame(index=GENES),
    )
    protein = ad.AnnData(obs=pd.DataFrame({"sequence": SEQUENCES}, index=["P1", "P2", "P3"]))
    return md.MuData({"rna": rna, "protein": protein})


ENTITIES = {"protein": ["P3", "P1"], "rna": "c2"}
SHOWN = ["protein", "protein", "rna"]


def soft_tokens_of(model, mdata=None, entities=None):
    """Soft tokens in the order of the prompt, by way of what a user would call."""
    mdata = make_mdata() if mdata is None else mdata
    bsc.tl.embed(mdata, model=model)
    slots = {"rna": "X_scgpt", "protein": "X_esm2"}
    with torch.inference_mode():
        parts = [
            model.project(mod, torch.from_numpy(mdata[mod][names].obsm[slots[mod]].copy())).flatten(0, 1)
            for mod, names in (entities or ENTITIES).items()
        ]
    return torch.cat(parts)


def write_letters(model):
    """Make a model write letters; the layer says when an answer begins."""
    layer = Letters(model.tokenizer, plain=model.config.chat is None)
    model.language_model.set_output_embeddings(layer)
    return layer


class Watched:
    """Input embeddings of each forward pass of a language model."""

    def __init__(self, model):
        self.seen = []
        model.language_model.base_model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        if kwargs.get("inputs_embeds") is not None:
            self.seen.append(kwargs["inputs_embeds"][0].clone())

    @property
    def lengths(self):
        return [len(each) for each in self.seen]


def from_scratch(model, layer, turns, decoding, number):
    """The answer to the last question, by generate_text over the whole conversation."""
    prompt = question_prompt(SHOWN, turns, prompts=model.config.prompts)
    layer.is_first = True
    return generate_text(model, [prompt], soft_tokens_of(model), decoding, keys=[f"P3 P1 c2 {number}"])[0]


CASES = [(kind, None) for kind in ("llama", "gpt2", "qwen3", "gpt_neox", "gemma3", *MORE)]
CASES += [("llama", style) for style in CHATS]


@pytest.mark.parametrize("decoding", [Decoding(14), Decoding(14, 1.0, 0.9, seed=3)], ids=["greedy", "drawn"])
@pytest.mark.parametrize(("kind", "style"), CASES)
def test_answers_are_those_of_the_whole_conversation_from_scratch(kind, style, decoding, encoders):
    model = make_two(kind, style=style, encoders=encoders)
    layer = write_letters(model)
    options = {"temperature": decoding.temperature, "top_p": decoding.top_p, "seed": decoding.seed}
    chat = bsc.Chat(make_mdata(), ENTITIES, model=model, max_new_tokens=14, **options)
    for number, question in enumerate(QUESTIONS):
        expected = from_scratch(model, layer, [*chat.transcript, (question, None)], decoding, number)
        layer.is_first = True
        assert chat.ask(question) == expected
        assert expected
    assert [turn.question for turn in chat.transcript] == QUESTIONS
    assert len({turn.answer for turn in chat.transcript}) > 1


@pytest.mark.parametrize("ends", [True, False], ids=["ended", "cut off"])
@pytest.mark.parametrize("style", [None, *CHATS])
def test_every_position_is_computed_once_and_is_that_of_training(style, ends, encoders):
    model = make_two(style=style, encoders=encoders)
    said = model.answer_ids("yes")
    assert len(said) == (5 if style is None else 4)
    model.language_model.set_output_embeddings(Scripted(said if ends else said[:-1], len(model.tokenizer)))
    chat = bsc.Chat(make_mdata(), ENTITIES, model=model, max_new_tokens=10 if ends else len(said) - 1)
    watched = Watched(model)
    turns, n_read = [], 0
    for question in QUESTIONS:
        whole = model.tokenize(question_prompt(SHOWN, [*turns, (question, None)], prompts=model.config.prompts)).ids
        watched.seen.clear()
        assert chat.ask(question) == "yes"
        turns.append((question, "yes"))
        # the question in one pass, then a token at a time, but for the last one, whose successor is not asked for
        assert watched.lengths == [len(whole) - n_read, *[1] * (len(said) - (1 if ends else 2))]
        n_read = len(whole) + len(watched.seen) - 1
    chat.reset()
    watched.seen.clear()
    for question in QUESTIONS:
        chat.ask(question)
    whole = model.tokenize(question_prompt(SHOWN, turns, prompts=model.config.prompts)).ids
    whole = torch.tensor([whole[: sum(watched.lengths)]])
    torch.testing.assert_close(torch.cat(watched.seen), inject(model.embeddings, whole, soft_tokens_of(model))[0])


def test_what_the_model_wrote_stays_as_it_was_spelled(encoders):
    model = make_two(encoders=encoders)
    # broken characters, for which the text has another spelling
    written = [model.tokenizer.convert_tokens_to_ids(token) for token in ("Ã", "a", "Â")]
    model.language_model.set_output_embeddings(Scripted(written, len(model.tokenizer)))
    chat = bsc.Chat(make_mdata(), ENTITIES, model=model, max_new_tokens=3)
    watched = Watched(model)
    assert chat.ask("A?") == "\ufffda\ufffd"
    chat.ask("B?")
    first = model.tokenize(question_prompt(SHOWN, [("A?", None)])).ids
    then = model.tokenizer.encode(" Question: B? Answer:")
    whole = torch.tensor([[*first, *written, model.tokenizer.eos_token_id, *then, *written[:-1]]])
    torch.testing.assert_close(torch.cat(watched.seen), inject(model.embeddings, whole, soft_tokens_of(model))[0])


def test_a_start_token_comes_once(encoders):
    model = make_two(style="gemma", encoders=encoders)
    chat = bsc.Chat(make_mdata(), ENTITIES, model=model, max_new_tokens=2)
    watched = Watched(model)
    for question in QUESTIONS:
        chat.ask(question)
    start = model.embeddings.weight[model.tokenizer.convert_tokens_to_ids("<bos>")]
    assert int((torch.cat(watched.seen) == start).all(dim=1).sum()) == 1


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_pieces_of_a_stream_are_the_answer(kind, temperature, encoders):
    model = make_two(kind, encoders=encoders)
    options = {"model": model, "max_new_tokens": 40, "temperature": temperature}
    asked, streamed = (bsc.Chat(make_mdata(), ENTITIES, **options) for _ in range(2))
    n_pieces = 0
    for question in QUESTIONS:
        pieces = list(streamed.stream(question))
        assert "".join(pieces) == asked.ask(question) == streamed.transcript[-1].answer
        assert all(pieces)
        n_pieces += len(pieces)
    # a draw may end an answer at once
    assert n_pieces > 5
    assert streamed.transcript == asked.transcript


TEXTS = ["  A T cell, CD3E⁺ and  γδ 😀 \n  new line\u3000 end \n", "\ufffd", "x", "", " ", "é", " 好 的。"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_splits_no_character_and_loses_no_space(text, encoders):
    model = make_two(encoders=encoders)
    said = [*model.tokenizer.encode(text), model.tokenizer.eos_token_id]
    model.language_model.set_output_embeddings(Scripted(said, len(model.tokenizer)))
    chat = bsc.Chat(make_mdata(), ENTITIES, model=model)
    pieces = list(chat.stream("What?"))
    assert "".join(pieces) == text.strip()
    assert len(pieces) == len([c for c in text if not c.isspace()])
    assert chat.transcript == [("What?", text.strip())]


def test_a_character_that_is_never_complete_comes_at_the_end(encoders):
    model = make_two(encoders=encoders)
    said = [*model.tokenizer.encode("ok 😀")[:-1], model.tokenizer.eos_token_id]
    model.language_model.set_output_embeddings(Scripted(said, len(model.tokenizer)))
    assert list(bsc.Chat(make_mdata(), ENTITIES, model=model).stream("What?")) == ["o", "k", " \ufffd"]


def test_a_tokenizer_that_takes_blanks_away_takes_none_that_were_given_out(encoders):
    model = make_two(encoders=encoders)
    tokenizer = model.tokenizer
    tokenizer.clean_up_tokenization_spaces = True
    tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    text = "It is n't a T cell , it 's a B cell . Sure ?"
    model.language_model.set_output_embeddings(Scripted([*tokenizer.encode(text), 0], len(tokenizer)))
    chat = bsc.Chat(make_mdata(), ENTITIES, model=model)
    assert "".join(chat.stream("What?")) == "It isn't a T cell, it's a B cell. Sure?" == chat.transcript[0].answer


@pytest.mark.parametrize("grounding", ["checked", "shown"])
@pytest.mark.parametrize(
    "text",
    [
        "That cannot be told from what is known here. The donor is forty.",
        "That cannot be told from what is known here. the donor is forty.",
        "The donor is forty. That cannot be told from what is known here. Ask another",
    ],
)
def test_a_stream_takes_nothing_back_that_the_facts_do_not_support(grounding, text, encoders):
    model = make_two(encoders=encoders)
    model.config = replace(model.config, grounding=grounding)
    said = [*model.tokenizer.encode(text), model.tokenizer.eos_token_id]
    model.language_model.set_output_embeddings(Scripted(said, len(model.tokenizer)))
    chat = bsc.Chat(model=model)
    pieces = list(chat.stream("What?"))
    assert "".join(pieces) == chat.transcript[0].answer != text


def test_a_stream_that_is_left_keeps_its_part_and_the_next_turn_is_right(encoders):
    model = make_two(encoders=encoders)
    layer = write_letters(model)
    chat = bsc.Chat(make_mdata(), ENTITIES, model=model, max_new_tokens=14)
    pieces = []
    for piece in chat.stream(QUESTIONS[0]):
        pieces.append(piece)
        if len(pieces) == 3:
            break
    assert chat.transcript == [(QUESTIONS[0], "".join(pieces))]
    watched = Watched(model)
    layer.is_first = True
    answer = chat.ask(QUESTIONS[1])
    # the last letter, the end that was not written, the question
    assert watched.lengths[0] == 2 + len(f" Question: {QUESTIONS[1]} Answer:")
    assert answer == from_scratch(model, layer, [chat.transcript[0], (QUESTIONS[1], None)], Decoding(14), 1)


def test_a_stream_does_not_go_on_after_another_question(two):
    chat = bsc.Chat(make_mdata(), ENTITIES, model=two, max_new_tokens=20)
    left = chat.stream("A?")
    next(left)
    answer = chat.ask("B?")
    with pytest.raises(RuntimeError, match="went on while this answer was written"):
        list(left)
    assert [turn.question for turn in chat.transcript] == ["A?", "B?"]
    assert chat.transcript[1].answer == answer
    left = chat.stream("C?")
    next(left)
    chat.reset()
    with pytest.raises(RuntimeError, match="went on"):
        list(left)
    assert chat.transcript == []
    # nothing is asked before a stream is read
    chat.stream("D?")
    assert chat.transcript == []


@pytest.mark.parametrize("where", range(4))
def test_an_interrupt_leaves_the_chat_usable(where, encoders):
    model = make_two(encoders=encoders)
    layer = write_letters(model)
    chat = bsc.Chat(make_mdata(), ENTITIES, model=model, max_new_tokens=14)
    chat.ask(QUESTIONS[0])
    before = chat.transcript
    passes = []

    def interrupt(*_):
        passes.append(1)
        if len(passes) == where + 1:
            raise KeyboardInterrupt

    # in the last layer, when the cache of the first has been written to
    hook = model.language_model.model.layers[1].register_forward_hook(interrupt)
    layer.is_first = True
    with pytest.raises(KeyboardInterrupt):
        chat.ask(QUESTIONS[1])
    hook.remove()
    if where == 0:
        assert chat.transcript == before
    else:
        # a space, then letters
        assert [len(turn.answer) for turn in chat.transcript[1:]] == [where - 1]
    turns = chat.transcript
    layer.is_first = True
    answer = chat.ask(QUESTIONS[2])
    assert answer == from_scratch(model, layer, [*turns, (QUESTIONS[2], None)], Decoding(14), len(turns))
    assert chat.transcript == [*turns, (QUESTIONS[2], answer)]


def test_an_interrupt_after_the_question_was_read_lets_it_be_asked_again(two, monkeypatch):
    chat, other = (bsc.Chat(make_mdata(), ENTITIES, model=two, max_new_tokens=5) for _ in range(2))

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(chat, "_text", interrupt)
        with pytest.raises(KeyboardInterrupt):
            chat.ask("A?")
    assert chat.transcript == []
    assert chat.ask("A?") == other.ask("A?")
    assert chat.ask("B?") == other.ask("B?")


def test_the_same_seed_and_questions_give_the_same_answers(two):
    def answers(seed, questions=("A?", "B?")):
        chat = bsc.Chat(make_mdata(), ENTITIES, model=two, temperature=1.0, seed=seed, max_new_tokens=12)
        return [chat.ask(question) for question in questions]

    assert answers(1) == answers(1)
    assert answers(1)[0] == answers(1, ["A?"])[0]
    assert answers(1) != answers(2)


def test_turns_and_entities_have_draws_of_their_own(encoders):
    model = make_two(encoders=encoders)
    # all tokens are equally likely: an answer is its draws
    model.language_model.set_output_embeddings(Scripted([-1], len(model.tokenizer)))
    one, two = (
        bsc.Chat(make_mdata(), {"rna": name}, model=model, temperature=1e6, max_new_tokens=12) for name in ("c1", "c2")
    )
    found = [one.ask("A?"), one.ask("A?"), two.ask("A?")]
    assert len(set(found)) == 3
    one.reset()
    assert one.ask("A?") == found[0]


def test_reset_starts_over_with_the_same_entities(two):
    chat = bsc.Chat(make_mdata(), ENTITIES, model=two, max_new_tokens=8)
    first = [chat.ask(question) for question in QUESTIONS]
    chat.reset()
    assert chat.transcript == []
    assert chat.entities == [("Protein 1", "protein", "P3"), ("Protein 2", "protein", "P1"), ("Cell", "rna", "c2")]
    assert [chat.ask(question) for question in QUESTIONS] == first


def test_a_conversation_that_is_too_long_says_how_to_go_on(encoders):
    model = make_two(encoders=encoders, positions=256)
    model.language_model.set_output_embeddings(Scripted([*model.tokenizer.encode("yes"), 0], len(model.tokenizer)))
    chat = bsc.Chat(make_mdata(), ENTITIES, model=model, max_new_tokens=60)
    with pytest.raises(ValueError, match=r"reads 256 at most\. Show fewer entities"):
        chat.ask("x" * 200)
    assert chat.transcript == []
    n = len(model.tokenize(question_prompt(SHOWN, [("A?", "yes"), ("", None)])).ids) - 1
    assert chat.ask("A?") == "yes"
    remedy = r"answer of up to 60 \(max_new_tokens\) 257; the language model reads 256 at most\. .*chat\.reset\(\)"
    with pytest.raises(ValueError, match=remedy):
        chat.ask("x" * (256 - 60 - n + 1))
    assert len(chat.transcript) == 1
    assert chat.ask("x" * (256 - 60 - n)) == "yes"
    with pytest.raises(ValueError, match=r"chat\.reset"):
        chat.ask("B?")
    assert len(chat.transcript) == 2
    chat.reset()
    assert chat.ask("A?") == "yes"


@pytest.mark.parametrize(
    ("question", "kind"), [("", ValueError), (" \n", ValueError), (None, TypeError), (1, TypeError)]
)
def test_a_question_is_a_text(question, kind, two):
    chat = bsc.Chat(make_mdata(), ENTITIES, model=two)
    with pytest.raises(kind, match=r"The question is .*'What is this cell\?'"):
        chat.ask(question)
    assert chat.transcript == []


def test_the_data_are_not_changed_and_views_will_do(two):
    mdata = make_mdata()
    mdata["rna"].layers["counts"] = mdata["rna"].X.copy()
    mdata["rna"].raw = mdata["rna"].copy()
    mdata["rna"].uns["bioverse"] = {"align": {"kept": True}}
    before = mdata.copy()
    one = bsc.Chat(mdata, ENTITIES, model=two, max_new_tokens=8)
    two_ = bsc.Chat(mdata[:], ENTITIES, model=two, max_new_tokens=8)
    cell = bsc.Chat(mdata["rna"][1:], "c2", model=two, max_new_tokens=8)
    assert one.ask("A?") == two_.ask("A?")
    assert cell.ask("A?")
    assert set().union(*(differences(mdata[mod], before[mod]) for mod in mdata.mod)) == set()
    assert all(same(getattr(mdata, slot), getattr(before, slot)) for slot in ("obs", "var", "uns", "obsm"))


def test_vectors_that_are_there_are_used(two, monkeypatch):
    mdata = make_mdata()
    fresh = bsc.Chat(mdata, ENTITIES, model=two, max_new_tokens=8).ask("A?")
    bsc.tl.embed(mdata, model=two)
    for encoder in two.encoders.values():
        monkeypatch.setattr(type(encoder), "encode", lambda *_, **__: pytest.fail("the encoder ran again"))
    assert bsc.Chat(mdata, ENTITIES, model=two, max_new_tokens=8).ask("A?") == fresh


def test_vectors_from_elsewhere_are_talked_about(tmp_path):
    language_model, tokenizer = make_language_model()
    language_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = create(tmp_path, {"rna": Precomputed("X_scVI", 5)}, name="vectors", device="cpu")
    adata = ad.AnnData(obs=pd.DataFrame(index=["c1", "c2"]), obsm={"X_scVI": np.array([[1.0, 2, 3, 4, 5], [0] * 5])})
    with pytest.raises(ValueError, match="has no encoder of its own"):
        bsc.Chat(adata, "c1", model=model)
    bsc.tl.embed(adata, encoder="precomputed", use_rep="X_scVI")
    assert bsc.Chat(adata, "c1", model=model, max_new_tokens=5).ask("A?")
    with pytest.raises(ValueError, match="vector of 'c2' is zero"):
        bsc.Chat(adata, model=model)


def test_a_backed_file_is_read_where_it_is_asked(two, tmp_path):
    mdata = make_mdata()
    mdata["rna"].write_h5ad(tmp_path / "x.h5ad")
    backed = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    chats = [bsc.Chat(data, ["c3", "c1"], model=two, max_new_tokens=8) for data in (backed, mdata["rna"])]
    assert len({chat.ask("A?") for chat in chats}) == 1
    backed.file.close()


@pytest.mark.parametrize(
    ("entities", "mod", "expected"),
    [
        (None, None, ["c1", "c2", "c3", "P1", "P2", "P3"]),
        (None, "protein", ["P1", "P2", "P3"]),
        ({"protein": "P2", "rna": ["c3", "c1"]}, None, ["P2", "c3", "c1"]),
        ({"protein": "P2", "rna": []}, None, ["P2"]),
        ("P2", "protein", ["P2"]),
        (pd.Index(["P2", "P1"]), "protein", ["P2", "P1"]),
    ],
)
def test_entities_of_mudata(entities, mod, expected, two):
    chat = bsc.Chat(make_mdata(), entities, mod=mod, model=two)
    assert [entity.observation for entity in chat.entities] == expected
    mods = ["rna" if name[0] == "c" else "protein" for name in expected]
    assert [entity.mod for entity in chat.entities] == mods
    assert [entity.name for entity in chat.entities] == entity_names(mods)


@pytest.mark.parametrize(
    ("entities", "mod", "expected"),
    [(None, None, ["c1", "c2", "c3"]), ("c2", None, ["c2"]), (["c3", "c2"], "rna", ["c3", "c2"])],
)
def test_entities_of_anndata(entities, mod, expected, two):
    chat = bsc.Chat(make_mdata()["rna"], entities, mod=mod, model=two)
    assert [entity.observation for entity in chat.entities] == expected


def test_proteins_in_anndata_are_named_by_mod(two):
    mdata = make_mdata()
    alone = bsc.Chat(mdata["protein"], "P2", mod="protein", model=two, max_new_tokens=8)
    assert alone.ask("A?") == bsc.Chat(mdata, {"protein": "P2"}, model=two, max_new_tokens=8).ask("A?")


def many():
    adata = make_mdata()["rna"]
    return ad.concat([adata] * 3, index_unique="-")


@pytest.mark.parametrize(
    ("data", "entities", "mod", "kind", "words"),
    [
        (many, None, None, ValueError, r"9 observations of rna; .* 1 to 8\. .* entities='c1-0'"),
        (lambda: md.MuData({"rna": many()}), None, None, ValueError, r"entities=\{'rna': 'c1-0'\}"),
        (lambda: many()[:0], None, None, ValueError, "have 0 observations of rna"),
        (make_mdata, "c1", None, TypeError, r"modality of 'c1' is not said; .*entities=\{'rna': 'c1'\}"),
        (lambda: make_mdata()["rna"], {"rna": "c1"}, None, TypeError, r"goes with MuData .*entities=\[\.\.\.\]"),
        (make_mdata, {"rna": "c1"}, "rna", TypeError, "goes with MuData and without mod"),
        (make_mdata, {"rna": "P1"}, None, KeyError, r"no observation 'P1' of rna; the 3 are \['c1', 'c2', 'c3'\]"),
        (make_mdata, {"molecule": "m"}, None, ValueError, "no projector for 'molecule'"),
        (
            lambda: md.MuData({"rna": many()}),
            {"protein": "P1"},
            None,
            KeyError,
            r"no modality 'protein'; it has \['rna'\]",
        ),
        (make_mdata, {"rna": [1]}, None, TypeError, r"expected names of observations, such as \['c1', 'c2'\]"),
        (make_mdata, {"rna": 1}, None, TypeError, "expected names of observations"),
        (make_mdata, {"rna": None}, None, TypeError, "expected names of observations"),
        (make_mdata, {}, None, ValueError, "entities is empty"),
        (many, [], None, ValueError, "entities is empty"),
        (many, ["c1-0", "c1-0"], None, ValueError, "names 'c1-0' more than once"),
        (lambda: ad.concat([make_mdata()["rna"]] * 2), "c1", None, ValueError, "obs_names_make_unique"),
        (lambda: make_mdata()["rna"].to_df(), None, None, TypeError, "Expected AnnData or MuData, found DataFrame"),
    ],
)
@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_what_cannot_be_talked_about_is_an_error(data, entities, mod, kind, words, two):
    with pytest.raises(kind, match=words):
        bsc.Chat(data(), entities, mod=mod, model=two)


def test_a_model_can_ask_for_texts_without_repeats(two):
    free = bsc.Chat(make_mdata(), ENTITIES, model=two, max_new_tokens=24).ask("A?")
    strict = bsc.Chat(make_mdata(), ENTITIES, model=two, max_new_tokens=24, no_repeat_ngram_size=1).ask("A?")
    assert strict != free
    two.config = replace(two.config, no_repeat_ngram_size=1)
    assert bsc.Chat(make_mdata(), ENTITIES, model=two, max_new_tokens=24).ask("A?") == strict
    assert bsc.Chat(make_mdata(), ENTITIES, model=two, max_new_tokens=24, no_repeat_ngram_size=0).ask("A?") == free


def test_decoding_options_are_checked(two):
    with pytest.raises(ValueError, match="temperature is -1"):
        bsc.Chat(make_mdata(), model=two, temperature=-1)
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        bsc.Chat(make_mdata(), model=two, max_new_tokens=0)


def test_known_texts_are_shown_before_an_entity(two):
    known = pd.DataFrame({"entity": ["MKTAYIAKQ", "MKTAYI", "ACDEFG"], "text": ["cuts", "binds.", "[BIO]"]})
    two.memory["protein"] = Memory("protein", known)
    chat = bsc.Chat(make_mdata(), ENTITIES, model=two, retrieve=True, max_new_tokens=8)
    watched = Watched(two)
    chat.ask("A?")
    prompt = question_prompt(SHOWN, [("A?", None)], nearest=[["[BIO]"], ["cuts", "binds."], []])
    whole = torch.tensor([two.tokenize(prompt).ids])
    torch.testing.assert_close(watched.seen[0], inject(two.embeddings, whole, soft_tokens_of(two))[0])


class Texts(HTMLParser):
    """Tags and texts of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert {name for name, _ in attrs} <= {"style"}
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_it_shows_itself_in_a_notebook(encoders):
    model = make_two(encoders=encoders)
    nasty = "<script>alert('x')</script> & <b> \" |*_`"
    said = [*model.tokenizer.encode(nasty), 0]
    model.language_model.set_output_embeddings(Scripted(said, len(model.tokenizer)))
    mdata = make_mdata()
    mdata["rna"].obs_names = ["<i>c1</i>", "c2", "c3"]
    mdata.update()
    chat = bsc.Chat(mdata, {"rna": "<i>c1</i>", "protein": "P1"}, model=model)
    empty = Texts(chat._repr_html_())
    assert 'No question yet: chat.ask("...")' in empty.texts
    assert chat.ask(f"Q {nasty}") == nasty
    page = chat._repr_html_()
    found = Texts(page)
    assert set(found.tags) == {"div", "span", "b"}
    for text in (f"Q {nasty}", nasty, "Cell", "Protein", "rna", "protein", " <i>c1</i> ", " P1 "):
        assert text in found.texts
    # nothing from elsewhere, and no colour that only suits a light page
    assert not re.search(r"http|url\(|src=|#[0-9a-f]{3}", page)
    assert repr(chat) == "<Chat with 'two' about observations: 1 of rna, 1 of protein; turns: 1>"


def test_it_can_be_written_down(encoders):
    model = make_two(encoders=encoders)
    model.language_model.set_output_embeddings(
        Scripted([*model.tokenizer.encode("a *B* cell"), 0], len(model.tokenizer))
    )
    chat = bsc.Chat(make_mdata(), {"rna": ["c1", "c2"]}, model=model)
    chat.ask("What?")
    chat.ask("Which_one?")
    assert str(chat) == (
        "Cell 1 c1 (rna), Cell 2 c2 (rna)\n\nQuestion: What?\nAnswer: a *B* cell\n\nQuestion: Which_one?\nAnswer: a "
        "*B* cell"
    )
    assert chat.to_markdown() == (
        "Cell 1 c1 (rna), Cell 2 c2 (rna)\n\n**Question:** What?\n\n**Answer:** a \\*B\\* cell\n\n"
        "**Question:** Which\\_one?\n\n**Answer:** a \\*B\\* cell\n"
    )
    for question, answer in chat.transcript:
        assert question in ("What?", "Which_one?")
        assert answer == "a *B* cell"


def test_the_bundled_model_talks(cells):
    chat = bsc.Chat(cells, cells.obs_names[0])
    answers = [chat.ask(question) for question in ("What is this cell?", "Why?")]
    assert all(answers)
    # the letters of an ordinary text
    assert all("\ufffd" not in answer for answer in answers)


def test_every_parameter_is_documented():
    text = inspect.getdoc(bsc.Chat)
    heads = re.findall(r"^(\w[\w, ]*)$", text.split("Parameters\n---")[1].split("Raises\n---")[0], re.MULTILINE)
    assert {name.strip() for head in heads for name in head.split(",")} == set(inspect.signature(bsc.Chat).parameters)
