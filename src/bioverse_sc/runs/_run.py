"""A stage from a configuration: read, embed, split, train, measure, save. The command line is a shell over this."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bioverse_sc import train
from bioverse_sc._logging import logger
from bioverse_sc._quiet import undisturbed
from bioverse_sc.datasets import everyday_texts
from bioverse_sc.encoders import Precomputed, get_encoder
from bioverse_sc.metrics import alignment_metrics
from bioverse_sc.models import (
    bundled_models,
    create,
    load,
    mean_soft_tokens,
    model_folder,
    save,
    template_fields,
    with_modality,
)
from bioverse_sc.runs._config import about, existing
from bioverse_sc.runs._entities import RunEntities, without_vector
from bioverse_sc.runs._processes import device, model_device, processes

if TYPE_CHECKING:
    from pathlib import Path

    from bioverse_sc.models import Answer, BioVerse
    from bioverse_sc.runs._config import AlignRun, InstructRun, NewModel
    from bioverse_sc.train import Descriptions, Example

MODEL, TRAINING, CONFIG, METRICS = "model", "training", "run.json", "metrics.json"
FREE = {"output", "data.embeddings", "data.batch_size"} | {f"train.{name}" for name in train.MAY_CHANGE}
"""What may change when an interrupted run goes on: it changes no number."""


@undisturbed()
def run_align(config: AlignRun) -> dict[str, Any]:
    """Do stage 1 as a configuration says.

    Parameters
    ----------
    config
        The configuration.

    Returns
    -------
    What is in ``output/metrics.json``: the validation metrics before and after.
    """
    _begin(config, compares=config.objective == "contrastive")
    negatives = None
    if config.negatives is not None:
        lines = existing(config.negatives, "negatives").read_text(encoding="utf-8").splitlines()
        negatives = [line for line in lines if line.strip()]
    entities = RunEntities(config)
    model = _loaded(str(config.start)) if config.model is None else _created(config.model, entities)
    vectors = entities.vectors(model, [config.mod])[config.mod]  # (entities, width of the encoder)
    held_out = entities.held_out_rows[config.mod]
    if config.records is None:
        texts = entities.descriptions(config.description or "{description}")
    else:
        names = list(entities.mods[config.mod].obs_names)
        with about("records"):
            rows, texts = train.read_pairs(config.records, names, mod=config.mod, text=config.description or "{text}")
        vectors, held_out = vectors[rows], np.flatnonzero(np.isin(rows, held_out))
    empty = without_vector(vectors)
    measured = _drawn(np.setdiff1d(held_out, empty), config.data.measured)
    if not len(measured):
        msg = "None of the donors that are held out has an entity to measure; change data.validation."
        raise ValueError(msg)
    weights = train.balanced_weights(texts.text_of, strength=config.data.balance)
    weights[held_out] = weights[empty] = 0
    before = _alignment(model, config.mod, vectors, texts, measured)
    history = train.align(
        model,
        vectors,
        texts,
        config.train,
        mod=config.mod,
        objective=config.objective,
        negatives=negatives,
        attraction=config.attraction,
        validation=measured,
        weights=weights,
        folder=config.output / TRAINING,
    )
    after = _alignment(model, config.mod, vectors, texts, measured)
    return _finish(config.output, model, f"stage 1, {config.objective}", len(measured), history, before, after)


@undisturbed()
def run_instruct(config: InstructRun) -> dict[str, Any]:
    """Do stage 2 as a configuration says.

    Parameters
    ----------
    config
        The configuration.

    Returns
    -------
    What is in ``output/metrics.json``: the validation metrics before and after.
    """
    mod, is_kept = config.mod, config.keep_alignment and config.description is not None
    has_texts = config.data.labels_key is not None or is_kept
    _begin(config, compares=config.keep_alignment and has_texts)
    if config.records is not None:
        existing(config.records, "records")
    entities = RunEntities(config)
    model = _loaded(config.start, load_in_4bit=config.load_in_4bit)
    if hasattr(model.language_model, "peft_config"):
        logger.warning("%s has an adapter already: it is trained on, and 'lora' is not used", config.start)
    vectors = entities.vectors(model, sorted(model.config.projectors))
    texts = entities.descriptions(config.description or "{description}") if has_texts else None
    if config.records is None:
        trained, measured = _examples_of_columns(config, entities, model)
    else:
        trained, measured = _examples_of_records(config, entities, list(vectors))
    empty = {name: without_vector(mod_vectors) for name, mod_vectors in vectors.items()}
    trained, measured = _with_vectors(trained, empty), _with_vectors(measured, empty)
    if not trained or not measured:
        msg = (
            f"There are {len(trained)} examples of donors to train on, and {len(measured)} of donors that are held "
            "out; each needs one at least. Change data.validation, or the examples."
        )
        raise ValueError(msg)
    weights = None
    if config.data.balance:
        weights = train.balanced_weights([_answer(example) for example in trained], strength=config.data.balance)
    held_out = _drawn(np.setdiff1d(entities.held_out_rows[mod], empty[mod]), config.data.measured)
    before = {} if texts is None else _alignment(model, mod, vectors[mod], texts, held_out)
    history = train.instruct(
        model,
        trained,
        vectors,
        config.train,
        lora=config.lora,
        train_projectors=config.train_projectors,
        descriptions={mod: texts} if config.keep_alignment and texts is not None else None,
        validation=measured,
        weights=weights,
        folder=config.output / TRAINING,
    )
    after = {} if texts is None else _alignment(model, mod, vectors[mod], texts, held_out)
    return _finish(config.output, model, "stage 2", len(measured), history, before, after)


def _examples_of_columns(
    config: InstructRun, entities: RunEntities, model: BioVerse
) -> tuple[list[Example], list[Example]]:
    """Examples to train on and to measure, from columns; of names, the model gets its labels."""
    prompt, answer = config.prompt or model.config.prompts["label"], config.answer or "{name}"
    rows = _drawn(entities.held_out, config.data.measured)
    with about("prompt and answer"):
        trained, measured = (
            train.examples(entities.data, prompt=prompt, answer=answer, mod=config.mod, rows=chosen)
            for chosen in (entities.trained, rows)
        )
    if config.data.labels_key is not None and answer == "{name}":
        _set_labels(model, prompt, trained, config.mod)
    return trained, measured


def _set_labels(model: BioVerse, prompt: str, trained: list[Example], mod: str) -> None:
    """Make the answers the model's labels, and the prompt its question when that is the same for each cell."""
    labels = tuple(sorted({_answer(example) for example in trained}))
    # what the new labels' probabilities mean is not known yet
    model.config = replace(model.config, labels=labels, temperature=1.0)
    if template_fields(prompt):
        logger.warning(
            "The prompt has the fields %s, so it cannot become the model's own question: bsc.tl.annotate will ask %r.",
            template_fields(prompt),
            model.config.prompts["label"],
        )
    else:
        prompts = {**model.config.prompts, "label": with_modality(prompt, mod)}
        model.config = replace(model.config, prompts=prompts)


def _examples_of_records(
    config: InstructRun, entities: RunEntities, mods: list[str]
) -> tuple[list[Example], list[Example]]:
    """Examples to train on and to measure, from a file."""
    names = {name: list(entities.mods[name].obs_names) for name in mods}
    with about("records"):
        read = train.read_examples(
            cast("Path", config.records),
            names,
            prompt=config.prompt,
            answer=config.answer or "{answer}",
            mod=config.mod,
        )
    is_held_out = [entities.is_held_out(example) for example in read]
    trained = [example for example, held_out in zip(read, is_held_out, strict=True) if not held_out]
    rows = _drawn(np.flatnonzero(is_held_out), config.data.measured)
    return trained, [read[row] for row in rows]


def _with_vectors(examples: list[Example], empty: dict[str, np.ndarray]) -> list[Example]:
    """Examples all of whose entities have a vector; ``empty`` holds, by modality, the rows that have none."""
    left_out = {mod: set(rows.tolist()) for mod, rows in empty.items()}
    return [e for e in examples if not any(row in left_out[mod] for mod, row in e.entities)]


def _drawn(rows: np.ndarray, n: int) -> np.ndarray:
    """Draw at most ``n`` rows, the same ones each time."""
    return rows if len(rows) <= n else np.sort(np.random.default_rng(0).choice(rows, size=n, replace=False))


def _answer(example: Example) -> str:
    return str(cast("Answer", example.segments[-1]).text)


def _begin(config: AlignRun | InstructRun, *, compares: bool) -> None:
    """Raise, before anything is read, when a run cannot start or go on; note its configuration.

    Parameters
    ----------
    config
        The configuration.
    compares
        Whether its loss compares the entities of a step, so that it has no parts.
    """
    from pydantic import TypeAdapter

    existing(config.data.file, "data.file")
    if (config.output / MODEL).exists():
        msg = (
            f"{config.output / MODEL} is there already: this run is done. Choose another output, or delete "
            f"{config.output}."
        )
        raise FileExistsError(msg)
    n_processes = processes().num_processes
    if config.train.micro_batches(n_processes) > 1 and compares:
        msg = (
            "train.micro_batch_size: the contrastive loss compares all examples of a step, so that these cannot be "
            f"computed in parts. Leave it out, or give each process its share: with {n_processes} of them, batch_size "
            f"is at most {n_processes * (config.train.micro_batch_size or 1)}. Stage 2 can also do without: "
            "keep_alignment: false."
        )
        raise ValueError(msg)
    now = TypeAdapter(type(config)).dump_python(config, mode="json")
    noted = config.output / CONFIG
    if train.has_checkpoint(config.output / TRAINING) and noted.is_file():
        asked, done = _flat(now), _flat(json.loads(noted.read_text(encoding="utf-8")))
        if changed := sorted(key for key in (asked.keys() | done.keys()) - FREE if asked.get(key) != done.get(key)):
            msg = (
                f"{config.output} holds a run that was begun with another {', '.join(changed)}. Choose another output, "
                "or delete it to begin anew."
            )
            raise ValueError(msg)
    elif processes().is_main_process:
        config.output.mkdir(parents=True, exist_ok=True)
        noted.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    processes().wait_for_everyone()


def _flat(values: dict[str, Any], within: str = "") -> dict[str, Any]:
    """Values by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{within}{key}.") if isinstance(value, dict) else {f"{within}{key}": value}
    return flat


def _loaded(name: str, *, load_in_4bit: bool = False) -> BioVerse:
    with about("start"):
        return load(name, merge_adapter=False, load_in_4bit=load_in_4bit, device=model_device())


def _created(new: NewModel, entities: RunEntities) -> BioVerse:
    encoders: dict[str, Any] = {}
    with about("model.encoders"):
        for mod, name in new.encoders.items():
            # of a bundled model, its encoder
            named = model_folder(name) / "encoders" / mod if name in bundled_models() else name
            encoders[mod] = get_encoder(named, mod=mod, device=device())
    with about("data.use_rep"):
        for mod, key in entities.source.use_rep.items():
            encoders[mod] = Precomputed.of(key, entities.stored(mod))
    with about("model"):
        return create(
            new.language_model,
            encoders,
            name=new.name,
            revision=new.revision,
            projectors=new.projectors,
            prompts=new.prompts,
            chat=new.chat,
            dtype=new.dtype,
            load_in_4bit=new.load_in_4bit,
            device=model_device(),
        )


def _alignment(
    model: BioVerse, mod: str, vectors: np.ndarray, texts: Descriptions, rows: np.ndarray
) -> dict[str, float]:
    """How well entities meet their texts, with the projector as it is now."""
    soft_tokens = mean_soft_tokens(model.projectors[mod], vectors[rows])  # (rows, width of the language model)
    related = model.text_vectors(list(texts.texts)).float().cpu().numpy()
    unrelated = model.text_vectors(everyday_texts()).float().cpu().numpy()
    return alignment_metrics(soft_tokens, related, texts.text_of[rows], unrelated)


def _finish(
    output: Path,
    model: BioVerse,
    stage: str,
    n_validated: int,
    history: list[dict[str, float]],
    before: dict[str, float],
    after: dict[str, float],
) -> dict[str, Any]:
    """Save the metrics and the model, on one process."""
    validated = [
        {key.removeprefix("validation_"): value for key, value in row.items()}
        for row in history
        if "validation_loss" in row
    ]
    # training ends with the weights of the lowest loss
    best = min(validated, key=lambda row: row["loss"])
    metrics = {
        "stage": stage,
        "validation_entities": n_validated,
        "steps": int(best["step"]),
        "before": {key: value for key, value in validated[0].items() if key != "step"} | before,
        "after": {key: value for key, value in best.items() if key != "step"} | after,
    }
    if processes().is_main_process:
        (output / METRICS).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
        save(model, output / MODEL)
        logger.info("saved %s", output / MODEL)
    processes().wait_for_everyone()
    return metrics


def metrics_table(folders: list[Path]) -> str:
    """Validation metrics of runs, before and after, as a Markdown table.

    Parameters
    ----------
    folders
        Output folders of runs that are done.

    Raises
    ------
    FileNotFoundError
        For a folder that is none.
    """
    runs = []
    for folder in folders:
        if not (folder / METRICS).is_file():
            msg = f"There is no finished run in {folder}: it has no {METRICS}."
            raise FileNotFoundError(msg)
        runs.append((folder.resolve().name, json.loads((folder / METRICS).read_text(encoding="utf-8"))))
    names = list(dict.fromkeys(key for _, run in runs for key in run["after"]))
    lines = ["| run | stage | |" + "".join(f" {name.replace('_', ' ')} |" for name in names)]
    lines.append("| --- | --- | --- |" + " ---: |" * len(names))
    for label, run in runs:
        for when in ("before", "after"):
            cells = [f" {run[when][name]:.3f} |" if name in run[when] else " |" for name in names]
            lines.append(f"| {label} | {run['stage']} | {when} |" + "".join(cells))
    return "\n".join(lines)
