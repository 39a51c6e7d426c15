"""No further cell begins on a file system that is nearly full."""

from collections import namedtuple

import pytest

from orchestrator.store import free_space
from orchestrator.store.free_space import LEAST_FREE_BYTES, FreeSpace

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disk(monkeypatch):
    """Let a test say how many bytes are free, with every look a new one."""
    free = [10**12]
    monkeypatch.setattr(free_space.shutil, "disk_usage", lambda path: Usage(10**12, 0, free[0]))
    monkeypatch.setattr(free_space, "SPACE_SECONDS", 0.0)
    return free


def test_a_nearly_full_disk_holds_cells_until_there_is_room(tmp_path, disk):
    said = []
    space = FreeSpace(tmp_path, said.append)
    assert not space.is_short()
    disk[0] = LEAST_FREE_BYTES - 1
    assert space.is_short()
    assert space.is_short()
    disk[0] = LEAST_FREE_BYTES
    assert not space.is_short()
    short, enough = said
    assert short.startswith(f"{tmp_path}: / has 536.9 MB of 1.0 TB free; no further cell starts")
    assert enough.endswith("enough for further cells to start")


def test_an_object_store_is_not_measured(s3_folder):
    said = []
    assert not FreeSpace(s3_folder, said.append).is_short()
    assert said == []
