"""Tune's trial of a cell, which tells a lost node from a failure of its own."""

import time
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.experiment.trial import _Location
from ray.tune.result import NODE_IP, PID

from trainables.lost_nodes import is_lost_with_node

NODES_LOST_AT_MOST = 50
"""How many lost nodes a trial outlives; a cell that takes its nodes down with it has to end."""


class CellTrial(Trial):
    """A trial whose retries are not used up by nodes that are lost, as spot machines are.

    It also spares the driver what only a restore or an analysis of Tune's would need.
    """

    trainable: type
    """The class that is trained; Tune would ask the cluster for it again and again."""
    nodes_lost = 0
    node_was_lost = False
    """Whether that is how the last attempt ended."""

    def handle_error(self, exc: Any = None) -> None:
        """Count a failure unless a node was lost."""
        failures = self.run_metadata.num_failures
        super().handle_error(exc)
        self.node_was_lost = is_lost_with_node(exc) and self.nodes_lost < NODES_LOST_AT_MOST
        if self.node_was_lost:
            self.nodes_lost += 1
            self.run_metadata.num_failures = failures

    def get_trainable_cls(self) -> type:
        """Return the class that is trained."""
        return self.trainable

    def update_last_result(self, result: dict[str, Any]) -> None:
        """Keep the newest result; Tune would keep five statistics of each of its numbers, too."""
        self.set_location(_Location(result.get(NODE_IP), result.get(PID)))
        self.run_metadata.last_result = result
        self.run_metadata.last_result_time = time.time()

    def get_json_state(self) -> tuple[str, str]:
        """Return what Tune is to save of a trial, twice: the store tells the next launch all.

        What it would save, of every result's every number, took a third of the driver's time.
        """
        return "{}", "{}"
