"""Whatever is damaged in a finished study, wherever and however, is found and made again."""

import io
import os
import random
import shutil
import sys
import time

import pytest
from contexts import RecordedContext
from damage import flip_a_bit, tear
from rich.console import Console

from orchestrator.commands.verify import repair_cells
from orchestrator.launch import Launch
from orchestrator.provenance import provenance
from orchestrator.store.verified import Verified
from orchestrator.study.selection import Options, select
from orchestrator.study.work import left_to_do

NOT_READ = {"tune", "driver.lock", "comparisons"}
"""What a launch of a finished study has no use for."""
WRITTEN_AGAIN = {"cell.json", "study.yaml"}
"""What every launch writes if it differs, with no need to name it."""
DECIDES_NOTHING = ("log.jsonl", "verified.json", "status.json", "progress.csv", "events.out.")
"""Names, or how they begin, of what is left out where it is damaged."""


def files_of(store):
    """All files that a launch reads, but of the figures, which are drawn all at once, only one."""
    files = sorted(path for path in store.path.rglob("*") if path.is_file())
    figures = [path for path in files if path.parent.name == "figures"]
    return [path for path in files if not NOT_READ & set(path.parts) and path not in figures[1:]]


def launch_without_ray(storage):
    """Do what a launch does before it starts Ray; return what it says and has left to do."""
    options, said = Options(study="smoke", storage=storage), io.StringIO()
    selection = select(options)
    store = selection.store
    store.create(selection.study.model_dump(mode="json") | provenance(), selection.cells)
    verified, console = Verified(store.path), Console(file=said, width=500)
    errors = repair_cells(store, selection.cells, verified, console)
    notes = [str(error) for error in errors]
    context = RecordedContext()
    work = left_to_do(selection, options, context)
    if not work:
        Launch(selection, options, None, context, verified)._report()
    return notes + context.notes, work


@pytest.mark.parametrize("damage", [tear, flip_a_bit])
def test_every_damaged_file_is_found_and_named(finished, tmp_path, damage):
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 2**32))
    sys.stdout.write(f"repeat the same damage with FAULT_SEED={seed}\n")  # Shown if it fails.
    draw, storage, found = random.Random(seed), tmp_path / "storage", 0
    for original in files_of(finished.store):
        shutil.copytree(finished.storage, storage)
        path = storage / original.relative_to(finished.storage)
        damage(path, draw)
        notes, work = launch_without_ray(storage)
        if path.name.startswith(DECIDES_NOTHING):
            assert (notes, bool(work)) == ([], False)
        elif path.name in WRITTEN_AGAIN:
            assert path.read_bytes() == original.read_bytes()
        else:
            assert any(note.startswith(f"{path} is damaged: ") for note in notes), path
            drawn = path.parent.name in ("report", "figures") or path.name == "measured.json"
            assert bool(work) is not drawn
            found += 1
        shutil.rmtree(storage)
    assert found > 40
