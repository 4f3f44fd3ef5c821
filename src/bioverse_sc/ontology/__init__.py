"""Cell Ontology terms, their ancestors and synonyms, and marker genes with evidence.

Sources: Cell Ontology 2024-08-16 (CC BY 4.0) and the Cell Marker Accordion (MIT), in compact form; see
``recipes/knowledge``.
"""

from bioverse_sc.ontology._cell_ontology import UNKNOWN, CellOntology, cell_ontology

__all__ = ["UNKNOWN", "CellOntology", "cell_ontology"]
