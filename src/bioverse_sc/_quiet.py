"""What libraries print and change while they work for us: held back, or put back."""

from __future__ import annotations

import logging
import os
import random
import threading
import warnings
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bioverse_sc._settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"
"""A variable of the environment that torch sets, and that it can do without."""
_lock = threading.Lock()
_loads = threading.RLock()
_held: list[ExitStack] = []
"""One for each call that goes on, in any thread; the first of them holds, and the last puts back."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave the random states as they are, and with ``settings.verbosity="error"`` keep messages of libraries back.

    A public function that computes has it as a decorator.
    """
    with _lock:
        stack = _held[0] if _held else ExitStack()
        if not _held:
            stack.enter_context(_kept())
        _held.append(stack)
    try:
        yield
    finally:
        with _lock:
            _held.pop()
            if not _held:
                stack.close()


@contextmanager
def _kept() -> Iterator[None]:
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002
    threads, has_inductor = torch.get_num_threads(), INDUCTOR in os.environ
    with torch.random.fork_rng(devices=devices), _messages_held():
        try:
            yield
        finally:
            np.random.set_state(of_numpy)  # noqa: NPY002
            random.setstate(of_python)
            # numba, below UMAP, sets the threads of all
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            if not has_inductor:
                os.environ.pop(INDUCTOR, None)


@contextmanager
def _messages_held() -> Iterator[None]:
    """Keep back libraries' warnings, and messages that are no error, where only errors are asked for.

    The package's own logger goes by the settings.
    """
    level = logging.root.manager.disable
    # says when peft imports it that a kernel for 4 bits on a CPU is not there
    of_bitsandbytes = logging.getLogger("bitsandbytes")
    level_of_bitsandbytes = of_bitsandbytes.level
    of_bitsandbytes.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            if settings.verbosity == "error":
                warnings.simplefilter("ignore")
                logging.disable(max(level, logging.WARNING))
            yield
    finally:
        logging.disable(level)
        of_bitsandbytes.setLevel(level_of_bitsandbytes)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep back the bars of transformers for weights that load in a moment, and a warning that peft causes."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging as of_transformers

    of_gguf = vars(modeling_gguf_pytorch_utils)
    with _loads:
        shown, shown_by_hub = of_transformers.is_progress_bar_enabled(), not are_progress_bars_disabled()
        of_transformers.disable_progress_bar()
        # the bar of GGUF files does not go by that
        bar, of_gguf["tqdm"] = of_gguf["tqdm"], partial(of_gguf["tqdm"], disable=True)
        if shown_by_hub and settings.progress:
            # what is fetched may take long
            enable_progress_bars()
        try:
            with warnings.catch_warnings():
                # peft asks transformers 5 for an attribute by its old name
                warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
                yield
        finally:
            of_gguf["tqdm"] = bar
            if shown:
                of_transformers.enable_progress_bar()
            if shown_by_hub:
                enable_progress_bars()
            else:
                disable_progress_bars()
