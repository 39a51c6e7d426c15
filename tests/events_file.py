"""Reads TensorBoard's events files, with their checksums, as its own loader does."""

import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.record_writer import masked_crc32c


def events(file: Path) -> Iterator[Event]:
    """Yield the events of a file; every checksum must be right."""
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        header, body, data = data[:12], data[12 : 16 + length], data[16 + length :]
        for part in (header, body):
            assert struct.unpack("<I", part[-4:]) == (masked_crc32c(part[:-4]),)
        yield Event.FromString(body[:-4])


def scalars(file: Path) -> dict[str, dict[int, tuple[float, float]]]:
    """Return (value, wall time) by tag and step; a step that stands there twice is an error."""
    found: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for event in events(file):
        for point in event.summary.value:
            if point.HasField("simple_value"):
                assert event.step not in found[point.tag], (point.tag, event.step)
                found[point.tag][event.step] = (point.simple_value, event.wall_time)
    return dict(found)


def hyperparameters(file: Path) -> dict[str, str | float | bool]:
    """Return what the file's session started with."""
    for event in events(file):
        for value in event.summary.value:
            content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
            if content.HasField("session_start_info"):
                given = content.session_start_info.hparams
                kinds = ("string_value", "number_value", "bool_value")
                return {
                    name: next(getattr(x, k) for k in kinds if x.HasField(k))
                    for name, x in given.items()
                }
    raise AssertionError(f"{file} has no hyperparameters")
