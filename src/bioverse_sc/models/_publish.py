"""A model on the hub, with a page that says what it is."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bioverse_sc._hub import hub_errors, is_hub_id
from bioverse_sc._quiet import undisturbed
from bioverse_sc.models._config import ModelConfig
from bioverse_sc.models._folder import CONFIG, INSIDE
from bioverse_sc.models._io import save

if TYPE_CHECKING:
    import torch

    from bioverse_sc.models._bioverse import BioVerse


@undisturbed()
def push_to_hub(
    model: BioVerse,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    token: str | None = None,
    commit_message: str = "Model saved by bioverse-sc",
    include_language_model: bool | None = None,
    dtype: torch.dtype | None = None,
) -> str:
    """Save a model to a hub repository, from where ``bsc.models.load(repo_id)`` has it.

    Parameters
    ----------
    model
        The model.
    repo_id
        ``"owner/name"``; made when it does not exist.
    private
        Whether a new repository is private.
    revision
        Branch, made when it does not exist; the main one by default.
    token
        Of the hub; by default the one of ``hf auth login``.
    commit_message
        Of the one commit.
    include_language_model, dtype
        As in :func:`save`.

    Returns
    -------
    Address of the repository.

    Raises
    ------
    ValueError
        When :func:`save` would refuse, or the language model is a folder of this machine.
    OSError
        When the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    if (
        not include_language_model
        and model.config.language_model != INSIDE
        and Path(model.config.language_model).exists()
    ):
        msg = (
            f"The language model is the folder {model.config.language_model!r} of this machine, which others do not "
            "have. Push with include_language_model=True."
        )
        raise ValueError(msg)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "model"
        save(model, folder, include_language_model=include_language_model, dtype=dtype)
        card = folder / "README.md"
        if not card.exists():
            card.write_text(_model_card(ModelConfig.read(folder / CONFIG), repo_id), encoding="utf-8")
        api = HfApi(token=token)
        try:
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message)
        except hub_errors() as error:
            msg = (
                f"The model could not be pushed to {repo_id!r} ({type(error).__name__}: {error}). Sign in with 'hf "
                "auth login', or pass a token. On a machine without access to the hub, call bsc.models.save(model, "
                f"FOLDER), and upload the folder from another one: hf upload {repo_id} FOLDER"
            )
            raise OSError(msg) from error
    return str(url)


def _model_card(config: ModelConfig, repo_id: str) -> str:
    """A short page; the licence is the author's to add."""
    inside = config.language_model == INSIDE
    is_id = not inside and is_hub_id(config.language_model)
    base = "in this repository" if inside else f"{config.language_model} {config.language_model_revision or ''}".strip()
    lines = [
        "---",
        "library_name: bioverse-sc",
        *([f"base_model: {config.language_model}"] if is_id else []),
        "---",
        "",
        f"# {config.name}",
        "",
        "A [BioVERSE](https://arxiv.org/abs/2510.01428) model: a language model that reads the vectors of biological "
        "encoders.",
        "",
        f"- language model: {base}",
        *[
            f"- {mod}: encoder {p.encoder}, width {p.in_width} to {p.n_tokens} soft tokens of width {p.out_width}"
            for mod, p in config.projectors.items()
        ],
        f"- labels: {len(config.labels)}",
        "",
        "```python",
        "import bioverse_sc as bsc",
        "",
        f'model = bsc.models.load("{repo_id}")',
        "```",
    ]
    return "\n".join(lines) + "\n"
