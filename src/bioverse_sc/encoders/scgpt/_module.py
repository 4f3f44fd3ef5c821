"""The scGPT network, as its published checkpoints define it (Cui et al., Nature Methods 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from bioverse_sc.encoders.scgpt._config import ScGPTConfig


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
        x = values.unsqueeze(-1).clamp(max=self.max_value)
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
    """One transformer layer, post- or pre-norm, ReLU."""

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
        kept = x[:, :1] if cls_only else x
        if self.pre_norm:
            kept = kept + self.dropout(self.self_attn(self.norm1(x), mask, cls_only=cls_only))
            return kept + self._feed_forward(self.norm2(kept))
        kept = self.norm1(kept + self.dropout(self.self_attn(x, mask, cls_only=cls_only)))
        return self.norm2(kept + self._feed_forward(kept))


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
            self.value_encoder = CategoryValueEncoder(config.n_bins + 2, config.embsize, config.pad_value)
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
        genes = self.encoder(gene_ids)
        encoded = self.value_encoder(values)
        x = genes * encoded.unsqueeze(-1) if self.config.input_emb_style == "scaling" else genes + encoded
        mask = gene_ids.ne(self.pad_id)[:, None, None, :] if padded else None
        return self.transformer_encoder(x, mask, cls_only=cls_only)
