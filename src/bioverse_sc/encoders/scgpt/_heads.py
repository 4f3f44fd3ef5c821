"""What scGPT predicts from its hidden states: masked values, from a gene and from ``<cls>``, and the type of a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bioverse_sc.encoders.scgpt._config import ScGPTConfig

HEADS = ("decoder", "mvc_decoder", "cls_decoder")

# Inside, values are shares of the number of bins, so that outputs and gradients have a size that trains; scGPT's own
# heads give bins. These last, linear, weights take the factor when they are read and written.
_IN_BINS = ("decoder.fc.4.weight", "decoder.fc.4.bias", "mvc_decoder.W.weight")


class ValueDecoder(nn.Module):
    """Value of a gene from its hidden state (scGPT's GEP)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, 1)
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.fc(hidden).squeeze(-1)


class CellValueDecoder(nn.Module):
    """Value of a gene from the state of ``<cls>`` (scGPT's GEPC): an inner product with a query that the gene makes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gene2query = nn.Linear(width, width)
        self.W = nn.Linear(width, width, bias=False)
        with torch.no_grad():
            # starts as the plain inner product, at a scale that does not grow with the width
            self.W.weight.copy_(torch.eye(width) / width**0.5)

    def forward(self, cls: torch.Tensor, genes: torch.Tensor) -> torch.Tensor:
        query = self.W(torch.sigmoid(self.gene2query(genes)))
        return torch.einsum("bgd,bd->bg", query, cls)


class TypeDecoder(nn.Module):
    """Type of a cell from the state of ``<cls>``."""

    def __init__(self, width: int, n_types: int, n_layers: int) -> None:
        super().__init__()
        self._decoder = nn.ModuleList()
        for _ in range(n_layers - 1):
            self._decoder.extend([nn.Linear(width, width), nn.ReLU(), nn.LayerNorm(width)])
        self.out_layer = nn.Linear(width, n_types)

    def forward(self, cls: torch.Tensor) -> torch.Tensor:
        for layer in self._decoder:
            cls = layer(cls)
        return self.out_layer(cls)


class Heads(nn.Module):
    """The heads, with the parameter names of the published checkpoints.

    Parameters
    ----------
    config
        Shape of the encoder.
    n_types
        Types of cells; 0 for no head of types.
    """

    def __init__(self, config: ScGPTConfig, n_types: int = 0) -> None:
        super().__init__()
        self.n_bins = config.n_bins
        self.decoder = ValueDecoder(config.embsize)
        self.mvc_decoder = CellValueDecoder(config.embsize)
        self.cls_decoder = TypeDecoder(config.embsize, n_types, config.n_layers_cls) if n_types else None

    def load(self, stored: Mapping[str, torch.Tensor]) -> list[str]:
        """Take over each head whose tensors are all there in its shape; the others stay as they are.

        Returns
        -------
        Names of the heads that were taken over.
        """
        expected = self.state_dict()
        taken = []
        for head in HEADS:
            names = [name for name in expected if name.startswith(f"{head}.")]
            if names and all(name in stored and stored[name].shape == expected[name].shape for name in names):
                factors = {name: self.n_bins if name in _IN_BINS else 1 for name in names}
                self.load_state_dict({name: stored[name].float() / factors[name] for name in names}, strict=False)
                taken.append(head)
        return taken

    def official(self) -> dict[str, torch.Tensor]:
        """Give the weights as scGPT's own heads hold them."""
        state = self.state_dict()
        return {k: (v * self.n_bins if k in _IN_BINS else v).detach().cpu().clone() for k, v in state.items()}

    def values(self, hidden: torch.Tensor) -> torch.Tensor:
        """Bin of each gene from its hidden state, shape (cells, positions)."""
        return self.decoder(hidden) * self.n_bins

    def cell_values(self, cls: torch.Tensor, genes: torch.Tensor) -> torch.Tensor:
        """Bin of each gene from the state of ``<cls>`` and the genes' embeddings, shape (cells, positions)."""
        return self.mvc_decoder(cls, genes) * self.n_bins
