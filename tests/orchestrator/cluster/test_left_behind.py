"""What a killed launch has left of its Ray is removed, and nothing of anybody else's."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from launching import wait_until

from orchestrator.cluster import left_behind as module
from orchestrator.cluster.left_behind import LOCK, held, remove_left_behind
from orchestrator.cluster.socket_folder import socket_folder

LAUNCH = """
import subprocess
from orchestrator.cluster.socket_folder import socket_folder
with socket_folder() as folder:
    # Like Ray's processes it has no descriptor of the launch, and names its folder.
    own = subprocess.Popen(["sh", "-c", f"sleep 600; : {folder}/session/sockets"], stdout=-3)
    print(folder, own.pid, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def temporary(monkeypatch, tmp_path):
    """Return the temporary folder, whose path is short enough for Ray."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr("orchestrator.cluster.socket_folder.SHORT_FOLDERS", ())
        yield Path(folder)


@pytest.fixture
def launch(temporary):
    """Return a launch in a process, its folder, and a process that works there."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", LAUNCH], cwd=os.getcwd(), **pipes) as process:
        folder, working = process.stdout.readline().split()
        yield process, Path(folder), int(working)
        process.kill()


def is_alive(process):
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]
    except FileNotFoundError:
        return False


def test_a_folder_in_use_is_left_alone_and_one_of_a_killed_launch_is_not(launch, temporary):
    process, folder, working = launch
    others = temporary / "ray-cluster"
    others.mkdir()
    with socket_folder():
        assert (folder / LOCK).exists()
        assert is_alive(working)
    process.kill()
    process.wait()
    assert folder.exists()
    with socket_folder() as new:
        assert not folder.exists()
        assert new.parent == folder.parent
    assert others.exists()
    wait_until(lambda: not is_alive(working))


def test_another_user_s_folder_is_left_alone(tmp_path, monkeypatch):
    folder = tmp_path / "ray-theirs"
    folder.mkdir()
    with held(folder):
        pass
    monkeypatch.setattr(module.os, "getuid", lambda: 4242)
    remove_left_behind([str(tmp_path)])
    assert folder.exists()
    monkeypatch.undo()
    remove_left_behind([str(tmp_path)])
    assert not folder.exists()


def test_a_link_leads_nowhere(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with held(folder):
        pass
    (tmp_path / "ray-link").symlink_to(folder)
    remove_left_behind([str(tmp_path), str(tmp_path / "missing")])
    assert (folder / LOCK).exists()
