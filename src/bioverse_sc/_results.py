"""Slots under a stem: written with their provenance, and never over what is somebody else's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from bioverse_sc._keys import OUTDATES, Keys
from bioverse_sc._logging import logger
from bioverse_sc._row_hash import bound_hashes, hash_rows, hash_texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anndata import AnnData
    from mudata import MuData

OUTDATED = "is_outdated"
"""Of a step's provenance: what it was made from has changed since."""
WRITTEN = "written"
"""Of a step's provenance: for each slot a hash of every row that was written, and one of all rows in their order."""


@dataclass(frozen=True)
class Slot:
    """A place in AnnData or MuData, such as ``.obs["bioverse_label"]``."""

    attribute: str
    """``"obs"`` or ``"obsm"``."""
    key: str
    holds: str = ""
    """What it holds, for the log."""

    def __str__(self) -> str:
        return f"{self.attribute}[{self.key!r}]"

    @property
    def name(self) -> str:
        """Key under which it is recorded."""
        return f"{self.attribute} {self.key}"


class Results:
    """What one stem of slots holds in an object.

    Parameters
    ----------
    data
        Of a modality, or the MuData for results of several.
    keys
        Names of the slots.
    overwrite
        Whether slots that were not written here, or were changed since, may be written over.
    """

    def __init__(self, data: AnnData | MuData, keys: Keys, *, overwrite: bool = False) -> None:
        self.data, self.keys, self.overwrite = data, keys, overwrite

    @cached_property
    def _names(self) -> np.ndarray:
        """Hash of each observation's name."""
        return hash_texts(self.data.obs_names)

    def made_by(self, step: str) -> dict[str, Any]:
        """Provenance of a step; empty when it has not run, or what it made is out of date."""
        entries = self.stored_of(step)
        return {} if entries.get(OUTDATED) else entries

    def stored_of(self, step: str) -> dict[str, Any]:
        """Provenance of a step, out of date or not; empty when it has not run."""
        entries = dict(self._stored().get(step, {}))
        return entries if "version" in entries else {}

    def made_from(self, step: str, content: np.ndarray) -> bool:
        """Whether a step made its results from this: no row has a hash that is not stored with them."""
        return bool(np.isin(content, self.made_by(step).get("content", [])).all())

    def write(self, step: str, values: Mapping[Slot, Any], entries: Mapping[str, Any] | None) -> list[str]:
        """Write slots and the provenance of a step; gives the lines of the finish log.

        Parameters
        ----------
        step
            Name of the tool. What it outdates (:data:`bioverse_sc._keys.OUTDATES`) is marked so, and said.
        values
            For each slot a column, DataFrame or array, with a row for each observation.
        entries
            Provenance, in types that h5ad keeps; ``None`` where another object holds it.
        """
        stored = self._stored()
        written = {
            name: rows
            for name, rows in self._written(step).items()
            if (slot := Slot(*name.split(" ", 1))).key in getattr(self.data, slot.attribute)
        }
        lines = []
        for slot, value in values.items():
            getattr(self.data, slot.attribute)[slot.key] = value
            written[slot.name] = _signed(self._names, hash_rows(value))
            holder = "mdata" if hasattr(self.data, "mod") else "adata"
            lines.append(f"'{slot.key}'{slot.holds and f', {slot.holds}'} ({holder}.{slot.attribute})")
        later = OUTDATES.get(step, ())
        # the same once more, of some of the rows too, outdates nothing
        is_same = bool(later) and self._is_same(step, entries or {})
        made_by = {} if entries is None else {"version": version("bioverse-sc"), **entries}
        stored[step] = made_by | ({WRITTEN: written} if written else {})
        self.data.uns[self.keys.stem] = stored
        if not is_same and (
            outdated := [name for each in later for name in self.outdate(each)] + self._elsewhere(values)
        ):
            logger.info("    out of date now: %s", ", ".join(outdated))
        return lines if entries is None else [*lines, f"'{self.keys.stem}', {step} (.uns)"]

    def outdate(self, step: str) -> list[str]:
        """Mark that a step, and what was made from it, is to be made anew; gives these steps.

        What is stored of it stays: other slots may need it to be read.
        """
        outdated = [step] if self.made_by(step) else []
        if outdated:
            stored = self._stored()
            self.data.uns[self.keys.stem] = stored | {step: {**stored[step], OUTDATED: True}}
        return outdated + [name for each in OUTDATES.get(step, ()) for name in self.outdate(each)]

    def _elsewhere(self, values: Iterable[Slot]) -> list[str]:
        """Mark what was made under other stems from vectors that have been written anew."""
        slots = {slot.key for slot in values}
        outdated = []
        for stem, steps in list(self.data.uns.items()):
            if stem == self.keys.stem or not hasattr(steps, "items"):
                continue
            of_slots = [
                step for step, entries in steps.items() if hasattr(entries, "items") and entries.get("vectors") in slots
            ]
            other = Results(self.data, Keys(stem)) if of_slots else self
            outdated += [f"{name} ({stem})" for step in of_slots for name in other.outdate(step)]
        return outdated

    def _is_same(self, step: str, entries: Mapping[str, Any]) -> bool:
        """Whether every row is made from what one of the rows that are there was made from."""
        return "content" in entries and bool(self.made_by(step)) and self.made_from(step, entries["content"])

    def remove(self, slots: Iterable[Slot]) -> None:
        """Remove slots of an earlier call that this one does not write."""
        for slot in slots:
            if slot.key in getattr(self.data, slot.attribute):
                del getattr(self.data, slot.attribute)[slot.key]

    def check(self, slots: Iterable[Slot]) -> None:
        """Raise when a slot that is to be written holds what was not written here, or was changed since.

        It is called before the work begins, for all that a call may write or remove.
        """
        if self.overwrite:
            return
        self._stored()
        for slot in slots:
            if slot.key not in getattr(self.data, slot.attribute):
                continue
            value = getattr(self.data, slot.attribute)[slot.key]
            signed = next((w[slot.name] for s in self._steps() if slot.name in (w := self._written(s))), None)
            if signed is None:
                problem = (
                    f"{slot} is there already, and bioverse_sc did not write it (or its record in "
                    f".uns[{self.keys.stem!r}] is gone)"
                )
            elif changed := self._changed(signed, value):
                problem = f"{slot} was changed since bioverse_sc wrote it, in {changed} of {self.data.n_obs} rows"
            else:
                continue
            msg = (
                f"{problem}. It would be lost. Keep it, and write beside it: key_added='another'; or write over it: "
                "overwrite=True."
            )
            raise ValueError(msg)

    def _changed(self, signed: Mapping[str, Any], value: Any) -> int:
        """How many rows are none of those that were written."""
        now = _signed(self._names, hash_rows(value))
        # of renamed observations the order tells
        if now["in_order"] == signed["in_order"]:
            return 0
        return int((~np.isin(now["rows"], signed["rows"])).sum())

    def _stored(self) -> dict[str, Any]:
        stored = self.data.uns.get(self.keys.stem, {})
        if not hasattr(stored, "items"):
            msg = (
                f".uns[{self.keys.stem!r}] holds a {type(stored).__name__} that bioverse_sc did not write, where it "
                "keeps the provenance of its results. Rename it, or write under another stem: key_added='another'."
            )
            raise ValueError(msg)
        return dict(stored)

    def _steps(self) -> list[str]:
        return [step for step, entries in self._stored().items() if hasattr(entries, "items")]

    def _written(self, step: str) -> dict[str, Any]:
        return dict(self._stored().get(step, {}).get(WRITTEN, {}))


def _signed(names: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """By what a slot is known again: its rows with their names, and without them all in their order."""
    in_order = bound_hashes(np.arange(len(rows), dtype=np.uint64), rows).sum(dtype=np.uint64)
    return {"rows": bound_hashes(names, rows).astype(np.uint32), "in_order": f"{in_order:016x}"}
