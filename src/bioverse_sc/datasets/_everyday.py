"""Sentences that have nothing to do with biology."""

from __future__ import annotations

from importlib.resources import files


def everyday_texts() -> list[str]:
    """Sentences about everyday things: unrelated negatives of contrastive training, and of the alignment figure."""
    text = files("bioverse_sc.datasets").joinpath("everyday.txt").read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]
