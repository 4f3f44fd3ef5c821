"""What is known of a protein or a molecule: itself, or by what is near to it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from bioverse_sc._modality import modality_of
from bioverse_sc._optional import require
from bioverse_sc.encoders import bare_sequence
from bioverse_sc.facts._fact import Fact
from bioverse_sc.facts._words import brief

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bioverse_sc.facts._memory import Known

    Closeness = Literal["same", "related", "distant", "unknown"]

DISTANT = {"letters": 0.1, "structure": 0.4}
"""Similarity from which the nearest known one tells something; below it the answer is a refusal.

By ``benchmarks/nearest.py`` (those that are held out, and human proteins and molecules each without itself), the
nearest has half of the words of a protein's name in 3 to 11 % below 0.03, 15 to 19 % up to 0.05, 24 to 51 % up to
0.075, 52 to 64 % up to 0.1, and 50 to 90 % from there to 0.2. Of molecules it has half of the words of the classes in
0 to 18 % below 0.4 and in 24 to 48 % from there to 0.7."""
RELATED = {"letters": 0.2, "structure": 0.7}
"""Similarity from which it probably is a relative: 85 to 100 % of proteins between 0.2 and 0.3, and above, by the bin,
67 to 98 % (82 to 98 % in bins of more than ten); 49 to 68 % of molecules.

The very name is right of at most 77 % of proteins at any similarity, of human ones of 10 %, and the role of 38 to 60 %
of molecules above 0.7: neither is ever concluded."""
MOST_LETTERS = 320
"""Of what is told of a known one; a sentence more is left out."""
SHOWN = 3
"""Near ones that are told."""
_INHIBITS = re.compile(r"EC (\d+\.\d+\.\d+\.\d+)(?: [^.,]*?)? inhibitor")
_OPENING = re.compile(r"^The molecule is ")
_SENTENCE_END = re.compile(r"\.(?=\s|$)")


def closeness(mod: str, nearest: Sequence[Known]) -> Closeness:
    """Say what the nearest known one tells: it is the same, a relative, a distant one at most, or nothing.

    Parameters
    ----------
    mod
        Modality, such as ``"protein"``.
    nearest
        What :meth:`Memory.nearest` gives for one entity.
    """
    kind = modality_of(mod).similarity
    if not nearest or nearest[0].similarity < DISTANT[kind]:
        return "unknown"
    if nearest[0].is_same:
        return "same"
    return "related" if nearest[0].similarity >= RELATED[kind] else "distant"


def short_name(known: Known) -> str:
    """What a known entity is called: its name with gene and organism, or the first sentence of its text.

    Parameters
    ----------
    known
        The entity.
    """
    if known.name and not known.text.startswith(known.name):
        return known.name
    return _OPENING.sub("", _SENTENCE_END.split(known.text, maxsplit=1)[0])


def nothing_near(mod: str, nearest: Sequence[Known]) -> str:
    """Say that an entity cannot be told, and how near the nearest known one is.

    Parameters
    ----------
    mod
        Modality, such as ``"protein"``.
    nearest
        What :meth:`Memory.nearest` gives for it.
    """
    similarity = nearest[0].similarity if nearest else 0.0
    noun = modality_of(mod).noun
    return f"Nothing known is near this {noun} (nearest similarity {similarity:.2f}), so it cannot be told what it is."


def entity_facts(mod: str, text: str, nearest: Sequence[Known] | None, *, name: str = "Protein") -> list[Fact]:
    """Tell what is known of a protein or a molecule, and what may be concluded from what is near to it.

    Parameters
    ----------
    mod
        Modality, such as ``"protein"``.
    text
        Its sequence or SMILES.
    nearest
        What :meth:`Memory.nearest` gives for it; ``None`` where it was not looked up.
    name
        What the prompt calls it, such as ``"Protein 1"``.
    """
    facts = _properties(mod, text, name)
    if nearest is None:
        return facts
    close = closeness(mod, nearest)
    others = [known for known in nearest if not known.is_same][:SHOWN]
    if close == "same":
        facts += _identity(nearest[0], name)
    facts += _near(mod, others, name, is_known=close == "same")
    if mod == "molecule" and close == "related" and _is_stereoisomer(text, nearest[0].entity):
        concluded = f"{name} is the following one or a stereoisomer of it: {short_name(nearest[0])}."
        return [*facts, Fact(concluded, "judgment", name)]
    return [*facts, _judgment(mod, nearest, name, close)]


def _properties(mod: str, text: str, name: str) -> list[Fact]:
    """What is counted in the sequence or the structure."""
    if mod == "protein":
        return [Fact(f"{name} is {len(bare_sequence(text))} residues long.", "properties", name)]
    if mod != "molecule":
        return []
    chem = require("rdkit.Chem", "chem")
    with require("rdkit.rdBase", "chem").BlockLogs():
        molecule = chem.MolFromSmiles(text)
    if molecule is None:
        return []
    formula = require("rdkit.Chem.rdMolDescriptors", "chem").CalcMolFormula(molecule)
    weight = require("rdkit.Chem.Descriptors", "chem").MolWt(molecule)
    n_rings = molecule.GetRingInfo().NumRings()
    rings = "no ring" if n_rings == 0 else "one ring" if n_rings == 1 else f"{n_rings} rings"
    return [
        Fact(f"{name} has the formula {formula} and a molecular weight of {weight:.1f}.", "properties", name),
        Fact(f"{name} has {rings}.", "properties", name),
    ]


def _identity(known: Known, name: str) -> list[Fact]:
    """Who it is, of one that is known."""
    facts = [Fact(f"{name} is known. It is this: {brief(known.text, MOST_LETTERS)}", "identity", name)]
    if known.name:
        facts.append(Fact(f"The name of {name} is {known.name}.", "identity", name))
    if known.gene:
        facts.append(Fact(f"The gene of {name} is {known.gene}.", "identity", name))
    if known.organism:
        origin = "a human protein" if known.organism == "human" else f"from {known.organism}"
        facts.append(Fact(f"{name} is {origin}.", "identity", name))
    return facts


def _is_stereoisomer(one: str, other: str) -> bool:
    """Whether two molecules have the same atoms and bonds."""
    chem = require("rdkit.Chem", "chem")
    with require("rdkit.rdBase", "chem").BlockLogs():
        molecules = [chem.MolFromSmiles(smiles) for smiles in (one, other)]
        if None in molecules:
            return False
        first, second = (chem.MolToSmiles(molecule, isomericSmiles=False) for molecule in molecules)
    return bool(first == second)


def _near(mod: str, others: Sequence[Known], name: str, *, is_known: bool) -> list[Fact]:
    """What is near, the nearest first; that nothing is."""
    kind, noun = modality_of(mod).similarity, modality_of(mod).noun
    near = [known for known in others if known.similarity >= DISTANT[kind]]
    if near:
        return [
            Fact(
                f"A known {noun} that is {_in_words(kind, known.similarity)} {name} (similarity "
                f"{known.similarity:.2f}): {short_name(known)}.",
                "nearest",
                name,
            )
            for known in near
        ]
    if is_known:
        return [Fact(f"No other known {noun} is near {name}.", "nearest", name)]
    if not others:
        return [Fact(f"No known {noun} has anything in common with {name}.", "nearest", name)]
    return [
        Fact(
            f"No known {noun} is near {name}. The nearest has a similarity of {others[0].similarity:.2f}, which tells "
            "nothing.",
            "nearest",
            name,
        )
    ]


def _in_words(kind: str, similarity: float) -> str:
    if similarity >= (0.65 if kind == "letters" else 0.9):
        return "very similar to"
    return "similar to" if similarity >= RELATED[kind] else "distantly similar to"


def _judgment(mod: str, nearest: Sequence[Known], name: str, close: Closeness) -> Fact:
    """What may be concluded."""
    if close == "unknown":
        text = f"What {name} is cannot be told, as nothing known is near it."
    elif close == "same":
        text = f"It is known what {name} is: {short_name(nearest[0])}."
    elif close == "distant":
        text = (
            f"{name} itself is not known. A known one that is distantly similar is this: {short_name(nearest[0])}. It "
            "may be of the same family, but that is not certain."
        )
    elif mod == "molecule":
        text = (
            f"{name} itself is not known. It is built like this known molecule: {short_name(nearest[0])}. Whether it "
            "has the same role is not known."
        )
    else:
        text = (
            f"{name} itself is not known. It is probably a member of the same family as {short_name(nearest[0])}. "
            "Which member it is cannot be told."
        )
    return Fact(text, "judgment", name)


def binding_facts(
    molecule: Sequence[Known],
    protein: Sequence[Known],
    *,
    molecule_name: str = "Molecule",
    protein_name: str = "Protein",
) -> list[Fact]:
    """Tell whether what is known of a molecule and of a protein, or of what is near to them, says that they bind.

    A molecule that is said to inhibit the enzymes of an EC number binds a protein with that number.

    Parameters
    ----------
    molecule
        What :meth:`Memory.nearest` gives for the molecule.
    protein
        What it gives for the protein.
    molecule_name
        What the prompt calls the molecule.
    protein_name
        What the prompt calls the protein.
    """
    about = f"{molecule_name} and {protein_name}"
    for compound in _relatives("molecule", molecule):
        inhibited = set(_INHIBITS.findall(compound.text))
        for enzyme in _relatives("protein", protein):
            if enzyme.ec in inhibited:
                return _evidence(compound, enzyme, molecule_name, protein_name, about)
    return [Fact(f"Nothing known says whether {molecule_name} and {protein_name} bind.", "judgment", about)]


def _relatives(mod: str, nearest: Sequence[Known]) -> list[Known]:
    least = RELATED[modality_of(mod).similarity]
    return [known for known in nearest if known.is_same or known.similarity >= least]


def _evidence(compound: Known, enzyme: Known, molecule_name: str, protein_name: str, about: str) -> list[Fact]:
    subject = molecule_name if compound.is_same else f"A known molecule that is similar to {molecule_name}"
    of_protein = protein_name if enzyme.is_same else f"A known protein that is similar to {protein_name}"
    facts = [
        Fact(f"{subject} inhibits the enzymes with the number EC {enzyme.ec}.", "nearest", molecule_name, "ChEBI"),
        Fact(f"{of_protein} is such an enzyme: {enzyme.name or short_name(enzyme)}.", "nearest", protein_name),
    ]
    if compound.is_same and enzyme.is_same:
        conclusion = f"{molecule_name} probably binds {protein_name}, as it is known to inhibit this kind of enzyme."
    else:
        conclusion = (
            f"{molecule_name} may bind {protein_name}. That is concluded from what is similar to them, and not known."
        )
    return [*facts, Fact(conclusion, "judgment", about)]
