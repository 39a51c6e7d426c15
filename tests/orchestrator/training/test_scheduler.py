"""Who goes on in a process that has trained a cell, and which processes end."""

from types import SimpleNamespace
from unittest import mock

import pytest
from ray.tune import PlacementGroupFactory
from ray.tune.experiment import Trial
from ray.tune.utils.object_cache import _ObjectCache

from orchestrator.training.callbacks import TrialCallback
from orchestrator.training.tune import CellScheduler
from trainables.cell.report import TrialReport
from trainables.trial.config import TrialConfig


def trial(cell_id, status):
    return SimpleNamespace(config={"cell_id": cell_id}, status=status)


@pytest.mark.parametrize(
    ("statuses", "without_room", "chosen"),
    [
        # `a` has ended and `d` came into its place; the process of `c` is still starting.
        (
            {"a": Trial.TERMINATED, "b": Trial.RUNNING, "c": Trial.PENDING, "d": Trial.PENDING},
            "",
            "d",
        ),
        (
            {"b": Trial.RUNNING, "c": Trial.PENDING, "d": Trial.PENDING, "e": Trial.PENDING},
            "e",
            "d",
        ),
        (
            {"b": Trial.RUNNING, "c": Trial.RUNNING, "d": Trial.PENDING, "e": Trial.PENDING},
            "de",
            "d",
        ),
        ({"b": Trial.RUNNING, "c": Trial.TERMINATED}, "", None),
    ],
)
def test_a_free_process_is_for_the_cell_that_came_into_its_place(statuses, without_room, chosen):
    trials = [trial(cell_id, status) for cell_id, status in statuses.items()]
    controller = SimpleNamespace(get_trials=lambda: trials)
    source = SimpleNamespace(without_room=lambda: list(without_room))
    found = CellScheduler(None, source).choose_trial_to_run(controller)
    assert (found and found.config["cell_id"]) == chosen


@pytest.mark.parametrize("spent", [False, True])
def test_a_spent_process_is_not_handed_on(spent):
    request = PlacementGroupFactory([{"CPU": 1.0, "GPU": 0.5}])
    config = TrialConfig(cell_id="a", cell="", folder="", stop_file="", index_folder="")
    ended = SimpleNamespace(
        config=config.to_dict(),
        placement_group_factory=request,
        last_result=TrialReport(process_spent=spent).to_dict(),
    )
    TrialCallback(mock.Mock(), None).on_trial_complete(1, [], ended)
    kept = _ObjectCache()
    kept.increase_max(request)  # Another cell waits for as much.
    assert kept.cache_object(ended.placement_group_factory, object()) is not spent
    assert ended.placement_group_factory.bundles == request.bundles
