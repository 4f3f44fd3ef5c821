"""Whether a reasoning is borne out: the genes that it names, in the cell and in the marker table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger
from bioverse_sc._modalities import modality, row_chunks
from bioverse_sc._models import get_model
from bioverse_sc._quiet import undisturbed
from bioverse_sc._results import Results
from bioverse_sc._row_hash import bound_hashes, hash_texts
from bioverse_sc.ontology import cell_ontology
from bioverse_sc.pp._genes import approved_symbol, gene_table
from bioverse_sc.pp._profile import get_matrix
from bioverse_sc.tl._economy import label_in_cluster
from bioverse_sc.tl._embed import matrix_to_read

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse
    from bioverse_sc.pp._profile import MatrixProfile

EXPRESSED_SHARE = 0.1
"""A group of cells expresses a gene when at least this share of its cells does."""
CLAIMS = ("present", "absent")
MARKS = ("label", "wider type", "another type", "none")
"""What the marker table has a gene for."""

SYMBOL = re.compile(r"[A-Za-z0-9]+(?:[-.][A-Za-z0-9]+)*(?![+])\b")

# what is after a word of `absent` is absent, until a word of `present` or the end of the clause; `after` stands behind
# its genes
_PARTS = re.compile(
    r"(?P<end>[;!?\n]|\.(?=\s|$))"
    r"|(?P<after>\b(?:is|are|was|were)\s+(?:\w+\s+)?(?:absent|missing|undetected|not\s+(?:\w+\s+)?(?:expressed|detected|found|seen|present))\b)"
    r"|(?P<absent>\b(?i:lack(?:s|ed|ing)?|no|nor|neither|without|absen(?:t|ce)|missing|negative\s+for|"
    r"(?:not|\w+n['’]t)\s+(?:\w+\s+)?(?:express(?:es|ed|ing)?|show|have|contain|detect(?:ed)?))\b(?![-+]))"
    r"|(?P<present>\b(?i:but|while|whereas|although|though|yet|however|with|express(?:es|ed|ing)?|shows?|has|have|"
    r"positive\s+for|rul(?:es?|ing)\s+out)\b(?![-+]))"
    r"|(?P<marker>\b(?i:mark(?:ers?|s|ing)?|another)\b(?![-+]))"
    rf"|(?P<word>{SYMBOL.pattern})"
)


@undisturbed()
def evidence(
    data: AnnData | MuData,
    *,
    groupby: str | None = None,
    model: str | Path | BioVerse = "mini",
    layer: str | None = None,
    gene_symbols: str | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Check the reasoning that :func:`bioverse_sc.tl.annotate` wrote: look up every gene that it names.

    This is a rule, and nothing that the model does. Each gene that a text names is one claim, that the gene is present
    or that it is absent:

    - A gene is claimed absent when "lacks", "no", "without", "absent", "negative for" or "does not express" stands
      before it in its clause, or "is absent" or "is not expressed" behind it. "expresses", "has", "with", "but",
      "while", "rules out" end what is said to be absent, as the end of the clause does (a full stop, a semicolon). All
      other genes are claimed present.
    - A gene is called a marker when its clause has the word "marker", "mark" or "another", as in "CD3E is another".
    - A claim that a gene is present is supported when the cell expresses the gene (any count), and, if the text calls
      it a marker, the marker table has it for the cell's label or for a wider type (see ``bioverse_sc.ontology``).
    - A claim that a gene is absent is supported when the cell does not express the gene, and the marker table does not
      have it for the label itself. What marks a wider type need not be in every kind of it: CD3E marks lymphocytes, and
      B cells lack it.
    - A group of cells (``groupby``) expresses a gene when at least a tenth of its cells do.
    - What cannot be looked up supports nothing: a gene that the data do not measure. For a label that is not in the
      Cell Ontology, expression alone decides.

    Parameters
    ----------
    data
        AnnData, or MuData with an ``"rna"`` modality, with ``.obs["bioverse_reasoning"]``.
    groupby
        Column of ``.obs`` with groups of cells, in which those with one label have one text; it is looked up in all of
        them together. By default the clusters, when :func:`bioverse_sc.tl.annotate` wrote about these; else each cell's
        text is looked up in the cell.
    model
        The model that wrote the texts, as for :func:`bioverse_sc.tl.annotate`; the genes that it knows are looked up.
    layer, gene_symbols
        As for :func:`bioverse_sc.tl.embed`; by default the matrix that the cells were embedded from.
    key_added
        Stem of the slots' names instead of ``"bioverse"``.
    copy
        Whether to return a copy instead of writing to ``data``.

    Returns
    -------
    ``None``, or a copy when ``copy=True``. Sets:

    ``.uns["bioverse"]["evidence"]["claims"]``
        DataFrame with a row for each claim: ``cell`` (name of the cell or group), ``label``, ``gene``, ``claim``
        (``"present"`` or ``"absent"``), ``called_marker``, ``expressed`` (share of the group's cells, 0 or 1 of a cell;
        NaN when the gene is not measured), ``marker_of`` (``"label"``, ``"wider type"``, ``"another type"`` or
        ``"none"``) and ``supported``.
    ``.uns["bioverse"]["evidence"]``
        Provenance beside it.

    Raises
    ------
    KeyError
        When there is no reasoning, or no column ``groupby``.
    """
    keys = Keys.of(key_added)
    if copy:
        data = data.copy()
    adata = modality(data)
    if missing := [column for column in (keys.reasoning, keys.label) if column not in adata.obs]:
        argument = "" if keys.stem == "bioverse" else f", key_added={keys.stem!r}"
        msg = f"There is no column {missing[0]!r} in .obs. Run bsc.tl.annotate(data{argument}) first."
        raise KeyError(msg)
    if groupby is not None and groupby not in adata.obs:
        msg = f"There is no column {groupby!r} in .obs; there are {list(adata.obs.columns)}."
        raise KeyError(msg)
    results = Results(adata, keys)
    annotated = results.made_by("annotate")
    if groupby is None and annotated.get("reasoning") == "cluster" and annotated.get("groupby") in adata.obs:
        groupby = str(annotated["groupby"])
    loaded = get_model(model)
    matrix, _ = matrix_to_read(results, known_genes(loaded), layer=layer, gene_symbols=gene_symbols)
    with finish_log(f"checking the reasoning of {adata.n_obs} cells") as slots:
        claims = _claims(adata, matrix, keys, groupby)
        entries = {
            "claims": claims,
            "content": bound_hashes(hash_texts(adata.obs[keys.label]), hash_texts(adata.obs[keys.reasoning])),
            "model": loaded.config.name,
            "model_fingerprint": loaded.fingerprint,
            "source": matrix.source,
            "gene_symbols": gene_symbols or "",
            "groupby": groupby or "",
        }
        slots += results.write("evidence", {}, entries)
        share = f": {claims['supported'].mean():.1%} of them supported" if len(claims) else ""
        logger.info("    %d claims about genes%s", len(claims), share)
    return data if copy else None


def _claims(adata: AnnData, matrix: MatrixProfile, keys: Keys, groupby: str | None) -> pd.DataFrame:
    """Claims of all cells, or of the texts of the cells with one label in each group."""
    said = pd.DataFrame(
        {
            "name": adata.obs_names.astype(str) if groupby is None else adata.obs[groupby].astype(str),
            "text": adata.obs[keys.reasoning].astype(object).fillna(""),
            "label": adata.obs[keys.label].astype(str),
            "term": adata.obs[keys.label_id].astype(str) if keys.label_id in adata.obs else "",
        },
        index=adata.obs_names,
    )
    genes = matrix.gene_map.genes
    known = known_symbols(genes)
    chunks = (
        (rows, matrix.gene_map.gather(chunk) > 0)
        for rows, chunk in row_chunks(get_matrix(adata, matrix.source), matrix.gene_map.columns)
    )
    if groupby is None:
        checked = [_checked(said.iloc[rows], expressed, genes, known) for rows, expressed in chunks]
    else:
        codes = label_in_cluster(said["label"], adata.obs[groupby]).codes
        here = np.flatnonzero(codes >= 0)
        of_group = csr_matrix((np.ones(len(here)), (here, codes[here])), (adata.n_obs, np.max(codes) + 1))
        expressing = np.asarray(sum(of_group[rows].T @ expressed for rows, expressed in chunks).todense())
        shares = expressing / np.asarray(of_group.sum(axis=0)).T
        said = said.assign(code=codes).iloc[here].drop_duplicates()
        checked = [_checked(said, shares[said["code"]], genes, known)]
    claims = pd.concat(checked, ignore_index=True)
    return claims.astype({"cell": "category", "label": "category", "gene": "category"})


def _checked(
    said: pd.DataFrame, expressed: csr_matrix | np.ndarray, genes: Sequence[str], known: AbstractSet[str]
) -> pd.DataFrame:
    claims = check_reasoning(said["text"], said["label"], expressed, genes, terms=said["term"], known=known)
    return claims.assign(cell=said["name"].to_numpy(dtype=object)[claims["cell"]])


def check_reasoning(
    texts: Iterable[str],
    labels: Iterable[str],
    expressed: csr_matrix | np.ndarray,
    genes: Sequence[str],
    *,
    terms: Iterable[str] | None = None,
    known: AbstractSet[str] | None = None,
) -> pd.DataFrame:
    """Look up the genes that texts name, by the rule of :func:`evidence`.

    Parameters
    ----------
    texts
        One for each row of ``expressed``.
    labels
        Of the cells or groups.
    expressed
        Share of the cells of each row that express each gene, 0 to 1; whether it does, of single cells. Shape (rows,
        genes).
    genes
        Names of the columns.
    terms
        Cell Ontology id of each label, ``""`` for none; found by the label by default.
    known
        What counts as a gene in a text; :func:`known_symbols` by default.

    Returns
    -------
    A row for each claim, in the order of the texts: ``cell`` (number of the row), and what :func:`evidence` lists.
    """
    ontology = cell_ontology()
    labels = np.asarray(list(labels), dtype=object)
    of_label = {label: ontology.find(label) or "" for label in dict.fromkeys(labels)}
    found_terms = [of_label[label] for label in labels] if terms is None else list(terms)
    known = known_symbols(genes) if known is None else known
    rows, claims = [], []
    # one text may stand for many cells
    said: dict[tuple[str, str], list[Claim]] = {}
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if (text, label) not in said:
            said[text, label] = claims_of(text, known, label=label)
        claims += said[text, label]
        rows += [row] * len(said[text, label])
    column = {_approved(gene): j for j, gene in enumerate(genes)} | {gene: j for j, gene in enumerate(genes)}
    columns = np.array([column.get(c.gene, column.get(_approved(c.gene), -1)) for c in claims], dtype=np.int64)
    at = np.array(rows, dtype=np.int64)
    share = np.full(len(claims), np.nan, dtype=np.float32)
    measured = np.flatnonzero(columns >= 0)
    if measured.size:
        share[measured] = np.asarray(expressed[at[measured], columns[measured]]).ravel()
    marker_of = np.array(
        [_marks(found_terms[row], claim.gene) for row, claim in zip(rows, claims, strict=True)], dtype=object
    )
    absent = np.array([c.absent for c in claims], dtype=bool)
    called = np.array([c.marker for c in claims], dtype=bool)
    of_label_or_wider = (marker_of == "label") | (marker_of == "wider type")
    has_term = np.array([bool(found_terms[row]) for row in rows], dtype=bool)
    # comparisons with NaN are false: what is not measured supports nothing
    is_borne_out = (share >= EXPRESSED_SHARE) & (of_label_or_wider | ~called | ~has_term)
    is_ruled_out = (share < EXPRESSED_SHARE) & (marker_of != "label")
    return pd.DataFrame(
        {
            "cell": at,
            "label": labels[at],
            "gene": np.array([c.gene for c in claims], dtype=object),
            "claim": pd.Categorical(np.where(absent, "absent", "present"), categories=CLAIMS),
            "called_marker": called,
            "expressed": share,
            "marker_of": pd.Categorical(marker_of, categories=MARKS),
            "supported": np.where(absent, is_ruled_out, is_borne_out),
        }
    )


def supported_counts(claims: pd.DataFrame, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of supported and of unsupported claims of each of ``n`` texts, from :func:`check_reasoning`."""
    cell, supported = claims["cell"].to_numpy(), claims["supported"].to_numpy()
    return np.bincount(cell[supported], minlength=n), np.bincount(cell[~supported], minlength=n)


@dataclass(frozen=True)
class Claim:
    """What a text says of a gene."""

    gene: str
    absent: bool = False
    marker: bool = False
    """Whether its clause calls it a marker."""


def claims_of(text: str, known: AbstractSet[str], *, label: str = "") -> list[Claim]:
    """Claims of a text, each once, by the rule of :func:`evidence`; a label of several words names no gene."""
    if " " in label:
        text = text.replace(label, "")
    claims: dict[Claim, None] = {}
    # genes of the clause with whether they are absent; those after `since` can still be said to be absent
    genes: list[tuple[str, bool]] = []
    since, absent, marker = 0, False, False
    for match in _PARTS.finditer(text + "\n"):
        kind = match.lastgroup
        if kind == "word":
            if match[0] in known:
                genes.append((match[0], absent))
        elif kind == "after":
            genes[since:] = [(gene, True) for gene, _ in genes[since:]]
            since = len(genes)
        elif kind == "marker":
            marker = True
        else:
            absent, since = kind == "absent", len(genes)
        if kind == "end":
            claims |= dict.fromkeys(Claim(gene, of, marker) for gene, of in genes)
            genes, since, marker = [], 0, False
    return list(claims)


def known_symbols(genes: Sequence[str]) -> frozenset[str]:
    """What counts as a gene in a text: the data's genes and the approved symbols.

    An alias may be a word, as ``T`` is.
    """
    return frozenset(gene_table()[0].values()) | frozenset(genes)


def known_genes(model: BioVerse) -> list[str]:
    """Genes that a model knows: those of the encoder, or of the model's reference when it has no encoder."""
    genes = list(model.encoders["rna"].genes) if "rna" in model.encoders else list(model.gene_reference)
    if not genes:
        msg = (
            f"The model {model.config.name!r} knows no genes, which the reasoning names; annotate with reasoning=None."
        )
        raise ValueError(msg)
    return genes


def _approved(gene: str) -> str:
    """Approved symbol of a name; the name itself when there is none."""
    return approved_symbol(gene) or gene


@cache
def _marks(term: str, gene: str) -> str:
    """What the marker table has the gene for."""
    gene = _approved(gene)
    found = _markers(term).get(gene)
    if found is not None:
        return "label" if found == term else "wider type"
    return "another type" if gene in _marked() else "none"


@cache
def _markers(term: str) -> dict[str, str]:
    """Marker genes of a term and of wider ones, by approved symbol."""
    found = cell_ontology().known_markers(term) if term else {}
    return {_approved(gene): of for gene, of in reversed(found.items())}


@cache
def _marked() -> frozenset[str]:
    """Marker genes of any type, by approved symbol."""
    return frozenset(_approved(gene) for genes in cell_ontology().markers.values() for gene in genes)
