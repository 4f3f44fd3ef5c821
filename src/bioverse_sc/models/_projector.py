"""The projector: an encoder's vector to soft tokens in a language model's embedding space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from bioverse_sc._chunks import row_slices
from bioverse_sc._validation import check_positive

if TYPE_CHECKING:
    from bioverse_sc.models._config import ProjectorConfig


class Projector(nn.Module):
    """MLP with ReLU, LayerNorm and dropout; three layers in BioVERSE (arXiv 2510.01428).

    Parameters
    ----------
    config
        Widths and number of soft tokens.
    scale
        Root mean square of the language model's token embeddings: an untrained projector starts at that size.
    """

    def __init__(self, config: ProjectorConfig, *, scale: float = 1.0) -> None:
        super().__init__()
        # a shape alone has no ends yet
        check_positive(config, "in_width", "out_width")
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        hidden = config.hidden_width or config.out_width
        widths = [config.in_width, *[hidden] * (config.n_layers - 1), config.n_tokens * config.out_width]
        layers: list[nn.Module] = [nn.LayerNorm(config.in_width)] if config.layer_norm else []
        for i in range(config.n_layers):
            is_last = i == config.n_layers - 1
            linear = nn.Linear(widths[i], widths[i + 1])
            spread = (scale**2 if is_last else 2.0) / widths[i]
            with torch.no_grad():
                linear.weight.normal_(0.0, spread**0.5, generator=generator)
                linear.bias.zero_()
            layers.append(linear)
            if not is_last:
                layers.append(nn.ReLU())
                layers += [nn.LayerNorm(widths[i + 1])] if config.layer_norm else []
                layers.append(nn.Dropout(config.dropout))
        self.layers = nn.Sequential(*layers)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Project.

        Parameters
        ----------
        vectors
            Shape (vectors, in_width); an encoder that gives a sequence has several for an entity.

        Returns
        -------
        Soft tokens, shape (vectors, n_tokens, out_width).
        """
        projected = self.layers(vectors)  # (vectors, n_tokens * out_width)
        return projected.unflatten(-1, (self.config.n_tokens, self.config.out_width))


def mean_soft_tokens(projector: nn.Module, vectors: np.ndarray) -> np.ndarray:
    """Mean soft token of each vector, shape (entities, width); zeros stay zeros, as they are no cell.

    Parameters
    ----------
    projector
        The projector.
    vectors
        Of an encoder, shape (entities, in_width).
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
