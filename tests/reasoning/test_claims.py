import time

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from bioverse_sc.ontology import cell_ontology
from bioverse_sc.reasoning import Claim, check_reasoning, claims_of, known_symbols, supported_counts

KNOWN = known_symbols([])


def said(text, **kwargs):
    """Genes that a text says are present, and those that it says are absent."""
    claims = claims_of(text, KNOWN, **kwargs)
    return [c.gene for c in claims if not c.absent], [c.gene for c in claims if c.absent]


# --- what a text claims ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "present", "absent"),
    [
        ("It expresses CD3E, CD3D and HLA-DRA.", ["CD3E", "CD3D", "HLA-DRA"], []),
        ("It lacks CD19, MS4A1 and CD79A.", [], ["CD19", "MS4A1", "CD79A"]),
        ("CD3E without CD19.", ["CD3E"], ["CD19"]),
        (
            "CD3E is another. Missing: CD19, MS4A1 of the B cell and LYZ of the monocyte, which is against both. CD2 "
            "fits.",
            ["CD3E", "CD2"],
            ["CD19", "MS4A1", "LYZ"],
        ),
        ("No CD19 or MS4A1 rules out a B cell. CD3E is high.", ["CD3E"], ["CD19", "MS4A1"]),
        ("no CD19; CD3E", ["CD3E"], ["CD19"]),
        ("Lacking CD19, it expresses CD3E.", ["CD3E"], ["CD19"]),
        ("It lacks B cell markers: CD19, MS4A1.", [], ["CD19", "MS4A1"]),
        ("Negative for CD19 but positive for CD3E.", ["CD3E"], ["CD19"]),
        ("It lacks CD19, ruling out B cells, and has CD3E.", ["CD3E"], ["CD19"]),
        ("It does not express CD19, while CD3E is high.", ["CD3E"], ["CD19"]),
        ("It doesn't clearly express CD19.", [], ["CD19"]),
        ("Neither CD19 nor MS4A1 is found with CD3E.", ["CD3E"], ["CD19", "MS4A1"]),
        ("Absent: CD19, MS4A1.", [], ["CD19", "MS4A1"]),
        ("The absence of CD19 supports it.", [], ["CD19"]),
        ("CD19 and MS4A1 are absent.", [], ["CD19", "MS4A1"]),
        ("CD3E is expressed and CD19 is not detected.", ["CD3E"], ["CD19"]),
        ("It expresses CD3E, CD8A is also absent.", [], ["CD3E", "CD8A"]),
        ("CD8A-negative, CD4-positive and BEST4+ cells", [], []),
        ("A no-man's land of CD3E.", ["CD3E"], []),
        ("AC012.3 and NKX2-1. CD19.", ["NKX2-1", "CD19"], []),
        ("CD3E, CD3E and CD3E.", ["CD3E"], []),
        ("It expresses CD19. It lacks CD19.", ["CD19"], ["CD19"]),
        ("This is a T cell, not a B cell: CD3E.", ["CD3E"], []),
        ("cd19 and CD190", [], []),
        ("", [], []),
    ],
)
def test_genes_that_a_text_says_are_present_or_absent(text, present, absent):
    assert said(text) == (present, absent)


@pytest.mark.parametrize(
    ("text", "markers"),
    [
        ("CD3E is a marker of the T cell. IL7R is another. LTB is high.", {"CD3E", "IL7R"}),
        ("It expresses CD3E and CD3D, which mark T cells.", {"CD3E", "CD3D"}),
        ("CD3E marks the wider type T cell; LTB is high", {"CD3E"}),
        ("Markers of T cells: CD3E, CD3D", {"CD3E", "CD3D"}),
        ("None of its genes is a known marker; CD3E and LTB are high.", set()),
    ],
)
def test_genes_that_a_text_calls_markers(text, markers):
    assert {c.gene for c in claims_of(text, KNOWN) if c.marker} == markers


def test_the_label_is_no_claim():
    label = "VIP GABAergic cortical interneuron"
    text = f"GAD1 is a marker of the {label}."
    assert claims_of(text, KNOWN) == [Claim("GAD1", marker=True), Claim("VIP", marker=True)]
    assert claims_of(text, KNOWN, label=label) == [Claim("GAD1", marker=True)]


def test_no_symbol_is_read_as_a_word_of_the_rule():
    """Every approved symbol, alone in a sentence, is a claim that it is present."""
    assert [s for s in sorted(KNOWN) if " " not in s and said(f"{s} is high.") != ([s], []) and s in s.split()][
        :5
    ] == []


# --- the rule --------------------------------------------------------------------------------------------------------

GENES = ["CD3E", "MS4A1", "CD74", "PRR13"]


def test_marker_table_as_the_tests_below_use_it():
    ontology = cell_ontology()
    of = {gene: ontology.names[term] for gene, term in ontology.known_markers("CL:0000236").items()}
    assert (of["MS4A1"], of["CD74"], of["CD3E"]) == ("B cell", "B cell", "lymphocyte")
    assert not {"PRR13", "INS"} & set(of)
    assert "INS" in {gene for genes in ontology.markers.values() for gene in genes}
    assert "PRR13" not in {gene for genes in ontology.markers.values() for gene in genes}


@pytest.mark.parametrize(
    ("text", "supported"),
    [
        ("MS4A1 is a marker.", True),
        ("MS4A1 is high.", True),
        ("PRR13 is high.", True),  # expressed, and nobody called it a marker
        ("PRR13 is a marker.", False),
        ("CD74 is high.", False),  # not expressed
        ("It lacks MS4A1.", False),
        ("It lacks CD3E.", True),  # a marker of lymphocytes, which B cells need not have
        ("It lacks PRR13.", False),
        ("It lacks CD74.", False),  # a marker of B cells that is not there does not speak for one
        ("INS is high.", False),  # not measured
        ("It lacks INS.", False),
    ],
)
def test_a_claim_is_supported_by_the_cell_and_the_table(text, supported):
    claims = check_reasoning([text], ["B cell"], csr_matrix([[False, True, False, True]]), GENES)
    assert claims["supported"].tolist() == [supported]


def test_columns_of_the_table():
    cell = csr_matrix([[1.0, 0.0, 1.0, 1.0]])
    claims = check_reasoning(["MS4A1 marks it. It lacks CD3E; PRR13 is high; INS"], ["B cell"], cell, GENES)
    assert claims["gene"].tolist() == ["MS4A1", "CD3E", "PRR13", "INS"]
    assert claims["claim"].tolist() == ["present", "absent", "present", "present"]
    assert claims["called_marker"].tolist() == [True, False, False, False]
    np.testing.assert_array_equal(claims["expressed"], np.float32([0, 1, 1, np.nan]))
    assert claims["marker_of"].tolist() == ["label", "wider type", "none", "another type"]
    assert claims["supported"].tolist() == [False, False, True, False]
    assert (claims["label"] == "B cell").all()


def test_a_gene_goes_by_any_of_its_names():
    """MS4A1 under its old name in the data, and under its approved one in the text."""
    claims = check_reasoning(
        ["MS4A1 is a marker. MS4A2 is high."], ["B cell"], csr_matrix([[1.0, 1.0]]), ["CD20", "PRR13"]
    )
    assert claims["supported"].tolist() == [True, False]


def test_a_group_expresses_what_a_tenth_of_it_does():
    texts = ["MS4A1 is a marker. It lacks CD3E."] * 3
    shares = np.array([[0.09, 0.5, 0, 0], [0.1, 0.1, 0, 0], [0.0, 0.09, 0, 0]])
    claims = check_reasoning(texts, ["B cell"] * 3, shares, GENES)
    assert claims["supported"].tolist() == [True, True, True, False, False, True]
    np.testing.assert_allclose(claims["expressed"], [0.5, 0.09, 0.1, 0.1, 0.09, 0.0])


def test_for_a_label_without_a_term_expression_decides():
    cell = csr_matrix([[1.0, 0.0, 0.0, 0.0]])
    claims = check_reasoning(["CD3E is a marker. MS4A1 is another. It lacks CD74."], ["my cell"], cell, GENES)
    assert claims["supported"].tolist() == [True, False, True]


def test_terms_may_be_given_beside_labels_in_other_words():
    cell = csr_matrix([[0.0, 1.0, 0.0, 1.0]])
    claims = check_reasoning(["PRR13 and MS4A1 mark it."], ["my cell"], cell, GENES, terms=["CL:0000236"])
    assert claims["supported"].tolist() == [False, True]


def test_counts_of_each_text():
    texts = ["MS4A1 is a marker. CD3E is another. It lacks CD3E.", "", "PRR13 is high."]
    cells = csr_matrix([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    claims = check_reasoning(texts, ["B cell", "T cell", "B cell"], cells, GENES)
    supported, unsupported = supported_counts(claims, 3)
    assert supported.tolist() == [2, 0, 0]
    assert unsupported.tolist() == [1, 0, 1]
    none = check_reasoning(["", ""], ["B cell", "unknown"], cells[:2], GENES)
    assert none.columns.tolist() == claims.columns.tolist()
    assert [c.tolist() for c in supported_counts(none, 2)] == [[0, 0], [0, 0]]


def test_ten_thousand_texts_are_checked_in_seconds():
    genes = sorted(KNOWN)[:7000]
    rng = np.random.default_rng(0)
    named = np.array(genes)[rng.integers(7000, size=(10_000, 5))]
    texts = [f"{a}, {b} and {c} are markers of the B cell. It lacks {d} and {e}." for a, b, c, d, e in named]
    expressed = csr_matrix(rng.random((10_000, 700)) < 0.2)
    began = time.process_time()
    claims = check_reasoning(texts, ["B cell"] * 10_000, expressed, genes[:700], known=KNOWN)
    assert time.process_time() - began < 20
    assert len(claims) > 45_000


# --- on AnnData ------------------------------------------------------------------------------------------------------
