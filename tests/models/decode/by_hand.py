"""What decoding gives, computed without the package's loop, cache and trie."""

import numpy as np
import torch

from bioverse_sc.models import Entity, Text
from bioverse_sc.models._inject import SLOT, tokenize_prompt
from tests.tiny import make_vectors


def soft_tokens(model, n, *, seed=0):
    with torch.inference_mode():
        return model.project("rna", torch.from_numpy(make_vectors(n, seed=seed)))


def score_alone(model, prompt, soft, label, labels):
    """Log-probability of one label for one cell: one forward pass over the whole sequence, no cache and no trie.

    Each token competes with those that continue another label which starts with the same tokens.
    """
    tokenizer = model.tokenizer
    rows = []
    for segment in prompt:
        if isinstance(segment, Text):
            rows.append(model.embeddings(torch.tensor(tokenizer.encode(segment.text, add_special_tokens=False))))
        elif isinstance(segment, Entity):
            rows.append(soft)
    ids = {of: [*tokenizer.encode(f" {of}", add_special_tokens=False), tokenizer.eos_token_id] for of in labels}
    answer = ids[label]
    before = sum(len(r) for r in rows)
    rows.append(model.embeddings(torch.tensor(answer)))
    with torch.inference_mode():
        logits = model.language_model(inputs_embeds=torch.cat(rows)[None], use_cache=False).logits[0].double()
    score = 0.0
    for i, token in enumerate(answer):
        going_on = sorted({other[i] for other in ids.values() if other[:i] == answer[:i]})
        log_p = torch.log_softmax(logits[before - 1 + i, going_on], dim=-1)
        score += float(log_p[going_on.index(token)])
    return score


def brute_force(model, prompt, soft, labels):
    scores = np.array([[score_alone(model, prompt, s, label, labels) for label in labels] for s in soft])
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-6)
    return scores


def greedy(model, prompt, soft, n):
    """Write without generate(): the most likely token, again and again."""
    tokens = tokenize_prompt(model.tokenizer, prompt, model.n_tokens).ids
    embedded = lambda token: model.embeddings(torch.tensor(token))
    rows = torch.stack([soft[0] if i == SLOT else embedded(i) for i in tokens])
    written = []
    with torch.inference_mode():
        for _ in range(n):
            token = int(model.language_model(inputs_embeds=rows[None], use_cache=False).logits[0, -1].argmax())
            if token == model.tokenizer.eos_token_id:
                break
            written.append(token)
            rows = torch.cat([rows, embedded(token)[None]])
    return model.tokenizer.decode(written, skip_special_tokens=True).strip()
