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
from experiments.benchmarks.results import Measurement, environment, line, write
from trainables.cell import Cell
from trainables.data.cache_file import FOLDER_VARIABLE
from trainables.loop import Finetuning
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--host", default="deit_tiny_patch16_224", help="timm model (default: %(default)s)")
    add("--images", type=int, default=64, help="of each of two classes (default: %(default)s)")
    add("--size", type=int, nargs=2, default=[500, 375], metavar=("WIDTH", "HEIGHT"))
    add("--quality", type=int, default=95, help="of the JPEG files (default: %(default)s)")
    add("--cache", type=int, default=256, help="shorter side in the cache (default: %(default)s)")
    add("--image-size", type=int, default=224, help="side of the input (default: %(default)s)")
    add("--batch-size", type=int, default=16)
    add("--processes", type=int, default=1, help="of the loader (default: %(default)s)")
    add("--threads", type=int, default=1, help="of the training (default: %(default)s)")
    add("--out", type=Path, default=Path("runs/benchmarks"), help="folder (default: %(default)s)")
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
    finetuning = Finetuning(cell, data_root=root, device=device, threads=options.threads)
    report = finetuning.run(until=lambda: False)
    while not report["finished"]:
        report = finetuning.run(until=lambda: False)
    finetuning.close()
    return Measurement(
        measured=f"data wait, {'cache' if cache else 'files'}",
        value=report["data_wait"],
        target="at most 0.05" if cache else "at most 1",
        details=f"{report['images_per_second']:.0f} images/s, {options.processes} loader processes",
    )


if __name__ == "__main__":
    main()
