"""The command line: `tokensweep`, which is `python -m orchestrator`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from orchestrator.cluster.ray_setup import have_home, prepare_ray
from orchestrator.commands.listing import cells_table, describe_launch, read_status
from orchestrator.commands.verify import verify_study
from orchestrator.console import (
    ConsoleContext,
    command_line,
    dataset_root,
    line,
    new_console,
    work_shown,
)
from orchestrator.errors import UserError, in_one_line
from orchestrator.results.reporting import write_report
from orchestrator.run import INTERRUPTED, SOME_FAILED, run_study
from orchestrator.standard_streams import make_streams_steady
from orchestrator.store.disk_use import disk_use, sizes_in_words
from orchestrator.store.store import find_study
from orchestrator.study.selection import PHASES, Options, select, storage_path
from orchestrator.watching.status_view import follow, status_view
from trainables.storage.files import DamagedFileError
from trainables.storage.retry import StorageError

BAD_INPUT = 2

UsageError: Any = typer.BadParameter.__bases__[0]
"""What all complaints of Typer about arguments derive from.

Typer exports none but `BadParameter`, and since 0.26 contains a copy of click, whose `UsageError`
is another class than that of click: https://github.com/fastapi/typer/pull/1774
"""

app = typer.Typer(
    name="tokensweep",
    help="Studies of token reduction in Vision Transformers, from study file to report.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Storage = Annotated[
    str,
    typer.Argument(help="Folder or URI of a study, or a storage that holds only one."),
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
        str | None, typer.Option(help="Ray cluster: `auto`, `local` or HOST:PORT.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Study value to change, e.g. recipes.demo.epochs=1."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Glob of cell ids to work on.")] = None,
    stages: Annotated[str, typer.Option(help="Phases to run, comma-separated.")] = ",".join(PHASES),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells, do nothing.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Give failed cells all their attempts again.")
    ] = False,
    max_concurrent: Annotated[
        int | None, typer.Option(min=1, help="Largest number of cells that train at once.")
    ] = None,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Start Ray's dashboard, for this machine only.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Also show Ray's messages.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show only notes and results, no progress.")
    ] = False,
) -> None:
    """Run a study, or resume it: the same command again does what is left."""
    options = Options(
        study=study,
        storage=storage_path(storage),
        data=_absolute(data),
        weights=_absolute(weights),
        address=address,
        settings=settings or (),
        only=only or (),
        phases=stages.split(","),
        dry_run=dry_run,
        retry_failed=retry_failed,
        max_concurrent=max_concurrent,
        dashboard=dashboard,
        verbose=verbose,
        quiet=quiet,
    )
    console = new_console()
    if dry_run:
        describe_launch(select(options), options, console)
    else:
        raise typer.Exit(run_study(options, console))


def _absolute(folder: Path | None) -> Path | None:
    """Return a folder as other processes need it; the shell leaves `~` in `--data=~/x` alone."""
    return folder.expanduser().absolute() if folder else None


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of images.")],
    to: Annotated[
        Path | None, typer.Option(help="The study file to write.  [default: NAME.yaml]")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Host to start from, as in a recipe.  [default: DeiT or DINOv2]"),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of pretrained weights.")] = None,
    embedding: Annotated[
        bool, typer.Option("--embedding", help="Compare features, without labels or training.")
    ] = False,
) -> None:
    """Look at a folder of your own images and write a study of it, ready to run.

    DIR holds a folder for each class, or `train` and `val` with these; of any other folder of
    images the features are compared. The status is 0 if it is written, 1 if something is wrong
    with the images.
    """
    from orchestrator.commands.init_study import InitOptions, init_study  # Imports torch.

    options = InitOptions(folder.expanduser(), to, host, _absolute(weights), embedding)
    raise typer.Exit(0 if init_study(options, new_console()) else SOME_FAILED)


@app.command("check-data")
def check_data(
    dataset: Annotated[str, typer.Argument(help="Name of the dataset, e.g. imagenet.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Its folder.")],
    download: Annotated[
        bool, typer.Option("--download", help="Fetch it first, where torchvision can.")
    ] = False,
) -> None:
    """Count and decode a dataset's images and report every problem before training starts.

    The status is 0 if there is none, else 1.
    """
    from orchestrator.commands.check_data import check_data as check  # Imports NumPy and Pillow.

    root = dataset_root(dataset, folder.expanduser()) or folder
    found = check(dataset, root, new_console(), download=download)
    raise typer.Exit(0 if found else SOME_FAILED)


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
    """Show where the time of a cell's training goes; the cell itself is not changed."""
    options = Options(
        study=study,
        storage=storage_path(storage),
        data=_absolute(data),
        weights=_absolute(weights),
        address=address,
        settings=settings or (),
        only=[cell],
        phases=("evaluate",),  # With "train", the teachers of a cell are selected, too.
    )
    ray_address = prepare_ray(address)
    from orchestrator.commands.profile import profile_cell  # Imports Ray.

    profile_cell(options, ray_address, steps, to, new_console())


@app.command()
def status(
    storage: Storage,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it until Ctrl-C.")] = False,
) -> None:
    """Show the progress of a study: cells by state, running cells, time left, failures."""
    store, console = find_study(storage_path(storage)), new_console()
    if watch:
        follow(lambda: read_status(store), console)
    else:
        console.print(status_view(read_status(store)), soft_wrap=True)
        sizes = sizes_in_words(disk_use(store.path))
        line(console, f"stored: {sizes}")


@app.command()
def cells(
    storage: Storage,
    tuning: Annotated[
        bool, typer.Option("--tuning", help="List the trials that choose values of recipes.")
    ] = False,
) -> None:
    """List every cell with its state and accuracy."""
    store = find_study(storage_path(storage))
    if tuning:
        from orchestrator.commands.tuning_in_words import trials_table

        new_console().print(trials_table(store))
        return
    new_console().print(cells_table(store, [store.cell(cell_id) for cell_id in store.cell_ids()]))


@app.command()
def measure(
    storage: Storage,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda:0, ...  [default: a GPU if there is one]")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Glob of cell ids to measure.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the datasets, for methods like ats.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of pretrained weights.")] = None,
) -> None:
    """Measure on this machine, without Ray, how fast a study's models are against their hosts.

    The status is 0 where all is measured, else 1.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # As in the phase; torch reads it.
    from orchestrator.commands.measure import MeasureOptions, measure_study  # Imports torch.

    options = MeasureOptions(
        device=device,
        only=only or (),
        data=data.absolute() if data else None,
        weights=weights.absolute() if weights else None,
    )
    done = measure_study(find_study(storage_path(storage)), options, new_console())
    raise typer.Exit(0 if done else SOME_FAILED)


@app.command()
def report(
    storage: Storage,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the datasets, for pictures of single images.")
    ] = None,
) -> None:
    """Write the report page from the store, also while the study runs."""
    store, console = find_study(storage_path(storage)), new_console()
    try:
        with work_shown(console) as show:
            cells = [store.cell(cell_id) for cell_id in store.cell_ids()]
            write_report(store, cells, _absolute(data), ConsoleContext(console, show))
    except KeyboardInterrupt:
        line(
            console,
            f"interrupted; the figures drawn so far are kept. Resume with: {command_line()}",
        )
        raise typer.Exit(INTERRUPTED) from None
    line(console, f"report: {store.report}")


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
    """Write every table as CSV and LaTeX, and tables of accuracies for a paper."""
    from orchestrator.commands.export import export_tables

    folder = storage_path(to) if to else None
    export_tables(find_study(storage_path(storage)), folder, formats.split(","), new_console())


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
        str, typer.Option(help="Host of the runs' models, as in a recipe.")
    ] = "deit_{capacity}_patch16_224.fb_in1k",
) -> None:
    """Import a W&B project's runs as cells, to evaluate and compare their checkpoints."""
    from orchestrator.commands.import_wandb import import_runs, study_at

    import_runs(project, study_at(study), checkpoints, host, new_console())


@app.command("export-wandb")
def export_wandb(
    storage: Storage,
    project: Annotated[str, typer.Argument(metavar="ENTITY/PROJECT", help="W&B project.")],
) -> None:
    """Upload a study's tables, figures and page as a run of a W&B project."""
    from orchestrator.commands.export_wandb import export_study

    export_study(find_study(storage_path(storage)), project, new_console())


@app.command()
def clean(
    storage: Storage,
    failed: Annotated[
        bool, typer.Option("--failed", help="Files of failed cells, so that they start again.")
    ] = False,
    orphans: Annotated[
        bool,
        typer.Option(
            "--orphans", help="Cells no longer in the study, and files that nothing uses."
        ),
    ] = False,
    keep_best: Annotated[
        bool,
        typer.Option("--keep-best", help="Resume states of cells whose training is finished."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it without asking.")] = False,
) -> None:
    """List files that a study does not need, and remove them after asking."""
    from orchestrator.commands.clean import CleanOptions, clean_study  # Imports torch.

    store = find_study(storage_path(storage))
    clean_study(store, CleanOptions(failed, orphans, keep_best), new_console(), yes=yes)


@app.command()
def verify(storage: Storage) -> None:
    """Read every file of a study and remove damaged ones; the next launch makes them again.

    The status is 0 where nothing is damaged, else 1.
    """
    damaged = verify_study(find_study(storage_path(storage)), new_console())
    raise typer.Exit(SOME_FAILED if damaged else 0)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; whatever a user can mend is one line on stderr and status 2."""
    make_streams_steady()
    have_home()
    try:
        _check_working_folder()
        sys.exit(app(arguments, standalone_mode=False))
    except (UserError, StorageError) as error:
        _refuse(str(error))
    except OSError as error:  # Of a store that is somebody else's, or a disk.
        _refuse(in_one_line(error))
    except DamagedFileError as error:
        _refuse(f"{error}; run the study again to repair it")
    except UsageError as error:
        _refuse(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)


def _check_working_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UserError("the working folder has been removed; go to another one") from None


def _refuse(reason: str) -> NoReturn:
    sys.stderr.write(f"error: {reason}\n")
    sys.exit(BAD_INPUT)
