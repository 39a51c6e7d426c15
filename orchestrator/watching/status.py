"""What is told of a study: the same facts on the console, in the store and for Prometheus."""

from collections.abc import Iterable
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from orchestrator.store.store import Store
from orchestrator.store.stored_cell import CellState
from trainables.storage import layout
from trainables.storage.files import DamagedFileError, read_sealed_json, write_sealed_json


class Activity(StrEnum):
    """What a driver does with a cell; its files alone do not tell."""

    RUNNING = "running"
    EVALUATING = "evaluating"
    WAITING = "waiting"
    """For the cell that is to teach it."""


STATES = (
    *(CellState.DONE, CellState.FAILED, CellState.DAMAGED, Activity.RUNNING, Activity.EVALUATING),
    *(Activity.WAITING, CellState.PENDING, CellState.INTERRUPTED, CellState.TRAINED),
    CellState.RECORDED,
)
"""All that is counted, in the order in which it is told."""


UNTRAINED = {CellState.PENDING, CellState.INTERRUPTED, Activity.RUNNING, Activity.WAITING}


class StatusModel(BaseModel):
    """Facts do not change; those of another version of this package are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RunningCell(StatusModel):
    """A cell that trains, as it last reported; None where it has not yet."""

    cell: str
    node: str | None = None
    """Host of the process that trains it, or of the one that leads its workers."""
    cpus: float
    gpus: float
    """What all its workers together reserve."""
    epoch: float | None = None
    """Epochs done, with the fraction of the present one."""
    epochs: int | None = None
    loss: float | None = None
    metric: str | None = None
    accuracy: float | None = None
    """Percent."""
    images_per_second: float | None = None
    data_wait: float | None = None
    """Share of the training time in which the device waited for images, 0 to 1."""
    preparing: str | None = None
    """What is done with the images before the training begins."""


class CellReason(StatusModel):
    """Why a cell failed, was tried again, or is trained otherwise than asked for."""

    cell: str
    reason: str
    see: str | None = None
    """The file that says more."""


class ClusterFacts(StatusModel):
    """What the study has to run on."""

    nodes: int
    nodes_lost: int = 0
    """Nodes that died or left since the launch began."""
    cpus: float
    gpus: float


class LaunchFacts(StatusModel):
    """What one launch has done so far, or had done when it ended."""

    began: float
    """Seconds since the epoch."""
    seconds: float
    """How long it runs, or ran."""
    trained: int = 0
    """Cells whose training it finished."""
    epochs: float = 0.0
    """Epochs trained, those that had to be done again included."""
    retries: int = 0
    """Attempts at training that failed and were followed by another."""
    checkpoint_bytes: int = 0
    """Bytes of resume states and best weights that were written."""
    checkpoint_seconds: float = 0.0
    """Time that cells spent on writing them."""

    @property
    def cells_per_hour(self) -> float:
        """Cells trained an hour, over the whole launch."""
        return self.trained / self.seconds * 3600 if self.seconds else 0.0


class TimeLeft(StatusModel):
    """Expected time until all cells are trained, seconds, and where it probably lies."""

    seconds: float
    low: float | None = None
    high: float | None = None
    """The ends of an 80 % interval, None while too few cells were measured for one."""


class Status(StatusModel):
    """How far a study is, at one moment."""

    study: str
    time: float
    """Seconds since the epoch."""
    driver: str | None = None
    """Who runs it, None where nobody does."""
    states: dict[str, int]
    """Cells by state, of those that the driver works on."""
    others: int = 0
    """Further cells of the study."""
    running: tuple[RunningCell, ...] = ()
    waiting: dict[str, int] = {}
    """How many cells wait for a cell, by its id."""
    cluster: ClusterFacts | None = None
    launch: LaunchFacts | None = None
    """The launch under way, else the last one."""
    left: TimeLeft | None = None
    comparing: tuple[int, int] | None = None
    """Steps of comparing that are done, and all: cells, pairs, then parts of tables; or None."""
    drawing: tuple[str, int, int] | None = None
    """What is done for the report, how many parts of it, and of how many; or None."""
    failed: tuple[CellReason, ...] = ()
    retried: tuple[CellReason, ...] = ()
    """Cells that were tried again in the launch, with the last reason."""
    gentler: tuple[CellReason, ...] = ()
    """Cells that are trained more gently than asked for, with what was changed."""

    @property
    def images_per_second(self) -> float:
        """Images that all running cells train on in a second."""
        return sum(cell.images_per_second or 0.0 for cell in self.running)

    @property
    def data_wait(self) -> float | None:
        """Mean share of their time that running cells wait for images, None if none has told."""
        waits = [cell.data_wait for cell in self.running if cell.data_wait is not None]
        return sum(waits) / len(waits) if waits else None

    @property
    def reserved_cpus(self) -> float:
        """CPUs that running cells reserve."""
        return sum(cell.cpus for cell in self.running)

    @property
    def reserved_gpus(self) -> float:
        """GPUs that running cells reserve."""
        return sum(cell.gpus for cell in self.running)

    @property
    def fill(self) -> float | None:
        """Share of the cluster's GPUs, or of its CPUs where it has none, that cells reserve."""
        if self.cluster is None or not (self.cluster.gpus or self.cluster.cpus):
            return None
        if self.cluster.gpus:
            return self.reserved_gpus / self.cluster.gpus
        return self.reserved_cpus / self.cluster.cpus


def count_states(states: Iterable[str]) -> dict[str, int]:
    """Return how many there are of every state that occurs, in the order of `STATES`."""
    found = list(states)
    return {str(state): found.count(state) for state in STATES if state in found}


def keep_status(store: Store, status: Status) -> None:
    """Publish the status, for other machines cannot ask Ray."""
    write_sealed_json(layout.STATUS.below(store.path), status.model_dump(mode="json"))


def last_status(store: Store) -> Status | None:
    """Return the last status that a driver published, None if there is none to be trusted."""
    try:
        record = read_sealed_json(layout.STATUS.below(store.path))
        return None if record is None else Status.model_validate(record)
    except (DamagedFileError, ValueError):
        return None
