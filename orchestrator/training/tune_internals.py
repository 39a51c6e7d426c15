"""Everything here that touches Tune's private names, or relies on how its trials are built.

See `orchestrator.cluster.ray_internals`, the one for Ray.
"""

import time
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from orchestrator.cluster.ray_internals import touches
from trainables.cell.report import TuneDict
from trainables.trial.lost_nodes import is_lost_with_node

NODES_LOST_AT_MOST = 50
"""How many lost nodes a trial outlives; a cell that takes its nodes down with it has to end."""

FAILURE = "Failure # "
"""How every failure begins in the error file of a trial.

https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/tune/experiment/trial.py#L844
"""

TRIAL_ATTRIBUTES = (
    "error_file",
    "max_failures",
    "placement_group_factory",
    "run_metadata.last_result",
    "run_metadata.last_result_time",
    "run_metadata.num_failures",
    "temporary_state.ray_actor",
)
"""What is touched of a trial, all of it undocumented."""


class CellTrial(Trial):
    """A trial whose retries are not used up by lost nodes, such as spot machines.

    It also spares the driver what only a restore or an analysis of Tune's would need.

    Args:
        spec: Tune's specification of the experiment.
        trainable: The class that is trained. Tune would ask the cluster for it again and again.
        config: The trial's configuration.
        trial_id: Its id.
        max_failures: How often it may fail and be tried again.
    """

    def __init__(
        self,
        spec: TuneDict,
        trainable: type,
        config: TuneDict,
        trial_id: str,
        max_failures: int,
    ) -> None:
        self.nodes_lost = 0
        self.node_was_lost = False
        """Whether that is how the last attempt ended."""
        self._trainable = trainable
        shared = ("storage", "checkpoint_config", "trial_name_creator", "trial_dirname_creator")
        super().__init__(
            spec["run"],
            config=config,
            trial_id=trial_id,
            experiment_tag=trial_id,
            evaluated_params={"cell": config["cell_id"]},
            max_failures=max_failures,
            **{name: spec.get(name) for name in shared},
        )

    # https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/tune/experiment/trial.py#L823
    # Public: `FailureConfig` counts all failures; `RAY_TRAIN_COUNT_PREEMPTION_AS_FAILURE` excludes
    # only preempted nodes, which autoscalers alone report.
    def handle_error(self, exc: Any = None) -> None:
        """Count a failure unless a node was lost."""
        failures = self.num_failures
        super().handle_error(exc)
        self.node_was_lost = is_lost_with_node(exc) and self.nodes_lost < NODES_LOST_AT_MOST
        if self.node_was_lost:
            self.nodes_lost += 1
            self.run_metadata.num_failures = failures

    # https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/tune/experiment/trial.py#L944
    def get_trainable_cls(self) -> type:
        """Return the class that is trained."""
        return self._trainable

    # https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/tune/experiment/trial.py#L926
    # Public: none; Tune keeps five statistics of every number of every result.
    def update_last_result(self, result: TuneDict) -> None:
        """Keep the newest result alone."""
        if not hasattr(self, "run_metadata"):
            super().update_last_result(result)
            return
        self.run_metadata.last_result = result
        self.run_metadata.last_result_time = time.time()

    # https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/tune/experiment/trial.py#L1006
    # Public: `TUNE_GLOBAL_CHECKPOINT_S` saves all trials less often, but a trial is made ready for
    # it whenever it changes: a third of the driver's time.
    def get_json_state(self) -> tuple[str, str]:
        """Return what Tune is to save of a trial: nothing, because the store has it all."""
        return "{}", "{}"


def reason_of(trial: Trial) -> str:
    """Return how the last attempt failed; the public `trial.get_error` has it only at the end."""
    if not trial.error_file:
        return str(trial.get_error())
    failures = Path(trial.error_file).read_text().split(FAILURE)
    return failures[-1].partition("\n")[2].strip()


# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/actor.py#L2440
# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/air/execution/_internal/actor_manager.py#L771
# Public: an actor's `__repr__` names its tasks, but Ray asks for it once, for the first cell.
def name_steps(trial: Trial, cell_id: str) -> None:
    """Name the training steps of a trial after its cell on Ray's dashboard.

    Tune looks `train` up on the handle of the actor, where a named one hides the method.
    """
    actor = trial.temporary_state.ray_actor
    if hasattr(actor, "_method_shells"):
        vars(actor).pop("train", None)  # The name that an earlier cell has given.
        actor.train = actor.train.options(name=f"{cell_id}.train")


# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/tune/utils/object_cache.py#L76
# Public: `reuse_actors=False`, but then every cell starts a process.
def end_process(trial: Trial) -> None:
    """Let Tune end the process of a trial that has ended.

    Tune hands a process on to a trial that requests the same resources; nobody requests these.
    """
    request = trial.placement_group_factory
    trial.placement_group_factory = tune.PlacementGroupFactory(request.bundles, name="spent")


# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/tune/tune.py#L863
# Public: `RAY_USAGE_STATS_ENABLED=0` reports nothing, but the callbacks are counted all the same.
@touches(
    "ray.air._internal.usage.tag_callbacks",
    otherwise="Tune imports wandb and others to count callbacks, which takes seconds",
)
def count_no_callbacks() -> None:
    """Spare Tune the import of wandb and others, whose callbacks it would count."""
    from ray.air._internal import usage

    usage.tag_callbacks = lambda callbacks: False
