"""The console is not the study: whatever happens to it, the work goes on to its own status."""

import os
import subprocess
import sys

import pytest
import yaml
from launching import FULL_GRID, PATIENCE, STUDY

WORK = """
import os, subprocess, sys
from orchestrator.standard_streams import make_streams_steady
make_streams_steady()
for number in range(20000):
    print(number, "\\N{MIDDLE DOT}", "\\udcff")
print("told", file=sys.stderr)
told = subprocess.run([sys.executable, "-c", "import os; [*map(os.fstat, range(3))]"]).returncode
file = open(sys.argv[1], "w")
file.write(f"done {file.fileno() > 2} {told}")
file.close()
sys.exit(7)
"""


def work(tmp_path, around="", **environment):
    """Do work that prints a lot, in a shell that does something to its streams; return stderr."""
    (tmp_path / "work.py").write_text(WORK)
    done = tmp_path / "done"
    command = f'"{sys.executable}" work.py "{done}" {around}'
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.getcwd()} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ended.returncode == 7
    assert done.read_text() == "done True 0"
    return ended.stderr


@pytest.mark.parametrize("around", ["| head -1", ">/dev/full", ">&-", ">&- <&-", "> out.txt"])
def test_what_cannot_be_shown_is_dropped(tmp_path, around):
    assert work(tmp_path, around) == "told\n"


@pytest.mark.parametrize("around", ["2>&-", ">&- 2>&- <&-", "2>/dev/full >/dev/full"])
def test_without_errors_to_be_told_to_anybody(tmp_path, around):
    assert work(tmp_path, around) == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_character_that_an_encoding_lacks_is_replaced(tmp_path, encoding):
    assert work(tmp_path, "> out.txt", PYTHONIOENCODING=encoding) == "told\n"
    dot = "?" if encoding == "ascii" else "\N{MIDDLE DOT}"
    assert (tmp_path / "out.txt").read_text(encoding=encoding).splitlines()[-1] == f"19999 {dot} ?"


def test_a_reader_that_does_not_wait_gets_all(tmp_path):
    """A pipe that is set not to block is full for a moment."""
    reading = (
        "import os, sys, time; time.sleep(1); sys.stdout.write(str(len(sys.stdin.readlines())))"
    )
    unset = "import os; os.set_blocking(1, False); import runpy; runpy.run_path('work.py')"
    (tmp_path / "unset.py").write_text(unset)
    (tmp_path / "work.py").write_text(WORK)
    piped = f'"{sys.executable}" unset.py done | "{sys.executable}" -c "{reading}" > lines'
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    subprocess.run(["bash", "-c", piped], cwd=tmp_path, env=environment)
    assert (tmp_path / "lines").read_text() == "20000"


@pytest.mark.slow
def test_a_study_ends_without_any_stream(tmp_path):
    """As a daemon starts."""
    one = STUDY | {"name": "one", "grids": STUDY["grids"][:1]}
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(one))
    options = "--study one.yaml --storage s --set recipes.everything.epochs=0"
    launch = f'"{sys.executable}" "{FULL_GRID}" {options} --stages train,evaluate,report'
    closed = ["bash", "-c", f"{launch} >&- 2>&- <&-"]
    assert subprocess.run(closed, cwd=tmp_path, timeout=PATIENCE).returncode == 0
    assert (tmp_path / "s" / "one" / "report" / "index.html").is_file()
