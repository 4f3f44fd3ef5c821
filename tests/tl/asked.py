"""A small model that reads three modalities, with a memory, and data to ask it about."""

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import torch

from bioverse_sc.encoders import get_encoder
from bioverse_sc.facts import Memory
from bioverse_sc.models import Decoding, ProjectorConfig, create, generate_text
from tests.encoders.entities import write_chemberta, write_esm
from tests.tiny import GENES, make_encoder, make_language_model

SLOTS = {"rna": "X_scgpt", "protein": "X_esm2", "molecule": "X_chemberta"}
PROTEINS = {"P1": "MKTAYIAK", "P2": "GGSGGSWW", "P3": "ACDEFGHIKL", "P4": "MKTAYIWW"}
MOLECULES = {"M1": "CCO", "M2": "c1ccccc1", "M3": "CC(=O)N"}
KNOWN_PROTEINS = {
    "MKTAYIAKQR": "Binds zinc.",
    "MKTAYIA": "Binds [BIO] {DNA}",
    "GGSGGSGG": "A linker.",
    "ACDEFGHI": "All of them.",
    "TAYIAKWW": "Another.",
}
KNOWN_MOLECULES = {"CCO": "Ethanol.", "CCCO": "Propanol.", "c1ccccc1C": "Toluene."}


def make_three(folder):
    """One, two and three soft tokens, so that a mistake of their order is one of their number or place."""
    language_model, tokenizer = make_language_model()
    language_model.save_pretrained(folder / "lm")
    tokenizer.save_pretrained(folder / "lm")
    encoders = {
        "rna": make_encoder(),
        "protein": get_encoder(write_esm(folder / "esm"), mod="protein"),
        "molecule": get_encoder(write_chemberta(folder / "chemberta"), mod="molecule"),
    }
    shapes = {"rna": ProjectorConfig(), "protein": ProjectorConfig(n_tokens=2), "molecule": ProjectorConfig(n_tokens=3)}
    model = create(folder / "lm", encoders, name="three", projectors=shapes, device="cpu")
    for mod, known in (("protein", KNOWN_PROTEINS), ("molecule", KNOWN_MOLECULES)):
        model.memory[mod] = Memory(mod, pd.DataFrame({"entity": list(known), "text": list(known.values())}))
    return model


def make_cells():
    """Cells, antibodies of some of them in another order, compounds of some of them.

    C1 is in all three, c4 has no known gene.
    """
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, size=(4, len(GENES))).astype(np.float32)
    counts[3] = 0
    counts = np.hstack([counts, np.ones((4, 1), dtype=np.float32)])
    cells = pd.DataFrame(index=["c1", "c2", "c3", "c4"])
    rna = ad.AnnData(counts, obs=cells, var=pd.DataFrame(index=[*GENES, "nothing"]))
    var = pd.DataFrame({"sequence": ["MKTAYIAK", "GGSGGS"]}, index=["CD3", "CD4"])
    amounts = np.array([[1, 3], [0, 2], [5, 0], [1, 1]], dtype=np.float32)
    protein = ad.AnnData(amounts, obs=pd.DataFrame(index=["c2", "c1", "c9", "c4"]), var=var)
    molecule = ad.AnnData(obs=pd.DataFrame({"smiles": ["CCO", "c1ccccc1"]}, index=["c1", "c3"]))
    return md.MuData({"rna": rna, "protein": protein, "molecule": molecule})


def make_library():
    """Proteins and molecules, which share no names."""
    protein = ad.AnnData(obs=pd.DataFrame({"sequence": list(PROTEINS.values())}, index=list(PROTEINS)))
    molecule = ad.AnnData(obs=pd.DataFrame({"smiles": list(MOLECULES.values())}, index=list(MOLECULES)))
    return md.MuData({"molecule": molecule, "protein": protein})


def naive(model, mdata, prompt, entities, *, key="", **decoding):
    """The answer to one prompt: its soft tokens are those of the named entities, one after the other."""
    rows = [mdata[mod].obsm[SLOTS[mod]][mdata[mod].obs_names.get_loc(name)] for mod, name in entities]
    with torch.inference_mode():
        parts = [
            model.project(mod, torch.from_numpy(row[None]))[0] for (mod, _), row in zip(entities, rows, strict=True)
        ]
    decoding = Decoding(**({"max_new_tokens": 12} | decoding))
    return generate_text(model, [prompt], torch.cat(parts), decoding, keys=[key])[0].replace("\0", "")
