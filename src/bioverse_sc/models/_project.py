"""Soft tokens of many vectors, in the language model's embedding space."""

from __future__ import annotations

import numpy as np
import torch

from bioverse_sc._chunks import row_slices


def mean_soft_tokens(projector: torch.nn.Module, vectors: np.ndarray) -> np.ndarray:
    """Mean soft token of each vector; zeros stay zeros, as they are no cell.

    Parameters
    ----------
    projector
        Of a model, or an untrained one.
    vectors
        Encoder vectors, shape (entities, in_width).

    Returns
    -------
    Shape (entities, width of the language model), float32.
    """
    device = next(projector.parameters()).device
    chunks = []
    with torch.inference_mode():
        for rows in row_slices(len(vectors)):
            chunk = torch.from_numpy(np.ascontiguousarray(vectors[rows], dtype=np.float32)).to(device)
            chunks.append(projector(chunk).mean(dim=1).float().cpu().numpy())  # (rows, width)
    soft_tokens = np.concatenate(chunks)
    soft_tokens[~np.asarray(vectors).any(axis=1)] = 0
    return soft_tokens
