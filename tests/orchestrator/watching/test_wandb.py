"""W&B runs of the cells, with W&B's own client against a server of ours."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from wandb_server import API_KEY, WandbServer

from orchestrator.store.stored_cell import CellState
from orchestrator.watching import wandb_tracker
from orchestrator.watching.status import Activity
from orchestrator.watching.wandb_tracker import WandbTracker, wandb_settings

WANDB = Path(sys.executable).with_name("wandb")


@pytest.fixture
def server():
    with WandbServer() as server:
        yield server


@pytest.fixture
def notes():
    return []


@pytest.fixture
def launched(study, server, notes, tmp_path, monkeypatch):
    """Follow cells as a launch would; keywords are changes of the variables."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(wandb_tracker, "TELLING", wandb_tracker.PATIENCE)

    @contextmanager
    def launched(**others):
        for name, value in (server.environment() | others).items():
            monkeypatch.setenv(name, value)
        settings = wandb_settings(os.environ, study.store.path)
        with WandbTracker(settings, study.store, "made_up", notes.append) as tracker:
            yield tracker

    return launched


def run_of(server, cell):
    """The only run of a cell."""
    (run,) = (run for run in server.runs.values() if run.name.startswith(cell))
    return run


def train_in_two_launches(study, launched, **others):
    """The first cell is done in the first launch; the second is interrupted and resumed."""
    first, second = study.cells
    with launched(**others) as tracker:
        for cell in study.cells:
            tracker.changed(cell, Activity.RUNNING)
            study.train(tracker, cell, 5, 10, 15)
        study.train(tracker, first, 30)
        tracker.changed(first, Activity.EVALUATING)
        study.evaluate(tracker, first)
        tracker.changed(second, CellState.INTERRUPTED)
    with launched(**others) as tracker:
        tracker.changed(second, Activity.RUNNING)
        study.train(tracker, second, 12, 15, 20, 30)  # It goes on from the state of step 10.
        study.evaluate(tracker, second)


def assert_all_there(study, server):
    """Both cells are whole runs of the project."""
    assert len(server.runs) == 2
    for cell, steps in zip(study.cells, ([5, 10, 15, 30], [5, 10, 15, 20, 30]), strict=True):
        run = run_of(server, cell)
        assert run.steps == steps
        for row in run.history:
            assert row["loss"] == pytest.approx(1 / (row["_step"] + 1))
            assert row["loss_terms/classification"] == pytest.approx(0.75 / (row["_step"] + 1))
            assert ("accuracy" in row) == (row["_step"] % 10 == 0)
        logged = {entry["step"]: entry["time"] for entry in study.store.cell(cell).log()[:2]}
        for row in run.history[:2]:
            assert row["_timestamp"] == pytest.approx(logged[row["_step"]], abs=2)
        values = {name: item["value"] for name, item in run.config.items()}
        described = study.store.cell(cell).cell().model_dump(mode="json")
        described = {name: value for name, value in described.items() if value != {}}
        assert {name: values[name] for name in described} == described
        assert values["study"] == run.group == "made_up"
        assert values["git_commit"] == "abc"
        assert run.summary["eval/top1"] == 3.5
        assert run.summary["eval/tokens"] == {"3": 16}
        assert run.summary["best_accuracy"] == 3.0
        assert run.project == "tokensweep"
        assert run.tags[:3] == ["digits", described["method"], "tiny"]
        assert run.state == "finished"


def test_a_resumed_cell_goes_on_in_its_run(study, server, launched, notes, tmp_path):
    train_in_two_launches(study, launched, WANDB_TAGS="mine")
    assert_all_there(study, server)
    run = run_of(server, study.cells[1])
    assert run.exit_codes == [1, 0]
    assert run.preempting
    assert run.tags[3:] == ["mine"]
    assert notes == [f"W&B: online, project tokensweep at {server.url}"] * 2
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in written)
    assert [path for path in written if API_KEY.encode() in path.read_bytes()] == []


def test_offline_runs_can_be_sent_later(study, server, launched, notes):
    train_in_two_launches(study, launched, WANDB_MODE="offline")
    assert server.runs == {}
    folder = study.store.path / "wandb"
    assert notes == [f"W&B: offline; send the runs with: wandb sync {folder}"] * 2
    sync(folder, server)
    assert_all_there(study, server)


def sync(folder, server, *options):
    """Do what the note says."""
    subprocess.run(
        [WANDB, "sync", folder, *options],
        env=os.environ | server.environment(),
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.mark.slow
def test_what_went_offline_is_made_up_for_online(study, server, launched, notes):
    """The first launch is offline; what the second sends makes its folders superfluous."""
    cell = study.cells[0]
    with launched(WANDB_MODE="offline") as tracker:
        study.train(tracker, cell, 5, 10)
    with launched() as tracker:
        study.train(tracker, cell, 15)
    with launched(WANDB_MODE="offline") as tracker:
        study.train(tracker, cell, 20)
    assert run_of(server, cell).steps == [5, 10, 15]
    sync(study.store.path / "wandb", server)
    assert run_of(server, cell).steps == [5, 10, 15, 20]
    assert run_of(server, cell).state == "preempted"


@pytest.mark.slow
def test_ends_are_told_as_they_were(study, server, launched):
    failed, open_ = study.cells
    with launched() as tracker:
        for cell in study.cells:
            study.train(tracker, cell, 5)
        tracker.changed(failed, CellState.FAILED)
    assert run_of(server, failed).state == "failed"
    assert run_of(server, open_).state == "preempted"


@pytest.mark.slow
def test_stores_do_not_share_runs(study, server, launched):
    """The same cell in another storage is another run."""
    for _ in range(2):
        with launched() as tracker:
            study.train(tracker, study.cells[0], 5)
        (study.store.path / "wandb.json").unlink()
    assert len(server.runs) == 2


def assert_kept_offline(study, server, notes, reason):
    """One note says what is wrong, and the runs can be sent once that is mended."""
    _, note = notes
    folder = study.store.path / "wandb"
    assert note.startswith("W&B: ")
    assert reason in note
    assert note.endswith(f"; continuing offline; send it later with: wandb sync {folder}")
    assert server.runs == {}
    sync(folder, server)
    assert run_of(server, study.cells[0]).steps == [5, 10, 30]
    assert run_of(server, study.cells[1]).steps == [5]


def train_both(study, launched, **others):
    """Train both cells, as far as they get."""
    with launched(**others) as tracker:
        study.train(tracker, study.cells[0], 5, 10)
        study.train(tracker, study.cells[1], 5)
        study.train(tracker, study.cells[0], 30)
        study.evaluate(tracker, study.cells[0])


def test_a_wrong_key_is_one_note(study, server, launched, notes):
    wrong = "f" * 40
    train_both(study, launched, WANDB_API_KEY=wrong)
    assert_kept_offline(study, server, notes, "401")
    assert wrong not in "".join(notes)


@pytest.mark.slow
@pytest.mark.parametrize("url", ["http://127.0.0.1:9", None])
def test_a_server_that_does_not_answer_is_one_note(study, server, launched, notes, url):
    """Nobody listens there, or somebody who says nothing."""
    if url is None:
        server.silent.set()
    started = time.monotonic()
    train_both(study, launched, WANDB_BASE_URL=url or server.url, WANDB_INIT_TIMEOUT="3")
    assert time.monotonic() - started < 90, "W&B's own patience"
    server.silent.clear()
    assert_kept_offline(study, server, notes, "deadline")


@pytest.mark.slow
def test_no_key_is_one_note_and_no_question(study, server, launched, notes, monkeypatch):
    monkeypatch.setitem(os.environ, "WANDB_API_KEY", "")
    train_both(study, launched, WANDB_API_KEY="")
    assert_kept_offline(study, server, notes, "No API key configured. Use `wandb login` to log in.")


@pytest.mark.slow
def test_a_server_that_falls_silent_is_waited_for_in_vain(study, server, launched, notes):
    """What was not sent when the launch ended can be sent later."""
    with launched(WANDB_FINISH_TIMEOUT="2") as tracker:
        study.train(tracker, study.cells[0], 5)
        wait_until(lambda: server.runs and run_of(server, study.cells[0]).steps == [5])
        server.silent.set()
        study.train(tracker, study.cells[0], 10, 20)
    folder = study.store.path / "wandb"
    _, note = notes
    assert note.endswith(f" Send the rest with: wandb sync {folder} --include-online")
    server.silent.clear()
    sync(folder, server, "--include-online")
    # W&B sends the whole run again, behind what had arrived.
    assert run_of(server, study.cells[0]).steps == [5, 5, 10, 20]


def wait_until(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_one_more_note(study, server, launched, notes):
    (study.store.path / "wandb").touch()
    train_both(study, launched, WANDB_MODE="offline")
    (note,) = notes[1:]
    assert note.endswith("; this launch logs nothing more there")


@pytest.mark.slow
def test_a_killed_process_is_told_and_costs_no_cell(study, launched, notes):
    with launched() as tracker:
        tracker._process.kill()
        tracker._process.wait()
        for step in range(5, 31):
            study.train(tracker, study.cells[0], step)
    assert notes[1:] == ["W&B: its process ended with status -9; the study continues without it"]


@pytest.mark.slow
def test_a_process_that_hangs_stalls_nothing(study, launched, notes, monkeypatch):
    """Neither reports nor the end of the launch wait for it."""
    monkeypatch.setattr(wandb_tracker, "PATIENCE", 1.5)
    monkeypatch.setattr(wandb_tracker, "TELLING", 0.5)
    monkeypatch.setattr(wandb_tracker, "WAITING_MESSAGES", 100)
    with launched() as tracker:
        tracker._process.send_signal(signal.SIGSTOP)
        study.train(tracker, study.cells[0], *range(1, 31))
        started = time.monotonic()
        for _ in range(1000):
            tracker.changed(study.cells[0], CellState.DONE)
        # Had it waited for each of them, it would have taken 1000 times TELLING.
        assert time.monotonic() - started < 100
    assert "W&B: too slow for this study; some reports are not sent" in notes
    assert tracker._process.poll() is not None


@pytest.mark.slow
def test_the_death_of_the_driver_ends_the_runs(study, server, launched):
    script = f"""
        import os, time
        from pathlib import Path
        from orchestrator.store.store import Store
        from orchestrator.watching.wandb_tracker import wandb_settings
        from orchestrator.watching.wandb_tracker import WandbTracker
        from reports import report

        store = Store(Path({str(study.store.path)!r}))
        settings = wandb_settings(os.environ, store.path)
        with WandbTracker(settings, store, "made_up", print) as tracker:
            store.cell({study.cells[0]!r}).append_log(report(5).entry())
            tracker.reported({study.cells[0]!r}, report(5))
            print(tracker._process.pid, flush=True)
            time.sleep(600)
    """
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | server.environment() | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with driver:
        assert driver.stdout.readline().startswith("W&B: online")
        process = int(driver.stdout.readline())
        wait_until(lambda: server.runs)
        driver.kill()
    wait_until(lambda: run_of(server, study.cells[0]).exit_codes)
    assert run_of(server, study.cells[0]).state == "preempted"
    assert run_of(server, study.cells[0]).steps == [5]
    wait_until(lambda: not Path(f"/proc/{process}").exists())
