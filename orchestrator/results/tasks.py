"""Functions that Ray tasks run: evaluate a cell, compare cells, choose images."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.answers import Answers, prediction_arrays
from analysis.comparisons import Kind, measure
from analysis.records import CellArtifacts, CellRecord, read_arrays
from analysis.samples import Sample
from analysis.token_depth import describe_tokens
from orchestrator.results.cached_comparisons import ANSWERS, CellFacts
from orchestrator.results.sampling import SampleJob, make_sample
from orchestrator.store.evaluation_folder import ARRAYS, PREDICTIONS_FILE
from orchestrator.store.store import Store
from orchestrator.store.verified import Entries, written
from trainables.storage.paths import StorePath
from trainables.storage.retry import patience


@dataclass(frozen=True)
class Evaluated:
    """Result of evaluating a cell, besides the files in its folder."""

    entries: Entries
    """Digest and stamp of the files that are known to be whole."""
    notes: tuple[str, ...]
    """Lines on what deviates from the recipe."""


def evaluate_stored_cell(
    study: StorePath, cell_id: str, data_root: Path | None, weights: Path | None, on_gpu: bool
) -> Evaluated:
    """Make the missing evaluations of a trained cell's best weights; publish each in its folder.

    Resume states are removed, because the trial has ended.

    Args:
        study: The study's folder.
        cell_id: The cell.
        data_root: Folder of its dataset.
        weights: Folder of the hosts' pretrained weights, whose configurations describe the hosts.
        on_gpu: Whether a GPU is reserved.
    """
    from safetensors.torch import load

    from trainables.evaluation import evaluate_cell as evaluate
    from trainables.models.device import device_for

    store = Store(study)
    stored, notes = store.cell(cell_id), list[str]()
    with patience():
        cell, best = stored.cell(), load(stored.load_best())
        for rate, folder in stored.evaluations().items():
            if folder.metrics() is not None:
                continue
            made = evaluate(
                cell if rate is None else cell.at_rate(rate),
                best,
                data_root=data_root,
                index_folder=store.datasets,
                host_weights=weights,
                device=device_for(on_gpu),
                threads=1,
            )
            notes += made.notes
            arrays = {"patterns": made.patterns, "features": made.features}
            folder.write(made.metrics, made.predictions, arrays if rate is None else {})
        stored.discard_states()
        # Each keep rate may say the same.
        return Evaluated(written(study, stored), tuple(dict.fromkeys(notes)))


def load_cell(study: StorePath, record: CellRecord) -> CellArtifacts:
    """Return the arrays of a cell's evaluation, after checking them, and what follows from them."""
    stored = Store(study).cell(record.cell_id)
    with patience():
        patterns, features = (
            read_arrays(io.BytesIO(stored.read_artifact(name))) for name in ARRAYS.values()
        )
        predictions = pd.read_parquet(io.BytesIO(stored.read_artifact(PREDICTIONS_FILE)))
    return CellArtifacts(record, patterns, features, prediction_arrays(predictions)).with_moments()


def sample_images(job: SampleJob) -> Sample:
    """Choose the images of a setting."""
    with patience():
        return make_sample(job)


def find_facts(kinds: Sequence[Kind], *cells: CellArtifacts) -> CellFacts:
    """Compare two cells by these metrics, or describe a single one."""
    if len(cells) == 1:
        return {**describe_tokens(cells[0]), ANSWERS: [Answers.of(cells[0].predictions).as_row()]}
    a, b = cells
    return measure(a, b, kinds)
