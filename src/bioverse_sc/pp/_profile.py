"""What is this matrix? Looks before anything is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bioverse_sc._modality import CELLS
from bioverse_sc.encoders import genes_of
from bioverse_sc.read import gene_matrix, observations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.read import MatrixProfile


def profile(
    data: AnnData | MuData,
    *,
    vocabulary: Sequence[str] | None = None,
    layer: str | None = None,
    gene_symbols: str | None = None,
) -> MatrixProfile:
    """Find the matrix to read and say what it is.

    Counts, normalised and log-normalised values will do, as scGPT bins values by their rank inside a cell; scaled
    values will not. Without ``layer``, the usable one among ``layers["counts"]``, ``X`` and ``raw`` with the most genes
    of the vocabulary is taken, counts first.

    Parameters
    ----------
    data
        AnnData, or MuData with an ``"rna"`` modality. It is not changed.
    vocabulary
        Gene symbols of the encoder; those of the bundled model by default.
    layer
        ``"X"``, ``"raw"`` or a key of ``.layers``, to take that one.
    gene_symbols
        Column of ``.var`` with symbols or Ensembl ids; ``.var_names`` by default.

    Raises
    ------
    ValueError
        When no matrix is usable, gene names are duplicated, or fewer than 50 genes are known. The message names the
        remedy. A matrix whose genes were scaled is not usable, with or without centring.
    KeyError
        When ``layer`` or ``gene_symbols`` is not there.
    """
    adata = observations(data)
    if vocabulary is None:
        from bioverse_sc.models import get_model

        vocabulary = genes_of(get_model("mini").encoders[CELLS])
    return gene_matrix(adata, vocabulary, layer=layer, gene_symbols=gene_symbols).profile
