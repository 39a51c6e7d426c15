"""The page is made from the store alone, whatever state the study is in."""

import re

import pytest
from made_cells import CELL, finish

from orchestrator.cli import main
from trainables.cell import Cell


def test_the_page_of_a_study_in_progress_shows_every_cell_as_it_is(store, capsys):
    done, failed, pending = (Cell(**CELL.model_dump() | {"seed": seed}) for seed in range(3))
    document = {"name": "half way", "git_commit": "abc", "versions": {"torch": "2"}}
    store.create(document, [done, failed, pending])
    finish(store.cell(done.id))
    store.cell(failed.id).write_error("Traceback:\nValueError: it <broke>")
    with pytest.raises(SystemExit) as ended:
        main(["report", str(store.path)])
    assert not ended.value.code
    assert capsys.readouterr().out == f"report: {store.report}\n"
    page = store.report.read_text()
    (cells,) = re.findall(r'<table data-name="cells">.*?</table>', page)
    rows = re.findall(r"<tr><td>.*?</tr>", cells)
    states = [re.search(r'class="state (\w+)"', row)[1] for row in rows]
    assert states == ["done", "failed", "pending"]
    assert "ValueError: it &lt;broke&gt;" in rows[1]
    assert ">50.00<" in rows[0]
    assert "2 of 3 cells are not evaluated and missing here" in page
    assert "No two cells have been compared yet." in page
