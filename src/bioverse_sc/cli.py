"""The command line: a thin shell over the public functions."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData
    from mudata import MuData

    from bioverse_sc.runs import AlignRun, InstructRun

T = TypeVar("T", "AlignRun", "InstructRun")

app = typer.Typer(
    help="BioVERSE for the scverse: label single cells with a language model that reads them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


Input = Annotated[
    Path,
    typer.Argument(metavar="IN", help="Counts or log-normalised values: .h5ad, .h5mu, .zarr, or .h5 of 10x Genomics."),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="Where the annotated data go: .h5ad, .h5mu, .zarr; or a table of the results: .csv, .tsv, .csv.gz, "
        ".tsv.gz.",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(help="A label to choose from; repeat it for each. The model's own by default."),
]
Tissue = Annotated[str | None, typer.Option(help="Only labels that occur there, such as 'blood'.")]
MinConfidence = Annotated[
    float | None,
    typer.Option(help="Below this probability a label gives way to a wider one. The model's own by default."),
]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the alignment figure (.png, .pdf, .svg).")]
Model = Annotated[str, typer.Option(help="Name of a bundled model, or the path of a saved one.")]
Layer = Annotated[str | None, typer.Option(help="'X', 'raw' or a layer; found by itself by default.")]
GeneSymbols = Annotated[str | None, typer.Option(help="Column of .var with symbols or Ensembl ids.")]
By = Annotated[Literal["cell", "cluster"], typer.Option(help="What gets a label.")]
Unique = Annotated[bool, typer.Option("--unique", help="Each label to one cluster at most, with --by cluster.")]
Coarse = Annotated[bool, typer.Option("--coarse", help="Also the broad type of each cell.")]
Reasoning = Annotated[
    Literal["representative", "cell", "cluster", "none"],
    typer.Option(help="What the texts are about: cells that speak for others, each cell, or each cluster."),
]
Groupby = Annotated[str, typer.Option(help="Column of .obs with the clusters.")]
RunnerUp = Annotated[int, typer.Option(min=0, help="Next likely labels to write as well.")]
Smooth = Annotated[bool, typer.Option("--smooth", help="Spread the probabilities over the neighbours graph first.")]
MostTexts = Annotated[int | None, typer.Option(min=1, help="Cells that speak for others, at most; 256 by default.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Cells per forward pass.")]
KeyAdded = Annotated[str | None, typer.Option(help="Stem of the slots' names instead of 'bioverse'.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Write over results in the input that were made or changed by others.")
]


@app.command()
def annotate(
    file: Input,
    output: Output,
    labels: Labels = None,
    tissue: Tissue = None,
    min_confidence: MinConfidence = None,
    plot: Plot = None,
    model: Model = "mini",
    layer: Layer = None,
    gene_symbols: GeneSymbols = None,
    by: By = "cell",
    unique: Unique = False,
    coarse: Coarse = False,
    reasoning: Reasoning = "representative",
    groupby: Groupby = "leiden",
    n_runner_up: RunnerUp = 0,
    smooth: Smooth = False,
    max_cells_to_generate: MostTexts = None,
    batch_size: BatchSize = 128,
    key_added: KeyAdded = None,
    overwrite: Overwrite = False,
) -> None:
    """Label the cells of a file and say why."""
    import bioverse_sc as bsc
    from bioverse_sc import _files
    from bioverse_sc._keys import Keys
    from bioverse_sc.read import observations

    with _reported_errors():
        stem = Keys.of(key_added).stem
        data = _read(file, output, plot)
        bsc.tl.annotate(
            data,
            model=model,
            labels=labels or None,
            tissue=tissue,
            min_confidence=min_confidence,
            levels=("fine", "coarse") if coarse else ("fine",),
            by=by,
            unique=unique,
            reasoning=None if reasoning == "none" else reasoning,
            groupby=groupby,
            n_runner_up=n_runner_up,
            smooth=smooth,
            max_cells_to_generate=max_cells_to_generate,
            layer=layer,
            gene_symbols=gene_symbols,
            batch_size=batch_size,
            key_added=key_added,
            overwrite=overwrite,
        )
        _files.write(data, output, stem=stem, cells=observations(data))
        typer.echo(f"wrote {output}")
        adata = observations(data)
        if plot is not None:
            # the labels are written by now, whatever becomes of the figure
            bsc.tl.alignment_umap(adata, model=model, key_added=key_added, overwrite=overwrite)
            _draw(adata, stem, plot)
            _files.write(data, output, stem=stem, cells=observations(data))
        typer.echo(adata.obs[f"{stem}_label"].value_counts().to_string())


def _read(file: Path, output: Path, plot: Path | None) -> AnnData | MuData:
    """Read the input, after all is checked that can be known before the work."""
    from bioverse_sc import _files

    kind = _files.check_output(output, _files.WRITTEN, "The output")
    if plot is not None:
        _check_figure(plot)
    data = _files.read(file)
    _files.check_fits(data, kind, "The output")
    return data


def _check_figure(plot: Path) -> None:
    """Raise when the figure cannot be written; without a window, whatever the machine."""
    import matplotlib as mpl

    from bioverse_sc import _files

    mpl.use("Agg")
    from matplotlib.backend_bases import FigureCanvasBase

    formats = FigureCanvasBase.get_supported_filetypes()
    _files.check_output(plot, [f".{name}" for name in formats], "The figure")


def _draw(adata: AnnData, stem: str, plot: Path) -> None:
    import matplotlib.pyplot as plt

    import bioverse_sc as bsc
    from bioverse_sc import _files

    bsc.pl.alignment_umap(adata, key=stem, show=False)
    with _files.beside(plot) as fresh:
        plt.savefig(fresh, dpi=200, format=plot.suffix.lower().removeprefix("."))
    typer.echo(f"drew {plot}")


train_app = typer.Typer(
    help="Train a model of your own: stage 1 (align), then stage 2 (instruct).\n\n"
    "On several processes: accelerate launch -m bioverse_sc.cli train ...",
    no_args_is_help=True,
)
app.add_typer(train_app, name="train")
Config = Annotated[
    Path, typer.Option("--config", "-c", metavar="FILE", help="YAML file of the stage; paths in it are relative to it.")
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Train nothing: build the model at its true shape with random weights, and report memory and speed.",
    ),
]
Shape = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="For --dry-run: config.json of the language model, when it is not at hand."),
]


@train_app.command()
def align(config: Config, dry_run: DryRun = False, shape: Shape = None) -> None:
    """Stage 1: train a projector; encoder and language model are frozen.

    An interrupted run goes on when it is called again.
    The model is in OUTPUT/model, its metrics in OUTPUT/metrics.json.
    """
    from bioverse_sc import runs

    _train(config, runs.AlignRun, runs.run_align, shape, dry_run=dry_run)


@train_app.command()
def instruct(config: Config, dry_run: DryRun = False, shape: Shape = None) -> None:
    """Stage 2: tune an aligned model to instructions, with LoRA.

    An interrupted run goes on when it is called again.
    The model is in OUTPUT/model, its metrics in OUTPUT/metrics.json.
    """
    from bioverse_sc import runs

    _train(config, runs.InstructRun, runs.run_instruct, shape, dry_run=dry_run)


def _train(
    config: Path, kind: type[T], do: Callable[[T], dict[str, Any]], shape: Path | None, *, dry_run: bool
) -> None:
    from accelerate import PartialState

    from bioverse_sc import runs

    with _reported_errors():
        if shape is not None and not dry_run:
            msg = "--shape goes with --dry-run."
            raise ValueError(msg)
        run = runs.read_config(config, kind)
        if dry_run:
            typer.echo(str(runs.dry_run(run, shape=shape)))
            return
        do(run)
        if PartialState().is_main_process:
            typer.echo(runs.metrics_table([run.output]))


@train_app.command()
def table(folders: Annotated[list[Path], typer.Argument(metavar="OUTPUT...", help="Output folders of runs.")]) -> None:
    """Print the validation metrics of runs, before and after, in one table."""
    from bioverse_sc.runs import metrics_table

    with _reported_errors():
        typer.echo(metrics_table(folders))


@contextmanager
def _reported_errors() -> Iterator[None]:
    """Show what a user can mend as one line, without a traceback; a fault of the package keeps it."""
    try:
        yield
    except (ValueError, KeyError, OSError, FloatingPointError, ImportError) as error:
        message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        if isinstance(error, KeyError) and not message.endswith((".", ")")):
            # a dict that lacks a key; what a user gave wrong is a sentence, or ends with a line to type
            raise
        typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error


@app.command()
def info() -> None:
    """Show versions, the device, and the bundled models."""
    from importlib.metadata import version

    import bioverse_sc as bsc
    from bioverse_sc._modality import CELLS

    for package in ("bioverse-sc", "anndata", "scanpy", "mudata", "torch", "transformers", "peft"):
        typer.echo(f"{package} {version(package)}")
    typer.echo(f"device {bsc.settings.torch_device()}")
    for name in bsc.models.bundled_models():
        try:
            model = bsc.models.load(name)
        except OSError as error:
            # its language model is elsewhere, and not there yet
            typer.echo(f"model {name}: {error}")
            continue
        encoder = model.encoders[CELLS]
        n_genes = len(bsc.encoders.genes_of(encoder))
        parameters = sum(p.numel() for p in model.language_model.parameters())
        typer.echo(
            f"model {name}: {encoder.name} with {n_genes} genes, language model of {parameters / 1e6:.1f} M "
            f"parameters, {len(model.config.labels)} labels, fingerprint {model.fingerprint}"
        )


if __name__ == "__main__":
    app()
