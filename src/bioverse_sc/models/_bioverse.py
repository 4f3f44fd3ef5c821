"""The BioVERSE model: encoder vectors, projectors, a causal language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from bioverse_sc._settings import settings
from bioverse_sc.models._inject import answer_ids, end_id, inject, tokenize_prompt
from bioverse_sc.models._projector import Projector
from bioverse_sc.models._prompt import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bioverse_sc.encoders import Encoder
    from bioverse_sc.facts import Memory
    from bioverse_sc.models._config import ModelConfig, ProjectorConfig
    from bioverse_sc.models._inject import PromptBatch, TokenizedPrompt
    from bioverse_sc.models._prompt import Segment


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
        By gene, its mean expression over many cell types (scaled to 10,000) and its weight: what the genes of a cell
        are compared with to find the informative ones.
    memory
        Known proteins or molecules by modality, with their texts; the nearest are shown with ``retrieve=True``.
    """

    def __init__(
        self,
        config: ModelConfig,
        language_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        encoders: Mapping[str, Encoder] | None = None,
        gene_reference: Mapping[str, tuple[float, float]] | None = None,
        memory: Mapping[str, Memory] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.language_model: Any = language_model
        self.tokenizer = tokenizer
        self.encoders = dict(encoders or {})
        self.gene_reference = dict(gene_reference or {})
        self.memory = dict(memory or {})
        self.fingerprint = ""
        self.has_merged_adapter = False
        self.projectors = nn.ModuleDict({mod: self.untrained_projector(mod) for mod in config.projectors})

    def untrained_projector(self, mod: str) -> Projector:
        """The projector as it was before training: the same seed gives the same weights."""
        config: ProjectorConfig = self.config.projectors[mod]
        width = self.embeddings.weight.shape[1]
        if config.out_width != width:
            msg = f"The projector writes width {config.out_width}, the language model reads {width}."
            raise ValueError(msg)
        return Projector(config, scale=self.embedding_scale())

    def embedding_scale(self) -> float:
        """Root mean square of the token embeddings as they enter the model: Gemma scales them in its embedding."""
        size = len(self.embeddings.weight)
        if self.embeddings.weight.is_meta:
            return 1.0
        with torch.no_grad():
            squares = [
                self.embeddings(torch.arange(start, min(start + 4096, size), device=self.device)).float().pow(2).mean(1)
                for start in range(0, size, 4096)
            ]
        return float(torch.cat(squares).mean().sqrt())

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
        return end_id(self.tokenizer) if pad is None else pad

    @property
    def end_ids(self) -> list[int]:
        """Token ids that end an answer."""
        return sorted({end_id(self.tokenizer, self.config.chat), end_id(self.tokenizer)})

    @property
    def n_tokens(self) -> dict[str, int]:
        """Soft tokens per vector of an entity, by modality."""
        return {mod: config.n_tokens for mod, config in self.config.projectors.items()}

    @property
    def max_positions(self) -> int | None:
        """Tokens of a prompt with its answer that the language model reads; ``None`` where it has no limit."""
        return getattr(self.language_model.config.get_text_config(), "max_position_embeddings", None)

    def project(self, mod: str, vectors: torch.Tensor) -> torch.Tensor:
        """Soft tokens of encoder vectors, shape (vectors, n_tokens, width)."""
        return self.projectors[mod](vectors)

    def tokenize(self, prompt: Sequence[Segment]) -> TokenizedPrompt:
        """Token ids, slots and targets of a prompt, in the chat format of the language model where it has one."""
        return tokenize_prompt(self.tokenizer, prompt, self.n_tokens, self.config.chat)

    def answer_ids(self, text: str) -> list[int]:
        """Token ids of an answer, with its end."""
        return answer_ids(self.tokenizer, Answer(text), self.config.chat)

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

    def checkpoint_gradients(self, *, enabled: bool) -> None:
        """Whether the language model computes its activations again in the backward pass, in place of keeping them."""
        model = self.language_model
        # transformers 5 has given it another name
        name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
        if enabled:
            options = {f"{name}_checkpointing_kwargs": {"use_reentrant": False}}
            getattr(model, f"{name}_checkpointing_enable")(**options)
        else:
            getattr(model, f"{name}_checkpointing_disable")()

    def merge_adapter(self) -> BioVerse:
        """Add the LoRA weights into the language model, in place.

        It runs faster, and cannot be trained on as an adapter.
        """
        from peft import PeftModel

        if isinstance(self.language_model, PeftModel):
            self.language_model = self.language_model.merge_and_unload()
            self.has_merged_adapter = True
        return self


def ready(model: BioVerse, device: str | None) -> BioVerse:
    """Put a new model and its encoders on the device, frozen and in evaluation mode."""
    device = device or settings.torch_device()
    model.to(device)
    for encoder in model.encoders.values():
        encoder.to(device)
    return model.eval().requires_grad_(requires_grad=False)
