"""Reading on after what was read: every architecture, whatever its ``forward`` calls the cache."""

import inspect

import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteMoeHybridConfig, LlamaForCausalLM, OpenAIGPTConfig

from bioverse_sc.models.decode._reader import read_on
from tests.tiny import CONFIGS, make_language_model
from tests.tl.test_chat import MORE

IDS = torch.tensor([[20, 30, 40, 50, 60]])


def forward_of(model, **inputs):
    """A forward pass, with the cache under the name that this version of transformers has for it."""
    names = inspect.signature(LlamaForCausalLM.forward).parameters
    inputs["cache" if "cache" in names else "past_key_values"] = inputs.pop("given")
    return LlamaForCausalLM.forward(model, **inputs)


class Older(LlamaForCausalLM):
    """Code that came with weights, and has the name of its time."""

    def forward(self, input_ids, past_key_values=None, use_cache=None):
        return forward_of(self, input_ids=input_ids, given=past_key_values, use_cache=use_cache)


class Newer(LlamaForCausalLM):
    """What takes the new name alone."""

    def forward(self, input_ids, cache=None, use_cache=None):
        return forward_of(self, input_ids=input_ids, given=cache, use_cache=use_cache)


@pytest.mark.parametrize("kind", [*CONFIGS, *MORE])
def test_what_is_read_in_two_parts_is_what_is_read_at_once(kind):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config((CONFIGS | MORE)[kind](258)).eval()
    reads_more_at_once = not isinstance(model.config, GraniteMoeHybridConfig)
    with torch.inference_mode():
        whole = model(input_ids=IDS, use_cache=False).logits[:, -1]
        parts = [IDS[:, :3], IDS[:, 3:]] if reads_more_at_once else [IDS[:, :4], IDS[:, 4:]]
        cache = None
        for part in parts:
            out, cache = read_on(model, cache, input_ids=part, logits_to_keep=1)
    torch.testing.assert_close(out.logits[:, -1], whole)
    assert cache.get_seq_length() == 5


@pytest.mark.parametrize("written", [Older, Newer])
def test_the_name_of_the_cache_is_that_of_forward_and_not_of_a_version(written):
    model = make_language_model()[0]
    model.__class__ = written
    with torch.inference_mode():
        whole = model(IDS, use_cache=False).logits[:, -1]
        _, cache = read_on(model, input_ids=IDS[:, :3])
        out, cache = read_on(model, cache, input_ids=IDS[:, 3:])
    torch.testing.assert_close(out.logits[:, -1], whole)
    assert cache.get_seq_length() == 5


def test_a_language_model_that_keeps_nothing_is_refused():
    model = AutoModelForCausalLM.from_config(OpenAIGPTConfig(n_embd=8, n_layer=1, n_head=1, vocab_size=70))
    with pytest.raises(TypeError, match=r"OpenAIGPTLMHeadModel of transformers \S+ gives back no cache"):
        read_on(model, input_ids=IDS)
