"""Asking every node of the cluster."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Answer = TypeVar("Answer")


def ask_nodes(
    function: Callable[..., Answer], *arguments: object, seconds: float | None = None
) -> Iterator[tuple[str, Answer]]:
    """Yield the address of each node that is alive, and what a function returns there.

    Args:
        function: Is called in a process of each node.
        arguments: It is called with these.
        seconds: Pass over nodes that take longer; None waits for all.
    """
    ask = ray.remote(num_cpus=0)(function)
    asked = {
        ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
        ).remote(*arguments): str(node["NodeManagerAddress"])
        for node in ray.nodes()
        if node["Alive"]
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
    for answer in answered:
        yield asked[answer], ray.get(answer)
