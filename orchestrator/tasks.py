"""What Ray tasks do beside the trials: evaluate a trained cell, compare pairs of cells."""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd

from analysis.comparisons import Comparison, Row, compare
from analysis.records import CellArtifacts
from analysis.tables import depth_maps_table, table, tokens_table
from orchestrator.records import record_of
from orchestrator.store import Store

ARTIFACTS_IN_MEMORY = 16
"""Cells whose arrays a comparing process keeps, since many pairs share a cell."""


def evaluate_cell(study: Path, cell_id: str, data_root: Path | None, on_gpu: bool) -> None:
    """Evaluate the best weights of a trained cell and publish the outcome in its folder."""
    import torch
    from safetensors.torch import load

    from trainables.evaluation import evaluate_cell as evaluate

    stored = Store(study).cell(cell_id)
    evaluation = evaluate(
        stored.cell(),
        load(stored.load_best()),
        data_root=data_root,
        device=torch.device("cuda" if on_gpu else "cpu"),
        threads=1,
    )
    stored.write_evaluation(
        evaluation.metrics, evaluation.patterns, evaluation.features, evaluation.predictions
    )


def compare_pairs(
    study: Path, comparison: Comparison, pairs: Sequence[tuple[str, str]]
) -> dict[str, pd.DataFrame]:
    """Return what pairs of cells, given by their ids, add to each table."""
    rows: dict[str, list[Row]] = {}
    for a, b in pairs:
        compared = compare(load_artifacts(study, a), load_artifacts(study, b), comparison)
        for name, new in compared.items():
            rows.setdefault(name, []).extend(new)
    return {name: table(name, new) for name, new in rows.items()}


def describe_cell(study: Path, cell_id: str) -> dict[str, pd.DataFrame]:
    """Return what one evaluated cell adds to each table."""
    cells = [load_artifacts(study, cell_id)]
    return {"tokens": tokens_table(cells), "depth_maps": depth_maps_table(cells)}


def load_artifacts(study: Path, cell_id: str) -> CellArtifacts:
    """Return the arrays that the evaluation of a cell left, checked."""
    return _artifacts(study, cell_id, Store(study).cell(cell_id).evaluation_digest())


@lru_cache(maxsize=ARTIFACTS_IN_MEMORY)
def _artifacts(study: Path, cell_id: str, evaluation_digest: str) -> CellArtifacts:
    stored = Store(study).cell(cell_id)
    patterns, features = (
        io.BytesIO(stored.read_artifact(name)) for name in ("patterns.npz", "features.npz")
    )
    return CellArtifacts.load(record_of(stored), patterns, features)
