"""Generated texts beside references: BLEU, ROUGE, METEOR. The libraries come with the extra ``text``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc._optional import require

if TYPE_CHECKING:
    from fractions import Fraction

Tokenize = Callable[[str], Sequence[str]]


def bleu(
    candidates: Sequence[str], references: Sequence[str], max_order: int = 2, *, tokenize: Tokenize | None = None
) -> float:
    """BLEU of a corpus over n-grams of up to ``max_order`` tokens, equally weighted and not smoothed, 0 to 1.

    ``max_order=2`` is the BLEU-2 and ``max_order=4`` the BLEU-4 of papers about captions of molecules, which count
    pieces of words: their figures compare with yours only when ``tokenize`` is their tokenizer, see below. An order of
    which no n-gram matches makes the whole score 0. nltk counts a candidate that is shorter than n tokens as one n-gram
    that does not match, so copies of very short texts score less than 1.

    Source: Papineni et al., BLEU, ACL 2002; computed by ``nltk.translate.bleu_score.corpus_bleu``.

    Parameters
    ----------
    candidates
        Generated texts.
    references
        One text for each candidate.
    max_order
        The longest n-grams, in tokens.
    tokenize
        Text to tokens. Without it :func:`words`, which needs no download. MolT5 (Edwards et al., EMNLP 2022) used
        ``AutoTokenizer.from_pretrained("allenai/scibert_scivocab_uncased").tokenize``.

    Raises
    ------
    ImportError
        Without nltk: ``pip install 'bioverse-sc[text]'``.
    TypeError
        When a string is passed in place of a list of strings.
    ValueError
        When there are no texts, when the lengths differ, or when ``max_order`` is below 1.
    """
    corpus_bleu = require("nltk.translate.bleu_score", "text").corpus_bleu
    candidates, references = _paired(candidates, references)
    if max_order < 1:
        msg = f"max_order is {max_order}; expected at least 1, such as 4 for BLEU-4."
        raise ValueError(msg)
    tokenize = tokenize or words
    precisions: list[Fraction] = []

    def unsmoothed(of_order: list[Fraction], **_: object) -> list[Fraction]:
        precisions.extend(of_order)
        return of_order

    score = corpus_bleu(
        [[tokenize(text)] for text in references],
        [tokenize(text) for text in candidates],
        weights=(1 / max_order,) * max_order,
        smoothing_function=unsmoothed,
    )
    # nltk leaves an order without a match out of the geometric mean, or else warns and puts in the smallest float
    return float(score) if all(precisions) else 0.0


def rouge(candidates: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Mean F-measures of shared words, shared pairs of words and longest common subsequences, each 0 to 1.

    Texts are lower-cased and everything but a-z and 0-9 separates words, so Greek letters do not count; words are not
    stemmed.

    Source: Lin, ROUGE, 2004; computed by Google's ``rouge-score``.

    Parameters
    ----------
    candidates
        Generated texts.
    references
        One text for each candidate.

    Returns
    -------
    ``rouge1``, ``rouge2`` and ``rougeL``.

    Raises
    ------
    ImportError
        Without rouge-score: ``pip install 'bioverse-sc[text]'``.
    TypeError
        When a string is passed in place of a list of strings.
    ValueError
        When there are no texts or when the lengths differ.
    """
    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = require("rouge_score.rouge_scorer", "text").RougeScorer(kinds)
    candidates, references = _paired(candidates, references)
    scores = [scorer.score(reference, text) for text, reference in zip(candidates, references, strict=True)]
    return {kind: float(np.mean([score[kind].fmeasure for score in scores])) for kind in kinds}


def meteor(
    candidates: Sequence[str],
    references: Sequence[str],
    *,
    synonyms: bool = True,
    tokenize: Tokenize | None = None,
) -> float:
    """Mean METEOR of the texts, 0 to 1: words matched one to one, weighted to recall, less the more scattered they are.

    Words match when they are the same, then when their stems are, then when WordNet has the stems as synonyms. METEOR
    exists in several versions; this is the one of 2007 with nltk's default weights, not the Java program METEOR 1.5.

    Source: Lavie and Agarwal, METEOR, WMT 2007; computed by ``nltk.translate.meteor_score``.

    Parameters
    ----------
    candidates
        Generated texts.
    references
        One text for each candidate.
    synonyms
        Whether METEOR matches synonyms. They need WordNet, which no package brings: ``python -m nltk.downloader
        wordnet``. Without them scores are lower or equal, and are not comparable with published figures.
    tokenize
        Text to tokens. Without it :func:`words`, which needs no download. MolT5 (Edwards et al., EMNLP 2022) used
        ``AutoTokenizer.from_pretrained("allenai/scibert_scivocab_uncased").tokenize``.

    Raises
    ------
    ImportError
        Without nltk: ``pip install 'bioverse-sc[text]'``.
    LookupError
        With ``synonyms=True`` where WordNet is not installed.
    TypeError
        When a string is passed in place of a list of strings.
    ValueError
        When there are no texts or when the lengths differ.
    """
    meteor_score = require("nltk.translate.meteor_score", "text").meteor_score
    candidates, references = _paired(candidates, references)
    tokenize = tokenize or words
    wordnet = _wordnet() if synonyms else _NoWordNet()
    scores = [
        meteor_score([tokenize(reference)], tokenize(text), wordnet=wordnet)
        for text, reference in zip(candidates, references, strict=True)
    ]
    return float(np.mean(scores))


def text_metrics(
    candidates: Sequence[str],
    references: Sequence[str],
    *,
    synonyms: bool = True,
    tokenize: Tokenize | None = None,
) -> dict[str, float]:
    """All of the above, and the share of candidates that equal their reference character for character.

    ROUGE splits texts in its own way, whatever ``tokenize`` is.

    Parameters
    ----------
    candidates
        Generated texts.
    references
        One text for each candidate.
    synonyms
        Whether METEOR matches synonyms. They need WordNet, which no package brings: ``python -m nltk.downloader
        wordnet``. Without them scores are lower or equal, and are not comparable with published figures.
    tokenize
        Text to tokens. Without it :func:`words`, which needs no download. MolT5 (Edwards et al., EMNLP 2022) used
        ``AutoTokenizer.from_pretrained("allenai/scibert_scivocab_uncased").tokenize``.

    Returns
    -------
    ``bleu_2``, ``bleu_4``, ``rouge_1``, ``rouge_2``, ``rouge_l``, ``meteor`` and ``exact_match``, each 0 to 1.

    Raises
    ------
    ImportError
        Without nltk or rouge-score: ``pip install 'bioverse-sc[text]'``.
    LookupError
        With ``synonyms=True`` where WordNet is not installed.
    TypeError
        When a string is passed in place of a list of strings.
    ValueError
        When there are no texts or when the lengths differ.
    """
    candidates, references = _paired(candidates, references)
    shared = rouge(candidates, references)
    return {
        "bleu_2": bleu(candidates, references, 2, tokenize=tokenize),
        "bleu_4": bleu(candidates, references, 4, tokenize=tokenize),
        "rouge_1": shared["rouge1"],
        "rouge_2": shared["rouge2"],
        "rouge_l": shared["rougeL"],
        "meteor": meteor(candidates, references, synonyms=synonyms, tokenize=tokenize),
        "exact_match": float(np.mean([a == b for a, b in zip(candidates, references, strict=True)])),
    }


def words(text: str) -> list[str]:
    """Lower-cased words, and every punctuation mark by itself, as BERT splits a text before it looks for pieces.

    Parameters
    ----------
    text
        Any text.
    """
    return re.findall(r"\w+|[^\w\s]", text.lower())


def _paired(candidates: Sequence[str], references: Sequence[str]) -> tuple[list[str], list[str]]:
    """Texts as two lists of the same length."""
    for name, texts in (("candidates", candidates), ("references", references)):
        if isinstance(texts, str):
            msg = f"{name} is the string {texts[:40]!r}; expected a list of strings: {name}=[{texts[:40]!r}]"
            raise TypeError(msg)
        if odd := [text for text in texts if not isinstance(text, str)]:
            msg = f"{name} holds {odd[0]!r}, which is no string; expected one text each, '' where there is none."
            raise TypeError(msg)
    if len(candidates) != len(references):
        msg = f"There are {len(candidates)} candidates and {len(references)} references; expected one of each per text."
        raise ValueError(msg)
    if len(candidates) == 0:
        msg = "candidates is empty; expected at least one text."
        raise ValueError(msg)
    return list(candidates), list(references)


class _NoWordNet:
    """Stands in for WordNet and knows no synonyms."""

    def synsets(self, _: str) -> list:
        return []


def _wordnet() -> object:
    """WordNet when it is installed; nltk's own error is a page long and does not name the way around it."""
    wordnet = require("nltk.corpus", "text").wordnet
    try:
        wordnet.ensure_loaded()
    except LookupError as error:
        msg = (
            "METEOR matches synonyms by WordNet, which is not installed: python -m nltk.downloader wordnet. Or pass "
            "synonyms=False for matches of words and stems alone, which published figures do not compare with."
        )
        raise LookupError(msg) from error
    return wordnet
