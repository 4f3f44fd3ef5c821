"""Proteins: what is known of each, and which are kept out of training."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from bioverse_sc.facts import Memory

if TYPE_CHECKING:
    from pathlib import Path

ALIKE = 0.65
"""Cosine of words of four residues from which two proteins lie on one side of the split: about nine of ten residues are
the same, as in UniRef90."""
COMMON_NAMES = {
    "Homo sapiens": "human",
    "Mus musculus": "mouse",
    "Rattus norvegicus": "rat",
    "Bos taurus": "cattle",
    "Sus scrofa": "pig",
    "Gallus gallus": "chicken",
    "Danio rerio": "zebrafish",
    "Saccharomyces cerevisiae": "baker's yeast",
}
OF_SOURCE = {
    "NCBI AMR": "bacteria that resist antibiotics or cause disease",
    "RefSeq Enterococcus": "Enterococcus",
    "RefSeq Escherichia": "Escherichia coli",
    "RefSeq Staphylococcus": "Staphylococcus",
    "Swiss-Prot Archaea": "archaea",
    "Swiss-Prot Mitochondria": "mitochondria",
    "Swiss-Prot Viruses": "a virus",
}
"""Where proteins are from whose organism is not said."""
LONGEST = 300
"""Letters of what is said of a function; a sentence more is left out."""
_SENTENCE = re.compile(r"(?<=[a-z0-9)\]])\. (?=[A-Z])")
_NO_FUNCTION = re.compile(r"[Ss]plic|transcript|variants|pseudogene|chromosom|exon|RefSeq")


@dataclass(frozen=True)
class Proteins:
    """Proteins with their product; ``training`` marks those that the recipe trains on, the others measure."""

    table: pd.DataFrame
    """``sequence``, ``product``, ``gene``, ``organism``, ``ec``, ``function``, and ``named``: whether the text
    names gene and organism; ``""`` where something is not known, but ``ec`` is missing."""
    training: np.ndarray


def read_proteins(shared: Path, *, held_out: float, seed: int) -> Proteins:
    """Read the proteins and keep a share out: of those of the first table at random, of the others by cluster."""
    first = pd.read_csv(shared / "data/proteins/protein_product.tsv.gz", sep="\t").drop_duplicates("sequence")
    # a stop inside is no protein
    first = first[~first["sequence"].str.rstrip("*").str.contains("*", regex=False)].reset_index(drop=True)
    training = np.random.default_rng(seed).random(len(first)) >= held_out
    first = first.assign(organism=first["source"].map(OF_SOURCE), function="", named=False)
    more = _swiss_prot(shared)
    more = more[~more["sequence"].isin(first["sequence"].str.rstrip("*"))].reset_index(drop=True)
    out = _by_cluster(more["sequence"], first["sequence"][~training], held_out=held_out, seed=seed)
    columns = ["sequence", "product", "gene", "organism", "ec", "function", "named"]
    table = pd.concat([first[columns], more.assign(ec=None, named=True)[columns]], ignore_index=True)
    table["gene"] = table["gene"].fillna("")
    return Proteins(table, np.concatenate([training, ~out]))


def _swiss_prot(shared: Path) -> pd.DataFrame:
    """Human and eukaryote proteins: ``sequence``, ``product``, ``gene``, ``organism``, ``function``."""
    folder = shared / "data/proteins"
    secreted = pd.read_csv(folder / "swissprot_human_secreted.tsv.gz", sep="\t")
    surface = pd.read_csv(folder / "human_surface_proteins.tsv.gz", sep="\t").assign(organism="Homo sapiens")
    # the recommended name stands before the alternative ones
    surface["name"] = surface["name"].str.split(r" [(\[]", regex=True).str[0]
    mix = pd.read_csv(folder / "swissprot_eukaryote_mix.tsv.gz", sep="\t")
    columns = ["sequence", "name", "gene", "organism", "summary"]
    table = pd.concat([each.reindex(columns=columns) for each in (secreted, surface, mix)], ignore_index=True)
    table["organism"] = table["organism"].str.split(" (", regex=False).str[0].replace(COMMON_NAMES)
    summaries = pd.read_csv(shared / "data/knowledge/refseq_gene_summaries_human.tsv.gz", sep="\t")
    of_gene = summaries.drop_duplicates("symbol").set_index("symbol")["summary"]
    of_human = table["gene"].where(table["organism"] == "human").map(of_gene)
    table["function"] = [function_of(text) for text in table["summary"].fillna(of_human).fillna("")]
    table["gene"] = table["gene"].fillna("")
    organisms = table.groupby("sequence")["organism"].agg(lambda each: " and ".join(dict.fromkeys(each)))
    table = table.drop_duplicates("sequence", ignore_index=True)
    return table.assign(organism=table["sequence"].map(organisms)).rename(columns={"name": "product"})


def function_of(summary: str) -> str:
    """What a protein does: the first sentences of its gene's summary, said of the protein."""
    sentences = [each.rstrip(".") + "." for each in _SENTENCE.split(summary.strip()) if each]
    chosen: list[str] = []
    for sentence in map(_closed, sentences[:3]):
        if _NO_FUNCTION.search(sentence):
            continue
        if chosen and len(" ".join([*chosen, sentence])) > LONGEST:
            break
        chosen.append(_of_protein(sentence))
    return " ".join(chosen)


def _closed(sentence: str) -> str:
    """A sentence without references, and without a bracket that was cut off."""
    sentence = re.sub(r" \([^()]* et al\.?,[^()]*\)", "", sentence)
    return (
        sentence if sentence.count("(") == sentence.count(")") else sentence[: sentence.rfind(" (")].rstrip(".") + "."
    )


def _of_protein(sentence: str) -> str:
    for pattern, instead in (
        (
            r"^(This|The) gene encodes (?!multiple|several|two|three|both|different|alternative|proteins|members)",
            "It is ",
        ),
        (r"^(This gene encodes a protein|The protein encoded by this gene|The encoded protein) ", "It "),
        (r"^This gene\b", "Its gene"),
    ):
        sentence = re.sub(pattern, instead, sentence)
    return re.sub(r"^It is a protein (that|which) ", "It ", sentence)


def _by_cluster(sequences: pd.Series, held_out_already: pd.Series, *, held_out: float, seed: int) -> np.ndarray:
    """Which are kept out: whole clusters of alike ones, and what is like a sequence that is kept out already."""
    both = [*sequences, *held_out_already]
    index = {sequence: i for i, sequence in enumerate(both)}
    pairs = []
    nearest = Memory("protein", pd.DataFrame({"entity": both, "text": both})).nearest(both, 20)
    for i, near in enumerate(nearest):
        pairs += [(i, index[known.entity]) for known in near if known.similarity >= ALIKE]
    rows, columns = np.array(pairs).T
    graph = sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(both), len(both)))
    n_clusters, cluster = sparse.csgraph.connected_components(graph, directed=False)
    is_out = np.random.default_rng(seed).random(n_clusters) < held_out
    is_out[cluster[len(sequences) :]] = True
    return np.asarray(is_out[cluster[: len(sequences)]])
