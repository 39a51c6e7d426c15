"""Compare two runs of a study, file by file and column by column.

    python tools/same_study.py OLD/STUDY NEW/STUDY

What measures time, memory or a path differs between any two runs and is left out. The exit status
is 1 where anything else differs.
"""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

MEASURED = {"images_per_second", "seconds", "peak_memory_mb", "memory_mb", "wall_s", "data_wait"}
"""Columns that hold measurements of the machine."""
OUTCOMES = ("best/model.safetensors", "patterns.npz", "features.npz", "predictions.parquet")
"""What a cell's training and evaluation leave, below the cell's folder."""


def main() -> None:
    """Print what is the same and what is not."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    old, new = map(Path, sys.argv[1:])
    files = list(_files(old, new))
    tables = list(_tables(old, new))
    different = [line for line in (*files, *tables) if not line.startswith("same")]
    print("\n".join(tables))
    print(f"{len(files)} files of cells compared, {len(different)} files or tables differ")
    print("\n".join(different))
    sys.exit(bool(different))


def _files(old: Path, new: Path) -> Iterator[str]:
    for cell in sorted(path.name for path in (old / "cells").iterdir()):
        for name in OUTCOMES:
            pair = [root / "cells" / cell / name for root in (old, new)]
            if not pair[0].exists():
                continue
            if not pair[1].exists():
                yield f"missing: {pair[1]}"
                continue
            first, second = (hashlib.sha256(path.read_bytes()).digest() for path in pair)
            yield f"{'same' if first == second else 'differs'}: {cell}/{name}"


def _tables(old: Path, new: Path) -> Iterator[str]:
    for path in sorted((old / "tables").glob("*.parquet")):
        other = new / "tables" / path.name
        if not other.exists():
            yield f"missing: {other}"
            continue
        left, right = pd.read_parquet(path), pd.read_parquet(other)
        shared = [name for name in left if name in right.columns and name not in MEASURED]
        gone = sorted(set(left) - set(right) - MEASURED)
        equal = left[shared].equals(right[shared])
        state = "same" if equal and not gone else "differs"
        size = f"{len(left)} rows, {len(shared)} columns"
        yield f"{state}: {path.stem}, {size}, gone: {gone or 'none'}"


if __name__ == "__main__":
    main()
