"""`tokensweep export`: what a user finds in the folder, and what is refused."""

import csv
import io
import json

import pandas as pd
import pytest
from made_tables import METRICS

from orchestrator.cli import main
from orchestrator.results.table_store import read_tables
from orchestrator.store.store import Store


def export(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["export", *map(str, arguments)])
    return ended.value.code or 0


def test_every_table_lies_in_the_folder_and_the_last_line_says_so(compared, tmp_path, capsys):
    assert export(compared.path) == 0
    folder = tmp_path / "made_up-tables"
    assert sorted(path.name for path in folder.iterdir()) == [
        "accuracy-digits-tiny.tex", "results.csv", "results.tex", "seeds.csv", "seeds.tex",
    ]  # fmt: skip
    assert capsys.readouterr().out == (
        "made_up: 2 tables as 2 files made_up-tables/*.csv, 3 files made_up-tables/*.tex\n"
    )
    assert r"\textbf{91.12}" in (folder / "accuracy-digits-tiny.tex").read_text()


def test_csv_is_exact_with_lists_as_json_and_missing_values_empty(compared, tmp_path):
    assert export(compared.path, "--format", "csv", "--to", tmp_path / "out") == 0
    text = (tmp_path / "out" / "results.csv").read_text()
    (row,) = csv.DictReader(io.StringIO(text))
    table = read_tables(compared)["results"]
    assert list(row) == list(table.columns)
    assert float(row["accuracy"]) == METRICS["accuracy"]
    assert (json.loads(row["stages"]), json.loads(row["tokens"])) == ([3, 6], [32.0, 16.0])
    missing = table.columns[table.isna().iloc[0]]
    assert len(missing) > 5
    assert {row[column] for column in missing} == {""}
    assert not list((tmp_path / "out").glob("*.tex"))
    assert pd.read_csv(io.StringIO(text))["keep_rate"].tolist() == [0.5]


def test_what_lies_there_is_replaced_whole(compared, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.csv").write_text("old")
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert export(compared.path, "--to", tmp_path / "out") == 0
    assert (tmp_path / "out" / "results.csv").read_text().startswith("cell_id,")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["results", "--format", "xlsx"], "error: --format is 'xlsx', but must be one of: csv, la"),
        (["nowhere"], "error: nowhere holds no study"),
    ],
)
def test_bad_arguments_are_one_line(compared, capsys, arguments, message):
    assert export(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_a_study_without_tables_says_what_to_do(tmp_path, capsys):
    Store(tmp_path / "new").create({"name": "new"}, [])
    assert export(tmp_path / "new") == 2
    assert (
        "has no tables yet; run the study with --stages compare,report" in capsys.readouterr().err
    )
