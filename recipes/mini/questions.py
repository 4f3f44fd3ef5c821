"""What ``mini`` learns to say about proteins and molecules, and about several entities together."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import language

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pandas as pd

EC_CLASSES = {
    "1": "oxidoreductase",
    "2": "transferase",
    "3": "hydrolase",
    "4": "lyase",
    "5": "isomerase",
    "6": "ligase",
    "7": "translocase",
}
_INHIBITOR = re.compile(r"EC (\d+\.\d+\.\d+\.\d+)(?: [^.,]*?)? inhibitor")
_OPENING = re.compile(r"\.\s+(?=It |They |The |A |An |Used |Found )")

Turn = tuple[str, str]


def with_enzyme_class(table: pd.DataFrame, training: np.ndarray) -> pd.Series:
    """EC number of each protein; where it is missing, what the training proteins of the same name have most often."""
    known = table[training & table["ec"].notna().to_numpy()]
    of_product = known.groupby("product")["ec"].agg(lambda ec: ec.value_counts().index[0])
    return table["ec"].fillna(table["product"].map(of_product))


def protein_text(protein: Mapping[str, Any]) -> str:
    """What is said of a protein: its product, of some the gene and the organism, for an enzyme its EC number and class,
    and what it does."""
    product, gene, organism = protein["product"], protein["gene"], protein["organism"]
    if protein["named"]:
        product += (f" ({gene})" if gene else "") + (f", {organism}" if organism else "")
    return " ".join([f"{product}.", *_enzyme(protein["ec"]), *([protein["function"]] if protein["function"] else [])])


def _enzyme(ec: object) -> list[str]:
    """Which kind of enzyme it is, where it is one."""
    if not isinstance(ec, str) or ec[:1] not in EC_CLASSES:
        return []
    kind = EC_CLASSES[ec[0]]
    return [f"EC {ec}, {language.article(kind)} {kind}."]


def protein_turns(protein: Mapping[str, Any]) -> list[Turn]:
    """Questions about a protein."""
    turns = [("What is this protein?", f"{protein['product']}."), ("Where is it from?", f"From {protein['organism']}.")]
    turns += [("Which kind of enzyme is it?", answer) for answer in _enzyme(protein["ec"])]
    if protein["function"]:
        turns.append(("What does it do?", protein["function"]))
    return turns


def sentences(description: str) -> list[str]:
    """Sentences of a ChEBI description."""
    parts = _OPENING.split(description.strip().rstrip("."))
    return [f"{part.strip()}." for part in parts]


def molecule_turns(description: str) -> list[Turn]:
    """Questions about a molecule that its description answers."""
    first, *others = sentences(description)
    turns = [("What is this molecule?", first)]
    asked = {
        "It has a role as": "Which role does it have?",
        "It derives from": "What does it derive from?",
        "It is a ": "Which class does it belong to?",
        "It is an ": "Which class does it belong to?",
        "It is a conjugate": "What is it a conjugate of?",
    }
    for sentence in others:
        fitting = [opening for opening in asked if sentence.startswith(opening)]
        if fitting:
            turns.append((asked[max(fitting, key=len)], sentence))
    return turns


def inhibited(description: str) -> set[str]:
    """EC numbers of the enzymes that a molecule inhibits, by its description."""
    return set(_INHIBITOR.findall(description))


BINDING = (
    "Which of these proteins does this compound most likely bind, and why?",
    "Which of these proteins does this molecule bind?",
    "Which protein does the compound most likely inhibit?",
)


def binding_answer(position: int | None, product: str = "", ec: str = "") -> str:
    """Which of the proteins a molecule binds, and why; that nothing is known, when nothing is."""
    if position is None:
        return "No target of this molecule is known, so none of them can be named."
    return f"Protein {position}, the {product}, as the molecule is an EC {ec} inhibitor."


def pair_answer(cell: str, molecule: str) -> str:
    """What a cell and the molecule that it was treated with are."""
    return f"The cell is {language.article(cell)} {cell}. {molecule}"


PAIR = (
    "What are the cell and the molecule?",
    "Which cell was treated, and with what?",
    "Describe the cell and the compound.",
)


def pick(items: Sequence[str], rng: np.random.Generator) -> str:
    """Draw one."""
    return items[int(rng.integers(len(items)))]


def most_alike(text: str, others: Sequence[str]) -> str:
    """The first of the other texts that shares most words with a text; the text itself when there are none."""
    words = set(text.split())

    def shared(other: str) -> float:
        theirs = set(other.split())
        return len(words & theirs) / len(words | theirs)

    return max(others, key=shared) if others else text
