"""A language model that was really trained, from the package registry: 93 MB, which make installs."""

import pytest
import torch

from bioverse_sc.models import Answer, Decoding, Text, create, generate_text
from bioverse_sc.models._places import packages
from tests.tiny import make_encoder

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = packages()[SMOLLM2]


@pytest.mark.skipif(PACKAGE.path() is None, reason=f"needs the language model: {PACKAGE.install}")
def test_a_real_language_model_is_loaded_and_answers():
    model = create(SMOLLM2, {"rna": make_encoder()}, name="real", device="cpu")
    assert model.config.language_model == SMOLLM2
    assert model.config.chat is not None
    nothing = torch.zeros((0, model.embeddings.weight.shape[1]))
    prompts = [[Text("What is the capital of France?"), Answer()]]
    (answer,) = generate_text(model, prompts, nothing, Decoding(max_new_tokens=16))
    assert "Paris" in answer
