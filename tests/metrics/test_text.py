import math
import re
import sys
from collections import Counter
from types import SimpleNamespace

import nltk.corpus
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.corpus.reader import CorpusReader
from nltk.corpus.util import LazyCorpusLoader

from bioverse_sc.metrics import bleu, meteor, rouge, text_metrics

CANDIDATES = [
    "The molecule is a monocarboxylic acid and an ester.",
    "It is a steroid; it derives from cholesterol.",
    "An alkaloid that is found in tea leaves",
]
REFERENCES = [
    "The molecule is a dicarboxylic acid and an ester of glycerol.",
    "It is a sterol and derives from a hydride of a cholestane.",
    "The molecule is an alkaloid found in the leaves of tea.",
]
FIGURES = {
    "bleu": bleu,
    "rouge": rouge,
    "meteor": lambda a, b: meteor(a, b, synonyms=False),
    "text_metrics": lambda a, b: text_metrics(a, b, synonyms=False),
}
# of few words, so that texts share some
TEXTS = st.lists(st.sampled_from(["acid", "ester", "an", "is", ","]), max_size=7).map(" ".join)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5)


def words(text):
    return re.findall(r"\w+|[^\w\s]", text.lower())


def ngrams(tokens, n):
    return Counter(zip(*[tokens[i:] for i in range(n)], strict=False))


def naive_bleu(candidates, references, max_order):
    candidates, references = [words(t) for t in candidates], [words(t) for t in references]
    logs = []
    for n in range(1, max_order + 1):
        pairs = [(ngrams(c, n), ngrams(r, n)) for c, r in zip(candidates, references, strict=True)]
        # nltk counts a text that is shorter than n as one n-gram
        matched, total = sum((c & r).total() for c, r in pairs), sum(max(c.total(), 1) for c, _ in pairs)
        if matched == 0:
            return 0.0
        logs.append(math.log(matched / total))
    length, wanted = sum(map(len, candidates)), sum(map(len, references))
    return math.exp(min(0, 1 - wanted / length) + sum(logs) / max_order)


def longest_common_subsequence(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def naive_rouge(candidates, references):
    found = {"rouge1": [], "rouge2": [], "rougeL": []}
    for candidate, reference in zip(candidates, references, strict=True):
        c, r = (re.findall("[a-z0-9]+", t.lower()) for t in (candidate, reference))
        for kind, shared, total in [
            ("rouge1", (ngrams(c, 1) & ngrams(r, 1)).total(), len(c) + len(r)),
            ("rouge2", (ngrams(c, 2) & ngrams(r, 2)).total(), max(len(c) - 1, 0) + max(len(r) - 1, 0)),
            ("rougeL", longest_common_subsequence(c, r), len(c) + len(r)),
        ]:
            found[kind].append(2 * shared / total if total else 0.0)
    return {kind: float(np.mean(values)) for kind, values in found.items()}


def test_bleu_of_a_worked_example():
    # 3 of 4 words, 1 of 3 pairs, as long as the reference
    assert bleu(["the cat sat here"], ["the cat lay here"]) == pytest.approx(math.sqrt(3 / 4 * 1 / 3))
    # all match, but 2 words stand for 4
    assert bleu(["the cat"], ["the cat lay here"]) == pytest.approx(math.exp(1 - 4 / 2))
    # a repeated word matches as often as the reference has it
    assert bleu(["the the the"], ["the cat lay"], 1) == pytest.approx(1 / 3)


def test_bleu_counts_over_the_corpus():
    # 1 of 1 and 1 of 3 words are 2 of 4, which is not the mean of 1 and 1/3
    assert bleu(["acid", "an ester , "], ["acid", "an acid ;"], 1) == pytest.approx(2 / 4)


def test_an_order_without_a_match_makes_bleu_nought():
    assert bleu(["a b c"], ["b a d"], 2) == 0
    assert bleu(["a b c"], ["b a d"], 1) == pytest.approx(2 / 3)
    assert bleu(["acid"], ["acid"], 2) == 0
    # 3 of 3 words, and 1 of 2 pairs, as the text of one word counts as a pair
    assert bleu(["acid", "an ester"], ["acid", "an ester"], 2) == pytest.approx(math.sqrt(1 / 2))
    assert bleu([""], ["acid"]) == 0


def test_case_and_the_space_before_punctuation_do_not_matter():
    assert bleu(["The acid, an ester."], ["the acid , an ester ."], 4) == 1
    assert meteor(["The acid, an ester."], ["the acid , an ester ."], synonyms=False) > 0.99


def test_another_tokenizer_gives_other_tokens():
    assert bleu(["ab"], ["abc"], 2) == 0
    assert bleu(["ab"], ["abc"], 2, tokenize=list) == pytest.approx(math.exp(1 - 3 / 2))
    assert meteor(["ab"], ["xb"], synonyms=False) == 0
    # 1 of 2, in one piece
    assert meteor(["ab"], ["xb"], synonyms=False, tokenize=list) == pytest.approx(0.5 * 0.5)


@settings(deadline=None)
@given(PAIRS, st.integers(1, 4))
def test_bleu_is_that_of_the_paper_but_for_texts_shorter_than_an_order(pairs, max_order):
    candidates, references = zip(*pairs, strict=True)
    assert bleu(candidates, references, max_order) == pytest.approx(naive_bleu(candidates, references, max_order))


def test_rouge_of_a_worked_example():
    found = rouge(["the cat sat here"], ["the cat, lay here now"])
    # 3 words of 4 and 5; 1 pair of 3 and 4; the, cat, here
    assert found == pytest.approx({"rouge1": 2 * 3 / 9, "rouge2": 2 * 1 / 7, "rougeL": 2 * 3 / 9})
    # the same words in another order
    assert rouge(["b a"], ["a b"]) == pytest.approx({"rouge1": 1, "rouge2": 0, "rougeL": 0.5})


@settings(deadline=None)
@given(PAIRS)
def test_rouge_is_the_mean_of_f_measures(pairs):
    candidates, references = zip(*pairs, strict=True)
    assert rouge(candidates, references) == pytest.approx(naive_rouge(candidates, references))


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        # three words in one piece: no loss but the penalty 0.5 * (1/3)**3
        ("the cat sat", "the cat sat", 1 - 0.5 / 27),
        # the stem of cats is cat
        ("the cats sat", "the cat sat", 1 - 0.5 / 27),
        # two words in two pieces
        ("sat cat", "cat sat", 0.5),
        # precision 1, recall 1/2; one piece of two words
        ("the cat", "the cat sat here", (0.5 / (0.9 + 0.1 * 0.5)) * (1 - 0.5 / 8)),
        ("dog", "cat", 0),
        ("", "cat", 0),
        ("cat", "", 0),
    ],
)
def test_meteor_of_worked_examples(candidate, reference, expected):
    assert meteor([candidate], [reference], synonyms=False) == pytest.approx(expected)


def test_meteor_is_the_mean_of_the_texts():
    one = [meteor([c], [r], synonyms=False) for c, r in zip(CANDIDATES, REFERENCES, strict=True)]
    assert meteor(CANDIDATES, REFERENCES, synonyms=False) == pytest.approx(np.mean(one))
    assert len(set(one)) == 3


def test_synonyms_match_where_wordnet_is(monkeypatch):
    lemmas = [SimpleNamespace(name=lambda: "hound")]
    synsets = {"dog": [SimpleNamespace(lemmas=lambda: lemmas)]}
    wordnet = SimpleNamespace(ensure_loaded=lambda: None, synsets=lambda word: synsets.get(word, []))
    monkeypatch.setattr(nltk.corpus, "wordnet", wordnet)
    assert meteor(["the dog sat"], ["the hound sat"]) == pytest.approx(1 - 0.5 / 27)
    # two words of three, in two pieces
    assert meteor(["the dog sat"], ["the hound sat"], synonyms=False) == pytest.approx(2 / 3 * 0.5)


@pytest.mark.parametrize("metric", [meteor, text_metrics])
def test_without_wordnet_the_error_says_what_to_type(metric, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(nltk.corpus, "wordnet", LazyCorpusLoader("wordnet", CorpusReader, ".*"))
    with pytest.raises(LookupError, match=r"python -m nltk\.downloader wordnet.*synonyms=False") as error:
        metric(CANDIDATES, REFERENCES)
    assert isinstance(error.value.__cause__, LookupError)
    assert 0 < meteor(CANDIDATES, REFERENCES, synonyms=False) < 1


def test_text_metrics_are_all_of_them():
    found = text_metrics([*CANDIDATES, "Tea."], [*REFERENCES, "Tea."], synonyms=False)
    assert list(found) == ["bleu_2", "bleu_4", "rouge_1", "rouge_2", "rouge_l", "meteor", "exact_match"]
    candidates, references = [*CANDIDATES, "Tea."], [*REFERENCES, "Tea."]
    shared = rouge(candidates, references)
    assert found == {
        "bleu_2": bleu(candidates, references, 2),
        "bleu_4": bleu(candidates, references, 4),
        "rouge_1": shared["rouge1"],
        "rouge_2": shared["rouge2"],
        "rouge_l": shared["rougeL"],
        "meteor": meteor(candidates, references, synonyms=False),
        "exact_match": 0.25,
    }
    assert {type(value) for value in found.values()} == {float}


def test_the_tokenizer_reaches_bleu_and_meteor():
    found = text_metrics(["ab"], ["xb"], synonyms=False, tokenize=list)
    assert found["meteor"] == pytest.approx(0.25)
    assert found["bleu_2"] == bleu(["ab"], ["xb"], tokenize=list)


def test_exact_match_is_character_for_character():
    found = text_metrics(["Tea", "tea", "tea "], ["tea", "tea", "tea"], synonyms=False)
    assert found["exact_match"] == pytest.approx(1 / 3)


@settings(deadline=None)
@given(PAIRS)
def test_every_figure_is_a_share_and_the_best_is_a_copy(pairs):
    candidates, references = zip(*pairs, strict=True)
    found = text_metrics(candidates, references, synonyms=False)
    best = text_metrics(references, references, synonyms=False)
    for name, value in found.items():
        assert 0 <= value <= 1 + 1e-12
        assert value <= best[name] + 1e-12 or name.startswith(("bleu", "rouge_2"))


@pytest.mark.parametrize("name", FIGURES)
def test_texts_that_cannot_be_compared_are_errors(name):
    figure = FIGURES[name]
    with pytest.raises(ValueError, match="2 candidates and 1 references"):
        figure(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="candidates is empty"):
        figure([], [])
    with pytest.raises(TypeError, match=r"references is the string 'acid'; expected a list.*references=\['acid'\]"):
        figure(["acid"], "acid")
    with pytest.raises(TypeError, match="candidates holds nan, which is no string"):
        figure(["acid", float("nan")], ["acid", "acid"])


def test_an_order_below_one_is_an_error():
    with pytest.raises(ValueError, match="max_order is 0"):
        bleu(["a"], ["a"], 0)


@pytest.mark.parametrize(
    ("name", "package"),
    [("bleu", "nltk"), ("meteor", "nltk"), ("rouge", "rouge_score"), ("text_metrics", "rouge_score")],
)
def test_without_the_extra_the_error_says_what_to_type(name, package, monkeypatch):
    class Absent:
        def find_spec(self, module, *_):
            if module.partition(".")[0] == package:
                raise ModuleNotFoundError(name=package)

    for module in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(
        ImportError, match=rf"needs {package}, which is not installed: pip install 'bioverse-sc\[text\]'"
    ):
        FIGURES[name](CANDIDATES, REFERENCES)
