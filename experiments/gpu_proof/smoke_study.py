"""A study of four small cells at `gpu: auto`, killed while it trains and launched again.

A rehearsal has two cells.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from experiments.gpu_proof.findings import Finding
from experiments.gpu_proof.workplace import ROOT, Workplace
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState
from orchestrator.study.study_file import Fields

SMOKE = ROOT / "experiments" / "studies" / "smoke.yaml"
LOOKS_EVERY = 0.2


def prove(place: Workplace, job: str) -> Iterator[Finding]:
    """Launch, kill once a cell has saved a state, launch again to the end."""
    with tempfile.TemporaryDirectory() as folder:
        study = _Study(Path(folder), *((2, 2) if place.rehearses else (4, 20)))
        killed = study.killed()
        yield killed
        if killed.passed:
            yield study.finished()
            yield study.went_on()
            yield study.calibrated()


def _document(cells: int, epochs: int) -> Fields:
    document: Fields = yaml.safe_load(SMOKE.read_text())
    document["recipes"]["smoke"] |= {"epochs": epochs, "checkpoint_minutes": 1e-3}
    reduced = [grid for grid in document["grids"] if "keep_rate" in grid]
    for grid in reduced:
        grid["method"] = grid["method"][: cells // len(grid["keep_rate"])]
    resources = {"tiny": {"cpu": 1, "gpu": "auto"}}
    return document | {"name": "gpu_proof", "grids": reduced, "resources": resources}


@dataclass
class _Study:
    folder: Path
    cells: int
    epochs: int
    saved: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Cell that had a state when the launch was killed -> step of the state, lines of the log."""

    @property
    def store(self) -> Path:
        return self.folder / "storage" / "gpu_proof"

    def killed(self) -> Finding:
        """Kill a launch once a cell has a state to go on from."""
        launch = self._launch()
        while launch.poll() is None and not self._states():
            time.sleep(LOOKS_EVERY)
        ended = launch.poll() is not None
        if not ended:
            launch.kill()
            launch.wait()
        self.saved = self._states()
        found = (
            "it ended before" if ended else f"{len(self.saved)} of {self.cells} cells had a state"
        )
        return Finding(what="a launch is killed while it trains", passed=not ended, found=found)

    def finished(self) -> Finding:
        """Launch again, to the end."""
        began = time.monotonic()
        status, store = self._launch().wait(), Store(self.store)
        done = sum(store.cell(name).state() is CellState.DONE for name in store.cell_ids())
        seconds = time.monotonic() - began
        return Finding(
            what="the next launch finishes the study",
            passed=status == 0 and done == self.cells,
            found=f"status {status}, {done} of {self.cells} cells done, {seconds:.0f} s",
            value=seconds,
        )

    def went_on(self) -> Finding:
        """Look whether the cells that had a state trained no step of it again."""
        repeated = 0
        for cell, (step, lines) in self.saved.items():
            entries = map(json.loads, _log(cell)[lines:])
            steps = [entry["step"] for entry in entries if entry.get("loss") is not None]
            repeated += any(each <= step for each in steps)
        return Finding(
            what="cells go on from their states",
            passed=bool(self.saved) and not repeated,
            found=f"{repeated} of {len(self.saved)} repeated a step",
        )

    def calibrated(self) -> Finding:
        """Look what `gpu: auto` came to."""
        records = [json.loads(path.read_text()) for path in self.store.glob("calibration/*.json")]
        peaks = [f"{record['peak_bytes'] / 2**20:.0f}" for record in records]
        found = f"peak memory of {len(peaks)} kinds of cells, MiB: {', '.join(sorted(peaks))}"
        found = found if peaks else "nothing was calibrated"
        return Finding(what="calibration at `gpu: auto`", found=found, ran=bool(peaks))

    def _launch(self) -> subprocess.Popen[bytes]:
        path = self.folder / "study.yaml"
        path.write_text(yaml.safe_dump(_document(self.cells, self.epochs)))
        command = [sys.executable, str(ROOT / "experiments" / "full_grid.py"), "--study", str(path)]
        command += ["--storage", str(self.store.parent), "--address", "local"]
        command += ["--stages", "train,evaluate"]
        return subprocess.Popen(command, cwd=ROOT)  # noqa: S603

    def _states(self) -> dict[Path, tuple[int, int]]:
        found = {}
        for cell in self.store.glob("cells/*"):
            states = [path.stem for path in cell.glob("last/state-*.json")]
            if steps := [int(name.removeprefix("state-")) for name in states]:
                found[cell] = (max(steps), len(_log(cell)))
        return found


def _log(cell: Path) -> list[str]:
    path = cell / "log.jsonl"
    return path.read_text().splitlines() if path.exists() else []
