"""The status of a study as others read it: from its driver's record, or else from its files."""

import io

import pytest
from rich.console import Console

from orchestrator.cli import main
from orchestrator.commands.listing import read_status
from orchestrator.store.driver_lock import driving
from orchestrator.store.stored_cell import CellState
from orchestrator.study.selection import Options, select
from orchestrator.watching.status import (
    STATES,
    Activity,
    LaunchFacts,
    RunningCell,
    Status,
    TimeLeft,
    count_states,
    keep_status,
    last_status,
)
from orchestrator.watching.status_view import follow, headline, status_view
from trainables.storage.files import write_sealed_json


@pytest.fixture
def store(tmp_path):
    """The store of a study of which nothing is trained."""
    selection = select(Options(study="smoke", storage=tmp_path))
    selection.store.create({"name": "smoke"}, selection.cells)
    return selection.store


def told(store, **changes):
    """Return what a driver tells while its first cell runs."""
    running = RunningCell(cell=store.cell_ids()[0], cpus=1.0, gpus=0.0, images_per_second=321.0)
    facts = {
        "study": "smoke",
        "time": 1000.0,
        "driver": store.driver(),
        "states": {"running": 1, "pending": 2},
        "running": (running,),
        "launch": LaunchFacts(began=0.0, seconds=900.0, trained=3, retries=2),
    }
    return Status(**facts | changes)


def test_a_live_driver_is_believed(store):
    with driving(store.path, print, print):
        status = told(store)
        keep_status(store, status)
        assert read_status(store) == status.model_copy(update={"others": 2})


def test_the_status_of_an_earlier_driver_tells_nothing_of_this_one(store):
    keep_status(store, told(store, driver="process 1 elsewhere"))
    with driving(store.path, print, print):
        status = read_status(store)
        assert (status.states, status.running) == ({"pending": 5}, ())
        assert status.driver == store.driver()


def test_without_a_driver_the_files_tell_and_the_last_launch_is_remembered(store):
    with driving(store.path, print, print):
        keep_status(store, told(store))
    failed, going = (store.cell(cell_id) for cell_id in store.cell_ids()[1:3])
    failed.write_error("traceback\nno luck")
    going.save_last(3, b"state")
    status = read_status(store)
    assert status.states == {"failed": 1, "pending": 3, "interrupted": 1}
    (reason,) = status.failed
    assert (reason.cell, reason.reason) == (failed.id, "no luck")
    assert reason.see == str(failed.error_file)
    assert (status.driver, status.running, status.launch.retries) == (None, (), 2)


@pytest.mark.parametrize("damage", ["torn", "edited", "of another version", "missing"])
def test_a_record_that_cannot_be_trusted_is_not(store, damage):
    keep_status(store, told(store))
    path = store.path / "status.json"
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "edited":
        path.write_text(path.read_text().replace('"running": 1', '"running": 9'))
    elif damage == "of another version":
        write_sealed_json(path, {"study": "smoke", "colour": "red"})
    else:
        path.unlink()
    assert last_status(store) is None
    assert read_status(store).states == {"pending": 5}


def test_status_and_cells_show_what_runs(store, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with driving(store.path, print, print):
        keep_status(store, told(store))
        for command in ("status", "cells"):
            with pytest.raises(SystemExit) as ended:
                main([command, str(store.path)])
            assert not ended.value.code
            printed = capsys.readouterr().out
            if command == "status":
                assert "smoke: 3 cells: 1 running, 2 pending · 321 images/s · 3 trained" in printed
                assert "12 cells/h · 15 min so far" in printed
                assert "2 other cells of the study are not part of this launch" in printed
            (line,) = [line for line in printed.splitlines() if store.cell_ids()[0] in line]
            assert ("starting" if command == "status" else "running") in line
            assert printed.count("pending") == (1 if command == "status" else 4)


def test_what_a_study_without_a_driver_did_last_is_told(store):
    with driving(store.path, print, print):
        keep_status(store, told(store))
    console = Console(file=io.StringIO(), width=200)
    console.print(status_view(read_status(store).model_copy(update={"time": 960.0})))
    lines = console.file.getvalue().splitlines()
    assert lines[:2] == ["smoke: 5 cells: 5 pending", "no driver runs it"]
    heard = "the last launch was last heard of 1 min ago, after 15 min"
    assert lines[2] == f"{heard}, 3 trained, 12 cells/h, 2 retries"


@pytest.mark.parametrize("terminal", [True, False])
def test_watching_goes_on_until_ctrl_c(store, monkeypatch, terminal):
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal)
    shown = []

    def read():
        shown.append(told(store, states={"pending": 7 - len(shown)}))
        return shown[-1]

    rounds = iter(range(3))

    def sleep(seconds):
        if next(rounds, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.watching.status_view.time.sleep", sleep)
    monkeypatch.setattr("orchestrator.watching.status_view.DRAW_SECONDS", 0.0)
    follow(read, console)
    text = console.file.getvalue()
    assert [f"{count} pending" in text for count in (7, 6, 5, 4, 3)] == [
        True,
        *[terminal] * 3,
        False,
    ]


def test_the_headline_has_an_interval_where_there_is_one(store):
    status = told(store, left=TimeLeft(seconds=7200, low=5400, high=14400))
    assert headline(status).endswith("about 2.0 h left (1.5 h to 4.0 h)")


def test_every_state_is_counted():
    assert set(STATES) == {*CellState, *Activity}
    assert sum(count_states(map(str, STATES)).values()) == len(STATES)
