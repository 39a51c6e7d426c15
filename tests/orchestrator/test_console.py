"""Datasets of a study: read once for all its cells, refused before anything starts."""

import io

import pytest
from published_datasets import WRITERS
from rich.console import Console

from orchestrator.console import dataset_root, work_shown

STUDY = ("--study", "smoke", "--only", "*-deit-*", "--storage", "runs", "--dry-run")


def test_a_study_reads_a_dataset_once(call, tmp_path):
    root = WRITERS["nuswide"](tmp_path / "data" / "nuswide").root
    arguments = ("run", *STUDY, "--set", "grids.0.dataset=[nuswide]", "--data", "data")
    first, second = call(*arguments), call(*arguments)
    assert (first[0], second[0]) == (0, 0)
    assert f"reading {root}" in first[1]
    assert "reading" not in second[1]
    assert [path.suffix for path in (tmp_path / "runs" / "datasets").iterdir()] == [".index"]


def test_a_broken_dataset_is_refused_with_what_tells_more(call, tmp_path):
    written = WRITERS["nuswide"](tmp_path / "nuswide")
    image = next(iter(written.val))
    (written.root / image).unlink()
    data = str(written.root)
    status, _, err = call("run", *STUDY, "--set", "grids.0.dataset=[nuswide]", "--data", data)
    assert status == 2
    assert err == (
        f"error: dataset 'nuswide' in {data} has 1 missing images ({image}) "
        f"(tokensweep check-data nuswide {data} tells more)\n"
    )
    assert not (tmp_path / "runs").exists()


def test_a_dataset_lies_below_the_data_or_is_all_of_it(tmp_path):
    (tmp_path / "coco").mkdir()
    assert dataset_root("coco", tmp_path) == tmp_path / "coco"
    assert dataset_root("nabirds", tmp_path) == tmp_path
    assert dataset_root("digits", None) is None


@pytest.mark.parametrize("terminal", [True, False])
def test_work_is_a_bar_on_a_terminal_and_a_line_elsewhere(terminal):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=80)
    with work_shown(console) as progress:
        assert shown.getvalue() == ""
        for done in range(3):
            progress("reading birds", done, 2)
    if terminal:
        assert "reading birds" in shown.getvalue()
        assert "0/2" in shown.getvalue()
    else:
        assert shown.getvalue() == "reading birds\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_path_is_no_markup(terminal):
    printed = io.StringIO()
    console = Console(file=printed, force_terminal=terminal, width=100)
    with work_shown(console) as show:
        show("reading [red]x/[/red]", 0, 2)
        show("reading [red]x/[/red]", 1, 2)
    assert "reading [red]x/[/red]" in printed.getvalue()
