"""Two processes that train a cell together end where one ends, up to rounding."""

import io
import json
import multiprocessing
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

EVERYTHING_ON = {
    "batch_size": 18,
    "accumulation": 3,
    "drop_path": 0.0,
    "mixup": 0.8,
    "cutmix": 1.0,
    "clip_grad": 1.0,
    "repeated_augmentation": 3,
}
"""8 batches an epoch in windows of 3, 3 and 2; ranks take 10 and 8 images of each. Drop path is
off, as each rank draws its own."""


@pytest.fixture(scope="module")
def odd_folder(image_folder, tmp_path_factory):
    """Return a dataset of 159 training and 39 evaluation images."""
    root = tmp_path_factory.mktemp("odd") / "digits"
    shutil.copytree(image_folder, root)
    for split in ("train", "val"):
        next((root / split).glob("*/*")).unlink()
    return str(root)


@pytest.fixture(scope="module")
def scenarios():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        import rank_scenarios

        yield rank_scenarios
    del sys.modules["rank_scenarios"]


@pytest.fixture(scope="module")
def processes(scenarios):
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as first, ProcessPoolExecutor(1, spawn) as second:
        yield first, second


@pytest.fixture(scope="module")
def together(scenarios, processes):
    """Return a function that runs a scenario on 1 or 2 ranks and returns what each gave."""

    def run(size, scenario, *arguments):
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        futures = [
            process.submit(scenarios.run, rank, size, store.port, scenario, *arguments)
            for rank, process in enumerate(processes[:size])
        ]
        return [future.result() for future in futures]

    return run


@pytest.fixture(scope="module")
def cell(make_cell):
    return make_cell(**EVERYTHING_ON).model_dump(mode="json")


@pytest.fixture(scope="module")
def alone(together, scenarios, cell, odd_folder):
    return together(1, scenarios.train, cell, odd_folder)[0]


@pytest.fixture(scope="module")
def shared(together, scenarios, cell, odd_folder):
    return together(2, scenarios.train, cell, odd_folder)


def loaded(outcome):
    return torch.load(io.BytesIO(outcome["state"]), weights_only=True)


def tensors(outcome):
    state = loaded(outcome)
    found = {f"{part} {name}": x for part in ("model", "ema") for name, x in state[part].items()}
    for index, moments in state["moments"].items():
        found |= {f"{name} {index}": value for name, value in moments.items()}
    return found


def assert_close(outcome, expected):
    ours, theirs = tensors(outcome), tensors(expected)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        # The loss is computed in float32.
        scale = theirs[name].abs().max().item()
        torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-6 * scale, msg=name)
    ours, theirs = loaded(outcome), loaded(expected)
    assert (ours["step"], ours["accuracy"]) == (theirs["step"], theirs["accuracy"])


def test_two_ranks_train_like_one(alone, shared):
    assert_close(shared[0], alone)
    reports = zip(shared[0]["reports"], alone["reports"], strict=True)
    for together, single in reports:
        assert together.loss == pytest.approx(single.loss, rel=1e-6)
        for name in ("lr", "step", "accuracy", "best_accuracy", "metric"):
            assert getattr(together, name) == getattr(single, name)
    timings = {"train_seconds": None, "data_wait": None}
    assert shared[0]["result"] | timings == alone["result"] | timings


def test_ranks_end_with_the_same_bits(shared):
    first, second = (tensors(outcome) for outcome in shared)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_another_number_of_ranks_goes_on(
    together, scenarios, cell, odd_folder, alone, before, after
):
    state = together(before, scenarios.train, cell, odd_folder, None, 2)[0]["state"]
    assert_close(together(after, scenarios.train, cell, odd_folder, state)[0], alone)


def test_a_cell_in_the_store_goes_on_with_other_numbers_of_ranks(
    together, scenarios, cell, odd_folder, tmp_path
):
    config = {
        "cell_id": "cell",
        "cell": json.dumps(cell | {"recipe": cell["recipe"] | {"checkpoint_minutes": 1e-9}}),
        "folder": str(tmp_path),
        "stop_file": str(tmp_path / "stop"),
        "data_root": odd_folder,
        "index_folder": str(tmp_path / "datasets"),
        "threads": 1,
        "macs": 1e9,
        "gpu": 0,
    }
    for ranks, steps, last in ((2, 2, 2), (1, 2, 4), (2, 2, 6)):
        reports = together(ranks, scenarios.train_in_folder, config, steps)
        for report in (rank[-1] for rank in reports):
            assert (report.training.step, report.training.finished, report.done) == (
                last,
                *[last == 6] * 2,
            )
    assert reports[0][0].first_step == 4
    # The last step's result leaves no state.
    newest = max((tmp_path / "last").glob("*.pt"))
    assert newest.stem == "state-00000005"
    alone = together(1, scenarios.train, cell, odd_folder, None, 5)[0]
    assert_close({"state": newest.read_bytes()}, alone)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("method", "keep_rate"), [("dynamicvit", 0.5), ("dpcknn", 1.0), ("l1", 0.5)]
)
def test_methods_that_are_not_plain_train_together(
    together, scenarios, make_cell, odd_folder, method, keep_rate
):
    """One needs the trace, one has parameters that no gradient reaches, one has buffers."""
    cell = make_cell(method, keep_rate=keep_rate, epochs=1, batch_size=78, accumulation=2)
    outcomes = together(2, scenarios.train, cell.model_dump(mode="json"), odd_folder)
    first, second = (tensors(outcome) for outcome in outcomes)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert outcomes[0]["reports"][0].step == 1


def test_several_labels_are_scored_over_all_ranks(together, scenarios, make_cell, odd_folder):
    cell = make_cell(dataset="digits_multi", epochs=0, warmup_epochs=0, ema_decay=None)
    arguments = (scenarios.train, cell.model_dump(mode="json"), odd_folder)
    outcomes = [*together(1, *arguments), *together(2, *arguments)]
    single, *both = (outcome["reports"][0].accuracy for outcome in outcomes)
    assert both == pytest.approx([single] * 2, rel=1e-9)


def noted(outcome):
    return [words for report in outcome["reports"] for words in report.notes]


@pytest.fixture(scope="module")
def small(small_cell):
    """Return a cell whose model has a buffer, and whose every pass ends with an optimiser step."""
    changes = {"batch_size": 36, "accumulation": 1, "epochs": 1}
    return small_cell("l1", **EVERYTHING_ON | changes).model_dump(mode="json")


@pytest.fixture(scope="module")
def uncompiled(together, scenarios, small, odd_folder):
    return together(2, scenarios.train, small, odd_folder)[0]


@pytest.fixture(scope="module")
def train_compiled(together, scenarios, small, odd_folder):
    """Return a function that trains on two ranks whose backends break as it is told."""
    compiled = small | {"recipe": small["recipe"] | {"compile": True}}

    def train(*broken):
        return together(2, scenarios.train_compiled, compiled, odd_folder, broken)

    return train


def test_two_compiled_ranks_train_like_uncompiled_ones(train_compiled, uncompiled):
    outcomes = train_compiled(None, None)
    for outcome in outcomes:
        assert outcome["graphs"]
        assert noted(outcome) == []
        assert_close(outcome, uncompiled)


@pytest.mark.parametrize(
    "broken",
    [
        ("compiling", None),
        (None, "halfway"),
        pytest.param((None, "compiling"), marks=pytest.mark.slow),
        pytest.param(("backward", None), marks=pytest.mark.slow),
        pytest.param(("compiling", "compiling"), marks=pytest.mark.slow),
    ],
)
def test_where_a_rank_cannot_compile_none_does(train_compiled, uncompiled, broken):
    """A rank that tried again alone would wait for others that do not."""
    outcomes = train_compiled(*broken)
    assert all(outcome["graphs"] for outcome in outcomes)
    first, second = (tensors(outcome) for outcome in outcomes)
    expected = tensors(uncompiled)
    for name, value in first.items():
        assert torch.equal(value, expected[name]), name
        assert torch.equal(value, second[name]), name
    reason = "no compiler" if "compiling" in broken else "no backward pass"
    words = f"trains without being compiled, more slowly: RuntimeError: {reason}"
    assert [noted(outcome) for outcome in outcomes] == [[words], [words]]


def test_a_loss_that_is_not_finite_on_one_rank_ends_all(together, scenarios, make_cell, odd_folder):
    cell = make_cell(epochs=1).model_dump(mode="json")
    first, second = together(2, scenarios.train_with_a_bad_loss, cell, odd_folder)
    assert first == second
    assert "after 0 optimiser steps: classification nan" in first


def test_all_ranks_stop_when_one_wants_to(together, scenarios, make_cell, odd_folder):
    cell = make_cell(epochs=1).model_dump(mode="json")
    assert together(2, scenarios.stop_one, cell, odd_folder) == [2, 2]
