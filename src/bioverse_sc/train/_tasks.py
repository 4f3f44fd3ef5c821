"""What each stage trains and by which loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from bioverse_sc.models._inject import IGNORED, PromptBatch
from bioverse_sc.train._loop import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bioverse_sc.models import BioVerse

MAX_LOGIT_SCALE = 100.0
ATTRACTION = 1.0
"""Weight of one minus the cosine between an entity and its own text, beside InfoNCE."""
ALIGNMENT_WEIGHT = 0.3
"""Of the contrastive loss beside the next-token loss."""


class PromptTask(Task):
    """Next-token loss on the answers: stage 1 AR, stage 2, and text alone. What trains is set by the caller.

    ``alignment`` adds the contrastive loss of a modality, so that its soft tokens stay where stage 1 put them.
    """

    def __init__(self, model: BioVerse, alignment: Mapping[str, ContrastiveTask] | None = None) -> None:
        super().__init__()
        self.model = model
        self.alignment = torch.nn.ModuleDict(dict(alignment or {}))

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # padding is on the right, where causal attention never looks: without a mask the fast kernels can run
        prompts = PromptBatch(batch["ids"], None, batch["targets"])
        width = self.model.embeddings.weight.shape[1]
        soft_tokens = self.model.embeddings.weight.new_zeros((0, width))
        for key, vectors in batch.items():
            if key.startswith("vectors:"):
                soft_tokens = self.model.project(key.removeprefix("vectors:"), vectors).flatten(0, 1)
        # logits only where some row has a target: the head is the dear part of a small model
        next_targets = prompts.targets[:, 1:]
        positions = (next_targets != IGNORED).any(dim=0).nonzero().squeeze(-1)
        logits = self.model(prompts, soft_tokens, logits_to_keep=positions, use_cache=False).logits
        targets = next_targets[:, positions]
        kept = targets != IGNORED
        loss = F.cross_entropy(logits[kept].float(), targets[kept])
        right = logits[kept].argmax(-1) == targets[kept]
        out = {"loss": loss, "token_accuracy": right.float().mean()}
        for modality, contrast in self.alignment.items():
            if f"text_of:{modality}" in batch:
                pairs = {name: batch[f"{name}:{modality}"] for name in ("vectors", "text_of")}
                beside = contrast(pairs)
                out["loss"] = out["loss"] + ALIGNMENT_WEIGHT * beside["loss"]
                out |= {name: value for name, value in beside.items() if name != "loss"}
        return out


class ContrastiveTask(Task):
    """Stage 1 CT: InfoNCE in both directions between soft tokens and the mean token embedding of their texts.

    Entities of one text are positives of each other; ``negatives`` are unrelated texts that no entity belongs to.
    InfoNCE only compares: what all texts have in common cancels in it, and entities end up in a cone of their own, far from
    every text (Liang et al., Mind the gap, 2022). ``attraction`` weighs one minus the cosine to the own text, which closes it.
    """

    texts: torch.Tensor

    def __init__(
        self,
        model: BioVerse,
        modality: str,
        texts: torch.Tensor,
        negatives: torch.Tensor | None,
        *,
        attraction: float,
    ) -> None:
        super().__init__()
        self.attraction = attraction
        self.projector = model.projectors[modality]
        self.logit_scale = torch.nn.Parameter(torch.tensor(1 / 0.07).log())
        bank = texts if negatives is None else torch.cat([texts, negatives])
        self.register_buffer("texts", F.normalize(bank, dim=-1), persistent=False)
        self.n_texts = len(texts)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        entities = F.normalize(self.projector(batch["vectors"]).float().mean(dim=1), dim=-1)
        used, which = batch["text_of"].unique(return_inverse=True)
        scale = self.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        others = torch.arange(self.n_texts, len(self.texts), device=used.device)
        logits = scale * entities @ self.texts[torch.cat([used, others])].T
        to_text = F.cross_entropy(logits, which)
        positive = F.one_hot(which, len(used)).T.float()
        by_text = F.log_softmax(logits[:, : len(used)].T, dim=-1)
        to_entity = -((by_text * positive).sum(-1) / positive.sum(-1)).mean()
        right = (logits.argmax(-1) == which).float().mean()
        own = (entities * self.texts[batch["text_of"]]).sum(-1).mean()
        loss = (to_text + to_entity) / 2 + self.attraction * (1 - own)
        return {"loss": loss, "retrieval": right, "cosine": own.detach(), "scale": scale.detach()}
