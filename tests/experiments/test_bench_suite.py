"""The suite of benchmarks: what it compares with the last run, and what it marks."""

import pytest

from experiments.benchmarks import suite
from experiments.benchmarks.results import command


def record(value, kind="a processor", **row):
    row = {"measured": "x", "value": value, "target": "at most 1"} | row
    return {"about": {"kind": kind, "command": "python x.py"}, "rows": [row]}


@pytest.mark.parametrize(
    ("target", "value", "mark"),
    [
        ("at most 1", 1.05, ""),
        ("at most 1", 1.2, "WORSE"),
        ("below 1", 1.2, "WORSE"),
        ("at most 1", 0.5, ""),
        ("at least 1", 0.95, ""),
        ("at least 1", 0.8, "WORSE"),
        ("at least 1", 1.5, ""),
    ],
)
def test_what_is_a_tenth_worse_is_marked(target, value, mark):
    (change,) = suite.compare("training", record(value, target=target), record(1.0, target=target))
    assert (change.last, change.value, change.mark) == (1.0, value, mark)


@pytest.mark.parametrize("last", [None, record(1.0, kind="another"), record(1.0, measured="y")])
def test_only_like_is_compared_with_like(last):
    (change,) = suite.compare("training", record(9.0), last)
    assert (change.last, change.mark) == (None, "first run here")


def test_every_area_is_a_benchmark():
    assert all((suite.FOLDER / f"{name}.py").is_file() for name in suite.AREAS)


def test_where_it_writes_is_no_part_of_a_command(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/a/b/speed.py", "--out", "somewhere", "--repeats", "3"])
    assert command() == "python speed.py --repeats 3"


BENCHMARK = """
import sys
from pathlib import Path
from experiments.benchmarks.results import command, kind_of_machine, write

rows = [{"measured": "x", "value": 1.0, "target": "at least 1"}]
out = Path(sys.argv[sys.argv.index("--out") + 1])
write(out, "training", rows, {"kind": kind_of_machine(), "command": command()})
"""


def test_a_second_run_is_compared_with_the_first(tmp_path, capfd, monkeypatch):
    (tmp_path / "training.py").write_text(BENCHMARK)
    monkeypatch.setattr(suite, "FOLDER", tmp_path)
    for _ in range(2):
        suite.main(["--areas", "training", "--out", str(tmp_path)])
    first, second, _ = capfd.readouterr().out.split("wrote suite.md")
    assert "| training | x | 1 |  | first run here |" in first
    assert "| training | x | 1 | 1 |  |" in second
    assert "first run here" not in (tmp_path / "suite.md").read_text()


def test_a_benchmark_that_fails_ends_the_suite(tmp_path, monkeypatch):
    (tmp_path / "training.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(suite, "FOLDER", tmp_path)
    with pytest.raises(SystemExit, match="training failed with status 3"):
        suite.main(["--areas", "training", "--out", str(tmp_path)])
