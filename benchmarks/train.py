"""Seconds of a step of stage 1: contrastive on cached embeddings (CT), and one that runs the language model (AR).

    python benchmarks/train.py                  the bundled model, and a language model of 135 M parameters
    python benchmarks/train.py --device cuda --batch-size 256

Whole steps, as the loop does them: draw the batch, forward, backward, clip, optimizer. Both objectives get the same
batch size and descriptions, those of the Cell Ontology, in the bundled model's tokens. What CT computes once instead,
the vectors of its texts, and what both compute once, the embeddings of the cells, is timed too. The larger language
model has the shape of SmolLM-135M and its encoder that of scGPT's published checkpoints, both with random weights.
"""

from __future__ import annotations

import argparse
import logging
import time

import numpy as np
import torch
import transformers
from embed import random_cells
from transformers import AutoModelForCausalLM, LlamaConfig

import bioverse_sc as bsc
from bioverse_sc.datasets import everyday_texts
from bioverse_sc.encoders.scgpt import GeneVocabulary, ScGPTConfig, ScGPTEncoder
from bioverse_sc.models import BioVerse, ModelConfig, ProjectorConfig, description_prompt
from bioverse_sc.runs import timed
from bioverse_sc.train import (
    ATTRACTION,
    BatchSource,
    ContrastiveTask,
    Example,
    PairSource,
    PromptSource,
    PromptTask,
    Task,
    batch_indices,
)

SHAPE = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
SHAPE |= {"num_key_value_heads": 3, "vocab_size": 49_152, "max_position_embeddings": 2048}
WIDTH = 512
N_GENES = 880
"""Expressed genes of a cell."""


def larger(mini: BioVerse) -> BioVerse:
    """A model around a language model of 135 M parameters, with random weights and the bundled tokenizer."""
    torch.manual_seed(0)
    language_model = AutoModelForCausalLM.from_config(LlamaConfig(tie_word_embeddings=True, **SHAPE))
    width = SHAPE["hidden_size"]
    projector = ProjectorConfig("scgpt", "", in_width=WIDTH, hidden_width=width, out_width=width)
    vocabulary = GeneVocabulary(f"GENE{i}" for i in range(60_694))
    encoder = ScGPTEncoder.untrained(ScGPTConfig(embsize=WIDTH, nheads=8, d_hid=WIDTH, nlayers=12), vocabulary)
    config = ModelConfig(name="larger", language_model="", projectors={"rna": projector})
    return BioVerse(config, language_model, mini.tokenizer, {"rna": encoder})


def step_seconds(task: Task, source: BatchSource, batch_size: int, device: str) -> float:
    """Median seconds of a whole step."""
    task = task.to(device).train()
    trained = [p for p in task.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    rng = np.random.default_rng(0)
    done = 0

    def step() -> None:
        nonlocal done
        indices = batch_indices(len(source), batch_size, done, 0, source.lengths, source.weights)
        batch = {name: tensor.to(device) for name, tensor in source.batch(indices, rng).items()}
        task(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        task.after_step()
        done += 1

    return timed(step, is_cuda=torch.device(device).type == "cuda")


def measure(name: str, model: BioVerse, texts: list[str], options: argparse.Namespace) -> str:
    """Row of the table."""
    device, n = options.device, len(texts)
    model.to(device).requires_grad_(requires_grad=False)
    model.projectors.requires_grad_(requires_grad=True)
    encoder = model.encoders["rna"].to(device)
    genes = list(encoder.genes)
    cells = random_cells(options.cells, len(genes), N_GENES, 0.0)
    encoder.encode(cells[:2], genes, batch_size=2)
    began = time.perf_counter()
    encoder.encode(cells, genes, batch_size=64)
    embedding = time.perf_counter() - began
    began = time.perf_counter()
    vectors_of_texts = model.text_vectors(texts)
    negatives = model.text_vectors(everyday_texts())
    of_texts = time.perf_counter() - began
    # an embedding of each text, from the cache
    vectors = np.random.default_rng(0).normal(size=(n, model.config.projectors["rna"].in_width)).astype(np.float32)
    contrast = ContrastiveTask(model, "rna", vectors_of_texts, negatives, attraction=ATTRACTION)
    ct = step_seconds(contrast, PairSource(vectors, np.arange(n)), options.batch_size, device)
    examples = [Example(description_prompt("rna", text), (i,)) for i, text in enumerate(texts)]
    source = PromptSource(model, examples, {"rna": vectors}, max_tokens=2048)
    ar = step_seconds(PromptTask(model), source, options.batch_size, device)
    parameters = sum(p.numel() for p in model.language_model.parameters()) / 1e6
    tokens = np.mean([len(prompt.ids) for prompt in source.prompts])
    return (
        f"| {name} | {parameters:,.1f} M | {tokens:.0f} | {1000 * ct:,.1f} ms | {1000 * ar:,.0f} ms | "
        f"{ar / ct:,.0f} | {of_texts:.1f} s | {1000 * embedding / options.cells:.1f} s |"
    )


def descriptions() -> list[str]:
    ontology = bsc.ontology.cell_ontology()
    return sorted({ontology.describe(term) for term in ontology.names})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cells", type=int, default=64, help="cells that are embedded, for the seconds of 1,000")
    parser.add_argument("--texts", type=int, default=1024, help="descriptions, at most all of the ontology")
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    chosen = np.random.default_rng(0).permutation(descriptions())[: options.texts].tolist()
    mini = bsc.models.load("mini", device=options.device)
    bundled = measure("bundled `mini`", mini, chosen, options)
    rows = [bundled, measure("SmolLM-135M's shape", larger(mini), chosen, options)]
    where = torch.cuda.get_device_name() if options.device != "cpu" else f"{torch.get_num_threads()} CPU threads"
    print(
        f"Batch of {options.batch_size} descriptions out of {len(chosen):,}, float32, {where}, torch "
        f"{torch.__version__}, "
        f"transformers {transformers.__version__}, bioverse-sc {bsc.__version__}\n"
    )
    print(
        "| language model | parameters | tokens of an example | CT step | AR step | AR / CT | once: vectors of the "
        "texts | once: 1,000 cells |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
