"""A measurement of speed: a cell's model against its host, alone on a device."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import reduction
from reduction.model import ReducedVisionTransformer
from trainables.data.base import Subset
from trainables.loop.data import CellData
from trainables.measuring.configuration import Configuration
from trainables.measuring.settings import Effort
from trainables.measuring.surroundings import Snapshot, Surroundings
from trainables.models.device import precision_dtype
from trainables.models.host import build_model
from trainables.models.host_source import HostSource

OWN_IMAGES = 128
"""Fewest images that are looked at where they decide how many tokens are kept."""
TRIES = 2
"""A measurement that was disturbed is made once more."""
NO_ROOM = "the GPU's memory is too small"

Record = dict[str, Any]
"""What is kept of a measurement at one batch size, as plain JSON values."""


@dataclass(frozen=True)
class TrainedCell:
    """Weights and images of a cell, where these decide how many tokens are kept."""

    weights: Mapping[str, Tensor]
    data_root: Path | None
    index_folder: Path | None


@dataclass(frozen=True)
class Place:
    """Where something is measured."""

    device: torch.device
    threads: int
    """CPU threads of PyTorch."""
    host_weights: Path | None = None
    """Folder of the hosts' pretrained weights, whose configurations say what they are."""


def measure(
    configuration: Configuration,
    batch_sizes: Sequence[int],
    effort: Effort,
    place: Place,
    trained: TrainedCell | None = None,
) -> Iterator[tuple[int, Record]]:
    """Yield what was measured at each batch size, as it comes.

    Args:
        configuration: What to measure.
        batch_sizes: Images a pass.
        effort: How long each goes on.
        place: Where; nothing else is to run there meanwhile.
        trained: Weights and images where `configuration.trained_as` is set.
    """
    torch.set_num_threads(place.threads)
    if trained is None:
        model, images = _untrained(configuration, place), None
    else:
        model, images = _trained(configuration, trained, max(*batch_sizes, OWN_IMAGES), place)
    dtype = precision_dtype(configuration.precision, place.device)
    model = model.to(place.device, dtype).eval()
    session = _Session(configuration, model, images, effort, place)
    for batch_size in batch_sizes:
        yield batch_size, session.record(batch_size)


@dataclass
class _Session:
    """A model and how it is to be run."""

    configuration: Configuration
    model: ReducedVisionTransformer
    images: Tensor | None
    effort: Effort
    place: Place

    def __post_init__(self) -> None:
        self._note: str | None = None
        self._compiled = self.configuration.compile
        if self._compiled and any(stage.pads for stage in self.model.stages):
            self._give_up_compiling("another number of tokens is kept in each batch")

    def record(self, batch_size: int) -> Record:
        """Measure, once more if that was disturbed; return the better of the two."""
        tries: list[Record] = []
        while len(tries) < TRIES and (not tries or tries[-1]["disturbed"]):
            try:
                tries.append(self._one_try(batch_size))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                return {**self._common(), "disturbed": False, "note": NO_ROOM}
        best = min(tries, key=lambda record: (record["disturbed"], record["host_spread"]))
        return best | {"tries": len(tries)}

    def _one_try(self, batch_size: int) -> Record:
        before = Snapshot.now()
        speed = self._speed(batch_size)
        around = Surroundings.since(before, self.place.device)
        spread = speed.host_images_per_second.spread
        found = around.disturbances(spread, self._cpus_needed())
        notes = [*found, *([self._note] if self._note else [])]
        return {
            **self._common(),
            **asdict(speed),
            "tokens": {str(block): count for block, count in speed.tokens.items()},
            **asdict(around),
            "host_spread": spread,
            "disturbed": bool(found),
            "note": "; ".join(notes) or None,
        }

    def _speed(self, batch_size: int) -> reduction.Speed:
        try:
            return self._measured(batch_size)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # What compiling raises depends on backend and version.
            if not self._compiled:
                raise
            self._give_up_compiling(type(error).__name__)
        return self._measured(batch_size)

    def _measured(self, batch_size: int) -> reduction.Speed:
        return reduction.speed(
            self.model,
            batch_size=batch_size,
            images=self.images,
            **self.effort._asdict(),
            compiled=self._compiled,
        )

    def _give_up_compiling(self, reason: str) -> None:
        self._compiled, self._note = False, f"not compiled: {reason}"

    def _cpus_needed(self) -> int:
        """Return the CPUs that have to be free: a GPU is fed by one."""
        return self.place.threads if self.place.device.type == "cpu" else 1

    def _common(self) -> Record:
        dtype = precision_dtype(self.configuration.precision, self.place.device)
        return {
            "precision": str(dtype).removeprefix("torch."),
            "compiled": self._compiled,
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _untrained(configuration: Configuration, place: Place) -> ReducedVisionTransformer:
    """Build a model with random weights and as many classes as its host was trained with."""
    source = HostSource.find(configuration.cell.host, place.host_weights)
    classes = int(source.config["num_classes"])
    return build_model(configuration.cell, classes, pretrained=False, weights=place.host_weights)


def _trained(
    configuration: Configuration, trained: TrainedCell, count: int, place: Place
) -> tuple[ReducedVisionTransformer, Tensor]:
    """Build a trained cell's model; return also images evenly spread over its evaluation split."""
    cell = configuration.cell
    data = CellData(cell, trained.data_root, place.host_weights, trained.index_folder)
    classes = len(data.dataset.class_names)
    model = build_model(cell, classes, pretrained=False, weights=place.host_weights)
    model.load_state_dict(trained.weights)
    spread = np.linspace(0, len(data.dataset.val) - 1, count).round().astype(int)
    batch = next(iter(data.eval_batches(Subset(data.dataset.val, spread), count)))
    images, _, _ = data.normalise(batch)
    return model, images
