"""What one evaluation of a cell leaves: artifacts, and the record that vouches for them."""

from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, cast

import numpy as np

from trainables.cell.json_records import EvaluationRecord, Metrics
from trainables.storage import layout
from trainables.storage.files import JsonRecord, digest
from trainables.storage.paths import Content, StorePath
from trainables.storage.sealed import Digests, SealedFiles

if TYPE_CHECKING:
    import pandas as pd

ARRAYS = {"patterns": layout.PATTERNS.name(), "features": layout.FEATURES.name()}
"""Arrays of an evaluation -> their file."""
PREDICTIONS_FILE = layout.PREDICTIONS.name()


class EvaluationFolder:
    """Reads and writes `eval.json` and the artifacts beside it.

    Attributes:
        files: The artifacts, with the record that vouches for them.
    """

    def __init__(self, path: StorePath) -> None:
        names = (*ARRAYS.values(), PREDICTIONS_FILE)
        self.files = SealedFiles(path, layout.EVALUATION.name(), names, _digests)

    def metrics(self) -> Metrics | None:
        """Return the metrics in `eval.json`, None while the evaluation is not done."""
        record = cast(EvaluationRecord | None, self.files.read_record())
        return None if record is None else record["metrics"]

    def digest(self) -> str:
        """Return what identifies this evaluation's metrics and artifacts."""
        return digest(self.files.record_path.read_bytes())

    def write(
        self,
        metrics: Metrics,
        predictions: "pd.DataFrame",
        arrays: Mapping[str, Mapping[str, np.ndarray]],
    ) -> None:
        """Write the artifacts, then the record that vouches for them.

        Args:
            metrics: Plain numbers and words.
            predictions: A row an image.
            arrays: `patterns` and `features`, or neither.
        """
        contents: dict[str, Content]
        contents = {ARRAYS[name]: _npz(content) for name, content in arrays.items()}
        contents[PREDICTIONS_FILE] = predictions.to_parquet(index=False)
        digests = self.files.write(contents)
        self.files.seal({"metrics": metrics, "artifacts": digests})


def _digests(record: JsonRecord) -> Digests:
    return dict(record["artifacts"])


def _npz(arrays: Mapping[str, np.ndarray]) -> mmap:
    """Return the bytes of an archive, in a temporary file that is gone when they are."""
    with TemporaryFile() as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
        file.flush()
        return mmap(file.fileno(), 0, access=ACCESS_READ)
