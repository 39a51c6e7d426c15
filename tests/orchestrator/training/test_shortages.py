"""Cells that run out of memory get more of the cluster, keep it, and fail only with all of it."""

import json
import sys
from dataclasses import replace
from functools import partial
from io import StringIO

import pytest
import ray
import torch
from ray.tune.experiment import Trial
from rich.console import Console

from orchestrator.cluster.connection import Cluster
from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState
from orchestrator.training import experiment as training
from orchestrator.training import tune
from orchestrator.training.shortages import Shortages, advice
from orchestrator.training.tune import CellScheduler
from orchestrator.watching.progress import Progress
from trainables.cell.cell import Cell
from trainables.recipe import Recipe
from trainables.storage.files import write_atomic
from trainables.trial.config import TrialConfig
from trainables.trial.memory import is_out_of_memory
from trainables.trial.trainable import FinetuneTrainable

CELL = Cell(
    dataset="digits",
    method="topk",
    capacity="tiny",
    keep_rate=0.5,
    reduction_loc=(3,),
    recipe=Recipe(host="digits_tiny_patch4_32", batch_size=64, accumulation=2),
)


def config(cpu=1.0, gpu=0.0, workers=1):
    return TrialConfig(
        cell_id=CELL.id,
        cell=CELL.model_dump_json(),
        folder="",
        stop_file="",
        index_folder="",
        cpu=cpu,
        gpu=gpu,
        workers=workers,
    )


@pytest.fixture
def shortages(tmp_path):
    nodes = ((4.0, 0.0), (6.0, 2.0))
    store = Store(tmp_path)
    store.cell(CELL.id).describe(CELL)
    progress = Progress(
        Console(file=StringIO(), width=300), "study", {CELL.id: CellState.PENDING}, {}
    )
    return Shortages(store, Cluster("here", 10.0, 2.0, nodes), progress)


@pytest.mark.parametrize(
    ("reserved", "expected"),
    [
        ({"gpu": 0.25}, {"gpu": 0.5}),
        ({"gpu": 0.3}, {"gpu": 0.6}),
        ({"gpu": 0.6}, {"gpu": 1.0}),
        ({"gpu": 1.0}, None),
        ({"gpu": 1.0, "workers": 2}, None),
        ({"cpu": 2.0}, {"cpu": 4.0}),
        ({"cpu": 4.0}, {"cpu": 6.0}),
        ({"cpu": 6.0}, None),
        ({"cpu": 2.0, "workers": 2}, {"cpu": 4.0}),
        ({"cpu": 4.0, "workers": 2}, None),  # One node has no 6 CPUs twice.
    ],
)
def test_a_share_is_doubled_up_to_all_that_one_node_has(shortages, reserved, expected):
    tried = config(**reserved)
    assert shortages.larger(tried) == (expected and replace(tried, **expected))


def test_a_cell_goes_on_with_more_and_a_later_launch_begins_with_that(shortages):
    larger = shortages.after(config(gpu=0.25), "trace\nno room for 2 GiB")
    assert larger == config(gpu=0.5)
    stored = shortages.store.cell(CELL.id)
    assert stored.log()[-1]["event"] == "out of memory"
    assert stored.error() is None
    later = Shortages(shortages.store, shortages.cluster, shortages.progress)
    assert later.with_share(config(gpu=0.25)) == config(gpu=0.5)
    assert later.with_share(config(gpu=0.75)) == config(gpu=0.75)
    assert later.with_share(config(cpu=1.0)) == config(cpu=1.0)
    assert shortages.progress._console.file.getvalue() == (
        f"{CELL.id}: out of memory with 1 CPU, 0.25 GPU; "
        "continuing from its last state with 1 CPU, 0.5 GPU\n"
    )
    record = stored.path / "memory.json"
    write_atomic(record, record.read_bytes().replace(b"0.25", b"0.75"))
    assert later.with_share(config(gpu=0.25)) == config(gpu=0.25)


def test_with_a_whole_gpu_there_is_no_more_and_advice_what_to_change(shortages):
    assert shortages.after(config(cpu=2.0, gpu=1.0), "no room for 2 GiB") is None
    assert advice(config(cpu=2.0, gpu=1.0)) == (
        "out of memory even with 2 CPU, 1 GPU, which is all there is; lower batch_size (64) and "
        "raise accumulation (2) in proportion, or split the batches between GPUs with `workers` "
        "in resources"
    )
    assert shortages.with_share(config(gpu=0.25)) == config(gpu=1.0)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_which_errors_say_that_memory_ran_out(error, expected):
    assert is_out_of_memory(error) is expected


def test_an_allocation_that_fails_for_real_says_so():
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**58)
    assert is_out_of_memory(failed.value)


@pytest.mark.parametrize(
    ("reason", "status", "gpu", "failures"),
    [
        ("2 worker(s) were killed due to the node running low on memory.", Trial.ERROR, 0.5, 3),
        ("2 worker(s) were killed due to the node running low on memory.", Trial.RUNNING, 0.25, 2),
        ("the process was killed", Trial.ERROR, 0.25, 2),
    ],
)
def test_a_trial_that_the_memory_monitor_killed_reserves_more(
    shortages, monkeypatch, reason, status, gpu, failures
):
    trial = Trial("trainable", stub=True, max_failures=2, config=config(gpu=0.25).to_dict())
    trial.status = status
    monkeypatch.setattr(tune, "reason_of", lambda trial: reason)
    CellScheduler(shortages, None).on_trial_error(None, trial)
    assert (trial.config["gpu"], trial.max_failures) == (gpu, failures)
    if gpu == 0.5:
        wanted = FinetuneTrainable.default_resource_request(trial.config)
        assert trial.placement_group_factory == wanted


class Starved(FinetuneTrainable):
    """Finds too little memory in a quarter of a GPU, and in any share for one method."""

    def open(self, config):
        training = super().open(config)
        step = training.step

        def starved():
            if config.gpu < 0.5 or "-tome-" in config.cell_id:
                torch.empty(2**58)
            return step()

        training.step = starved
        return training


@pytest.mark.slow
def test_cells_out_of_memory_go_on_with_a_larger_share_of_a_gpu(
    tmp_path, monkeypatch, launch_study
):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setenv("TOKENSWEEP_DEVICE", "cpu")
    monkeypatch.setattr(ray, "init", partial(ray.init, num_gpus=1))
    monkeypatch.setattr(training, "FinetuneTrainable", Starved)
    ended = launch_study(
        tmp_path,
        study="smoke",
        settings=["resources.tiny={cpu: 0.5, gpu: 0.25}"],
        only=["*-topk-tiny-r0.5-*", "*-tome-tiny-r0.5-*"],
        phases=["train"],
    )
    assert ended.status == 1
    topk, tome = (
        next(c for c in ended.store.cell_ids() if f"-{m}-" in c and "r0.5" in c)
        for m in ("topk", "tome")
    )
    assert ended.store.cell(topk).state() is CellState.TRAINED
    events = [entry["event"] for entry in ended.store.cell(topk).log() if "event" in entry]
    assert events == ["out of memory"]
    stored = ended.store.cell(tome)
    tried = json.loads((stored.path / "memory.json").read_text())["shortages"]
    assert [short["gpu"] for short in tried] == [0.25, 0.5, 1.0]
    assert stored.state() is CellState.FAILED
    assert stored.reason().startswith("out of memory even with 0.5 CPU, 1 GPU")
    assert f"failed: {tome}: out of memory even with" in ended.output
