"""What one evaluation of a cell leaves: artifacts, and the record that vouches for them."""

from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np

from trainables.files import (
    Check,
    DamagedFileError,
    digest,
    read_checked,
    read_sealed_json,
    share_file,
    write_atomic,
    write_sealed_json,
)
from trainables.store_path import Content, StorePath

if TYPE_CHECKING:
    import pandas as pd

ARTIFACTS = ("patterns.npz", "features.npz", "predictions.parquet")


class EvaluationFolder:
    """Reads and writes `eval.json` and the artifacts beside it."""

    def __init__(self, path: StorePath) -> None:
        self.path = path

    def metrics(self) -> dict[str, Any] | None:
        """Return the metrics in `eval.json`, None while the evaluation is not done."""
        record = read_sealed_json(self.path / "eval.json")
        return None if record is None else record["metrics"]

    def digest(self) -> str:
        """Return what identifies this evaluation's metrics and artifacts."""
        return digest((self.path / "eval.json").read_bytes())

    def write(
        self,
        metrics: dict[str, Any],
        predictions: "pd.DataFrame",
        arrays: Mapping[str, Mapping[str, np.ndarray]],
    ) -> None:
        """Publish the artifacts, then the record that vouches for them.

        Args:
            metrics: Plain numbers and words.
            predictions: A row an image.
            arrays: `patterns` and `features`, or neither.
        """
        data: dict[str, Content]
        data = {f"{name}.npz": _npz(content) for name, content in arrays.items()}
        data["predictions.parquet"] = predictions.to_parquet(index=False)
        for name, content in data.items():
            write_atomic(self.path / name, content)
        digests = {name: digest(content) for name, content in data.items()}
        write_sealed_json(self.path / "eval.json", {"metrics": metrics, "artifacts": digests})

    def read_artifact(self, name: str) -> bytes:
        """Return an artifact's bytes.

        Raises:
            DamagedFileError: It is missing, damaged, or was never made.
        """
        return read_checked(self.path / name, self._digests()[name])

    def repair(self, check: Check = read_checked) -> DamagedFileError | None:
        """Remove the evaluation where something of it is damaged; return what that was."""
        try:
            if self.metrics() is not None:
                for name, expected in self._digests().items():
                    check(self.path / name, expected)
        except DamagedFileError as error:
            self.discard()
            return error
        return None

    def take_over(self, other: "EvaluationFolder") -> None:
        """Take over an evaluation of the same weights, if it is made and whole."""
        try:
            record = read_sealed_json(other.path / "eval.json")
            for name, expected in record["artifacts"].items() if record else ():
                if name not in ARTIFACTS:
                    raise DamagedFileError(other.path / "eval.json", f"it names {name!r}")
                share_file(other.path / name, self.path / name)
                read_checked(self.path / name, expected)
        except (DamagedFileError, FileNotFoundError):
            self.discard()  # It is made anew.
            return
        if record:
            write_sealed_json(self.path / "eval.json", record)

    def discard(self) -> None:
        """Remove all that the evaluation has made, the record that vouches for it first."""
        for name in ("eval.json", *ARTIFACTS):
            (self.path / name).unlink(missing_ok=True)

    def _digests(self) -> dict[str, str]:
        record = read_sealed_json(self.path / "eval.json")
        if record is None:
            raise DamagedFileError(self.path / "eval.json", "it is missing")
        for name in record["artifacts"]:
            if name not in ARTIFACTS:
                raise DamagedFileError(self.path / "eval.json", f"{name!r} is no artifact")
        return dict(record["artifacts"])


def _npz(arrays: Mapping[str, np.ndarray]) -> mmap:
    """Return the bytes of an archive, in a temporary file that is gone when they are."""
    with TemporaryFile() as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
        file.flush()
        return mmap(file.fileno(), 0, access=ACCESS_READ)
