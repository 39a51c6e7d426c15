"""What Ray tasks do beside the trials: evaluate a trained cell, compare pairs of cells."""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.comparisons import Comparison, Row, compare
from analysis.records import CellArtifacts, CellRecord, read_arrays
from analysis.tables import depth_maps_table, table, tokens_table
from orchestrator.storage.store import Store
from orchestrator.storage.verified import Entries, written
from trainables.patience import patience
from trainables.store_path import StorePath

Arrays = dict[str, np.ndarray]

ARTIFACTS_IN_MEMORY = 16
"""Cells whose arrays a comparing process keeps, since many pairs share a cell."""


def evaluate_cell(
    study: StorePath, cell_id: str, data_root: Path | None, weights: Path | None, on_gpu: bool
) -> Entries:
    """Make the evaluations that a trained cell's best weights lack; publish each in its folder.

    The states that its training could go on from are removed: its trial has ended.

    `weights` is the folder of the hosts' pretrained ones, whose configurations say what they are.
    Returns what is known of the files that are whole now.
    """
    from safetensors.torch import load

    from trainables.device import device_for
    from trainables.evaluation import evaluate_cell as evaluate

    store = Store(study)
    stored = store.cell(cell_id)
    with patience():
        cell, best = stored.cell(), load(stored.load_best())
        for rate, folder in stored.evaluations().items():
            if folder.metrics() is not None:
                continue
            made = evaluate(
                cell if rate is None else cell.model_copy(update={"keep_rate": rate}),
                best,
                data_root=data_root,
                index_folder=store.datasets,
                host_weights=weights,
                device=device_for(on_gpu),
                threads=1,
            )
            arrays = {"patterns": made.patterns, "features": made.features}
            folder.write(made.metrics, made.predictions, arrays if rate is None else {})
        stored.discard_states()
        return written(study, stored)


def compare_pairs(
    study: StorePath, comparison: Comparison, pairs: Sequence[tuple[CellRecord, CellRecord]]
) -> dict[str, pd.DataFrame]:
    """Return what pairs of cells add to each table."""
    rows: dict[str, list[Row]] = {}
    for a, b in pairs:
        compared = compare(load_artifacts(study, a), load_artifacts(study, b), comparison)
        for name, new in compared.items():
            rows.setdefault(name, []).extend(new)
    return {name: table(name, new) for name, new in rows.items()}


def describe_cells(study: StorePath, records: Sequence[CellRecord]) -> dict[str, pd.DataFrame]:
    """Return what evaluated cells add, each by itself, to each table."""
    cells = [load_artifacts(study, record) for record in records]
    return {"tokens": tokens_table(cells), "depth_maps": depth_maps_table(cells)}


def load_artifacts(study: StorePath, record: CellRecord) -> CellArtifacts:
    """Return the arrays that the evaluation of a cell left, checked."""
    evaluation = Store(study).cell(record.cell_id).evaluation_digest()
    return CellArtifacts(record, *_arrays(study, record.cell_id, evaluation))


@lru_cache(maxsize=ARTIFACTS_IN_MEMORY)
def _arrays(study: StorePath, cell_id: str, evaluation: str) -> tuple[Arrays, Arrays]:
    """Read patterns and features; `evaluation` tells a new evaluation from the remembered one."""
    stored = Store(study).cell(cell_id)
    patterns, features = (
        read_arrays(io.BytesIO(stored.read_artifact(name)))
        for name in ("patterns.npz", "features.npz")
    )
    return patterns, features
