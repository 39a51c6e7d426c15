"""The profile of a cell: all parts are there, and what they take adds up."""

import time

import pytest
import torch
from backends import Backend

from trainables.loop import part_timing as parts
from trainables.loop.part_timing import PartTimer, recording
from trainables.models import compiling
from trainables.trial.profiling import (
    CellProfile,
    PartTime,
    ProfiledTrainable,
    peak_macs_per_second,
)

STEPS = 3
TWICE_A_STEP = {"data wait", "copy to device", "normalise", "mixup", "forward", "backward"}
"""Gradients are accumulated over two batches."""
IN_EVERY_STEP = TWICE_A_STEP | {"optimiser", "average"}


@pytest.fixture
def profile(make_cell, trial_config):
    """Return the profile of a cell with an average, and how long it took."""
    cell = make_cell(ema_decay=0.9, checkpoint_minutes=10)
    trial = ProfiledTrainable(trial_config(cell))
    began = time.perf_counter()
    profile = trial.profile(STEPS)
    seconds = time.perf_counter() - began
    assert trial.train()["report"].training.step > STEPS
    assert trial.seconds() > 0
    trial.stop()
    return profile, seconds


def test_all_parts_are_told_apart_and_add_up(profile):
    profile, seconds = profile
    assert set(profile.parts) == IN_EVERY_STEP | {"evaluation", "checkpoint"}
    assert all(part.seconds > 0 for part in profile.parts.values())
    assert {profile.parts[name].steps for name in TWICE_A_STEP} == {0.5}
    assert profile.parts["optimiser"].steps == profile.parts["average"].steps == 1
    # 160 images, 40 a step; the state is saved when the epoch ends, long before the time.
    assert profile.parts["evaluation"].steps == profile.parts["checkpoint"].steps == 4
    recorded = sum(profile.parts[name].seconds_a_step for name in IN_EVERY_STEP)
    assert STEPS * recorded < seconds
    assert profile.images_a_step == 40
    assert profile.macs_per_second > 0
    assert profile.utilisation > 0


class Watched(Backend):
    """Notes whether parts are recorded while it compiles."""

    def __init__(self):
        super().__init__()
        self.recorded = []

    def __call__(self, graph, inputs):
        self.recorded.append(parts._RECORDER.get() is not None)
        return super().__call__(graph, inputs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiling_counts_for_no_part(small_cell, trial_config, monkeypatch):
    torch.compiler.reset()
    backend = Watched()
    monkeypatch.setattr(compiling, "BACKEND", backend)
    # 8 steps to an epoch, whose end, with an evaluation, is not reached.
    trial = ProfiledTrainable(trial_config(small_cell("evit", compile=True, accumulation=1)))
    trial.profile(steps=2)
    trial.stop()
    assert backend.recorded == [False, False]
    torch.compiler.reset()


def test_recording_changes_no_weight(finetune, make_cell):
    plain, recorded = (finetune(make_cell()) for _ in range(2))
    plain.run(until=lambda: False)
    with recording(PartTimer(torch.device("cpu"))):
        recorded.run(until=lambda: False)
    weights = plain.model.state_dict()
    assert all(torch.equal(weights[name], x) for name, x in recorded.model.state_dict().items())


def test_reports_are_rarer_than_steps():
    profile = CellProfile("CPU", 1, "float32", 10, 1, 100.0, {}, 1.0, 2.0)
    # A step takes 0.1 s, and there is a report every 15 s.
    assert profile.report(0.3) == PartTime(0.3, 150.0)
    assert profile.report(0.3).seconds_a_step == pytest.approx(0.002)
    assert profile.utilisation == 0.5


def test_a_product_of_matrices_takes_its_time():
    began = time.perf_counter()
    peak = peak_macs_per_second(torch.device("cpu"), torch.float32)
    # Six products of side 1024 took all of that.
    assert peak > 6 * 1024**3 / (time.perf_counter() - began)
