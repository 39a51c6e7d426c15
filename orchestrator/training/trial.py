"""Tune's trial of a cell, which tells a lost node from a failure of its own."""

from typing import Any

from ray.tune.experiment import Trial

from trainables.lost_nodes import is_lost_with_node

NODES_LOST_AT_MOST = 50
"""How many lost nodes a trial outlives; a cell that takes its nodes down with it has to end."""


class CellTrial(Trial):
    """A trial whose retries are not used up by nodes that are lost, as spot machines are."""

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
