"""Types that a file names, one a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bioverse_sc.ontology import cell_ontology

if TYPE_CHECKING:
    from collections.abc import Iterable


def terms_named(names: Iterable[str]) -> set[str]:
    """Cell Ontology ids of some types, blank names left out; ends the program where one is no name of a type."""
    wanted = {name.strip(): cell_ontology().find(name.strip()) for name in names if name.strip()}
    if unknown := [name for name, term in wanted.items() if term is None]:
        msg = f"{unknown[0]!r} is no name in the Cell Ontology; expected one type a line, such as 'mast cell'."
        raise SystemExit(msg)
    return {term for term in wanted.values() if term}
