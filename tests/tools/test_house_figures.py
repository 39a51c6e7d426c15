"""The figures of the layout, counted in small trees that can be counted by hand."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "house_figures.py"


@pytest.fixture(scope="module")
def house_figures():
    spec = importlib.util.spec_from_file_location("house_figures", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def repository(tmp_path):
    """Two wings that import each other, one of them inside a function, and one that does not."""
    files = {
        "orchestrator/__init__.py": "",
        "orchestrator/store/__init__.py": "",
        "orchestrator/store/lock.py": "from orchestrator import run\n\n\nclass Cell:\n    pass\n",
        "orchestrator/run.py": (
            "def go() -> None:\n"
            '    """Go."""\n'
            "    from orchestrator.store.lock import Cell\n"
            "    Cell()\n"
        ),
        "orchestrator/cli.py": "from orchestrator.run import go\n\n\nclass Cell:\n    pass\n",
        "trainables/lock.py": (
            "from typing import Any\n\n\ndef stop(x: dict[str, Any]) -> None:\n    x.clear()\n"
        ),
        "experiments/grid.py": "from typing import Any\n\nx: dict[str, Any] = {}\n",
        "tests/test_run.py": "class Cell:\n    pass\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *author, *words], check=True)
    return tmp_path


def test_everything_is_counted(house_figures, repository):
    expected = {
        "two-way pairs of wings": "1 (orchestrator.run <-> orchestrator.store)",
        "dict[str, Any] and Mapping[str, Any]": "1",
        "class names used twice or more": "1 (Cell x2)",
        "file names used twice or more": "1 (lock x2)",
        "files": "7",
        "lines": "22",
    }
    counted = house_figures.figures(house_figures.revision("HEAD", repository))
    assert counted.items() >= expected.items()
    assert counted == house_figures.figures(house_figures.working_tree(repository))


def test_a_function_is_as_long_as_its_lines_without_the_docstring(house_figures):
    text = 'def go(\n    x: int,\n) -> int:\n    """Go.\n\n    Far.\n    """\n    return x\n'
    counted = house_figures.figures({"reduction/a.py": text, "reduction/b.py": text})
    assert counted["lines of a function, median / p90 / max"] == "4 / 4 / 4"


def test_a_change_shows_before_and_after(house_figures, repository, monkeypatch, capsys):
    (repository / "trainables/lock.py").unlink()
    subprocess.run(["git", "-C", repository, "add", "."], check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", repository, *author, "commit", "-qm", "second"], check=True)
    monkeypatch.setattr(house_figures, "ROOT", repository)
    monkeypatch.setattr(sys, "argv", ["house_figures.py", "HEAD~1", "HEAD"])
    house_figures.main()
    printed = capsys.readouterr().out.splitlines()
    assert "files: 7 -> 6" in printed
    assert "file names used twice or more: 1 (lock x2) -> 0" in printed
