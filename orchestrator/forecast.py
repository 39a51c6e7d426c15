"""What is known of cells before any of them begins."""

from dataclasses import dataclass, field

from orchestrator.storage.disk_need import DiskNeed


@dataclass(frozen=True)
class Forecast:
    """What unfinished cells will take, by cell id."""

    macs: dict[str, float] = field(default_factory=dict)
    """Multiply-accumulates of the training; a teacher counts as one unreduced host."""
    disk: dict[str, DiskNeed] = field(default_factory=dict)
