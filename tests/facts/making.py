"""Small cells with known answers."""

import numpy as np
from scipy.sparse import csr_matrix

from bioverse_sc.facts import cell_facts

LABELS = ["plasma cell", "naive B cell", "CD14-positive monocyte", "CD4-positive, alpha-beta memory T cell", "unknown"]
GENES = (
    "ACTB CD3D CD3E IL7R CD4 CD8A MS4A1 CD79A TCL1A CD19 MZB1 JCHAIN XBP1 SDC1 TNFRSF17 CD14 LYZ S100A8 S100A9 FCN1 "
    "CST3 HBA1 HBA2 HBB MT-CO1 MKI67 TOP2A CDK1 BIRC5 TYMS ISG15 IFI6 IFIT1 IFIT2 IFIT3 MX1 HSPA1A FOS JUN EPCAM"
).split()


def cells_of(counts, labels, probabilities, *, share=None, logged=False, columns=None, genes=GENES):
    """Facts of cells from counts by gene; ``share`` makes them groups."""
    matrix = csr_matrix([[row.get(gene, 0) for gene in genes] for row in counts], dtype=np.float64)
    expressed = csr_matrix((matrix > 0).astype(np.float32))
    if share is not None:
        expressed = csr_matrix([[row.get(gene, 0) for gene in genes] for row in share], dtype=np.float32)
    table = np.array([[row.get(label, 0) for label in LABELS] for row in probabilities])
    return cell_facts(matrix, expressed, genes, LABELS, labels, table, logged=logged, columns=columns)


def cell_of(counts, label="plasma cell", probability=0.98, **kwargs):
    """One cell, of 2,500 counts unless they are more."""
    others = kwargs.pop("others", {})
    rest = 2500 - sum(counts.values())
    counts = {"ACTB": max(rest, 1)} | counts
    return cells_of([counts], [label], [{label: probability} | others], **kwargs)[0]


PLASMA = {"MZB1": 12, "JCHAIN": 60, "XBP1": 5, "SDC1": 1}
MONOCYTE = {"CD14": 2, "LYZ": 20, "S100A8": 30, "S100A9": 25, "FCN1": 4, "CST3": 5}
T_CELL = {"CD3D": 2, "CD3E": 1, "IL7R": 3}


def texts(facts, topic=None):
    """Texts of facts of a topic, or of all."""
    return [fact.text for fact in facts if topic in (None, fact.topic)]
