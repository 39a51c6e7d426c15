"""A whole study, end to end on an embedded Ray, and what it leaves."""

import errno
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from analysis.tables import SCHEMAS
from orchestrator.cli import main
from orchestrator.results import comparing
from orchestrator.results.sample_store import read_samples
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState
from orchestrator.study import estimates as disk_need
from orchestrator.watching.progress import Progress
from orchestrator.watching.status import last_status

METHODS = ["deit", "tome", "tome", "topk", "topk"]


def cells_of(finished):
    return [finished.store.cell(cell_id) for cell_id in finished.store.cell_ids()]


def test_every_cell_is_done_and_the_page_named(finished):
    assert finished.status == 0, finished.output
    assert [cell.state() for cell in cells_of(finished)] == [CellState.DONE] * 5
    lines = finished.output.splitlines()
    assert lines[0].startswith("smoke: running on this machine (")
    assert lines[-2:] == ["smoke: 5 of 5 cells done, 0 failed", f"report: {finished.store.report}"]
    assert len([line for line in lines if "so far" not in line]) < 10  # One of these a minute.


def test_cells_reach_what_their_host_knows(finished):
    for cell in cells_of(finished):
        metrics = cell.evaluation()
        assert metrics["metric"] == "top1"
        assert metrics["images"] == 360
        assert metrics["accuracy"] >= (95.0 if cell.cell().method == "deit" else 85.0)


def test_the_evaluation_finds_what_training_selected(finished):
    for cell in cells_of(finished):
        assert cell.evaluation()["accuracy"] == pytest.approx(cell.result()["accuracy"])


def test_what_training_resumed_from_is_gone(finished):
    assert not list(finished.store.path.glob("cells/*/last/*"))


def test_reduced_cells_cost_less_and_keep_what_they_say(finished):
    by_method = {(c.cell().method, c.cell().keep_rate): c for c in cells_of(finished)}
    baseline = by_method["deit", 1.0].evaluation()
    topk = by_method["topk", 0.5].evaluation()
    assert topk["gmacs"] < 0.75 * baseline["gmacs"]
    assert topk["tokens"] == {"3": 32, "6": 16, "9": 8}
    # At a quarter the half-cap of ToMe binds: 32, 28, 25 tokens instead of 16, 4, 1.
    assert by_method["tome", 0.25].evaluation()["tokens"] == {"3": 32, "6": 20, "9": 17}


def test_artifacts_hold_every_image(finished):
    for cell in cells_of(finished):
        if cell.cell().method == "topk":
            with np.load(cell.path / "patterns.npz", allow_pickle=False) as patterns:
                assert patterns["image"].tolist() == list(range(360))
                kept = patterns["kept_3"]
            assert kept.shape == (360, 32 if cell.cell().keep_rate == 0.5 else 16)
            assert all(len(set(row)) == len(row) for row in kept.tolist())


def test_every_table_has_rows(finished):
    names = [name for name in SCHEMAS if name != "tuning"]  # Nothing is tuned.
    tables = {name: pd.read_parquet(finished.store.tables / f"{name}.parquet") for name in names}
    assert sorted(tables["results"]["method"]) == METHODS
    assert set(tables["pruning"]["comparison"]) == {"rates"}
    assert set(tables["merging"]["comparison"]) == {"rates"}
    assert set(tables["features"]["comparison"]) == {"models", "rates"}
    assert tables["pruning"]["iou_mean"].between(0, 1).all()
    assert len(tables["depth_maps"]) == 3 * 64  # The baseline and topk at two rates.


def test_the_page_is_whole_and_needs_no_network(finished):
    page = finished.store.report.read_text()
    assert page.rstrip().endswith("</html>")
    assert all(cell.cell().method in page for cell in cells_of(finished))
    assert 'src="http' not in page


def test_images_are_chosen_and_shown_with_what_each_method_did(finished):
    (sample,) = read_samples(finished.store)
    assert {cell.cell_id for cell in sample.cells} == set(finished.store.cell_ids())
    assert sample.grid == (8, 8)
    page = finished.store.report.read_text()
    for place, chosen in enumerate(sample.chosen):
        assert chosen.picture in page
        for cell in sample.cells:
            kept = {block: rows[place].count("+") for block, rows in cell.overlays.items()}
            if "-topk-tiny-r0.5" in cell.cell_id:
                assert kept == {3: 32, 6: 16, 9: 8}
    assert (finished.store.figures / "tokens-on-images-digits-tiny.png").exists()


def test_running_again_does_nothing_and_needs_no_ray(finished, capsys, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a finished study started Ray")

    monkeypatch.setattr("ray.init", refuse)
    before = {path: path.stat().st_mtime_ns for path in finished.store.path.rglob("*.json")}
    with pytest.raises(SystemExit) as ended:
        main(["run", "--study", "smoke", "--storage", str(finished.storage)])
    assert ended.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        "smoke: 5 of 5 cells done, 0 failed",
        f"report: {finished.store.report}",
    ]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_first_look_that_fails_is_repeated(finished, monkeypatch, capsys):
    """The storage answers nothing until the launch has said that it waits for it."""
    look, said = os.listdir, []

    def failing(path="."):
        if str(path).startswith(str(finished.store.path)) and not said:
            said.append(path)
            raise OSError(errno.EIO, "Input/output error", str(path))
        return look(path)

    monkeypatch.setattr(os, "listdir", failing)
    with pytest.raises(SystemExit) as ended:
        main(["run", "--study", "smoke", "--storage", str(finished.storage)])
    assert ended.value.code == 0
    waiting, again, *others = capsys.readouterr().out.splitlines()
    assert waiting == f"waiting for the storage, up to 300 s: {said[0]}: Input/output error"
    assert again.startswith("the storage works again after ")
    assert others[0] == "smoke: 5 of 5 cells done, 0 failed"


def test_running_again_waits_for_no_big_package_and_reads_little(finished):
    code = (
        "import sys\n"
        "from orchestrator.cli import main\n"
        "from orchestrator.store.store import StoredCell\n"
        "state, reads = StoredCell.state, []\n"
        "StoredCell.state = lambda cell: (reads.append(cell.id), state(cell))[1]\n"
        "try:\n"
        f"    main(['run', '--study', 'smoke', '--storage', {str(finished.storage)!r}])\n"
        "finally:\n"
        "    print(len(reads), {'ray', 'torch', 'timm', 'pandas', 'plotly'} & set(sys.modules))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    reads, _, imported = ended.stdout.splitlines()[-1].partition(" ")
    assert (ended.returncode, imported) == (0, "set()"), ended.stderr
    assert int(reads) <= 6 * 5  # Every one is several requests to an object store.


def test_status_and_cells_read_the_store(finished, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    for command in ("status", "cells"):
        with pytest.raises(SystemExit):
            main([command, str(finished.storage)])
    out = capsys.readouterr().out
    assert "smoke: 5 cells: 5 done" in out
    assert "no driver runs it" in out
    (stored,) = [line for line in out.splitlines() if line.startswith("stored: ")]
    assert "weights " in stored
    assert "other" not in stored  # All files are of a kind that `clean` knows.
    assert out.count("top1 ") == 5


def test_the_page_can_be_made_again_from_the_store(finished, capsys):
    before = finished.store.report.read_bytes()
    finished.store.report.unlink()
    with pytest.raises(SystemExit) as ended:
        main(["report", str(finished.storage)])
    assert not ended.value.code
    assert finished.store.report.read_bytes() == before
    assert capsys.readouterr().out == f"report: {finished.store.report}\n"


def drawing_told_by(store, monkeypatch):
    """Return a list that gets what the status says at each step of drawing, as others see it."""
    told, draw = [], Progress.draw

    def drawn(self, *how_far):
        draw(self, *how_far)
        told.append(last_status(store).drawing)

    monkeypatch.setattr(Progress, "draw", drawn)
    monkeypatch.setattr("orchestrator.launch.STATUS_SECONDS", 0.0)
    monkeypatch.setattr("orchestrator.watching.progress.PUBLISHING_SHARE", 1.0)  # At each step.
    return told


def test_the_page_follows_the_tables(finished, monkeypatch):
    page = finished.store.report.read_bytes()
    told = drawing_told_by(finished.store, monkeypatch)
    for path in finished.store.tables.iterdir():
        path.unlink()
    arguments = ["run", "--study", "smoke", "--storage", str(finished.storage)]
    for stages in ("report", "train,evaluate,compare,report"):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--stages", stages])
        assert ended.value.code == 0
        assert (finished.store.report.read_bytes() == page) is ("compare" in stages)
    *_, last_but_one, last = told
    what, done, of = last_but_one
    assert (what, done + 1, last) == ("drawing figures", of, None)


def test_a_rate_added_later_is_all_that_is_evaluated(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(disk_need, "_free", lambda path: 1_000_000)
    storage = tmp_path / "storage"
    shutil.copytree(finished.storage, storage)
    before = {path: path.stat().st_mtime_ns for path in storage.glob("smoke/cells/*/[!c]*")}
    arguments = ["run", "--study", "smoke", "--storage", str(storage)]
    arguments += ["--set", "grids.1.eval_keep_rates=[0.5, 0.75]"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--dry-run"])
    assert "5 cells: 4 trained, 1 done" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "the disk may run full: up to " in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    results = pd.read_parquet(storage / "smoke" / "tables" / "results.parquet")
    rates = sorted(zip(results["keep_rate"], results["eval_keep_rate"], strict=True))
    reduced = [(0.25, 0.25), (0.25, 0.5), (0.25, 0.75), (0.5, 0.5), (0.5, 0.75)]
    assert rates == sorted([(1.0, 1.0), *reduced, *reduced])
    topk = results[(results["method"] == "topk") & (results["eval_keep_rate"] == 0.75)]
    assert [list(tokens) for tokens in topk["tokens"]] == [[48, 36, 27]] * 2
    assert topk["accuracy"].min() > 80
    with pytest.raises(SystemExit):
        main(arguments)
    assert capsys.readouterr().out.splitlines()[-2] == "smoke: 5 of 5 cells done, 0 failed"


def test_a_damaged_artifact_is_named_and_made_again(finished, capsys):
    cell = cells_of(finished)[0]
    path = cell.path / "patterns.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(SystemExit) as ended:
        main(["run", "--study", "smoke", "--storage", str(finished.storage)])
    assert ended.value.code == 0
    assert f"{path} is damaged: its content does not match" in capsys.readouterr().out
    assert path.read_bytes() == whole


def test_a_failed_comparison_is_one_line_that_says_where_the_rest_is(
    finished, tmp_path, capsys, monkeypatch
):
    shutil.copytree(finished.store.path, tmp_path / "smoke")
    store = Store(tmp_path / "smoke")
    shutil.rmtree(store.tables)
    shutil.rmtree(store.comparisons)

    def odd(*unused):
        raise ValueError("all is odd\nand this is why")

    def status():
        with pytest.raises(SystemExit) as ended:
            main(["run", "--study", "smoke", "--storage", str(tmp_path)])
        return ended.value.code

    with monkeypatch.context() as patched:
        patched.setattr(comparing, "find_facts", odd)
        assert status() == 1
    file = store.comparisons / "error.txt"
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "odd" in line]
    assert line.startswith("comparing ")
    end = f" failed: ValueError: all is odd; the tables are unchanged; see {file}"
    assert line.endswith(end)
    assert "in odd" in file.read_text()
    assert "and this is why" in file.read_text()
    assert status() == 0
    assert not file.exists()
    assert store.tables.exists()


def test_figures_lie_beside_the_page_and_are_made_again(finished, capsys):
    names = {path.name for path in finished.store.figures.iterdir()}
    assert {"accuracy-by-keep-rate.svg", "accuracy-by-keep-rate.png"} <= names
    lost = finished.store.figures / "accuracy-by-keep-rate.svg"
    whole = lost.read_bytes()
    lost.write_bytes(whole[:-1])
    old = finished.store.figures / "of-an-earlier-report.svg"
    old.write_text("<svg/>")
    with pytest.raises(SystemExit):
        main(["run", "--study", "smoke", "--storage", str(finished.storage)])
    assert f"{lost} is damaged" in capsys.readouterr().out
    assert lost.read_bytes() == whole
    assert {path.name for path in finished.store.figures.iterdir()} == names
