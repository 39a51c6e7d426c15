"""The trial around a cell's training: attempts that are not finite, and the ends of processes."""

import errno
import io
import json
import math
import os
import pickle
import threading

import pytest
import torch
from safetensors.torch import save

from trainables.cell.cell_folder import CellFolder
from trainables.cell.report import Ending, TrialReport
from trainables.code_digest import code_digest
from trainables.loop.loop import Finetuning
from trainables.loop.opening import open_finetuning
from trainables.storage import files
from trainables.storage import retry as patience
from trainables.storage.retry import StorageError
from trainables.trial import cell_training
from trainables.trial import process_reuse as process
from trainables.trial.config import TrialConfig
from trainables.trial.trainable import FinetuneTrainable

HALVED = {"lr": 5e-4, "min_lr": 5e-6, "warmup_lr": 5e-7}
CLIPPED = {"clip_grad": 1.0}


@pytest.fixture
def start(trial_config):
    """Return a function that starts a cell's trial in `tmp_path/cell`, as Tune would."""

    def start(cell, gpu=0):
        return FinetuneTrainable(trial_config(cell, macs=1e9, gpu=gpu))

    return start


@pytest.fixture
def folder(tmp_path):
    return CellFolder(tmp_path / "cell")


def train(trial):
    """Do what Tune does between two results; return the report."""
    result = trial.train()
    report = TrialReport.from_dict(result)
    assert result["done"] is report.done
    return report


def run(trial):
    """Let the trial run to its end; return its reports."""
    reports = []
    while not reports or not reports[-1].done:
        reports.append(train(trial))
    return reports


def log_of(folder):
    return [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()]


def result_of(folder):
    return json.loads((folder.path / "result.json").read_text())


@pytest.fixture
def poison(monkeypatch):
    """Return a function that makes the loss infinite where a predicate of the training holds."""

    def poison(holds):
        class Poisoned(Finetuning):
            def _train_step(self, *arguments):
                if holds(self):
                    with torch.no_grad():
                        self.model.head.bias.fill_(math.inf)
                super()._train_step(*arguments)

        def opened(*arguments, **options):
            finetuning = open_finetuning(*arguments, **options)
            finetuning.__class__ = Poisoned
            return finetuning

        monkeypatch.setattr(cell_training, "open_finetuning", opened)

    return poison


def recipe_of(finetuning):
    return finetuning.cell.recipe


def saved_steps(folder):
    return sorted(int(path.stem.removeprefix("state-")) for path in folder.path.glob("last/*.pt"))


def test_a_first_retry_clips_from_the_last_good_state(make_cell, start, folder, poison):
    cell = make_cell()  # 4 steps an epoch.
    poison(lambda finetuning: finetuning.step == 6 and not recipe_of(finetuning).clip_grad)
    reports = run(start(cell))
    assert [report.attempt_ended for report in reports] == [None, 1, None]
    result = result_of(folder)
    (attempt,) = result["attempts"]
    assert attempt["found"].pop("classification") == "nan"
    assert attempt == {
        "attempt": 1,
        "gentler": {},
        "first_step": 0,
        "step": 6,
        "found": {"gradient norm": "nan"},
    }
    assert (result["gentler"], reports[-1].first_step) == (CLIPPED, 4)
    (event,) = [entry for entry in log_of(folder) if "event" in entry]
    assert (event["event"], event["attempt"], event["step"]) == ("not finite", 1, 6)


def test_a_gentler_run_is_the_gentler_recipe_from_there_on(
    make_cell, start, folder, poison, finetune
):
    """Its weights are those of a run that stops at the last good state and goes on clipping."""
    cell = make_cell(lr=0.1, epochs=3)
    poison(lambda finetuning: finetuning.step == 6 and not recipe_of(finetuning).clip_grad)
    run(start(cell))
    state = torch.load(folder.path / "last" / "state-00000008.pt", weights_only=True)
    expected = finetune(cell)
    expected.run(lambda: False)
    clipping = finetune(
        cell.model_copy(update={"recipe": cell.recipe.model_copy(update={"clip_grad": 1.0})})
    )
    clipping.load_state_dict(expected.state_dict())
    clipping.run(lambda: False)
    expected.run(lambda: False)
    weights = {name: clipping.state_dict()["model"][name] for name in state["model"]}
    assert all(torch.equal(state["model"][name], tensor) for name, tensor in weights.items())
    assert not torch.equal(weights["head.weight"], expected.state_dict()["model"]["head.weight"])


def test_a_state_that_leads_to_the_failure_at_once_is_not_gone_on_from(
    make_cell, start, folder, poison
):
    poison(lambda finetuning: finetuning.step == 4 and not recipe_of(finetuning).clip_grad)
    trial = start(make_cell(checkpoint_minutes=1e-9))
    reports = run(trial)
    assert [r.training.step for r in reports if r.training] == [1, 2, 3, 4, 4, 5, 6, 7, 8]
    assert reports[-1].first_step == 3


def test_without_a_good_state_the_training_begins_anew_and_gentler(
    make_cell, start, folder, poison
):
    poison(lambda finetuning: finetuning.step == 0 and recipe_of(finetuning).lr > 5e-4)
    reports = run(start(make_cell()))
    assert [report.attempt_ended for report in reports] == [1, 2, None, None]
    result = result_of(folder)
    assert [attempt["gentler"] for attempt in result["attempts"]] == [{}, CLIPPED]
    assert [attempt["step"] for attempt in result["attempts"]] == [0, 0]
    assert result["gentler"] == CLIPPED | HALVED
    assert reports[-1].first_step == 0


def test_how_gentle_to_be_outlives_the_process(make_cell, start, folder, poison):
    poison(lambda finetuning: finetuning.step == 6 and recipe_of(finetuning).lr > 5e-4)
    trial = start(make_cell())
    while train(trial).attempt_ended is None:
        pass
    reports = run(start(make_cell()))
    assert [report.attempt_ended for report in reports] == [2, None]
    assert result_of(folder)["gentler"] == CLIPPED | HALVED
    assert len(result_of(folder)["attempts"]) == 2


def test_after_the_last_retry_the_cell_is_lost(make_cell, start, folder, poison):
    poison(lambda finetuning: finetuning.step == 6)
    reports = run(start(make_cell()))
    assert [report.attempt_ended for report in reports] == [None, 1, 2, 3]
    assert [report.done for report in reports] == [False, False, False, True]
    assert reports[-1].ending is Ending.NOT_FINITE
    assert not (folder.path / "result.json").exists()
    assert saved_steps(folder) == [4]
    again = run(start(make_cell()))
    assert [(report.attempt_ended, report.done) for report in again] == [(4, True)]
    assert folder.attempts()[-1]["gentler"] == CLIPPED | HALVED


def test_a_crash_does_not_make_the_next_attempt_gentler(
    make_cell, start, folder, monkeypatch, held
):
    trial = start(make_cell())
    trial.train()
    threading.Timer(0.2, held.set).start()
    monkeypatch.setattr(trial._training._finetuning, "run", lambda until: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trial.train()
    assert saved_steps(folder) == [4], "what was being written is waited for"
    run(start(make_cell()))
    result = result_of(folder)
    assert (result["attempts"], result["gentler"]) == ([], {})


def test_better_weights_of_an_attempt_that_ended_stay_the_best(
    make_cell, start, folder, poison, monkeypatch
):
    """The ended attempt evaluates 90 % after a state that it loses; the next finds less."""
    scores = iter([50.0, 90.0, 60.0])
    monkeypatch.setattr("trainables.loop.selecting.score", lambda *arguments: next(scores))
    poison(lambda finetuning: finetuning.step == 8 and not recipe_of(finetuning).clip_grad)
    cell = make_cell(epochs=3, ema_decay=None)
    trial = start(cell)
    reports = [train(trial) for _ in range(3)]
    assert reports[-1].attempt_ended == 1
    weights = folder.load_best()
    scores = iter([60.0, 70.0])
    run(trial)
    assert folder.load_best() == weights
    result = result_of(folder)
    assert (result["accuracy"], result["epoch"], result["last_accuracy"]) == (90.0, 2, 70.0)


def test_states_are_saved_as_often_as_asked_for(make_cell, start, folder):
    trial = start(make_cell(checkpoint_minutes=1e-9))
    for step in (1, 2, 3):
        assert train(trial).training.step == step
        trial._training._writer.wait()
        assert saved_steps(folder)[-1] == step


def test_a_process_that_finds_other_code_trains_nothing(make_cell, trial_config, folder):
    def ended(code):
        return train(FinetuneTrainable(trial_config(make_cell(epochs=1), code=code)))

    report = ended("0" * 64)
    assert report.ending is Ending.OTHER_CODE
    assert report.error.startswith("its process would run other code of tokensweep in ")
    assert not folder.path.exists()
    assert ended(code_digest()).ending is not Ending.OTHER_CODE


@pytest.mark.parametrize("end", ["finish", "stop", "not finite"])
def test_no_loader_process_outlives_a_trial(
    make_cell, start, folder, poison, tmp_path, own_processes, end
):
    poison(lambda finetuning: finetuning.step == 2 and end == "not finite")
    trial = start(make_cell(epochs=1, loader_workers=2, checkpoint_minutes=1e-9, clip_grad=0.1))
    assert train(trial).training.step == 1
    assert len(own_processes()) == 2
    if end == "stop":
        (tmp_path / "stop").touch()
        assert train(trial).ending is Ending.INTERRUPTED
    elif end == "not finite":
        trial.train()
        assert train(trial).attempt_ended == 1
    else:
        run(trial)
    assert not own_processes()


@pytest.mark.parametrize(("workers", "empty_head"), [(1, False), (3, True)])
def test_all_workers_are_reserved_at_once(workers, empty_head):
    asked = TrialConfig(
        cell_id="cell",
        cell="",
        folder="",
        stop_file="",
        index_folder="",
        cpu=2.0,
        gpu=1.0,
        workers=workers,
    )
    request = FinetuneTrainable.default_resource_request(asked.to_dict())
    assert request.bundles == [{"CPU": 2.0, "GPU": 1.0}] * workers
    assert request.head_bundle_is_empty is empty_head


def test_a_trial_is_named_after_the_first_cell_of_its_process(make_cell, start):
    cell = make_cell()
    assert repr(start(cell)) == f"{cell.id} and later cells"


@pytest.mark.parametrize(
    ("gpu", "seconds", "memory", "spent"),
    [
        (0.5, 200.0, 0, False),
        (0.5, 400.0, 0, True),
        (0.5, 200.0, 2**30, True),
        (0, 400.0, 0, False),
    ],
    ids=["young", "old", "leaking", "without GPUs"],
)
def test_a_process_with_a_gpu_ends_when_it_is_old_or_leaks(
    make_cell, start, monkeypatch, gpu, seconds, memory, spent
):
    monkeypatch.setenv("TOKENSWEEP_DEVICE", "cpu")
    monkeypatch.setattr(process, "memory_in_use", lambda: memory)
    trial = start(make_cell(), gpu=gpu)
    trial._began -= seconds
    assert run(trial)[-1].process_spent is spent
    trial.reset_config(trial.config)
    assert train(trial).process_spent is spent  # Another cell makes it no younger.


class Bomb:
    """Sets a trap in whatever unpickles it."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code from a store ran')",)


def test_a_state_that_holds_code_is_refused(make_cell, start, folder):
    """Whoever can write a store can give a state its right SHA-256."""
    buffer = io.BytesIO()
    torch.save({"weights": Bomb()}, buffer)
    folder.save_last(4, buffer.getvalue())
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        start(make_cell()).train()


@pytest.fixture
def failing_disk(monkeypatch):
    """Return a function that lets the next writes of states fail with an error's number."""
    monkeypatch.setattr(patience, "SHORTEST_PAUSE", 0.001)
    real, left = files._write_aside, [0, 0]

    def write(path, data):
        if path.suffix == ".pt" and left[0]:
            left[0] -= 1
            raise OSError(left[1], os.strerror(left[1]))
        real(path, data)

    def fail(number, times):
        left[:] = times, number

    monkeypatch.setattr(files, "_write_aside", write)
    return fail


def test_a_storage_that_fails_for_a_while_costs_the_cell_nothing(
    make_cell, start, folder, failing_disk, finetune
):
    expected = finetune(make_cell())
    expected.run(lambda: False)
    failing_disk(errno.EIO, times=3)
    reports = run(start(make_cell()))
    waiting, works = (words for report in reports for words in report.storage)
    assert waiting.endswith("state-00000004.pt: Input/output error")
    assert works.startswith("the storage works again after")
    assert (reports[-1].training.finished, result_of(folder)["attempts"]) == (True, [])
    assert folder.load_best() == save(expected.best[0])


def test_a_full_disk_ends_the_cell_with_its_last_good_state(
    make_cell, start, folder, failing_disk, monkeypatch
):
    trial = start(make_cell(checkpoint_minutes=1e-6))  # A state after every step.
    trial.train()
    monkeypatch.setattr(patience, "RETRY_SECONDS", 0.02)
    trial._training._writer.wait()
    failing_disk(errno.ENOSPC, times=10**9)
    report = run(trial)[-1]
    assert report.ending is Ending.STORAGE_FULL
    assert "No space left on device: / has " in report.error
    assert saved_steps(folder) == [1]
    failing_disk(0, times=0)
    assert run(start(make_cell(checkpoint_minutes=1e-6)))[-1].first_step == 1


@pytest.fixture
def held(monkeypatch):
    """Return a gate at which everything waits that is to become bytes; open it with `set`."""
    gate, real = threading.Event(), cell_training.as_bytes

    def as_bytes(state):
        assert gate.wait(60)
        return real(state)

    monkeypatch.setattr(cell_training, "as_bytes", as_bytes)
    yield gate
    gate.set()


def test_training_goes_on_while_a_state_is_written(make_cell, start, folder, held, finetune):
    """What is written is the state as it was, however far training has come meanwhile."""
    cell = make_cell(epochs=3)  # 4 steps an epoch.
    trial = start(cell)
    assert train(trial).training.epoch_ended
    report = trial._training._finetuning.run(lambda: False)
    assert (report.step, saved_steps(folder)) == (8, [])
    held.set()
    trial._training._writer.wait()
    state = torch.load(folder.path / "last" / "state-00000004.pt", weights_only=True)
    expected = finetune(cell)
    expected.run(lambda: False)
    expected = expected.state_dict()
    for part in ("model", "ema"):
        assert all(torch.equal(state[part][n], tensor) for n, tensor in expected[part].items())
    for index, moments in expected["moments"].items():
        assert all(torch.equal(state["moments"][index][n], x) for n, x in moments.items())
    assert state["best"] == expected["best"]


def test_until_a_state_is_written_the_one_before_it_counts(make_cell, start, folder, held):
    """As after a SIGKILL, another process finds what was whole."""
    trial = start(make_cell(epochs=3))
    held.set()
    trial.train()
    trial._training._writer.wait()
    held.clear()
    trial.train()
    found = torch.load(io.BytesIO(folder.load_last()), weights_only=True)
    assert (found["step"], folder.best_meta()["epoch"]) in {(4, 1), (4, 2)}


def test_a_cell_that_is_to_stop_waits_for_what_is_being_written(
    make_cell, start, folder, held, tmp_path
):
    trial = start(make_cell(epochs=3))
    assert train(trial).checkpoint_bytes == 0
    (tmp_path / "stop").touch()
    threading.Timer(0.2, held.set).start()
    report = train(trial)
    assert report.ending is Ending.INTERRUPTED
    assert saved_steps(folder) == [4, report.training.step]
    states = sum(path.stat().st_size for path in folder.path.glob("last/*.pt"))
    assert report.checkpoint_bytes > states
    assert report.checkpoint_blocked > 0 < report.checkpoint_seconds


def test_a_storage_that_fails_for_good_fails_the_attempt(
    make_cell, start, failing_disk, monkeypatch
):
    monkeypatch.setattr(patience, "RETRY_SECONDS", 0.02)
    failing_disk(errno.EIO, times=10**9)
    with pytest.raises(StorageError, match="Input/output error; fix that, then run the study"):
        run(start(make_cell()))
