"""Forked processes: the threads of the libraries are not in the child, which would wait for them for ever."""

from __future__ import annotations

import os
import sys

PARALLELISM = "TOKENIZERS_PARALLELISM"
_state = {"forked": False, "set": False}


def one_thread() -> None:
    """Let torch compute in this thread alone, where it was imported before this process was forked from another."""
    if _state["forked"] and (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)


def _before() -> None:
    # or tokenizers writes about it to the error stream of each child
    _state["set"] = "tokenizers" in sys.modules and PARALLELISM not in os.environ
    if _state["set"]:
        os.environ[PARALLELISM] = "false"


def _in_parent() -> None:
    if _state["set"]:
        del os.environ[PARALLELISM]


def _in_child() -> None:
    _state["forked"] = _state["forked"] or "torch" in sys.modules
    one_thread()


def register() -> None:
    """Be called at every fork from now on; not on Windows, which has none."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
