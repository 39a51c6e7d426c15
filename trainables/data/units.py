"""Which evaluation images are not independent of each other, as a list in a dataset's folder says.

Crops of one photograph, frames of one film and scenes of one object share a unit. An image that
is not listed stands for itself.
"""

import csv
from collections import Counter

import numpy as np

from trainables.data.image_files import FileSplit
from trainables.data.reading import Reading

LIST = "units.csv"
HEADER = ["path", "unit"]


def read_units(reading: Reading, split: FileSplit) -> np.ndarray | None:
    """Return the unit of each image of a split, int64 [images]; None where there is no list.

    Raises:
        ValueError: The first line is not the header.
    """
    if not reading.has(LIST):
        return None
    listed = _listed(reading)
    names = [split.name(index) for index in range(len(split))]
    for path in sorted(listed.keys() - set(names)):
        reading.note(f"images in {LIST} that are not evaluated", path)
    of_images = [("unit", listed[name]) if name in listed else ("image", name) for name in names]
    for (kind, unit), images in Counter(of_images).items():
        if kind == "unit" and images > 1:
            reading.note("units that evaluation images share", unit)
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(of_images))}
    return np.array([numbers[unit] for unit in of_images], dtype=np.int64)


def _listed(reading: Reading) -> dict[str, str]:
    """Return the unit of each image by its path; note lines that cannot be used."""
    lines = reading.lines(LIST, "the unit of each evaluation image")
    header = lines[0][1] if lines else ""
    if header.split(",") != HEADER:
        must = ",".join(HEADER)
        path = reading.root / LIST
        raise ValueError(f"{path} begins with {header!r}, but must begin with {must!r}")
    units: dict[str, str] = {}
    for number, line in lines[1:]:
        row = next(csv.reader([line]))
        if len(row) != len(HEADER):
            wrong = f"{len(row)} columns, but must be path, unit"
        elif units.get(row[0], row[1]) != row[1]:
            wrong = f"{row[0]} has unit {row[1]!r}, but had {units[row[0]]!r} before"
        else:
            units[row[0]] = row[1]
            continue
        reading.problem("lines that cannot be used", f"{LIST}:{number}: {wrong}")
    return units
