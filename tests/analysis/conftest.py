"""The synthetic study: cells whose arrays and tables the published study's own code made."""

import json
from pathlib import Path

import numpy as np
import pytest

from analysis.records import CellArtifacts, CellRecord

DATA = Path(__file__).parents[1] / "data" / "goldens"
ANY_RATE = ("ats", "deit", "heuristic_l1", "heuristic_linf")


def _record(name):
    dataset, method, capacity, *rate = name.split("-")
    return CellRecord(
        cell_id=name,
        dataset=dataset,
        method=method,
        family="",
        capacity=capacity,
        keep_rate=float(rate[0]) if rate else 1.0,
        stages=(3, 6, 9),
        seed=0,
        meets_every_rate=method in ANY_RATE,
        state="done",
    )


def _patterns(arrays, name):
    found = {
        "image": np.arange(24),
        "grid": np.array([14, 14]),
        "depth": np.array(12),
        **{f"tokens_{stage}": np.full(24, 196) for stage in (3, 6, 9)},
    }
    group = np.arange(196)[None].repeat(24, axis=0)
    for stage in (3, 6, 9):
        if (kept := arrays.get(f"{name}/stage{stage}/kept")) is not None:
            found[f"kept_{stage}"] = np.where(kept < 0, 255, kept).astype(np.uint8)
        if (assign := arrays.get(f"{name}/stage{stage}/assign")) is not None:
            group = np.take_along_axis(assign, group.astype(np.int64), axis=1)
            found[f"group_{stage}"] = group.astype(np.uint8)
    return found


@pytest.fixture(scope="session")
def units():
    """Arrays and numbers of single metrics: (arrays, JSON)."""
    return np.load(DATA / "units_A.npz"), json.loads((DATA / "units_A.json").read_text())


@pytest.fixture(scope="session")
def study_numbers():
    return json.loads((DATA / "study_A.json").read_text())


@pytest.fixture(scope="session")
def study_arrays():
    with np.load(DATA / "study_A.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def study_cells(study_arrays, study_numbers):
    """Cell id -> artifacts, patterns only."""
    return {
        name: CellArtifacts(_record(name), _patterns(study_arrays, name), {})
        for name in study_numbers["accuracy"]
    }


@pytest.fixture(scope="session")
def feature_cells():
    """Cell id -> artifacts, features only."""
    cells = {}
    with np.load(DATA / "study_features_A.npz") as archive:
        for key in archive.files:
            name, block = key.split("/block")
            cells.setdefault(name, {})[f"cls_{block}"] = archive[key].T.astype(np.float32)
    places = {"image": np.arange(500), "grid": np.array([14, 14]), "depth": np.array(12)}
    return {name: CellArtifacts(_record(name), places, cls) for name, cls in cells.items()}
