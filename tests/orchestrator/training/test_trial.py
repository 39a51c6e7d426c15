"""What counts as a failure of a trial's own, and what as a node that was lost."""

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.tune.experiment import Trial

from orchestrator.training.trial import NODES_LOST_AT_MOST, CellTrial
from trainables.rank_group import RankDiedError, RankLostError


@pytest.fixture
def trial(monkeypatch):
    trial = Trial("__fake", stub=True)
    trial.__class__ = CellTrial
    monkeypatch.setattr(CellTrial, "local_path", None)  # It keeps its errors nowhere.
    trial.max_failures = 2
    return trial


def raised(error):
    """Return an exception as Ray hands it over that was raised in an actor's method."""
    return RayTaskError("step", "Traceback", error)


def died(message):
    error = ActorDiedError()
    error.error_msg = message
    return error


def preempted():
    error = ActorDiedError()
    error._preempted = True
    return error


@pytest.mark.parametrize(
    "error",
    [
        ActorUnavailableError("Socket closed", None),
        died("The actor died because its node has died. Node Id: 12"),
        preempted(),
        raised(RankLostError(1)),
    ],
    ids=["out of reach", "died with its node", "preempted", "a worker of several"],
)
def test_a_lost_node_uses_up_no_retry(trial, error):
    for _ in range(10):
        trial.handle_error(error)
        assert trial.node_was_lost
        assert trial.should_recover()
    assert (trial.num_failures, trial.nodes_lost) == (0, 10)


@pytest.mark.parametrize(
    "error",
    [
        died("The actor is dead because its worker process has died."),
        raised(ValueError("bad image")),
        raised(RankDiedError(1)),
    ],
    ids=["killed alone", "raised", "a worker of several"],
)
def test_a_failure_of_its_own_counts(trial, error):
    trial.handle_error(ActorUnavailableError("Socket closed", None))
    for failures in (1, 2, 3):
        trial.handle_error(error)
        assert not trial.node_was_lost
        assert trial.num_failures == failures
    assert not trial.should_recover()


def test_a_cell_that_takes_its_nodes_down_ends(trial):
    error = ActorUnavailableError("Socket closed", None)
    for _ in range(NODES_LOST_AT_MOST):
        trial.handle_error(error)
    assert trial.should_recover()
    for _ in range(3):
        trial.handle_error(error)
    assert not trial.should_recover()
