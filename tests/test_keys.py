import numpy as np
import pytest

import bioverse_sc as bsc
from bioverse_sc._keys import LONGEST, Keys, check_name
from bioverse_sc._validation import check_labels

CALLS = {
    "embed": lambda data, key: bsc.tl.embed(data, key_added=key),
    "align": lambda data, key: bsc.tl.align(data, key_added=key),
    "annotate": lambda data, key: bsc.tl.annotate(data, key_added=key),
    "score": lambda data, key: bsc.tl.score(data, ["a cell"], key_added=key),
    "describe": lambda data, key: bsc.tl.describe(data, key_added=key),
    "ask": lambda data, key: bsc.tl.ask(data, "What is it?", key_added=key),
    "alignment_umap": lambda data, key: bsc.tl.alignment_umap(data, key_added=key),
    "evidence": lambda data, key: bsc.tl.evidence(data, key_added=key),
    "controls": lambda data, key: bsc.tl.controls(data, key_added=key),
}


def test_all_functions_are_here():
    assert set(CALLS) == set(bsc.tl.__all__)


@pytest.mark.parametrize("function", CALLS)
@pytest.mark.parametrize(("key", "error"), [("v1/mini", ValueError), ("", ValueError), (5, TypeError)])
def test_every_function_refuses_a_bad_key_before_any_work(function, key, error, cells, monkeypatch):
    module = __import__(f"bioverse_sc.tl._{function}", fromlist=["_"])
    monkeypatch.setattr(module, "get_model", lambda *_: pytest.fail("the work has begun"), raising=False)
    monkeypatch.setattr(type(cells), "copy", lambda *_: pytest.fail("the work has begun"))
    with pytest.raises(error, match="key_added"):
        CALLS[function](cells, key)


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        ("a/b", ValueError, r"with '/' in a name a file could not be read again\. Try 'a_b'"),
        ("a\\b", ValueError, "Try 'a_b'"),
        ("/", ValueError, "could not be read"),
        ("a\0b", ValueError, r"holds '\\x00' \(place 1\)"),
        ("\ud800", ValueError, "files cannot keep"),
        ("", ValueError, "expected a name with letters"),
        ("  ", ValueError, "expected a name with letters"),
        (".", ValueError, "begin with '.'"),
        ("..", ValueError, "begin with '.'"),
        (".zattrs", ValueError, "begin with '.'"),
        ("x" * 300, ValueError, "300 bytes"),
        ("é" * 60, ValueError, "120 bytes"),
        ("scgpt", ValueError, "that encoder"),
        (5, TypeError, r"5 \(int\); expected a string"),
        (np.array(["a"]), TypeError, "expected a string"),
        (b"a", TypeError, "expected a string"),
        (True, TypeError, "expected a string"),
    ],
)
def test_what_files_cannot_keep_is_refused(key, error, message):
    with pytest.raises(error, match=message):
        Keys.of(key)


@pytest.mark.parametrize("key", ["mine", "my run", "v1.mini", "v1:mini", "é☃", "x" * 100, np.str_("mine")])
def test_other_names_are_kept(key):
    assert Keys.of(key).label == f"{key}_label"
    assert Keys.of(None) == Keys()


def test_columns_of_scores_are_short_and_differ():
    long = ["a cell " * 60 + end for end in ("one", "two")]
    one, two = map(Keys.score_column, long)
    assert one != two
    assert len(one.encode()) <= LONGEST
    assert one.startswith("a cell a cell")
    assert Keys.score_column("T/NK \\ B") == "T|NK | B"
    assert len(Keys.score_column("☃" * 300).encode()) <= LONGEST


@pytest.mark.parametrize("bad", ["B\0cell", "B \ud800"])
def test_labels_questions_and_texts_that_files_cannot_keep_are_refused(bad, cells):
    with pytest.raises(ValueError, match="labels holds"):
        check_labels(["T cell", bad])
    with pytest.raises(ValueError, match="question holds"):
        bsc.tl.ask(cells, bad)
    for call in (lambda: bsc.tl.score(cells, [bad]), lambda: bsc.tl.alignment_umap(cells, texts=[bad])):
        with pytest.raises(ValueError, match=r"texts\[0\] holds"):
            call()


def test_names_of_encoders_are_checked():
    with pytest.raises(ValueError, match=r"name is 'a\.\./b'|cannot be the name of an encoder"):
        bsc.encoders.register("a../b", lambda: None)
    with pytest.raises(ValueError, match="holds"):
        bsc.encoders.register("a\0b", lambda: None)
    with pytest.raises(ValueError, match="with '/' in a name"):
        check_name("v1/mini", "The name of the rna encoder", example="mine")
