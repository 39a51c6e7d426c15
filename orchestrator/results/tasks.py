"""What Ray tasks do beside the trials: evaluate a trained cell, compare pairs of cells."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.comparisons import Kind, measure
from analysis.records import CellArtifacts, CellRecord, read_arrays
from analysis.tokens import describe
from orchestrator.results.findings import Facts
from orchestrator.storage.store import Store
from orchestrator.storage.verified import Entries, written
from trainables.patience import patience
from trainables.store_path import StorePath


@dataclass(frozen=True)
class Evaluated:
    """What evaluating a cell leaves, beside its folder."""

    entries: Entries
    """What is known of the files that are whole now."""
    notes: tuple[str, ...]
    """Lines on what does not go as the recipe says."""


def evaluate_cell(
    study: StorePath, cell_id: str, data_root: Path | None, weights: Path | None, on_gpu: bool
) -> Evaluated:
    """Make the evaluations that a trained cell's best weights lack; publish each in its folder.

    The states that its training could go on from are removed: its trial has ended.

    `weights` is the folder of the hosts' pretrained ones, whose configurations say what they are.
    """
    from safetensors.torch import load

    from trainables.device import device_for
    from trainables.evaluation import evaluate_cell as evaluate

    store = Store(study)
    stored, notes = store.cell(cell_id), list[str]()
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
            notes += made.notes
            arrays = {"patterns": made.patterns, "features": made.features}
            folder.write(made.metrics, made.predictions, arrays if rate is None else {})
        stored.discard_states()
        # Each keep rate may say the same.
        return Evaluated(written(study, stored), tuple(dict.fromkeys(notes)))


def load_cell(study: StorePath, record: CellRecord) -> CellArtifacts:
    """Return the arrays that the evaluation of a cell left, checked."""
    stored = Store(study).cell(record.cell_id)
    with patience():
        patterns, features = (
            read_arrays(io.BytesIO(stored.read_artifact(name)))
            for name in ("patterns.npz", "features.npz")
        )
    return CellArtifacts(record, patterns, features)


def find_facts(kinds: Sequence[Kind], *cells: CellArtifacts) -> Facts:
    """Compare two cells by these metrics, or describe one."""
    if len(cells) == 1:
        return describe(cells[0])
    a, b = cells
    return measure(a, b, kinds)
