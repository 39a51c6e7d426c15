"""A made-up study: every family of methods, two datasets, cells in every state."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from whole_tables import compare, correlations_table, depth_maps_table, heatmaps_table

from analysis.answers import Answers
from analysis.budgets import budgets_table
from analysis.comparisons import KINDS, pairs
from analysis.differences import differences_table, pairwise_table
from analysis.ranking import ranks_table
from analysis.records import CellArtifacts, CellRecord
from analysis.seeds import seeds_table
from analysis.tables import results_table, table

FAMILIES = {
    "topk": "pruning", "evit": "pruning", "tome": "merging", "dpcknn": "merging", "sit": "soft",
    "l2": "control", "deit": "baseline",
}  # fmt: skip
STAGES = (3, 6, 9)
IMAGES = 48


def _metrics(dataset, method, capacity, rate, place):
    width = {"tiny": 24, "small": 32}[capacity]
    share = (1 + rate + rate**2 + rate**3) / 4
    metric = "map" if dataset == "digits_multi" else "top1"
    accuracy = 97 - 4 * (capacity == "tiny") - (1 - share) * (2 + place % 5 * 2)
    return {
        "metric": metric, "accuracy": accuracy, metric: accuracy, "images": IMAGES,
        "tokens": {str(stage): 64 * rate ** (stage // 3) for stage in STAGES},
        "gmacs": 2e-5 * width**2 * share, "parameters": 144 * width**2,
        "images_per_second": 4000 / share, "peak_memory_mb": None, "select_on": "val",
    }  # fmt: skip


def _record(place, dataset, method, capacity, rate):
    state, error = "done", None
    if place % 13 == 6:
        state, error = "failed", "loss is <nan> at step 12 & epoch 2"
    elif place % 17 == 9:
        state = "running"
    done = state == "done"
    return CellRecord(
        cell_id=f"{dataset}-{method}-{capacity}-r{rate:g}-s0",
        dataset=dataset,
        method=method,
        family=FAMILIES[method],
        capacity=capacity,
        keep_rate=rate,
        stages=STAGES,
        seed=0,
        meets_every_rate=method == "deit",
        series=f"{dataset}-{method}-{capacity}-r{rate:g}",
        state=state,
        metrics=_metrics(dataset, method, capacity, rate, place) if done else {},
        error=error,
        progress={"epoch": 3 if done else 1, "epochs": 3},
    )


def _artifacts(record):
    random = np.random.default_rng(sum(record.method.encode()))
    centre = np.square(np.indices((8, 8)) - 3.5).sum(axis=0).ravel()
    noise = 0 if record.family == "control" else 8
    order = (centre + noise * random.normal(size=(IMAGES, 64))).argsort(axis=1)
    patterns = {"image": np.arange(IMAGES), "grid": np.array([8, 8]), "depth": np.array(12)}
    group = np.arange(64)[None].repeat(IMAGES, axis=0)
    for stage in STAGES:
        left = int(64 * record.keep_rate ** (stage // 3))
        patterns[f"tokens_{stage}"] = np.full(IMAGES, left)
        if record.family in ("pruning", "control") or record.method == "dpcknn":
            patterns[f"kept_{stage}"] = order[:, :left].astype(np.uint8)
        if record.family in ("merging", "soft"):
            group = np.minimum(group, random.integers(0, left, group.shape))
            patterns[f"group_{stage}"] = group.astype(np.uint8)
    shared = np.random.default_rng(0).normal(size=(IMAGES, 12))
    features = {f"cls_{b}": shared + random.normal(size=shared.shape) for b in (*STAGES, 11)}
    return CellArtifacts(record, patterns, features)


@pytest.fixture(scope="session")
def report_records():
    axes = product(("digits", "digits_multi"), FAMILIES, ("tiny", "small"), (0.25, 0.5, 1.0))
    wanted = [axis for axis in axes if (axis[1] == "deit") == (axis[3] == 1.0)]
    return [_record(place, *axis) for place, axis in enumerate(wanted)]


@pytest.fixture(scope="session")
def report_tables(report_records):
    done = [record for record in report_records if record.state == "done"]
    cells = {record.cell_id: _artifacts(record) for record in done}
    compared = [
        compare(cells[a.cell_id], cells[b.cell_id], "models") for a, b in pairs(done, "models")
    ]
    tables = {kind: table(kind, [r for rows in compared for r in rows[kind]]) for kind in KINDS}
    answers = {record.cell_id: _answers(record) for record in done}
    speeds = [record.metrics.get("images_per_second") for record in report_records]
    results = results_table(report_records, answers).assign(images_per_second=speeds)
    depth_maps = depth_maps_table(cells.values())
    return {
        **tables,
        "results": results,
        "depth_maps": depth_maps,
        "heatmaps": heatmaps_table(depth_maps, done),
        "correlations": correlations_table(results, tables),
        "ranks": ranks_table(results),
        "speed": _speed(done),
        **_compared(results, done, answers),
    }


def _answers(record):
    """Answers over images as accurate as the record says; of several labels, made-up resamples."""
    image = np.arange(IMAGES)
    random = np.random.default_rng(sum(record.cell_id.encode()))
    accuracy = record.metrics["accuracy"]
    if record.metrics["metric"] == "map":
        return Answers(image, image, score=accuracy, resampled=random.normal(accuracy, 1, 100))
    return Answers(image, image, random.permutation(image) < accuracy / 100 * IMAGES)


def _compared(results, done, answers):
    """The tables that say by how much cells differ."""
    found = {
        "seeds": seeds_table(results, answers),
        "differences": differences_table(done, answers),
        "pairwise": pairwise_table(done, answers),
    }
    return found | {"budgets": budgets_table({**found, "results": results, "speed": _speed(done)})}


def _speed(done):
    """Measured alone on two devices, twice as fast on one of them."""
    share = {r.cell_id: r.metrics["images_per_second"] / 4000 for r in done}
    return pd.DataFrame(
        {
            "cell_id": cell.cell_id,
            "keep_rate": cell.keep_rate,
            "eval_keep_rate": cell.keep_rate,
            "device": device,
            "main": device == "fast GPU",
            "disturbed": False,
            "batch_size": size,
            "speed_up": share[cell.cell_id],
            "images_per_second": rate * share[cell.cell_id],
            "latency_ms": 10 / share[cell.cell_id] if size == 1 else np.nan,
            "peak_memory_mb": 3.0 * size,
        }
        for device, rate in (("fast GPU", 9000), ("small CPU", 200))
        for size in (1, 32)
        for cell in done
    )
