"""Train the bundled default model ``mini``: one command, resumable.

    python recipes/mini/train.py --shared ../shared --work /tmp/mini --out src/bioverse_sc/bundled/mini

Every step leaves its result in the work folder and is skipped when that is there; training inside a step resumes from
its last checkpoint. Two CPU cores need about an hour and a half.

1. cells     simulate cells from reference profiles
2. encoders  train an scGPT-format encoder on them (masked values and types), an ESM-2-format encoder of proteins
             (masked residues) and a ChemBERTa-format encoder of molecules (masked tokens and fingerprints)
3. vectors   embed fresh simulated cells, list their informative genes; embed proteins and molecules
4. text      make the tokenizer and the language model; train it on knowledge text
5. align     stage 1, contrastive, each modality on its own
6. instruct  stage 2: labels of cells (LoRA and their projector), then descriptions of proteins and molecules, then
             reasoning, descriptions and questions of all three modalities (LoRA, and the projectors of proteins and
             molecules)
7. save      write the bundle

Then ``refine.py`` trains the reading of cells on, with real cells. ``reasoning.py`` teaches the reasoning to a model
that was made before its prompt held facts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from align import align, untrained_model
from data import Data
from encoders import cell_encoder, molecule_encoder, protein_encoder
from instruct import instruct
from recipe import Recipe
from save import save_model
from text import trained_language_model
from vectors import cell_vectors, entity_vectors


def train(data: Data, out: Path) -> None:
    """All steps."""
    cells, proteins, molecules = cell_encoder(data), protein_encoder(data), molecule_encoder(data)
    cells_vectors, types = cell_vectors(data, cells)
    vectors = {
        "rna": cells_vectors,
        "protein": entity_vectors(data, "protein", proteins),
        "molecule": entity_vectors(data, "molecule", molecules),
    }
    encoders = {"rna": cells, "protein": proteins, "molecule": molecules}
    model = untrained_model(data, encoders, *trained_language_model(data))
    descriptions = align(data, model, vectors, types)
    instruct(data, model, vectors, types, descriptions)
    save_model(model, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for what lies between the steps, outside the repository"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    recipe = Recipe()
    if a.seed:
        recipe = replace(recipe, seed=a.seed)
    train(Data(a.shared, a.work, recipe), a.out)


if __name__ == "__main__":
    main()
