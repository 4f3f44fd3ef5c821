"""A small model that reads cells, proteins and molecules, and data for it: proteins and molecules with descriptions."""

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import torch

from bioverse_sc.encoders import get_encoder
from bioverse_sc.models import create, load, save
from tests.encoders.entities import write_chemberta, write_esm
from tests.tiny import GENES, LABELS, make_encoder, make_language_model

SEQUENCES = ["MKTAYIAK", "GGSGGS", "ACDEFGHIK", "WWWYYY", "LLKKLLKK", "PEPTIDE", "MSTNPKPQRK"]
SMILES = ["CCO", "c1ccccc1", "CC(=O)O", "N#N", "CCN"]


def make_three(folder):
    """A saved and loaded model, whose projectors are not what they were at the start."""
    language_model, tokenizer = make_language_model()
    language_model.save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")
    encoders = {
        "rna": make_encoder(),
        "protein": get_encoder(write_esm(folder / "esm", width=24), mod="protein"),
        "molecule": get_encoder(write_chemberta(folder / "chemberta"), mod="molecule"),
    }
    model = create(folder / "lm", encoders, name="three", labels=LABELS, device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.projectors.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    save(model, folder / "three", include_language_model=True)
    return load(folder / "three", device="cpu")


def make_mdata():
    """Eight cells, seven proteins of which two have no description and two have the same, five molecules."""
    rng = np.random.default_rng(0)
    rna = ad.AnnData(
        rng.poisson(2.0, size=(8, len(GENES))).astype(np.float32),
        obs=pd.DataFrame({"truth": [*LABELS, *LABELS[:3], "nothing"]}, index=[f"c{i}" for i in range(8)]),
        var=pd.DataFrame(index=GENES),
    )
    descriptions = ["binds zinc", "cuts RNA/DNA", None, "binds zinc", "moves ions", " ", "folds others"]
    protein = ad.AnnData(
        obs=pd.DataFrame({"sequence": SEQUENCES, "description": descriptions}, index=[f"P{i}" for i in range(7)])
    )
    molecule = ad.AnnData(
        obs=pd.DataFrame(
            {"smiles": SMILES, "description": ["a spirit", "a solvent", "an acid", "a gas", "binds zinc"]},
            index=[f"m{i}" for i in range(5)],
        )
    )
    return md.MuData({"rna": rna, "protein": protein, "molecule": molecule})


def text_vectors(model, texts):
    """Mean input token embedding of each text, by hand."""
    ids = [model.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    return np.stack([model.embeddings.weight[i].mean(dim=0).detach().numpy() for i in ids])


def cosine(one, two):
    """Of two vectors."""
    return float(np.dot(one, two) / np.linalg.norm(one) / np.linalg.norm(two))
