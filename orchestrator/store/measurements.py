"""Measurements of speed, which all studies of a storage share.

STORAGE/speed/KEY-DEVICE.json   sealed: a configuration, a device, and what was measured of the one
                                on the other at each batch size
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

from trainables.measuring.configuration import Configuration
from trainables.storage import layout
from trainables.storage.files import DamagedFileError, digest, read_sealed_json, write_sealed_json
from trainables.storage.paths import StorePath

FORMAT = 1
"""Raised when what is measured changes."""

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class StoredMeasurement:
    """What was measured of a configuration on one device."""

    key: str
    """The configuration's."""
    device: Facts
    """Name, type and threads of the device, and the versions there."""
    batch_sizes: Mapping[int, Facts]
    """What was measured at each."""

    def has(self, batch_size: int, *, by_study: bool) -> bool:
        """Tell whether this was measured, and by a launch of a study if that is asked for."""
        found = self.batch_sizes.get(batch_size)
        return found is not None and (found["by_study"] or not by_study)


class Measurements:
    """What has been measured in a storage.

    Args:
        folder: Where the records are kept.
    """

    def __init__(self, folder: StorePath) -> None:
        self._folder = folder

    def of(self, configuration: Configuration) -> list[StoredMeasurement]:
        """Return the measurements of a configuration with the versions here, on any device.

        Records that are damaged are passed over: what they held is measured again.
        """
        return [found for name in self._names_of(configuration) if (found := self._read(name))]

    def on(self, configuration: Configuration, device: Facts) -> StoredMeasurement | None:
        """Return the measurement on one device."""
        return self._read(_name(configuration, {**device, **versions()}))

    def add(
        self,
        configuration: Configuration,
        device: Facts,
        batch_size: int,
        record: Facts,
        *,
        by_study: bool,
    ) -> None:
        """Keep what was measured at a batch size, in place of what may be there."""
        facts = {**device, **versions()}
        name = _name(configuration, facts)
        before = self._read(name)
        batches = {**(before.batch_sizes if before else {})}
        batches[batch_size] = {**record, "by_study": by_study}
        content = {
            "configuration": configuration.identity,
            "device": facts,
            "batch_sizes": {str(size): batches[size] for size in sorted(batches)},
        }
        write_sealed_json(self._folder / name, content)

    def _names_of(self, configuration: Configuration) -> list[str]:
        return [name for name in self._names if name.startswith(f"{configuration.key}-")]

    @cached_property
    def _names(self) -> list[str]:
        """What there was when this was first looked at."""
        return sorted(path.name for path in self._folder.glob(layout.SPEED.glob_in_folder))

    def _read(self, name: str) -> StoredMeasurement | None:
        content = None
        with suppress(DamagedFileError):
            content = read_sealed_json(self._folder / name)
        if content is None or not versions().items() <= content["device"].items():
            return None
        batches = {int(size): record for size, record in content["batch_sizes"].items()}
        return StoredMeasurement(name.partition("-")[0], content["device"], batches)


def versions() -> dict[str, Any]:
    """Return what a measurement depends on beside configuration and device."""
    return {"torch": version("torch"), "timm": version("timm"), "format": FORMAT}


def _name(configuration: Configuration, facts: Facts) -> str:
    device = digest(json.dumps(facts, sort_keys=True).encode())[:8]
    return layout.SPEED.name_in_folder(configuration=configuration.key, device=device)
