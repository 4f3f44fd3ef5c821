"""The projector: an encoder's vector to soft tokens in a language model's embedding space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from bioverse_sc.models._config import ProjectorConfig


class Projector(nn.Module):
    """Three-layer MLP with ReLU, LayerNorm and dropout (BioVERSE, arXiv 2510.01428).

    Parameters
    ----------
    config
        Widths and number of soft tokens.
    scale
        Root mean square of the language model's token embeddings: an untrained projector starts at that size.
    """

    def __init__(self, config: ProjectorConfig, *, scale: float = 1.0) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        widths = [config.in_width, config.hidden_width, config.hidden_width, config.n_tokens * config.out_width]
        layers: list[nn.Module] = [nn.LayerNorm(config.in_width)]
        for i in range(3):
            linear = nn.Linear(widths[i], widths[i + 1])
            spread = (2.0 if i < 2 else scale**2) / widths[i]
            with torch.no_grad():
                linear.weight.normal_(0.0, spread**0.5, generator=generator)
                linear.bias.zero_()
            layers.append(linear)
            if i < 2:
                layers += [nn.ReLU(), nn.LayerNorm(widths[i + 1]), nn.Dropout(config.dropout)]
        self.layers = nn.Sequential(*layers)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Project.

        Parameters
        ----------
        vectors
            Shape (entities, in_width).

        Returns
        -------
        Soft tokens, shape (entities, n_tokens, out_width).
        """
        return self.layers(vectors).unflatten(-1, (self.config.n_tokens, self.config.out_width))
