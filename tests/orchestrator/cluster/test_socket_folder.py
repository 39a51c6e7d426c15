"""Ray's sockets fit, however long the path of the temporary folder is."""

import os
import socket
import subprocess
import sys
import tempfile

import pytest

from orchestrator.cluster import socket_folder as module
from orchestrator.cluster.socket_folder import BELOW_RAY_S_FOLDER, socket_folder
from orchestrator.errors import UserError

LISTEN = "from multiprocessing.connection import Listener; Listener(family='AF_UNIX')"
"""What processes do that hand tensors over, such as those that load images."""


@pytest.fixture
def temporary(monkeypatch, tmp_path):
    """Return a function that makes TMPDIR a folder of a number of characters."""

    def use(characters):
        folder = str(tmp_path)
        while len(folder) < characters - 1:
            folder += "/" + "x" * min(50, characters - len(folder) - 1)
        os.makedirs(folder, exist_ok=True)
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        return folder

    return use


def bind(path):
    """Make a socket at a path, which must be short enough."""
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def test_a_short_temporary_folder_is_used(monkeypatch):
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as short:
        monkeypatch.setenv("TMPDIR", short)
        monkeypatch.setattr(tempfile, "tempdir", None)
        with socket_folder() as folder:
            assert str(folder.parent) == short
            bind(folder / BELOW_RAY_S_FOLDER[1:])
        assert not folder.exists()
        assert os.environ["TMPDIR"] == short


@pytest.mark.parametrize("characters", [80, 120, 200])
def test_a_long_temporary_folder_is_none_for_sockets(temporary, characters):
    given = temporary(characters)
    with socket_folder() as folder:
        assert str(folder.parent) == "/tmp"
        bind(folder / BELOW_RAY_S_FOLDER[1:])
        subprocess.run([sys.executable, "-c", LISTEN], check=True)
    assert not folder.exists()
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == given


def test_without_any_short_folder_the_user_is_told_what_is_missing(temporary, monkeypatch):
    temporary(120)
    monkeypatch.setattr(module, "SHORT_FOLDERS", ("/proc/none", "/proc"))
    asked = pytest.raises(UserError, match=r"set TMPDIR to one of at most \d\d characters")
    with asked, socket_folder():
        pass
