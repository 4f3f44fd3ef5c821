"""Talk about the blood cells that ship inside scanpy, in the terminal, with the facts that the answers are held to.

make chat

Type a question about the cell, a gene, a cell type or a pathway. "facts" shows what the last answer was written from,
"next" takes another cell, and an empty line ends.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import scanpy as sc

import bioverse_sc as bsc

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "smollm2-135m"
CELLS = (5, 100, 250, 400, 610)
QUESTIONS = ("What is this cell?", "Why?", "How sure are you?", "Is it a monocyte?", "How old was the donor?")


def main() -> None:
    bsc.settings.verbosity = "error"
    print("Loading the language model takes some seconds.")
    model = bsc.models.load(MODEL)
    adata = sc.datasets.pbmc68k_reduced()
    asked = iter(QUESTIONS)
    for row in CELLS:
        name = adata.obs_names[row]
        chat = bsc.Chat(adata, name, model=model)
        print(f"\nCell {name}. Try: {'  '.join(QUESTIONS)}")
        while (question := read(asked)) not in ("", "next"):
            if question == "facts":
                print("\n".join(f"  - {fact.text}" for fact in chat.facts))
                continue
            for piece in chat.stream(question):
                print(piece, end="", flush=True)
            print()
        if not question:
            break


def read(asked: Iterator[str]) -> str:
    """A line that was typed; without a terminal the questions above, one after another."""
    if sys.stdin.isatty():
        try:
            return input("> ").strip()
        except EOFError:
            return ""
    question = next(asked, "")
    print(f"> {question}")
    return question


if __name__ == "__main__":
    main()
