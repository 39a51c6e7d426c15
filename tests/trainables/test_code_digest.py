"""Two processes run the same code if every source of the packages is the same."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainables.code_digest import PACKAGES, code_digest, code_folders, differing_code

ROOT = Path(__file__).parents[2]
ASK = "from trainables.code_digest import *; print(code_digest(), *code_folders())"


@pytest.fixture
def other(tmp_path):
    """Return a copy of all packages."""
    for package in PACKAGES:
        sources = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=sources)
    return tmp_path


def asked(folder):
    command = [sys.executable, "-c", ASK]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize("package", PACKAGES)
def test_any_changed_source_changes_the_digest(other, package):
    assert asked(other) == [code_digest(), str(other)]
    with (other / package / "__init__.py").open("a") as file:
        file.write(" ")
    assert asked(other)[0] != code_digest()


def test_a_renamed_source_changes_the_digest(other):
    (other / "trainables" / "recipe.py").rename(other / "trainables" / "recipes.py")
    assert asked(other)[0] != code_digest()


def test_a_difference_names_the_folder():
    assert code_folders() == [str(ROOT)]
    assert differing_code(code_digest()) is None
    assert differing_code("0") == f"other code of tokensweep in {ROOT}"
