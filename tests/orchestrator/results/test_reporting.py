"""The page is made from the store alone, whatever state the study is in."""

import io
import re

import pandas as pd
import pytest
from contexts import RecordedContext
from made_cells import CELL, finish

from analysis.records import read_arrays
from orchestrator.cli import main
from orchestrator.results.reporting import report_is_current, write_report
from trainables.cell.cell import Cell
from trainables.storage.files import read_sealed_json, write_sealed_json


def test_the_page_of_a_study_in_progress_shows_every_cell_as_it_is(store, capsys):
    done, failed, pending = (Cell(**CELL.model_dump() | {"seed": seed}) for seed in range(3))
    document = {"name": "half way", "git_commit": "abc", "versions": {"torch": "2"}}
    store.create(document, [done, failed, pending])
    finish(store.cell(done.id))
    store.cell(failed.id).write_error("Traceback:\nValueError: it <broke>")
    with pytest.raises(SystemExit) as ended:
        main(["report", str(store.path)])
    assert not ended.value.code
    assert capsys.readouterr().out == f"choosing images\ndrawing figures\nreport: {store.report}\n"
    page = store.report.read_text()
    (cells,) = re.findall(r'<table data-name="cells">.*?</table>', page)
    rows = re.findall(r"<tr><td>.*?</tr>", cells)
    states = [re.search(r'class="state (\w+)"', row)[1] for row in rows]
    assert states == ["done", "failed", "pending"]
    assert "ValueError: it &lt;broke&gt;" in rows[1]
    assert ">50.00<" in rows[0]
    assert "2 of 3 cells are not evaluated and missing here" in page
    assert "No two cells have been compared yet." in page
    assert page.count("data:image/jpeg;base64,") == 3, "one for each image of the evaluation"


@pytest.fixture
def evaluated(store):
    """A study of two finished cells of different cost, of which there are figures to draw."""
    cells = [CELL, Cell(**CELL.model_dump() | {"keep_rate": 0.25})]
    store.create({"name": "done", "git_commit": "abc", "versions": {}}, cells)
    stored = [finish(store.cell(cell.id)) for cell in cells]
    for cell, gmacs in zip(stored, (1.0, 0.5), strict=True):
        costs = {"gmacs": gmacs, "parameters": 1000}
        predictions = pd.read_parquet(io.BytesIO(cell.read_artifact("predictions.parquet")))
        arrays = {
            name: read_arrays(io.BytesIO(cell.read_artifact(f"{name}.npz")))
            for name in ("patterns", "features")
        }
        folder = cell.evaluations()[None]
        folder.write({"accuracy": 50.0} | costs, predictions, arrays)
    return stored


@pytest.fixture
def drawn(monkeypatch):
    """Names of the figures that are drawn, as they are; their files hold nothing but that."""
    names = []

    def drawing(named):
        names.append(named[0])
        return {f"{named[0]}.svg": named[0].encode()}

    monkeypatch.setattr("analysis.report.figures.files", drawing)
    return names


def test_only_figures_that_changed_are_drawn_again(store, evaluated, drawn):
    context = RecordedContext()
    assert write_report(store, evaluated, None, context)
    assert report_is_current(store, evaluated)
    figures = drawn.copy()
    assert context.shown[0] == ("choosing images", 0, 1)
    assert context.shown[1:] == [
        ("drawing figures", n + 1, len(figures)) for n in range(len(figures))
    ]
    assert len(figures) > 2
    drawn.clear()
    assert write_report(store, evaluated, None, RecordedContext())
    assert drawn == []
    (store.figures / f"{figures[1]}.svg").write_text("torn")
    assert write_report(store, evaluated, None, RecordedContext())
    assert drawn == [figures[1]]
    assert report_is_current(store, evaluated)


def test_a_report_that_is_interrupted_goes_on_with_the_next_figure(store, evaluated, drawn):
    assert not write_report(store, evaluated, None, RecordedContext(stopping=lambda: True))
    assert len(drawn) == 1
    assert not report_is_current(store, evaluated)
    assert write_report(store, evaluated, None, RecordedContext())
    assert len(drawn) == len(set(drawn)) == len(list(store.figures.glob("*.svg")))
    assert report_is_current(store, evaluated)


def test_ctrl_c_tells_how_to_go_on(store, evaluated, drawn, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.results.reporting.FigureFiles._write", interrupt)
    arguments = ["report", str(store.path)]
    monkeypatch.setattr("sys.argv", ["tokensweep", *arguments])
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 130
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("interrupted; the figures drawn so far are kept. Resume with: ")
    assert last.endswith(f"tokensweep report {store.path}")
    assert store.report.exists()


def test_a_record_of_before_is_no_hindrance(store, evaluated, drawn):
    write_report(store, evaluated, None, RecordedContext())
    path = store.report.with_name("inputs.json")
    record = read_sealed_json(path)
    del record["inputs"]["rule"]
    write_sealed_json(path, record | {"figures": {"ranks.svg": "abc"}})
    drawn.clear()
    assert not report_is_current(store, evaluated)
    assert write_report(store, evaluated, None, RecordedContext())
    assert len(drawn) > 2
