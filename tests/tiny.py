"""Small real models, made on the spot: random weights, every part of the package's own."""

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPTConfig, ScGPTEncoder
from bioverse_sc.models import BioVerse, ModelConfig, ProjectorConfig

WIDTH = 32
VECTOR = 16
GENES = [f"GENE{i}" for i in range(80)]
LABELS = ("B cell", "T cell", "monocyte", "naive B cell")

_IDS = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
_SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": WIDTH, "max_position_embeddings": 256} | _IDS
_GATED = {"intermediate_size": 64, "num_key_value_heads": 2} | _SHAPE
CONFIGS = {
    "llama": lambda n: LlamaConfig(vocab_size=n, intermediate_size=64, tie_word_embeddings=True, **_SHAPE),
    "granite": lambda n: GraniteConfig(vocab_size=n, intermediate_size=64, embedding_multiplier=2.0, **_SHAPE),
    "qwen2": lambda n: Qwen2Config(vocab_size=n, tie_word_embeddings=True, **_GATED),
    "qwen3": lambda n: Qwen3Config(vocab_size=n, head_dim=8, **_GATED),
    "mistral": lambda n: MistralConfig(vocab_size=n, sliding_window=None, **_GATED),
    "gemma": lambda n: GemmaConfig(vocab_size=n, head_dim=8, tie_word_embeddings=True, **_GATED),
    "gemma3": lambda n: Gemma3TextConfig(vocab_size=n, head_dim=8, tie_word_embeddings=True, **_GATED),
    "phi": lambda n: PhiConfig(vocab_size=n, intermediate_size=64, **_SHAPE),
    "phi3": lambda n: Phi3Config(vocab_size=n, **_GATED),
    "gpt_neox": lambda n: GPTNeoXConfig(vocab_size=n, intermediate_size=64, **_SHAPE),
    "gpt2": lambda n: GPT2Config(vocab_size=n, n_layer=2, n_head=4, n_embd=WIDTH, n_positions=256, **_IDS),
}


def make_tokenizer(*, bos=False):
    """One token per byte, so that any text can be written; ``<|end|>`` is special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|end|>", "<|pad|>", *alphabet])}
    fast = Tokenizer(models.BPE(vocabulary, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    extra = {"bos_token": "<|end|>"} if bos else {}
    if bos:
        fast.post_processor = processors.TemplateProcessing(single="<|end|> $A", special_tokens=[("<|end|>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<|end|>", pad_token="<|pad|>", **extra)


def make_language_model(kind="llama", *, seed=0, spread=0.3):
    """Random weights, spread widely enough that the answers differ."""
    tokenizer = make_tokenizer()
    config = CONFIGS[kind](len(tokenizer))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, spread, generator=generator)
    return model, tokenizer


def make_encoder(*, seed=0, **shape):
    """Two layers over 80 made-up genes."""
    config = ScGPTConfig(**{"embsize": VECTOR, "nheads": 2, "d_hid": 32, "nlayers": 2, "max_seq_len": 65} | shape)
    encoder = ScGPTEncoder.untrained(config, GeneVocabulary(GENES), seed=seed)
    encoder.module.requires_grad_(requires_grad=False)
    return encoder


def make_model(kind="llama", *, seed=0, n_tokens=1, dropout=0.1, labels=LABELS, encoders=None, **config):
    """A whole model."""
    language_model, tokenizer = make_language_model(kind, seed=seed)
    projector = ProjectorConfig(
        encoder="scgpt",
        encoder_fingerprint="",
        in_width=VECTOR,
        hidden_width=24,
        out_width=WIDTH,
        n_tokens=n_tokens,
        dropout=dropout,
    )
    config = {"name": "tiny", "language_model": "language_model", "labels": tuple(labels)} | config
    model = BioVerse(ModelConfig(projectors={"rna": projector}, **config), language_model, tokenizer, encoders)
    return model.eval().requires_grad_(requires_grad=False)


def make_vectors(n, *, seed=0, width=VECTOR):
    """Unit vectors."""
    vectors = np.random.default_rng(seed).normal(size=(n, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
