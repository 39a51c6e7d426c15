"""Hugging Face datasets on disk, as `DatasetDict.save_to_disk` of the package `datasets` has them.

Each split is a folder of Arrow files whose rows hold encoded images. Where these lie in a file is
found once; then they are read from there, without that package.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from trainables.data.image_files import PackedSplit
from trainables.data.indexed import FileDataset, Index
from trainables.data.reading import Reading

EVALUATED = ("validation", "val", "valid", "test")
"""Names of splits to evaluate on; the first that there is counts."""
LABEL = "label"
UNLABELLED = -1


def read_index(reading: Reading) -> Index:
    """Find the images of the split `train` and of the first one in `EVALUATED`.

    Raises:
        ValueError: A file is damaged, or no column has images or classes.
        FileNotFoundError: A split or a file is missing.
    """
    reading.data("dataset_dict.json", "the names of the splits")
    part = next((name for name in EVALUATED if (reading.root / name).is_dir()), EVALUATED[0])
    (names, train), (others, val) = (_split(reading, each) for each in ("train", part))
    if names != others:
        raise ValueError(f"{reading.root} has other classes in {part} than in train")
    if part == EVALUATED[-1]:
        reading.note("splits evaluated on, as there is none for validation", part)
    return Index(tuple(names), train, val)


def _split(reading: Reading, part: str) -> tuple[list[str], PackedSplit]:
    """Return the names of the classes, and the images of a split."""
    try:
        features = json.loads(reading.data(f"{part}/dataset_info.json", "the columns"))["features"]
        state = json.loads(reading.data(f"{part}/state.json", "the names of its files"))
        files = [file["filename"] for file in state["_data_files"]]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{reading.root / part} is not as save_to_disk writes it: {error}"
        ) from error
    image, label = (_column(reading, features, kind) for kind in ("Image", "ClassLabel"))
    rows = [row for file in files for row in _rows(reading, f"{part}/{file}", image, label)]
    names = np.array([name.encode() for name, _, _ in rows], dtype=bytes)
    targets = np.array([target for _, target, _ in rows], dtype=np.int64)
    places = np.array([place for _, _, place in rows], dtype=np.int64).reshape(-1, 2)
    return features[label]["names"], PackedSplit(targets, reading.root, names, places)


def _column(reading: Reading, features: dict[str, Any], kind: str) -> str:
    """Return the only column of a kind, or the one called `label`."""
    found = [name for name, each in features.items() if each.get("_type") == kind]
    if LABEL in found:
        return LABEL
    if len(found) != 1:
        raise ValueError(
            f"{reading.root} has {len(found)} columns of type {kind}, but must have one"
        )
    return found[0]


def _rows(
    reading: Reading, file: str, image: str, label: str
) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """Yield name, class and place of each image of an Arrow file; note those without."""
    if not reading.has(file):
        raise FileNotFoundError(f"{reading.root / file} is missing")
    number = 0
    try:
        whole = pa.memory_map(str(reading.root / file)).read_buffer()
        for batch in pa.ipc.open_stream(whole):
            targets = batch.column(label).to_pylist()
            for target, place in zip(targets, _places(batch.column(image), whole), strict=True):
                name = f"{file}/{number}"
                number += 1
                if target is None or target == UNLABELLED:
                    reading.problem("images without a class", name)
                elif not 0 < sum(place) <= whole.size or not place[1]:
                    reading.problem("images that are not in the file itself, uncompressed", name)
                else:
                    yield name, target, place
    except (pa.ArrowException, KeyError, TypeError) as error:
        raise ValueError(f"{reading.root / file} cannot be read: {error}") from error


def _places(images: pa.StructArray, whole: pa.Buffer) -> list[tuple[int, int]]:
    """Return where the bytes of each image begin in a file, and how many they are."""
    content = images.field("bytes")
    _, offsets, data = content.buffers()
    kind = np.int64 if pa.types.is_large_binary(content.type) else np.int32
    first = content.offset
    ends = np.frombuffer(offsets, dtype=kind)[first : first + len(content) + 1].astype(np.int64)
    start = (data.address if data else whole.address) - whole.address
    return list(zip((start + ends[:-1]).tolist(), np.diff(ends).tolist(), strict=True))


DATASET = FileDataset("hf", "single_label", read_index)
