"""Examples, pairs and tables from files of records."""

import json

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from bioverse_sc.models import Answer, Entity
from bioverse_sc.train import read_examples, read_pairs, read_table
from tests.train.test_data import words


def write(folder, kind, records):
    """The same records in a file of each kind."""
    file = folder / f"records.{kind.removeprefix('stream.')}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return file
    keys = list(dict.fromkeys(key for record in records for key in record))
    table = pa.table({key: [record.get(key) for record in records] for key in keys})
    if kind == "parquet":
        parquet.write_table(table, file)
    elif kind == "feather":
        feather.write_feather(table, file)
    else:
        new = pa.ipc.new_stream if kind.startswith("stream") else pa.ipc.new_file
        with new(file, table.schema) as writer:
            writer.write_table(table)
    return file


KINDS = pytest.mark.parametrize("kind", ["jsonl", "arrow", "stream.arrow", "feather", "parquet"])
NAMES = {"rna": list("abcd"), "protein": ["P1", "P2", "007"]}


@KINDS
def test_records_become_examples(kind, tmp_path):
    records = [
        {"prompt": "Which? [BIO:rna]{n}", "answer": 'B "cell" [BIO] {prompt}', "rna": "c", "n": 3},
        {"prompt": "[BIO] binds [BIO:protein]?", "answer": "yes", "rna": "a", "protein": "007"},
        {"prompt": "é\nNo entity", "answer": "so"},
    ]
    found = read_examples(write(tmp_path, kind, records), NAMES)
    assert [words(e) for e in found] == [
        'Which? <rna>{n}B "cell" [BIO] {prompt}',
        "<rna> binds <protein>?yes",
        "é\nNo entityso",
    ]
    assert [e.rows for e in found] == [(2,), (0, 2), ()]


@KINDS
def test_a_prompt_for_all_records_is_filled(kind, tmp_path):
    records = [
        {
            "rna": "b",
            "tissue": "[BIO] {n}",
            "n": 1,
            "big": 2**60 + 1,
            "date": "2020-01-02",
            "code": "007",
            "id": 5,
            "x": 0.1,
        },
        {"rna": "d", "tissue": "lung", "n": 2, "big": 3, "date": "1e5", "code": "1e5", "id": None, "x": 2.5},
    ]
    file = write(tmp_path, kind, records)
    found = read_examples(file, NAMES, prompt="{tissue} [BIO] {n}", answer="{big} {date} {code} {x}")
    assert [words(e) for e in found] == [
        "[BIO] {n} <rna> 11152921504606846977 2020-01-02 007 0.1",
        "lung <rna> 23 1e5 1e5 2.5",
    ]
    assert words(read_examples(write(tmp_path, kind, records[:1]), NAMES, prompt="[BIO]", answer="{id}")[0]) == "<rna>5"
    with pytest.raises(ValueError, match=rf"{file.name}, record 2: there is no value of 'id'"):
        read_examples(write(tmp_path, kind, records), NAMES, prompt="[BIO] {n}", answer="{id}")


@KINDS
def test_a_number_beside_a_missing_one_stays_whole(kind, tmp_path):
    table = read_table(write(tmp_path, kind, [{"n": 7, "flag": True}, {"n": None, "flag": None}]))
    assert str(table["n"][0]) == "7"
    assert str(table["flag"][0]) == "True"
    assert table.iloc[1].isna().all()


@KINDS
def test_a_record_may_name_several_entities_of_a_modality(kind, tmp_path):
    records = [
        {"prompt": "[BIO:rna] or [BIO:protein] or [BIO:rna]?", "answer": "x", "rna": ["c", "a"], "protein": ["P2"]}
    ]
    (found,) = read_examples(write(tmp_path, kind, records), NAMES)
    assert found.rows == (2, 1, 0)
    records[0] |= {"rna": ["d"]}
    (found,) = read_examples(write(tmp_path, kind, records), NAMES)
    assert found.rows == (3, 1, 3), "one entity stands at all places"
    records[0] |= {"rna": ["a", "b", "c"]}
    with pytest.raises(ValueError, match="record 1: the prompt has 2 places for 'rna', but 3 entities are named"):
        read_examples(write(tmp_path, kind, records), NAMES)
    records.append({"prompt": "[BIO]", "answer": "x", "rna": ["a", "b"], "protein": None})
    records[0] |= {"rna": ["a", "b"]}
    with pytest.raises(ValueError, match="record 2: the prompt has 1 places for 'rna', but 2"):
        read_examples(write(tmp_path, kind, records), NAMES)


@KINDS
def test_an_entity_may_have_a_number_for_a_name(kind, tmp_path):
    file = write(
        tmp_path, kind, [{"prompt": "[BIO]", "answer": "x", "rna": 12}, {"prompt": "[BIO]", "answer": "x", "rna": 7}]
    )
    assert [e.rows for e in read_examples(file, {"rna": ["7", "12", "012"]})] == [(1,), (0,)]
    assert [e.rows for e in read_examples(file, {"rna": pd.Index([7, 12])})] == [(1,), (0,)]


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"prompt": "[BIO]", "answer": "x", "rna": "nobody"}, "there is no 'rna' entity named 'nobody'"),
        ({"prompt": "[BIO]", "answer": "x", "rna": ["a", "nobody"]}, "there is no 'rna' entity named 'nobody'"),
        ({"prompt": "[BIO]", "answer": "x", "rna": True}, "there is no 'rna' entity named True"),
        ({"prompt": "[BIO]", "answer": "x", "rna": []}, "but 0 entities are named"),
        ({"prompt": "[BIO]", "answer": "x"}, "the record names none in the column 'rna'"),
        ({"prompt": "[BIO]", "answer": "x", "rna": None}, "the record names none in the column 'rna'"),
        ({"prompt": "[BIO]", "answer": "x", "rna": ["a", None]}, "the record names none in the column 'rna'"),
        (
            {"prompt": "[BIO:atac]", "answer": "x", "atac": "a"},
            r"'atac' entity, but there are names of \['protein', 'rna'\]",
        ),
        ({"prompt": None, "answer": "x"}, "there is no prompt"),
        ({"prompt": "a", "answer": None}, "there is no value of 'answer'"),
        ({"prompt": "a"}, "there is no value of 'answer'"),
        ({"prompt": "a", "answer": " "}, "the answer is empty"),
    ],
)
def test_a_bad_record_is_named(record, what, tmp_path):
    file = write(tmp_path, "jsonl", [{"prompt": "a", "answer": "b"}, record])
    with pytest.raises(ValueError, match=rf"records.jsonl, record 2: .*{what}"):
        read_examples(file, NAMES)


def test_missing_columns_of_a_file_are_named(tmp_path):
    file = write(tmp_path, "jsonl", [{"rna": "a", "question": "x"}])
    with pytest.raises(KeyError, match=r"'prompt'.*\['rna', 'question'\]"):
        read_examples(file, NAMES)
    with pytest.raises(KeyError, match="'answer'"):
        read_examples(file, NAMES, prompt="[BIO] {question}")
    with pytest.raises(KeyError, match="'other'"):
        read_examples(file, NAMES, prompt="[BIO] {other}", answer="{question}")


def test_names_of_entities_are_unique(tmp_path):
    file = write(tmp_path, "jsonl", [{"prompt": "a", "answer": "x", "text": "t", "rna": "a"}])
    for read in (lambda: read_examples(file, {"rna": ["a", "b", "b"]}), lambda: read_pairs(file, ["a", "b", "b"])):
        with pytest.raises(ValueError, match="names of 'rna' are not unique, so that 'b'"):
            read()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"a": 1}\n\n{"a": \n', "line 3 is not JSON"),
        ('{"a": 1}\nnonsense', "line 2 is not JSON"),
        ('{"a": 1} {"a": 2}', "line 1 is not JSON"),
        ('{"a": 1}\n[{"a": 1}]', "line 2 is no JSON object"),
        ('{"a": 1}\n"a"', "line 2 is no JSON object"),
        ("[\n{}\n]", "line 1 is not JSON"),
        ("\n \n", "holds no records"),
        ("", "holds no records"),
    ],
)
def test_malformed_json_lines_name_file_and_line(text, what, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"bad.jsonl.*{what}"):
        read_examples(file, NAMES)


@pytest.mark.parametrize("name", ["bad.arrow", "bad.feather", "bad.parquet"])
def test_a_file_of_another_kind_is_named(name, tmp_path):
    (tmp_path / name).write_bytes(b"these are no columns at all")
    with pytest.raises(ValueError, match=rf"{name} is no (Arrow|Parquet) file"):
        read_table(tmp_path / name)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl"):
        read_table(tmp_path / "absent.jsonl")
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match=r"a.csv ends with '.csv'; expected .jsonl"):
        read_table(tmp_path / "a.csv")


def test_json_lines_of_any_system_are_read(tmp_path):
    file = tmp_path / "a.JSONL"
    file.write_bytes('\ufeff{"rna": "a", "text": "é\u2028x"}\r\n\r\n{"rna": "b", "text": "y"}'.encode())
    assert read_table(file).to_dict("records") == [{"rna": "a", "text": "é\u2028x"}, {"rna": "b", "text": "y"}]


def test_a_table_of_pandas_is_read_with_its_index(tmp_path):
    frame = pd.DataFrame(
        {"prompt": pd.Categorical(["[BIO]", "[BIO]"]), "answer": ["x", "y"]}, index=pd.Index(["d", "b"], name="rna")
    )
    frame.to_parquet(tmp_path / "a.parquet")
    frame.reset_index().to_feather(tmp_path / "a.feather")
    for file in ("a.parquet", "a.feather"):
        assert [e.rows for e in read_examples(tmp_path / file, NAMES)] == [(3,), (1,)]


@KINDS
def test_pairs_name_an_entity_and_its_text(kind, tmp_path):
    records = [
        {"protein": "P2", "text": "a kinase [BIO]", "n": 1},
        {"protein": "P1", "text": "a {n}", "n": 2},
        {"protein": "P2", "text": "a {n}", "n": None},
        {"protein": "007", "text": "a kinase [BIO]", "n": 4},
    ]
    rows, texts = read_pairs(write(tmp_path, kind, records), NAMES["protein"], mod="protein")
    assert list(rows) == [1, 0, 1, 2]
    assert texts.texts == ["a kinase [BIO]", "a {n}"]
    assert list(texts.text_of) == [0, 1, 1, 0]
    file = write(tmp_path, kind, records[:2])
    _, texts = read_pairs(file, NAMES["protein"], mod="protein", text="{text}, {n}")
    assert texts.texts == ["a kinase [BIO], 1", "a {n}, 2"]


@pytest.mark.parametrize(
    ("record", "error", "what"),
    [
        ({"rna": "nobody", "text": "x"}, ValueError, "record 2: there is no 'rna' entity named 'nobody'"),
        ({"rna": None, "text": "x"}, ValueError, "record 2: there is no 'rna' entity named None"),
        ({"rna": "a", "text": None}, ValueError, "1 of 2 entities have no text"),
        ({"rna": "a", "text": ""}, ValueError, "1 of 2 entities have no text"),
    ],
)
def test_a_bad_pair_is_named(record, error, what, tmp_path):
    file = write(tmp_path, "jsonl", [{"rna": "b", "text": "y"}, record])
    with pytest.raises(error, match=what):
        read_pairs(file, NAMES["rna"])


def test_missing_columns_of_pairs_are_named(tmp_path):
    file = write(tmp_path, "jsonl", [{"cell": "b", "text": "y"}])
    with pytest.raises(KeyError, match=r"'rna'.*\['cell', 'text'\]"):
        read_pairs(file, NAMES["rna"])
    with pytest.raises(KeyError, match="'words'"):
        read_pairs(file, ["b"], mod="cell", text="{words}")


def test_numbers_name_entities_of_pairs(tmp_path):
    rows, _ = read_pairs(write(tmp_path, "jsonl", [{"rna": 7, "text": "x"}]), ["12", "7"])
    assert list(rows) == [1]


def test_a_conversation_is_a_list_whose_answers_are_all_learned(tmp_path):
    prompt = ["Cell:[BIO] Which type is {it}?", "A B cell.", "Sure?"]
    file = write(tmp_path, "jsonl", [{"rna": "b", "prompt": prompt, "answer": "Yes."}])
    (example,) = read_examples(file, NAMES)
    assert [getattr(segment, "text", segment) for segment in example.segments] == [
        *("Cell:", Entity("rna"), " Which type is {it}?", "A B cell.", "Sure?", "Yes.")
    ]
    assert [isinstance(segment, Answer) for segment in example.segments] == [False, False, False, True, False, True]
    assert example.rows == (NAMES["rna"].index("b"),)


@pytest.mark.parametrize("prompt", [["a", "b"], [], ["a", "", "c"], ["a", 3, "c"], 3])
def test_a_conversation_ends_with_a_question(prompt, tmp_path):
    file = write(tmp_path, "jsonl", [{"prompt": prompt, "answer": "x"}])
    with pytest.raises(ValueError, match=r"record 1: the prompt is .*; expected a text, or a list of question, answer"):
        read_examples(file, NAMES)
