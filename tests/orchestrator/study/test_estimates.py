"""What cells will take on the disk, against what they took, and against what is free."""

from collections import namedtuple

import pytest
from rich.console import Console

from orchestrator.store.disk_use import disk_use
from orchestrator.study import estimates as disk_need
from orchestrator.study.estimates import DiskNeed, DiskPeak
from orchestrator.study.preflight import preflight
from orchestrator.study.selection import Options, select

Usage = namedtuple("Usage", "total used free")

NEED = DiskNeed(weights=10, states=90, artifacts=5)


def test_the_smoke_study_takes_no_more_than_was_said_and_not_much_less(finished, tmp_path):
    options = Options(study="smoke", storage=tmp_path)
    needs = preflight(select(options), options, Console(quiet=True)).disk
    used = disk_use(finished.store.path)
    assert needs.keys() == set(finished.store.cell_ids())
    for kind, at_most in (("weights", 1.05), ("artifacts", 2.5)):
        said = sum(getattr(need, kind) for need in needs.values())
        assert used[kind] <= 1.05 * said
        assert said <= at_most * used[kind]


def test_the_peak_has_the_largest_cells_training_at_once():
    larger = DiskNeed(weights=20, states=180, artifacts=5)
    peak = DiskPeak.of([NEED, larger, NEED], [larger], at_once=2)
    assert peak == DiskPeak(weights=40, states=270, artifacts=20)
    assert str(peak) == "330 bytes: weights 40 bytes, states 270 bytes, artifacts 20 bytes"
    assert DiskPeak.of([], [larger], at_once=0).total == 5


@pytest.mark.parametrize(("free", "enough"), [(105, True), (104, False)])
def test_a_shortage_is_told_with_what_is_free(tmp_path, monkeypatch, free, enough):
    monkeypatch.setattr(disk_need.shutil, "disk_usage", lambda path: Usage(1000, 1000 - free, free))
    said = DiskPeak.of([NEED], [], at_once=1).shortage(tmp_path / "not" / "there")
    assert (said is None) == enough
    if not enough:
        assert said.startswith("the disk may run full: up to 105 bytes: weights 10 bytes, ")
        assert said.endswith("may still be written, and / has 104 bytes of 1.0 kB free")


def test_an_object_store_has_room_for_everything(s3_folder):
    assert DiskPeak.of([NEED], [], at_once=1).shortage(s3_folder) is None
