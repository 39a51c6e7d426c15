"""A study whose cells report what a test says, without any training."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from reports import report

from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState
from orchestrator.watching.tracker import Tracker
from trainables.cell.cell import Cell
from trainables.recipe import Recipe
from trainables.storage.files import write_sealed_json
from trainables.storage.paths import StorePath


@dataclass(frozen=True)
class MadeUpStudy:
    """A store with two cells, and how they would be trained."""

    store: Store
    cells: tuple[str, str]

    def train(self, tracker: Tracker, cell_id: str, *steps: int) -> None:
        """Report at some steps, as a worker and then the driver would."""
        for step in steps:
            self.store.cell(cell_id).append_log(report(step).entry())
            tracker.reported(cell_id, report(step))

    def evaluate(self, tracker: Tracker, cell_id: str) -> None:
        """End a cell well."""
        write_sealed_json(self.store.cell(cell_id).path / "result.json", {"accuracy": 3.0})
        metrics = {"top1": 3.5, "tokens": {"3": 16}}
        record = {"metrics": metrics, "artifacts": {}}
        write_sealed_json(self.store.cell(cell_id).path / "eval.json", record)
        tracker.changed(cell_id, CellState.DONE)


def made_up(folder: StorePath) -> MadeUpStudy:
    """Return a study that nobody has run yet."""
    store = Store(folder / "made_up")
    cells = [
        Cell(
            dataset="digits",
            method=method,
            capacity="tiny",
            keep_rate=0.5,
            reduction_loc=(3, 6, 9),
            recipe=Recipe(epochs=3, warmup_epochs=1),
        )
        for method in ("topk", "tome")
    ]
    document = {"name": "made_up", "versions": {"python": "3"}, "git_commit": "abc"}
    store.create(document, cells)
    return MadeUpStudy(store, (cells[0].id, cells[1].id))


@pytest.fixture
def study(tmp_path: Path) -> MadeUpStudy:
    """Return a study in a folder."""
    return made_up(tmp_path)


@pytest.fixture
def study_in_s3(s3_folder: StorePath) -> MadeUpStudy:
    """Return a study in an object store."""
    return made_up(s3_folder)
