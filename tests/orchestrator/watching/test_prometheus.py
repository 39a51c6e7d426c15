"""Metrics: what Prometheus scrapes, and that the dashboard and the documents name just that."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.cluster.connection import connected
from orchestrator.watching.nodes import Nodes
from orchestrator.watching.prometheus import METRICS, StudyMetrics
from orchestrator.watching.status import (
    STATES,
    ClusterFacts,
    LaunchFacts,
    RunningCell,
    Status,
    TimeLeft,
)

GRAFANA = Path(__file__).parents[3] / "experiments" / "clusters" / "grafana" / "tokensweep.json"
STATUS = Status(
    study="metrics-test",
    time=0.0,
    states={"done": 3, "running": 2, "failed": 1},
    running=(
        RunningCell(cell="a", cpus=2, gpus=0.5, images_per_second=300.0, data_wait=0.1),
        RunningCell(cell="b", cpus=1, gpus=1.0, images_per_second=100.0, data_wait=0.3),
    ),
    cluster=ClusterFacts(nodes=2, nodes_lost=1, cpus=16, gpus=2),
    launch=LaunchFacts(
        began=0.0,
        seconds=60.0,
        trained=3,
        epochs=4.5,
        retries=2,
        checkpoint_bytes=10**9,
        checkpoint_seconds=1.5,
    ),
    left=TimeLeft(seconds=100.0, low=80.0, high=150.0),
)
EXPECTED = {
    "trained_cells_total": 3.0,
    "epochs_total": 4.5,
    "retries_total": 2.0,
    "checkpoint_bytes_total": 1e9,
    "checkpoint_seconds_total": 1.5,
    "images_per_second": 400.0,
    "data_wait_ratio": 0.2,
    "fill_ratio": 0.75,
    "reserved_gpus": 1.5,
    "reserved_cpus": 3.0,
    "cluster_gpus": 2.0,
    "cluster_cpus": 16.0,
    "nodes": 2.0,
    "nodes_lost_total": 1.0,
}


def scrape(address: str) -> dict[tuple[str, str | None], float]:
    """Return the study's metrics by name without their prefix, and by their further tag."""
    page = urllib.request.urlopen(address, timeout=30).read().decode()
    return {
        (sample.name.removeprefix("ray_tokensweep_"), further_tag(sample.labels)): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.labels.get("study") == STATUS.study
    }


def further_tag(labels):
    return labels.get("state") or labels.get("bound")


def test_what_is_scraped_is_what_the_status_says():
    expected = {(name, None): pytest.approx(value) for name, value in EXPECTED.items()}
    expected |= {("cells", str(state)): STATUS.states.get(str(state), 0) for state in STATES}
    expected |= {("left_seconds", bound): value for bound, value in TIMES.items()}
    with connected(None, verbose=False) as cluster:
        publish = StudyMetrics()
        publish(STATUS.model_copy(update={"launch": LaunchFacts(began=0, seconds=1, trained=1)}))
        deadline = time.monotonic() + 200
        found = {}
        while found != expected:  # They do not all come at once.
            assert time.monotonic() < deadline, found
            publish(STATUS)
            time.sleep(0.5)
            found = scrape(cluster.metrics)
        nodes = Nodes()()
    assert {name for name, _ in found} == {m.name.removeprefix("tokensweep_") for m in METRICS}
    assert (nodes.nodes, nodes.nodes_lost, nodes.cpus) == (1, 0, cluster.cpus)


TIMES = {"expected": 100.0, "low": 80.0, "high": 150.0}


def test_nodes_that_leave_are_lost_and_nodes_that_come_are_not(monkeypatch):
    alive = [{"a", "b"}, {"a", "c"}, {"a", "b", "c"}]
    monkeypatch.setattr("orchestrator.watching.nodes.ASK_SECONDS", 0.0)
    monkeypatch.setattr(
        "orchestrator.watching.nodes.ray.nodes",
        lambda: [
            {"NodeID": name, "Alive": name in alive[0], "Resources": {"CPU": 4.0, "GPU": 1.0}}
            for name in "abc"
        ],
    )
    nodes = Nodes()
    told = []
    while alive:
        told.append(nodes())
        alive.pop(0)
    assert [(facts.nodes, facts.nodes_lost, facts.gpus) for facts in told] == [
        (2, 0, 2.0),
        (2, 1, 2.0),
        (3, 0, 3.0),
    ]
    assert nodes.last() == told[-1]


def test_metrics_without_a_value_are_left_out():
    begun = Status(study="begun", time=0.0, states={"pending": 1})
    told = {metric.name for metric in METRICS for _ in metric.values(begun)}
    always = {"cells", "images_per_second", "reserved_gpus", "reserved_cpus"}
    assert told == {f"tokensweep_{name}" for name in always}


def test_every_expression_of_the_dashboard_asks_for_metrics_and_tags_that_exist():
    dashboard = json.loads(GRAFANA.read_text())
    tags = {f"ray_{m.name}": {"study", m.tag} - {None} for m in METRICS}
    kinds = {f"ray_{m.name}": m.kind for m in METRICS}
    asked = set()
    expressions = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    for expression in expressions:
        (name,) = re.findall(r"\bray_\w+", expression)
        assert name in tags, expression
        by = re.search(r"by \((.*?)\)", expression)[1].split(", ")
        matched = re.findall(r"(\w+)=~", expression)
        assert {*by, *matched} <= tags[name], expression
        counted = "rate(" in expression or "increase(" in expression
        assert counted == (kinds[name] == "counter"), expression
        asked.add(name)
    (study,) = [v for v in dashboard["templating"]["list"] if v["name"] == "study"]
    assert study["query"] == "label_values(ray_tokensweep_cells, study)"
    assert tags.keys() - asked == {
        f"ray_tokensweep_{name}" for name in ("reserved_cpus", "cluster_cpus")
    }
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(set(places)) == len(places)
