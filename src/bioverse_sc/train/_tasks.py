"""What each stage trains and by which loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import distributed
from torch.nn import functional as F

from bioverse_sc.metrics import alignment_metrics
from bioverse_sc.models import IGNORED, PromptBatch
from bioverse_sc.train._loop import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from bioverse_sc.models import BioVerse

MIN_LOGIT_SCALE, MAX_LOGIT_SCALE = 1.0, 100.0
"""Bounds of the learned inverse temperature; it starts at 1 / 0.07, as in CLIP."""
ATTRACTION = 1.0
"""Weight of one minus the cosine between an entity and its own text, beside InfoNCE."""
ALIGNMENT_WEIGHT = 0.3
"""Of the contrastive loss beside the next-token loss."""


class PromptTask(Task):
    """Next-token loss on the answers: stage 1 AR, stage 2, and text alone. What trains is set by the caller.

    Parameters
    ----------
    model
        The model.
    alignment
        By modality, the contrastive loss that goes on beside, so that its soft tokens stay where stage 1 put them.
    """

    def __init__(self, model: BioVerse, alignment: Mapping[str, ContrastiveTask] | None = None) -> None:
        super().__init__()
        self.model = model
        self.alignment = torch.nn.ModuleDict(dict(alignment or {}))
        self.whole_batch = bool(alignment)

    def train(self, mode: bool = True) -> PromptTask:  # noqa: FBT001, FBT002 - torch's own signature
        """Set the mode.

        A frozen language model has no dropout, which would only be noise, while its adapters have theirs.
        """
        super().train(mode)
        language_model = self.model.language_model
        if any(p.requires_grad and "lora_" not in name for name, p in language_model.named_parameters()):
            return self
        for name, module in language_model.named_modules():
            # attention drops out by a function, when its own module is in training
            is_noise = isinstance(module, torch.nn.Dropout) and "lora_" not in name
            if is_noise or type(module).__name__.endswith("Attention"):
                module.training = False
        return self

    def weight(self, batch: dict[str, torch.Tensor]) -> float:
        """Count the target tokens."""
        return float((batch["targets"][:, 1:] != IGNORED).sum())

    def after_step(self) -> None:
        """Keep temperatures within bounds."""
        for contrast in self.alignment.children():
            cast("ContrastiveTask", contrast).after_step()

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Mean loss and accuracy of the target tokens; in evaluation also sums to add up over batches."""
        # padding is on the right, where causal attention never looks: without a mask the fast kernels can run
        prompts = PromptBatch(batch["ids"], None, batch["targets"])
        soft_tokens = self._soft_tokens(batch)  # (slots, width)
        # logits only where some row has a target: the head is the dear part of a small model
        next_targets = prompts.targets[:, 1:]  # (prompts, positions - 1)
        positions = (next_targets != IGNORED).any(dim=0).nonzero().squeeze(-1)  # (scored,)
        # (prompts, scored, vocabulary)
        logits = self.model(prompts, soft_tokens, logits_to_keep=positions, use_cache=False).logits
        targets = next_targets[:, positions]  # (prompts, scored)
        is_target = targets != IGNORED
        n_targets = int(is_target.sum())
        # a batch of a process may have no target when examples were cut
        loss = F.cross_entropy(logits[is_target].float(), targets[is_target], reduction="sum") / max(1, n_targets)
        right = logits.argmax(-1) == targets  # (prompts, scored)
        out = {"loss": loss, "token_accuracy": right[is_target].float().sum() / max(1, n_targets)}
        if not self.training:
            # in the first answer of each prompt
            first = self._first_answers(batch["targets"])[:, 1:][:, positions]  # (prompts, scored)
            answered = first.any(dim=1)  # (prompts,)
            out["answers"] = answered.sum()
            out["answers_right"] = ((right | ~first).all(dim=1) & answered).sum()
            return out
        for mod, contrast in self.alignment.items():
            beside = contrast({name: batch[f"{name}:{mod}"] for name in ("vectors", "entity", "text_of")})
            out["loss"] = out["loss"] + ALIGNMENT_WEIGHT * beside["loss"]
            out |= {name: value for name, value in beside.items() if name != "loss"}
        return out

    def _soft_tokens(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Soft tokens of all entities in the order of their slots, shape (slots, width)."""
        mods = [key.removeprefix("vectors:") for key in batch if key.startswith("vectors:")]
        if not mods:
            return torch.zeros((0, self.model.embeddings.embedding_dim), device=batch["ids"].device)
        # (slots, width), by modality
        projected = torch.cat([self.model.project(mod, batch[f"vectors:{mod}"]).flatten(0, 1) for mod in mods])
        slots = torch.cat([batch[f"slots:{mod}"] for mod in mods])  # (slots,)
        return projected[slots.argsort()]

    def _first_answers(self, targets: torch.Tensor) -> torch.Tensor:
        """Mark the tokens of the first answer of each prompt: up to its end token, or to what is no target."""
        is_target = targets != IGNORED
        end = torch.isin(targets, torch.tensor(self.model.end_ids, device=targets.device))
        before = torch.zeros_like(is_target)
        # what an answer is over after: its end token, or a position that is no target again
        over = end | (~is_target & torch.cat([before[:, :1], is_target[:, :-1]], dim=1))
        ended = torch.cat([before[:, :1], over.cumsum(dim=1)[:, :-1] > 0], dim=1)
        return is_target & ~ended

    def evaluate(
        self,
        forward: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
        batches: Iterable[dict[str, torch.Tensor]],
    ) -> dict[str, float]:
        """Token loss and accuracy over all targets, and the share of first answers that are written exactly."""
        tokens = loss = right = answers = answers_right = 0.0
        for batch in batches:
            out, n = forward(batch), self.weight(batch)
            tokens += n
            loss += n * float(out["loss"])
            right += n * float(out["token_accuracy"])
            answers += float(out["answers"])
            answers_right += float(out["answers_right"])
        tokens, answers = max(tokens, 1.0), max(answers, 1.0)
        return {"loss": loss / tokens, "token_accuracy": right / tokens, "answer_accuracy": answers_right / answers}


class ContrastiveTask(Task):
    """Stage 1 CT: InfoNCE in both directions between soft tokens and the mean token embedding of their texts.

    Entities of one text are positives of each other; ``negatives`` are unrelated texts that no entity belongs to. The
    entities of all processes are compared, with gradients to each. InfoNCE only compares: what all texts have in common
    cancels in it, and entities end up in a cone of their own, far from every text (Liang et al., Mind the gap, 2022).
    ``attraction`` weighs one minus the cosine to the own text, which closes it.

    Parameters
    ----------
    model
        The model.
    mod
        Whose projector.
    texts
        Mean token embedding of each text, shape (texts, width).
    negatives
        Those of unrelated texts, shape (negatives, width).
    attraction
        Weight of one minus the cosine between an entity and its own text; 0 is InfoNCE alone.
    """

    texts: torch.Tensor
    whole_batch = True

    def __init__(
        self,
        model: BioVerse,
        mod: str,
        texts: torch.Tensor,
        negatives: torch.Tensor | None,
        *,
        attraction: float,
    ) -> None:
        super().__init__()
        self.attraction = attraction
        self.projector = model.projectors[mod]
        self.log_scale = torch.nn.Parameter(torch.tensor([1 / 0.07]).log())
        bank = texts if negatives is None else torch.cat([texts, negatives])
        self.register_buffer("texts", F.normalize(bank.float(), dim=-1), persistent=False)
        self.n_texts = len(texts)

    def after_step(self) -> None:
        """Keep the temperature within bounds."""
        with torch.no_grad():
            self.log_scale.clamp_(math.log(MIN_LOGIT_SCALE), math.log(MAX_LOGIT_SCALE))

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Loss of the entities of all processes; in evaluation only where the entities lie."""
        soft_tokens = self.projector(batch["vectors"]).float().mean(dim=1)  # (vectors, width)
        n_entities = len(batch["text_of"])
        summed = soft_tokens.new_zeros((n_entities, soft_tokens.shape[1])).index_add(0, batch["entity"], soft_tokens)
        n_vectors = torch.bincount(batch["entity"], minlength=n_entities).unsqueeze(-1)
        entities = F.normalize(summed / n_vectors, dim=-1)  # (entities, width)
        if not self.training:
            return {"entities": entities}
        return self.loss(gathered(entities), gathered(batch["text_of"]))

    def loss(self, entities: torch.Tensor, text_of: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss of unit vectors of entities, shape (entities, width), and of their texts' indices."""
        if len(entities) == 0:
            return {"loss": entities.sum() + 0.0 * self.log_scale.sum()}
        used, column = text_of.unique(return_inverse=True)  # (texts of the batch,), (entities,)
        scale = self.log_scale.exp()
        others = torch.arange(self.n_texts, len(self.texts), device=used.device)
        logits = scale * entities @ self.texts[torch.cat([used, others])].T  # (entities, texts)
        to_text = F.cross_entropy(logits, column)
        positive = F.one_hot(column, len(used)).T.float()  # (texts of the batch, entities)
        by_text = F.log_softmax(logits[:, : len(used)].T, dim=-1)
        to_entity = -((by_text * positive).sum(-1) / positive.sum(-1)).mean()
        right = (logits.argmax(-1) == column).float().mean()
        cosine = (entities * self.texts[text_of]).sum(-1).mean()
        loss = (to_text + to_entity) / 2 + self.attraction * (1 - cosine)
        return {"loss": loss, "retrieval": right, "cosine": cosine.detach(), "scale": scale.detach().mean()}

    def evaluate(
        self,
        forward: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
        batches: Iterable[dict[str, torch.Tensor]],
    ) -> dict[str, float]:
        """Loss, retrieval, gap and neighbourhood agreement of all validation entities together."""
        measured_entities, text_of = [], []
        for batch in batches:
            measured_entities.append(forward(batch)["entities"].float())
            text_of.append(batch["text_of"])
        entities, true_text = torch.cat(measured_entities), torch.cat(text_of).to(self.texts.device)
        texts, unrelated = self.texts[: self.n_texts].cpu().numpy(), self.texts[self.n_texts :].cpu().numpy()
        measured = alignment_metrics(entities.cpu().numpy(), texts, true_text.cpu().numpy(), unrelated)
        return {"loss": float(self.loss(entities, true_text)["loss"])} | measured


def gathered(rows: torch.Tensor) -> torch.Tensor:
    """Rows of all processes, one after the other, with gradients to each; a process may have any number of them."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return rows
    sizes = _Gather.apply(torch.tensor([len(rows)], device=rows.device)).flatten()
    filled = torch.cat([rows, rows.new_zeros((int(sizes.max()) - len(rows), *rows.shape[1:]))])
    parts = _Gather.apply(filled)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])


class _Gather(torch.autograd.Function):
    """Tensors of one shape from all processes, stacked; the gradient of each comes back summed over the processes."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        summed = gradient.contiguous()
        distributed.all_reduce(summed)
        return summed[distributed.get_rank()]
