"""The command line: `tokensweep`, which is `python -m orchestrator`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from orchestrator.cluster.ray_setup import prepare_ray
from orchestrator.command import command_line
from orchestrator.data.datasets import dataset_root, work_shown
from orchestrator.errors import UserError
from orchestrator.results.reporting import write_report
from orchestrator.run import INTERRUPTED, SOME_FAILED, run_study
from orchestrator.selection import STAGES, Options, select, storage_path
from orchestrator.storage.disk_use import disk_use, in_words
from orchestrator.storage.repairing import verify_study
from orchestrator.storage.store import find_study
from orchestrator.watching.listing import cells_table, describe, read_status
from orchestrator.watching.status_view import follow, status_view
from trainables.files import DamagedFileError
from trainables.patience import StorageError

BAD_INPUT = 2

UsageError: Any = typer.BadParameter.__bases__[0]
"""What all complaints of Typer about arguments have in common; it brings a click of its own."""

app = typer.Typer(
    name="tokensweep",
    help="Studies of token reduction in Vision Transformers, from study file to report.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Storage = Annotated[
    str,
    typer.Argument(help="A study's folder or URI, or the storage that holds just this one."),
]


@app.command()
def run(
    study: Annotated[str, typer.Option(help="A shipped study's name or a YAML file.")] = "demo",
    storage: Annotated[
        str, typer.Option(help="Folder or URI, such as s3://bucket/prefix, that keeps all results.")
    ] = "runs",
    data: Annotated[
        Path | None, typer.Option(help="Folder of the datasets, as DATA/NAME or DATA itself.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Folder of the hosts' pretrained weights; else the Hugging Face hub."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster: `auto` or HOST:PORT; else see the docs.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Study value to change, e.g. recipes.demo.epochs=1."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Glob of cell ids to work on.")] = None,
    stages: Annotated[str, typer.Option(help="Stages to do, with commas.")] = ",".join(STAGES),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells, do nothing.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Give failed cells all their retries again.")
    ] = False,
    max_concurrent: Annotated[
        int | None, typer.Option(min=1, help="Most cells that train at once.")
    ] = None,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Start Ray's dashboard, for this machine only.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what Ray says, too.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show only what matters.")] = False,
) -> None:
    """Run a study, or go on with it; running it again is resuming it."""
    options = Options(
        study=study,
        storage=storage_path(storage),
        data=data.absolute() if data else None,
        weights=weights.absolute() if weights else None,
        address=address,
        settings=settings or (),
        only=only or (),
        stages=stages.split(","),
        dry_run=dry_run,
        retry_failed=retry_failed,
        max_concurrent=max_concurrent,
        dashboard=dashboard,
        verbose=verbose,
        quiet=quiet,
    )
    console = Console()
    if dry_run:
        describe(select(options), options, console)
    else:
        raise typer.Exit(run_study(options, console))


@app.command("check-data")
def check_data(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset, e.g. imagenet.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Its folder.")],
) -> None:
    """Count and decode a dataset's images and name all that is wrong, before time is spent on it.

    The status is 0 where nothing is wrong, else 1.
    """
    from orchestrator.data.check_data import check_data as check  # Imports NumPy and Pillow.

    root = dataset_root(dataset, folder) or folder
    raise typer.Exit(0 if check(dataset, root, Console()) else SOME_FAILED)


@app.command()
def profile(
    cell: Annotated[str, typer.Argument(help="Id of a cell, or a glob that matches one.")],
    study: Annotated[str, typer.Option(help="A shipped study's name or a YAML file.")] = "demo",
    storage: Annotated[str, typer.Option(help="Folder or URI with the study's results.")] = "runs",
    data: Annotated[Path | None, typer.Option(help="Folder of the datasets.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of pretrained weights.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster, as for run.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Study value to change.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps to measure.")] = 20,
    to: Annotated[Path, typer.Option(help="Folder for the chart and the numbers.")] = Path(
        "profiles"
    ),
) -> None:
    """Tell where the time of a cell's training goes; the cell itself stays as it is."""
    options = Options(
        study=study,
        storage=storage_path(storage),
        data=data.absolute() if data else None,
        weights=weights.absolute() if weights else None,
        address=address,
        settings=settings or (),
        only=[cell],
        stages=("evaluate",),  # With "train", the teachers of a cell are selected, too.
    )
    ray_address = prepare_ray(address)
    from orchestrator.watching.profile import profile_cell  # Imports Ray.

    profile_cell(options, ray_address, steps, to, Console())


@app.command()
def status(
    storage: Storage,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it, until Ctrl-C.")] = False,
) -> None:
    """Tell how far a study is: cells by state, what runs, the time left, what failed."""
    store, console = find_study(storage_path(storage)), Console()
    if watch:
        follow(lambda: read_status(store), console)
    else:
        console.print(status_view(read_status(store)), soft_wrap=True)
        sizes = in_words(disk_use(store.path))
        console.print(f"stored: {sizes}", highlight=False, soft_wrap=True)


@app.command()
def cells(storage: Storage) -> None:
    """List every cell with its state and what it reached."""
    store = find_study(storage_path(storage))
    Console().print(cells_table(store, [store.cell(cell_id) for cell_id in store.cell_ids()]))


@app.command()
def report(
    storage: Storage,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the datasets, for pictures of single images.")
    ] = None,
) -> None:
    """Make the page again from the store alone, also of a study in progress."""
    store, console = find_study(storage_path(storage)), Console()
    try:
        with work_shown(console) as show:
            cells = [store.cell(cell_id) for cell_id in store.cell_ids()]
            write_report(store, cells, data and data.absolute(), console.print, show)
    except KeyboardInterrupt:
        words = "interrupted; what is drawn is kept. Go on with:"
        console.print(words, command_line(), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    console.print(f"report: {store.report}", highlight=False, soft_wrap=True)


@app.command()
def export(
    storage: Storage,
    formats: Annotated[
        str, typer.Option("--format", help="csv, latex, or both with a comma.")
    ] = "csv,latex",
    to: Annotated[
        str | None, typer.Option(help="Folder or URI for the files.  [default: STUDY-tables]")
    ] = None,
) -> None:
    """Write the study's tables as CSV and LaTeX, accuracies the way a paper shows them."""
    from orchestrator.exchange.export import export_tables

    folder = storage_path(to) if to else None
    export_tables(find_study(storage_path(storage)), folder, formats.split(","), Console())


@app.command("import-wandb")
def import_wandb(
    project: Annotated[str, typer.Argument(metavar="ENTITY/PROJECT", help="W&B project.")],
    study: Annotated[
        str, typer.Argument(metavar="STORAGE/STUDY", help="Study that the runs join as cells.")
    ],
    checkpoints: Annotated[
        Path | None,
        typer.Option(help="Folder with the runs' folders; else each run's own output_dir."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="What the runs' models are without reduction, as in a recipe.")
    ] = "deit_{capacity}_patch16_224.fb_in1k",
) -> None:
    """Make cells of a project's runs, for their checkpoints to be evaluated and compared."""
    from orchestrator.exchange.import_wandb import import_runs, study_at

    import_runs(project, study_at(study), checkpoints, host, Console())


@app.command("export-wandb")
def export_wandb(
    storage: Storage,
    project: Annotated[str, typer.Argument(metavar="ENTITY/PROJECT", help="W&B project.")],
) -> None:
    """Upload a study's tables, figures and page as a run of a W&B project."""
    from orchestrator.exchange.export_wandb import export_study

    export_study(find_study(storage_path(storage)), project, Console())


@app.command()
def clean(
    storage: Storage,
    failed: Annotated[
        bool, typer.Option("--failed", help="What failed cells left, so that they begin anew.")
    ] = False,
    orphans: Annotated[
        bool,
        typer.Option("--orphans", help="Cells no longer in the study; what nothing uses any more."),
    ] = False,
    keep_best: Annotated[
        bool,
        typer.Option("--keep-best", help="What trained cells need only to be trained further."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it without asking.")] = False,
) -> None:
    """Show what a study can do without and remove it once that is confirmed."""
    from orchestrator.storage.clean import Wanted, clean_study  # Imports torch.

    store = find_study(storage_path(storage))
    clean_study(store, Wanted(failed, orphans, keep_best), Console(), yes=yes)


@app.command()
def verify(storage: Storage) -> None:
    """Read every file of a study and remove what is damaged, for the next launch to make again.

    The status is 0 where nothing is damaged, else 1.
    """
    damaged = verify_study(find_study(storage_path(storage)), Console())
    raise typer.Exit(SOME_FAILED if damaged else 0)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; whatever a user can mend is one line on stderr and status 2."""
    try:
        sys.exit(app(arguments, standalone_mode=False))
    except UserError as error:
        _refuse(str(error))
    except StorageError as error:
        _refuse(str(error))
    except DamagedFileError as error:
        _refuse(f"{error}; run the study again to repair it")
    except UsageError as error:
        _refuse(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)


def _refuse(reason: str) -> NoReturn:
    sys.stderr.write(f"error: {reason}\n")
    sys.exit(BAD_INPUT)
