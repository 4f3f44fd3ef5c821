"""Which features of a matrix are genes, and which are antibodies, hashtags, guides or peaks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bioverse_sc.ontology import ENSEMBL, approved_symbol
from bioverse_sc.read._genes import MADE_UNIQUE

if TYPE_CHECKING:
    from collections.abc import Sequence

TYPE_COLUMNS = ("feature_types", "feature_type", "modality", "feature_biotype")
"""Columns of ``.var`` that may say what a feature is."""

_GENE = re.compile(r"genes?|gene expression|m?rna|gex|expression|transcripts?")
_OTHER = re.compile(
    r"antibod|antigen|hashtag|hashing|crispr|guide|sgrna|grna|peak|multiplex|custom|chromatin|spike"
    r"|\b(adt|hto|atac|cmo|prot)\b|\bproteins?\b(?! coding)"
)

# what writes of a feature that it is none; a gene's own symbol is never judged by it
_TELLS = re.compile(
    r"totalseq|[-_](total[abcd]|pabo|ahs\d+)\b|\|pabo"
    r"|^(adt|hto|abseq|ab|prot|protein|cmo|hashtag|anti)[-_:. ]|^(hashtag|hto|cmo|adt)\d+|^anti[-_ ]?(human|mouse)"
    r"|[-_:. ](prot|protein|adt|ab|antibody|hto)$|\bisotype\b|^(mouse|rat|hamster|human)?[-_ ]?igg\d?[abck]?([-_ ,.]|$)"
    r"|^(sg|g)rna[-_:. ]|[-_ ](sg|g)rna\d*$"
    r"|^(\w+_)?(chr[\dxymtun]\w*|\d{1,2}|[xy]|mt|[gk][li]\d+[.v]\d)[:_-]\d+[-_]\d+$",
    re.IGNORECASE,
)
# names of antigens that are no symbols of genes, where the symbol is another word
_ANTIGEN = re.compile(
    r"CD\d+(?!P\d)[A-Za-z]{0,2}\d?|HLA-(DR|DQ|DP|ABC|A-B-C|DR-DP-DQ)|PD-?L?[12]|Ig[GMDAE](\d[a-c]?)?|TCR\S*|LOX-1|Fc(e?R\w*)|[Ii]ntegrin\S*|Podoplanin"
)
_CD = re.compile(r"CD\d+[A-Z]?([-.]\d+)?$")
_MOST_SPAN = 2.5


def other_features(names: Sequence[str], types: pd.Series | None = None) -> np.ndarray:
    """Which features are no genes, shape (features,).

    What a column says goes first. Where it says nothing, the names tell: a mark such as ``CD8a_TotalSeqB``,
    ``ADT_CD4``, ``IgG1_control``, ``chr1:1000-2000``; or several names of antigens, such as ``CD3`` and ``CD45RA``,
    beside the genes or in their place. Then what stands among them, and what was numbered because its name is a gene's
    (``CD4-1``), is an antibody too.

    Parameters
    ----------
    names
        Names of the features.
    types
        What each feature is, such as ``"Gene Expression"``, ``"Antibody Capture"``.
    """
    told = np.zeros(len(names), dtype=bool)
    other = np.zeros(len(names), dtype=bool)
    if types is not None:
        words = [_words(value) for value in types.astype(object)]
        gene = np.array([bool(_GENE.fullmatch(word)) for word in words], dtype=bool)
        if gene.any():
            told = np.array([word != "" for word in words], dtype=bool)
            other = told & ~gene
        else:
            other = np.array([bool(_OTHER.search(word)) for word in words], dtype=bool)
            told = other.copy()
    if not told.all():
        other[~told] |= _by_names(np.array(names, dtype=object))[~told]
    return other


def _words(value: Any) -> str:
    """Lower case words of a value; none when it is missing."""
    return "" if pd.isna(value) else re.sub(r"[^a-z0-9]+", " ", str(value).lower()).strip()


def _by_names(names: np.ndarray) -> np.ndarray:
    present = {*names, *(approved_symbol(name) for name in names if ENSEMBL.match(name))}
    symbols = {name: approved_symbol(name) for name in names if _TELLS.search(name) or _ANTIGEN.fullmatch(name)}
    no_symbol = [name in symbols and symbols[name] != name for name in names]
    marked = np.array(
        [new and bool(_TELLS.search(name)) for name, new in zip(names, no_symbol, strict=True)], dtype=bool
    )
    antigen = np.array([new and not mark for new, mark in zip(no_symbol, marked, strict=True)], dtype=bool)
    # an old name of a gene that is not there under its new one is just that
    besides = [symbols[name] is None or symbols[name] in present for name in names[antigen]]
    if sum(besides) < 2 and not (antigen.sum() >= 3 and antigen.mean() > 0.1) and not (marked.any() and any(besides)):
        return marked
    repeat = [(m := MADE_UNIQUE.match(name)) is not None and m[1] in present for name in names]
    other = marked | antigen | np.array(repeat, dtype=bool)
    places = np.flatnonzero(marked | antigen)
    first, last = places[0], places[-1] + 1
    if last - first <= _MOST_SPAN * len(places):
        # they stand together, so what has a symbol like those at either end is one of them
        while first > 0 and _CD.match(names[first - 1]):
            first -= 1
        while last < len(names) and _CD.match(names[last]):
            last += 1
        edge = max(3, (last - first) // 5)
        other[0 if first <= edge else first : len(names) if len(names) - last <= edge else last] = True
    return other
