"""The part of torchtext's vocabulary that scGPT uses.

Torchtext itself is discontinued and does not load beside a current torch.
"""

from torch import nn


class Vocab(nn.Module):
    """Tokens with ids. It is its own ``vocab``, as scGPT's class makes itself from another one's."""

    def __init__(self, vocab=None):
        super().__init__()
        self.ids = {} if vocab is None else vocab.ids
        self.default = None

    @property
    def vocab(self):
        return self

    def __len__(self):
        return len(self.ids)

    def __contains__(self, token):
        return token in self.ids

    def __getitem__(self, token):
        return self.ids[token] if self.default is None else self.ids.get(token, self.default)

    def forward(self, tokens):
        return [self[token] for token in tokens]

    def insert_token(self, token, index):
        if index != len(self.ids):
            raise RuntimeError("tokens come in the order of their ids")
        self.ids[token] = index

    def append_token(self, token):
        self.insert_token(token, len(self.ids))

    def set_default_index(self, index):
        self.default = index

    def get_stoi(self):
        return dict(self.ids)


def vocab(ordered, min_freq=1):
    made = Vocab()
    made.ids = {token: i for i, token in enumerate(ordered)}
    return made
