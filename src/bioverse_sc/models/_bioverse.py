"""The BioVERSE model: encoder vectors, projectors, a causal language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from bioverse_sc.models._inject import inject
from bioverse_sc.models._projector import Projector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bioverse_sc.encoders import CellEncoder
    from bioverse_sc.models._config import ModelConfig, ProjectorConfig
    from bioverse_sc.models._inject import PromptBatch


class BioVerse(nn.Module):
    """A language model that reads biological entities through soft tokens (BioVERSE, arXiv 2510.01428).

    Parameters
    ----------
    config
        Name, shapes, label set.
    language_model
        Any causal language model of transformers, with or without peft adapters.
    tokenizer
        Its tokenizer.
    encoders
        Frozen encoders by modality. They hold no trainable parameters of this module.
    gene_reference
        By gene, its mean expression over many cell types (scaled to 10,000) and its weight: what the genes of a cell are
        compared with to find the informative ones.
    """

    def __init__(
        self,
        config: ModelConfig,
        language_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        encoders: Mapping[str, CellEncoder] | None = None,
        gene_reference: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.language_model: Any = language_model
        self.tokenizer = tokenizer
        self.encoders = dict(encoders or {})
        self.gene_reference = dict(gene_reference or {})
        self.fingerprint = ""
        self.has_merged_adapter = False
        self.projectors = nn.ModuleDict({mod: self.untrained_projector(mod) for mod in config.projectors})

    def untrained_projector(self, modality: str) -> Projector:
        """The projector as it was before training: the same seed gives the same weights."""
        config: ProjectorConfig = self.config.projectors[modality]
        weight = self.embeddings.weight
        if config.out_width != weight.shape[1]:
            msg = f"The projector writes width {config.out_width}, the language model reads {weight.shape[1]}."
            raise ValueError(msg)
        return Projector(config, scale=float(weight.detach().float().pow(2).mean().sqrt()))

    @property
    def embeddings(self) -> nn.Embedding:
        """The language model's input token embedding."""
        return cast("nn.Embedding", self.language_model.get_input_embeddings())

    @property
    def device(self) -> torch.device:
        return self.embeddings.weight.device

    @property
    def pad_id(self) -> int:
        """Token id for padding; it is masked, so the end token serves where there is none."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    @property
    def n_tokens(self) -> dict[str, int]:
        """Soft tokens per entity, by modality."""
        return {mod: config.n_tokens for mod, config in self.config.projectors.items()}

    def project(self, modality: str, vectors: torch.Tensor) -> torch.Tensor:
        """Soft tokens of encoder vectors, shape (entities, n_tokens, width)."""
        return self.projectors[modality](vectors)

    def forward(self, prompts: PromptBatch, soft_tokens: torch.Tensor, **kwargs: Any) -> Any:
        """Run the language model over prompts with soft tokens of shape (slots, width)."""
        embedded = inject(self.embeddings, prompts.ids, soft_tokens)
        return self.language_model(inputs_embeds=embedded, attention_mask=prompts.mask, **kwargs)

    def text_vectors(self, texts: list[str]) -> torch.Tensor:
        """Mean input-token embedding of each text, shape (texts, width): where text lies in the shared space."""
        with torch.no_grad():
            rows = []
            for text in texts:
                ids = self.tokenizer.encode(text, add_special_tokens=False)
                if not ids:
                    msg = "A text is empty: it has no place in the embedding space."
                    raise ValueError(msg)
                rows.append(self.embeddings(torch.tensor(ids, device=self.device)).float().mean(dim=0))
            return torch.stack(rows)
