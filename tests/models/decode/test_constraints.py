import re
from functools import partial

import numpy as np
import pytest
import torch

from bioverse_sc.facts import Absence
from bioverse_sc.models import Decoding, ShownGenes, ShownTypes, TypeNames, generate_text, reasoning_prompt
from bioverse_sc.models._inject import SLOT
from bioverse_sc.models.decode._constraints import GenesLeft, NamesLeft
from bioverse_sc.reasoning import Case
from bioverse_sc.reasoning._cases import ABSENCE_WORDS
from tests.tiny import make_vectors

SYMBOLS = ["CD3D", "CD3E", "MS4A1", "CD79A", "NKG7", "GNLY", "LYZ", "INS", "COL1A1", "PPBP"]


def shown_by_hand(model, prompt, soft, shown, n):
    """The likeliest token, again and again, that is no symbol, or one that is shown and not yet written.

    Where a sentence or a part of one begins and a symbol is twenty times as likely as any word, it is one of these, or
    the end of a sentence is the end.
    """
    tokenizer = model.tokenizer
    spelled = {symbol: tokenizer.encode(f" {symbol}", add_special_tokens=False) for symbol in SYMBOLS}
    assert all(len(ids) == 1 for ids in spelled.values())
    closed = {spelled[symbol][0] for symbol in SYMBOLS if symbol not in shown}
    rows = torch.stack(
        [soft[0] if i == SLOT else model.embeddings(torch.tensor(i)) for i in model.tokenize(prompt).ids]
    )
    written = []
    for _ in range(n):
        with torch.inference_mode():
            logits = model.language_model(inputs_embeds=rows[None], use_cache=False).logits
        scores = logits[0, -1].clone()
        symbols = [ids[0] for ids in spelled.values()]
        left = [i for i in symbols if i not in closed]
        before = tokenizer.decode(written[-1:])
        words = [i for i in range(len(scores)) if i not in symbols]
        wanted = before in ("", ".", ";", " and") and scores[symbols].max() > scores[words].max() + np.log(20)
        scores[list(closed)] = -torch.inf
        if wanted and not left and before == ".":
            break
        token = left[int(scores[left].argmax())] if wanted and left else int(scores.argmax())
        if token == tokenizer.eos_token_id:
            break
        written.append(token)
        closed |= {token} & {ids[0] for ids in spelled.values()}
        rows = torch.cat([rows, model.embeddings(torch.tensor([token]))])
    return tokenizer.decode(written).strip()


def test_shown_genes_alone_are_written_each_once(mini):
    shown = [["CD3D", "CD3E"], ["MS4A1", "CD79A", "LYZ"], ["INS"], []]
    labels = ["T cell", "naive B cell", "type B pancreatic cell", "platelet"]
    prompts = [
        reasoning_prompt(label, genes, prompts=mini.config.prompts) for label, genes in zip(labels, shown, strict=True)
    ]
    vectors = torch.from_numpy(make_vectors(4, width=mini.config.projectors["rna"].in_width))
    with torch.inference_mode():
        soft = mini.project("rna", vectors)
    constraint = ShownGenes(mini, SYMBOLS, shown, [[]] * 4)
    before = constraint.closed.clone()
    written = generate_text(mini, prompts, soft, Decoding(max_new_tokens=40), constraint=constraint)
    assert torch.equal(constraint.closed, before), "a constraint serves again"
    assert written == [shown_by_hand(mini, p, s, g, 40) for p, s, g in zip(prompts, soft, shown, strict=True)]
    assert len({len(text) for text in written}) > 1
    drawn = generate_text(mini, prompts, soft, Decoding(40, temperature=1.5), constraint=constraint)
    for text, genes in zip(drawn, shown, strict=True):
        words = [word.strip(".,") for word in text.split()]
        assert {word for word in words if word in SYMBOLS} <= set(genes)


LACKING = [
    ("T cell", ("CD3D", "CD3E"), ("MS4A1", "CD79A"), "B cell"),
    ("CD14-positive monocyte", ("LYZ",), ("MS4A1", "CD79A"), "naive B cell"),
    ("naive B cell", ("MS4A1", "CD79A"), ("CD3D", "CD3E"), "T cell"),
    ("type B pancreatic cell", ("INS",), ("LYZ", "COL1A1"), "fibroblast"),
]
"""Labels with their markers, and genes that a cell of another type would show."""


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_missing_genes_are_written_as_missing_and_nowhere_else(temperature, mini):
    cases = [
        Case(label, markers=markers, absences=tuple(Absence(g, other, 0.9) for g in missing), probability=0.9, draw=i)
        for label, markers, missing, other in LACKING
        for i in range(16)
    ]
    prompts = [reasoning_prompt(c.label, c.genes, parts=c.parts, prompts=mini.config.prompts) for c in cases]
    vectors = make_vectors(len(cases), width=mini.config.projectors["rna"].in_width)
    with torch.inference_mode():
        soft = mini.project("rna", torch.from_numpy(vectors))
    shown, missing = [c.genes for c in cases], [c.missing for c in cases]
    constraint = ShownGenes(mini, SYMBOLS, shown, missing, absence_words=ABSENCE_WORDS)
    texts = generate_text(mini, prompts, soft, Decoding(90, temperature=temperature), constraint=constraint)
    n_missing = 0
    for case, text in zip(cases, texts, strict=True):
        for sentence in re.split(r"\.(?!\d)", text):
            before, word, after = re.split(rf"(\b(?:{'|'.join(ABSENCE_WORDS)})\b|$)", sentence, maxsplit=1)
            named = [set(re.findall(r"\w+", place)) & set(SYMBOLS) for place in (before, after)]
            assert named[0] <= set(case.genes)
            assert named[1] <= set(case.missing)
            assert named[1] or not word, "a missing gene comes after a word of absence"
            n_missing += len(named[1])
    assert n_missing > 4
    # without a word of absence they may be written anywhere
    free = ShownGenes(mini, SYMBOLS, [["CD3D"]], [["MS4A1"]])
    assert torch.equal(free.closed[0], free.closed[1])
    assert free.closed[0].sum() == len(SYMBOLS) - 2


def unwanted(pausing):
    """Scores of genes of answers that want none."""
    return torch.full((int(pausing.sum()), len(SYMBOLS)), -1.0)


@pytest.fixture
def opened_after(mini):
    """Makes what may be written after texts about a T cell that lacks MS4A1."""
    encode = partial(mini.tokenizer.encode, add_special_tokens=False)

    def opened_after(text, missing=("MS4A1",)):
        genes = ShownGenes(mini, SYMBOLS, [["CD3D", "CD3E"]], [missing], again=[["CD3D"]], absence_words=ABSENCE_WORDS)
        left = GenesLeft(genes, unwanted)
        for token in encode(text):
            left.wrote(torch.tensor([token]))
        scores = left.close(torch.zeros(1, len(left.is_gene)))
        return {mini.tokenizer.decode([i]).strip() for i in torch.nonzero(scores[0] == 0).flatten().tolist()}

    return opened_after


def test_a_missing_gene_is_named_right_after_a_word_of_absence_alone(opened_after):
    genes = set(SYMBOLS)
    assert opened_after(" It expresses") & genes == {"CD3D", "CD3E"}
    assert opened_after(" It lacks") == {"MS4A1"}
    assert opened_after(" It is without") == {"MS4A1"}
    assert "is" in opened_after(" Also missing")
    assert opened_after(" Also missing is") == {"MS4A1"}
    assert "which" in opened_after(" It lacks MS4A1,")
    assert not opened_after(" It lacks MS4A1, which") & genes
    assert not {"lacks", "without"} & opened_after(" It lacks MS4A1. It"), "none is left"
    assert {"lacks", "without"} <= opened_after(" It")
    assert not {"lacks", "without"} & opened_after(" It", missing=())


def test_the_point_of_a_number_ends_no_sentence(opened_after):
    said = " It lacks MS4A1, which a B cell would have with 0"
    genes = set(SYMBOLS)
    assert not opened_after(f"{said}.") & genes
    assert not opened_after(f"{said}.90") & genes
    assert opened_after(f"{said}.90.") & genes == {"CD3D", "CD3E"}


def test_a_gene_that_may_come_again_comes_once_more_in_a_later_sentence(opened_after):
    genes = set(SYMBOLS)
    assert opened_after(" It expresses CD3D,") & genes == {"CD3E"}
    assert opened_after(" It expresses CD3D and CD3E.") & genes == {"CD3D"}
    assert opened_after(" It is high. It expresses CD3E and CD3D.") & genes == {"CD3D"}
    assert not opened_after(" It expresses CD3D and CD3E. CD3D has a role. It") & genes


def test_where_a_gene_is_wanted_one_that_is_left_is_named(mini):
    encode = partial(mini.tokenizer.encode, add_special_tokens=False)
    highest = []
    left = GenesLeft(
        ShownGenes(mini, SYMBOLS, [["CD3D"], ["CD3D"]], [[], []]),
        lambda pausing: torch.tensor(highest[: int(pausing.sum())])[:, None],
    )
    (gene,), (stop,), (of,), (high,) = encode(" CD3D"), encode("."), encode(" of"), encode(" high")
    both = torch.ones(2, dtype=torch.long)

    def opened(wanted):
        highest[:] = wanted
        found = left.close(torch.zeros(2, len(left.is_gene))) == 0
        return [set(torch.nonzero(row).flatten().tolist()) for row in found]

    named, free = opened([4.0, 2.0])
    assert named == {gene}
    assert {gene, of, high} <= free
    left.wrote(both * gene)
    assert not left.pausing.any()
    left.wrote(torch.tensor([stop, of]))
    ended, free = opened([4.0])
    assert ended == set(mini.end_ids), "none is left: the answer ends with the sentence"
    assert high in free
    assert gene not in free


NAIVE_CD4, NAIVE_CD8 = (f"naive thymus-derived {kind}-positive, alpha-beta T cell" for kind in ("CD4", "CD8"))


def test_a_name_of_a_shown_type_does_not_become_that_of_another(mini):
    encode = partial(mini.tokenizer.encode, add_special_tokens=False)
    genes = GenesLeft(ShownGenes(mini, SYMBOLS, [["CD3D"]], [["MS4A1"]], absence_words=["lacks"]), unwanted)
    names = TypeNames(mini, [NAIVE_CD4, NAIVE_CD8, "T cell", "B cell", "B cell, CD19-positive", "naive B cell"])
    of = names.of([ShownTypes(label=[NAIVE_CD4, "T cell"], lacking=["B cell"], others=[NAIVE_CD8])])
    assert not names.shown, "a constraint serves other prompts"
    left = NamesLeft(of, genes)

    def closed_after(text):
        for token in encode(text):
            genes.wrote(torch.tensor([token]))
            left.wrote(torch.tensor([token]))
        scores = left.close(torch.zeros(1, len(genes.is_gene)))
        return set(torch.nonzero(scores[0] < 0).flatten().tolist())

    (cd4,), (cd8,), (cell,), (comma,) = encode(" CD4-positive"), encode(" CD8-positive"), encode(" cell"), encode(",")
    derived, bee, tee = encode(" thymus-derived")[0], encode(" B")[0], encode(" T")[0]
    assert not closed_after(" CD3D is a marker of the")
    assert closed_after(" naive") == {bee}
    alone = torch.full((1, len(genes.is_gene)), -torch.inf)
    alone[0, bee] = 0
    assert torch.equal(left.close(alone.clone()), alone), "something can always be written"
    assert closed_after(" thymus-derived") == {cd8}
    assert not {cell, tee} & closed_after(" CD4-positive, alpha-beta")
    assert not closed_after(" T cell. Next")
    assert closed_after(" naive thymus-derived") == set(), "without a gene all that the prompt names may be written"
    assert closed_after(" cell. It lacks MS4A1 of the naive") == set(), "no type that lacks markers begins so"
    assert closed_after(" B") == set()
    assert comma not in closed_after(" cell"), "any word may follow a whole name"
    assert derived != cd4


def test_reasoning_about_a_type_names_no_look_alike(mini):
    genes = ("CCR7", "CD3D", "LEF1")
    cases = [Case(NAIVE_CD4, markers=genes, runner_up=(NAIVE_CD8, 0.3), probability=0.6, draw=i) for i in range(48)]
    prompts = [reasoning_prompt(c.label, c.genes, parts=c.parts, prompts=mini.config.prompts) for c in cases]
    with torch.inference_mode():
        soft = mini.project("rna", torch.from_numpy(make_vectors(48, width=mini.config.projectors["rna"].in_width)))
    symbols = [*SYMBOLS, "CCR7", "LEF1"]
    names = TypeNames(mini, [NAIVE_CD4, NAIVE_CD8]).of([ShownTypes([NAIVE_CD4], [], [NAIVE_CD8])] * 48)

    def marked(constraint):
        allowed = ShownGenes(mini, symbols, [genes] * 48, [[]] * 48, absence_words=ABSENCE_WORDS)
        decoding = Decoding(60, temperature=1.0)
        texts = generate_text(mini, prompts, soft, decoding, constraint=allowed, names=constraint)
        said = [re.split(r"\.(?!\d)", text)[0] for text in texts]
        # a type that stands before the genes is left to what holds the text to its prompt
        return {kind for kind in ("CD4", "CD8") for text in said if re.search(f"CCR7.*thymus-derived {kind}", text)}

    assert marked(None) == {"CD4", "CD8"}
    assert marked(names) == {"CD4"}
