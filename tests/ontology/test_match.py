import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioverse_sc.ontology import LINEAGES, LabelMatch, cell_ontology, match_labels
from bioverse_sc.ontology._match import IN_USE


def name_of(label):
    term = match_labels([label])[label].term
    return term and cell_ontology().names[term]


def candidates_of(label):
    match = match_labels([label])[label]
    assert match.term is None
    return [cell_ontology().names[term] for term in match.candidates]


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("CD14+ Mono", "CD14-positive monocyte"),
        ("Mono_CD14", "CD14-positive monocyte"),
        ("CD14-positive monocytes", "CD14-positive monocyte"),
        ("FCGR3A+ Mono", "non-classical monocyte"),
        ("CD16 Mono", "non-classical monocyte"),
        ("NK", "natural killer cell"),
        ("Natural Killer cells", "natural killer cell"),
        ("B cells", "B cell"),
        ("B", "B cell"),
        ("T", "T cell"),
        ("T-lymphocytes", "T cell"),
        ("CD4 T", "CD4-positive, alpha-beta T cell"),
        ("T_CD4", "CD4-positive, alpha-beta T cell"),
        ("CD8+ T cells", "CD8-positive, alpha-beta T cell"),
        ("Memory CD4 T", "CD4-positive, alpha-beta memory T cell"),
        ("CD8 Naive", "naive thymus-derived CD8-positive, alpha-beta T cell"),
        ("CD4 TCM", "central memory CD4-positive, alpha-beta T cell"),
        ("CD4+CD25+ Treg", "CD4-positive, CD25-positive, alpha-beta regulatory T cell"),
        ("Tregs", "regulatory T cell"),
        ("γδ T cells", "gamma-delta T cell"),
        ("MAIT", "mucosal invariant T cell"),
        ("NK_CD56bright", "CD16-negative, CD56-bright natural killer cell, human"),
        ("pDC", "plasmacytoid dendritic cell"),
        ("DCs", "dendritic cell"),
        ("Platelet", "platelet"),
        ("MKs", "megakaryocyte"),
        ("ILC2s", "group 2 innate lymphoid cell"),
        ("alpha cells", "pancreatic A cell"),
        ("beta", "type B pancreatic cell"),
        ("Endothelial", "endothelial cell"),
        ("Haematopoietic stem cells", "hematopoietic stem cell"),
        ("Type II pneumocytes", "pulmonary alveolar type 2 cell"),
        ("CL:0000236", "B cell"),
        # one letter off
        ("hepatocites", "hepatocyte"),
        ("plasmacitoid dendritic cell", "plasmacytoid dendritic cell"),
        ("erythroblats", "erythroblast"),
        # near, and yet another cell
        ("NK T cell", "mature NK T cell"),
        ("Natural killer T cells", "mature NK T cell"),
        ("pre-B", "precursor B cell"),
        ("pro-B", "pro-B cell"),
        ("osteoblast", "osteoblast"),
        ("osteoclast", "osteoclast"),
        ("erythrocytes", "erythrocyte"),
        ("B-1 cells", "B-1 B cell"),
    ],
)
def test_words_of_users_are_terms(label, name):
    assert name_of(label) == name


NO_NAMES = """
? | glorp cells | foo | cluster 1 | cluster B | Unknown | doublets | low quality | A | C | 7 | L
T/NK | T_NK | T, NK | T & NK | T + B | B or T cell | non-B | not T cells | other T | B-ALL | CD3- | CD4- T
T cell leukemia | glioma | ependymoma | oligodendroglioma | melanoma | lymphoma | branchial cells | memory
B cell 2 | T cell 1 | NK 1 | Mono 2
Fibroblasts ADAMDEC1 | NK-like cells | T Cell GZMK | activated stellate | obsolete cell line cell
"""


@pytest.mark.parametrize("label", ["", " ", *re.split(r" \| |\n", NO_NAMES.strip())])
def test_what_is_no_name_of_a_cell_stays_text(label):
    assert match_labels([label])[label] == LabelMatch(None, ())


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("HSC", {"hematopoietic stem cell", "hepatic stellate cell"}),
        ("DC2", {"plasmacytoid dendritic cell", "CD1c-positive myeloid dendritic cell"}),
        ("stellate cells", {"hepatic stellate cell", "pancreatic stellate cell"}),
        ("osteoxlast", {"osteoblast", "osteoclast"}),
    ],
)
def test_an_ambiguous_label_names_what_it_may_mean(label, names):
    assert set(candidates_of(label)) == names


def test_every_name_and_id_of_the_ontology_is_its_own_term():
    ontology = cell_ontology()
    current = {term: name for term, name in ontology.names.items() if not name.startswith("obsolete ")}
    for labels in (current.values(), current.keys()):
        matches = match_labels(labels)
        assert [label for term, label in zip(current, labels, strict=True) if matches[label].term != term] == []


def test_exact_synonyms_are_their_terms_but_for_those_that_others_use_otherwise():
    ontology = cell_ontology()
    synonyms = [(s, term) for term, others in ontology.synonyms.items() for s in others]
    synonyms = [(s, t) for s, t in synonyms if not ontology.names[t].startswith("obsolete ")]
    matches = match_labels(s for s, _ in synonyms)
    changed = [s for s, term in synonyms if matches[s].term != term]
    assert {"DC2", "alpha cell", "CD16+ monocyte"} <= set(changed)
    assert len(changed) < 15


def test_the_terms_written_in_the_code_are_real():
    ontology = cell_ontology()
    assert {term: ontology.names[term] for term in LINEAGES} == LINEAGES
    assert {term for terms in IN_USE.values() for term in terms} <= ontology.names.keys()


def test_no_obsolete_term_is_matched():
    labels = [name.removeprefix("obsolete ") for name in cell_ontology().names.values() if name.startswith("obsolete ")]
    found = [name_of(label) or "" for label in labels]
    assert not any(name.startswith("obsolete ") for name in found)


def test_matches_do_not_depend_on_the_other_labels_nor_on_hashes():
    labels = ["osteoxlast", "HSC", "DC2", "hepatocites", "B cells"]
    assert match_labels(labels[::-1]) == match_labels(labels) == {k: match_labels([k])[k] for k in labels}
    code = f"from bioverse_sc.ontology import match_labels; print(match_labels({labels!r}))"
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{match_labels(labels)}\n"}


@settings(deadline=None)
@given(st.text(max_size=20))
def test_any_text_can_be_a_label(label):
    match = match_labels([label])[label]
    assert match.term is None or match.candidates == ()
