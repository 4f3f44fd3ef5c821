"""ChemBERTa: small molecules, as SMILES, to vectors."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from bioverse_sc._logging import logger
from bioverse_sc._modality import modality_of
from bioverse_sc._optional import require
from bioverse_sc.encoders._texts import UnreadableError, check_texts
from bioverse_sc.encoders._transformer import TransformerEncoder, inner_mean, unread_letters
from bioverse_sc.encoders._words import SMILES_LETTERS, not_smiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import torch

_WHAT = "SMILES"


class ChembertaEncoder(TransformerEncoder):
    """A ChemBERTa or other RoBERTa checkpoint of SMILES: hidden states after the last layer.

    Source: Chithrananda et al., ChemBERTa, arXiv 2010.09885; Ahmad et al., ChemBERTa-2, arXiv 2209.01712.

    SMILES are checked and made canonical by RDKit (``pip install 'bioverse-sc[chem]'``), so that two ways of writing a
    molecule give one vector.
    """

    name = "chemberta"
    mod = "molecule"
    model_type = "roberta"
    letters = "CNO"

    def encode(
        self,
        smiles: Sequence[str],
        *,
        batch_size: int | None = None,
        pooling: Literal["mean", "cls"] = "mean",
        salts: Literal["keep", "strip"] = "keep",
    ) -> np.ndarray:
        """Embed molecules.

        Parameters
        ----------
        smiles
            The molecules.
        batch_size
            Molecules per forward pass at most; a budget of tokens limits them in any case.
        pooling
            The mean of the states of all tokens but the first and the last, or the state of the first one.
        salts
            Whether to keep all fragments of a SMILES, or only the largest, without counter-ions.

        Returns
        -------
        Array of shape (molecules, width), float32.

        Raises
        ------
        ValueError
            For a SMILES that is empty or invalid, or longer than the checkpoint reads; the message gives its row.
        TypeError
            For one text instead of a list of them.
        ImportError
            Without RDKit.
        """
        if pooling not in ("mean", "cls"):
            msg = f"pooling is {pooling!r}; expected 'mean' or 'cls'."
            raise ValueError(msg)
        check_texts(smiles, "SMILES", batch_size, modality_of(self.mod).placeholders)
        canonical = canonical_smiles(smiles, salts=salts)
        if not canonical:
            return self._pooled([], inner_mean, batch_size=batch_size)
        read = self.tokenizer(canonical, return_offsets_mapping=True, verbose=False)
        tokens = read["input_ids"]
        limit = self.module.config.max_position_embeddings - self.module.config.pad_token_id - 1
        for row, ids in enumerate(tokens):
            if len(ids) > limit:
                problem = f"has {len(ids)} tokens; this checkpoint reads {limit}. Leave that molecule out."
                raise UnreadableError(_WHAT, row, problem)
        self._report_unread(canonical, tokens, read["offset_mapping"])
        return self._pooled(tokens, inner_mean if pooling == "mean" else _first, batch_size=batch_size)

    def _report_unread(
        self, smiles: Sequence[str], tokens: Sequence[list[int]], spans: Sequence[list[tuple[int, int]]]
    ) -> None:
        """Warn of what the tokenizer has no token for, which it reads as unknown or, in silence, leaves out."""
        unknown = self.tokenizer.unk_token_id
        unread_molecules = []
        unread: Counter[str] = Counter()
        for text, ids, places in zip(smiles, tokens, spans, strict=True):
            pieces = [text[slice(*place)] for token, place in zip(ids, places, strict=True) if token == unknown]
            left_out = sum(stop - start for start, stop in places) < len(text)
            if left_out:
                # what is left out shifts the places of what follows, so they do not say what it was
                pieces += unread_letters(self.tokenizer, text)
            if pieces or left_out:
                unread_molecules.append(text)
                unread.update(pieces)
        if not unread_molecules:
            return
        pieces_shown = ", ".join(repr(piece) for piece, _ in unread.most_common(10)) or "some of their pieces"
        logger.warning(
            "The tokenizer cannot read all of %d of %d molecules: it has no token for %s. The molecules are %s.",
            len(unread_molecules),
            len(tokens),
            pieces_shown,
            ", ".join(unread_molecules[:10]),
        )


def _first(states: torch.Tensor, _mask: torch.Tensor) -> torch.Tensor:
    return states[:, 0]


def canonical_smiles(smiles: Sequence[str], *, salts: Literal["keep", "strip"] = "keep") -> list[str]:
    """Check SMILES and write them in RDKit's canonical form.

    Parameters
    ----------
    smiles
        The molecules.
    salts
        Whether to keep all fragments, or only the one with the most heavy atoms.

    Returns
    -------
    The molecules, without numbers of atom maps, which are none of their properties.

    Raises
    ------
    ValueError
        For one that is empty or invalid; the message gives its row.
    """
    check_texts(smiles, "SMILES", None, modality_of("molecule").placeholders)
    if salts not in ("keep", "strip"):
        msg = f"salts is {salts!r}; expected 'keep' or 'strip'."
        raise ValueError(msg)
    for row, text in enumerate(smiles):
        # RDKit would leave out what comes after it
        if odd := re.search(r"[^!-~]", text.strip()):
            hint = f"{not_smiles(text)} Expected one SMILES, without a name or anything after it.".lstrip()
            raise UnreadableError(_WHAT, row, f"holds {odd[0]!r}: {text!r:.100}. {hint}")
        if not SMILES_LETTERS.fullmatch(text.strip()):
            raise _invalid(row, text)
    chem = require("rdkit.Chem", "chem")
    from rdkit import rdBase
    from rdkit.Chem.MolStandardize import rdMolStandardize

    heavy: Any = rdMolStandardize.CleanupParameters()
    heavy.largestFragmentChooserCountHeavyAtomsOnly = True
    chooser = rdMolStandardize.LargestFragmentChooser(heavy)
    canonical = []
    # RDKit writes what is wrong to the error stream; the error below says it
    with rdBase.BlockLogs():
        for row, text in enumerate(smiles):
            stripped = text.strip()
            molecule = chem.MolFromSmiles(stripped)
            if molecule is None:
                raise _invalid(row, text)
            if ":" in stripped:
                for atom in molecule.GetAtoms():
                    atom.SetAtomMapNum(0)
                molecule = chem.RemoveHs(molecule)
            if salts == "strip":
                molecule = chooser.choose(molecule)
            canonical.append(chem.MolToSmiles(molecule))
    return canonical


def _invalid(row: int, text: str) -> UnreadableError:
    return UnreadableError(_WHAT, row, f"is not valid: {text!r:.100}. {not_smiles(text)}".rstrip())
