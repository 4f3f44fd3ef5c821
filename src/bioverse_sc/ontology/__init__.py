"""Cell Ontology terms, their ancestors and synonyms, marker genes with evidence, and the tissues that cells occur in.

Labels in a user's own words are matched to terms, and a label that is not certain backs off to a term above it.

Sources: Cell Ontology 2024-08-16 (CC BY 4.0), the Cell Marker Accordion (MIT) and the CellProfileLibrary (CC BY 4.0),
in compact form; see ``recipes/knowledge``.
"""

from bioverse_sc.ontology._back_off import LINEAGES, back_off, lineage_terms, runner_up
from bioverse_sc.ontology._cell_ontology import UNKNOWN, CellOntology, cell_ontology
from bioverse_sc.ontology._gene_names import ENSEMBL, approved_symbol, gene_table
from bioverse_sc.ontology._label_set import means_unknown, nearest_labels
from bioverse_sc.ontology._levels import coarse_probabilities
from bioverse_sc.ontology._match import LabelMatch, match_labels
from bioverse_sc.ontology._meanings import Meaning, meanings_of
from bioverse_sc.ontology._tissues import known_tissues, terms_of_tissue

__all__ = [
    "ENSEMBL",
    "LINEAGES",
    "UNKNOWN",
    "CellOntology",
    "LabelMatch",
    "Meaning",
    "approved_symbol",
    "back_off",
    "cell_ontology",
    "coarse_probabilities",
    "gene_table",
    "known_tissues",
    "lineage_terms",
    "match_labels",
    "meanings_of",
    "means_unknown",
    "nearest_labels",
    "runner_up",
    "terms_of_tissue",
]
