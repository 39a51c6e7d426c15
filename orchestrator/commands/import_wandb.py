"""`tokensweep import-wandb`: turn runs of a W&B project into cells of a store."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestrator.commands.published_runs import (
    NotACellError,
    PublishedRun,
    blocks_of,
    published_cell,
)
from orchestrator.commands.wandb_client import project_path, wandb_client
from orchestrator.console import line, work_shown
from orchestrator.errors import UserError
from orchestrator.provenance import provenance
from orchestrator.store.driver_lock import Say, driving
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState, StoredCell
from orchestrator.study.selection import storage_path
from orchestrator.study.study import Study
from trainables.cell.cell import NAME, Cell
from trainables.cell.json_records import BestRecord, TrainingResult
from trainables.storage import layout

if TYPE_CHECKING:
    from torch import Tensor

PER_PAGE = 100
IMPORTED = "imported"
"""Event in the log of a cell that comes from a W&B run."""
NAME_IN_WORDS = "of letters, digits, _, . and -"
NOT_THE_BEST = "not the best of their setting"


def import_runs(
    project: str, store: Store, checkpoints: Path | None, host: str, console: Console
) -> None:
    """Make a cell of each finished run of a project, with its weights if they are found.

    Args:
        project: ENTITY/PROJECT.
        store: The study that gets the cells; it need not exist yet.
        checkpoints: Folder that holds the runs' folders; None: where the runs left them.
        host: The recipe's host of every cell.
        console: Where to print what was imported, what was not and why, and the next command.

    Raises:
        UserError: W&B cannot be read, the project has nothing to import, or the study is running.
    """
    say = partial(line, console)
    runs = read_runs(project)
    cells = _cells(project, runs, host, say)
    if not cells:
        raise UserError(f"{project} has no run that can be imported as a cell")
    with driving(store.path, say, lambda holder: None), work_shown(console) as show:
        _prepare(store)
        for number, (cell, run) in enumerate(cells, start=1):
            show("importing weights", number, len(cells))
            _import(store, cell, run, checkpoints, say)
        store.list_cells(cell.id for cell, _ in cells)
    states = Counter(store.cell(cell.id).state() for cell, _ in cells)
    found = len(cells) - states[CellState.RECORDED]
    say(f"{len(cells)} cells in {store.path}, {found} of them with weights")
    say(f"evaluate and compare them (with --data DIR for datasets in files): {next_command(store)}")


def study_at(text: str) -> Store:
    """Return the store of the study at a folder or a URI.

    Raises:
        UserError: Its name is not valid for a study.
    """
    path = storage_path(text)
    if not re.fullmatch(NAME, path.name):
        raise UserError(
            f"the study is {text!r}, but must be STORAGE/STUDY, with STUDY {NAME_IN_WORDS}"
        )
    return Store(path)


def next_command(store: Store) -> str:
    """Return the command that evaluates, compares and shows imported cells."""
    given = {
        "--study": layout.STUDY.below(store.path),
        "--storage": store.path.parent,
        "--stages": "evaluate,compare,report",
    }
    options = (str(word) for option in given.items() for word in option)
    return shlex.join(["tokensweep", "run", *options])


def read_runs(project: str) -> list[PublishedRun]:
    """Return all runs of a project.

    Raises:
        UserError: There is no such project, no key, or no answer.
    """
    entity, name = project_path(project)
    with wandb_client() as wandb:
        api = wandb.Api(overrides={"entity": entity})
        return [
            PublishedRun(
                path=f"{project}/{run.id}",
                name=run.name or run.id,
                state=run.state,
                tags=tuple(run.tags),
                config=run.config,
                summary=dict(run.summary_metrics),
            )
            for run in api.runs(f"{entity}/{name}", lazy=False, per_page=PER_PAGE)
        ]


def _cells(
    project: str, runs: Iterable[PublishedRun], host: str, say: Say
) -> list[tuple[Cell, PublishedRun]]:
    """Return the cell and the best run of each setting; print why other runs are left out."""
    runs = list(runs)
    skipped = Counter(filter(None, (run.why_skipped() for run in runs)))
    left = [run for run in runs if run.why_skipped() is None]
    best: dict[str, tuple[Cell, PublishedRun]] = {}
    for run in sorted(left, key=lambda run: run.max_accuracy):
        try:
            cell = published_cell(run, host, blocks_of(left))
        except NotACellError as reason:
            say(f"not imported: {run.name}: {reason}")
            skipped["no cell"] += 1
            continue
        setting = cell.model_copy(update={"imported": None}).id
        skipped[NOT_THE_BEST] += setting in best
        best[setting] = (cell, run)
    reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items() if count)
    total = f"{project}: {len(runs)} runs, {len(best)} to import"
    say(f"{total}, {skipped.total()} skipped ({reasons})" if reasons else total)
    return sorted(best.values(), key=lambda pair: pair[0].id)


def _prepare(store: Store) -> None:
    """Make the study, without grids, unless it exists."""
    if not layout.STUDY.below(store.path).is_file():
        study = Study(name=store.path.name, grids=[])
        store.create(study.model_dump(mode="json") | provenance(), [])


def _import(store: Store, cell: Cell, run: PublishedRun, folder: Path | None, say: Say) -> None:
    """Write a cell's records, and its weights unless it has them."""
    stored = store.cell(cell.id)
    stored.describe(cell)
    places = run.checkpoints(folder)
    path = next((path for path in places if path.is_file()), None)
    missing = None if stored.is_trained() else "its checkpoint is missing"
    if path is not None and missing:
        missing = _take_weights(stored, cell, run, path)
    if missing:
        place = path or next(iter(places), folder)
        say(f"without weights: {run.name}: {missing} ({place}); max_accuracy is recorded")
    stored.write_import(
        {
            "run": run.path,
            "name": run.name,
            "metric": run.metric,
            "max_accuracy": run.max_accuracy,
            "checkpoint": str(path) if path else None,
            "missing": missing,
        }
    )


def _take_weights(stored: StoredCell, cell: Cell, run: PublishedRun, path: Path) -> str | None:
    """Store a checkpoint's weights as the cell's best; return why if that is not possible."""
    from safetensors.torch import save

    try:
        weights = _fitted(cell, path)
    except (ValueError, OSError) as error:
        return f"its checkpoint cannot be used: {error}"
    best: BestRecord = {"metric": run.metric, "accuracy": run.max_accuracy}
    result: TrainingResult = {"metric": run.metric, "accuracy": run.max_accuracy}
    stored.append_log({"event": IMPORTED, "run": run.path, "checkpoint": str(path)})
    stored.discard_evaluation()
    stored.save_best(save(weights), best)
    stored.write_result(result | {"epochs": cell.recipe.epochs})
    stored.clear_error()
    return None


def _fitted(cell: Cell, path: Path) -> "dict[str, Tensor]":
    """Return a checkpoint's weights, fitted to the cell's model.

    Raises:
        ValueError: The file is damaged, asks for code, or is of another model.
        OSError: It cannot be read.
    """
    from reduction.checkpoints import load_weights, num_classes_of, read_weights
    from trainables.models.host import build_model

    weights = read_weights(path)
    model = build_model(cell, num_classes_of(weights), pretrained=False)
    load_weights(model, weights, path)
    return {name: x.contiguous() for name, x in model.state_dict().items()}
