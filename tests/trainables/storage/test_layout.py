"""The list of a store's files: paths are built from it, and what lies there is known by it."""

import errno
import os
from pathlib import Path

import pytest

from trainables.storage import layout
from trainables.storage.files import write_atomic
from trainables.storage.layout import LAYOUT, OF_STORAGE
from trainables.storage.paths import store_path
from trainables.storage.retry import patience

CELL = "digits-topk-tiny-r0.5-s0-9996ca99"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("study.yaml", "records"),
        ("driver.lock", "records"),
        (f"cells/{CELL}/cell.json", "records"),
        (f"cells/{CELL}/eval.json", "records"),
        (f"cells/{CELL}/at-r0.7/eval.json", "records"),
        (f"cells/{CELL}/at-r0.7/predictions.parquet", "artifacts"),
        (f"cells/{CELL}/patterns.npz", "artifacts"),
        (f"cells/{CELL}/best/meta.json", "weights"),
        (f"cells/{CELL}/last/state-00000012.pt", "states"),
        (f"cells/{CELL}/last/state-00000012.json", "states"),
        (f"cells/{CELL}/events.out.tfevents.17.host", "logs"),
        (f"cells/{CELL}/best/.model.safetensors.1a2b.tmp", "left over"),
        (".study.yaml.0123abcd.tmp", "left over"),
        ("wandb/run-1/files/config.yaml", "logs"),
        ("tune/launch-3/trial/params.json", "Tune"),
        (f"comparisons/{CELL}.json", "comparisons"),
        ("comparisons/error.txt", "records"),
        ("tables/depth_maps.parquet", "tables"),
        ("figures/tokens.svg", "report"),
        ("stop-host-17", "left over"),
    ],
)
def test_what_tokensweep_writes_is_known(name, kind):
    assert layout.file_at(name).kind == kind


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "tables/deeper/results.parquet",
        "tables/my-results.parquet",
        f"cells/{CELL}/last/state-x.pt",
        f"cells/{CELL}/model.safetensors",
        f"cells/{CELL}/at-r0.7/deeper/eval.json",
        "tune/launch-3",
        "calibration/0123.json",
    ],
)
def test_what_it_does_not_write_is_not(name):
    assert layout.file_at(name) is None


FIELDS = {"step": 12, "launch": 3, "below": "a/b", "anywhere": "cells/c/", "random": "0a"}
FIELDS |= dict.fromkeys(("process", "writer", "cell_id", "table", "setting", "figure", "file"), "x")


def test_every_path_that_is_built_is_known_again(tmp_path):
    of_study = [file for file in LAYOUT if file.owner != OF_STORAGE]
    assert len(of_study) > 30
    for file in of_study:
        folders = {layout.OF_STUDY: tmp_path}
        cell = layout.cell_folder(tmp_path, CELL)
        path = file.below(folders.get(file.owner, cell), **FIELDS)
        assert layout.file_at(path.relative_to(tmp_path).as_posix()).kind == file.kind


def test_files_are_found_by_their_pattern(tmp_path):
    cell = layout.cell_folder(tmp_path, CELL)
    for step in (7, 12):
        path = layout.STATE.below(cell, step=step)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (path.parent / "notes.txt").touch()
    assert sorted(path.name for path in layout.STATE.found(cell)) == [
        "state-00000007.pt",
        "state-00000012.pt",
    ]


def test_a_file_of_all_cells_is_found_in_studies_and_storages(tmp_path):
    paths = [layout.RESULT.below(layout.cell_folder(tmp_path / s, CELL)) for s in ("one", "two")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
    assert sorted(layout.of_all_studies(Path(tmp_path), layout.RESULT)) == paths
    assert list(layout.of_all_cells(tmp_path / "two", layout.RESULT)) == paths[1:]


@pytest.fixture
def forbid(monkeypatch):
    """Return a function that lets nobody look into a folder, not even root."""

    def forbid(folder):
        def refusing(answer, closed):
            def refuse(path, *arguments, **options):
                if closed(Path(os.fsdecode(path))):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
                return answer(path, *arguments, **options)

            return refuse

        monkeypatch.setattr(os, "stat", refusing(os.stat, lambda path: folder in path.parents))
        inside = refusing(os.listdir, lambda path: folder in (path, *path.parents))
        monkeypatch.setattr(os, "listdir", inside)

    return forbid


def test_a_folder_beside_the_studies_that_may_not_be_read_is_passed_over(tmp_path, forbid):
    """Such as the `lost+found` of a disk."""
    storage = store_path(str(tmp_path))
    for name in ("study", "lost+found"):
        write_atomic(storage / name / "study.yaml", b"")
        write_atomic(storage / name / "cells" / "a" / "result.json", b"{}")
    assert len(layout.studies(storage)) == 2
    assert len([*layout.of_all_studies(storage, layout.RESULT)]) == 2
    forbid(Path(storage / "lost+found"))
    with patience(seconds=0):
        assert layout.studies(storage) == [storage / "study"]
        (found,) = layout.of_all_studies(storage, layout.RESULT)
        assert found == storage / "study" / "cells" / "a" / "result.json"
        with pytest.raises(PermissionError):
            (storage / "lost+found" / "study.yaml").exists()
