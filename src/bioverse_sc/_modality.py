"""What a modality is: one entry for each, which prompts, figures, memory, readers and encoders go by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bioverse_sc._validation import check_storable


@dataclass(frozen=True)
class Modality:
    """A kind of observations: how they are read, and what they are called.

    Raises
    ------
    ValueError
        When the name cannot be one, or a noun is missing.
    """

    name: str
    """Key of MuData and of prompts (``[BIO:protein]``), such as ``"protein"``: letters, digits and underscores."""
    noun: str
    """What one observation is called, such as ``"protein"``; prompts begin it with a capital."""
    plural: str
    """What several are called."""
    colour: str
    """Of its points in figures, as matplotlib takes it."""
    column: str = ""
    """Column with the text of each entity, such as ``"sequence"``: of ``.obs``, or of ``.var`` for features with
    abundances. ``""`` where an observation is a row of a matrix of genes."""
    similarity: Literal["letters", "structure"] = "letters"
    """How two texts are compared to find known entities that are near: by the runs of four letters that they share, or
    as SMILES by the substructures that they share."""
    placeholders: frozenset[str] = frozenset()
    """Words, in lower case, that say in this column that nothing is there, as ``"sequence"`` does among sequences."""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            msg = (
                f"{self.name!r} cannot be the name of a modality; expected letters, digits and underscores, such as "
                "'rna'."
            )
            raise ValueError(msg)
        for word in (self.noun, self.plural, self.colour):
            if not word.strip():
                msg = f"The modality {self.name!r} lacks a noun, plural or colour, such as 'protein', 'proteins', 'C1'."
                raise ValueError(msg)
            check_storable(word, f"modality {self.name!r}")

    @property
    def title(self) -> str:
        """The noun as prompts write it, such as ``"Protein"``."""
        return self.noun[0].upper() + self.noun[1:]

    @property
    def has_text(self) -> bool:
        """Whether an entity is a text; otherwise it is a row of a matrix of genes."""
        return bool(self.column)


CELLS = "rna"
"""Name of the modality that a plain AnnData is taken for: cells by genes."""

_MODALITIES = {
    each.name: each
    for each in (
        Modality(CELLS, "cell", "cells", "#1f77b4"),
        Modality(
            "protein",
            "protein",
            "proteins",
            "#d95f02",
            column="sequence",
            placeholders=frozenset(
                "protein proteins peptide peptides sequence sequences seq aa aaseq fasta antibody antigen isotype "
                "control ctrl igg marker receptor ligand enzyme kinase gene name label target hashtag background "
                "negative positive".split()
            ),
        ),
        Modality(
            "molecule",
            "molecule",
            "molecules",
            "#1b9e77",
            column="smiles",
            similarity="structure",
            placeholders=frozenset(
                "smiles smile molecule compound drug vehicle control ctrl untreated mock solvent pbs dmso water media "
                "medium negative positive".split()
            ),
        ),
    )
}


def register_modality(modality: Modality, *, overwrite: bool = False) -> None:
    """Make a modality of your own known: prompts, figures, memory, ``tl`` functions and saved models then take it.

    Its encoder says of which modality it is by its ``mod``; see :class:`bioverse_sc.encoders.Encoder`.

    Parameters
    ----------
    modality
        What it is called and how it is read.
    overwrite
        Whether a modality that was registered under this name before may be replaced.

    Raises
    ------
    ValueError
        When the name is taken.
    """
    if modality.name in _MODALITIES and not overwrite:
        msg = f"There is a modality {modality.name!r} already; choose another name, or pass overwrite=True."
        raise ValueError(msg)
    _MODALITIES[modality.name] = modality


def known_modalities() -> list[str]:
    """Names of the modalities, that of cells first."""
    return list(_MODALITIES)


def modality_of(name: str) -> Modality:
    """The entry of a modality; one that nobody made known is called by its name and read as vectors from elsewhere.

    Parameters
    ----------
    name
        Its key, such as ``"protein"``.
    """
    if name in _MODALITIES:
        return _MODALITIES[name]
    return Modality(name, noun=name, plural=f"observations of {name}", colour="#7570b3")
