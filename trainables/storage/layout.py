"""The files of a store: one list, from which their paths are built and their kinds known.

The table in `docs/store-layout.md` repeats the list for people; a test compares the two.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import TypeVar

from trainables.storage.paths import StorePath

PathT = TypeVar("PathT", bound=StorePath)

OF_STORAGE, OF_STUDY, OF_CELL = "", "STUDY/", "STUDY/cells/CELL_ID/"
OF_EVALUATION = f"{OF_CELL}[at-rRATE/]"
"""What a file belongs to: the folder that its pattern is relative to."""

RATE_FOLDER, RATE_FOLDERS = "at-r{rate:g}", "at-r*"
"""Folder of a cell's evaluation at another keep rate than its own, and the pattern of them all."""

_BELOW_STUDY = {
    OF_STUDY: "",
    OF_CELL: r"cells/[^/]+/",
    OF_EVALUATION: r"cells/[^/]+/(?:at-r[^/]+/)?",
}
_FIELDS = {
    "step": r"\d+",
    "launch": r"\d+",
    "table": r"\w+",
    "random": r"[0-9a-f]+",
    "anywhere": r"(?:.+/)?",
    "below": r".+",
}
"""Field of a pattern -> what it may be, where that is not any name."""
_SHOWN = {"anywhere": "[.../]", "below": "..."}


@dataclass(frozen=True)
class StoreFile:
    """A file, or files that are alike but for the fields in their names."""

    owner: str
    """One of the four folders above."""
    pattern: str
    """Path below that folder; fields are in braces, as `str.format` takes them."""
    kind: str
    """What `tokensweep status` counts it as."""
    writer: str
    """Who writes it, as `docs/store-layout.md` names them."""
    holds: str
    """What is in it, in a few words."""
    vouches: bool = False
    """Whether it is a record that vouches for other files, so that it is removed before them."""

    def below(self, folder: PathT, **fields: object) -> PathT:
        """Return its path below the folder of the study, cell or evaluation that it belongs to."""
        return folder / self.name(**fields)

    def name(self, **fields: object) -> str:
        """Return its path relative to that folder."""
        return self.pattern.format(**fields)

    @property
    def place(self) -> str:
        """Path below the storage, as people write it: `STUDY/cells/CELL_ID/last/state-STEP.pt`."""
        names = (
            text + ("" if field is None else _SHOWN.get(field, field.upper()))
            for text, field, _, _ in Formatter().parse(self.pattern)
        )
        return self.owner + "".join(names)

    @property
    def folder(self) -> str:
        """Name of the folder in which such files are, where they have one of their own."""
        return self.pattern.rpartition("/")[0]

    def name_in_folder(self, **fields: object) -> str:
        """Return its name alone."""
        return self.name(**fields).rpartition("/")[2]

    def found(self, folder: PathT) -> Iterator[PathT]:
        """Yield all such files below that folder, in no order."""
        yield from folder.glob(self.glob)

    @property
    def glob(self) -> str:
        """The pattern with `*` for each field."""
        return "".join(
            text + ("" if field is None else "*")
            for text, field, _, _ in Formatter().parse(self.pattern)
        )

    @property
    def glob_in_folder(self) -> str:
        """The last part of it."""
        return self.glob.rpartition("/")[2]

    @cached_property
    def below_study(self) -> re.Pattern[str]:
        """What its path below the study's folder looks like, if it is a study's."""
        parts = (
            re.escape(text) + ("" if field is None else _FIELDS.get(field, r"[^/]+"))
            for text, field, _, _ in Formatter().parse(self.pattern)
        )
        return re.compile(_BELOW_STUDY[self.owner] + "".join(parts))


STUDY = StoreFile(
    OF_STUDY, "study.yaml", "records", "driver",
    "the study with its defaults, its cells in order, package versions, git commit",
)  # fmt: skip
SEARCHES = StoreFile(
    OF_STUDY, "tuning.json", "records", "driver",
    "what the section `tuning` chooses from, the trials of each choice and who waits for it",
)  # fmt: skip
DRIVER_LOCK = StoreFile(
    OF_STUDY, "driver.lock", "records", "driver", "locked by the process that runs the study"
)
DRIVER_LEASE = StoreFile(
    OF_STUDY, "driver.lease", "records", "driver", "the same where files cannot be locked"
)
STATUS = StoreFile(
    OF_STUDY, "status.json", "records", "driver", "how far the study is, for other terminals"
)
VERIFIED = StoreFile(
    OF_STUDY, "verified.json", "records", "driver",
    "files that are known to be whole: SHA-256, size, time of change, inode",
)  # fmt: skip
STOP = StoreFile(
    OF_STUDY, "stop-{process}", "left over", "driver", "asks running cells to save and end"
)
WANDB_TOKEN = StoreFile(
    OF_STUDY, "wandb.json", "logs", "driver", "what tells this storage's W&B runs from others'"
)
WANDB = StoreFile(OF_STUDY, "wandb/{below}", "logs", "driver", "what W&B keeps")
TUNE = StoreFile(
    OF_STUDY, "tune/launch-{launch}/{below}", "Tune", "Tune",
    "Ray Tune's own files: nothing reads them, and each launch removes them",
)  # fmt: skip

CELL = StoreFile(OF_CELL, "cell.json", "records", "driver", "the cell")
IMPORT = StoreFile(
    OF_CELL, "import.json", "records", "command", "the W&B run that the cell was imported from"
)
LOG = StoreFile(
    OF_CELL, "log.jsonl", "logs", "trial", "one line a report of training, and one an event"
)
PROGRESS = StoreFile(OF_CELL, "progress.csv", "logs", "driver", "the reports as a spreadsheet")
EVENTS = StoreFile(
    OF_CELL, "events.out.tfevents.{writer}", "logs", "driver", "the reports for TensorBoard"
)
MEMORY_RECORD = StoreFile(
    OF_CELL, "memory.json", "records", "driver", "reservations with which memory ran out"
)
ATTEMPTS = StoreFile(
    OF_CELL, "attempts.json", "records", "trial", "attempts that ended on a number not finite"
)
RUNGS = StoreFile(
    OF_CELL, "rungs.json", "records", "driver", "after which epochs a trial was to go on or to stop"
)
STATE = StoreFile(
    OF_CELL, "last/state-{step:08d}.pt", "states", "trial",
    "the two newest resume states, until the cell is evaluated",
)  # fmt: skip
STATE_RECORD = StoreFile(
    OF_CELL, "last/state-{step:08d}.json", "states", "trial", "SHA-256 of that state"
)
BEST_RECORD = StoreFile(
    OF_CELL, "best/meta.json", "weights", "trial",
    "accuracy, epoch, model or EMA, and the SHA-256 of the best weights", vouches=True,
)  # fmt: skip
BEST = StoreFile(OF_CELL, "best/model.safetensors", "weights", "trial", "the best weights so far")
RESULT = StoreFile(
    OF_CELL, "result.json", "records", "trial", "written last in training: the cell is trained",
    vouches=True,
)  # fmt: skip
ERROR = StoreFile(
    OF_CELL, "error.txt", "records", "driver", "why the cell failed, until it is tried again"
)

EVALUATION = StoreFile(
    OF_EVALUATION, "eval.json", "records", "evaluation",
    "written last in evaluation: metrics, and the SHA-256 of each artifact", vouches=True,
)  # fmt: skip
PATTERNS = StoreFile(
    OF_EVALUATION, "patterns.npz", "artifacts", "evaluation",
    "kept patches and groups of every image, at the cell's own keep rate",
)  # fmt: skip
FEATURES = StoreFile(
    OF_EVALUATION, "features.npz", "artifacts", "evaluation",
    "CLS features of every image, at the cell's own keep rate",
)  # fmt: skip
PREDICTIONS = StoreFile(
    OF_EVALUATION, "predictions.parquet", "artifacts", "evaluation",
    "classes, scores and loss of every image",
)  # fmt: skip

COMPARISON = StoreFile(
    OF_STUDY, "comparisons/{cell_id}.json", "comparisons", "compare",
    "what describing the cell and comparing it with others has found so far",
)  # fmt: skip
COMPARISON_ERROR = StoreFile(
    OF_STUDY, "comparisons/error.txt", "records", "compare",
    "why comparing failed the last time, until it succeeds",
)  # fmt: skip
TABLE = StoreFile(OF_STUDY, "tables/{table}.parquet", "tables", "compare", "the tables")
TABLES_RECORD = StoreFile(
    OF_STUDY, "tables/inputs.json", "tables", "compare",
    "from which cells the tables were made, and the SHA-256 of each",
)  # fmt: skip
SAMPLE = StoreFile(
    OF_STUDY, "samples/{setting}.json", "samples", "compare",
    "chosen images with what each method made of them",
)  # fmt: skip
SAMPLES_RECORD = StoreFile(
    OF_STUDY, "samples/inputs.json", "samples", "compare", "from which cells they were made"
)
MEASURED = StoreFile(
    OF_STUDY, "measured.json", "records", "measure",
    "the cells, as they were, and the settings for which all speeds were measured",
)  # fmt: skip
PAGE = StoreFile(OF_STUDY, "report/index.html", "report", "report", "the page")
REPORT_RECORD = StoreFile(
    OF_STUDY, "report/inputs.json", "report", "report",
    "what page and figures show, and the SHA-256 of each",
)  # fmt: skip
FIGURE_SVG = StoreFile(OF_STUDY, "figures/{figure}.svg", "report", "report", "the page's figures")
FIGURE_PNG = StoreFile(OF_STUDY, "figures/{figure}.png", "report", "report", "the same in pixels")
LEFT_OVER = StoreFile(
    OF_STUDY, "{anywhere}.{file}.{random}.tmp", "left over", "all",
    "a file being written, or what a killed writer left of one",
)  # fmt: skip

CALIBRATION = StoreFile(
    OF_STORAGE, "calibration/{kind}.json", "shared", "driver",
    "what cells of one kind were measured to take",
)  # fmt: skip
SPEED = StoreFile(
    OF_STORAGE, "speed/{configuration}-{device}.json", "shared", "measure",
    "how fast a model and its host were measured to be on a device",
)  # fmt: skip
DATASET_INDEX = StoreFile(
    OF_STORAGE, "datasets/{dataset}.index", "shared", "driver", "the index of a dataset in files"
)

LAYOUT: tuple[StoreFile, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, StoreFile)
)
"""All of them, in the order above."""


def file_at(name: str) -> StoreFile | None:
    """Return what a file is, None where it is none of the store's.

    Args:
        name: Its path below the study's folder, with slashes.
    """
    of_study = (file for file in LAYOUT if file.owner != OF_STORAGE)
    return next((file for file in of_study if file.below_study.fullmatch(name)), None)


def cell_folder(study: StorePath, cell_id: str) -> StorePath:
    """Return the folder of a cell of a study."""
    return study / "cells" / cell_id


def of_all_cells(study: StorePath, file: StoreFile) -> Iterator[StorePath]:
    """Yield a file of every cell of a study that has it, in no order."""
    yield from study.glob(f"cells/*/{file.glob}")


def of_all_studies(storage: StorePath, file: StoreFile) -> Iterator[StorePath]:
    """Yield a file of every cell of all studies of a storage that may be read, in no order."""
    yield from _of_each(storage, f"cells/*/{file.glob}")


def studies(storage: StorePath) -> list[StorePath]:
    """Return the folders of all studies of a storage that may be read, sorted."""
    return sorted(path.parent for path in _of_each(storage, STUDY.name()))


def _of_each(storage: StorePath, pattern: str) -> Iterator[StorePath]:
    for folder in storage.glob("*"):
        try:
            found = list(folder.glob(pattern))
        except PermissionError:  # It is no study of this user's, but `lost+found`, say.
            continue
        yield from found
