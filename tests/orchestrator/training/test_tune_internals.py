"""Trials of cells: what counts as a failure of their own, and what Tune is spared."""

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.tune import Trainable, register_trainable

from orchestrator.training.tune_internals import FAILURE, NODES_LOST_AT_MOST, CellTrial, reason_of
from trainables.trial.rank_group import RankDiedError, RankLostError


class Trained(Trainable):
    """Stands for what a trial runs; nothing is run here."""


@pytest.fixture
def trial(monkeypatch):
    monkeypatch.setattr(CellTrial, "local_path", None)  # It keeps its errors nowhere.
    register_trainable("trained", Trained)
    return CellTrial({"run": "trained"}, Trained, {"cell_id": "a"}, "a~2", max_failures=2)


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


def test_the_newest_result_is_all_that_is_kept(trial):
    for step in (1, 2):
        trial.update_last_result({"step": step, "loss": 0.5, "training_iteration": step})
    assert trial.last_result["step"] == 2
    assert trial.metric_analysis == {}


def test_the_reason_of_a_failure_is_the_last_one_that_tune_has_written(tmp_path):
    written = tmp_path / "error.txt"
    for line in ("the first", "the second\nof two lines"):
        with written.open("a") as file:
            file.write(f"{FAILURE}1 (occurred at noon)\n{line}\n")

    class Failed:
        error_file = str(written)

    assert reason_of(Failed) == "the second\nof two lines"
    Failed.error_file, Failed.get_error = None, lambda: ValueError("only at the end")
    assert reason_of(Failed) == "only at the end"
