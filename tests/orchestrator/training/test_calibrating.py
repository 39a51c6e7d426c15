"""Cells with `auto` resources are measured once, for all studies of a storage."""

from dataclasses import dataclass, field
from functools import partial
from io import StringIO

import pytest
import ray
from rich.console import Console

from orchestrator.cli import main
from orchestrator.study.expansion import expand
from orchestrator.study.study import load_study
from orchestrator.training.calibrating import Calibrating, CalibrationJob, Calibrations, kind_of
from orchestrator.training.shares import Hardware
from orchestrator.watching.launch_context import LaunchContext
from orchestrator.watching.progress import Progress
from trainables.storage.files import write_atomic

SETTINGS = ["resources.tiny={cpu: 0.25, gpu: auto}"]
MEASURED = {
    "peak_bytes": 2**30,
    "device_bytes": None,
    "seconds_an_image": 0.002,
    "macs_an_image": 1e6,
}


@pytest.fixture
def cells():
    return expand(load_study("smoke", SETTINGS))


@pytest.fixture
def known(tmp_path):
    return Calibrations(tmp_path / "calibration")


@dataclass(frozen=True)
class Fake(Calibrating):
    """A calibration with given outcomes by device and method, else `MEASURED`."""

    outcomes: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)
    console: StringIO = field(default_factory=StringIO)

    def _measure(self, jobs):
        for job in jobs:
            self.asked.append((job.device, job.cell.method, job.cell.keep_rate))
            self._take(job, self.outcomes.get((job.device, job.cell.method), MEASURED))


def calibrating(known, nodes, outcomes=None):
    console = StringIO()
    return Fake(
        study=load_study("smoke", SETTINGS),
        hardware=Hardware.of(nodes),
        known=known,
        weights=None,
        context=LaunchContext(Progress(Console(file=console, width=200), "smoke", {}, {}), None),
        outcomes=outcomes or {},
        console=console,
    )


ONE_GPU = [{"CPU": 8.0, "GPU": 1.0, "memory": 16.0 * 2**30}]


def test_each_kind_is_measured_once_at_its_highest_rate(cells, known):
    first = calibrating(known, ONE_GPU)
    shares = first.reserved(cells)
    assert sorted(first.asked) == [("GPU", "deit", 1.0), ("GPU", "tome", 0.5), ("GPU", "topk", 0.5)]
    assert {(share.cpu, share.gpu) for share in shares.values()} == {(0.25, 0.125)}
    assert set(shares) == {cell.id for cell in cells}
    again = calibrating(known, ONE_GPU)
    assert again.reserved(cells) == shares
    assert again.asked == []


def test_a_higher_rate_and_a_damaged_record_are_measured_anew(cells, known, tmp_path):
    low = next(cell for cell in cells if cell.method == "topk" and cell.keep_rate == 0.25)
    calibrating(known, ONE_GPU).reserved([low])
    higher = calibrating(known, ONE_GPU)
    higher.reserved([cell for cell in cells if cell.method == "topk"])
    assert higher.asked == [("GPU", "topk", 0.5)]
    (record,) = (tmp_path / "calibration").glob("*.json")
    write_atomic(record, record.read_bytes().replace(b"0.002", b"0.001"))
    assert known.read(CalibrationJob(low, "GPU", 1)) is None
    damaged = calibrating(known, ONE_GPU)
    damaged.reserved([low])
    assert damaged.asked == [("GPU", "topk", 0.25)]


def test_the_gpu_with_least_memory_decides(cells, known, tmp_path):
    nodes = [
        {"CPU": 64.0, "GPU": 1.0, "memory": 2.0**40, f"accelerator_type:{name}": 1.0}
        for name in ("H100", "T4")
    ]
    sizes = {"H100": 80 * 2**30, "T4": 4 * 2**30}
    measured = {
        (name, cell.method): MEASURED | {"device_bytes": size}
        for name, size in sizes.items()
        for cell in cells
    }
    shares = calibrating(known, nodes, measured).reserved(cells)
    assert {share.gpu for share in shares.values()} == {0.5}
    assert len(list(Calibrations(tmp_path / "calibration").of_all_devices(cells[0]))) == 2


def test_what_cannot_be_measured_reserves_a_whole_gpu_and_is_said(cells, known):
    topk = [cell for cell in cells if cell.method == "topk"]
    failing = {("GPU", "topk"): RuntimeError("trace\nno such kernel")}
    calibration = calibrating(known, ONE_GPU, failing)
    assert {share.gpu for share in calibration.reserved(topk).values()} == {1.0}
    assert calibration.console.getvalue() == (
        "topk on digits_tiny_patch4_32, 32 px, 64 images: "
        "calibration failed, so it reserves a whole GPU (no such kernel)\n"
    )
    assert known.read(CalibrationJob(topk[0], "GPU", 1)) is None


def test_kinds_are_what_changes_memory(cells):
    deit, *topk_and_tome = cells
    kinds = [kind_of(cell) for cell in topk_and_tome]
    assert len({kind_of(deit), *kinds}) == 3
    larger = deit.model_copy(update={"recipe": deit.recipe.model_copy(update={"batch_size": 128})})
    other = deit.model_copy(update={"dataset": "digits_multi", "seed": 3})
    assert kind_of(larger) != kind_of(deit)
    for name in ("compile", "grad_checkpointing"):
        changed = deit.recipe.model_copy(update={name: True})
        assert kind_of(deit.model_copy(update={"recipe": changed})) != kind_of(deit)
    assert kind_of(other) == kind_of(deit)


@pytest.mark.slow
def test_a_study_measures_its_cells_and_says_so(tmp_path, monkeypatch, launch_study, capsys):
    monkeypatch.setenv("TOKENSWEEP_DEVICE", "cpu")
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(ray, "init", partial(ray.init, num_cpus=2, num_gpus=1))
    only, phases = ["*-topk-tiny-r0.5-*"], ["train"]
    settings = ["resources.tiny={cpu: 0.25, gpu: auto}"]
    first = launch_study(tmp_path, study="smoke", settings=settings, only=only, phases=phases)
    assert first.status == 0, first.output
    assert "calibrating 1 kinds of cells with `auto` resources" in first.output
    assert "topk on digits_tiny_patch4_32, 32 px, 64 images: " in first.output
    assert "reserves 0.25 CPU, 0.125 GPU" in first.output  # Two CPUs for eight cells at most.
    (record,) = (tmp_path / "calibration").glob("*.json")
    before = record.read_bytes()
    again = launch_study(
        tmp_path, study="smoke", settings=[*settings, "name=other"], only=only, phases=phases
    )
    assert "calibrating" not in again.output
    assert record.read_bytes() == before
    command = ["run", "--study", "smoke", "--storage", str(tmp_path), "--dry-run"]
    with pytest.raises(SystemExit):
        main([*command, "--set", settings[0], "--set", "name=third"])
    printed = capsys.readouterr().out
    assert "0.25 CPU, auto GPU (GPU: " in printed
    assert "(not calibrated yet)" in printed
    assert "GPU hours at the speed measured of 1 of 3 kinds" in printed
