"""Words in the place of sequences and SMILES.

Most are made of letters that these have as well, so they would be read without an error.
"""

from __future__ import annotations

import re

from bioverse_sc.ontology import gene_table

MISSING = frozenset(
    "na nan none null nil nat missing unknown unk undefined undetermined unspecified unassigned unavailable unnamed "
    "uncharacterized uncharacterised unidentified anonymous ambiguous empty blank absent other others any all various "
    "mixed failed invalid error pending todo tbd tba tbc placeholder default dummy test example true false yes nd n.d "
    "n.a n/a n\\a #n/a #na "
    "<na> #value! #ref! #name? ? ?? ??? - _ / # withheld confidential proprietary redacted".split()
)
"""What stands for a missing value in tables, in lower case; words of two or more are found by
:data:`_MISSING_PHRASE`."""
_MISSING_PHRASE = re.compile(
    r"(no|not|non|missing|unknown|without|n/?a)[ _-]+[a-z]+([ _-]+[a-z]+)*|[a-z]+[ _-]+(unknown|missing|unavailable)"
)
ACCESSION = re.compile(
    # UniProt, Ensembl, RefSeq, PDB, InterPro, Pfam
    r"([OPQ]\d[A-Z\d]{3}\d|[A-NR-Z]\d([A-Z][A-Z\d]{2}\d){1,2})(-\d+)?|ENS[A-Z]*[GTP]\d{11}(\.\d+)?|[ANXYW]P_\d+(\.\d+)?"
    r"|\d[A-Za-z\d]{3}(_[A-Za-z]+)?|IPR\d{6}|PF\d{5}|[A-Z]{3}\d{5}(\.\d+)?|(sp|tr)\|.*|\w+_(HUMAN|MOUSE|RAT|YEAST|ECOLI)",
)
_THREE = "Ala|Arg|Asn|Asp|Cys|Gln|Glu|Gly|His|Ile|Leu|Lys|Met|Phe|Pro|Ser|Thr|Trp|Tyr|Val"
_THREE_LETTERS = re.compile(rf"(H-)?({_THREE})([ -]?({_THREE}))+(-OH|-NH2)?")
_THREE_LETTERS_APART = re.compile(rf"({_THREE})([ -]({_THREE}))+", re.IGNORECASE)
_SHORT = 24
"""Letters below which a text may be a word; few words of biology are longer."""
_ENDING = re.compile(r"(in|ine|ase|gen|tor|tide|mer|cell|like|type|alpha|beta|gamma|delta|factor|chain)s?$")
"""How names of proteins end."""
_PEPTIDES = frozenset({"RGDS", "PEPTIDE"})
"""Peptides that are also another name of a gene, or a word."""
_INCHI_KEY = re.compile(r"[A-Z]{14}-[A-Z]{10}-[A-Z]")
_FORMULA = re.compile(r"([A-Z][a-z]?\d*)+")
_REGISTRY = re.compile(
    r"(CHEMBL|CHEBI|CID|SID|DB|D|C|HMDB|ZINC|MOLPORT|UNII|LM[A-Z]{2}|BRD-?[A-Z]?)[:_ -]?\d[\d-]*", re.IGNORECASE
)
SMILES_LETTERS = re.compile(
    r"(?=.*[A-Za-z*])(\[\d*([A-Za-z][a-z]?|\*|#\d+)[^\[\]]*\]|Cl|Br|[BCNOFPSIbcnops*]|[\d%()=#$:/\\.~+-]|->|<-)+"
)
"""What SMILES are made of, which is known without RDKit."""
_CAS = re.compile(r"\d{2,7}-\d{2}-\d")


def is_missing(text: str, placeholders: frozenset[str]) -> bool:
    """Whether a text only says that there is nothing, or what the column holds."""
    plain = text.strip().strip("'\"()[]{}").strip()
    if plain in _PEPTIDES or len(plain) > 80:
        return False
    plain = plain.lower()
    return (
        not plain
        or plain in MISSING
        or plain in placeholders
        or plain.rstrip(".") in MISSING
        or bool(_MISSING_PHRASE.fullmatch(plain))
    )


def not_a_protein(text: str) -> str | None:
    """What a text is that may be taken for an amino-acid sequence, and what to do about it; ``None`` for a sequence.

    A stop at the end says that it is a sequence, whatever it looks like.
    """
    plain = text.strip()
    if plain.startswith(">"):
        return "has the header line of a FASTA file; leave that line out"
    if _THREE_LETTERS.fullmatch(plain) or _THREE_LETTERS_APART.fullmatch(plain):
        return "is written in three letters for an amino acid; write it with one letter for each"
    if ACCESSION.fullmatch(plain):
        return "is an accession; look its sequence up, for example in UniProt"
    if "InChI" in plain or (re.search(r"[=()#\[\]@\\/]", plain) and re.search("[A-Za-z]", plain)):
        return "looks like a molecule; expected amino acids in one-letter codes"
    if re.search(r"\d", plain) and re.search("[A-Za-z]{6}", plain) and re.search(r"\d\s", plain):
        return "has numbers between the residues; leave them out"
    if plain.endswith("*"):
        return None
    letters = re.sub(r"[\s._-]", "", plain)
    if not letters.isascii() or not letters.isalpha() or len(letters) > 2 * _SHORT:
        return None
    stop = "If it is a peptide, end it with a stop, '*', as in adata.obs['sequence'] + '*'"
    pieces = re.split(r"[\s_]+", plain)
    # blocks of residues have one length, but for the last
    if len(pieces) > 1 and not (len({*map(len, pieces[:-1])}) == 1 and len(pieces[-1]) <= len(pieces[0])):
        return f"looks like several words; expected a sequence. {stop}"
    if len(letters) > _SHORT:
        return None
    if len(letters) > 1 and letters[1:].islower() and letters[0].isupper():
        return f"looks like a name; expected a sequence. {stop}"
    if 3 <= len(letters) and letters not in _PEPTIDES and letters.upper() in gene_table()[1]:
        return f"is the symbol of a gene; look the sequence of its protein up, for example in UniProt. {stop}"
    # letters of a word that are next to never in a peptide: pyrrolysine, and ambiguous ones
    rare = sum(map(letters.upper().count, "BJOUZ"))
    if "O" in letters.upper() or rare > 1 or letters.upper().endswith(("ULIN", "UNIT")):
        return f"looks like a word; expected a sequence. {stop}"
    if letters.islower() and len(letters) > 4 and _ENDING.search(letters):
        return f"looks like a name; expected a sequence. {stop}"
    return None


def not_smiles(text: str) -> str:
    """What a text that is no SMILES may be, and what to do about it; ``""`` when nothing comes to mind."""
    plain = text.strip()
    if plain.startswith(("InChI=", "1S/", "InChI:")):
        return "It is an InChI; convert it with RDKit: Chem.MolToSmiles(Chem.MolFromInchi(text))"
    if _INCHI_KEY.fullmatch(plain.removeprefix("InChIKey=")):
        return "It is an InChIKey, a hash; look its SMILES up, for example in PubChem."
    if _CAS.fullmatch(plain):
        return "It looks like a CAS number; look its SMILES up, for example in PubChem."
    if re.fullmatch(r"-?\d+(\.\d+)?", plain) or _REGISTRY.fullmatch(plain):
        return "It looks like a number of a database, such as a PubChem CID; look its SMILES up there."
    if "[Branch" in plain or "[Ring" in plain or re.match(r"(\[[=#]?[A-Z][a-z]?\])+\[[=#]", plain):
        return "It looks like SELFIES; convert it with their package: selfies.decoder(text)"
    if ">" in plain:
        return "It looks like a reaction; expected one molecule."
    if "\n" in plain:
        return "It looks like a mol block; convert it with RDKit: Chem.MolToSmiles(Chem.MolFromMolBlock(text))"
    if (
        len(plain) >= 8
        and plain.isupper()
        and set(plain) <= set("ACDEFGHIKLMNPQRSTVWY")
        and set(plain) & set("ADEGHKLMQRTVWY")
    ):
        return "It looks like the sequence of a protein, which belongs in .obs['sequence'] of a modality 'protein'."
    if _FORMULA.fullmatch(plain) and re.search(r"\d", plain) and "H" in plain:
        return "It looks like a formula, which many molecules have; look its SMILES up."
    if not SMILES_LETTERS.fullmatch(plain) and re.fullmatch(
        r"[\w ,;:'()\[\]{}+./-]*[A-Za-z]{2}[\w ,;:'()\[\]{}+./-]*", plain
    ):
        return "It looks like a name; look its SMILES up, for example in PubChem."
    return ""
