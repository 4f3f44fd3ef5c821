"""Which cell types occur in a tissue."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import pandas as pd

from bioverse_sc.ontology._cell_ontology import _key, cell_ontology

SYNONYMS = {
    "adrenal gland": ["adrenal", "adrenal cortex", "suprarenal gland"],
    "airway": ["airways", "nose", "nasal", "nasal mucosa", "nasopharynx", "trachea", "upper airway"],
    "blood": ["pbmc", "peripheral blood", "peripheral blood mononuclear cell", "whole blood", "venous blood"],
    "bone marrow": ["bm", "marrow"],
    "brain": ["cerebrum", "cerebral cortex", "cortex of brain", "neocortex", "cerebellum", "hippocampus", "midbrain"],
    "cerebrospinal fluid": ["csf"],
    "decidua": [],
    "esophagus": ["oesophagus"],
    "eye": ["retina"],
    "heart": ["cardiac", "myocardium"],
    "intestine": ["gut", "bowel", "intestinal", "small intestine", "large intestine", "ileum", "colon", "rectum"],
    "kidney": ["renal"],
    "liver": ["hepatic"],
    "lung": ["pulmonary", "bronchoalveolar lavage", "bronchoalveolar lavage fluid", "balf"],
    "lymph node": ["ln"],
    "muscle": ["skeletal muscle"],
    "pancreas": ["pancreatic", "pancreatic islet", "islet", "islet of langerhans"],
    "placenta": [],
    "prostate": ["prostate gland"],
    "skin": ["epidermis", "dermis"],
    "spleen": [],
    "spinal cord": [],
    "stomach": ["gastric"],
    "testis": ["testes", "testicle"],
    "thymus": [],
    "tonsil": [],
    "umbilical cord blood": ["cord blood"],
}
"""Other names of the tissues, in lower case. A part that has no cells of its own here goes by its organ."""
FLUIDS = ("blood", "umbilical cord blood", "cerebrospinal fluid")
"""Tissues without vessels, stroma and immune cells that stay."""
CIRCULATING = ("CL:0000738", "CL:0000232", "CL:0000233")
"""Leukocyte, erythrocyte, platelet: what of blood also reaches every other tissue."""
RESIDENT = {
    "CL:0000235": "macrophage",
    "CL:0000097": "mast cell",
    "CL:0000786": "plasma cell",
    "CL:0000841": "mature conventional dendritic cell",
    "CL:0001071": "group 3 innate lymphoid cell",
    "CL:0000071": "blood vessel endothelial cell",
    "CL:0002138": "endothelial cell of lymphatic vessel",
    "CL:0000057": "fibroblast",
    "CL:0000669": "pericyte",
    "CL:0000359": "vascular associated smooth muscle cell",
}
"""What every tissue with vessels has, whether a source lists it or not."""


def terms_of_tissue(tissue: str) -> frozenset[str]:
    """Cell Ontology terms that occur in a human tissue.

    A term occurs in a tissue when it, or a term below it, is listed there: with markers in the Cell Marker Accordion
    (from two sources, or five markers), or as a reference profile of the CellProfileLibrary. So ``"epithelial cell"``
    occurs in the pancreas because ``"pancreatic acinar cell"`` does. ``"blood"`` lists hematopoietic cells alone.

    Blood runs through every tissue, and a dissociated piece of it holds what the blood carried there: the leukocytes,
    erythrocytes and platelets of blood occur in each tissue. Every tissue but the fluids also has immune cells that
    stay (macrophages, mast cells, plasma cells, mature dendritic cells, innate lymphoid cells), vessels and stroma
    (endothelial cells, pericytes, smooth muscle cells, fibroblasts). Precursors in blood, such as hematopoietic stem
    cells, occur elsewhere only where they are listed.

    Parameters
    ----------
    tissue
        Name of a tissue, such as ``"blood"``, ``"bone marrow"`` or ``"gut"``. Case, hyphens, a plural and one wrong
        letter do not matter.

    Returns
    -------
    Ids. The parts of the intestine, of the brain and of the eye are not told apart.

    Raises
    ------
    ValueError
        When the tissue is unknown; the error names the nearest ones and all.
    """
    return _terms_by_tissue()[_find_tissue(tissue)]


def known_tissues() -> list[str]:
    """Names of the tissues, without their synonyms."""
    return sorted(SYNONYMS)


def _find_tissue(tissue: str) -> str:
    # imported here, for its import is not free and most calls need no tissue
    from rapidfuzz import fuzz, process
    from rapidfuzz.distance import OSA

    if not isinstance(tissue, str):
        msg = f"tissue is {tissue!r}; expected the name of one tissue, such as 'blood'."
        raise TypeError(msg)
    name_of = {_key(name): known for known, others in SYNONYMS.items() for name in (known, *others)}
    asked = _key(tissue)
    if asked in name_of:
        return name_of[asked]
    # in a short name one letter is too much of it: "shin" is no skin
    typos = process.extract(asked, [n for n in name_of if len(n) > 5], scorer=OSA.distance, score_cutoff=1, limit=None)
    meant = {name_of[name] for name, _, _ in typos}
    if len(meant) == 1:
        return meant.pop()
    near = process.extract(asked, sorted(name_of), scorer=fuzz.WRatio, score_cutoff=70, limit=5)
    nearest = list(dict.fromkeys(name_of[name] for name, _, _ in near))
    hint = f" The nearest: {', '.join(map(repr, nearest))}." if nearest else ""
    msg = (
        f"tissue is {tissue!r}, which is not known.{hint} Expected one of: {', '.join(known_tissues())}; or "
        "tissue=None for all."
    )
    raise ValueError(msg)


@cache
def _terms_by_tissue() -> dict[str, frozenset[str]]:
    with files("bioverse_sc.ontology").joinpath("tissues.tsv.gz").open("rb") as file:
        table = pd.read_csv(file, sep="\t", compression="gzip")
    ontology = cell_ontology()
    listed = {str(tissue): set(group) for tissue, group in table.groupby("tissue")["id"]}
    circulating = {term for term in listed["blood"] if not ontology.ancestors(term).isdisjoint(CIRCULATING)}
    terms = {}
    for tissue in SYNONYMS:
        occurring = set(listed[tissue])
        if tissue != "blood":
            occurring |= circulating
        if tissue not in FLUIDS:
            occurring |= RESIDENT.keys()
        terms[tissue] = frozenset().union(*map(ontology.ancestors, occurring))
    return terms
