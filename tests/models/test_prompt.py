import pytest
from hypothesis import given
from hypothesis import strategies as st

from bioverse_sc.models import (
    Answer,
    Entity,
    Text,
    description_prompt,
    label_prompt,
    question_prompt,
    reasoning_prompt,
)
from bioverse_sc.models._inject import SLOT, tokenize_prompt
from bioverse_sc.models._prompt import PROMPTS, fill_template, filled_prompt, parse_template, template_fields
from tests.tiny import make_tokenizer

ODD = [
    "[BIO]",
    "[BIO:rna]",
    "{field}",
    "{",
    "}",
    "{}",
    "{{field}}",
    r"\1 \g<0>",
    "$1 %s",
    '"',
    "'",
    "\n",
    "",
    "<|end|>",
]


@pytest.mark.parametrize(
    ("template", "segments"),
    [
        ("", []),
        ("words", [Text("words")]),
        ("[BIO:rna]", [Entity("rna")]),
        ("[BIO]", [Entity("cell")]),
        ("a [BIO:rna] b", [Text("a "), Entity("rna"), Text(" b")]),
        ("[BIO][BIO:protein][BIO:atac_2]x", [Entity("cell"), Entity("protein"), Entity("atac_2"), Text("x")]),
        ("a[BIO:rna][BIO]", [Text("a"), Entity("rna"), Entity("cell")]),
        ("{a} [BIO:rna] {rna:b}", [Text("{a} "), Entity("rna"), Text(" {rna:b}")]),
        ("a list[0] of [BIOLOGY]", [Text("a list[0] of [BIOLOGY]")]),
    ],
)
def test_a_template_is_split_at_its_places(template, segments):
    assert parse_template(template, "cell") == segments
    if "[BIO]" not in template:
        assert parse_template(template) == segments


def test_a_bare_place_needs_a_modality():
    with pytest.raises(ValueError, match=r"'a \[BIO\]' does not say of which modality; write for example \[BIO:rna\]"):
        parse_template("a [BIO]")


@pytest.mark.parametrize("wrong", ["[bio:rna]", "[BIO: rna]", "[ BIO ]", "[BIO:cite-seq]", "[Bio]", "[BIO:]"])
def test_what_is_nearly_a_place_is_an_error(wrong):
    with pytest.raises(ValueError, match=r"is no place of an entity; write \[BIO\] or \[BIO:modality\]"):
        parse_template(f"A cell: {wrong}", "rna")


@given(st.lists(st.sampled_from(["[BIO:rna]", "[BIO:x1]", "words", " ", "{f}", "[", "]", "x"]), max_size=8))
def test_nothing_of_a_template_is_lost(parts):
    template = "".join(parts)
    parsed = parse_template(template)
    assert "".join(s.text if isinstance(s, Text) else f"[BIO:{s.mod}]" for s in parsed) == template
    assert all(s.text for s in parsed if isinstance(s, Text))


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("no field {}", []),
        ("{a}{b} {a}", ["a", "b", "a"]),
        ("{rna:cell_type} and {with blanks}", ["rna:cell_type", "with blanks"]),
        ("{{a}}", ["a"]),
        ("{a", []),
    ],
)
def test_fields_are_what_stands_in_braces(template, names):
    assert template_fields(template) == names
    assert fill_template(template, dict.fromkeys(names, "v")).count("v") == len(names)


@pytest.mark.parametrize("value", ODD)
def test_a_value_is_only_text(value):
    values = {"field": "never", "a": value, "b": value}
    assert fill_template("<{a}|{b}>", values) == f"<{value}|{value}>"
    assert filled_prompt("{a}[BIO]{b}!", values, "rna") == [Text(value), Entity("rna"), Text(f"{value}!")]


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_value_stays_as_it_is(one, two):
    prompt = filled_prompt("{x} [BIO:rna]{y}{x}", {"x": one, "y": two})
    assert prompt == [Text(f"{one} "), Entity("rna"), Text(f"{two}{one}")]


def test_values_that_are_no_text_are_written_as_they_print():
    assert fill_template("{a} {b} {c} {d}", {"a": 3, "b": 0.5, "c": True, "d": None}) == "3 0.5 True None"


def test_a_field_without_a_value_is_an_error():
    with pytest.raises(KeyError, match="tissue"):
        fill_template("{tissue}", {})


@pytest.mark.parametrize("value", ODD)
def test_no_value_becomes_a_soft_token_or_an_end(value):
    tokenizer = make_tokenizer()
    segments = [*filled_prompt("{v} [BIO:rna] {v}", {"v": value}), Answer(value)]
    tokens = tokenize_prompt(tokenizer, segments, {"rna": 1})
    assert tokens.ids.count(SLOT) == 1
    assert tokens.ids.count(tokenizer.eos_token_id) == 1
    assert tokens.ids[-1] == tokenizer.eos_token_id
    place = tokens.ids.index(SLOT)
    assert tokenizer.decode(tokens.ids[:place]) == f"{value} "
    assert tokenizer.decode(tokens.ids[place + 1 : -1]) == f" {value} {value}"


def test_the_prompts_of_the_stages_are_their_templates():
    assert label_prompt("B cell") == [Text("Cell:"), Entity("rna"), Text(" Type:"), Answer("B cell")]
    assert label_prompt()[-1] == Answer(None)
    assert reasoning_prompt("B cell", ["CD19", "MS4A1"]) == [
        *label_prompt("B cell"),
        Text(" Genes 1: CD19, MS4A1. Why?"),
        Answer(None),
    ]
    assert reasoning_prompt("B", [], "so")[-2:] == [Text(" Why?"), Answer("so")]
    assert description_prompt("protein", "a kinase") == [
        Text("Protein:"),
        Entity("protein"),
        Text(" Description:"),
        Answer("a kinase"),
    ]
    assert description_prompt("rna")[0] == Text("Cell:")
    assert description_prompt("atac")[0] == Text("Atac:")


def test_a_model_may_have_templates_of_its_own():
    prompts = PROMPTS | {"label": "Which? [BIO:rna]", "reason": "{genes}!", "describe": "A {entity} [BIO]."}
    assert label_prompt("x", prompts=prompts) == [Text("Which? "), Entity("rna"), Answer("x")]
    assert reasoning_prompt("x", ["{genes} [BIO]"], prompts=prompts) == [
        *label_prompt("x", prompts=prompts),
        Text("{genes} [BIO]!"),
        Answer(None),
    ]
    assert description_prompt("molecule", prompts=prompts)[:3] == [Text("A Molecule "), Entity("molecule"), Text(".")]


def words(segments):
    """A prompt as one line."""
    shown = {Text: "{0.text}", Entity: "<{0.mod}>", Answer: "={0.text}="}
    return "".join(shown[type(segment)].format(segment) for segment in segments)


def test_questions_name_their_entities_and_follow_each_other():
    prompt = question_prompt(
        ["molecule", "protein", "protein"],
        [("Which binds?", "Protein 1."), ("Why?", None)],
        nearest=[["Aspirin."], [], ["A kinase.", "A lyase"]],
    )
    assert words(prompt) == (
        "Nearest known: (1) Aspirin. Molecule:<molecule> Protein 1:<protein> Nearest known: (1) A kinase. (2) A lyase. "
        "Protein 2:<protein> Question: Which binds? Answer:=Protein 1.= Question: Why? Answer:=None="
    )


def test_what_looks_like_a_template_in_a_question_is_only_text():
    prompt = question_prompt(["rna"], [("Is {question} a [BIO:rna]?", None)], nearest=[["{nearest} [BIO]"]])
    assert [s.mod for s in prompt if isinstance(s, Entity)] == ["rna"]
    assert "Is {question} a [BIO:rna]?" in words(prompt)
    assert "(1) {nearest} [BIO]." in words(prompt)


def test_a_description_shows_what_is_near():
    assert words(description_prompt("protein", nearest=["A kinase"])) == (
        "Nearest known: (1) A kinase. Protein:<protein> Description:=None="
    )


def test_parts_of_a_reasoning_stand_in_the_order_of_the_template():
    def written(prompts=PROMPTS, **parts):
        prompt = reasoning_prompt("T cell", ["CD3E", "CD2"], parts=parts, prompts=prompts)
        return "".join(s.text if isinstance(s, Text) else "*" for s in prompt[len(label_prompt("T cell")) :])

    absent = [{"form": str(i), "gene": g, "type": t, "probability": p} for i, g, t, p in [
        (2, "CD19", "B cell", "0.95"), (3, "LYZ", "monocyte", "0.81"),
    ]]  # fmt: skip
    sure = [{"form": "5", "certainty": "certain", "probability": "0.93"}]
    markers = [{"form": "1", "genes": "CD3E, CD2", "types": "T cells"}]
    assert written() == " Why?*", "what is not there is left out"
    assert written(sure=sure, missing=absent, markers=markers) == (
        " Markers 1: CD3E, CD2 of T cells. Missing 2: CD19 of B cell, 0.95. Missing 3: LYZ of monocyte, 0.81. "
        "Call 5: certain, 0.93. Why?*"
    )
    braces = written(markers=[{"form": "1", "genes": "{types}", "types": "[BIO:rna]"}])
    assert braces == " Markers 1: {types} of [BIO:rna]. Why?*", "values are only text"
    before = PROMPTS | {"reason": " Genes: {genes}.{absent} Why?", "absent": " Missing: {absent}."}
    assert written(before, absent=[{"absent": "CD19 of the B cell"}], sure=sure) == (
        " Genes: CD3E, CD2. Missing: CD19 of the B cell. Why?*"
    )


def test_facts_stand_before_the_question_of_their_turn():
    turns = [("What?", "This."), ("Why?", None)]
    segments = question_prompt(["rna"], turns, facts=[["One.", "Two."], []])
    assert segments == [
        *(Text("Cell:"), Entity("rna"), Text(" "), Text("Facts: One.\nTwo. Question: What? Answer:"), Answer("This.")),
        *(Text(" Question: Why? Answer:"), Answer()),
    ]
