"""Cleaning removes what it says, only what tokensweep wrote, and never behind a driver's back."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_cells import CELL, finish
from PIL import Image

from orchestrator import console
from orchestrator.cli import main
from orchestrator.store.disk_use import OTHER, disk_use, files_below, sizes_in_words
from orchestrator.store.stored_cell import CellState
from trainables.cell.cell import Cell
from trainables.data import open_dataset
from trainables.data.cache import cached
from trainables.storage.files import write_sealed_json


def cell_of(seed):
    return Cell(**CELL.model_dump() | {"seed": seed})


@pytest.fixture
def clean(store, capsys, monkeypatch):
    """Return a function that cleans the study and returns the status and the lines it printed."""
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("TOKENSWEEP_CACHE", str(store.path.parent / "cache"))

    def clean(*options):
        with pytest.raises(SystemExit) as ended:
            main(["clean", str(store.path), *options])
        printed = capsys.readouterr()
        return ended.value.code or 0, (printed.out + printed.err).splitlines()

    return clean


def everything(folder):
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {str(path.relative_to(folder)) for path in found}


def spoil(stored):
    """Have a cell fail in the midst of its training."""
    stored.save_last(5, b"half way")
    stored.save_best(b"weights", {})
    stored.append_log({"epoch": 1})
    stored.write_error("it broke")
    return stored


def test_failed_cells_begin_anew(store, stored, clean):
    failed = cell_of(1)
    store.create({"name": "study"}, [CELL, failed])
    spoil(store.cell(failed.id))
    before = everything(store.path)
    status, lines = clean("--failed", "--yes")
    assert status == 0
    gone = {name for name in before if failed.id in name and not name.endswith("cell.json")}
    assert len(gone) == 6
    assert before - everything(store.path) == gone
    assert lines[0].startswith(f"{failed.id}  failed  6 files, ")
    assert re.fullmatch(r"removed 6 files, which frees \d+ bytes", lines[-1])
    assert store.cell(failed.id).state() is CellState.PENDING
    assert clean("--failed", "--yes") == (0, ["nothing to remove"])


def test_a_narrow_terminal_cuts_no_name(store, clean, monkeypatch):
    spoil(store.cell(CELL.id))
    monkeypatch.setattr(console, "PIPED_WIDTH", 40)
    _, lines = clean("--failed", "--yes")
    first_column = [line.split("  ")[0] for line in lines[:-1]]
    assert "".join(first_column) == CELL.id
    assert len(first_column) > 1


def test_a_failed_evaluation_costs_no_training(store, stored, clean):
    (stored.path / "eval.json").unlink()
    stored.write_error("evaluation failed")
    assert clean("--failed", "--yes")[0] == 0
    assert stored.state() is CellState.TRAINED
    assert stored.load_best() == b"weights"


def test_cells_that_left_the_study_are_orphans(store, stored, clean):
    gone = cell_of(1)
    store.create({"name": "study"}, [CELL, gone])
    finish(store.cell(gone.id))
    store.create({"name": "study"}, [CELL])
    for cell in (CELL, gone):
        write_sealed_json(store.comparisons / f"{cell.id}.json", {"facts": {}})
    before = everything(store.path)
    status, lines = clean("--orphans", "--yes")
    assert (status, lines[0].split()[:2]) == (0, [gone.id, "done,"])
    assert before - everything(store.path) == {name for name in before if gone.id in name}
    assert not store.cell(gone.id).path.exists()
    assert stored.state() is CellState.DONE


def test_what_writers_and_launches_left_goes_with_the_orphans(store, stored, clean):
    old = stored.path / ".features.npz.0123abcd.tmp"
    new = stored.path / ".patterns.npz.0123abcd.tmp"
    trace = store.path / "tune" / "launch-17" / "experiment_state.json"
    trace.parent.mkdir(parents=True)
    for path in (old, new, trace):
        path.write_bytes(b"x" * 1000)
    os.utime(old, (1, 1))
    _, lines = clean("--orphans", "--yes")
    assert lines[-1] == "removed 2 files, which frees 2.0 kB"
    assert [path.exists() for path in (old, new, trace, store.path / "tune")] == [0, 1, 0, 0]


def test_indices_and_caches_that_nothing_uses_go_with_the_orphans(store, stored, clean, tmp_path):
    kept = {}
    for name in ("used", "gone"):
        root = tmp_path / "data" / name
        for part in ("train", "val"):
            (root / part / "a").mkdir(parents=True)
            Image.new("RGB", (40, 40)).save(root / part / "a" / "0.png")
        split = cached(open_dataset("folder", root, store.datasets), 32).train
        list(split.prepare())
        (index,) = set(store.datasets.glob("*.index")) - set(kept)
        kept[index] = split.folder
    used, gone = kept
    shutil.rmtree(tmp_path / "data" / "gone")
    status, lines = clean("--orphans", "--yes")
    assert status == 0
    reason = f"{tmp_path / 'data' / 'gone'} is gone"
    assert [line.split()[0] for line in lines[:-1]] == [str(gone), str(kept[gone])]
    assert all(reason in line for line in lines[:-1])
    assert lines[-1].startswith("removed 4 files, which frees ")
    assert [path.exists() for path in (used, gone, kept[used], kept[gone])] == [1, 0, 1, 0]
    assert len(list(kept[used].iterdir())) == 3


def test_keep_best_leaves_what_a_finished_cell_is(store, stored, clean):
    begun = cell_of(1)
    store.create({"name": "study"}, [CELL, begun])
    store.cell(begun.id).save_last(5, b"half way")
    before = everything(store.path)
    assert clean("--keep-best", "--yes")[0] == 0
    states = {f"cells/{CELL.id}/last/state-00000010.{suffix}" for suffix in ("json", "pt")}
    assert before - everything(store.path) == states
    assert stored.state() is CellState.DONE
    assert stored.repair() == []
    assert store.cell(begun.id).load_last() == b"half way"


def test_links_names_with_dots_and_foreign_files_are_left_alone(store, tmp_path, clean):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.pt").write_text("precious")
    (outside / "cell.json").write_text(cell_of(2).model_dump_json())
    gone, linked = cell_of(1), cell_of(2)
    store.create({"name": "study"}, [CELL, gone])
    stored = finish(store.cell(gone.id))
    store.create({"name": "study"}, [CELL])
    cells = store.path / "cells"
    (cells / linked.id).symlink_to(outside)  # A whole cell elsewhere.
    (stored.path / "notes.txt").write_text("mine")
    (stored.path / "at-r0.5").symlink_to(outside)
    (stored.path / "last" / "state-00000099.pt").symlink_to(outside / "precious.pt")
    (stored.path / "best" / "..model.safetensors").write_text("mine")
    (stored.path / ".hidden.txt").write_text("mine")
    (cells / "my.folder").mkdir()
    (cells / "my.folder" / "result.json").write_text("mine")
    (store.path / "tune").symlink_to(outside)
    (store.path / "notes.tmp").write_text("mine")
    status, lines = clean("--orphans", "--failed", "--keep-best", "--yes")
    assert status == 0
    left = everything(stored.path)
    assert left == {
        "notes.txt",
        "at-r0.5",
        "last/state-00000099.pt",
        "best/..model.safetensors",
        ".hidden.txt",
    }
    assert everything(outside) == {"precious.pt", "cell.json"}
    assert (cells / "my.folder" / "result.json").read_text() == "mine"
    assert (store.path / "notes.tmp").exists()
    said = {line.rpartition(": ")[2] for line in lines if line.startswith("left alone")}
    assert said == {f"cells/{gone.id}/{name}" for name in left} | {"cells/my.folder"}


def test_a_forged_study_leads_nowhere(store, stored, tmp_path, clean):
    outside = tmp_path / "cells" / "victim"
    outside.mkdir(parents=True)
    (outside / "error.txt").write_text("it broke")
    text = (store.path / "study.yaml").read_text()
    (store.path / "study.yaml").write_text(text + "- ../../cells/victim\n")
    assert clean("--failed", "--yes") == (0, ["nothing to remove"])
    assert (outside / "error.txt").exists()


def test_nothing_goes_unasked(store, clean, monkeypatch):
    failed = spoil(store.cell(CELL.id))
    before = everything(store.path)
    status, lines = clean("--failed")
    assert status == 2
    assert lines[0].startswith(f"{CELL.id}  failed  6 files, ")
    assert lines[-1].startswith(
        "error: nothing was removed: there is no terminal to ask on; with --yes, clean removes 6 "
    )
    assert everything(store.path) - {"driver.lock"} == before
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, left in (("n", CellState.FAILED), ("y", CellState.PENDING)):
        monkeypatch.setattr("typer.confirm", lambda text, answer=answer: answer == "y")
        assert clean("--failed")[0] == 0
        assert failed.state() is left


def test_something_has_to_be_named(clean):
    assert clean("--yes") == (
        2,
        ["error: clean needs at least one of --failed, --orphans and --keep-best"],
    )


HOLDING = """
import sys
from pathlib import Path
from orchestrator.store.driver_lock import driving
with driving(Path(sys.argv[1]), print, print):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_study_that_is_run_is_neither_cleaned_nor_verified(store, clean, capsys):
    spoil(store.cell(CELL.id))
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, store.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    ) as driver:
        assert driver.stdout.readline() == b"held\n"
        status, lines = clean("--failed", "--yes")
        assert status == 2
        assert f"is being run by process {driver.pid} on " in lines[0]
        with pytest.raises(SystemExit):
            main(["verify", str(store.path)])
        assert f"is being run by process {driver.pid} on " in capsys.readouterr().err
        driver.communicate()
    assert store.cell(CELL.id).state() is CellState.FAILED
    assert clean("--failed", "--yes")[0] == 0


def test_verify_finds_what_stamps_hide(store, stored, capsys):
    def verify():
        with pytest.raises(SystemExit) as ended:
            main(["verify", str(store.path)])
        return ended.value.code or 0, capsys.readouterr().out.splitlines()

    assert verify() == (0, ["5 files read, 0 damaged"])
    path = stored.path / "patterns.npz"
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    status, lines = verify()
    assert status == 1
    assert lines[0].startswith(f"{path} is damaged: ")
    assert lines[-1].endswith(" files read, 1 damaged")
    assert stored.state() is CellState.TRAINED


def test_verify_reads_what_was_compared(store, stored, capsys):
    path = store.comparisons / f"{stored.id}.json"
    write_sealed_json(path, {"facts": {}})
    path.write_bytes(path.read_bytes().replace(b"facts", b"fakes"))
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(store.path)])
    assert ended.value.code == 1
    named = f"{path} is damaged: its content does not match its seal; removed"
    assert capsys.readouterr().out.splitlines()[0] == named
    assert not path.exists()


def test_every_file_of_a_launch_has_a_kind(finished):
    kinds = {file.name: file.kind for file in files_below(finished.store.path)}
    assert OTHER not in kinds.values(), kinds
    used = disk_use(finished.store.path)
    assert next(iter(used)) in ("weights", "report")
    assert sum(used.values()) == sum(
        path.stat().st_size for path in finished.store.path.rglob("*") if path.is_file()
    )
    assert "states" not in used
    assert "Tune" not in used, "they would grow with every launch"
    assert "weights " in sizes_in_words(used)
