"""The scGPT network, as its published checkpoints define it (Cui et al., Nature Methods 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.encoders.scgpt._config import ScGPTConfig

    Runs = Sequence[tuple[int, int]]
    """Neighbouring cells of one length: how many, and how long."""


class GeneEncoder(nn.Module):
    """Gene id to vector."""

    def __init__(self, n_tokens: int, width: int, pad_id: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, width, padding_idx=pad_id)
        self.enc_norm = nn.LayerNorm(width)

    def forward(self, gene_ids: torch.Tensor) -> torch.Tensor:
        return self.enc_norm(self.embedding(gene_ids))


class ContinuousValueEncoder(nn.Module):
    """Binned value, taken as a number, to vector."""

    max_value = 512

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear1 = nn.Linear(1, width)
        self.linear2 = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        x = values.unsqueeze(-1).clamp(max=self.max_value).to(self.linear1.weight.dtype)
        return self.dropout(self.norm(self.linear2(F.relu(self.linear1(x)))))


class CategoryValueEncoder(nn.Module):
    """Binned value, taken as a class, to vector."""

    def __init__(self, n_values: int, width: int, pad_value: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_values, width, padding_idx=pad_value)
        self.enc_norm = nn.LayerNorm(width)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.enc_norm(self.embedding(values.long()))


class SelfAttention(nn.Module):
    """Multi-head attention with the parameter names of ``torch.nn.MultiheadAttention``."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def _of_runs(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, runs: Runs) -> torch.Tensor:
        """Attend inside each cell; ``q`` has a row for each position, or one for each cell."""
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        cell = position = 0
        for n_cells, length in runs:
            positions = slice(position, position + n_cells * length)
            rows = positions if len(q) == len(k) else slice(cell, cell + n_cells)
            parts = [x.unflatten(0, (n_cells, -1)) for x in (q[rows], k[positions], v[positions])]
            mixed = _attend(*(self._heads(part) for part in parts))
            out[rows] = mixed.transpose(1, 2).flatten(2).flatten(0, 1)
            cell, position = cell + n_cells, positions.stop
        return out

    def packed(self, x: torch.Tensor, runs: Runs, first: torch.Tensor | None) -> torch.Tensor:
        """Attend without padding, before the output projection; the rows ``first`` alone when they are given."""
        width = x.shape[-1]
        if first is None:
            q, k, v = _linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            q = _linear(x[first], self.in_proj_weight[:width], self.in_proj_bias[:width])
            k, v = _linear(x, self.in_proj_weight[width:], self.in_proj_bias[width:]).chunk(2, dim=-1)
        return self._of_runs(q, k, v, runs)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, *, cls_only: bool = False) -> torch.Tensor:
        width = x.shape[-1]
        if cls_only:
            q = F.linear(x[:, :1], self.in_proj_weight[:width], self.in_proj_bias[:width])
            k, v = F.linear(x, self.in_proj_weight[width:], self.in_proj_bias[width:]).chunk(2, dim=-1)
        else:
            q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        out = F.scaled_dot_product_attention(
            self._heads(q),
            self._heads(k),
            self._heads(v),
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(out.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """One transformer layer, post- or pre-norm, ReLU.

    Pre-norm is scGPT's own: the normalised state, not the one before, is what the residual connection keeps.
    """

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attn = SelfAttention(config.embsize, config.nheads, config.dropout)
        self.linear1 = nn.Linear(config.embsize, config.d_hid)
        self.linear2 = nn.Linear(config.d_hid, config.embsize)
        self.norm1 = nn.LayerNorm(config.embsize)
        self.norm2 = nn.LayerNorm(config.embsize)
        self.dropout = nn.Dropout(config.dropout)

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.linear2(self.dropout(F.relu(self.linear1(x)))))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, *, cls_only: bool = False) -> torch.Tensor:
        if self.pre_norm:
            x = self.norm1(x)
        hidden = x[:, :1] if cls_only else x
        hidden = hidden + self.dropout(self.self_attn(x, mask, cls_only=cls_only))
        if self.pre_norm:
            hidden = self.norm2(hidden)
            return hidden + self._feed_forward(hidden)
        hidden = self.norm1(hidden)
        return self.norm2(hidden + self._feed_forward(hidden))

    def packed(self, x: torch.Tensor, runs: Runs, first: torch.Tensor | None) -> torch.Tensor:
        """The same without padding and dropout."""
        if self.pre_norm:
            x = self.norm1(x)
        attended = self.self_attn.packed(x, runs, first)
        out_proj = self.self_attn.out_proj
        x = _linear(attended, out_proj.weight, out_proj.bias, add=x if first is None else x[first])
        x = self.norm2(x) if self.pre_norm else self.norm1(x)
        hidden = _linear(x, self.linear1.weight, self.linear1.bias, relu=True)
        x = _linear(hidden, self.linear2.weight, self.linear2.bias, add=x)
        return x if self.pre_norm else self.norm2(x)


_LONG = range(256, 2049)
"""Positions of a cell for which the scores of all pairs are worth their memory."""


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention without a mask, all of shape (cells, heads, positions, width of a head).

    In bfloat16 on a CPU torch's fused kernel is no faster than in float32; products of whole matrices are.
    """
    if q.dtype != torch.bfloat16 or q.device.type != "cpu" or q.shape[2] not in _LONG:
        return F.scaled_dot_product_attention(q, k, v)
    q, k, v = (q * q.shape[-1] ** -0.5).contiguous(), k.transpose(2, 3).contiguous(), v.contiguous()
    out = torch.empty_like(q)
    scores = q.new_empty(q.shape[1], q.shape[2], k.shape[3])
    weights = torch.empty_like(scores)
    for cell in range(len(q)):
        torch.bmm(q[cell], k[cell], out=scores)
        torch.softmax(scores, dim=-1, out=weights)
        torch.bmm(weights, v[cell], out=out[cell])
    return out


_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, relu: bool = False, add: torch.Tensor | None = None
) -> torch.Tensor:
    """Linear layer on a CPU, with what comes after it in the same pass.

    oneDNN is called as torch's own compiler calls it: its products in single precision are a third faster on AMD
    processors than those of the BLAS behind ``F.linear``.
    """
    if _HAS_ONEDNN and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16):
        product = torch.ops.mkldnn._linear_pointwise
        if add is not None:
            return product.binary(x, add, weight, bias, "add")
        return product(x, weight, bias, "relu" if relu else "none", [], "")
    out = F.linear(x, weight, bias)
    if relu:
        out = out.relu_()
    return out if add is None else out.add_(add)


class Transformer(nn.Module):
    """The stack of layers. ``cls_only`` computes the last layer for the first position alone."""

    def __init__(self, config: ScGPTConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.nlayers))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None, *, cls_only: bool = False) -> torch.Tensor:
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x, mask, cls_only=cls_only and i == last)
        return x


class ScGPT(nn.Module):
    """scGPT's encoder: gene ids and binned values to hidden states."""

    def __init__(self, config: ScGPTConfig, n_tokens: int, pad_id: int) -> None:
        super().__init__()
        self.config = config
        self.pad_id = pad_id
        self.encoder = GeneEncoder(n_tokens, config.embsize, pad_id)
        if config.input_emb_style == "continuous":
            self.value_encoder: nn.Module = ContinuousValueEncoder(config.embsize, config.dropout)
        elif config.input_emb_style == "category":
            self.value_encoder = CategoryValueEncoder(config.n_values, config.embsize, config.pad_value)
        else:
            self.value_encoder = nn.Identity()
        self.transformer_encoder = Transformer(config)

    def forward(
        self, gene_ids: torch.Tensor, values: torch.Tensor, *, padded: bool = True, cls_only: bool = False
    ) -> torch.Tensor:
        """Hidden states.

        Parameters
        ----------
        gene_ids
            Shape (cells, positions); ``<cls>`` first, ``<pad>`` at the end.
        values
            Binned values, same shape; ``pad_value`` at ``<cls>`` and padding.
        padded
            Whether any position is padding. Without it no mask is built, which is faster.
        cls_only
            Return only the state of ``<cls>``, shape (cells, 1, width).
        """
        x = self._join(self.encoder(gene_ids), self.value_encoder(values))
        mask = gene_ids.ne(self.pad_id)[:, None, None, :] if padded else None
        return self.transformer_encoder(x, mask, cls_only=cls_only)

    def _join(self, genes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return (
            genes * values.unsqueeze(-1).to(genes.dtype) if self.config.input_emb_style == "scaling" else genes + values
        )

    def packed(self, gene_ids: torch.Tensor, values: torch.Tensor, runs: Runs) -> torch.Tensor:
        """States of ``<cls>`` of cells that lie one behind the other, for inference on a CPU.

        No position is padding, and every matrix product is as large as the batch.

        Parameters
        ----------
        gene_ids
            Shape (positions,); each cell begins with ``<cls>``.
        values
            Binned values, same shape; ``pad_value`` at ``<cls>``.
        runs
            Neighbouring cells of one length, in order: how many, and how long with ``<cls>``.

        Returns
        -------
        Shape (cells, width).
        """
        # there are as many different values as bins: each is encoded once
        different, which = torch.unique(values, return_inverse=True)
        x = self._join(self.encoder(gene_ids), self.value_encoder(different)[which])
        lengths = torch.tensor([length for n_cells, length in runs for _ in range(n_cells)])
        first = lengths.cumsum(0) - lengths
        last = len(self.transformer_encoder.layers) - 1
        for i, layer in enumerate(self.transformer_encoder.layers):
            x = cast("EncoderLayer", layer).packed(x, runs, first if i == last else None)
        return x
