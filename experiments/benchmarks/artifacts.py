"""Tell how small a cell's artifacts are, and how small lossless coders could make its features.

    python experiments/benchmarks/artifacts.py runs/demo/cells/digits-topk-tiny-r0.5-*

All is compared with the same facts as JSON, indented by 4. For features, which take most, there is
also what other coders would make of their bytes, shuffled (all first bytes, then all second ones,
...), and the entropy of the bytes, each by itself.

Writes `artifacts.json` and `artifacts.md` into the output folder and prints the table.
"""

import argparse
import io
import json
import lzma
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from experiments.benchmarks.results import environment, line, option_parser, write

FLOAT_BYTES = 4
ZSTD_LEVEL = 19


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large some facts are in one form."""

    cell: str
    facts: str
    form: str
    bytes: float
    bytes_a_value: float
    times_smaller_than_json: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = parse(arguments)
    rows = []
    print(line(Size.__annotations__), flush=True)
    for folder in options.cells:
        for size in sizes(folder):
            rows.append(asdict(size))
            print(line(rows[-1].values()), flush=True)
    options.cells = [folder.name for folder in options.cells]
    write(options.out, "artifacts", rows, environment(options))
    print(f"wrote artifacts.json and artifacts.md into {options.out}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = option_parser(__doc__)
    add = parser.add_argument
    add("cells", type=Path, nargs="+", metavar="CELL", help="folder of an evaluated cell")
    return parser.parse_args(arguments)


def sizes(folder: Path) -> Iterator[Size]:
    """Yield the sizes of a cell's artifacts, one after the other and together."""
    taken = {name: (folder / name).stat().st_size for name in ("patterns.npz", "features.npz")}
    arrays = {name: _columns(folder / name) for name in taken}
    taken["predictions.parquet"] = (folder / "predictions.parquet").stat().st_size
    predictions = pd.read_parquet(folder / "predictions.parquet")
    arrays["predictions.parquet"] = {
        str(name): column.to_numpy() for name, column in predictions.items()
    }
    as_json = {name: json_bytes(found) for name, found in arrays.items()}
    values = {name: sum(array.size for array in found.values()) for name, found in arrays.items()}
    for name, size in taken.items():
        yield _size(folder, name, "stored", size, values[name], as_json[name])
    whole = (sum(taken.values()), sum(values.values()), sum(as_json.values()))
    yield _size(folder, "all three", "stored", *whole)
    features = np.concatenate([array.ravel() for array in arrays["features.npz"].values()])
    for form, coded in coders(features).items():
        yield _size(folder, "features.npz", form, coded, features.size, as_json["features.npz"])


def json_bytes(columns: Mapping[str, np.ndarray]) -> int:
    """Return the bytes of facts of images as JSON: image -> name -> values."""
    images = len(next(iter(columns.values())))
    facts = {
        str(image): {name: np.asarray(values[image]).tolist() for name, values in columns.items()}
        for image in range(images)
    }
    return len(json.dumps(facts, indent=4))


def coders(values: np.ndarray) -> dict[str, float]:
    """Return the bytes of float32 values by each coder."""
    planes = values.view(np.uint8).reshape(-1, FLOAT_BYTES).T
    shuffled = planes.tobytes()
    parquet = io.BytesIO()
    pq.write_table(
        pa.table({"values": values}),
        parquet,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=False,
        use_byte_stream_split=True,
    )
    return {
        "shuffled, zlib at level 9": len(zlib.compress(shuffled, 9)),
        f"shuffled, zstd at level {ZSTD_LEVEL}": len(
            pa.Codec("zstd", ZSTD_LEVEL).compress(shuffled)
        ),
        "shuffled, LZMA": len(lzma.compress(shuffled)),
        "Parquet, split byte streams, the same zstd": parquet.tell(),
        "entropy of each byte": sum(map(_entropy_bytes, planes)),
    }


def _columns(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an archive that have a row an image."""
    with np.load(file, allow_pickle=False) as archive:
        images = len(archive[archive.files[0]])
        arrays = {name: archive[name] for name in archive.files}
    return {name: array for name, array in arrays.items() if array.shape[:1] == (images,)}


def _entropy_bytes(symbols: np.ndarray) -> float:
    """Return how many bytes an ideal coder of single symbols would need."""
    counts = np.bincount(symbols, minlength=256)
    shares = counts[counts > 0] / len(symbols)
    return float(-(shares * np.log2(shares)).sum() * len(symbols) / 8)


def _size(folder: Path, facts: str, form: str, taken: float, values: int, as_json: int) -> Size:
    return Size(
        cell=folder.name,
        facts=facts,
        form=form,
        bytes=float(taken),
        bytes_a_value=taken / values,
        times_smaller_than_json=as_json / taken,
    )


if __name__ == "__main__":
    main()
