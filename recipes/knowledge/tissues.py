"""Make the table of cell types by tissue that ships in the package.

    python recipes/knowledge/tissues.py ../shared/data/knowledge

Sources: Cell Marker Accordion (MIT), its column Uberon_tissue; the tissues of the CellProfileLibrary (CC BY 4.0) with
the terms of ``recipes/mini/profile_labels.csv``. Writes ``tissues.tsv.gz`` beside ``bioverse_sc.ontology``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd
from build import PACKAGE, write

from bioverse_sc.ontology import cell_ontology

# The first pattern that occurs in the name of a part says which organ it is of. Parts of no organ (nerve, lymphatic
# vessel, "immune system") are left out.
ORGANS = [
    ("lymph node", r"lymph node|subcapsular sinus"),
    ("spleen", r"spleen|splenic|periarterial lymphatic sheath|penicillar arteriole"),
    ("umbilical cord blood", r"^umbilical cord blood$"),
    # the Accordion gives "Peripheral blood" the id of the circumventricular organ
    ("blood", r"^(venous )?blood$|^blood (plasma|serum)$|^circumventricular organ$"),
    ("bone marrow", r"^bone marrow$"),
    ("cerebrospinal fluid", r"^cerebrospinal fluid$"),
    ("tonsil", r"tonsil"),
    ("thymus", r"thymus"),
    ("eye", r"retina|eye with brain"),
    ("lung", r"lung|pulmonary|alveol|bronch|visceral pleura|sputum"),
    ("liver", r"liver|hepatic|portal triad|biliary"),
    ("pancreas", r"pancrea"),
    (
        "kidney",
        r"kidney|renal|nephr|glomer|convoluted|straight tubule|proximal tubule|thin limb|collecting duct|macula densa",
    ),
    ("intestine", r"^enteric nervous system$"),
    ("spinal cord", r"spinal cord"),
    (
        "brain",
        r"brain|cortex|cerebell|hippocamp|hypothalamus|gyrus|choroid plexus|ganglionic eminence|caudate|temporal lobe"
        r"|ventricular zone|^white matter|pons|medulla oblongata|colliculus|meninx|^central nervous system$",
    ),
]
PROFILE_SETS = {
    "Adrenal": "adrenal gland",
    "Brain": "brain",
    "Bronchoalveolar_lavage_fluid_COVID19": "lung",
    "Cerebellum": "brain",
    "Cerebrum": "brain",
    "Colon": "intestine",
    "Covid_Airway_COVID19": "airway",
    "Decidua": "decidua",
    "Esophagus": "esophagus",
    "Eye": "eye",
    "Heart": "heart",
    "Ileum": "intestine",
    "ImmuneCensus": "bone marrow",
    "Immunodeficiency_Nasal_Swabs_COVID19": "airway",
    "Immunodeficiency_PBMCs_COVID19": "blood",
    "Intestine": "intestine",
    "Kidney": "kidney",
    "Liver": "liver",
    "Lung": "lung",
    "MGH_Broad_COVID19": "blood",
    "Muscle": "muscle",
    "PBMCs_COVID19": "blood",
    "Pancreas": "pancreas",
    "Placenta": "placenta",
    "Prostate": "prostate",
    "Rectum": "intestine",
    "Retina": "eye",
    "Skin": "skin",
    "Spleen": "spleen",
    "Stomach": "stomach",
    "Testis": "testis",
    "Thymus": "thymus",
}
# cells of blood alone; lists of markers in blood also name what sheds into it, or what the donors' disease is of
BLOOD_ALONE = {"blood", "umbilical cord blood"}
HEMATOPOIETIC = "CL:0000988"


def organ(part: str) -> str | None:
    """Organ of a part of the body."""
    return next((name for name, pattern in ORGANS if re.search(pattern, part)), None)


def of_markers(folder: Path) -> pd.DataFrame:
    """Terms with markers in a tissue from two sources, or five markers.

    One or two genes of one paper are often a slip.
    """
    raw = pd.read_csv(folder / "cellmarker_accordion_human.tsv.gz", sep="\t", low_memory=False)
    raw = raw[raw["marker_type"] == "positive"]
    raw = raw.assign(tissue=raw["Uberon_tissue"].map({part: organ(part) for part in raw["Uberon_tissue"].unique()}))
    counts = raw.groupby(["tissue", "CL_ID"]).agg(markers=("marker", "nunique"), sources=("resource", "nunique"))
    told = counts[(counts["markers"] >= 5) | (counts["sources"] >= 2)].reset_index()
    return told.rename(columns={"CL_ID": "id"})[["tissue", "id"]]


def of_profiles() -> pd.DataFrame:
    """Terms of the reference profiles by the tissue that they were measured in."""
    labels = pd.read_csv(Path(__file__).parents[1] / "mini/profile_labels.csv").dropna(subset=["cl_id"])
    tissue = labels["profile"].str.split("|").str[0].map(PROFILE_SETS)
    return pd.DataFrame({"tissue": tissue, "id": labels["cl_id"]}).dropna()


def main() -> None:
    ontology = cell_ontology()
    table = pd.concat([of_markers(Path(sys.argv[1])), of_profiles()]).drop_duplicates()
    real = table["id"].isin(ontology.names)
    in_blood = table["id"].map(lambda term: HEMATOPOIETIC in ontology.ancestors(term))
    table = table[real & (~table["tissue"].isin(BLOOD_ALONE) | in_blood)]
    write(table.sort_values(["tissue", "id"]), PACKAGE / "ontology/tissues.tsv.gz")
    print(table["tissue"].value_counts().to_string())


if __name__ == "__main__":
    main()
