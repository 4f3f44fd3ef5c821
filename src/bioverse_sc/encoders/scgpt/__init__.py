"""scGPT checkpoints, read natively."""

from bioverse_sc.encoders.scgpt._config import ScGPTConfig
from bioverse_sc.encoders.scgpt._encoder import ScGPTEncoder
from bioverse_sc.encoders.scgpt._vocabulary import GeneVocabulary

__all__ = ["GeneVocabulary", "ScGPTConfig", "ScGPTEncoder"]
