"""What Prometheus can scrape of a study, on the metrics port of the driver's Ray node.

Everything follows from `Status`; the driver alone sets it, and cells know nothing of it. Ray puts
`ray_` before each name, and forgets a gauge that was not set for 20 s. There are no tags by cell:
600 of them, times every launch, are more series than anybody looks at; `status` tells of cells.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from ray.util.metrics import Counter, Gauge

from orchestrator.watching.status import STATES, ClusterFacts, LaunchFacts, Status

Values = Iterator[tuple[dict[str, str], float]]


@dataclass(frozen=True)
class Metric:
    """One metric and how it follows from a status."""

    name: str
    kind: Literal["gauge", "counter"]
    tag: str | None
    """The tag beside `study`, if it has one."""
    description: str
    values: Callable[[Status], Values]
    """Yields the further tags, and the value; of a counter the sum since the launch began."""


def _number(read: Callable[[Status], float | None]) -> Callable[[Status], Values]:
    """Return the values of a metric that has one number, or none at the moment."""

    def values(status: Status) -> Values:
        value = read(status)
        if value is not None:
            yield {}, value

    return values


def _sum(read: Callable[[LaunchFacts], float]) -> Callable[[Status], Values]:
    """Return the values of a counter that the launch adds up."""
    return _number(lambda status: read(status.launch) if status.launch else None)


def _cells(status: Status) -> Values:
    for state in STATES:
        yield {"state": str(state)}, status.states.get(str(state), 0)


def _seconds_left(status: Status) -> Values:
    if status.left:
        yield {"bound": "expected"}, status.left.seconds
        bounds = {"low": status.left.low, "high": status.left.high}
        yield from (({"bound": name}, bound) for name, bound in bounds.items() if bound is not None)


def _cluster(read: Callable[[ClusterFacts], float]) -> Callable[[Status], Values]:
    """Return the values of a metric of the nodes there are."""
    return _number(lambda status: read(status.cluster) if status.cluster else None)


METRICS = (
    Metric("tokensweep_cells", "gauge", "state", "Cells of the launch by state", _cells),
    Metric(
        "tokensweep_trained_cells_total",
        *("counter", None, "Cells whose training the launch finished"),
        _sum(lambda launch: launch.trained),
    ),
    Metric(
        "tokensweep_epochs_total",
        *("counter", None, "Epochs trained, those done again included, with fractions"),
        _sum(lambda launch: launch.epochs),
    ),
    Metric(
        "tokensweep_retries_total",
        *("counter", None, "Attempts at training that failed and were followed by another"),
        _sum(lambda launch: launch.retries),
    ),
    Metric(
        "tokensweep_checkpoint_bytes_total",
        *("counter", None, "Bytes of resume states and best weights written to the store"),
        _sum(lambda launch: launch.checkpoint_bytes),
    ),
    Metric(
        "tokensweep_checkpoint_seconds_total",
        *("counter", None, "Seconds that cells spent on writing them"),
        _sum(lambda launch: launch.checkpoint_seconds),
    ),
    Metric(
        "tokensweep_images_per_second",
        *("gauge", None, "Images that all running cells train on in a second"),
        _number(lambda status: status.images_per_second),
    ),
    Metric(
        "tokensweep_data_wait_ratio",
        *("gauge", None, "Mean share of their time that running cells wait for images, 0 to 1"),
        _number(lambda status: status.data_wait),
    ),
    Metric(
        "tokensweep_fill_ratio",
        *("gauge", None, "Share of the GPUs, without any of the CPUs, that running cells reserve"),
        _number(lambda status: status.fill),
    ),
    Metric(
        "tokensweep_reserved_gpus",
        *("gauge", None, "GPUs that running cells reserve"),
        _number(lambda status: status.reserved_gpus),
    ),
    Metric(
        "tokensweep_reserved_cpus",
        *("gauge", None, "CPUs that running cells reserve"),
        _number(lambda status: status.reserved_cpus),
    ),
    Metric(
        "tokensweep_cluster_gpus",
        "gauge",
        None,
        "GPUs of the cluster",
        _cluster(lambda cluster: cluster.gpus),
    ),
    Metric(
        "tokensweep_cluster_cpus",
        "gauge",
        None,
        "CPUs of the cluster",
        _cluster(lambda cluster: cluster.cpus),
    ),
    Metric(
        "tokensweep_nodes",
        "gauge",
        None,
        "Nodes of the cluster alive",
        _cluster(lambda cluster: cluster.nodes),
    ),
    Metric(
        "tokensweep_nodes_lost_total",
        *("counter", None, "Nodes that died or left since the launch began"),
        _cluster(lambda cluster: cluster.nodes_lost),
    ),
    Metric(
        "tokensweep_left_seconds",
        *("gauge", "bound", "Seconds until all cells are trained: expected, low and high"),
        _seconds_left,
    ),
)


class StudyMetrics:
    """Sets Ray's metrics to what a status says."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    @cached_property
    def _kept(self) -> list[tuple[Metric, Gauge | Counter]]:
        return [(metric, _create(metric)) for metric in METRICS]

    def __call__(self, status: Status) -> None:
        """Set all metrics."""
        for metric, kept in self._kept:
            for tags, value in metric.values(status):
                tags = {"study": status.study, **tags}
                if isinstance(kept, Gauge):
                    kept.set(value, tags)
                else:
                    self._add(metric.name, kept, value, tags)

    def _add(self, name: str, counter: Counter, total: float, tags: dict[str, str]) -> None:
        further = total - self._told.get(name, 0.0)
        if further > 0:  # Ray refuses to add nothing.
            counter.inc(further, tags)
            self._told[name] = total


def _create(metric: Metric) -> Gauge | Counter:
    kind = Gauge if metric.kind == "gauge" else Counter
    tags = ("study",) if metric.tag is None else ("study", metric.tag)
    return kind(metric.name, metric.description, tags)
