"""flash-attn's layer, for a CPU and written down plainly.

To run scGPT's own layers, which need its names and its pre-norm.
"""

import torch
from torch import nn


class FlashMHA(nn.Module):
    def __init__(self, embed_dim, num_heads, *, batch_first=True, attention_dropout=0.0, device=None, dtype=None):
        super().__init__()
        self.batch_first = batch_first
        self.num_heads = num_heads
        self.Wqkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x, key_padding_mask=None, need_weights=False):
        q, k, v = self.Wqkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if key_padding_mask is not None:
            scores = scores.masked_fill(~key_padding_mask[:, None, None, :], -torch.inf)
        return self.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)), None
