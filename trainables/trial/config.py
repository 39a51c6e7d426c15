"""What a trial is told about its cell."""

from dataclasses import asdict, dataclass, fields
from typing import Self

from trainables.cell.report import TuneDict


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """The configuration of one trial, which trains one cell.

    Paths are text, and so is the cell: Tune copies and measures whatever numbers it finds in a
    configuration.
    """

    cell_id: str
    """The cell's id, by which Ray's dashboard shows the trial."""
    cell: str
    """The cell as JSON."""
    folder: str
    """The cell's folder in the store, a path or a URI."""
    stop_file: str
    """While this file exists, the trial saves its state and ends."""
    index_folder: str
    """Folder of the datasets' indices."""
    data_root: str | None = None
    """Folder of the dataset, None for an embedded one."""
    weights: str | None = None
    """Folder of the hosts' pretrained weights; None lets timm download them."""
    code: str | None = None
    """Digest of the driver's code, None where any will do."""
    prerequisite: str | None = None
    """Id of the cell that has to be trained first."""
    trials: tuple[str, ...] = ()
    """Ids of the trials that have to be trained first, because they decide its recipe."""
    tuned: str = "{}"
    """Values that they have chosen, as JSON: field of the recipe -> value."""
    teacher_folder: str | None = None
    """That cell's folder in the store."""
    threads: int = 1
    """CPU threads of PyTorch in each worker."""
    macs: float = 0.0
    """Multiply-accumulates of the training, for the record."""
    cpu: float = 1.0
    """CPUs that each worker reserves."""
    gpu: float = 0.0
    """GPUs that each worker reserves; a fraction only where there is one worker."""
    workers: int = 1
    """Processes that train the cell together; a single one is the trial's own."""

    def to_dict(self) -> TuneDict:
        """Return it as Tune wants a configuration."""
        return asdict(self)

    @property
    def prerequisites(self) -> tuple[str, ...]:
        """Ids of all cells that have to be trained first."""
        return (*self.trials, *filter(None, [self.prerequisite]))

    @classmethod
    def from_dict(cls, config: TuneDict) -> Self:
        """Return the configuration in one of Tune's, which may have added keys."""
        return cls(**{field.name: config[field.name] for field in fields(cls)})
