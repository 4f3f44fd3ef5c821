"""Whether the reasoning is borne out: the genes that it names, in the cell and in the marker table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from bioverse_sc._keys import Keys
from bioverse_sc._logging import finish_log, logger
from bioverse_sc._modality import CELLS
from bioverse_sc._quiet import undisturbed
from bioverse_sc._row_hash import bound_hashes, hash_texts
from bioverse_sc.groups import label_in_cluster
from bioverse_sc.read import observations
from bioverse_sc.reasoning import check_reasoning, known_symbols
from bioverse_sc.tl._current import matrix_to_read
from bioverse_sc.tl._subject import Reading, known_genes, subjects

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.models import BioVerse
    from bioverse_sc.read import GeneMatrix


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

    Of MuData the cells (``"rna"``) are looked up, by the genes that ``model`` knows, which wrote the texts. With
    ``groupby`` the cells of a group with one label have one text, which is looked up in all of them together. By
    default these are the clusters, when :func:`bioverse_sc.tl.annotate` wrote about them; else each cell's text is
    looked up in the cell.

    Parameters
    ----------
    data
        AnnData of one modality, or MuData; :func:`bioverse_sc.tl.embed` says what it holds.
    groupby
        Column of ``.obs`` with groups of cells, such as clusters.
    model
        Name of a bundled model, path of a saved one, or a loaded one.
    layer
        Matrix to read: ``"X"``, ``"raw"`` or a key of ``.layers``. By default what was read when the observations were
        embedded, or what :func:`bioverse_sc.pp.profile` finds.
    gene_symbols
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` by default.
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
    adata = observations(data)
    _check_columns(adata, keys, groupby)
    (subject,) = subjects(data, model, keys, mod=CELLS, reading=Reading(layer, gene_symbols))
    results, loaded = subject.results, subject.model
    # of labels from earlier vectors too, as their texts are still there
    annotated = results.stored_of("annotate")
    if groupby is None and annotated.get("reasoning") == "cluster" and annotated.get("groupby") in adata.obs:
        groupby = str(annotated["groupby"])
    matrix, _ = matrix_to_read(subject, known_genes(loaded))
    with finish_log(f"checking the reasoning of {adata.n_obs} cells") as lines:
        claims = _claims(adata, matrix, keys, groupby)
        entries = {
            "claims": claims,
            "content": bound_hashes(hash_texts(adata.obs[keys.label]), hash_texts(adata.obs[keys.reasoning])),
            "model": loaded.config.name,
            "model_fingerprint": loaded.fingerprint,
            "source": matrix.source,
            "gene_symbols": matrix.gene_symbols or "",
            "groupby": groupby or "",
        }
        lines += results.write("evidence", {}, entries)
        share = f": {claims['supported'].mean():.1%} of them supported" if len(claims) else ""
        logger.info("    %d claims about genes%s", len(claims), share)
    return data if copy else None


def _check_columns(adata: AnnData, keys: Keys, groupby: str | None) -> None:
    """Raise when there is no reasoning, or no such column."""
    if missing := [column for column in (keys.reasoning, keys.label) if column not in adata.obs]:
        argument = "" if keys.stem == "bioverse" else f", key_added={keys.stem!r}"
        msg = f"There is no column {missing[0]!r} in .obs. Run bsc.tl.annotate(data{argument}) first."
        raise KeyError(msg)
    if groupby is not None and groupby not in adata.obs:
        msg = f"There is no column {groupby!r} in .obs; there are {list(adata.obs.columns)}."
        raise KeyError(msg)


def _claims(adata: AnnData, matrix: GeneMatrix, keys: Keys, groupby: str | None) -> pd.DataFrame:
    """Claims of all cells, or of the texts of the cells with one label in each group."""
    texts = pd.DataFrame(
        {
            "name": adata.obs_names.astype(str) if groupby is None else adata.obs[groupby].astype(str),
            "text": adata.obs[keys.reasoning].astype(object).fillna(""),
            "label": adata.obs[keys.label].astype(str),
            "term": adata.obs[keys.label_id].astype(str) if keys.label_id in adata.obs else "",
        },
        index=adata.obs_names,
    )
    known = known_symbols(matrix.genes)
    expressed_chunks = ((rows, chunk > 0) for rows, chunk in matrix.chunks())  # (rows, genes)
    if groupby is None:
        tables = [_checked(texts.iloc[rows], expressed, matrix.genes, known) for rows, expressed in expressed_chunks]
    else:
        codes = label_in_cluster(texts["label"], adata.obs[groupby]).codes
        grouped = np.flatnonzero(codes >= 0)
        shape = (adata.n_obs, np.max(codes) + 1)
        member = csr_matrix((np.ones(len(grouped)), (grouped, codes[grouped])), shape)  # (cells, groups)
        expressing = sum(member[rows].T @ expressed for rows, expressed in expressed_chunks)
        shares = np.asarray(expressing.todense()) / np.asarray(member.sum(axis=0)).T  # (groups, genes)
        texts = texts.assign(code=codes).iloc[grouped].drop_duplicates()
        tables = [_checked(texts, shares[texts["code"]], matrix.genes, known)]
    claims = pd.concat(tables, ignore_index=True)
    return claims.astype({"cell": "category", "label": "category", "gene": "category"})


def _checked(
    texts: pd.DataFrame, expressed: csr_matrix | np.ndarray, genes: Sequence[str], known: AbstractSet[str]
) -> pd.DataFrame:
    claims = check_reasoning(texts["text"], texts["label"], expressed, genes, terms=texts["term"], known=known)
    return claims.assign(cell=texts["name"].to_numpy(dtype=object)[claims["cell"]])
