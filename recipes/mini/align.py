"""Step 5: stage 1, contrastive, each modality on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

import bioverse_sc as bsc
from bioverse_sc.models import BioVerse, ModelConfig, ProjectorConfig
from bioverse_sc.train import Descriptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from data import Data
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from bioverse_sc.encoders import StoredEncoder


def untrained_model(
    data: Data,
    encoders: Mapping[str, StoredEncoder],
    language_model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
) -> BioVerse:
    """The language model with untrained projectors."""
    r = data.recipe
    config = ModelConfig(
        name="mini",
        language_model="language_model",
        projectors={
            mod: ProjectorConfig(
                encoder=encoder.name,
                encoder_fingerprint=encoder.fingerprint,
                in_width=encoder.width,
                hidden_width=r.projector_widths[mod],
                out_width=r.lm_width,
                n_tokens=1 if mod == "rna" else r.tokens_per_entity,
                dropout=0.1 if mod == "rna" else 0.0,
                seed=r.seed,
            )
            for mod, encoder in encoders.items()
        },
        labels=tuple(data.names),
        no_repeat_ngram_size=r.no_repeat_ngram_size,
    )
    return BioVerse(config, language_model, tokenizer, dict(encoders), data.gene_reference(), data.memory)


def align(data: Data, model: BioVerse, vectors: Mapping[str, np.ndarray], types: np.ndarray) -> dict[str, Descriptions]:
    """Train the projector of each modality; gives the texts that its entities were aligned with."""
    r = data.recipe
    descriptions = {"rna": Descriptions(data.type_texts, types)}
    bsc.train.align(model, vectors["rna"], descriptions["rna"], r.contrastive, folder=data.work / "contrastive")
    texts_of = {mod: memory.table["text"].tolist() for mod, memory in data.memory.items()}
    texts_of["molecule"] += [f"The molecule is {name}." for name in data.molecules.more["name"]]
    for mod, texts in texts_of.items():
        text_of, unique = pd.factorize(np.array(texts, dtype=object))
        descriptions[mod] = Descriptions(list(unique), text_of)
        folder = data.work / f"{mod}_contrastive"
        bsc.train.align(model, vectors[mod], descriptions[mod], r.sequence_contrastive, mod=mod, folder=folder)
    return descriptions
