"""Studies run once for all tests that only look at what a launch leaves, and the command line."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from launching import Gate, Launch
from made_cells import CELL, finish
from pandas.testing import assert_frame_equal
from rich.console import Console

from orchestrator.cli import main
from orchestrator.run import run_study
from orchestrator.store.store import Store
from orchestrator.study.selection import Options
from trainables.storage.paths import store_path


@dataclass(frozen=True)
class FinishedStudy:
    """A study's store after a launch, and what the launch printed."""

    storage: Path
    store: Store
    status: int
    output: str

    def copy_uncompared(self, storage: Path) -> Store:
        """Copy the study into a storage, with its measurements, without what comparing made."""
        store = Store(storage / self.store.path.name)
        unmade = shutil.ignore_patterns(self.store.tables.name, self.store.comparisons.name)
        shutil.copytree(self.store.path, store.path, ignore=unmade)
        shutil.copytree(self.store.measurements, store.measurements)
        return store

    def assert_same_tables(self, store: Store) -> None:
        """Assert that another launch found the same, to the last bit."""
        found, expected = (
            {path.stem: pd.read_parquet(path) for path in each.tables.glob("*.parquet")}
            for each in (store, self.store)
        )
        assert found.keys() == expected.keys() > {"results", "pruning", "speed"}
        for name, table in expected.items():
            assert_frame_equal(found[name], table, check_exact=True, obj=name)


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Call the command line in an empty folder; return its status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> FinishedStudy:
    """Run the shipped smoke study on an embedded Ray."""
    storage = tmp_path_factory.mktemp("storage")
    return launch(storage, study="smoke")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    """Return the weights of `launching.STUDY` that nobody disturbed."""
    undisturbed = Launch(tmp_path_factory.mktemp("undisturbed"))
    undisturbed.end(0)
    return undisturbed.weights()


@pytest.fixture
def gate(tmp_path) -> Gate:
    """Return a gate for launches with its `env`; it is open."""
    return Gate(tmp_path / "gate")


@pytest.fixture(scope="session")
def launch_study():
    """Return `launch`, for tests with a study of their own."""
    return launch


@pytest.fixture
def cell():
    """Return the one cell of `store`."""
    return CELL


@pytest.fixture
def store(tmp_path) -> Store:
    """Return the store of a study with one cell, of which there is nothing yet."""
    store = Store(store_path(str(tmp_path)) / "study")
    store.create({"name": "study"}, [CELL])
    return store


@pytest.fixture
def stored(store):
    """Return the study's one cell, trained and evaluated."""
    return finish(store.cell(CELL.id))


def launch(storage: Path, **options) -> FinishedStudy:
    """Run a study in this process and return what came of it."""
    log = storage / "console.txt"
    with log.open("w") as file:
        status = run_study(Options(storage=storage, **options), Console(file=file, width=200))
    name = Path(options["study"]).stem
    return FinishedStudy(storage, Store(storage / name), status, log.read_text())
