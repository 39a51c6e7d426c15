"""Measure for which share of its training a cell waits for images, from the cache and from files.

    python experiments/benchmarks/data_wait.py --processes 1

A cell trains on JPEG files as a study would, its loader in processes of its own; the second epoch
counts, when they are under way. The share is what the training itself reports as `data_wait`.

Writes `data_wait.json` and `data_wait.md` into the output folder and prints the table.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from unittest import mock

import torch

from experiments.benchmarks.input import photographs
from experiments.benchmarks.results import Measurement, environment, line, option_parser, write
from trainables.cell.cell import Cell
from trainables.data.cache_file import FOLDER_VARIABLE
from trainables.loop.opening import open_finetuning
from trainables.recipe import Recipe

CLASSES = ("china", "flower")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = parse(arguments)
    print(line(Measurement.__annotations__), flush=True)
    rows = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        mock.patch.dict(os.environ, {FOLDER_VARIABLE: f"{scratch}/cache"}),
    ):
        for part, name in ((part, name) for part in ("train", "val") for name in CLASSES):
            folder = Path(scratch, "data", part, name)
            folder.mkdir(parents=True)
            photographs(folder, options)
        for cache in (None, options.cache):
            rows.append(measure(Path(scratch, "data"), cache, options))
            print(line(asdict(rows[-1]).values()), flush=True)
    write(options.out, "data_wait", [asdict(row) for row in rows], environment(options))
    print(f"wrote data_wait.json and data_wait.md into {options.out}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = option_parser(
        __doc__,
        host="deit_tiny_patch16_224",
        images=64,
        size=[500, 375],
        quality=95,
        cache=256,
        image_size=224,
        batch_size=16,
        threads=1,
    )
    add = parser.add_argument
    add("--processes", type=int, default=1, help="of the loader")
    return parser.parse_args(arguments)


def measure(root: Path, cache: int | None, options: argparse.Namespace) -> Measurement:
    """Train two epochs; return the wait of the second."""
    recipe = Recipe(
        host=options.host,
        pretrained=False,
        image_size=options.image_size,
        batch_size=options.batch_size,
        accumulation=1,
        epochs=2,
        warmup_epochs=0,
        loader_workers=options.processes,
        cache=cache,
    )
    cell = Cell(
        dataset="folder",
        method="deit",
        capacity="tiny",
        keep_rate=1.0,
        reduction_loc=(3, 6, 9),
        recipe=recipe,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    finetuning = open_finetuning(cell, data_root=root, device=device, threads=options.threads)
    report = finetuning.run(until=lambda: False)
    while not report.finished:
        report = finetuning.run(until=lambda: False)
    finetuning.close()
    speed = report.images_per_second or 0.0
    return Measurement(
        measured=f"data wait, {'cache' if cache else 'files'}",
        value=report.data_wait or 0.0,
        target="at most 0.05" if cache else "at most 1",
        details=f"{speed:.0f} images/s, {options.processes} loader processes",
    )


if __name__ == "__main__":
    main()
