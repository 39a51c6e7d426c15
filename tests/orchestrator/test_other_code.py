"""Ray's processes run the driver's code, whatever lies around, or nothing at all."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from launching import FULL_GRID, PATIENCE, STUDY

from orchestrator.cluster import same_code
from orchestrator.cluster.connection import connected
from orchestrator.errors import UserError
from trainables.code_digest import code_folders

pytestmark = pytest.mark.slow

ONE_CELL = STUDY | {"name": "one", "grids": STUDY["grids"][:1]}
THEIRS = 'raise ImportError("the module of the user\'s project")'


def test_modules_in_the_working_folder_do_not_matter(tmp_path):
    for package in ("analysis", "reduction", "trainables", "orchestrator"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(THEIRS)
    for module in ("timm", "random", "types_"):
        (tmp_path / f"{module}.py").write_text(THEIRS)
    Path(tmp_path, "one.yaml").write_text(yaml.safe_dump(ONE_CELL))
    options = ["--study", "one.yaml", "--storage", "s", "--set", "recipes.everything.epochs=0"]
    command = [sys.executable, FULL_GRID, *options, "--stages", "train,evaluate"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_ray_with_other_code_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(same_code, "driver_digest", lambda: "0" * 64)
    with pytest.raises(UserError) as refused, connected(None, verbose=False):
        pass
    (folder,) = code_folders()
    assert str(refused.value) == (
        f"Ray's processes on 127.0.0.1 would run other code of tokensweep in {folder}, but this "
        f"launch runs that in {folder}; install the same version there"
    )
