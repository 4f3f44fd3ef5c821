"""scGPT checkpoints, read natively."""

from bioverse_sc.encoders.scgpt._config import ScGPTConfig
from bioverse_sc.encoders.scgpt._encoder import ScGPTEncoder, pad_cells
from bioverse_sc.encoders.scgpt._heads import Heads
from bioverse_sc.encoders.scgpt._io import fingerprint
from bioverse_sc.encoders.scgpt._module import ScGPT
from bioverse_sc.encoders.scgpt._tokenize import TokenizedCells
from bioverse_sc.encoders.scgpt._vocabulary import GeneVocabulary

__all__ = [
    "GeneVocabulary",
    "Heads",
    "ScGPT",
    "ScGPTConfig",
    "ScGPTEncoder",
    "TokenizedCells",
    "fingerprint",
    "pad_cells",
]
